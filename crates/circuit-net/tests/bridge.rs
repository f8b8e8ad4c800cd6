//! `bridge` beside the stock plugin: the same networks from the same
//! configurations. VLANs are not among them where the kernel has no VLAN
//! filtering; what is sent for them is tried with the message's code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use circuit_net::driver::Command;
use circuit_net::netlink::{LinkSpec, Netlink};
use circuit_testing::Stops;
use common::plugin::{Way, Who, who};
use common::twin::{Twin, alike};
use common::{Netns, on_private_host, shell};
use serde_json::{Value, json};

fn merged(base: &Value, more: &Value) -> Value {
    let mut base = base.clone();
    let object = base.as_object_mut().unwrap();
    object.extend(more.as_object().unwrap().clone());
    base
}

/// Addresses out of these subnets.
fn leases(subnets: &[&str]) -> Value {
    let ranges: Vec<Value> = subnets.iter().map(|s| json!([{ "subnet": s }])).collect();
    json!({"type": "host-local", "dataDir": "$LEASES", "ranges": ranges})
}

fn bridge(more: &Value) -> Value {
    let base = json!({"type": "bridge", "bridge": "br0", "ipam": leases(&["10.77.0.0/24"])});
    merged(&base, more)
}

fn dual(more: &Value) -> Value {
    merged(
        &bridge(&json!({"ipam": leases(&["10.77.0.0/24", "fd00:77::/64"])})),
        more,
    )
}

/// One container from ADD to the second DEL.
fn life(twin: &mut Twin, plugin: &Value) {
    let container = twin.container();
    let who = twin.who(container);
    let result = twin.add(plugin, container);
    twin.look();
    twin.note_leases();
    // The stock plugin finds fault with networks that have no addresses, or
    // routes in other tables.
    let tables = plugin.to_string().contains("\"table\"");
    if twin.is_ours() || plugin.get("ipam").is_some() && !tables {
        twin.again(Command::Check, plugin, &who, &result);
    }
    for _ in 0..2 {
        twin.again(Command::Del, plugin, &who, &result);
        twin.look();
        twin.note_leases();
    }
}

#[test]
fn without_a_gateway() {
    alike(|twin| life(twin, &bridge(&json!({}))));
}

#[test]
fn as_a_gateway() {
    alike(|twin| life(twin, &bridge(&json!({"isGateway": true}))));
}

#[test]
fn as_the_default_gateway_of_both_families() {
    alike(|twin| life(twin, &dual(&json!({"isDefaultGateway": true}))));
}

#[test]
fn with_addresses_that_are_looked_for_elsewhere() {
    alike(|twin| {
        life(
            twin,
            &dual(&json!({"isDefaultGateway": true, "enabledad": true})),
        );
    });
}

#[test]
fn with_routes() {
    alike(|twin| {
        let mut ipam = leases(&["10.77.0.0/24", "fd00:77::/64"]);
        ipam["routes"] = json!([{"dst": "0.0.0.0/0"},
            {"dst": "10.9.0.0/16", "gw": "10.77.0.9", "mtu": 1300, "advmss": 1200,
             "priority": 77},
            {"dst": "10.8.0.0/16", "table": 1000}, {"dst": "10.7.0.0/16", "table": 77},
            {"dst": "fd01::/64"}, {"dst": "fd02::/64", "gw": "fd00:77::9", "priority": 5}]);
        life(twin, &bridge(&json!({"isGateway": true, "ipam": ipam})));
        let ipam = json!({"type": "static", "addresses": [{"address": "10.77.0.2/24"}],
            "routes": [{"dst": "10.6.0.0/16", "scope": 253}]});
        life(twin, &bridge(&json!({"ipam": ipam})));
    });
}

#[test]
fn with_a_default_route_beside_that_of_the_gateway() {
    alike(|twin| {
        for route in [
            json!({"dst": "0.0.0.0/0", "gw": "10.77.0.9"}),
            json!({"dst": "0.0.0.0/0", "gw": "10.77.0.1", "priority": 9}),
        ] {
            let mut ipam = leases(&["10.77.0.0/24"]);
            ipam["routes"] = json!([route]);
            life(
                twin,
                &bridge(&json!({"isDefaultGateway": true, "ipam": ipam})),
            );
        }
        // The same route twice is one too many.
        let mut ipam = leases(&["10.77.0.0/24"]);
        ipam["routes"] = json!([{"dst": "0.0.0.0/0"}]);
        let container = twin.container();
        let who = twin.who(container);
        let plugin = bridge(&json!({"isDefaultGateway": true, "ipam": ipam}));
        twin.refuse(&plugin, &who);
        twin.note_leases();
    });
}

