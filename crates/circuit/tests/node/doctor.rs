//! `circuit doctor`: what it finds on a node, and what it mends.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use circuit_testing::{PATIENCE, TestNode, network, wait_until};
use serde_json::Value;

use crate::support::{NETWORK, assert_names, create_ctr0};

/// What the doctor says, by what was examined: level and message.
#[track_caller]
fn examined(node: &TestNode, arguments: &[&str]) -> Vec<[String; 3]> {
    let ran = node.circuit(&[&["doctor", "--format", "json"], arguments].concat());
    let found: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran}"));
    let found = found["findings"].as_array().unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    found
        .iter()
        .map(|finding| ["check", "level", "message"].map(|key| text(finding, key)))
        .collect()
}

#[track_caller]
fn assert_found(found: &[[String; 3]], check: &str, level: &str, part: &str) {
    let is = |[c, l, m]: &[String; 3]| c == check && l == level && m.contains(part);
    assert!(
        found.iter().any(is),
        "no {check} {level} {part:?} in {found:#?}"
    );
}

#[test]
fn a_doctor_finds_what_is_wrong_and_mends_what_is_safe() {
    let node = crate::node().start();
    node.circuit(&["network", "create", "web", "--subnet", "10.88.0.0/24"])
        .ok();
    node.run_container("a", &[(NETWORK, "web")], &[]);
    node.wait_for_addresses("a");
    let healthy = node.circuit(&["doctor"]).ok();
    for check in [
        "containerd",
        "store",
        "kernel",
        "forwarding",
        "firewall",
        "plugins",
        "redis",
        "dns",
        "attachments",
        "ports",
        "leaks",
        "containers",
    ] {
        assert_names(&healthy, &[check]);
    }
    let bad = |level: &str| level == "problem" || level == "warning";
    let found = examined(&node, &[]);
    assert!(!found.iter().any(|[_, level, _]| bad(level)), "{found:#?}");

    // Somebody loses an address and a namespace, drops what the firewall does not know,
    // and switches forwarding off.
    let lease = node.path("/var/lib/cni/networks/web/10.88.0.77");
    fs::write(&lease, "default-nobody\r\neth0").unwrap();
    node.run("nft", &["add", "table", "ip", "theirs"]).ok();
    let chain = "{ type filter hook forward priority 0; policy drop; }";
    node.run("nft", &["add", "chain", "ip", "theirs", "barrier", chain])
        .ok();
    create_ctr0(&node);
    let file = node.store().join("broken.json");
    fs::write(&file, "{").unwrap();
    node.run_container("b", &[(NETWORK, "lost")], &[]);
    crate::support::wait_for_problem(&node, "b", "lost");
    let said = || crate::support::logged(&node, &["no gateway any more"]);
    crate::support::tire(said, || {
        node.run("sh", &["-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"])
            .ok();
    });
    let found = examined(&node, &[]);
    assert_found(&found, "forwarding", "warning", "IPv4 is not forwarded");
    assert_found(&found, "leaks", "warning", "1 addresses of network web");
    assert_found(&found, "firewall", "warning", "theirs barrier drops");
    assert_found(&found, "store", "problem", "broken");
    assert_found(&found, "containers", "problem", "b on network lost");
    assert_names(
        &node.circuit(&["doctor"]).fails(1),
        &["there are 2 problems"],
    );

    let fixed = examined(&node, &["--fix"]);
    assert_found(&fixed, "forwarding", "fixed", "IPv4");
    assert_found(&fixed, "leaks", "fixed", "1 addresses");
    assert!(!lease.exists());
    let forwards = node.run("cat", &["/proc/sys/net/ipv4/ip_forward"]).ok();
    assert_eq!(forwards.trim(), "1");
    // What is not ours to change is as it was.
    let found = examined(&node, &[]);
    assert_found(&found, "firewall", "warning", "theirs barrier drops");
    assert_found(&found, "forwarding", "fine", "");
    assert_eq!(node.addresses("a").len(), 1);

    // The attachment itself: its address is taken away by somebody.
    node.in_netns("a", &["ip", "addr", "flush", "dev", "eth0"])
        .ok();
    let found = examined(&node, &[]);
    assert_found(&found, "attachments", "problem", "a on network web");

    node.stop_containerd();
    let found = examined(&node, &[]);
    assert_found(&found, "containerd", "problem", "");
    node.start_containerd();
}

