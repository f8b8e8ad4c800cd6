//! A disk that is full.

use circuit_testing::{PATIENCE, TestNode, wait_until};

use crate::support::{assert_exactly, assert_names, create_ctr0, error_of};

const STATE: &str = "/var/lib/circuit/state";

/// A node whose records are on a disk of three megabytes.
fn node() -> TestNode {
    let node = crate::node().without_daemon().start();
    node.run("mkdir", &["-p", STATE]).ok();
    let disk = ["-t", "tmpfs", "-o", "size=3m", "disk", STATE];
    node.run("mount", &disk).ok();
    node.start_daemon();
    create_ctr0(&node);
    node
}

fn fill(node: &TestNode) {
    let all = ["if=/dev/zero", &format!("of={STATE}/ballast"), "bs=4k"];
    let filled = node.run("dd", &all);
    assert!(filled.stderr.contains("No space left"), "{filled}");
}

fn empty(node: &TestNode) {
    node.run("rm", &[&format!("{STATE}/ballast")]).ok();
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let node = node();
    node.run_container("kept", &[], &[]);
    node.run_container("web", &[], &[]);
    let connect = |name: &str| node.circuit(&["network", "connect", name, "ctr0"]);
    let disconnect = |name: &str| node.circuit(&["network", "disconnect", name, "ctr0"]);
    connect("kept").ok();
    fill(&node);
    // There is room that was set aside.
    let refused = (0..2000).find_map(|_| {
        let connected = connect("web");
        if !connected.worked() {
            assert!(node.interfaces("web").is_empty());
            assert_eq!(node.leases().len(), 1);
            return Some(connected);
        }
        let disconnected = disconnect("web");
        (!disconnected.worked()).then_some(disconnected)
    });
    let told = error_of(refused.expect("the disk is never full"));
    assert_names(&told, &["No space left on device"]);
    let lines = node.daemon_log().lines().count();
    assert!(lines < 3000, "{lines}");
    // What is there is known and stays.
    assert!(node.circuit(&["network", "ips", "kept"]).worked());
    empty(&node);
    wait_until("it goes on", PATIENCE, || {
        disconnect("web").worked() || connect("web").worked()
    });
    let _ = connect("web");
    assert_exactly(&node, &[("kept", 1), ("web", 1)]);
    node.kill_daemon();
    node.start_daemon();
    assert_exactly(&node, &[("kept", 1), ("web", 1)]);
    for container in ["kept", "web"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

#[test]
fn a_start_on_a_full_disk_says_so() {
    let node = node();
    node.run_container("kept", &[], &[]);
    node.circuit(&["network", "connect", "kept", "ctr0"]).ok();
    node.kill_daemon();
    fill(&node);
    let arguments = node.server_arguments();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let told = error_of(node.circuit(&words));
    assert_names(&told, &[STATE, "No space left on device", "--state-dir"]);
    empty(&node);
    node.start_daemon();
    assert_exactly(&node, &[("kept", 1)]);
    node.remove_container("kept");
    node.assert_nothing_left();
}
