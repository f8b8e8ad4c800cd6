//! Networks: what `create` refuses, what the store holds, what `delete` minds.

use std::{fs, os::unix::fs::PermissionsExt as _};

use circuit_testing::{PATIENCE, TestNode, network, wait_until};

use crate::support::{assert_exactly, assert_names, create_ctr0, error_of, json, logged};

#[track_caller]
fn refusal(node: &TestNode, name: &str, config: &str) -> String {
    let ran = node.circuit_with_input(&["network", "create", name, "-"], config.as_bytes());
    let error = error_of(ran);
    let listing = json(node, &["network", "ls"]);
    let networks = listing["networks"].as_array().unwrap();
    let stored = networks.iter().any(|n| n["name"] == name);
    assert!(!stored, "stored although refused: {listing}");
    error
}

#[track_caller]
fn force(node: &TestNode, name: &str, config: &str) {
    let create = ["network", "create", "--force", name, "-"];
    node.circuit_with_input(&create, config.as_bytes()).ok();
}

#[test]
fn a_subnet_of_the_hosts_routes_is_refused() {
    let node = crate::node().uplink().start();
    let far = ["route", "add", "198.51.100.0/24", "via", "192.0.2.1"];
    node.run("ip", &far).ok();
    let far6 = [
        "-6",
        "addr",
        "add",
        "2001:db8:5::1/64",
        "dev",
        "up0",
        "nodad",
    ];
    node.run("ip", &far6).ok();
    for (subnet, route) in [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.128/25", "192.0.2.0/24"),
        ("192.0.0.0/16", "192.0.2.0/24"),
        ("198.51.100.64/26", "198.51.100.0/24"),
        ("198.51.0.0/16", "198.51.100.0/24"),
    ] {
        let error = refusal(&node, "a", &network::bridge("a", subnet));
        assert_names(&error, &[subnet, route, "--force"]);
    }
    let error = refusal(
        &node,
        "a",
        &network::dual("a", "10.1.0.0/16", "2001:db8::/32"),
    );
    assert_names(&error, &["2001:db8:5::/64"]);
    force(&node, "a", &network::bridge("a", "198.51.100.64/26"));
}

#[test]
fn a_subnet_of_the_resolver_is_refused() {
    let node = crate::node().resolver("10.77.0.53").start();
    let config = network::bridge("a", "10.77.0.0/16");
    let error = refusal(&node, "a", &config);
    assert_names(&error, &["10.77.0.53", "10.77.0.0/16", "--force"]);
    force(&node, "a", &config);
}

#[test]
fn a_subnet_of_another_network_is_refused() {
    let node = crate::node().start();
    create_ctr0(&node);
    for subnet in ["10.255.0.0/16", "10.255.8.0/24", "10.0.0.0/8"] {
        let error = refusal(&node, "ctr1", &network::bridge("ctr1", subnet));
        assert_names(&error, &["ctr0", "10.255.0.0/16", subnet, "--force"]);
    }
    force(&node, "ctr1", &network::bridge("ctr1", "10.255.8.0/24"));
    // A neighbour is no overlap.
    node.create_network("ctr2", &network::bridge("ctr2", "10.254.0.0/16"));
}

#[test]
fn a_network_may_be_created_again_while_its_bridge_is_there() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("shell", &[], &[]);
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    node.circuit(&["network", "disconnect", "shell", "ctr0"])
        .ok();
    node.circuit(&["network", "delete", "ctr0"]).ok();
    node.run("ip", &["link", "show", "ctr0"]).ok();
    create_ctr0(&node);
}

