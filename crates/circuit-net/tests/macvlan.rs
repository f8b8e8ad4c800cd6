//! `macvlan` beside the stock plugin, each on a LAN of its own. What is in the
//! containers must be the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use circuit_core::cni::ErrorReport;
use circuit_net::driver::Command;
use circuit_net::netns::in_netns;
use common::plugin::{Way, Who, who, without_dns};
use common::{Netns, eventually, on_private_host, shell};
use serde_json::{Value, json};

const KIND: &str = "macvlan";
const OURS: [Way; 2] = [Way::Ours, Way::InProcess];

/// A LAN: the host's interface to it, a neighbour, and where leases are kept.
struct Lan {
    neighbour: Netns,
    leases: tempfile::TempDir,
}

impl Lan {
    /// On the host that the calling thread is in.
    fn new() -> Self {
        let neighbour = Netns::new();
        shell(
            "ip link add lan0 type veth peer name lan1 && ip link set lan0 mtu 1400 up \
             && ip address add 10.9.0.250/24 dev lan0",
        );
        shell(&format!(
            "ip link set lan1 netns {}",
            neighbour.path().display()
        ));
        neighbour.ip("link set lan1 mtu 1400 up");
        neighbour.ip("address add 10.9.0.254/24 dev lan1");
        neighbour.ip("address add fd00:9::fe/64 dev lan1 nodad");
        Self {
            neighbour,
            leases: tempfile::tempdir().unwrap(),
        }
    }

    fn config(&self, more: &Value) -> Value {
        let mut config = json!({"cniVersion": "1.0.0", "name": "lan", "type": KIND,
            "master": "lan0",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]],
                     "routes": [{"dst": "0.0.0.0/0"}]}});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        if config["ipam"]["type"] == "host-local" {
            config["ipam"]["dataDir"] = self.leases.path().to_str().into();
        } else if config["ipam"].is_null() {
            config.as_object_mut().unwrap().remove("ipam");
        }
        config
    }

    fn leases(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.leases.path().join("lan"));
        let names = files
            .into_iter()
            .flatten()
            .map(|file| file.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        let mut names: Vec<String> = names.filter(|n| !n.starts_with('l')).collect();
        names.sort();
        names
    }
}

fn at(netns: &Netns) -> Who {
    Who {
        netns: Some(netns.path()),
        ..who("web")
    }
}

fn add(way: Way, config: &Value, who: &Who) -> Result<Value, ErrorReport> {
    way.run(KIND, Command::Add, config, who)
}

/// The operations that come behind an ADD.
fn then(
    way: Way,
    command: Command,
    config: &Value,
    who: &Who,
    prev: &Value,
) -> Option<ErrorReport> {
    let mut config = config.clone();
    config["prevResult"] = prev.clone();
    way.run(KIND, command, &config, who).err()
}

/// What is in the container, but for numbers that are chance. Hardware
/// addresses are kept where they are not.
fn state(netns: &Netns, keep_mac: bool) -> Value {
    let json = |arguments: &str| -> Value { serde_json::from_str(&netns.ip(arguments)).unwrap() };
    let mut links = json("-d -j address show eth0");
    let link = links[0].as_object_mut().unwrap();
    for chance in [
        "ifindex",
        "link_index",
        "link_netnsid",
        "num_tx_queues",
        "operstate",
    ] {
        link.remove(chance);
    }
    if !keep_mac {
        link.remove("address");
    }
    let addresses = link["addr_info"].as_array_mut().unwrap();
    // The link-local one is made of the hardware address.
    addresses.retain(|address| keep_mac || address["scope"] != "link");
    for address in addresses {
        let address = address.as_object_mut().unwrap();
        for chance in ["protocol", "tentative", "stable-privacy"] {
            address.remove(chance);
        }
    }
    let mut routes = json("-4 -j route show table all");
    for route in json("-6 -j route show table all").as_array().unwrap() {
        let local = route["type"] == "local" || route["dst"] == "fe80::/64";
        if !local {
            routes.as_array_mut().unwrap().push(route.clone());
        }
    }
    let path = netns.path();
    let keys = [
        "ipv4/conf/eth0/arp_notify",
        "ipv6/conf/eth0/ndisc_notify",
        "ipv6/conf/eth0/keep_addr_on_down",
        "ipv6/conf/eth0/disable_ipv6",
        "ipv6/conf/lo/disable_ipv6",
    ];
    let keys = keys.map(|key| format!("/proc/sys/net/{key}")).join(" ");
    let sysctls = shell(&format!("nsenter --net={} cat {keys}", path.display()));
    json!({"link": links, "routes": routes, "sysctls": sysctls})
}

