//! What plugins are asked beside ADD and DEL, other ways to addresses, and
//! containers that share a namespace.

use circuit_testing::{NodeBuilder, PATIENCE, Plugins, TestNode, network, wait_until};
use serde_json::json;

use crate::support::{NETWORK, assert_names, create_ctr0, error_of, ips, way_out};

crate::on_every_data_path!(udp_ports_are_published);

/// Writes down what it is asked, and leaves the answer to a stock plugin.
const WITNESS: &str = "#!/bin/sh\n\
     echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME\" >> /run/witness\n\
     tee -a /run/witness | %STOCK%/tuning\n";

fn witnessed(node: &TestNode, what: &str) {
    wait_until(&format!("the plugin is asked {what}"), PATIENCE, || {
        std::fs::read_to_string(node.path("/run/witness")).is_ok_and(|said| said.contains(what))
    });
}

#[test]
fn every_operation_of_cni_1_1_is_asked() {
    let node = crate::node().plugins(Plugins::Newer).start();
    node.script_plugin("witness", WITNESS);
    let bridge = json!({
        "type": "bridge", "bridge": "br0", "isGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"},
    });
    let list = network::list("ctr0", &[bridge, json!({"type": "witness"})]);
    node.create_network("ctr0", &list.replace("1.0.0", "1.1.0"));
    witnessed(&node, "VERSION ");
    witnessed(&node, "STATUS ");

    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    assert_eq!(node.wait_for_addresses("web"), ["10.9.0.2/24"]);
    witnessed(&node, "ADD default-web eth0");

    assert_eq!(node.stop_daemon(), Some(0));
    std::fs::remove_file(node.path("/run/witness")).unwrap();
    node.start_daemon();
    witnessed(&node, "CHECK default-web eth0");
    witnessed(&node, "GC ");
    witnessed(
        &node,
        r#""cni.dev/valid-attachments":[{"containerID":"default-web","ifname":"eth0"}]"#,
    );
    assert_eq!(node.addresses("web"), ["10.9.0.2/24"]);

    node.remove_container("web");
    witnessed(&node, "DEL default-web eth0");
    node.assert_nothing_left();
}

/// Fails, and needs the others' result to take back what it made: there are such.
const PICKY: &str = "#!/bin/bash\n\
     told=$(cat)\n\
     [ $CNI_COMMAND = VERSION ] && exec %STOCK%/tuning <<< \"$told\"\n\
     case $CNI_COMMAND,$told in\n\
     DEL,*br0*10.9.0.2/24*) exit 0 ;;\n\
     esac\n\
     echo '{\"cniVersion\":\"1.0.0\",\"code\":999,\"msg\":\"not today\"}'; exit 1\n";

/// A node with the network `ctr0`, by executables or by drivers: a bridge, a firewall
/// with its rules in iptables, and a plugin of the test's own at the end.
pub(crate) fn ending_in(kind: &str, script: &str, data_path: &str) -> TestNode {
    let node = crate::node().plugins(Plugins::Newer);
    let node = node.server(&["--data-path", data_path]).start();
    node.script_plugin(kind, script);
    let bridge = json!({
        "type": "bridge", "bridge": "br0", "isGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"},
    });
    let firewall = json!({"type": "firewall", "backend": "iptables"});
    let list = network::list("ctr0", &[bridge, firewall, json!({"type": kind})]);
    node.create_network("ctr0", &list);
    node
}

/// Whether that firewall has rules for an address.
pub(crate) fn allowed(node: &TestNode, address: &str) -> bool {
    let rules = node.run("iptables-save", &["-t", "filter"]).ok();
    rules.contains(&format!("-s {address}/32"))
}

#[test]
fn a_chain_that_fails_at_its_end_leaves_nothing() {
    let node = ending_in("picky", PICKY, "exec");
    node.run_container("web", &[], &[]);
    let told = error_of(node.circuit(&["network", "connect", "web", "ctr0"]));
    assert_names(&told, &["picky ADD", "not today"]);
    assert!(!allowed(&node, "10.9.0.2"));
    node.assert_nothing_left();
}

/// Does nothing but write down what it is asked, while there is a file.
const BROKEN_AT_TIMES: &str = "#!/bin/sh\n\
     [ -e /run/broken ] || exec %STOCK%/bridge\n\
     [ $CNI_COMMAND = VERSION ] && exec %STOCK%/bridge\n\
     echo $CNI_COMMAND >> /run/witness\n\
     echo '{\"cniVersion\":\"1.0.0\",\"code\":999,\"msg\":\"not today\"}'; exit 1\n";

