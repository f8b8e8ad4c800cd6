//! Namespaces that stand in for others, and the stock bridge plugin in them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::time::Duration;

use circuit_core::ErrorKind;
use circuit_net::cni::{CniRuntime, PluginPath};
use circuit_net::netlink;
use circuit_net::netns::{
    host_identity, identity, in_netns, is_netns, list_pins, pin, stand_in, unpin,
};
use common::{Netns, STOCK_PLUGINS, attach, list, on_private_host, shell};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(20);

/// Where pins are, in a test's own folder; unpinned when dropped.
struct Pins(tempfile::TempDir);

impl Pins {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join("pins").join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path().join("pins"));
        let entries = entries.into_iter().flatten();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn mounts(&self) -> usize {
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let dir = self.0.path().to_str().unwrap();
        mounts.lines().filter(|line| line.contains(dir)).count()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for pin in list_pins(self.0.path().join("pins")).unwrap() {
            let _ = unpin(pin.path);
        }
    }
}

#[test]
fn a_stand_in_has_the_interface_and_its_address() {
    let (pins, here) = (Pins::new(), host_identity().unwrap());
    for (name, address) in [("four", "10.7.0.2/24"), ("six", "fd00:7::2/64")] {
        let path = pins.path(name);
        stand_in(&path, "eth0", address.parse().unwrap()).unwrap();
        let links = netlink::links(Some(&path)).unwrap();
        let links: Vec<_> = links.iter().map(|link| (&*link.name, link.up)).collect();
        assert_eq!(links, [("lo", false), ("eth0", false)]);
        let addresses = netlink::addresses_of(Some(&path), "eth0").unwrap();
        assert_eq!(addresses, [address.parse().unwrap()]);
        assert_ne!(identity(&path).unwrap(), here);
        let inside = in_netns(&path, host_identity).unwrap();
        assert_eq!(inside, identity(&path).unwrap());
    }
    assert_eq!(host_identity().unwrap(), here);
    assert_eq!((pins.names().len(), pins.mounts()), (2, 2));
    for name in ["four", "six"] {
        unpin(pins.path(name)).unwrap();
        assert!(!is_netns(pins.path(name)));
    }
    assert_eq!((pins.names().len(), pins.mounts()), (0, 0));
}

#[test]
fn a_stand_in_that_fails_leaves_nothing() {
    let pins = Pins::new();
    let address = "10.7.0.2/24".parse().unwrap();
    let path = pins.path("web");
    for name in [
        "",
        "lo",
        "a/b",
        "a b",
        ".",
        "a-name-of-sixteen",
        "eth%d",
        "%",
    ] {
        let error = stand_in(&path, name, address).unwrap_err();
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
        assert_eq!((pins.names().len(), pins.mounts()), (0, 0), "{name:?}");
    }
    // An address that no interface can have.
    let error = stand_in(&path, "eth0", "ff02::1/64".parse().unwrap()).unwrap_err();
    assert!(error.message().contains("eth0 with ff02::1/64"), "{error}");
    assert_eq!((pins.names().len(), pins.mounts()), (0, 0));
    // A folder where no file can be.
    std::fs::write(pins.0.path().join("file"), "").unwrap();
    let error = stand_in(&pins.0.path().join("file/web"), "eth0", address).unwrap_err();
    assert!(error.message().contains("file/web"), "{error}");
    // A folder in the pin's place, where nothing can be mounted.
    std::fs::create_dir_all(pins.path("web/within")).unwrap();
    stand_in(&pins.path("web"), "eth0", address).unwrap_err();
    assert_eq!(pins.mounts(), 0);
    assert!(pins.path("web/within").is_dir());
}

#[test]
fn what_is_pinned_there_stays() {
    let (pins, other) = (Pins::new(), Netns::new());
    let (path, address) = (pins.path("web"), "10.7.0.2/24".parse().unwrap());
    let id = pin(other.path(), &path).unwrap();
    let error = stand_in(&path, "eth0", address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(identity(&path).unwrap(), id);
    unpin(&path).unwrap();
    // A file that outlived a reboot.
    std::fs::write(&path, "").unwrap();
    stand_in(&path, "eth0", address).unwrap();
    assert_ne!(identity(&path).unwrap(), id);
    unpin(&path).unwrap();
    assert!(pins.names().is_empty());
}

fn leases(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("net")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect()
}

fn rules() -> String {
    shell("iptables-save; ip6tables-save")
}

/// A life with masquerading whose end comes before the plugin is asked.
async fn masqueraded(subnet: &str, address: &str, deleted_without: bool) {
    let (pins, dir) = (Pins::new(), tempfile::tempdir().unwrap());
    let container = Netns::new();
    let plugin = json!({"type": "bridge", "bridge": "ctr0", "isGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "dataDir": dir.path(), "ranges": [[{"subnet": subnet}]]}});
    let list = list("1.0.0", &[plugin]);
    let runtime = CniRuntime::new(PluginPath::new([STOCK_PLUGINS]), LIMIT);
    let mut args = attach(&container.path());
    let (result, raw) = runtime.add(&list, &args, None).await.unwrap();
    assert_eq!(result.ips_of("eth0", None), [address.parse().unwrap()]);
    assert!(rules().contains(":CNI-"), "{}", rules());
    assert_eq!(leases(dir.path()).len(), 1);
    drop(container);
    if deleted_without {
        // The lease goes, but the masquerading stays.
        args.netns = None;
        runtime.del(&list, &args, Some(&raw), None).await.unwrap();
        assert!(rules().contains(":CNI-"), "{}", rules());
    }
    let path = pins.path("web");
    stand_in(&path, "eth0", address.parse().unwrap()).unwrap();
    args.netns = Some(path.clone());
    for _ in 0..2 {
        runtime.del(&list, &args, Some(&raw), None).await.unwrap();
        assert!(!rules().contains("CNI-"), "{}", rules());
        assert!(leases(dir.path()).is_empty());
    }
    let links = netlink::links(Some(&path)).unwrap();
    assert!(links.iter().all(|link| link.name == "lo"), "{links:?}");
    unpin(&path).unwrap();
    assert_eq!((pins.names().len(), pins.mounts()), (0, 0));
}

#[test]
fn masquerading_is_withdrawn_for_a_container_that_is_gone() {
    on_private_host(|| masqueraded("10.77.0.0/24", "10.77.0.2/24", false));
}

#[test]
fn masquerading_is_withdrawn_in_ipv6() {
    on_private_host(|| masqueraded("fd00:77::/64", "fd00:77::2/64", false));
}

#[test]
fn masquerading_that_an_earlier_end_left_is_withdrawn() {
    on_private_host(|| masqueraded("10.77.0.0/24", "10.77.0.2/24", true));
}