/// The answer, without what is chance.
fn answer(result: &Value, netns: &Netns, keep_mac: bool) -> Value {
    let mut result = without_dns(result.clone());
    let interface = result["interfaces"][0].as_object_mut().unwrap();
    if !keep_mac {
        assert!(interface.remove("mac").is_some());
    }
    let sandbox = interface.remove("sandbox").unwrap();
    assert_eq!(sandbox.as_str(), netns.path().to_str());
    result
}

/// One attachment by each of both on LANs of their own, compared at each step.
fn same_life(way: Way, more: &Value, args: &str) {
    let keep_mac = more.to_string().contains("02:") || args.contains("02:");
    let life = |way: Way| {
        let (more, args) = (more.clone(), args.to_owned());
        let (sent, received) = std::sync::mpsc::channel();
        on_private_host(move || async move {
            let (lan, container) = (Lan::new(), Netns::new());
            // IPv6 may be off, as Docker and others have it.
            container.ip("link set lo up");
            shell(&format!(
                "nsenter --net={} sysctl -qw net.ipv6.conf.default.disable_ipv6=1",
                container.path().display()
            ));
            if more["linkInContainer"] == true {
                container.ip("link add lan0 type veth peer name lan1");
                container.ip("link set lan0 mtu 1400 up");
            }
            let config = lan.config(&more);
            let who = Who {
                args,
                ..at(&container)
            };
            let result = add(way, &config, &who).unwrap_or_else(|e| panic!("{way:?}: {e:?}"));
            let made = state(&container, keep_mac);
            let said = answer(&result, &container, keep_mac);
            // The stock plugin looks for all routes in the main table.
            let checker = match more.to_string().contains("table") {
                true => Way::InProcess,
                false => way,
            };
            let checked = then(checker, Command::Check, &config, &who, &result);
            assert_eq!(checked, None, "{way:?}");
            for _ in 0..2 {
                assert_eq!(then(way, Command::Del, &config, &who, &result), None);
                assert!(!container.ip("-o link").contains("eth0"), "{way:?}");
                assert!(lan.leases().is_empty());
            }
            sent.send((said, made)).unwrap();
        });
        received.recv().unwrap()
    };
    let (stock, ours) = (life(Way::Stock19), life(way));
    assert_eq!(stock, ours, "{way:?} {more} {args}");
}