#[test]
fn an_add_is_not_tried_with_another_address_while_a_del_is_owed() {
    let node = crate::node().start();
    node.script_plugin("broken", BROKEN_AT_TIMES);
    node.create_network("ctr0", &network::by_plugin("broken", "ctr0", "10.9.0.0/24"));
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    let before = node.wait_for_addresses("web");
    node.end_task("web");
    node.assert_nothing_left();
    std::fs::write(node.path("/run/broken"), "").unwrap();
    node.start_task("web");
    let asked = || std::fs::read_to_string(node.path("/run/witness")).unwrap_or_default();
    let asked = || asked().lines().map(str::to_owned).collect::<Vec<_>>();
    // A DEL is repeated at once, and later by the reconciler.
    wait_until("DEL is asked again and again", PATIENCE, || {
        asked().iter().filter(|command| *command == "DEL").count() > 5
    });
    assert_eq!(asked().iter().filter(|it| *it == "ADD").count(), 1);
    std::fs::remove_file(node.path("/run/broken")).unwrap();
    assert_eq!(node.wait_for_addresses("web"), before);
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn a_broken_attachment_is_told_after_a_restart_and_not_cut() {
    let node = crate::node().plugins(Plugins::Newer).start();
    create_ctr0(&node);
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    let before = node.wait_for_addresses("web");
    assert_eq!(node.stop_daemon(), Some(0));
    // The default route is part of what ADD made.
    node.in_netns("web", &["ip", "route", "del", "default"])
        .ok();
    node.start_daemon();
    wait_until("the broken attachment is told", PATIENCE, || {
        node.circuit(&["network", "ips", "web"])
            .stderr
            .contains("not as it was made")
    });
    assert_eq!(node.addresses("web"), before);
    node.circuit(&["network", "disconnect", "web", "ctr0"]).ok();
    node.circuit(&["network", "connect", "web", "ctr0"]).ok();
    wait_until("the problem is gone", PATIENCE, || {
        node.circuit(&["network", "ips", "web"]).stderr.is_empty()
    });
}

#[test]
fn an_address_from_static_ipam() {
    let node = crate::node().start();
    let bridge = json!({"type": "bridge", "bridge": "br0", "ipam": {"type": "static"}});
    node.create_network("fixed", &network::list("fixed", &[bridge]));
    let labels = [
        (NETWORK, "fixed"),
        ("io.circuit.network.fixed.ip", "10.9.0.7/24,fd00::7/64"),
    ];
    node.run_container("web", &labels, &[]);
    let mut addresses = node.wait_for_addresses("web");
    addresses.sort();
    assert_eq!(addresses, ["10.9.0.7/24", "fd00::7/64"]);

    node.run_container(
        "bare",
        &[
            (NETWORK, "fixed"),
            ("io.circuit.network.fixed.ip", "10.9.0.8"),
        ],
        &[],
    );
    wait_until("the missing prefix length is told", PATIENCE, || {
        let told = node.circuit(&["network", "ips", "bare"]).stderr;
        told.contains("needs address 10.9.0.8 with a prefix length, like 10.9.0.8/24")
    });
}

#[test]
fn two_containers_in_one_namespace_get_an_interface_each() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("first", &[], &[]);
    let shared = format!("network:/proc/{}/ns/net", node.task_pid("first").unwrap());
    node.run_container_with(&["--with-ns", &shared], "second", &[], &[]);
    node.circuit(&["network", "connect", "first", "ctr0"]).ok();
    node.circuit(&["network", "connect", "second", "ctr0"]).ok();
    let printed = node.circuit(&["network", "ips", "second"]).ok();
    assert!(printed.contains("10.255.0.3   eth1"), "{printed}");
    assert_names(&way_out(&node, "first"), &["dev eth0"]);

    node.circuit(&["network", "disconnect", "first", "ctr0"])
        .ok();
    assert_eq!(node.addresses("second"), ["10.255.0.3/16"]);
    assert_names(&way_out(&node, "second"), &["dev eth1"]);
    // The name that is free again is its own now, of a network that comes second.
    node.create_network("more", &network::bridge("more", "10.77.0.0/16"));
    node.circuit(&["network", "connect", "second", "more"]).ok();
    assert_eq!(ips(&node, "second")[1], ["more", "10.77.0.2", "eth0"]);
    assert_names(&way_out(&node, "second"), &["dev eth1"]);
    node.remove_container("second");
    node.remove_container("first");
    node.assert_nothing_left();
}

fn udp_ports_are_published(node: NodeBuilder) {
    let node = node.start();
    node.create_network("ctr0", &network::full("ctr0", "10.255.0.0/16"));
    let labels = [
        (NETWORK, "ctr0"),
        ("io.circuit.ports", "5353:53/udp,8080-8081:80-81"),
    ];
    node.run_container("web", &labels, &[]);
    node.wait_for_addresses("web");
    for published in [
        "udp 5353 -> 10.255.0.2:53",
        "tcp 8080 -> 10.255.0.2:80",
        "tcp 8081 -> 10.255.0.2:81",
    ] {
        wait_until(published, PATIENCE, || {
            node.publications().iter().any(|one| one == published)
        });
    }
    node.remove_container("web");
    node.assert_nothing_left();
}

/// What the daemon was given by its environment may be a password.
#[test]
fn plugins_do_not_see_the_daemons_settings() {
    let node = ending_in("curious", CURIOUS, "exec");
    node.kill_daemon();
    let words = node.server_arguments();
    let set = format!(
        "CIRCUIT_WEB_TOKEN_FILE= CIRCUIT_DNS_TTL=7s exec {} {}",
        node.program(),
        words.join(" ")
    );
    let ran = std::thread::scope(|scope| {
        let daemon = scope.spawn(|| node.run("timeout", &["-k", "5", "20", "sh", "-c", &set]));
        wait_until("it listens", PATIENCE, || {
            node.circuit(&["network", "ls"]).worked()
        });
        node.run_container("shell", &[], &[]);
        node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
        node.run("pkill", &["-f", "circuit server"]);
        daemon.join().unwrap()
    });
    let seen = std::fs::read_to_string(node.path("/run/seen")).unwrap_or_else(|_| panic!("{ran}"));
    assert!(seen.contains("CNI_COMMAND=ADD"), "{seen}");
    assert!(!seen.contains("CIRCUIT_"), "{seen}");
}

/// Writes down what it is given.
const CURIOUS: &str = "#!/bin/sh\n\
     env > /run/seen\n\
     exec %STOCK%/tuning\n";
