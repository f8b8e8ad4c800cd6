//! What the kernel of this machine can do, against what `ip` finds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use circuit_net::probe::{FEATURES, kernel};

/// Whether `ip` can make an interface of this kind in a namespace of its own.
fn ip_can(kind: &str) -> bool {
    let make = match kind {
        "macvlan" | "ipvlan" => format!("ip link add base type veth && ip link add try0 link base type {kind}"),
        "vlan" => "ip link add base type veth && ip link add try0 link base type vlan id 2".to_owned(),
        "vxlan" => "ip link add try0 type vxlan id 7 dstport 4789".to_owned(),
        "nftables" => "nft 'table inet t { chain c { type nat hook postrouting priority 100; masquerade; }; }'".to_owned(),
        kind => format!("ip link add try0 type {kind}"),
    };
    let ran = Command::new("unshare")
        .args(["--net", "sh", "-ec", &make])
        .output()
        .expect("unshare runs");
    ran.status.success()
}

#[test]
fn it_is_found_what_the_kernel_can_do_and_nothing_is_left() {
    let links = || {
        let out = Command::new("ip").args(["-o", "link"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap().lines().count()
    };
    let before = links();
    let features = kernel(FEATURES.to_vec()).unwrap();
    assert_eq!(links(), before);
    let names: Vec<_> = features.iter().map(|feature| feature.name).collect();
    assert_eq!(names, FEATURES);
    for feature in features {
        assert_eq!(
            feature.missing.is_none(),
            ip_can(feature.name),
            "{feature:?}"
        );
    }
}
