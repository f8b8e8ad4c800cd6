//! Many containers at once, and dependencies that fail.

use std::{collections::BTreeSet, thread, time::Duration, time::Instant};

use circuit_testing::{PATIENCE, TestNode, network, wait_until};
use futures::StreamExt as _;

use crate::support::{
    Api, NETWORK, assert_exactly, assert_names, connect, create_ctr0, disconnect, error_of, ips,
    log_length, names, problems, remove_containers, run_containers,
};

#[test]
fn fifty_labelled_containers_at_once() {
    let node = crate::node().start();
    create_ctr0(&node);
    let all = names(50);
    run_containers(&node, &all, &[(NETWORK, "ctr0")]);
    let wanted: Vec<(&str, usize)> = all.iter().map(|name| (name.as_str(), 1)).collect();
    wait_until("all have a lease", PATIENCE * 2, || {
        node.leases().len() == all.len()
    });
    assert_exactly(&node, &wanted);
    let addresses: BTreeSet<String> = all
        .iter()
        .flat_map(|name| ips(&node, name))
        .map(|row| row[1].clone())
        .collect();
    assert_eq!(addresses.len(), all.len());
    remove_containers(&node, &all);
    node.assert_nothing_left();
    wait_until("nothing is remembered", PATIENCE, || {
        all.iter().all(|name| node.record(name).is_none())
    });
}

#[test]
fn sixteen_in_flight() {
    let node = crate::node().start();
    create_ctr0(&node);
    let all = names(40);
    run_containers(&node, &all, &[]);
    let api = Api::of(&node);
    for _ in 0..2 {
        let connected: Vec<_> = api.run(
            futures::stream::iter(&all)
                .map(|name| connect(api.circuit(), name, "ctr0"))
                .buffer_unordered(16)
                .collect(),
        );
        let ips: BTreeSet<String> = connected.into_iter().map(|c| c.unwrap().ip).collect();
        assert_eq!(ips.len(), all.len());
        assert_eq!(node.leases().len(), all.len());
        let disconnected: Vec<_> = api.run(
            futures::stream::iter(&all)
                .map(|name| disconnect(api.circuit(), name, "ctr0"))
                .buffer_unordered(16)
                .collect(),
        );
        for result in disconnected {
            result.unwrap();
        }
        node.assert_nothing_left();
    }
}

#[test]
fn one_container_many_networks_many_callers() {
    let node = crate::node().start();
    for number in 0..6 {
        let name = format!("n{number}");
        node.create_network(
            &name,
            &network::bridge(&name, &format!("10.{number}.0.0/16")),
        );
    }
    node.run_container("shell", &[], &[]);
    let api = Api::of(&node);
    for _ in 0..3 {
        let results = api.run(async {
            let calls = (0..6).map(|number| {
                let client = api.circuit();
                async move { connect(client, "shell", &format!("n{number}")).await }
            });
            futures::future::join_all(calls).await
        });
        let interfaces: BTreeSet<String> =
            results.into_iter().map(|r| r.unwrap().interface).collect();
        assert_eq!(interfaces.len(), 6);
        assert_exactly(&node, &[("shell", 6)]);
        let results = api.run(async {
            let calls = (0..6).map(|number| {
                let client = api.circuit();
                async move { disconnect(client, "shell", &format!("n{number}")).await }
            });
            futures::future::join_all(calls).await
        });
        for result in results {
            result.unwrap();
        }
        node.assert_nothing_left();
    }
}

#[test]
fn a_dependency_that_fails_is_no_flood() {
    let node = crate::node()
        .server(&["--reconcile-interval", "1s"])
        .start();
    create_ctr0(&node);
    let all = names(4);
    run_containers(&node, &all, &[(NETWORK, "ctr0")]);
    let wanted: Vec<(&str, usize)> = all.iter().map(|name| (name.as_str(), 1)).collect();
    assert_exactly(&node, &wanted);
    let before = log_length(&node);
    node.stop_containerd();
    thread::sleep(Duration::from_secs(10));
    let lines = log_length(&node) - before;
    assert!(
        (1..=8).contains(&lines),
        "{lines} lines:\n{}",
        node.daemon_log()
    );
    let busy = cpu_ticks(&node);
    thread::sleep(Duration::from_secs(1));
    let spent = cpu_ticks(&node) - busy;
    assert!(spent <= 30, "{spent} ticks of a second are a hot loop");
    node.start_containerd();
    wait_until("the log tells that it is back", PATIENCE, || {
        crate::support::logged(&node, &["containerd is back"]) == 1
    });
    assert_exactly(&node, &wanted);
}

/// The processor time that the daemon has used, in ticks of 10 ms.
fn cpu_ticks(node: &TestNode) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.daemon_pid())).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Answers VERSION and DEL; every other command hangs, in a child too.
const HANGS: &str = "#!/bin/sh\n\
     case $CNI_COMMAND in VERSION|DEL) exec %STOCK%/bridge ;; esac\n\
     echo waiting for nobody >&2\n\
     sleep 987654 &\n\
     sleep 987654\n";

#[test]
fn a_hanging_plugin_is_killed_in_time_and_holds_up_nobody() {
    let node = crate::node().server(&["--cni-timeout", "15s"]).start();
    create_ctr0(&node);
    node.script_plugin("hangs", HANGS);
    node.create_network(
        "stuck",
        &network::by_plugin("hangs", "stuck", "10.4.0.0/16"),
    );
    for name in ["victim", "other"] {
        node.run_container(name, &[], &[]);
    }
    thread::scope(|scope| {
        let start = Instant::now();
        let call = scope.spawn(|| node.circuit(&["network", "connect", "victim", "stuck"]));
        wait_until("the plugin hangs", PATIENCE, || sleepers(&node) > 0);
        node.circuit(&["network", "connect", "other", "ctr0"]).ok();
        node.run_container("bylabel", &[(NETWORK, "ctr0")], &[]);
        node.wait_for_addresses("bylabel");
        assert!(!call.is_finished(), "after {:?}", start.elapsed());
        let error = error_of(call.join().expect("the command ends"));
        assert_names(&error, &["hangs", "15", "waiting for nobody"]);
        assert!(start.elapsed() >= Duration::from_secs(15));
    });
    wait_until("its children are killed too", PATIENCE, || {
        sleepers(&node) == 0
    });
    assert_exactly(&node, &[("victim", 0), ("other", 1), ("bylabel", 1)]);

    // By label it is told, and tried again at growing intervals.
    node.run_container("labelled", &[(NETWORK, "stuck")], &[]);
    wait_until("the problem is told", PATIENCE, || {
        problems(&node, "labelled")
            .iter()
            .any(|(_, message)| message.contains("hangs"))
    });
    node.remove_container("labelled");
    assert_exactly(&node, &[("victim", 0), ("other", 1), ("bylabel", 1)]);
    wait_until("no plugin runs", PATIENCE, || sleepers(&node) == 0);
}

fn sleepers(node: &TestNode) -> usize {
    let all = node.run("ps", &["-e", "-o", "args"]).ok();
    all.lines().filter(|line| *line == "sleep 987654").count()
}
