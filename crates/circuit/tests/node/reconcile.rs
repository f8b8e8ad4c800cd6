//! What should be and what is brought together again: after missed events,
//! restarts of the daemon and of containerd, and a reboot.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use circuit_testing::{NodeBuilder, PATIENCE, Plugins, Stops, TestNode, network, wait_until};

use crate::support::{NETWORK, RESTART, assert_exactly, create_ctr0, ips, names, run_containers};

crate::on_every_data_path!(
    the_daemon_was_away,
    containerd_comes_back,
    the_machine_reboots,
);

fn the_daemon_was_away(node: NodeBuilder) {
    let node = node.start();
    create_ctr0(&node);
    for name in ["stays", "exits", "removed", "byhand"] {
        let labels = [(NETWORK, "ctr0")];
        node.run_container(name, if name == "byhand" { &[] } else { &labels }, &[]);
    }
    node.circuit(&["network", "connect", "byhand", "ctr0"]).ok();
    assert_exactly(
        &node,
        &[("stays", 1), ("exits", 1), ("removed", 1), ("byhand", 1)],
    );
    let stays = node.addresses("stays");

    node.stop_daemon();
    node.run_container("starts", &[(NETWORK, "ctr0")], &[]);
    node.run_container("both", &[(NETWORK, "ctr0")], &["true"]);
    node.kill_task("exits");
    node.kill_task("byhand");
    node.remove_container("removed");
    // Its next task is another one; the old one's address must not stay.
    node.start_daemon();
    let wanted = [
        ("stays", 1),
        ("exits", 0),
        ("byhand", 0),
        ("starts", 1),
        ("both", 0),
    ];
    assert_exactly(&node, &wanted);
    assert_eq!(node.addresses("stays"), stays);

    node.kill_daemon();
    node.end_task("stays");
    node.start_task("stays");
    node.start_daemon();
    assert_exactly(&node, &wanted);
    for (name, _) in wanted {
        node.remove_container(name);
    }
    node.assert_nothing_left();
}

fn containerd_comes_back(node: NodeBuilder) {
    let node = node.start();
    create_ctr0(&node);
    node.run_container("stays", &[(NETWORK, "ctr0")], &[]);
    node.run_container("always", &[(NETWORK, "ctr0"), (RESTART, "always")], &[]);
    assert_exactly(&node, &[("stays", 1), ("always", 1)]);
    let stays = node.interfaces("stays");
    node.create_network("b", &network::bridge("b", "10.2.0.0/16"));
    let stop: [fn(&TestNode); 2] = [TestNode::stop_containerd, TestNode::kill_containerd];
    for stop in stop {
        let pid = node.task_pid("always").unwrap();
        stop(&node);
        // What is connected stays so, and is answered for without containerd.
        assert_eq!(ips(&node, "stays").len(), 1);
        // Long enough for what was heard of containerd to count as old.
        thread::sleep(Duration::from_millis(500));
        node.circuit(&["network", "connect", "stays", "b"]).ok();
        assert_eq!(ips(&node, "stays").len(), 2);
        node.circuit(&["network", "disconnect", "stays", "b"]).ok();
        node.start_containerd();
        node.kill_task("always");
        node.wait_for_new_task("always", pid);
        node.run_container("new", &[(NETWORK, "ctr0")], &[]);
        assert_exactly(&node, &[("stays", 1), ("always", 1), ("new", 1)]);
        node.remove_container("new");
        assert_exactly(&node, &[("stays", 1), ("always", 1)]);
        assert_eq!(node.interfaces("stays"), stays);
    }
}

