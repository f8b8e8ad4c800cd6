//! What is still owed when a container's next task comes: it is done first, and nothing of
//! a task that was made is forgotten.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use circuit_testing::{PATIENCE, TestNode, network, wait_until};
use serde_json::json;

use crate::support::{NETWORK, RESTART, assert_exactly, create_ctr0, ips};

/// Notes each ADD and DEL; DEL fails while there is a file.
const FAILING: &str = "#!/bin/sh\n\
     case $CNI_COMMAND in ADD|DEL)\n\
     if [ $CNI_COMMAND = DEL ] && [ -e /run/failing ]; then\n\
     echo failed >>/run/calls; echo '{\"code\": 11, \"msg\": \"not now\"}'; exit 1; fi\n\
     echo $CNI_COMMAND >>/run/calls ;; esac\n\
     exec %STOCK%/tuning\n";

/// Waits in ADD for as long as there is a file.
const WAITING: &str = "#!/bin/sh\n\
     if [ $CNI_COMMAND = ADD ]; then touch /run/began; while [ -e /run/wait ]; do sleep 0.1; done; fi\n\
     exec %STOCK%/tuning\n";

/// How often it was told that a container was disconnected.
fn told_of_ends(node: &TestNode, container: &str) -> usize {
    let program = node.program();
    let kind = [
        "events",
        "--last",
        "100",
        "--kind",
        "container.disconnected",
    ];
    let arguments = [&["2", program.as_str()], &kind[..]].concat();
    // It goes on until it is ended.
    let told = node.run("timeout", &arguments).stdout;
    told.lines().filter(|line| line.contains(container)).count()
}

/// A node whose network `ctr0` ends in that plugin.
fn node_with(script: &str) -> TestNode {
    let node = crate::node().start();
    node.script_plugin("last", script);
    let mut list: serde_json::Value =
        serde_json::from_str(&network::bridge("ctr0", "10.9.0.0/16")).unwrap();
    let plugins = list["plugins"].as_array_mut().unwrap();
    plugins.push(json!({"type": "last"}));
    node.create_network("ctr0", &list.to_string());
    node
}

fn touch(node: &TestNode, file: &str) {
    fs::write(node.path(file), "").unwrap();
}

fn calls(node: &TestNode) -> Vec<String> {
    let calls = fs::read_to_string(node.path("/run/calls")).unwrap_or_default();
    calls.lines().map(str::to_owned).collect()
}

#[test]
fn the_next_task_joins_after_what_the_former_one_owes() {
    let node = node_with(FAILING);
    let labels = [(NETWORK, "ctr0"), (RESTART, "always")];
    node.run_container("web", &labels, &[]);
    assert_exactly(&node, &[("web", 1)]);
    let first = node.task_pid("web").unwrap();
    touch(&node, "/run/failing");
    node.kill_task("web");
    node.wait_for_new_task("web", first);
    wait_until("its end is tried again", PATIENCE, || {
        calls(&node).iter().filter(|call| *call == "failed").count() > 2
    });
    // What the former task had is not forgotten for the new one's sake.
    assert!(!calls(&node)[1..].contains(&"ADD".to_owned()));
    assert_eq!(ips(&node, "web").len(), 0);
    fs::remove_file(node.path("/run/failing")).unwrap();
    assert_exactly(&node, &[("web", 1)]);
    let mut done = calls(&node);
    done.retain(|call| call != "failed");
    assert_eq!(done, ["ADD", "DEL", "ADD"]);
    assert_eq!(told_of_ends(&node, "web"), 1);
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn a_task_that_was_made_is_started_when_containerd_is_back() {
    let node = node_with(WAITING);
    for (name, labels) in [
        ("policy", &[(NETWORK, "ctr0"), (RESTART, "always")][..]),
        ("byhand", &[(NETWORK, "ctr0")]),
    ] {
        node.run_container(name, labels, &[]);
        assert_exactly(&node, &[(name, 1)]);
        let first = node.task_pid(name).unwrap();
        if name == "byhand" {
            node.circuit(&["container", "stop", name]).ok();
        }
        fs::remove_file(node.path("/run/began")).unwrap();
        touch(&node, "/run/wait");
        thread::scope(|scope| {
            let start = || node.circuit(&["container", "start", name]);
            match name {
                "byhand" => drop(scope.spawn(start)),
                _ => node.kill_task(name),
            }
            wait_until("its task is being connected", PATIENCE, || {
                node.path("/run/began").exists()
            });
            node.kill_containerd();
            fs::remove_file(node.path("/run/wait")).unwrap();
        });
        node.start_containerd();
        wait_until("its process runs", PATIENCE, || {
            let tasks = node.ctr(&["tasks", "ls"]).ok();
            let task = tasks.lines().find(|line| line.starts_with(name));
            task.is_some_and(|task| task.contains("RUNNING"))
        });
        assert_ne!(node.task_pid(name), Some(first));
        assert_exactly(&node, &[(name, 1)]);
        node.remove_container(name);
        node.assert_nothing_left();
    }
}

#[test]
fn a_disconnect_holds_though_containerd_cannot_be_asked() {
    let node = crate::node()
        .server(&["--reconcile-interval", "1s"])
        .start();
    create_ctr0(&node);
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    assert_exactly(&node, &[("web", 1)]);
    node.stop_containerd();
    // One that knows nothing of the task but what is on record.
    node.kill_daemon();
    node.start_daemon();
    node.circuit(&["network", "disconnect", "web", "ctr0"]).ok();
    node.start_containerd();
    node.run_container("later", &[(NETWORK, "ctr0")], &[]);
    assert_exactly(&node, &[("later", 1)]);
    // Several passes look at both.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(node.interfaces("web"), []);
    assert_eq!(ips(&node, "web").len(), 0);
}

#[test]
fn a_restart_by_hand_waits_over_a_restart_of_containerd() {
    let node = crate::node().start();
    // Ends a while after it was asked to.
    let script = "trap 'sleep 13; exit 0' TERM; while :; do sleep 0.1; done";
    node.run_container_with(&[], "web", &[], &["sh", "-c", script]);
    let first = node.task_pid("web").unwrap();
    let restart = ["container", "restart", "--timeout", "60s", "web"];
    let (begun, restarted) = thread::scope(|scope| {
        let begun = Instant::now();
        let asked = scope.spawn(|| node.circuit(&restart));
        thread::sleep(Duration::from_secs(1));
        node.stop_containerd();
        node.start_containerd();
        (begun, asked.join().unwrap())
    });
    restarted.ok();
    // Nobody has killed it before its time.
    assert!(begun.elapsed() > Duration::from_secs(12));
    assert_ne!(node.task_pid("web"), Some(first));
}
