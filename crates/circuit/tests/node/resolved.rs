//! Hosts whose resolver is systemd-resolved, which asks this program for its names,
//! and whom this program asks for all others.

use circuit_testing::{Ends, Lan, PATIENCE, Resolved, TestNode, wait_until};

use crate::support::{NETWORK, dnsmasq};

/// The stub of systemd-resolved.
const STUB: &str = "127.0.0.53";

/// The name server of the LAN, at 192.0.2.1: knows one name, and of all others that
/// they do not exist.
fn name_server(lan: &Lan) -> Ends {
    let arguments = [
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--listen-address=192.0.2.1",
        "--address=/#/",
        "--address=/shop.example/203.0.113.7",
    ];
    dnsmasq(lan.command("dnsmasq"), &arguments)
}

/// A node on the LAN whose resolver is systemd-resolved; it asks the daemon as well.
fn node(lan: &Lan) -> TestNode {
    crate::node()
        .lan(lan)
        .resolver(STUB)
        .server(&["--dns-listen", "127.0.0.1:5353"])
        .without_daemon()
        .start()
}

fn resolved(node: &TestNode) -> Resolved<'_> {
    let resolved = Resolved::start(node, "DNS=127.0.0.1:5353\nDomains=~circuit.internal");
    resolved.ask(&["dns", "lan0", "192.0.2.1"]);
    resolved.ask(&["default-route", "lan0", "yes"]);
    resolved
}

fn on_the_host(node: &TestNode, name: &str) -> String {
    let stub = format!("@{STUB}");
    let words = [&stub, "+short", "+time=8", "+tries=1", name];
    node.dig(&words).stdout.trim().to_owned()
}

/// Waits until a container finds this out about a name; `ctr` at times loses what comes
/// from a command that ends at once.
fn a_container_finds(node: &TestNode, name: &str, told: &str) {
    wait_until("a container finds it", PATIENCE, || {
        let ran = node.exec("web", &["nslookup", name, "10.88.0.1"]);
        format!("{}{}", ran.stdout, ran.stderr).contains(told)
    });
}

#[test]
fn both_ask_each_other_and_nothing_goes_round() {
    let lan = Lan::new();
    let _server = name_server(&lan);
    let node = node(&lan);
    let _resolved = resolved(&node);
    node.start_daemon();
    let create = [
        "network",
        "create",
        "a",
        "--subnet",
        "10.88.0.0/16",
        "--dns",
    ];
    node.circuit(&create).ok();
    node.run_container("web", &[(NETWORK, "a")], &[]);
    let found = || on_the_host(&node, "web.circuit.internal") == "10.88.0.2";
    wait_until("the host finds the container", PATIENCE, found);
    assert_eq!(on_the_host(&node, "shop.example"), "203.0.113.7");
    let known = || node.daemon_log().contains("asks this one besides others");
    wait_until("that it asks back is noticed", PATIENCE, known);
    for _ in 0..10 {
        a_container_finds(&node, "shop.example", "203.0.113.7");
        assert_eq!(on_the_host(&node, "shop.example"), "203.0.113.7");
    }
    a_container_finds(&node, "nobody.example", "NXDOMAIN");
    assert!(!node.daemon_log().contains("nobody who answers"));
    node.remove_container("web");
}
