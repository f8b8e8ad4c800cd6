//! `ipvlan`, `vlan` and `dummy`. Kernels without such interfaces, as those of
//! many test machines, refuse them: then it is tried that the error names the
//! kind and that nothing is left. What is sent to the kernel is tried beside
//! the drivers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use circuit_net::driver::Command;
use common::plugin::{Way, Who, who, without_dns};
use common::{Netns, on_private_host, shell};
use serde_json::{Value, json};

fn config(kind: &str, leases: &Path) -> Value {
    let mut config = json!({"cniVersion": "1.0.0", "name": "net", "type": kind,
        "ipam": {"type": "host-local", "dataDir": leases,
                 "ranges": [[{"subnet": "10.9.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}});
    match kind {
        "ipvlan" => config["master"] = "lan0".into(),
        "vlan" => {
            config["master"] = "lan0".into();
            config["vlanId"] = 7.into();
        }
        _ => {}
    }
    config
}

fn at(netns: &Netns) -> Who {
    Who {
        netns: Some(netns.path()),
        ..who("web")
    }
}

fn leases(dir: &Path) -> usize {
    let files = std::fs::read_dir(dir.join("net")).into_iter().flatten();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("10.")).count()
}

/// Whether this kernel has interfaces of a kind.
fn has(kind: &str) -> bool {
    let more = if kind == "vlan" { "id 9" } else { "" };
    let add = format!("ip link add probe0 link lan0 type {kind} {more} 2>/dev/null");
    let add = match kind {
        "dummy" => add.replace("link lan0 ", ""),
        _ => add,
    };
    shell(&format!(
        "({add} && ip link del probe0 && echo yes) || echo no"
    ))
    .contains("yes")
}

fn on_lan(steps: impl FnOnce() + Send + 'static) {
    on_private_host(|| async {
        shell("ip link add lan0 type veth peer name lan1 && ip link set lan0 up");
        shell("ip link set lan1 up");
        steps();
    });
}

fn life(kind: &'static str) {
    life_with(kind, json!({}), Way::Stock19);
}

/// With other keys, beside a stock plugin that knows them.
fn life_with(kind: &'static str, more: Value, stock: Way) {
    on_lan(move || {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(kind, dir.path());
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        if !has(kind) {
            for way in [Way::Ours, Way::InProcess] {
                let container = Netns::new();
                let error = way
                    .run(kind, Command::Add, &config, &at(&container))
                    .unwrap_err();
                let text = format!("the kernel has no {kind} interfaces");
                assert!(error.msg.contains(&text), "{way:?}: {}", error.msg);
                assert!(!container.ip("-o link").contains("eth0"));
                assert_eq!(leases(dir.path()), 0);
                way.run(kind, Command::Del, &config, &at(&container))
                    .unwrap();
            }
            return;
        }
        let mut answers = Vec::new();
        for way in [stock, Way::Ours, Way::InProcess] {
            let (mut config, container) = (config.clone(), Netns::new());
            let mut result = way
                .run(kind, Command::Add, &config, &at(&container))
                .unwrap();
            config["prevResult"] = result.clone();
            way.run(kind, Command::Check, &config, &at(&container))
                .unwrap();
            for _ in 0..2 {
                way.run(kind, Command::Del, &config, &at(&container))
                    .unwrap();
                assert!(!container.ip("-o link").contains("eth0"));
            }
            result["interfaces"][0]["sandbox"] = Value::Null;
            result["interfaces"][0]["mac"] = Value::Null;
            let _ = std::fs::remove_dir_all(dir.path().join("net"));
            answers.push(without_dns(result));
        }
        assert!(
            answers.windows(2).all(|two| two[0] == two[1]),
            "{answers:?}"
        );
    });
}

#[test]
fn ipvlan_where_the_kernel_has_it() {
    life("ipvlan");
}

#[test]
fn vlan_where_the_kernel_has_it() {
    life("vlan");
}

#[test]
fn vlan_without_addresses_where_the_kernel_has_it_as_with_cni_plugins_1_10() {
    life_with("vlan", json!({"ipam": {}}), Way::Stock110);
}

#[test]
fn dummy_where_the_kernel_has_it() {
    life("dummy");
}

/// What is wrong in a configuration is told before the kernel is asked.
#[test]
fn configurations_that_cannot_be_are_refused() {
    on_lan(|| {
        let (dir, container) = (tempfile::tempdir().unwrap(), Netns::new());
        let refused = |kind: &str, more: Value, text: &str| {
            let mut config = config(kind, dir.path());
            for (key, value) in more.as_object().unwrap() {
                config[key] = value.clone();
            }
            let error = Way::InProcess.run(kind, Command::Add, &config, &at(&container));
            let error = error.unwrap_err();
            assert!(error.msg.contains(text), "{kind} {more}: {}", error.msg);
            assert!(
                Way::Stock19
                    .run(kind, Command::Add, &config, &at(&container))
                    .is_err(),
                "{kind} {more}"
            );
            assert_eq!(leases(dir.path()), 0, "{kind} {more}");
        };
        refused("ipvlan", json!({"mode": "l4"}), "mode \"l4\" is none of");
        refused(
            "ipvlan",
            json!({"master": "lan9"}),
            "master lan9 is no interface of the host",
        );
        refused("ipvlan", json!({"master": null}), "master is missing");
        refused("ipvlan", json!({"ipam": {}}), "ipvlan needs addresses");
        let two = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "a"}, {"name": "b"}]});
        refused(
            "ipvlan",
            json!({"master": null, "prevResult": two}),
            "prevResult has not just one interface",
        );
        refused("vlan", json!({"master": null}), "master is missing");
        refused(
            "vlan",
            json!({"vlanId": 4095}),
            "vlanId is not between 0 and 4094",
        );
        refused(
            "vlan",
            json!({"vlanId": -1}),
            "vlanId is not between 0 and 4094",
        );
        refused("vlan", json!({"mtu": 9000}), "mtu 9000 is more than");
        refused("dummy", json!({"ipam": {}}), "dummy needs ipam");
    });
}
