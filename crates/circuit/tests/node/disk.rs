//! A disk that is full.

use circuit_testing::{Lan, NodeBuilder, PATIENCE, TestNode, wait_until};

use crate::support::{assert_exactly, assert_names, create_ctr0, error_of, json, logged, member};

const STATE: &str = "/var/lib/circuit/state";

/// A node whose records are on a disk of three megabytes.
fn node() -> TestNode {
    on_small_disk(crate::node())
}

fn on_small_disk(node: NodeBuilder) -> TestNode {
    let node = node.without_daemon().start();
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
fn a_start_on_a_full_disk_goes_on_with_what_is_there() {
    let node = node();
    for name in ["one", "two"] {
        node.run_container(name, &[], &[]);
        node.circuit(&["network", "connect", name, "ctr0"]).ok();
    }
    node.kill_daemon();
    fill(&node);
    for start in 1..=2 {
        node.start_daemon();
        let told = [
            "ERROR No space left on device",
            "for as long as its room lasts",
        ];
        // It listens before it has read its journal, and answers afterwards.
        assert_exactly(&node, &[("one", 1), ("two", 1)]);
        assert_eq!(logged(&node, &told), start, "{}", node.daemon_log());
        node.circuit(&["network", "disconnect", "one", "ctr0"]).ok();
        node.circuit(&["network", "connect", "one", "ctr0"]).ok();
        node.kill_daemon();
    }
    empty(&node);
    node.start_daemon();
    assert_exactly(&node, &[("one", 1), ("two", 1)]);
    for name in ["one", "two"] {
        node.remove_container(name);
    }
    node.assert_nothing_left();
}

#[test]
fn a_member_of_a_cluster_starts_on_a_full_disk() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let node = on_small_disk(member(&lan, "node0", 15));
    node.run_container("one", &[], &[]);
    node.circuit(&["network", "connect", "one", "ctr0"]).ok();
    node.kill_daemon();
    fill(&node);
    // Each time while the lease of the life before still holds.
    for _ in 0..2 {
        node.start_daemon();
        assert_exactly(&node, &[("one", 1)]);
        wait_until("it is in its place", PATIENCE, || {
            let status = json(&node, &["cluster", "status"]);
            status["connected"] == true && status["failure"] == ""
        });
        node.kill_daemon();
    }
    empty(&node);
    node.start_daemon();
    node.remove_container("one");
    node.assert_nothing_left();
}

#[test]
fn a_first_start_on_a_full_disk_says_so() {
    let node = node();
    node.kill_daemon();
    fill(&node);
    node.run("rm", &[&format!("{STATE}/default.journal")]).ok();
    node.run("sh", &["-c", &format!("cat /dev/zero >> {STATE}/ballast")]);
    let arguments = node.server_arguments();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let told = error_of(node.circuit(&words));
    assert_names(&told, &[STATE, "No space left on device", "--state-dir"]);
    empty(&node);
    node.start_daemon();
    node.run_container("web", &[], &[]);
    node.circuit(&["network", "connect", "web", "ctr0"]).ok();
    node.remove_container("web");
    node.assert_nothing_left();
}