#[test]
fn with_the_flags_of_ports_and_bridges() {
    alike(|twin| {
        life(twin, &bridge(&json!({"hairpinMode": true, "mtu": 1400})));
        life(twin, &bridge(&json!({"portIsolation": true, "mtu": 1300})));
        life(
            twin,
            &bridge(&json!({"promiscMode": true, "mtu": 0, "bridge": "br0b"})),
        );
        life(
            twin,
            &bridge(&json!({"promiscMode": true, "hairpinMode": false})),
        );
    });
}

#[test]
fn with_a_hardware_address() {
    alike(|twin| {
        let asked = json!({"args": {"cni": {"mac": "02:00:00:00:00:02"}}});
        life(twin, &bridge(&asked));
        let both = merged(
            &asked,
            &json!({"runtimeConfig": {"mac": "02-00-00-00-00-03"}}),
        );
        life(twin, &bridge(&both));
        let container = twin.container();
        let mut who = twin.who(container);
        who.args = "IgnoreUnknown=1;K8S_POD_NAME=web;MAC=02:00:00:00:00:04".to_owned();
        twin.add_as(&bridge(&json!({})), &who);
        let container = twin.container();
        let mut who = twin.who(container);
        for args in ["K8S_POD_NAME=web", "IgnoreUnknown=maybe", "MAC=nonsense"] {
            who.args = args.to_owned();
            twin.refuse(&bridge(&json!({})), &who);
        }
        // What failed left nothing in the container.
        twin.look();
    });
}

#[test]
fn without_addresses() {
    alike(|twin| {
        let bare = json!({"type": "bridge", "bridge": "br0",
            "dns": {"nameservers": ["192.0.2.1"], "search": ["example.org"]}});
        life(twin, &bare);
        let down = merged(&bare, &json!({"disableContainerInterface": true}));
        life(twin, &down);
        let empty = merged(
            &bare,
            &json!({"ipam": {}, "isGateway": true, "ipMasq": false}),
        );
        let container = twin.container();
        twin.add(&empty, container);
        twin.look();
    });
}

#[test]
fn in_older_versions_and_with_name_resolution() {
    alike(|twin| {
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            let container = twin.container();
            let mut plugin = bridge(&json!({"cniVersion": version, "isGateway": true}));
            let who = twin.who(container);
            let result = twin.add(&plugin, container);
            plugin["dns"] = json!({"domain": "example.org", "options": ["ndots:2"]});
            twin.again(Command::Del, &plugin, &who, &result);
            let result = twin.add(&plugin, container);
            twin.again(Command::Del, &plugin, &who, &result);
        }
    });
}

#[test]
fn two_containers_and_one_that_is_gone() {
    alike(|twin| {
        let plugin = dual(&json!({"isDefaultGateway": true}));
        let (one, two) = (twin.container(), twin.container());
        let first = twin.add(&plugin, one);
        let second = twin.add(&plugin, two);
        twin.look();
        let (who_one, mut who_two) = (twin.who(one), twin.who(two));
        twin.end(one);
        twin.again(Command::Del, &plugin, &who_one, &first);
        twin.again(Command::Del, &plugin, &who_one, &first);
        twin.note_leases();
        twin.look();
        twin.again(Command::Check, &plugin, &who_two, &second);
        twin.end(two);
        who_two.netns = None;
        twin.again(Command::Del, &plugin, &who_two, &second);
        twin.note_leases();
        twin.look();
    });
}

#[test]
fn on_bridges_that_are_there() {
    alike(|twin| {
        shell("ip link add br0 type bridge; ip addr add 10.88.0.1/24 dev br0");
        shell("ip addr add fd00:88::1/64 dev br0; ip link set br0 address 02:00:00:00:00:08");
        let container = twin.container();
        let who = twin.who(container);
        let plugin = dual(&json!({"isGateway": true}));
        let error = twin.refuse(&plugin, &who);
        twin.note(json!(error.code));
        twin.note_leases();
        let forced = merged(&plugin, &json!({"forceAddress": true}));
        life(twin, &forced);
        // Of the same subnet, and so not beside each other.
        shell("ip addr add fd00:77::7/64 dev br0; ip addr del fd00:77::1/64 dev br0");
        let container = twin.container();
        let who = twin.who(container);
        twin.refuse(&plugin, &who);
        life(twin, &forced);
    });
}