#[test]
fn what_is_no_usable_configuration_is_refused() {
    let node = crate::node().start();
    let error = refusal(&node, "b", &network::bridge("a", "10.1.0.0/16"));
    assert_names(&error, &["\"a\"", "\"b\""]);
    let single = network::single_bridge("a", "10.1.0.0/16");
    assert_names(&refusal(&node, "b", &single), &["\"a\"", "\"b\""]);
    for config in [
        "",
        "not json",
        "{",
        "[]",
        "{}",
        r#"{"cniVersion":"1.0.0","name":"a"}"#,
        r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#,
        r#"{"cniVersion":"1.0.0","name":"a","plugins":[{}]}"#,
        r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":""}]}"#,
        r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"../bridge"}]}"#,
        r#"{"cniVersion":"9.0.0","name":"a","plugins":[{"type":"bridge"}]}"#,
        r#"{"cniVersion":1,"name":"a","plugins":[{"type":"bridge"}]}"#,
        r#"{"cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#,
    ] {
        let error = refusal(&node, "a", config);
        assert!(error.contains('a'), "{config}: {error}");
    }
    for subnet in ["10.1.0.0/33", "10.1.0.0", "nonsense"] {
        let error = refusal(&node, "a", &network::bridge("a", subnet));
        assert_names(&error, &[subnet]);
    }
}

#[test]
fn a_missing_plugin_is_named_with_the_folders() {
    let node = crate::node().start();
    let error = refusal(
        &node,
        "a",
        &network::by_plugin("no-such-plugin", "a", "10.1.0.0/16"),
    );
    let stock = node.plugin_folder();
    let own = node.folder().join("plugins");
    let folders = [stock.to_str().unwrap(), own.to_str().unwrap()];
    assert_names(&error, &["no-such-plugin"]);
    assert_names(&error, &folders);
    // The plugin that gives addresses is a plugin too.
    let config = network::bridge("a", "10.1.0.0/16").replace("host-local", "no-such-ipam");
    assert_names(&refusal(&node, "a", &config), &["no-such-ipam"]);
    // Not even force makes it run.
    let create = ["network", "create", "--force", "a", "-"];
    let config = network::by_plugin("no-such-plugin", "a", "10.1.0.0/16");
    error_of(node.circuit_with_input(&create, config.as_bytes()));
}

#[test]
fn a_bad_file_spoils_only_itself() {
    let node = crate::node().start();
    create_ctr0(&node);
    fs::write(node.store().join("bad.json"), "{\"name\":").unwrap();
    fs::write(node.store().join("notes.txt"), "mine").unwrap();
    node.kill_daemon();
    node.start_daemon();
    let ran = node.circuit(&["network", "ls"]);
    assert_eq!(ran.stdout, "NAME      TYPE\nctr0      bridge\n");
    assert_names(&ran.stderr, &["warning: ", "bad.json"]);
    assert!(!ran.stderr.contains("notes.txt"), "{ran}");
    node.run_container("shell", &[], &[]);
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    error_of(node.circuit(&["network", "connect", "shell", "bad"]));
    node.circuit(&["network", "rm", "bad"]).ok();
    assert_eq!(node.circuit(&["network", "ls"]).stderr, "");
}

#[test]
fn files_of_the_original_are_networks() {
    let node = crate::node().without_daemon().start();
    fs::create_dir_all(node.store()).unwrap();
    for (name, config) in [
        ("list", network::bridge("list", "10.1.0.0/16")),
        ("single", network::single_bridge("single", "10.2.0.0/16")),
    ] {
        fs::write(node.store().join(format!("{name}.json")), config).unwrap();
    }
    node.start_daemon();
    let listing = node.circuit(&["network", "ls"]).ok();
    assert_eq!(
        listing,
        "NAME      TYPE\nlist      bridge\nsingle    bridge\n"
    );
    node.run_container("shell", &[], &[]);
    for (network, ip) in [("list", "10.1.0.2"), ("single", "10.2.0.2")] {
        let printed = node.circuit(&["network", "connect", "shell", network]).ok();
        assert_eq!(
            printed,
            format!("connected shell to {network} with ip={ip}\n")
        );
    }
    assert_exactly(&node, &[("shell", 2)]);
    node.remove_container("shell");
    node.assert_nothing_left();
}

