//! The driver `sbr` beside the stock plugin.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod plugins;

use circuit_net::driver::Command::{Add, Check, Del};
use common::{Netns, on_private_host};
use plugins::{By, Plugin};
use serde_json::{Value, json};

const BOTH: [By; 2] = [By::Stock, By::Ours];

/// A container with two interfaces, and routes of several kinds out of the
/// second, which is the attachment's.
fn container() -> Netns {
    let netns = Netns::new();
    for command in [
        "link set lo up",
        "link add first type veth peer name peer1",
        "link add eth0 address 02:00:00:00:00:01 type veth peer name peer2",
        "link set peer1 up",
        "link set peer2 up",
        "link set first up",
        "link set eth0 addrgenmode none",
        "link set eth0 up",
        "addr add 10.9.0.2/24 dev first",
        "route add default via 10.9.0.1",
        "addr add 10.1.0.2/24 dev eth0",
        "addr add 10.2.0.2/24 dev eth0",
        "addr add fd00:1::2/64 dev eth0 nodad",
        "route add 10.77.0.0/16 via 10.1.0.1 mtu 1300",
        "route add 10.78.0.0/16 via 10.2.0.1 metric 50",
        "route add 10.79.0.0/16 dev eth0 scope link",
        "route add fd00:77::/64 via fd00:1::1",
    ] {
        netns.ip(command);
    }
    netns
}

fn plugin(netns: &Netns, keys: Value) -> Plugin {
    let mut all = json!({"prevResult": {"cniVersion": "1.1.0",
        "interfaces": [{"name": "peer2"}, {"name": "eth0", "sandbox": netns.path()}],
        "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1},
            {"address": "10.2.0.2/24"},
            {"address": "fd00:1::2/64", "gateway": "fd00:1::1", "interface": 1},
            {"address": "10.9.0.2/24", "gateway": "10.9.0.1", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}]}});
    for (key, value) in keys.as_object().unwrap() {
        all[key] = value.clone();
    }
    Plugin::new("sbr", &netns.path(), all)
}

