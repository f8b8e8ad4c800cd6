//! What the runtime or the machine cannot tell at a moment: nothing is taken from
//! containers for that, and everything is followed again afterwards.

use std::{fs, process::Command, thread, time::Duration};

use circuit_testing::{PATIENCE, TestNode, network, wait_until};
use serde_json::{Value, json};

use crate::support::{NETWORK, RESTART, assert_exactly, create_ctr0, error_of, ips, logged};

/// A node that looks at everything once a second, and tells of it.
fn watched() -> TestNode {
    let often = ["--reconcile-interval", "1s", "--metrics", "127.0.0.1:9464"];
    crate::node().server(&often).start()
}

/// How many looks at containers there were.
fn looks(node: &TestNode) -> f64 {
    let url = "http://127.0.0.1:9464/metrics";
    let page = node.run("curl", &["-sf", url]).ok();
    let line = page
        .lines()
        .find(|line| line.starts_with("circuit_reconcile_looks_total{outcome=\"success\"}"))
        .or_else(|| {
            page.lines()
                .find(|line| line.starts_with("circuit_reconcile_looks_total"))
        });
    let value = line.and_then(|line| line.rsplit_once(' '));
    value
        .unwrap_or_else(|| panic!("no looks in\n{page}"))
        .1
        .parse()
        .unwrap()
}

/// The interface with its number: another one would have another.
fn index(node: &TestNode, container: &str) -> String {
    let told = node
        .in_netns(container, &["ip", "-o", "link", "show", "eth0"])
        .ok();
    let (index, _) = told.split_once(" <").unwrap();
    index.to_owned()
}

/// A shim that does not answer is no task that has ended.
#[test]
fn a_shim_that_hangs_costs_nothing() {
    let node = watched();
    create_ctr0(&node);
    let labels = [(NETWORK, "ctr0"), (RESTART, "always")];
    node.run_container("web", &labels, &[]);
    node.run_container("other", &[(NETWORK, "ctr0")], &[]);
    assert_exactly(&node, &[("web", 1), ("other", 1)]);
    let (before, pid) = (index(&node, "web"), node.task_pid("web").unwrap());
    let status = node.run("cat", &[&format!("/proc/{pid}/status")]).ok();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let shim = parent.unwrap().trim().to_owned();
    let name = node.run("cat", &[&format!("/proc/{shim}/comm")]).ok();
    assert!(name.starts_with("containerd-shim"), "{name}");
    node.run("kill", &["-STOP", &shim]).ok();
    wait_until("it is told of", PATIENCE, || {
        logged(&node, &["WARN", "web", "its shim does not answer"]) > 0
    });
    let stop = ["container", "stop", "web"];
    let told = error_of(node.circuit(&stop));
    assert!(told.contains("its shim does not answer"), "{told}");
    let shown: Value = {
        let printed = node.circuit(&["ps", "--format", "json"]).ok();
        serde_json::from_str(&printed).unwrap()
    };
    let containers = shown["containers"].as_array().unwrap();
    let web = containers.iter().find(|it| it["id"] == "web").unwrap();
    assert_eq!(web["state"], "unknown", "{web}");
    node.run("kill", &["-CONT", &shim]).ok();
    wait_until("it answers again", PATIENCE, || {
        node.task_pid("web") == Some(pid)
    });
    assert_eq!(index(&node, "web"), before, "it was connected anew");
    assert_exactly(&node, &[("web", 1), ("other", 1)]);
}

/// Without descriptors nobody knows what is there.
#[test]
fn without_descriptors_attachments_stay() {
    let node = watched();
    node.create_network("ctr0", &network::full("ctr0", "10.255.0.0/16"));
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    assert_exactly(&node, &[("web", 1)]);
    let before = index(&node, "web");
    let daemon = node.daemon_pid().to_string();
    let limits = fs::read_to_string(format!("/proc/{daemon}/limits")).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut numbers = files.unwrap().split_whitespace().skip(3);
    let [soft, hard] = [numbers.next(), numbers.next()].map(Option::unwrap);
    let most = hard.parse::<u64>().map_or(65_536, |hard| hard.min(65_536));
    assert_eq!(soft.parse(), Ok(most), "{limits}");
    let limit = |files: &str| {
        let arguments = ["--pid", &daemon, &format!("--nofile={files}")];
        let ended = Command::new("prlimit").args(arguments).status();
        assert!(ended.unwrap().success());
    };
    limit(&format!("3:{hard}"));
    thread::sleep(Duration::from_secs(4));
    limit(&format!("{soft}:{hard}"));
    // Several passes later.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(index(&node, "web"), before, "it was connected anew");
    assert_exactly(&node, &[("web", 1)]);
    // It watches again, too.
    let rules = node.native_rules();
    assert!(!rules.is_empty());
    node.run("nft", &["flush", "ruleset"]).ok();
    wait_until("the rules are back", PATIENCE, || {
        node.native_rules() == rules
    });
    node.remove_container("web");
    node.assert_nothing_left();
}