fn the_machine_reboots(node: NodeBuilder) {
    let mut node = node.uplink().start();
    node.create_network("ctr0", &network::full("ctr0", "10.255.0.0/16"));
    node.create_network("b", &network::bridge("b", "10.2.0.0/16"));
    let ports = ("io.circuit.ports", "8081:80");
    node.run_container(
        "always",
        &[(NETWORK, "ctr0"), (RESTART, "always"), ports],
        &[],
    );
    node.run_container(
        "unless",
        &[(NETWORK, "ctr0"), (RESTART, "unless-stopped")],
        &[],
    );
    node.run_container(
        "stopped",
        &[(NETWORK, "ctr0"), (RESTART, "unless-stopped")],
        &[],
    );
    node.run_container("plain", &[(NETWORK, "ctr0")], &[]);
    node.run_container("byhand", &[], &[]);
    for name in ["always", "unless", "stopped", "plain"] {
        node.wait_for_addresses(name);
    }
    node.circuit(&["network", "connect", "byhand", "ctr0"]).ok();
    node.circuit(&["network", "connect", "always", "b"]).ok();
    node.circuit(&["container", "stop", "stopped"]).ok();
    let before = ips(&node, "always");

    for _ in 0..2 {
        node.reboot();
        node.start_daemon();
        node.wait_for_addresses("always");
        node.wait_for_addresses("unless");
        wait_until("only the living hold leases", PATIENCE, || {
            node.leases().len() == 3
        });
        assert_eq!(ips(&node, "always"), before);
        for name in ["plain", "byhand", "stopped"] {
            assert_eq!(node.task_pid(name), None, "{name}");
            assert!(ips(&node, name).is_empty(), "{name}");
        }
        assert_eq!(node.pins().len(), 2);
        assert_eq!(node.records().len(), 3);
        assert_eq!(node.veths().len(), 3);
        let published = node.publications();
        assert!(published[0].starts_with("tcp 8081 -> "), "{published:?}");
    }
    for name in ["always", "unless", "stopped", "plain", "byhand"] {
        node.remove_container(name);
    }
    node.assert_nothing_left();
}

#[test]
fn a_reboot_in_the_middle_of_everything_leaves_no_lease() {
    let mut node = crate::node().start();
    create_ctr0(&node);
    let all = names(6);
    run_containers(&node, &all, &[(NETWORK, "ctr0")]);
    // Some are connected by now, some half, some not.
    node.reboot();
    node.start_daemon();
    node.assert_nothing_left();
    node.run_container("new", &[(NETWORK, "ctr0")], &[]);
    assert_exactly(&node, &[("new", 1)]);
}

#[test]
fn containerd_goes_away_under_load() {
    let node = crate::node().start();
    create_ctr0(&node);
    let all = names(8);
    run_containers(&node, &all, &[]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for half in all.chunks(4) {
            let (node, over) = (&node, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    for name in half {
                        // Some of these fail: containerd is away.
                        let _ = node.circuit(&["network", "connect", name, "ctr0"]);
                        let _ = node.circuit(&["network", "disconnect", name, "ctr0"]);
                    }
                }
            });
        }
        let _stops = Stops(&over);
        for round in 0..3 {
            thread::sleep(Duration::from_millis(700));
            if round == 1 {
                node.stop_containerd();
            } else {
                node.kill_containerd();
            }
            thread::sleep(Duration::from_millis(300));
            node.start_containerd();
        }
    });
    for name in &all {
        let _ = node.circuit(&["network", "disconnect", name, "ctr0"]);
    }
    node.assert_nothing_left();
    for name in &all {
        node.circuit(&["network", "connect", name, "ctr0"]).ok();
    }
    let wanted: Vec<(&str, usize)> = all.iter().map(|name| (name.as_str(), 1)).collect();
    assert_exactly(&node, &wanted);
}

/// A bridge that takes its time, and tells when it has begun.
const SLOW: &str = "#!/bin/sh\n\
     case $CNI_COMMAND in ADD) touch /run/began; sleep 3 ;; esac\n\
     exec %STOCK%/bridge\n";

type End = fn(&TestNode) -> Option<i32>;