fn state(netns: &Netns) -> String {
    let lists = [
        "-4 rule show",
        "-6 rule show",
        "-4 route show table all",
        "-6 route show table all",
    ];
    let text = lists.map(|list| netns.ip(list)).join("\n");
    // Of the other interface, whose hardware address is random.
    let lines = text
        .lines()
        .filter(|line| !line.contains("fe80:") && !line.contains("ff00:"));
    let mut lines: Vec<&str> = lines.collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn the_kernel_has_the_same_as_with_the_stock_plugin() {
    the_kernel_has_the_same(
        BOTH,
        &[
            (json!({}), None),
            (json!({}), Some("rule add from 10.50.0.1 table 101")),
            (json!({}), Some("rule add from 10.50.0.1 table 100 pref 7")),
            (json!({"table": 77}), None),
            (json!({"table": 4711}), None),
        ],
    );
}

#[test]
fn the_kernel_has_the_same_as_with_cni_plugins_1_10() {
    let gateways = json!(["10.1.0.7", "fd00:1::7"]);
    the_kernel_has_the_same(
        [By::Newest, By::Ours],
        &[
            (json!({}), None),
            (json!({"gateways": ["fd00:1::7"]}), None),
            (json!({"addSourceHints": true}), None),
            (
                json!({"addSourceHints": true, "gateways": ["10.1.0.7"]}),
                None,
            ),
            (
                json!({"addSourceHints": true, "gateways": gateways, "table": 77}),
                None,
            ),
        ],
    );
}

fn the_kernel_has_the_same(sides: [By; 2], cases: &[(Value, Option<&'static str>)]) {
    let cases = cases.to_vec();
    on_private_host(move || async move {
        for (keys, setup) in &cases {
            let seen = sides.map(|by| {
                let netns = container();
                if let Some(setup) = setup {
                    netns.ip(setup);
                }
                let before = state(&netns);
                let plugin = plugin(&netns, keys.clone());
                let mut result = plugin.run(by, Add).unwrap();
                result["interfaces"][1]["sandbox"] = Value::Null;
                let after = state(&netns);
                assert_ne!(before, after);
                plugin.run(by, Check).unwrap();
                for _ in 0..2 {
                    plugin.run(by, Del).unwrap();
                }
                (after, result, state(&netns))
            });
            assert_eq!(seen[0].0, seen[1].0, "{keys} {setup:?}");
            assert_eq!(seen[0].1, seen[1].1);
            assert_eq!(seen[0].2, seen[1].2, "after DEL: {keys} {setup:?}");
        }
    });
}

#[test]
fn either_undoes_what_the_other_did() {
    on_private_host(|| async {
        let rules = |netns: &Netns| netns.ip("-4 rule show") + &netns.ip("-6 rule show");
        for (add, del) in [(By::Stock, By::Ours), (By::Ours, By::Stock)] {
            let netns = container();
            let before = rules(&netns);
            plugin(&netns, json!({})).run(add, Add).unwrap();
            plugin(&netns, json!({})).run(By::Ours, Check).unwrap();
            plugin(&netns, json!({})).run(del, Del).unwrap();
            assert_eq!(rules(&netns), before);
        }
    });
}

#[test]
fn a_failed_add_leaves_everything_as_it_was() {
    on_private_host(|| async {
        let netns = container();
        let before = state(&netns);
        for (ip, keys) in [
            ("10.88.0.2/24", json!({})),
            ("fd00:88::2/64", json!({})),
            ("10.88.0.2/24", json!({"addSourceHints": true})),
        ] {
            let mut plugin = plugin(&netns, keys);
            let gateway = if ip.starts_with("10") {
                "10.88.0.1"
            } else {
                "fd00:88::1"
            };
            plugin.config["prevResult"]["ips"]
                .as_array_mut()
                .unwrap()
                .push(json!({"address": ip, "gateway": gateway, "interface": 1}));
            // No such gateway can be reached.
            plugin.run(By::Ours, Add).unwrap_err();
            assert_eq!(state(&netns), before);
        }
        // An address that is not there is no source; the gateway can be reached.
        let mut hints = plugin(&netns, json!({"addSourceHints": true}));
        hints.config["prevResult"]["ips"][1] = json!({"address": "10.1.0.9/24", "interface": 1});
        let error = hints.run(By::Ours, Add).unwrap_err();
        assert!(
            error.msg.contains("prefer 10.1.0.9 to 10.1.0.0/24"),
            "{error:?}"
        );
        assert_eq!(state(&netns), before);
        let mut missing = plugin(&netns, json!({}));
        missing.config["prevResult"]["ips"] = json!([]);
        for by in BOTH {
            missing.run(by, Add).unwrap_err();
        }
        assert_eq!(state(&netns), before);
    });
}

#[test]
fn detaching_what_is_gone_is_no_error() {
    on_private_host(|| async {
        let netns = container();
        let mut plugin = plugin(&netns, json!({}));
        plugin.run(By::Ours, Add).unwrap();
        netns.ip("link del eth0");
        plugin.run(By::Ours, Del).unwrap();
        plugin.netns = None;
        plugin.run(By::Ours, Del).unwrap();
    });
}

#[test]
fn check_finds_a_rule_that_went() {
    on_private_host(|| async {
        let netns = container();
        let plugin = plugin(&netns, json!({}));
        plugin.run(By::Ours, Add).unwrap();
        netns.ip("-6 rule del from fd00:1::2");
        let error = plugin.run(By::Ours, Check).unwrap_err();
        assert!(error.msg.contains("fd00:1::2"), "{error:?}");
    });
}

#[test]
fn answers_leave_by_the_interface_of_the_question() {
    on_private_host(|| async {
        let netns = container();
        let way = || netns.ip("route get 192.0.2.1 from 10.1.0.2");
        assert!(way().contains("dev first"), "{}", way());
        plugin(&netns, json!({})).run(By::Ours, Add).unwrap();
        assert!(way().contains("via 10.1.0.1 dev eth0"), "{}", way());
    });
}
