//! `ptp` and `loopback` beside the stock plugins.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use circuit_net::driver::Command;
use common::shell;
use common::twin::{Twin, alike};
use serde_json::{Value, json};

fn ptp(subnets: &[&str]) -> Value {
    let ranges: Vec<Value> = subnets.iter().map(|s| json!([{ "subnet": s }])).collect();
    json!({"type": "ptp", "mtu": 1400, "ipam":
        {"type": "host-local", "dataDir": "$LEASES", "ranges": ranges,
         "routes": [{"dst": "0.0.0.0/0"}]}})
}

/// Two containers from ADD to the second DEL, one of them gone by then.
fn life(twin: &mut Twin, plugin: &Value) {
    let (one, two) = (twin.container(), twin.container());
    let (who_one, who_two) = (twin.who(one), twin.who(two));
    let first = twin.add(plugin, one);
    let second = twin.add(plugin, two);
    twin.look();
    twin.again(Command::Check, plugin, &who_one, &first);
    twin.again(Command::Check, plugin, &who_two, &second);
    twin.end(two);
    for _ in 0..2 {
        twin.again(Command::Del, plugin, &who_one, &first);
        twin.again(Command::Del, plugin, &who_two, &second);
        twin.note_leases();
        twin.look();
    }
}

#[test]
fn one_family() {
    alike(|twin| life(twin, &ptp(&["10.78.0.0/24"])));
}

#[test]
fn both_families() {
    alike(|twin| {
        let mut plugin = ptp(&["10.78.0.0/24", "fd00:78::/64"]);
        plugin["dns"] = json!({"nameservers": ["192.0.2.1"]});
        plugin["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
        life(twin, &plugin);
    });
}

#[test]
fn where_something_is_in_the_way() {
    alike(|twin| {
        let plugin = ptp(&["10.78.0.0/24"]);
        let container = twin.container();
        let who = twin.who(container);
        twin.netns(container).ip("link add eth0 type bridge");
        let error = twin.refuse(&plugin, &who);
        twin.note(json!(error.code));
        twin.note_leases();
        let container = twin.container();
        let who = twin.who(container);
        twin.refuse(&json!({"type": "ptp"}), &who);
        let no_gateway = json!({"type": "ptp", "ipam":
            {"type": "static", "addresses": [{"address": "10.78.0.2/24"}]}});
        twin.refuse(&no_gateway, &who);
        // Where no network comes with the address, there is no route to replace.
        let alone = json!({"type": "ptp", "ipam": {"type": "static",
            "addresses": [{"address": "10.78.0.2/32", "gateway": "10.78.0.1"}]}});
        twin.refuse(&alone, &who);
        twin.note_leases();
        twin.look();
    });
}

#[test]
fn check_finds_differences() {
    alike(|twin| {
        let plugin = ptp(&["10.78.0.0/24"]);
        let container = twin.container();
        let who = twin.who(container);
        let result = twin.add(&plugin, container);
        for spoil in [
            "route del default",
            "link set eth0 address 02:00:00:00:00:05",
            "link del eth0",
        ] {
            twin.netns(container).ip(spoil);
            let checked = twin.with_prev(Command::Check, &plugin, &who, &result);
            assert!(checked.is_err(), "{spoil}");
        }
    });
}

#[test]
fn loopback_is_up() {
    alike(|twin| {
        for version in ["1.0.0", "1.1.0"] {
            let plugin = json!({"type": "loopback", "cniVersion": version});
            let container = twin.container();
            let mut who = twin.who(container);
            // Whatever the name, it is about lo.
            who.ifname = "eth7".to_owned();
            let result = twin.add_as(&plugin, &who);
            twin.look();
            twin.again(Command::Check, &plugin, &who, &result);
            let mut behind = plugin.clone();
            behind["prevResult"] = json!({"cniVersion": version,
                "interfaces": [{"name": "eth0", "sandbox": "/run/netns/x"}]});
            twin.add_as(&behind, &who);
            twin.again(Command::Del, &plugin, &who, &result);
            twin.look();
            let checked = twin.with_prev(Command::Check, &plugin, &who, &result);
            assert!(checked.is_err());
            twin.again(Command::Del, &plugin, &who, &result);
            twin.end(container);
            twin.again(Command::Del, &plugin, &who, &result);
            who.netns = None;
            twin.again(Command::Del, &plugin, &who, &result);
            let container = twin.container();
            let path = twin.netns(container).path();
            shell(&format!(
                "ip -n {} addr add 10.9.9.9/32 dev lo",
                path.file_name().unwrap().to_str().unwrap()
            ));
            let who = twin.who(container);
            assert!(twin.run(Command::Add, &plugin, &who).is_err());
        }
    });
}