#[test]
fn the_default_store_holds_a_file_a_network() {
    let node = crate::node()
        .server(&[
            "--datastore",
            "local:///var/lib/circuit",
            "--state-dir",
            "/var/lib/circuit/state",
        ])
        .start();
    create_ctr0(&node);
    let file = node.path("/var/lib/circuit/ctr0.json");
    let config = network::bridge("ctr0", "10.255.0.0/16");
    assert_eq!(fs::read_to_string(&file).unwrap(), config);
    let ran = node.circuit(&["network", "ls"]);
    assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (2, ""));
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o022, 0);
}

#[test]
fn a_network_in_use_is_not_deleted() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("one", &[], &[]);
    node.run_container("two", &[("io.circuit.network", "ctr0")], &[]);
    node.circuit(&["network", "connect", "one", "ctr0"]).ok();
    node.wait_for_addresses("two");
    let error = error_of(node.circuit(&["network", "delete", "ctr0"]));
    assert_names(&error, &["ctr0", "one", "two", "--force"]);
    assert_exactly(&node, &[("one", 1), ("two", 1)]);

    let force = ["network", "delete", "--force", "ctr0"];
    assert_eq!(node.circuit(&force).ok(), "ctr0\n");
    for container in ["one", "two"] {
        assert_eq!(node.interfaces(container), []);
    }
    node.assert_nothing_left();
    assert_eq!(node.circuit(&["network", "ls"]).ok(), "NAME      TYPE\n");
}

#[test]
fn no_name_leaves_the_store() {
    let node = crate::node().start();
    let config = network::bridge("x", "10.1.0.0/16");
    let outside = node.path("/var/lib/circuit/x.json");
    fs::write(&outside, &config).unwrap();
    for name in [
        "../x",
        "..",
        ".",
        "a/../../x",
        "/var/lib/circuit/x",
        "a/b",
        ".x",
        "x y",
    ] {
        let create = ["network", "create", "--force", "--", name, "-"];
        let error = error_of(node.circuit_with_input(&create, config.as_bytes()));
        assert_names(&error, &[name]);
        for command in ["info", "delete"] {
            error_of(node.circuit(&["network", command, "--", name]));
        }
    }
    assert_eq!(fs::read_to_string(outside).unwrap(), config);
    assert_eq!(fs::read_dir(node.store()).unwrap().count(), 0);
}

#[test]
fn a_replaced_network_is_used_from_then_on() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("shell", &[], &[]);
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    let other = network::bridge("ctr0", "10.66.0.0/16")
        .replace("\"bridge\": \"ctr0\"", "\"bridge\": \"br1\"");
    let create = ["network", "create", "--force", "ctr0", "-"];
    // What an attachment was made with is needed to take it away.
    let error = error_of(node.circuit_with_input(&create, other.as_bytes()));
    assert_names(&error, &["ctr0", "shell"]);
    node.circuit(&["network", "disconnect", "shell", "ctr0"])
        .ok();
    node.circuit_with_input(&create, other.as_bytes()).ok();
    let printed = node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    assert_eq!(printed, "connected shell to ctr0 with ip=10.66.0.2\n");
}

#[test]
fn a_bridge_that_is_called_as_its_network_becomes_another_with_it() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("shell", &[], &[]);
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    node.circuit(&["network", "disconnect", "shell", "ctr0"])
        .ok();
    // As docs/commands.md has it.
    let other = network::bridge("ctr0", "10.255.0.0/16").replace("10.255", "10.254");
    let create = ["network", "create", "--force", "ctr0", "-"];
    node.circuit_with_input(&create, other.as_bytes()).ok();
    let printed = node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    assert!(printed.contains("ip=10.254.0."), "{printed}");
    node.remove_container("shell");
    node.assert_nothing_left();
}