#[test]
fn a_doctor_tells_of_programs_whose_ports_are_taken() {
    let node = crate::node().start();
    node.create_network("web", &network::full("web", "10.88.0.0/24"));
    let labels = [
        (NETWORK, "web"),
        ("io.circuit.ports", "8081:80,127.0.0.1:8082:80,8083:80"),
    ];
    node.run_container("a", &labels, &[]);
    node.wait_for_addresses("a");
    let found = examined(&node, &[]);
    assert_found(&found, "ports", "fine", "");
    let mut program = node.command("busybox");
    program.args(["httpd", "-f", "-p", "0.0.0.0:8081"]);
    let _program = circuit_testing::Ends(program.spawn().unwrap());
    let told = || {
        let found = examined(&node, &[]);
        found.iter().any(|[check, level, message]| {
            check == "ports"
                && level == "warning"
                && message.contains("port 8081:80/tcp of container a")
                && message.contains("0.0.0.0:8081")
        })
    };
    wait_until("it is told of", PATIENCE, told);
    let ports = |found: Vec<[String; 3]>| found.iter().filter(|[c, ..]| c == "ports").count();
    assert_eq!(ports(examined(&node, &[])), 1);
}

/// A bridge whose ADD waits until it is told to go on.
const WAITS: &str = "#!/bin/sh\n\
     case $CNI_COMMAND in ADD)\n\
     touch /run/began; while [ ! -e /run/go-on ]; do sleep 0.1; done ;; esac\n\
     exec %STOCK%/bridge\n";

#[test]
fn a_doctor_does_not_wait_for_who_works_on_a_container() {
    let node = crate::node().start();
    node.script_plugin("waits", WAITS);
    let slow = network::by_plugin("waits", "slow", "10.4.0.0/16");
    node.create_network("slow", &slow);
    node.run_container("a", &[], &[]);
    thread::scope(|scope| {
        let connected = scope.spawn(|| node.circuit(&["network", "connect", "a", "slow"]));
        wait_until("the plugin runs", PATIENCE, || {
            node.path("/run/began").exists()
        });
        // As one that was pinned just now, of which the record does not speak yet.
        fs::write(node.path("/run/circuit/netns/default-a.1"), "").unwrap();
        let found = examined(&node, &[]);
        fs::write(node.path("/run/go-on"), "").unwrap();
        connected.join().unwrap().ok();
        assert_found(
            &found,
            "attachments",
            "note",
            "container a is being worked on",
        );
        assert_found(&found, "leaks", "fine", "");
    });
    let found = examined(&node, &[]);
    assert_found(&found, "attachments", "fine", "1 were looked at");
    assert_found(&found, "leaks", "warning", "1 pinned namespaces");
    let found = examined(&node, &["--fix"]);
    assert_found(&found, "leaks", "fixed", "1 pinned namespaces");
    node.remove_container("a");
    node.assert_nothing_left();
}

#[test]
fn what_comes_and_goes_is_no_leak() {
    let node = crate::node().start();
    node.create_network("web", &network::bridge("web", "10.88.0.0/24"));
    node.run_container("a", &[(NETWORK, "web")], &[]);
    node.wait_for_addresses("a");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Other programs on the network, whose containers have ended and are taken off it.
        scope.spawn(|| {
            for last in (10..250)
                .cycle()
                .take_while(|_| !over.load(Ordering::SeqCst))
            {
                let lease = node.path(&format!("/var/lib/cni/networks/web/10.88.0.{last}"));
                fs::write(&lease, "default-other\r\neth0").unwrap();
                thread::sleep(Duration::from_millis(20));
                fs::remove_file(&lease).unwrap();
            }
        });
        let found: Vec<_> = (0..4).map(|_| examined(&node, &[])).collect();
        over.store(true, Ordering::SeqCst);
        for found in found {
            assert_found(&found, "leaks", "fine", "");
        }
    });
    node.remove_container("a");
    node.assert_nothing_left();
}