#[test]
fn signals_drain_and_leave_the_attachments_up() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.script_plugin("slow", SLOW);
    node.create_network(
        "slow",
        &network::by_plugin("slow", "slow0", "10.4.0.0/16")
            .replace("\"name\": \"slow0\"", "\"name\": \"slow\""),
    );
    node.run_container("label", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("label");
    let ends: [(End, &str, &str); 2] = [
        (TestNode::stop_daemon, "one", "10.4.0.2"),
        (TestNode::interrupt_daemon, "two", "10.4.0.3"),
    ];
    for (end, name, ip) in ends {
        node.run_container(name, &[], &[]);
        let (code, ran) = thread::scope(|scope| {
            let call = scope.spawn(|| node.circuit(&["network", "connect", name, "slow"]));
            wait_until("the plugin runs", PATIENCE, || {
                std::fs::remove_file(node.path("/run/began")).is_ok()
            });
            let code = end(&node);
            (code, call.join().expect("the command ends"))
        });
        assert_eq!(code, Some(0), "{}", node.daemon_log());
        assert_eq!(ran.ok(), format!("connected {name} to slow with ip={ip}\n"));
        assert_eq!(node.addresses(name), [format!("{ip}/16")]);
        assert_eq!(node.addresses("label"), ["10.255.0.2/16"]);
        node.start_daemon();
    }
    assert_exactly(&node, &[("label", 1), ("one", 1), ("two", 1)]);
}

#[test]
fn an_attachment_broken_by_hand_is_made_again() {
    let node = crate::node()
        .server(&["--reconcile-interval", "1s"])
        .start();
    create_ctr0(&node);
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("web");
    node.in_netns("web", &["ip", "link", "del", "eth0"]).ok();
    assert_eq!(node.wait_for_addresses("web"), ["10.255.0.2/16"]);
    assert_exactly(&node, &[("web", 1)]);
}

/// The last line, too, whose loss is no sign of a crash; its container is detached by
/// what others remember.
#[test]
fn a_last_record_that_cannot_be_read_is_told_of() {
    let node = crate::node().plugins(Plugins::None).start();
    node.create_network("ctr0", &network::full("ctr0", "10.255.0.0/16"));
    node.run_container("one", &[(NETWORK, "ctr0")], &[]);
    assert_exactly(&node, &[("one", 1)]);
    node.kill_daemon();
    let (journal, text) = crate::support::journal(&node);
    let (at, _) = text.rmatch_indices("\"one\"").next().unwrap();
    let header = text.lines().next().unwrap();
    let last = text[at..].replacen("one", "ono", 1);
    let begin = text[..at].rfind('\n').unwrap() + 1;
    let damaged = format!("{header}\n{}{last}", &text[begin..at]);
    std::fs::write(&journal, damaged).unwrap();
    node.start_daemon();
    wait_until("the log names it", PATIENCE, || {
        crate::support::logged(&node, &["ERROR", "line 2 of", "damaged.0"]) == 1
    });
    wait_until("it is known again", PATIENCE, || {
        ips(&node, "one").len() == 1
    });
    node.kill_task("one");
    node.assert_nothing_left();
}

#[test]
fn a_record_that_cannot_be_read_spoils_only_itself() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("one", &[(NETWORK, "ctr0")], &[]);
    node.run_container("two", &[(NETWORK, "ctr0")], &[]);
    assert_exactly(&node, &[("one", 1), ("two", 1)]);
    node.kill_daemon();
    let state = node.path("/var/lib/circuit/state");
    let journal = state.join("default.journal");
    let text = String::from_utf8(std::fs::read(&journal).unwrap()).unwrap();
    let damaged = text.replace("\"container\":\"one\"", "\"container\":\"ono\"");
    assert_ne!(text, damaged);
    std::fs::write(&journal, damaged).unwrap();
    node.start_daemon();
    wait_until("the log names it", PATIENCE, || {
        crate::support::logged(&node, &["ERROR", "line 2 of", "damaged.0"]) == 1
    });
    let kept = std::fs::read_to_string(state.join("default.damaged.0")).unwrap();
    assert!(kept.contains("\"ono\""), "the damaged journal is kept");
    assert_eq!(ips(&node, "two").len(), 1);
    node.run_container("three", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("three");
}
