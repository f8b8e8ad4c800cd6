//! `kill -9` of the daemon at any moment: the next one finishes or undoes what
//! was begun.

use std::{thread, time::Duration};

use circuit_testing::{NodeBuilder, PATIENCE, TestNode, network, wait_until};

use crate::plugins::{allowed, ending_in};
use crate::support::{NETWORK, RESTART, assert_exactly, create_ctr0, ips};

crate::on_every_data_path!(
    killed_while_connecting,
    killed_while_disconnecting,
    killed_while_restarting,
    killed_while_containers_come_and_go,
);

mod executables {
    use super::killed_while_a_plugin_runs;

    crate::on_both_plugins!(killed_while_a_plugin_runs);
}

/// From before the first system call to after the last one.
fn moments() -> impl Iterator<Item = Duration> {
    [0, 3, 6, 10, 15, 20, 26, 33, 40, 50, 65, 90]
        .into_iter()
        .map(Duration::from_millis)
}

fn killed_while_connecting(node: NodeBuilder) {
    let node = node.start();
    node.create_network("ctr0", &network::full("ctr0", "10.255.0.0/16"));
    node.run_container("shell", &[], &[]);
    for moment in moments() {
        let ran = thread::scope(|scope| {
            let call = scope.spawn(|| node.circuit(&["network", "connect", "shell", "ctr0"]));
            thread::sleep(moment);
            node.kill_daemon();
            call.join().expect("the command ends")
        });
        node.start_daemon();
        // Whoever was told "connected" is; otherwise it is all or nothing.
        wait_until("the attachment is whole or gone", PATIENCE, || {
            let wanted = ips(&node, "shell").len();
            (wanted == 1 || !ran.worked())
                && crate::support::disagreement(&node, &[("shell", wanted)]).is_none()
        });
        let _ = node.circuit(&["network", "disconnect", "shell", "ctr0"]);
        assert_eq!(node.interfaces("shell"), [], "after {moment:?}");
        node.assert_nothing_left();
    }
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    assert_exactly(&node, &[("shell", 1)]);
    node.remove_container("shell");
    node.assert_nothing_left();
}

fn killed_while_disconnecting(node: NodeBuilder) {
    let node = node.start();
    create_ctr0(&node);
    node.run_container("shell", &[], &[]);
    for moment in moments() {
        node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
        let ran = thread::scope(|scope| {
            let call = scope.spawn(|| node.circuit(&["network", "disconnect", "shell", "ctr0"]));
            thread::sleep(moment);
            node.kill_daemon();
            call.join().expect("the command ends")
        });
        node.start_daemon();
        wait_until("the attachment is whole or gone", PATIENCE, || {
            let wanted = ips(&node, "shell").len();
            (wanted == 0 || !ran.worked())
                && crate::support::disagreement(&node, &[("shell", wanted)]).is_none()
        });
        let _ = node.circuit(&["network", "disconnect", "shell", "ctr0"]);
        assert_eq!(node.interfaces("shell"), [], "after {moment:?}");
        node.assert_nothing_left();
    }
}

fn killed_while_restarting(node: NodeBuilder) {
    let node = node.start();
    create_ctr0(&node);
    node.run_container("web", &[(NETWORK, "ctr0"), (RESTART, "always")], &[]);
    node.wait_for_addresses("web");
    for moment in moments() {
        // The first delay of a restart is 100 ms.
        let moment = moment * 4;
        node.kill_task("web");
        thread::sleep(moment);
        node.kill_daemon();
        node.start_daemon();
        wait_until("web runs again", PATIENCE, || {
            node.task_pid("web").is_some()
        });
        assert_exactly(&node, &[("web", 1)]);
    }
    node.remove_container("web");
    node.assert_nothing_left();
}

fn killed_while_containers_come_and_go(node: NodeBuilder) {
    let node = node.start();
    create_ctr0(&node);
    node.run_container("stays", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("stays");
    for (round, moment) in moments().enumerate() {
        let (old, new) = (format!("c{round}"), format!("c{}", round + 1));
        thread::scope(|scope| {
            scope.spawn(|| {
                node.run_container(&new, &[(NETWORK, "ctr0")], &[]);
                if round > 0 {
                    node.remove_container(&old);
                }
            });
            thread::sleep(moment * 5);
            node.kill_daemon();
        });
        node.start_daemon();
        assert_exactly(&node, &[("stays", 1), (&new, 1)]);
    }
}

/// What was asked for is done, by the next daemon.
#[test]
fn killed_while_a_restart_by_hand_waits() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("web", &[(NETWORK, "ctr0")], &["sleep", "1000"]);
    let before = node.wait_for_addresses("web");
    for ends_by_itself in [true, false] {
        let pid = node.task_pid("web").unwrap();
        thread::scope(|scope| {
            // It hears no SIGTERM.
            let call = scope.spawn(|| node.circuit(&["container", "restart", "-t", "60s", "web"]));
            wait_until("it is written down", PATIENCE, || {
                let record = node.record("web");
                record.is_some_and(|it| it["restart"]["restarting"] == true)
            });
            node.kill_daemon();
            assert!(!call.join().expect("the command ends").worked());
        });
        if ends_by_itself {
            node.end_task("web");
        }
        node.start_daemon();
        node.wait_for_new_task("web", pid);
        assert_eq!(node.wait_for_addresses("web"), before);
        assert_exactly(&node, &[("web", 1)]);
    }
    let record = node.record("web").unwrap();
    assert!(record["restart"].get("restarting").is_none(), "{record}");
}