#[test]
fn where_something_is_in_the_way() {
    alike(|twin| {
        shell("ip link add veth-no-bridge type veth peer name other");
        let container = twin.container();
        let who = twin.who(container);
        let not_a_bridge = bridge(&json!({"bridge": "veth-no-bridge"}));
        twin.refuse(&not_a_bridge, &who);
        twin.netns(container).ip("link add eth0 type bridge");
        let error = twin.refuse(&bridge(&json!({})), &who);
        twin.note(json!(error.code));
        twin.note_leases();
        let container = twin.container();
        let mut who = twin.who(container);
        for more in [
            json!({"hairpinMode": true, "promiscMode": true}),
            json!({"disableContainerInterface": true}),
            json!({"vlan": 4095}),
            json!({"vlanTrunk": [{"minID": 1}]}),
            json!({"bridge": "a-name-that-is-much-too-long"}),
            json!({"ipam": leases(&["10.77.0.0/32"])}),
            json!({"mtu": 10}),
        ] {
            twin.refuse(&bridge(&more), &who);
        }
        who.netns = Some("/run/netns/none-of-that-name".into());
        twin.refuse(&bridge(&json!({})), &who);
        twin.note_leases();
        twin.look();
    });
}

#[test]
fn check_finds_differences() {
    alike(|twin| {
        let plugin = dual(&json!({"isDefaultGateway": true}));
        let container = twin.container();
        let who = twin.who(container);
        let result = twin.add(&plugin, container);
        for (spoil, mend) in [
            (
                "addr del 10.77.0.2/24 dev eth0",
                "addr add 10.77.0.2/24 dev eth0",
            ),
            (
                "route del default",
                "route add default via 10.77.0.1 dev eth0",
            ),
            (
                "-6 route del default",
                "-6 route add default via fd00:77::1 dev eth0",
            ),
            ("link set eth0 address 02:00:00:00:00:05", ""),
        ] {
            // The route went with the address.
            let inside = twin.netns(container);
            let had = result["interfaces"][2]["mac"].as_str().unwrap();
            inside.ip(spoil);
            let refused = twin
                .with_prev(Command::Check, &plugin, &who, &result)
                .is_err();
            let inside = twin.netns(container);
            match mend {
                "" => {
                    inside.ip(&format!("link set eth0 address {had}"));
                }
                mend => {
                    inside.ip(mend);
                }
            }
            inside.ip("route replace default via 10.77.0.1 dev eth0");
            twin.note(json!([spoil, refused]));
            assert!(refused);
        }
        twin.again(Command::Check, &plugin, &who, &result);
        for spoil in [
            "ip link set br0 promisc on",
            "ip link set br0 promisc off; ip link set $(ip -o link show master br0 | cut -d@ -f1 | cut -d' ' -f2) nomaster",
        ] {
            shell(spoil);
            let checked = twin.with_prev(Command::Check, &plugin, &who, &result);
            assert!(checked.is_err(), "{spoil}");
        }
    });
}

#[test]
fn status_and_gc_reach_the_address_management() {
    alike(|twin| {
        let plugin = bridge(&json!({}));
        let container = twin.container();
        let result = twin.add(&plugin, container);
        let nobody = common::plugin::Who::default();
        twin.run(Command::Status, &plugin, &nobody).unwrap();
        let ip = result["ips"][0]["address"].clone();
        twin.note(ip);
    });
}

/// Where the kernel has no VLAN filtering, both have to be refused.
#[test]
fn with_vlans_if_the_kernel_has_them() {
    alike(|twin| {
        let trunk = json!([{"minID": 10, "maxID": 12}, {"id": 20}]);
        for more in [
            json!({"vlan": 7, "isGateway": true}),
            json!({"vlan": 7, "preserveDefaultVlan": true}),
            json!({"vlanTrunk": trunk}),
            json!({"vlan": 7, "vlanTrunk": trunk}),
            json!({"vlanTrunk": []}),
        ] {
            let plugin = bridge(&more);
            let container = twin.container();
            let who = twin.who(container);
            let Ok(result) = twin.run(Command::Add, &plugin, &who) else {
                twin.note(json!("refused"));
                continue;
            };
            twin.note(common::twin::plain(&result));
            let vlans = shell("bridge -j vlan show");
            twin.note(common::twin::plain(&serde_json::from_str(&vlans).unwrap()));
            twin.look();
            twin.again(Command::Check, &plugin, &who, &result);
            twin.again(Command::Del, &plugin, &who, &result);
            shell("ip link del br0");
        }
        twin.look();
    });
}