/// All records together are longer than a message of gRPC may be.
#[test]
fn containers_with_long_specifications_are_followed() {
    let node = watched();
    create_ctr0(&node);
    let long = "x".repeat(1 << 20);
    for number in 0..5 {
        let spec = json!({"ociVersion": "1.0.2", "process": {"args": ["true"], "cwd": "/"},
            "root": {"path": "/"}, "annotations": {"long": long}});
        let file = node.file("spec.json", spec.to_string());
        let name = format!("long-{number}");
        node.ctr(&["container", "create", "--config", &file, &name])
            .ok();
    }
    node.run_container("web", &[(NETWORK, "ctr0"), (RESTART, "always")], &[]);
    let before = node.wait_for_addresses("web");
    let pid = node.task_pid("web").unwrap();
    node.kill_task("web");
    node.wait_for_new_task("web", pid);
    assert_eq!(node.wait_for_addresses("web"), before);
    let shown = node.circuit(&["ps", "--all"]).ok();
    assert!(shown.contains("long-4") && shown.contains("web"), "{shown}");
}

#[test]
fn those_that_are_gone_are_not_looked_at_any_more() {
    let node = watched();
    create_ctr0(&node);
    for number in 0..5 {
        let name = format!("gone-{number}");
        node.run_container(&name, &[(NETWORK, "ctr0")], &[]);
        node.wait_for_addresses(&name);
        node.remove_container(&name);
    }
    node.assert_nothing_left();
    // What a pass has begun comes to its end.
    wait_until("nothing is looked at", PATIENCE, || {
        let before = looks(&node);
        thread::sleep(Duration::from_secs(3));
        looks(&node) == before
    });
}

/// One with the same id is another container.
#[test]
fn what_is_made_anew_has_no_wishes() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.create_network("more", &network::bridge("more", "10.77.0.0/16"));
    node.run_container("web", &[], &[]);
    node.run_container("idle", &[(RESTART, "always")], &[]);
    node.circuit(&["network", "connect", "web", "ctr0"]).ok();
    node.circuit(&["container", "stop", "idle"]).ok();
    node.stop_daemon();
    for name in ["web", "idle"] {
        node.remove_container(name);
    }
    node.run_container("web", &[], &[]);
    node.create_container("idle", &[(RESTART, "always")], &[]);
    node.start_daemon();
    wait_until("it is told of", PATIENCE, || {
        logged(&node, &["INFO", "container web was made anew"]) == 1
    });
    assert_exactly(&node, &[("web", 0)]);
    node.assert_nothing_left();
    // A stop by hand was the other one's, too.
    wait_until("its policy holds", PATIENCE, || {
        node.task_pid("idle").is_some()
    });
    // Also when the first to hear of it is a command.
    node.circuit(&["network", "connect", "web", "ctr0"]).ok();
    node.kill_daemon();
    node.remove_container("web");
    node.run_container("web", &[], &[]);
    node.start_daemon();
    node.circuit(&["network", "connect", "web", "more"]).ok();
    let networks: Vec<String> = ips(&node, "web").into_iter().map(|[it, ..]| it).collect();
    assert_eq!(networks, ["more"]);
    assert_exactly(&node, &[("web", 1)]);
}

/// A namespace may be called as the journal beside its own is.
#[test]
fn every_namespace_can_be_served() {
    let node = crate::node().without_daemon().start();
    node.start_daemon_with(&["--containerd-namespace", "ipam"]);
    create_ctr0(&node);
    assert!(node.daemon_runs());
    node.kill_daemon();
    node.start_daemon_with(&["--containerd-namespace", "ipam"]);
    assert!(node.circuit(&["network", "ls"]).ok().contains("ctr0"));
}
