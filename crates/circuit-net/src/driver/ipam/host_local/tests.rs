use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use circuit_core::cni::CniVersion;
use serde_json::json;

use super::*;
use crate::driver::{Command, Delegate, Sockets, executable::dispatch};

struct Nobody;

impl Delegate for Nobody {
    fn run(
        &self,
        kind: &str,
        _: Command,
        _: &JsonObject,
        _: &Call<'_>,
    ) -> Answer<Option<CniResult>> {
        panic!("{kind} is not to be run");
    }
}

/// A network with leases of its own.
struct Network {
    dir: tempfile::TempDir,
    config: Value,
}

impl Network {
    fn new(ipam: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": "bridge",
            "ipam": ipam});
        config["ipam"]["type"] = "host-local".into();
        config["ipam"]["dataDir"] = dir.path().to_str().into();
        Self { dir, config }
    }

    fn run(&self, command: Command, id: &str, ifname: &str) -> Answer<Option<CniResult>> {
        self.run_with(command, (id, ifname), &[])
    }

    fn run_with(
        &self,
        command: Command,
        (container_id, ifname): (&str, &str),
        args: &[(String, String)],
    ) -> Answer<Option<CniResult>> {
        dispatch(
            &HostLocal,
            &Call {
                command,
                container_id,
                netns: None,
                ifname,
                args,
                config: self.config.as_object().unwrap(),
                version: CniVersion::V1_1_0,
                prev: None,
                delegate: &Nobody,
                sockets: &Sockets::default(),
            },
        )
    }

    fn add(&self, id: &str) -> Answer<Vec<String>> {
        let result = self.run(Command::Add, id, "eth0")?.unwrap();
        Ok(result.ips.iter().map(|ip| ip.address.to_string()).collect())
    }

    fn leases(&self) -> BTreeSet<String> {
        let files = fs::read_dir(self.path()).into_iter().flatten();
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "lock" && !name.starts_with("last_reserved_ip."))
            .collect()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("net")
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }
}

fn small() -> Network {
    Network::new(json!({"ranges": [[{"subnet": "10.0.0.0/29"}]]}))
}

#[test]
fn a_lease_lives_from_add_to_del() {
    let network = Network::new(json!({
        "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "gateway": "10.1.0.254",
        "ranges": [[{"subnet": "fd00::/64"}]],
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}],
    }));
    let result = network.run(Command::Add, "web", "eth0").unwrap().unwrap();
    let ips: Vec<_> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
    assert_eq!(ips, ["10.1.0.10/24", "fd00::2/64"]);
    assert_eq!(result.ips[0].gateway, Some("10.1.0.254".parse().unwrap()));
    assert_eq!(result.routes[0].mtu, Some(1400));
    assert_eq!(network.text("fd00::2"), "web\r\neth0");
    assert_eq!(network.text("last_reserved_ip.0"), "10.1.0.10");
    assert_eq!(network.text("last_reserved_ip.1"), "fd00::2");

    network.run(Command::Check, "web", "eth0").unwrap();
    assert!(network.run(Command::Check, "web", "eth1").is_err());
    let again = network.add("web").unwrap_err();
    assert!(
        again.msg.contains("10.1.0.10 has been allocated to web"),
        "{}",
        again.msg
    );
    assert_eq!(
        network.leases().len(),
        2,
        "a refused ADD takes nothing away"
    );
    network.run(Command::Add, "web", "eth1").unwrap();

    for _ in 0..2 {
        network.run(Command::Del, "web", "eth0").unwrap();
        assert_eq!(network.leases().len(), 2);
    }
    network.run(Command::Del, "web", "eth1").unwrap();
    assert!(network.leases().is_empty());
    assert!(network.run(Command::Check, "web", "eth0").is_err());
}

#[test]
fn del_without_leases_makes_nothing() {
    let network = small();
    network.run(Command::Del, "web", "eth0").unwrap();
    network.run(Command::Status, "", "").unwrap();
    assert!(!network.path().exists());
}

#[test]
fn a_full_range_says_so_and_leaves_nothing() {
    let mut network = small();
    network.config["ipam"]["ranges"] =
        json!([[{"subnet": "fd00::/64"}], [{"subnet": "10.0.0.0/29"}]]);
    for n in 0..5 {
        network.add(&format!("c{n}")).unwrap();
    }
    let error = network.add("c5").unwrap_err();
    let text = "failed to allocate for range 1: no IP addresses available in range set \
                10.0.0.1-10.0.0.6";
    assert!(error.msg.starts_with(text), "{}", error.msg);
    assert_eq!(network.leases().len(), 10);
    let status = network.run(Command::Status, "", "").unwrap_err();
    assert_eq!(status.code, code::NOT_AVAILABLE);
    network.run(Command::Del, "c2", "eth0").unwrap();
    network.run(Command::Status, "", "").unwrap();
    assert_eq!(network.add("c5").unwrap()[1], "10.0.0.4/29");
}

