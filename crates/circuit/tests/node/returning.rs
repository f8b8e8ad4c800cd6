//! A node that went back to the original program for a while: what that connected
//! meanwhile stays, and of what was there before nothing is left.

use circuit_testing::{NodeBuilder, PATIENCE, TestNode, network, wait_until};

use crate::original::{config, connect_as_original, connect_by, store};
use crate::support::{NETWORK, ips};

crate::on_both_plugins!(
    a_task_that_was_started_meanwhile_keeps_its_address,
    a_task_that_was_connected_anew_keeps_its_address,
);

fn other() -> String {
    network::single_bridge("ctr1", "10.254.0.0/16")
}

fn row(network: &str, ip: &str, interface: &str) -> [String; 3] {
    [network, ip, interface].map(str::to_owned)
}

/// A node with a container that is on `ctr0` by this program, which is stopped then.
fn connected_and_stopped(node: NodeBuilder, labels: &[(&str, &str)]) -> TestNode {
    let node = node.without_daemon().start();
    store(&node);
    std::fs::write(node.store().join("ctr1.json"), other()).unwrap();
    node.start_daemon();
    node.run_container("web", labels, &[]);
    if labels.is_empty() {
        node.circuit(&["network", "connect", "web", "ctr0"]).ok();
    }
    wait_until("it is connected", PATIENCE, || ips(&node, "web").len() == 1);
    node.stop_daemon();
    node
}

fn start_anew(node: &TestNode) {
    node.end_task("web");
    node.start_task("web");
}

/// Takes the interface away as the original did, which is told that there are no rules
/// under the pid.
fn disconnect_as_original(node: &TestNode) {
    let pid = node.task_pid("web").unwrap().to_string();
    let netns = format!("/proc/{pid}/ns/net");
    node.run_plugin("DEL", &config(), &pid, &netns, "eth0");
    assert_eq!(node.interfaces("web"), []);
}

/// Starts this program again: the container keeps what the original gave it on `ctr0`, and
/// that alone.
#[track_caller]
fn assert_kept(node: &TestNode, ip: &str) {
    let before = node.interfaces("web");
    node.start_daemon();
    wait_until("it is taken over", PATIENCE, || {
        ips(node, "web") == [row("ctr0", ip, "eth0")] && node.leases() == [format!("ctr0/{ip}")]
    });
    assert_eq!(node.interfaces("web"), before);
    // Connected it is already.
    node.circuit(&["network", "connect", "web", "ctr0"]).ok();
    assert_eq!(node.interfaces("web"), before);
    // Its next task is ours.
    start_anew(node);
    node.wait_for_addresses("web");
    node.end_task("web");
    node.assert_nothing_left();
}

fn a_task_that_was_started_meanwhile_keeps_its_address(node: NodeBuilder) {
    let node = connected_and_stopped(node, &[(NETWORK, "ctr0")]);
    start_anew(&node);
    let ip = connect_as_original(&node, "web");
    assert_kept(&node, &ip);
}

fn a_task_that_was_connected_anew_keeps_its_address(node: NodeBuilder) {
    let node = connected_and_stopped(node, &[(NETWORK, "ctr0")]);
    disconnect_as_original(&node);
    let ip = connect_as_original(&node, "web");
    assert_kept(&node, &ip);
}

#[test]
fn what_drivers_made_gives_way_to_it() {
    a_task_that_was_started_meanwhile_keeps_its_address(crate::node());
    a_task_that_was_connected_anew_keeps_its_address(crate::node());
}

#[test]
fn another_network_has_the_interface_by_now() {
    let meanwhile: [fn(&TestNode); 2] = [start_anew, disconnect_as_original];
    for meanwhile in meanwhile {
        let node = connected_and_stopped(crate::node(), &[]);
        meanwhile(&node);
        let ip = connect_by(&node, "web", "ctr1", &other());
        let eth0 = node.interfaces("web").remove(0);
        node.start_daemon();
        wait_until("it is on both", PATIENCE, || {
            let mut all = ips(&node, "web");
            all.sort();
            all.len() == 2 && all[0][2] == "eth1" && all[1] == row("ctr1", &ip, "eth0")
        });
        assert!(node.interfaces("web").contains(&eth0));
        wait_until("both have one address", PATIENCE, || {
            node.leases().len() == 2
        });
        node.end_task("web");
        node.assert_nothing_left();
    }
}

#[test]
fn a_task_that_had_ended_again_leaves_nothing() {
    let node = connected_and_stopped(crate::node(), &[(NETWORK, "ctr0")]);
    start_anew(&node);
    connect_as_original(&node, "web");
    node.end_task("web");
    node.start_daemon();
    node.assert_nothing_left();
}
