//! Hosts with firewalld, which lets pass only what it was told of, and forgets that
//! with each reload and start.

use std::time::Duration;

use circuit_testing::{Firewalld, PATIENCE, Plugins, TestNode, network, wait_until};
use serde_json::json;

use crate::support::{assert_names, logged, said};

/// What firewalld is told of the container `web`.
const SOURCE: &str = "10.1.0.2/32";
const TOLD: &str = "firewalld was reloaded, started or ended";

/// A node with an uplink, whose daemon is not started yet.
fn node() -> TestNode {
    crate::node()
        .plugins(Plugins::None)
        .uplink()
        .without_daemon()
        .start()
}

/// A container that serves a page, on a network as `network create` makes them.
fn connect_web(node: &TestNode) {
    let create = ["network", "create", "a", "--subnet", "10.1.0.0/16", "--dns"];
    node.circuit(&create).ok();
    let serve = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";
    node.run_container("web", &[], &["sh", "-c", serve]);
    let connect = ["network", "connect", "web", "a", "-p", "8088:80"];
    node.circuit(&connect).ok();
}

fn sources(firewalld: &Firewalld<'_>) -> String {
    firewalld.ask(&["--zone=trusted", "--list-sources"])
}

fn reaches_outside(node: &TestNode, container: &str) -> bool {
    let ping = ["ping", "-c1", "-W1", "192.0.2.1"];
    node.exec(container, &ping).worked()
}

/// Out of the network, to the name server at its gateway, and in by the port.
#[track_caller]
fn assert_connected(node: &TestNode, firewalld: &Firewalld<'_>) {
    wait_until("firewalld knows the container", PATIENCE, || {
        sources(firewalld) == SOURCE
    });
    assert!(reaches_outside(node, "web"));
    let told = said(node, "web", &["nslookup", "web.a", "10.1.0.1"]);
    assert_names(&told, &["10.1.0.2"]);
    let url = ["-s", "--max-time", "5", "http://192.0.2.2:8088/"];
    assert_eq!(node.outside("curl", &url).stdout, "hello\n");
}

#[test]
fn containers_stay_reachable_when_firewalld_forgets_them() {
    let node = node();
    let mut firewalld = Firewalld::start(&node);
    node.start_daemon();
    connect_web(&node);
    assert_connected(&node, &firewalld);

    for (times, reload) in [(1, "--reload"), (2, "--complete-reload")] {
        firewalld.ask(&[reload]);
        assert_connected(&node, &firewalld);
        assert_eq!(logged(&node, &[TOLD]), times, "{reload}");
    }
    // While it is away, iptables' rules let the container through, as those of
    // whoever is connected without it.
    firewalld.end();
    let accepted = || {
        node.run("iptables-save", &[])
            .stdout
            .contains("-s 10.1.0.2/32")
    };
    wait_until("iptables accepts the container", PATIENCE, accepted);
    assert!(reaches_outside(&node, "web"));
    firewalld.come_back();
    assert_connected(&node, &firewalld);
    // While no daemon is there to hear.
    node.kill_daemon();
    firewalld.ask(&["--reload"]);
    assert_eq!(sources(&firewalld), "");
    node.start_daemon();
    assert_connected(&node, &firewalld);

    node.circuit(&["network", "disconnect", "web", "a"]).ok();
    assert_eq!(sources(&firewalld), "");
    assert!(!accepted());
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn a_network_of_an_old_version_leaves_nothing_in_firewalld() {
    let node = node();
    let firewalld = Firewalld::start(&node);
    node.start_daemon();
    let bridge = json!({
        "type": "bridge", "bridge": "br0", "isGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/16"},
    });
    let list = network::list("a", &[bridge, json!({"type": "firewall"})]);
    node.create_network("a", &list.replace("\"1.0.0\"", "\"0.3.1\""));
    node.run_container("web", &[], &[]);
    node.circuit(&["network", "connect", "web", "a"]).ok();
    assert_eq!(sources(&firewalld), SOURCE);
    node.circuit(&["network", "disconnect", "web", "a"]).ok();
    assert_eq!(sources(&firewalld), "");
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn a_firewalld_that_starts_late_is_told() {
    let node = node();
    node.start_daemon();
    connect_web(&node);
    let firewalld = Firewalld::start(&node);
    assert_connected(&node, &firewalld);
    node.remove_container("web");
    wait_until("the address is gone", PATIENCE, || {
        sources(&firewalld).is_empty()
    });
    node.assert_nothing_left();
}

#[test]
fn what_firewalld_knows_it_is_not_told_again() {
    let node = node();
    let firewalld = Firewalld::start(&node);
    node.start_daemon_with(&["--reconcile-interval", "1s"]);
    connect_web(&node);
    assert_connected(&node, &firewalld);
    firewalld.ask(&["--zone=trusted", &format!("--remove-source={SOURCE}")]);
    // By the next look at all networks, after which there are others.
    assert_connected(&node, &firewalld);
    std::thread::sleep(Duration::from_millis(2500));
    let log = firewalld.log();
    assert!(!log.contains("ZONE_ALREADY_SET"), "{log}");
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn the_doctor_names_networks_that_firewalld_does_not_let_through() {
    let node = node();
    let firewalld = Firewalld::start(&node);
    node.start_daemon();
    node.create_network("bare", &network::bridge("bare", "10.2.0.0/16"));
    node.run_container("web", &[], &[]);
    node.circuit(&["network", "connect", "web", "bare"]).ok();
    assert!(!reaches_outside(&node, "web"), "firewalld lets it pass");
    let told = node.circuit(&["doctor"]).stdout;
    let line = told.lines().find(|line| line.contains("filter_FORWARD"));
    assert_names(line.unwrap_or(&told), &["warning", "firewalld", "bare"]);
    assert_names(&told, &[r#"add {"type":"firewall"} to the plugins"#]);
    // Nobody is told of reloads that concern nobody.
    firewalld.ask(&["--reload"]);
    node.circuit(&["network", "disconnect", "web", "bare"]).ok();
    assert_eq!(logged(&node, &[TOLD]), 0);
    node.remove_container("web");
    node.assert_nothing_left();
}