#[test]
fn requested_addresses_come_from_everywhere() {
    let mut network = Network::new(json!({"ranges": [
        [{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.1.0/24"}], [{"subnet": "fd00::/64"}]]}));
    network.config["runtimeConfig"] = json!({"ips": ["fd00::99/64"]});
    let args = [
        ("IP".to_owned(), "10.0.1.7".to_owned()),
        ("IgnoreUnknown".to_owned(), "1".to_owned()),
        ("K8S_POD_NAME".to_owned(), "web".to_owned()),
    ];
    let result = network
        .run_with(Command::Add, ("a", "eth0"), &args)
        .unwrap();
    let ips: Vec<_> = result
        .unwrap()
        .ips
        .iter()
        .map(|ip| ip.address.to_string())
        .collect();
    assert_eq!(ips, ["10.0.1.7/24", "fd00::99/64"]);

    let refused = |network: &Network, id: &str, args: &[(String, String)]| {
        let before = network.leases();
        let error = network
            .run_with(Command::Add, (id, "eth0"), args)
            .unwrap_err();
        assert_eq!(network.leases(), before, "{}", error.msg);
        error.msg
    };
    let taken = refused(&network, "b", &args);
    assert!(taken.contains("10.0.1.7 is not available"), "{taken}");
    assert!(taken.ends_with(": a (eth0) has it"), "{taken}");
    assert!(refused(&network, "b", &args[..1]).contains("not available"));
    assert!(refused(&network, "b", &args[2..]).contains("K8S_POD_NAME is not known"));
    network.config["runtimeConfig"] = json!({"ips": ["10.0.0.1"]});
    assert!(refused(&network, "b", &[]).contains("is the gateway's"));
    network.config["runtimeConfig"] = json!({"ips": ["10.9.0.1", "fd00::5"]});
    assert!(refused(&network, "b", &[]).contains("10.9.0.1 are in no range set"));
    network.config["runtimeConfig"] = json!({"ips": ["oops"]});
    assert!(refused(&network, "b", &[]).contains("\"oops\" is not an address"));
    network.config["runtimeConfig"] = Value::Null;
    network.config["args"] = json!({"cni": {"ips": ["10.0.0.50"]}});
    assert_eq!(network.add("b").unwrap(), ["10.0.0.50/24", "fd00::6/64"]);
}

#[test]
fn ranges_of_the_runtime_come_first() {
    let mut network = small();
    network.config["runtimeConfig"] = json!({"ipRanges": [[{"subnet": "10.5.0.0/24"}]]});
    assert_eq!(network.add("a").unwrap(), ["10.5.0.2/24", "10.0.0.2/29"]);
    assert_eq!(network.text("last_reserved_ip.0"), "10.5.0.2");
    network.config["runtimeConfig"] = json!({"ipRanges": [[{"subnet": "10.0.0.0/16"}]]});
    let error = network.add("b").unwrap_err();
    assert!(error.msg.contains("overlaps"), "{}", error.msg);
}

#[test]
fn leases_without_an_interface_are_the_containers() {
    let network = small();
    fs::create_dir_all(network.path()).unwrap();
    fs::write(network.path().join("10.0.0.2"), "old").unwrap();
    network.run(Command::Check, "old", "eth0").unwrap();
    assert!(
        network
            .add("old")
            .unwrap_err()
            .msg
            .contains("10.0.0.2 has been allocated")
    );
    assert_eq!(network.add("new").unwrap(), ["10.0.0.3/29"]);
    network.run(Command::Del, "old", "eth7").unwrap();
    assert_eq!(network.leases().len(), 1);
}

#[test]
fn what_a_killed_plugin_left_is_free() {
    let mut network = small();
    network.add("a").unwrap();
    for name in ["10.0.0.3", "10.0.0.4"] {
        fs::write(network.path().join(name), "").unwrap();
    }
    fs::create_dir(network.path().join("10.0.0.5")).unwrap();
    assert_eq!(network.add("b").unwrap(), ["10.0.0.3/29"]);
    assert_eq!(network.text("10.0.0.3"), "b\r\neth0");
    assert_eq!(network.add("c").unwrap(), ["10.0.0.4/29"]);
    // What cannot be a lease is still in the way, whatever is cleaned up; what only names
    // nobody is not.
    assert_eq!(network.add("d").unwrap(), ["10.0.0.6/29"]);
    fs::write(network.path().join("10.0.0.6"), "kept back").unwrap();
    network.config["cni.dev/valid-attachments"] = json!([]);
    network.run(Command::Gc, "", "").unwrap();
    assert!(!network.path().join("10.0.0.6").exists());
    let given = ["e", "f", "g", "h"].map(|id| network.add(id).unwrap()[0].clone());
    assert!(!given.contains(&"10.0.0.5/29".to_owned()), "{given:?}");
    assert!(network.path().join("10.0.0.5").is_dir());
}

#[test]
fn gc_frees_what_is_in_no_attachment() {
    let mut network = small();
    for id in ["a", "b", "c"] {
        network.add(id).unwrap();
    }
    fs::write(network.path().join("10.0.0.5"), "old").unwrap();
    assert!(
        network.run(Command::Gc, "", "").is_err(),
        "nothing said is not none"
    );
    let valid = json!([{"containerID": "b", "ifname": "eth0"}, {"containerID": "c", "ifname": "x"},
                       {"containerID": "old", "ifname": "eth0"}]);
    network.config["cni.dev/valid-attachments"] = valid;
    network.run(Command::Gc, "", "").unwrap();
    let left: Vec<_> = network.leases().into_iter().collect();
    assert_eq!(left, ["10.0.0.3", "10.0.0.5"]);
    network.config["cni.dev/valid-attachments"] = json!([]);
    network.run(Command::Gc, "", "").unwrap();
    assert!(network.leases().is_empty());
}

#[test]
fn changes_by_others_are_seen_at_once() {
    let network = small();
    network.add("a").unwrap();
    for round in 0..50 {
        fs::write(network.path().join("10.0.0.4"), "other\r\neth0").unwrap();
        let mut given = BTreeSet::new();
        for id in ["b", "c", "d"] {
            given.insert(network.add(id).unwrap()[0].clone());
        }
        assert!(!given.contains("10.0.0.4/29"), "{round}: {given:?}");
        assert_eq!(given.len(), 3);
        fs::remove_file(network.path().join("10.0.0.4")).unwrap();
        network.add("e").unwrap();
        for id in ["b", "c", "d", "e"] {
            network.run(Command::Del, id, "eth0").unwrap();
        }
    }
    // Even when all is gone.
    fs::remove_dir_all(network.path()).unwrap();
    assert_eq!(network.add("a").unwrap(), ["10.0.0.2/29"]);
}

/// The number of times this thread has read something.
fn reads() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = text.lines().find(|line| line.starts_with("syscr")).unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn leases_of_others_cost_nothing() {
    let network = Network::new(json!({"ranges": [[{"subnet": "10.0.0.0/16"}]]}));
    fs::create_dir_all(network.path()).unwrap();
    for n in 2..1500u32 {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n);
        fs::write(network.path().join(ip.to_string()), format!("c{n}\r\neth0")).unwrap();
    }
    network.add("first").unwrap();
    let before = reads();
    for n in 0..10 {
        network.add(&format!("next{n}")).unwrap();
        network
            .run(Command::Check, &format!("next{n}"), "eth0")
            .unwrap();
        network
            .run(Command::Del, &format!("next{n}"), "eth0")
            .unwrap();
    }
    let spent = reads() - before;
    assert!(spent < 100, "{spent} reads for 30 operations");
}

#[test]
fn threads_get_addresses_of_their_own() {
    let network = Network::new(json!({"ranges": [[{"subnet": "10.0.0.0/24"}]]}));
    let given = std::sync::Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (network, given) = (&network, &given);
            scope.spawn(move || {
                for n in 0..60 {
                    let ip = network.add(&format!("t{thread}-{n}")).unwrap().remove(0);
                    assert!(given.lock().unwrap().insert(ip));
                }
            });
        }
    });
    assert_eq!(network.leases().len(), 240);
}

#[test]
fn keys_are_known_or_named() {
    let key = |ipam: Value| {
        let config = json!({"name": "n", "type": "bridge", "bridge": "x", "ipam": ipam});
        let config = config.as_object().unwrap();
        let unsupported = HostLocal.supports(config).err();
        unsupported.map(|e| (e.key, e.documented))
    };
    let all = json!({"type": "host-local", "subnet": "a", "rangeStart": "a", "rangeEnd": "a",
        "gateway": "a", "routes": [], "dataDir": "a", "resolvConf": "a",
        "ranges": [[{"subnet": "a", "rangeStart": "a", "rangeEnd": "a", "gateway": "a"}]]});
    assert_eq!(key(all), None);
    let named = |ipam, name: &str| {
        assert_eq!(key(ipam), Some((name.to_owned(), false)));
    };
    named(json!({"x": "a"}), "ipam.x");
    let inner = json!({"ranges": [[{"subnet": "a", "exclude": "b"}]]});
    named(inner, "ipam.ranges.exclude");
}

#[test]
fn names_never_lead_out_of_the_folder() {
    let mut network = small();
    for name in ["", "..", "../x", "a/b", "/etc"] {
        network.config["name"] = name.into();
        assert_eq!(
            network.add("a").unwrap_err().code,
            code::INVALID_CONFIG,
            "{name}"
        );
    }
}