#[test]
fn attachments_are_those_of_the_stock_plugin() {
    let dual = json!({"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}],
        [{"subnet": "fd00:9::/64", "rangeStart": "fd00:9::10"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.77.0.0/16", "gw": "10.9.0.7"},
                   {"dst": "10.78.0.0/16", "priority": 50, "table": 77},
                   {"dst": "10.79.0.0/16", "gw": "0.0.0.0", "scope": 253}]});
    for (more, args) in [
        (json!({}), ""),
        (
            json!({"mode": "private", "mtu": 1300, "dns": {"nameservers": ["10.9.0.1"]}}),
            "",
        ),
        (json!({"mode": "vepa", "mtu": 0, "bcqueuelen": 3000}), ""),
        (json!({"mode": "passthru"}), ""),
        (json!({"mode": "bridge", "mac": "02:00:00:00:00:01"}), ""),
        (
            json!({"mac": "02:00:00:00:00:01"}),
            "IgnoreUnknown=1;MAC=02:00:00:00:00:02",
        ),
        (
            json!({"mac": "02:00:00:00:00:01", "runtimeConfig": {"mac": "02:00:00:00:00:03"}}),
            "",
        ),
        (json!({"ipam": null}), ""),
        (json!({"linkInContainer": true, "mtu": 1290}), ""),
        (json!({"ipam": dual}), ""),
    ] {
        same_life(Way::InProcess, &more, args);
    }
    same_life(Way::Ours, &json!({}), "");
}

#[test]
fn the_default_route_tells_of_the_master() {
    on_private_host(|| async {
        let (lan, container) = (Lan::new(), Netns::new());
        let config = lan.config(&json!({"master": ""}));
        for way in OURS {
            let error = add(way, &config, &at(&container)).unwrap_err();
            assert!(error.msg.contains("master is missing"), "{}", error.msg);
        }
        shell("ip route add default via 10.9.0.254");
        for way in [Way::Stock19, Way::Ours, Way::InProcess] {
            let result = add(way, &config, &at(&container)).unwrap();
            container.ip("link show eth0 type macvlan");
            assert_eq!(
                then(way, Command::Del, &config, &at(&container), &result),
                None
            );
        }
    });
}

#[test]
fn containers_reach_the_lan_and_each_other() {
    on_private_host(|| async {
        let (lan, one, two) = (Lan::new(), Netns::new(), Netns::new());
        let config = lan.config(&json!({}));
        for (id, container) in [("one", &one), ("two", &two)] {
            let who = Who {
                id: id.to_owned(),
                ..at(container)
            };
            add(Way::InProcess, &config, &who).unwrap();
        }
        greet(&one, &lan.neighbour, "10.9.0.254");
        greet(&one, &two, "10.9.0.3");
        greet(&lan.neighbour, &two, "10.9.0.3");
    });
}

/// Sends something from one namespace to an address in another.
fn greet(from: &Netns, to: &Netns, address: &str) {
    // Any port: a process that another test starts at that moment may have a copy of
    // the last one's socket.
    let there = in_netns(to.path(), || Ok(UdpSocket::bind((address, 0)).unwrap())).unwrap();
    there
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let here = in_netns(from.path(), || Ok(UdpSocket::bind("0.0.0.0:0").unwrap())).unwrap();
    here.send_to(b"hello", there.local_addr().unwrap()).unwrap();
    let mut text = [0; 16];
    let (length, _) = there.recv_from(&mut text).unwrap();
    assert_eq!(&text[..length], b"hello");
}

/// Who comes back with an address on another interface is reached at once.
#[test]
fn neighbours_are_told() {
    on_private_host(|| async {
        let (lan, container) = (Lan::new(), Netns::new());
        let old = "lladdr 02:ff:ff:ff:ff:ff dev lan1 nud stale";
        lan.neighbour.ip(&format!("neigh add 10.9.0.2 {old}"));
        lan.neighbour.ip(&format!("neigh add fd00:9::2 {old}"));
        let ipam = json!({"type": "host-local",
            "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]]});
        let config = lan.config(&json!({"mac": "02:00:00:00:00:07", "ipam": ipam}));
        add(Way::InProcess, &config, &at(&container)).unwrap();
        for address in ["10.9.0.2", "fd00:9::2"] {
            let known = || lan.neighbour.ip(&format!("neigh show {address}"));
            let new = || known().contains("02:00:00:00:00:07");
            eventually(&format!("{address}: {}", known()), new).await;
        }
    });
}

#[test]
fn a_failed_add_leaves_nothing() {
    on_private_host(|| async {
        let (lan, container) = (Lan::new(), Netns::new());
        let full = json!({"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/30",
            "rangeStart": "10.9.0.1", "rangeEnd": "10.9.0.1", "gateway": "10.9.0.1"}]]});
        let unreachable = json!({"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]],
            "routes": [{"dst": "10.3.0.0/16", "gw": "10.4.0.1"}]});
        for (more, args, text) in [
            (json!({"mode": "source"}), "", "mode \"source\" is none of"),
            (json!({"mtu": 1500}), "", "mtu 1500 is more than the 1400"),
            (json!({"mtu": -1}), "", "mtu is -1"),
            (
                json!({"master": "lan9"}),
                "",
                "master lan9 is no interface of the host",
            ),
            (
                json!({"linkInContainer": true}),
                "",
                "lan0 is no interface of the container",
            ),
            (json!({"mac": "02"}), "", "is no hardware address"),
            (
                json!({"mac": "01:00:00:00:00:01"}),
                "",
                "cannot make a macvlan interface",
            ),
            (json!({}), "K8S=1", "K8S is not known to macvlan"),
            (json!({"ipam": full}), "", "no IP addresses available"),
            (
                json!({"ipam": unreachable}),
                "",
                "cannot add route 10.3.0.0/16 via 10.4.0.1 dev eth0",
            ),
            (
                json!({"ipam": {"type": "static"}}),
                "",
                "static leased no address",
            ),
        ] {
            let config = lan.config(&more);
            let who = Who {
                args: args.to_owned(),
                ..at(&container)
            };
            assert!(add(Way::Stock19, &config, &who).is_err(), "{more}");
            let _ = then(
                Way::Stock19,
                Command::Del,
                &config,
                &who,
                &json!({"cniVersion": "1.0.0"}),
            );
            for way in OURS {
                let error = add(way, &config, &who).unwrap_err();
                assert!(error.msg.contains(text), "{way:?} {more}: {}", error.msg);
                assert!(!container.ip("-o link").contains("eth0"), "{more}");
                assert!(lan.leases().is_empty(), "{more}");
            }
        }
        container.ip("link add eth0 type veth peer name other");
        for way in OURS {
            let error = add(way, &lan.config(&json!({})), &at(&container)).unwrap_err();
            assert!(
                error.msg.contains("has an interface eth0 already"),
                "{}",
                error.msg
            );
            container.ip("link show eth0");
            assert!(lan.leases().is_empty());
        }
    });
}

/// Kernels before 6.15 would take the host's name for the container's.
#[test]
fn the_host_may_have_an_interface_of_that_name() {
    on_private_host(|| async {
        let (lan, container) = (Lan::new(), Netns::new());
        shell("ip link add eth0 type veth peer name other");
        for way in OURS {
            add(way, &lan.config(&json!({})), &at(&container)).unwrap();
            container.ip("link show eth0 type macvlan");
            way.run(KIND, Command::Del, &lan.config(&json!({})), &at(&container))
                .unwrap();
        }
        shell("ip link show eth0 type veth");
    });
}