/// What only ours does: the stock plugin leaves the host's end.
#[test]
fn a_container_that_cannot_be_found_is_cut_off() {
    on_private_host(async || {
        let twin = Twin::new(Way::InProcess);
        let plugin = bridge(&json!({"isGateway": true}));
        let container = Netns::new();
        let mut who = Who {
            netns: Some(container.path()),
            ..who("c1")
        };
        let result = twin.run(Command::Add, &plugin, &who).unwrap();
        let port = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
        let is_there = || shell("ip -o link").contains(&port);
        who.netns = Some("/run/netns/none-of-that-name".into());
        // Another's result, or none, is no reason to remove anything.
        let mut other = result.clone();
        other["interfaces"][1]["mac"] = "02:00:00:00:00:06".into();
        twin.again(Command::Del, &plugin, &who, &other);
        twin.run(Command::Del, &plugin, &who).unwrap();
        assert!(is_there());
        twin.again(Command::Del, &plugin, &who, &result);
        assert!(!is_there());
        assert!(shell("ip -o link").contains("br0"));
    });
}

#[test]
fn many_at_once_on_a_bridge_that_is_not_there() {
    on_private_host(async || {
        let leases = tempfile::tempdir().unwrap();
        let host = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let plugin = json!({"cniVersion": "1.1.0", "name": "net", "type": "bridge",
            "bridge": "br0", "isDefaultGateway": true, "ipam": {"type": "host-local",
                "dataDir": leases.path(), "subnet": "10.77.0.0/24"}});
        let containers: Vec<Netns> = (0..8).map(|_| Netns::new()).collect();
        let on_host = &|number: usize, command: Command| {
            nix::sched::setns(&host, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let who = Who {
                netns: Some(containers[number].path()),
                ..who(&format!("c{number}"))
            };
            Way::InProcess
                .run("bridge", command, &plugin, &who)
                .unwrap()
        };
        let all = |command: Command| -> Vec<Value> {
            std::thread::scope(|scope| {
                let run = |number| scope.spawn(move || on_host(number, command));
                let threads: Vec<_> = (0..containers.len()).map(run).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            })
        };
        let results = all(Command::Add);
        let addresses: std::collections::BTreeSet<String> = results
            .iter()
            .map(|result| result["ips"][0]["address"].to_string())
            .collect();
        assert_eq!(addresses.len(), containers.len());
        assert_eq!(shell("ip -o link show master br0").lines().count(), 8);
        for container in &containers {
            container.ip("route get 10.77.0.1");
        }
        all(Command::Del);
        assert_eq!(shell("ip -o link show master br0").lines().count(), 0);
    });
}

/// Another program takes each new port out of its bridge, once, as systemd-networkd does
/// when it is told to take every interface.
#[test]
fn ports_that_are_taken_out_while_they_are_set_up() {
    on_private_host(async || {
        let leases = tempfile::tempdir().unwrap();
        let plugin = json!({"cniVersion": "1.1.0", "name": "net", "type": "bridge",
            "bridge": "br0", "hairpinMode": true, "ipam": {"type": "host-local",
                "dataDir": leases.path(), "subnet": "10.77.0.0/24"}});
        let container = Netns::new();
        let done = AtomicBool::new(false);
        let taken = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let mut host = Netlink::open(None).unwrap();
                let mut taken = HashSet::new();
                let out = LinkSpec {
                    master: Some(0),
                    ..LinkSpec::default()
                };
                while !done.load(Ordering::Relaxed) {
                    for port in host.links_of_kind("veth").unwrap_or_default() {
                        if port.master.is_some() && taken.insert(port.index) {
                            let _ = host.set_link(port.index, &out);
                        }
                    }
                }
                taken.len()
            });
            let stops = Stops(&done);
            let ran: Vec<_> = (0..40)
                .flat_map(|number| {
                    let who = Who {
                        netns: Some(container.path()),
                        ..who(&format!("c{number}"))
                    };
                    let run = |command| Way::InProcess.run("bridge", command, &plugin, &who);
                    [run(Command::Add), run(Command::Del)]
                })
                .collect();
            drop(stops);
            for ran in ran {
                ran.unwrap();
            }
            other.join().unwrap()
        });
        assert!(taken > 0);
    });
}