#[test]
fn a_replaced_network_leaves_its_bridge_behind() {
    let node = crate::node().start();
    let create = |more: &[&str]| {
        let create = ["network", "create", "web"];
        node.circuit(&[&create, more].concat()).ok()
    };
    let use_once = |subnet: &str| {
        let printed = node.circuit(&["network", "connect", "shell", "web"]).ok();
        let told = format!("connected shell to web with ip={subnet}.");
        assert!(printed.starts_with(&told), "{printed}");
        node.circuit(&["network", "disconnect", "shell", "web"])
            .ok();
        node.run("ip", &["link", "show", "br-web"]).ok();
    };
    node.run_container("shell", &[], &[]);
    assert_eq!(create(&[]), "created web with 10.88.0.0/24\n");
    use_once("10.88.0");
    // Its own bridge is in the way of nothing.
    let planned = create(&["--force", "--dry-run"]);
    assert_names(&planned, &["\"10.88.0.0/24\""]);
    node.run("ip", &["link", "show", "br-web"]).ok();
    assert_eq!(create(&["--force"]), "created web with 10.88.0.0/24\n");
    use_once("10.88.0");
    let given = create(&["--force", "--subnet", "10.66.0.0/24", "--mtu", "1400"]);
    assert_eq!(given, "created web with 10.66.0.0/24\n");
    assert!(!node.run("ip", &["link", "show", "br-web"]).worked());
    use_once("10.66.0");

    // As docs/commands.md has it.
    let config = node.circuit(&["network", "info", "web"]).ok();
    let other = config.replace("10.66.0", "10.67.0");
    let force = ["network", "create", "--force", "web", "-"];
    node.circuit_with_input(&force, other.as_bytes()).ok();
    use_once("10.67.0");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("web.json"), config).unwrap();
    let from = folder.path().to_str().unwrap();
    node.circuit(&["network", "push", "--force", "--from", from])
        .ok();
    use_once("10.66.0");
    node.circuit(&["network", "rm", "web"]).ok();
    node.remove_container("shell");
    node.assert_nothing_left();
}

#[test]
fn a_network_changed_by_hand_is_still_left_cleanly() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("shell", &[], &[]);
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    fs::write(node.store().join("ctr0.json"), "gone mad").unwrap();
    node.circuit(&["network", "disconnect", "shell", "ctr0"])
        .ok();
    node.assert_nothing_left();
}

#[test]
fn created_and_deleted_networks_are_logged() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.circuit(&["network", "rm", "ctr0"]).ok();
    wait_until("the log tells", PATIENCE, || {
        logged(&node, &["INFO", "created network ctr0"]) == 1
            && logged(&node, &["INFO", "deleted network ctr0"]) == 1
    });
}

/// A bridge that takes its time, and tells when it has begun.
const SLOW: &str = "#!/bin/sh\n\
     case $CNI_COMMAND in ADD) touch /run/began; sleep 5 ;; esac\n\
     exec %STOCK%/bridge\n";

#[test]
fn a_network_deleted_under_a_connect_is_not_connected() {
    let node = crate::node().start();
    node.script_plugin("slow", SLOW);
    let slow = network::by_plugin("slow", "slow", "10.4.0.0/16");
    node.create_network("slow", &slow);
    node.create_network("gone", &network::bridge("gone", "10.5.0.0/16"));
    node.run_container("first", &[], &[]);
    let shared = format!("network:/proc/{}/ns/net", node.task_pid("first").unwrap());
    node.run_container_with(&["--with-ns", &shared], "second", &[], &[]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| node.circuit(&["network", "connect", "first", "slow"]));
        wait_until("the plugin runs", PATIENCE, || {
            node.path("/run/began").exists()
        });
        // It waits for the namespace, in which both are.
        let second = scope.spawn(|| node.circuit(&["network", "connect", "second", "gone"]));
        std::thread::sleep(std::time::Duration::from_secs(2));
        node.circuit(&["network", "rm", "gone"]).ok();
        first.join().unwrap().ok();
        let told = error_of(second.join().unwrap());
        assert_names(&told, &["gone"]);
    });
    assert_eq!(node.leases(), ["slow/10.4.0.2"]);
    assert_eq!(node.records().len(), 1);
    node.remove_container("second");
    node.remove_container("first");
    node.assert_nothing_left();
}
