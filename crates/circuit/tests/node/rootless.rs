//! Nodes in a user namespace, as where a user runs containerd, and containers in one.

use std::process::Stdio;

use circuit_testing::{Ends, PATIENCE, Plugins, network, wait_until};

use crate::{
    labels::{WEB, get},
    support::{DNS, NETWORK, RESTART, assert_names, create_ctr0, error_of, said},
};

#[test]
fn all_works_without_power_over_the_machine() {
    let node = crate::node().plugins(Plugins::None).rootless().uplink();
    let node = node.start();
    // Root of the node may not do what root of the machine may.
    let refused = node.run("sh", &["-c", "echo 1 > /proc/sys/kernel/sysrq"]);
    assert!(!refused.worked(), "{refused}");
    node.create_network("web", &network::full("web", "10.88.0.0/16"));
    let labels = [
        (NETWORK, "web"),
        (DNS, "true"),
        (RESTART, "always"),
        ("io.circuit.ports", "8081:80"),
    ];
    node.run_container("web", &labels, &WEB);
    let addresses = node.wait_for_addresses("web");
    node.run_container("shell", &[], &[]);
    node.circuit(&["network", "connect", "shell", "web"]).ok();
    let url = "http://192.0.2.2:8081/";
    let answers = || get(&node, url) == "hello\n";
    wait_until("the port answers", PATIENCE, answers);
    assert!(said(&node, "web", &["nslookup", "shell"]).contains("10.88.0.3"));
    let out = ["ping", "-c", "1", "-W", "5", "192.0.2.1"];
    node.exec("shell", &out).ok();
    node.exec("shell", &["wget", "-q", "-O", "-", "http://10.88.0.2/"])
        .ok();

    node.kill_daemon();
    node.end_task("web");
    node.start_daemon();
    wait_until("it is started again", PATIENCE, answers);
    assert_eq!(node.wait_for_addresses("web"), addresses);
    let told = node.circuit(&["doctor"]).ok();
    assert_names(&told, &["2 were looked at", "nothing is left over"]);
    node.circuit(&["network", "disconnect", "shell", "web"])
        .ok();
    for container in ["web", "shell"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

#[test]
fn a_daemon_of_another_user_namespace_is_told_what_it_lacks() {
    let node = crate::node().without_daemon().start();
    node.run_container("shell", &[], &[]);
    let mut server = node.command("unshare");
    server.args(["--user", "--map-root-user", &node.program()]);
    server.args(node.server_arguments()).stderr(Stdio::null());
    let _server = Ends(server.spawn().unwrap());
    let serves = || node.circuit(&["network", "ls"]).worked();
    wait_until("the daemon answers", PATIENCE, serves);
    create_ctr0(&node);
    let told = error_of(node.circuit(&["network", "connect", "shell", "ctr0"]));
    let names = ["/ns/net", "Permission denied", "CAP_SYS_PTRACE"];
    assert_names(&told, &names);
}

#[test]
fn a_container_with_users_of_its_own_is_served_as_any() {
    let node = crate::node().plugins(Plugins::None).uplink().start();
    let create = ["network", "create", "web", "--subnet", "10.88.0.0/24"];
    node.circuit(&[&create[..], &["--dns"]].concat()).ok();
    let mapped = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let labels = [
        (NETWORK, "web"),
        (RESTART, "always"),
        ("io.circuit.ports", "8081:80"),
    ];
    node.run_container_with(&mapped, "web", &labels, &WEB);
    let addresses = node.wait_for_addresses("web");
    assert!(said(&node, "web", &["cat", "/proc/self/uid_map"]).contains("100000"));
    let answers = || get(&node, "http://192.0.2.2:8081/") == "hello\n";
    wait_until("the port answers", PATIENCE, answers);
    // Its root reads the file, and is whose it is.
    let file = said(&node, "web", &["ls", "-ln", "/etc/resolv.conf"]);
    assert_names(&file, &["-rw-r--r--", " 0 "]);
    assert!(said(&node, "web", &["nslookup", "web"]).contains("10.88.0.2"));
    let before = node.task("web");
    node.kill_task("web");
    let anew = || node.task("web") != before && answers();
    wait_until("it is started again", PATIENCE, anew);
    assert_eq!(node.wait_for_addresses("web"), addresses);
    node.remove_container("web");
    node.assert_nothing_left();
}
