//! `host-device` beside the stock plugin, with one end of a pair of veth for
//! the device.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::PathBuf;

use circuit_net::driver::Command;
use common::plugin::{Way, Who, who, without_dns};
use common::{Netns, on_private_host, shell};
use serde_json::{Value, json};

const KIND: &str = "host-device";
const OURS: [Way; 2] = [Way::Ours, Way::InProcess];
const MAC: &str = "02:00:00:00:00:08";

fn make_device() {
    shell(&format!(
        "ip link add dev8 address {MAC} type veth peer name peer8 && ip link set dev8 up \
         && ip link set peer8 up"
    ));
}

fn config(leases: &tempfile::TempDir, more: &Value) -> Value {
    let mut config = json!({"cniVersion": "1.0.0", "name": "net", "type": KIND,
        "ipam": {"type": "host-local", "dataDir": leases.path(),
                 "ranges": [[{"subnet": "10.9.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// An attachment that no other test has: notes are by it.
fn at(netns: &Netns) -> Who {
    let path = netns.path();
    Who {
        netns: Some(path.clone()),
        ..who(path.file_name().unwrap().to_str().unwrap())
    }
}

/// Where the driver notes what it moved in.
fn note(who: &Who) -> PathBuf {
    format!("/run/cni/host-device/{}_eth0.json", who.id).into()
}

/// What matters of an interface.
fn seen(text: &str) -> Value {
    let links: Value = serde_json::from_str(text).unwrap();
    let link = &links[0];
    let up = link["flags"].as_array().unwrap().contains(&"UP".into());
    let addresses = link["addr_info"].as_array().into_iter().flatten();
    let addresses: Vec<&Value> = addresses
        .filter(|address| address["scope"] != "link")
        .map(|address| &address["local"])
        .collect();
    json!({"name": link["ifname"], "alias": link["ifalias"], "mac": link["address"], "up": up,
           "addresses": addresses})
}

fn leases(dir: &tempfile::TempDir) -> usize {
    let files = std::fs::read_dir(dir.path().join("net"))
        .into_iter()
        .flatten();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("10.")).count()
}

/// Everything that is seen from ADD to DEL.
fn life(way: Way, more: &Value) -> Vec<Value> {
    let more = more.clone();
    let (sent, received) = std::sync::mpsc::channel();
    on_private_host(move || async move {
        make_device();
        let (dir, container) = (tempfile::tempdir().unwrap(), Netns::new());
        let mut config = config(&dir, &more);
        let mut result = way
            .run(KIND, Command::Add, &config, &at(&container))
            .unwrap();
        config["prevResult"] = result.clone();
        way.run(KIND, Command::Check, &config, &at(&container))
            .unwrap();
        let inside = seen(&container.ip("-d -j address show eth0"));
        let routes = container.ip("-j route");
        assert!(!shell("ip -o link").contains("dev8:"));
        way.run(KIND, Command::Del, &config, &at(&container))
            .unwrap();
        let outside = seen(&shell("ip -d -j address show dev8"));
        assert_eq!(leases(&dir), 0);
        result["interfaces"][0]["sandbox"] = Value::Null;
        let noted = vec![without_dns(result), inside, routes.into(), outside];
        sent.send(noted).unwrap();
    });
    received.recv().unwrap()
}

#[test]
fn devices_come_and_go_as_with_the_stock_plugin() {
    for more in [
        json!({"device": "dev8"}),
        json!({"device": "dev8", "ipam": {}}),
        json!({"hwaddr": "02-00-00-00-00-08", "dns": {"nameservers": ["10.9.0.1"]}}),
    ] {
        let stock = life(Way::Stock19, &more);
        assert_eq!(stock[1]["alias"], "dev8");
        assert_eq!(stock[3]["up"], false);
        for way in OURS {
            assert_eq!(life(way, &more), stock, "{way:?} {more}");
        }
    }
}

#[test]
fn a_failed_add_gives_the_device_back() {
    on_private_host(|| async {
        make_device();
        let (dir, container) = (tempfile::tempdir().unwrap(), Netns::new());
        let device = json!({"device": "dev8"});
        let full = json!({"device": "dev8", "ipam": {"type": "host-local", "dataDir": dir.path(),
            "ranges": [[{"subnet": "10.9.0.0/30", "rangeEnd": "10.9.0.1"}]]}});
        let mut unreachable = config(&dir, &device);
        unreachable["ipam"]["routes"] = json!([{"dst": "10.3.0.0/16", "gw": "10.4.0.1"}]);
        for (config, text) in [
            (
                config(&dir, &json!({"device": "dev9"})),
                "dev9 is no interface of the host",
            ),
            (
                config(&dir, &json!({"hwaddr": "02:00:00:00:00:09"})),
                "has hwaddr 02:",
            ),
            (
                config(&dir, &json!({"kernelpath": "/etc"})),
                "no path under /sys/devices/",
            ),
            (
                config(&dir, &json!({"pciBusID": "0000:ff:1f.7"})),
                "0000:ff:1f.7 has no driver",
            ),
            (config(&dir, &json!({})), "name the device by"),
            (
                config(&dir, &json!({"device": "lo"})),
                "cannot move device lo",
            ),
            (config(&dir, &full), "no IP addresses available"),
            (unreachable, "cannot add route 10.3.0.0/16"),
        ] {
            for way in OURS {
                let error = way
                    .run(KIND, Command::Add, &config, &at(&container))
                    .unwrap_err();
                assert!(error.msg.contains(text), "{way:?}: {}", error.msg);
                let now = seen(&shell("ip -d -j address show dev8"));
                assert_eq!(
                    (&now["up"], &now["alias"]),
                    (&true.into(), &Value::Null),
                    "{text}"
                );
                assert!(!container.ip("-o link").contains("eth0"), "{text}");
                assert_eq!(leases(&dir), 0, "{text}");
            }
        }
        container.ip("link add eth0 type veth peer name other");
        let config = config(&dir, &device);
        let error = Way::InProcess.run(KIND, Command::Add, &config, &at(&container));
        assert!(
            error
                .unwrap_err()
                .msg
                .contains("has an interface eth0 already")
        );
        shell("ip link show dev8");
    });
}

/// The host's addresses, routes and rules.
fn of_host() -> Vec<String> {
    [
        "ip -o address show dev dev8 scope global",
        "ip route show table all dev dev8",
        "ip rule",
        "ip -6 rule",
        "ip -6 route show table all dev dev8",
    ]
    .map(|command| {
        let text = shell(command);
        // The kernel's own comes back by itself, a moment later.
        let is_own = |line: &&str| {
            ["fe80", "ff00", "table local"]
                .iter()
                .any(|it| line.contains(it))
        };
        let mut lines: Vec<&str> = text.lines().filter(|line| !is_own(line)).collect();
        lines.sort_unstable();
        lines
            .join("\n")
            .replace(" tentative", "")
            .replace(" nodad", "")
    })
    .to_vec()
}

fn use_device() {
    make_device();
    shell(
        "ip addr add 10.66.0.7/24 brd + dev dev8 && ip addr add fd00:66::7/64 dev dev8 nodad \
         && ip route add default via 10.66.0.1 dev dev8 metric 500 \
         && ip route add default via 10.66.0.1 dev dev8 table 66 \
         && ip route add fd00:69::/64 via fd00:66::1 dev dev8 \
         && ip rule add from 10.66.0.7 table 66 pref 700",
    );
}

#[test]
fn a_failed_add_gives_the_device_back_with_its_network() {
    on_private_host(|| async {
        use_device();
        let (dir, container) = (tempfile::tempdir().unwrap(), Netns::new());
        let with_network = |ipam: Value| {
            let more = json!({"device": "dev8", "useInterfaceNetwork": true, "ipam": ipam});
            config(&dir, &more)
        };
        let full = with_network(json!({"type": "host-local", "dataDir": dir.path(),
            "ranges": [[{"subnet": "10.9.0.0/30", "rangeEnd": "10.9.0.1"}]]}));
        let unreachable = with_network(json!({"type": "static",
            "routes": [{"dst": "10.3.0.0/16", "gw": "10.4.0.1"}]}));
        let before = of_host();
        let rules = || container.ip("rule") + &container.ip("-6 rule");
        let untouched = rules();
        for (config, text) in [
            (full, "no IP addresses available"),
            (unreachable, "add route 10.3.0.0/16"),
        ] {
            for way in OURS {
                let error = way
                    .run(KIND, Command::Add, &config, &at(&container))
                    .unwrap_err();
                assert!(error.msg.contains(text), "{way:?}: {}", error.msg);
                assert_eq!(of_host(), before, "{way:?} {text}");
                assert_eq!(rules(), untouched, "{way:?} {text}");
            }
        }
    });
}

#[test]
fn what_came_with_the_device_goes_with_it() {
    on_private_host(|| async {
        use_device();
        let (dir, container) = (tempfile::tempdir().unwrap(), Netns::new());
        let config = config(
            &dir,
            &json!({"device": "dev8", "useInterfaceNetwork": true, "ipam": {}}),
        );
        let rules = || container.ip("rule") + &container.ip("-6 rule");
        let before = rules();
        for way in OURS {
            way.run(KIND, Command::Add, &config, &at(&container))
                .unwrap();
            assert!(rules().contains("from 10.66.0.7 lookup 66"), "{}", rules());
            assert!(
                container
                    .ip("route")
                    .contains("default via 10.66.0.1 dev eth0")
            );
            way.run(KIND, Command::Del, &config, &at(&container))
                .unwrap();
            assert_eq!(rules(), before);
            // Another ADD has to find it as the first did.
            shell("ip link del dev8; ip rule del pref 700");
            use_device();
        }
    });
}

/// The stock plugin fails when there is nothing, and keeps the address when
/// there is no namespace.
#[test]
fn del_may_be_repeated_and_come_late() {
    on_private_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir, &json!({"device": "dev8"}));
        for way in OURS {
            make_device();
            let container = Netns::new();
            way.run(KIND, Command::Add, &config, &at(&container))
                .unwrap();
            for _ in 0..2 {
                way.run(KIND, Command::Del, &config, &at(&container))
                    .unwrap();
            }
            shell("ip link show dev8");
            way.run(KIND, Command::Add, &config, &at(&container))
                .unwrap();
            let mut who = at(&container);
            drop(container);
            who.netns = None;
            assert_eq!(leases(&dir), 1);
            way.run(KIND, Command::Del, &config, &who).unwrap();
            assert_eq!(leases(&dir), 0);
            assert!(!note(&who).exists());
            // The device, being virtual, went with the namespace.
            shell("while ip link show peer8 2>/dev/null; do :; done");
        }
    });
}

#[test]
fn nothing_is_overwritten_on_the_host() {
    on_private_host(|| async {
        make_device();
        let (dir, container) = (tempfile::tempdir().unwrap(), Netns::new());
        let config = config(&dir, &json!({"device": "dev8"}));
        // The container's name is the host's too.
        shell("ip link add eth0 type veth peer name other");
        Way::InProcess
            .run(KIND, Command::Add, &config, &at(&container))
            .unwrap();
        shell("ip link add dev8 type veth peer name another");
        let error = Way::InProcess.run(KIND, Command::Del, &config, &at(&container));
        assert!(
            error
                .unwrap_err()
                .msg
                .contains("another interface of that name")
        );
        container.ip("link show eth0");
        shell("ip link del dev8");
        Way::InProcess
            .run(KIND, Command::Del, &config, &at(&container))
            .unwrap();
        assert!(shell("ip link show dev8").contains(MAC));
        assert!(!shell("ip link show eth0").contains(MAC));
        // An interface that did not come from the host stays where it is.
        container.ip("link add eth0 type veth peer name other");
        let error = Way::InProcess.run(KIND, Command::Del, &config, &at(&container));
        assert!(error.unwrap_err().msg.contains("does not tell its name"));
        container.ip("link show eth0");
    });
}

/// Who may change a container's interfaces does not decide what the host gets.
#[test]
fn what_a_container_makes_does_not_go_to_the_host() {
    on_private_host(|| async {
        let (dir, container) = (tempfile::tempdir().unwrap(), Netns::new());
        let who = at(&container);
        shell("ip link add low7 type veth peer name end7");
        shell(&format!(
            "ip link add dev7 link low7 address {MAC} type macvlan"
        ));
        let others = shell("ip -o link").lines().count() - 1;
        let inside = |commands: &str| {
            let all = commands.split("; ");
            all.for_each(|command| drop(container.ip(command)));
        };
        for (way, more) in OURS.into_iter().flat_map(|way| {
            let keys = [json!({"device": "dev7"}), json!({"hwaddr": MAC})];
            keys.map(|more| (way, more))
        }) {
            let mut config = config(&dir, &more);
            let run = |command, config: &Value| way.run(KIND, command, config, &who);
            let refused = |config: &Value, text: &str| {
                let error = run(Command::Del, config).unwrap_err();
                assert!(error.msg.contains(text), "{way:?} {more}: {}", error.msg);
                assert!(error.msg.contains("back by hand"), "{}", error.msg);
                assert_eq!(shell("ip -o link").lines().count(), others);
            };
            config["prevResult"] = run(Command::Add, &config).unwrap();
            inside(&format!(
                "link set eth0 down; link set eth0 name away; \
                 link add eth0 address {MAC} type veth peer name it; \
                 link set dev eth0 alias dev7; link set dev away alias other"
            ));
            refused(
                &config,
                "is a veth, which the device that was moved in is not",
            );
            inside("link del eth0; link set away name eth0");
            refused(
                &config,
                "has the alias \"other\", and device dev7 was moved in",
            );
            // What is its own to change goes along, as with the stock plugin.
            inside("link set dev eth0 alias dev7; link set eth0 address 02:00:00:00:00:99");
            run(Command::Del, &config).unwrap();
            assert!(shell("ip -d link show dev7").contains("macvlan"));
            shell(&format!("ip link set dev7 address {MAC}"));
            assert!(!note(&who).exists());
        }
    });
}

/// Of what the stock plugin attached, the configuration tells the name.
#[test]
fn a_device_without_a_note_has_the_name_that_is_configured() {
    on_private_host(|| async {
        make_device();
        let (dir, container) = (tempfile::tempdir().unwrap(), Netns::new());
        let who = at(&container);
        let config = config(&dir, &json!({"device": "dev8"}));
        for way in OURS {
            Way::Stock19.run(KIND, Command::Add, &config, &who).unwrap();
            container.ip("link set dev eth0 alias eth1");
            // A further name of an interface that is none of a real device's tells nothing.
            container.ip("link property add dev eth0 altname dev8");
            let error = way.run(KIND, Command::Del, &config, &who).unwrap_err();
            let text = "has the alias \"eth1\", and device dev8 was moved in";
            assert!(error.msg.contains(text), "{way:?}: {}", error.msg);
            container.ip("link property del dev eth0 altname dev8");
            container.ip("link set dev eth0 alias dev8");
            way.run(KIND, Command::Del, &config, &who).unwrap();
            assert!(shell("ip link show dev8").contains(MAC));
        }
    });
}

#[test]
fn a_failed_add_leaves_no_note() {
    on_private_host(|| async {
        make_device();
        let (dir, container) = (tempfile::tempdir().unwrap(), Netns::new());
        let who = at(&container);
        let full = json!({"device": "dev8", "ipam": {"type": "host-local", "dataDir": dir.path(),
            "ranges": [[{"subnet": "10.9.0.0/30", "rangeEnd": "10.9.0.1"}]]}});
        for way in OURS {
            way.run(KIND, Command::Add, &config(&dir, &full), &who)
                .unwrap_err();
            assert!(!note(&who).exists());
        }
    });
}

/// Has `/sys` have one device that is left to a program, for this thread only.
fn userspace_device(id: &str) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    shell(&format!(
        "mount --make-rprivate / && mount -t tmpfs tmpfs /sys \
         && mkdir -p /sys/bus/pci/devices/{id} /sys/bus/pci/drivers/vfio-pci \
         && ln -s /sys/bus/pci/drivers/vfio-pci /sys/bus/pci/devices/{id}/driver"
    ));
}

#[test]
fn a_device_without_an_interface_takes_no_others_along() {
    on_private_host(|| async {
        let id = "0000:03:00.0";
        let leases = tempfile::tempdir().unwrap();
        let container = Netns::new();
        container.ip("link add eth0 type veth peer name eth1");
        userspace_device(id);
        let config = config(&leases, &json!({"pciBusID": id}));
        let run = |command| Way::InProcess.run(KIND, command, &config, &at(&container));
        let result = run(Command::Add).unwrap();
        assert_eq!(result["interfaces"][0]["name"], "eth0");
        run(Command::Del).unwrap();
        assert_eq!(crate::leases(&leases), 0);
        assert!(container.ip("-o link").contains("eth0"));
    });
}