#[test]
fn check_sees_what_changed() {
    on_private_host(|| async {
        let (lan, container) = (Lan::new(), Netns::new());
        let config = lan.config(&json!({}));
        let who = at(&container);
        let attached = add(Way::InProcess, &config, &who).unwrap();
        let mac = attached["interfaces"][0]["mac"].as_str().unwrap();
        let check = |config: &Value, text: &str| {
            for way in OURS {
                let error = then(way, Command::Check, config, &who, &attached);
                assert_eq!(error.is_some(), !text.is_empty(), "{text}: {error:?}");
                let error = error.map(|error| error.msg).unwrap_or_default();
                assert!(error.contains(text), "{way:?} {text}: {error}");
            }
        };
        check(&config, "");
        check(
            &lan.config(&json!({"mode": "vepa"})),
            "interface eth0 has not mode vepa",
        );
        check(
            &lan.config(&json!({"master": "lan9"})),
            "master lan9 is no interface",
        );
        container.ip("route del default");
        check(&config, "there is no route to 0.0.0.0/0");
        container.ip("route add default via 10.9.0.254");
        check(&config, "");
        container.ip("address del 10.9.0.2/24 dev eth0");
        check(&config, "has no address 10.9.0.2/24");
        container.ip("link set eth0 address 02:00:00:00:00:09");
        check(
            &config,
            &format!("has hardware address 02:00:00:00:00:09, not {mac}"),
        );
        container.ip("link del eth0");
        check(&config, "interface eth0 is not in the container");
        container.ip("link add eth0 type veth peer name other");
        check(&config, "interface eth0 is not of kind macvlan");
    });
}

#[test]
fn del_frees_the_address_when_the_namespace_is_gone() {
    on_private_host(|| async {
        let lan = Lan::new();
        let config = lan.config(&json!({}));
        for way in OURS {
            for with_path in [true, false] {
                let container = Netns::new();
                let mut who = at(&container);
                add(way, &config, &who).unwrap();
                assert_eq!(lan.leases().len(), 1);
                drop(container);
                if !with_path {
                    who.netns = None;
                }
                for _ in 0..2 {
                    way.run(KIND, Command::Del, &config, &who).unwrap();
                    assert!(lan.leases().is_empty());
                }
            }
        }
    });
}

#[test]
fn status_and_gc_are_done() {
    on_private_host(|| async {
        let (lan, container) = (Lan::new(), Netns::new());
        let mut config = lan.config(&json!({"cniVersion": "1.1.0"}));
        add(Way::InProcess, &config, &at(&container)).unwrap();
        for way in OURS {
            way.run(KIND, Command::Status, &config, &Who::default())
                .unwrap();
            config["master"] = "lan9".into();
            let error = way
                .run(KIND, Command::Status, &config, &Who::default())
                .unwrap_err();
            assert_eq!(error.code, 50, "{error:?}");
            config["master"] = "lan0".into();
        }
        config["cni.dev/valid-attachments"] = json!([{"containerID": "web", "ifname": "eth0"}]);
        Way::Ours
            .run(KIND, Command::Gc, &config, &Who::default())
            .unwrap();
        assert_eq!(lan.leases(), ["10.9.0.2"]);
        config["cni.dev/valid-attachments"] = json!([]);
        Way::InProcess
            .run(KIND, Command::Gc, &config, &Who::default())
            .unwrap();
        assert!(lan.leases().is_empty());
    });
}

/// Address management may be another's.
#[test]
fn stock_address_management_is_run() {
    on_private_host(|| async {
        let (lan, container) = (Lan::new(), Netns::new());
        let plugins = tempfile::tempdir().unwrap();
        let other = plugins.path().join("other-ipam");
        std::os::unix::fs::symlink(Way::Stock19.executable("static"), &other).unwrap();
        let ipam = json!({"type": "other-ipam", "addresses": [{"address": "10.9.0.9/24"}]});
        let config = lan.config(&json!({"ipam": ipam}));
        run_with_path(plugins.path(), &config, &container);
        assert!(container.ip("address show eth0").contains("10.9.0.9/24"));
    });
}

fn run_with_path(path: &Path, config: &Value, container: &Netns) {
    let command = format!(
        "CNI_COMMAND=ADD CNI_CONTAINERID=web CNI_IFNAME=eth0 CNI_NETNS={} CNI_PATH={} {} {KIND} <<'END'\n{config}\nEND",
        container.path().display(),
        path.display(),
        Way::Ours.executable(KIND).display(),
    );
    shell(&command);
}
