//! Containers that come back, connected.

use std::fs;

use circuit_testing::{NodeBuilder, PATIENCE, network, wait_until};

use crate::support::{NETWORK, RESTART, assert_exactly, create_ctr0, ips};

crate::on_every_data_path!(
    every_old_value_means_always,
    the_address_and_the_ports_are_kept,
    a_network_joined_by_hand_is_joined_again,
    a_host_of_the_lan_keeps_its_addresses,
);

fn every_old_value_means_always(node: NodeBuilder) {
    let node = node.start();
    create_ctr0(&node);
    // containerd drops a label without a value, so "present" is any value.
    for (name, value) in [
        ("a", "true"),
        ("b", "always"),
        ("c", "1"),
        ("d", "unless-stopped"),
    ] {
        node.run_container(name, &[(NETWORK, "ctr0"), (RESTART, value)], &[]);
        let before = node.wait_for_addresses(name);
        let pid = node.task_pid(name).unwrap();
        node.kill_task(name);
        node.wait_for_new_task(name, pid);
        assert_eq!(node.wait_for_addresses(name), before, "{value}");
    }
    assert_exactly(&node, &[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
    for name in ["a", "b", "c", "d"] {
        node.remove_container(name);
    }
    node.assert_nothing_left();
}

fn the_address_and_the_ports_are_kept(node: NodeBuilder) {
    let node = node.start();
    node.create_network("a", &network::full("a", "10.1.0.0/16"));
    let labels = [
        (NETWORK, "a"),
        (RESTART, "always"),
        ("io.circuit.ports", "8081:80"),
    ];
    node.run_container("other", &[(NETWORK, "a")], &[]);
    node.wait_for_addresses("other");
    node.run_container("web", &labels, &[]);
    let before = node.wait_for_addresses("web");
    node.remove_container("other");
    let mut pid = node.task_pid("web").unwrap();
    for _ in 0..3 {
        node.kill_task("web");
        pid = node.wait_for_new_task("web", pid);
        assert_eq!(node.wait_for_addresses("web"), before);
        let published = node.publications();
        let leading = published.iter().filter(|one| one.starts_with("tcp 8081 "));
        assert_eq!(leading.count(), 1, "{published:?}");
    }
    node.remove_container("web");
    node.assert_nothing_left();
}

fn a_host_of_the_lan_keeps_its_addresses(node: NodeBuilder) {
    let node = node.uplink().start();
    // It declares no capability, nor does one that is written by hand.
    node.create_network("lan", &network::macvlan("lan", "up0", "203.0.113.0/24"));
    let hardware = |container: &str| {
        let interfaces = node.interfaces(container).into_iter();
        let macs: Vec<String> = interfaces.map(|interface| interface.mac).collect();
        macs.join(" ")
    };
    node.run_container("other", &[(NETWORK, "lan")], &[]);
    node.wait_for_addresses("other");
    node.run_container("web", &[(NETWORK, "lan"), (RESTART, "always")], &[]);
    let before = (node.wait_for_addresses("web"), hardware("web"));
    // With the lowest address free, only who asks for the former one gets that.
    node.remove_container("other");
    let mut pid = node.task_pid("web").unwrap();
    for _ in 0..2 {
        node.kill_task("web");
        pid = node.wait_for_new_task("web", pid);
        assert_eq!((node.wait_for_addresses("web"), hardware("web")), before);
    }
    let wanted = "02:00:00:00:00:77";
    node.run_container("asks", &[], &[]);
    node.circuit(&["network", "connect", "asks", "lan", "--mac", wanted])
        .ok();
    assert_eq!(hardware("asks"), wanted);
    for container in ["web", "asks"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

fn a_network_joined_by_hand_is_joined_again(node: NodeBuilder) {
    let node = node.start();
    create_ctr0(&node);
    node.create_network("b", &network::bridge("b", "10.2.0.0/16"));
    node.run_container("web", &[(NETWORK, "ctr0"), (RESTART, "always")], &[]);
    node.wait_for_addresses("web");
    node.circuit(&["network", "connect", "web", "b"]).ok();
    let before = ips(&node, "web");
    assert_eq!(before.len(), 2);
    let pid = node.task_pid("web").unwrap();
    node.kill_task("web");
    node.wait_for_new_task("web", pid);
    assert_exactly(&node, &[("web", 2)]);
    assert_eq!(ips(&node, "web"), before);

    // Left by hand, it is not joined again.
    node.circuit(&["network", "disconnect", "web", "b"]).ok();
    let pid = node.task_pid("web").unwrap();
    node.kill_task("web");
    node.wait_for_new_task("web", pid);
    assert_exactly(&node, &[("web", 1)]);
}

#[test]
fn the_network_is_there_before_the_process_runs() {
    let node = crate::node().start();
    create_ctr0(&node);
    let out = node.file("out", "");
    let labels = [
        (NETWORK, "ctr0"),
        (RESTART, "always"),
        ("io.circuit.restart.log", &format!("file://{out}")),
    ];
    let command = ["sh", "-c", "ip -4 -o addr show eth0; exec sleep 1000"];
    node.run_container("web", &labels, &command);
    node.wait_for_addresses("web");
    let mut pid = node.task_pid("web").unwrap();
    for round in 1..=3 {
        node.kill_task("web");
        pid = node.wait_for_new_task("web", pid);
        wait_until("the process has told", PATIENCE, || {
            let told = fs::read_to_string(&out).unwrap();
            told.matches("10.255.0.2/16").count() == round
        });
    }
}

#[test]
fn the_output_goes_to_the_log() {
    let node = crate::node().start();
    let out = node.file("out", "");
    let labels = [
        (RESTART, "always"),
        ("io.circuit.restart.log", &format!("file://{out}")),
    ];
    let command = [
        "sh",
        "-c",
        "echo to stdout; echo to stderr >&2; exec sleep 1000",
    ];
    node.run_container("web", &labels, &command);
    let pid = node.task_pid("web").unwrap();
    node.kill_task("web");
    node.wait_for_new_task("web", pid);
    wait_until("both streams are in the file", PATIENCE, || {
        let told = fs::read_to_string(&out).unwrap();
        told.contains("to stdout\n") && told.contains("to stderr\n")
    });
}

#[test]
fn an_exit_while_the_daemon_is_away_is_made_good() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("always", &[(NETWORK, "ctr0"), (RESTART, "always")], &[]);
    node.run_container("never", &[(NETWORK, "ctr0")], &[]);
    let before = node.wait_for_addresses("always");
    node.wait_for_addresses("never");
    let pid = node.task_pid("always").unwrap();
    node.stop_daemon();
    node.kill_task("always");
    node.kill_task("never");
    node.start_daemon();
    node.wait_for_new_task("always", pid);
    assert_eq!(node.wait_for_addresses("always"), before);
    assert_exactly(&node, &[("always", 1), ("never", 0)]);
    assert_eq!(node.task_pid("never"), None);

    // Also when the task itself was deleted meanwhile.
    node.kill_daemon();
    let pid = node.task_pid("always").unwrap();
    node.end_task("always");
    node.start_daemon();
    node.wait_for_new_task("always", pid);
    assert_exactly(&node, &[("always", 1), ("never", 0)]);
}

#[test]
fn an_execd_process_that_ends_restarts_nothing() {
    let node = crate::node().start();
    node.run_container("web", &[(RESTART, "always")], &[]);
    let pid = node.task_pid("web").unwrap();
    for _ in 0..3 {
        node.exec("web", &["false"]).fails(1);
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(node.task_pid("web"), Some(pid));
}

#[test]
fn a_container_with_a_terminal_comes_back() {
    let node = crate::node().start();
    create_ctr0(&node);
    let out = node.file("out", "");
    let log = format!("file://{out}");
    let command = [
        "sh",
        "-c",
        "test -t 0 && echo on a terminal; exec sleep 1000",
    ];
    let labels = [(NETWORK, "ctr0"), (RESTART, "always")];
    node.create_container_with(&["--tty"], "quiet", &labels, &command);
    let logged = [labels[0], labels[1], ("io.circuit.restart.log", &log)];
    node.create_container_with(&["--tty"], "logged", &logged, &command);
    for name in ["quiet", "logged"] {
        node.circuit(&["container", "start", name]).ok();
        node.wait_for_addresses(name);
        let pid = node.task_pid(name).unwrap();
        node.kill_task(name);
        node.wait_for_new_task(name, pid);
        node.wait_for_addresses(name);
    }
    assert_exactly(&node, &[("quiet", 1), ("logged", 1)]);
    wait_until("the terminal's output is in the file", PATIENCE, || {
        fs::read_to_string(&out).unwrap().contains("on a terminal")
    });
}

#[test]
fn a_created_container_is_started_by_its_policy() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.create_container("web", &[(NETWORK, "ctr0"), (RESTART, "always")], &[]);
    node.create_container("idle", &[(NETWORK, "ctr0"), (RESTART, "on-failure")], &[]);
    node.wait_for_addresses("web");
    assert_eq!(node.task("idle"), None);
}

#[test]
fn a_removed_container_stays_removed() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("web", &[(NETWORK, "ctr0"), (RESTART, "always")], &[]);
    node.wait_for_addresses("web");
    node.remove_container("web");
    node.assert_nothing_left();
    wait_until("nothing is remembered", PATIENCE, || {
        node.record("web").is_none()
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(node.task("web"), None);
}
