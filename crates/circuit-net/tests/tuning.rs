//! The driver `tuning` beside the stock plugin.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod plugins;

use std::path::Path;

use circuit_net::driver::Command::{Add, Check, Del};
use common::{Netns, on_private_host};
use plugins::{By, Plugin};
use serde_json::{Value, json};

const BOTH: [By; 2] = [By::Stock, By::Ours];

fn container() -> Netns {
    let netns = Netns::new();
    netns.ip("link add eth0 address 02:00:00:00:00:01 type veth peer name other");
    netns.ip("link set eth0 up");
    netns
}

fn prev(netns: &Netns) -> Value {
    json!({"cniVersion": "1.1.0",
        "interfaces": [{"name": "veth1", "mac": "02:00:00:00:00:09"},
            {"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500, "sandbox": netns.path()}],
        "ips": [{"address": "10.1.0.2/24", "interface": 1}]})
}

fn plugin(netns: &Netns, dir: &Path, mut keys: Value) -> Plugin {
    keys["dataDir"] = json!(dir);
    keys["prevResult"] = prev(netns);
    Plugin::new("tuning", &netns.path(), keys)
}

fn state(netns: &Netns) -> String {
    let all: Value = serde_json::from_str(&netns.ip("-d -j link show dev eth0")).unwrap();
    let link = &all[0];
    let flags = link["flags"].to_string();
    let has = |flag| flags.contains(flag);
    let (promisc, allmulti) = (&link["promiscuity"], has("ALLMULTI"));
    format!(
        "{} {} {} promisc {promisc} {} allmulti {allmulti}",
        link["address"],
        link["mtu"],
        link["txqlen"],
        has("PROMISC")
    )
}

fn sysctl(netns: &Netns, file: &str) -> String {
    let name = netns.path().file_name().unwrap().to_owned();
    let name = name.to_str().unwrap();
    common::shell(&format!("ip netns exec {name} cat /proc/sys/net/{file}"))
}

fn everything() -> Value {
    json!({"mac": "02:00:00:00:00:aa", "mtu": 1400, "promisc": true, "allmulti": true,
        "txQLen": 77, "sysctl": {"net.core.somaxconn": "333",
            "net.ipv4.conf.IFNAME.log_martians": "1", "net/ipv4/tcp_rmem": "4096 5000 6000"}})
}

#[test]
fn everything_is_done_and_undone_as_by_the_stock_plugin() {
    on_private_host(|| async {
        let seen = BOTH.map(|by| {
            let (netns, dir) = (container(), tempfile::tempdir().unwrap());
            let mut plugin = plugin(&netns, dir.path(), everything());
            let before = state(&netns);
            let mut result = plugin.run(by, Add).unwrap();
            result["interfaces"][1]["sandbox"] = Value::Null;
            let tuned = state(&netns);
            let sysctls = [
                sysctl(&netns, "core/somaxconn"),
                sysctl(&netns, "ipv4/conf/eth0/log_martians"),
                sysctl(&netns, "ipv4/tcp_rmem"),
            ];
            let kept = dir.path().join("web_eth0.json");
            let kept: Value = serde_json::from_slice(&std::fs::read(kept).unwrap()).unwrap();
            // The stock plugin compares what it wrote with the tabs that it reads.
            plugin.config["sysctl"]
                .as_object_mut()
                .unwrap()
                .remove("net/ipv4/tcp_rmem");
            plugin.run(by, Check).unwrap();
            for _ in 0..2 {
                plugin.run(by, Del).unwrap();
                assert_eq!(state(&netns), before);
                assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            }
            (tuned, sysctls, kept, result)
        });
        assert!(seen[0].0.contains("02:00:00:00:00:aa"), "{seen:?}");
        assert_eq!(seen[0], seen[1]);
    });
}

#[test]
fn either_undoes_what_the_other_did() {
    on_private_host(|| async {
        for (add, del) in [(By::Stock, By::Ours), (By::Ours, By::Stock)] {
            let (netns, dir) = (container(), tempfile::tempdir().unwrap());
            let plugin = plugin(&netns, dir.path(), everything());
            let before = state(&netns);
            plugin.run(add, Add).unwrap();
            if let Err(error) = plugin.run(del, Check) {
                assert!(error.msg.contains("tcp_rmem"), "{error:?}");
            }
            plugin.run(del, Del).unwrap();
            assert_eq!(state(&netns), before);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    });
}

#[test]
fn arguments_win_over_the_runtime_and_that_over_the_configuration() {
    on_private_host(|| async {
        let mac = |last: u8| format!("02:00:00:00:00:0{last}");
        for (keys, args, expected) in [
            (json!({"mac": mac(2)}), "", 2),
            (
                json!({"mac": mac(2)}),
                "IgnoreUnknown=1;K8S_POD_NAME=x;MAC=02:00:00:00:00:03",
                3,
            ),
            (
                json!({"mac": mac(2), "runtimeConfig": {"mac": mac(4)}}),
                "MAC=02:00:00:00:00:03",
                4,
            ),
            (
                json!({"runtimeConfig": {"mac": mac(4)}, "args": {"cni": {"mac": mac(5)}}}),
                "",
                5,
            ),
        ] {
            for by in BOTH {
                let (netns, dir) = (container(), tempfile::tempdir().unwrap());
                let mut plugin = plugin(&netns, dir.path(), keys.clone());
                plugin.args = args.to_owned();
                let result = plugin.run(by, Add).unwrap();
                assert_eq!(
                    result["interfaces"][1]["mac"],
                    mac(expected),
                    "{by:?} {keys}"
                );
                assert!(state(&netns).contains(&mac(expected)), "{by:?} {keys}");
            }
        }
    });
}

#[test]
fn both_refuse_the_same() {
    on_private_host(|| async {
        for (keys, args) in [
            (json!({"sysctl": {"kernel.hostname": "x"}}), ""),
            (json!({"sysctl": {"net.core.nothing": "1"}}), ""),
            (json!({"sysctl": {"net.core.somaxconn": 1}}), ""),
            (json!({"sysctl": {"net.core.somaxconn": "x"}}), ""),
            (json!({"mac": "nonsense"}), ""),
            (json!({"mtu": 70000}), ""),
            (json!({"mac": "02:00:00:00:00:aa"}), "K8S_POD_NAME=x"),
            (json!({"prevResult": null, "mtu": 1400}), ""),
        ] {
            for by in BOTH {
                let (netns, dir) = (container(), tempfile::tempdir().unwrap());
                let before = state(&netns);
                let mut plugin = plugin(&netns, dir.path(), keys.clone());
                plugin.args = args.to_owned();
                if keys.get("prevResult").is_some() {
                    plugin.config.as_object_mut().unwrap().remove("prevResult");
                }
                plugin.run(by, Add).expect_err(&format!("{by:?} {keys}"));
                if by == By::Ours {
                    assert_eq!(state(&netns), before);
                    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{keys}");
                }
            }
        }
    });
}

#[test]
fn check_finds_each_difference() {
    on_private_host(|| async {
        for change in [
            "link set eth0 address 02:00:00:00:00:bb",
            "link set eth0 mtu 1300",
            "link set eth0 promisc off",
            "link set eth0 allmulticast off",
            "link set eth0 txqueuelen 5",
            "link del eth0",
        ] {
            for by in BOTH {
                let (netns, dir) = (container(), tempfile::tempdir().unwrap());
                let mut keys = everything();
                keys.as_object_mut().unwrap().remove("sysctl");
                let plugin = plugin(&netns, dir.path(), keys);
                plugin.run(by, Add).unwrap();
                plugin.run(by, Check).unwrap();
                netns.ip(change);
                plugin.run(by, Check).expect_err(change);
            }
        }
    });
}

#[test]
fn nothing_is_kept_of_an_interface_that_went() {
    on_private_host(|| async {
        for gone in ["namespace", "interface"] {
            let (netns, dir) = (container(), tempfile::tempdir().unwrap());
            let mut plugin = plugin(&netns, dir.path(), everything());
            plugin.run(By::Ours, Add).unwrap();
            match gone {
                "namespace" => plugin.netns = None,
                _ => drop(netns.ip("link del eth0")),
            }
            plugin.run(By::Ours, Del).unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{gone}");
        }
    });
}