/// How a task ended is known after its restart was cut off, too.
#[test]
fn killed_while_restarting_what_failed() {
    let node = crate::node().start();
    create_ctr0(&node);
    let labels = [(NETWORK, "ctr0"), (RESTART, "on-failure")];
    node.run_container("web", &labels, &[]);
    node.wait_for_addresses("web");
    for moment in moments() {
        node.kill_task("web");
        thread::sleep(moment * 4);
        node.kill_daemon();
        node.start_daemon();
        wait_until("web runs again", PATIENCE, || {
            node.task_pid("web").is_some()
        });
        assert_exactly(&node, &[("web", 1)]);
    }
    // As it is between the end of one task and the making of the next.
    node.kill_daemon();
    node.end_task("web");
    crate::support::change_record(&node, "web", |record| {
        record["restart"]["launching"] = true.into();
    });
    node.start_daemon();
    wait_until("web runs again", PATIENCE, || {
        node.task_pid("web").is_some()
    });
    assert_exactly(&node, &[("web", 1)]);
}

/// A bridge whose commands begin, sleep, and only then do their work; all of
/// that goes on when the daemon is killed.
const SLOW: &str = "#!/bin/sh\n\
     case $CNI_COMMAND in ADD|DEL)\n\
     input=$(cat); touch /run/began; sleep 1\n\
     printf %s \"$input\" | %STOCK%/bridge; exit ;; esac\n\
     exec %STOCK%/bridge\n";

/// Kills the daemon while a plugin runs, and starts the next one at once.
fn kill_in_a_plugin(node: &TestNode) {
    wait_until("a plugin runs", PATIENCE, || {
        std::fs::remove_file(node.path("/run/began")).is_ok()
    });
    node.kill_daemon();
    node.start_daemon();
}

fn killed_while_a_plugin_runs(node: NodeBuilder) {
    let node = node.start();
    node.script_plugin("slow", SLOW);
    node.create_network("slow", &network::by_plugin("slow", "slow", "10.4.0.0/16"));
    // An ADD and the DEL that follows a disconnect, by hand.
    node.run_container("byhand", &[], &[]);
    thread::scope(|scope| {
        scope.spawn(|| node.circuit(&["network", "connect", "byhand", "slow"]));
        kill_in_a_plugin(&node);
    });
    wait_until("the attachment is whole or gone", PATIENCE, || {
        let wanted = ips(&node, "byhand").len();
        crate::support::disagreement(&node, &[("byhand", wanted)]).is_none()
    });
    node.circuit(&["network", "connect", "byhand", "slow"]).ok();
    assert_exactly(&node, &[("byhand", 1)]);
    let _ = std::fs::remove_file(node.path("/run/began"));
    thread::scope(|scope| {
        scope.spawn(|| node.circuit(&["network", "disconnect", "byhand", "slow"]));
        kill_in_a_plugin(&node);
    });
    node.assert_nothing_left();

    // An ADD by label, and the DEL of an exit: both must come to their end.
    node.run_container("bylabel", &[(NETWORK, "slow")], &[]);
    kill_in_a_plugin(&node);
    assert_exactly(&node, &[("bylabel", 1)]);
    let _ = std::fs::remove_file(node.path("/run/began"));
    node.kill_task("bylabel");
    kill_in_a_plugin(&node);
    node.assert_nothing_left();
}

/// Comes to no end when it is called for the first time.
const STUCK: &str = "#!/bin/sh\n\
     [ $CNI_COMMAND != ADD ] || [ -e /run/began ] || { touch /run/began; exec sleep 60; }\n\
     exec %STOCK%/tuning\n";

#[test]
fn killed_at_the_end_of_a_chain_of_executables() {
    killed_at_the_end_of_a_chain("exec");
}

#[test]
fn killed_at_the_end_of_a_chain_of_drivers() {
    killed_at_the_end_of_a_chain("auto");
}

fn killed_at_the_end_of_a_chain(data_path: &str) {
    let node = ending_in("stuck", STUCK, data_path);
    node.run_container("shell", &[], &[]);
    thread::scope(|scope| {
        scope.spawn(|| node.circuit(&["network", "connect", "shell", "ctr0"]));
        wait_until("the last plugin runs", PATIENCE, || {
            node.path("/run/began").exists()
        });
        assert!(allowed(&node, "10.9.0.2"));
        assert_eq!(node.executed() == 0, data_path == "auto");
        let record = node.record("shell").unwrap();
        assert_eq!(record["attachments"][0]["phase"], "attaching", "{record}");
        node.kill_daemon();
    });
    node.run("pkill", &["sleep"]).ok();
    node.start_daemon();
    // What was wished stays wished.
    wait_until("it is connected anew", PATIENCE, || {
        ips(&node, "shell")
            .iter()
            .any(|[_, ip, _]| ip == "10.9.0.3")
    });
    assert!(!allowed(&node, "10.9.0.2"));
    assert_eq!(node.leases(), ["ctr0/10.9.0.3"]);
    node.circuit(&["network", "disconnect", "shell", "ctr0"])
        .ok();
    node.assert_nothing_left();
}
