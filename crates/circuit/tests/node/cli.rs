//! The command line: what each command prints, and how it fails.

use circuit_testing::{PATIENCE, TestNode, network, wait_until};
use serde_json::json;

use crate::support::{assert_names, create_ctr0, error_of, json, logged};

const LISTING: &str = "NAME      TYPE\nctr0      bridge\n";

#[test]
fn networks_are_created_listed_shown_and_deleted() {
    let node = crate::node().start();
    let config = network::bridge("ctr0", "10.255.0.0/16");
    let file = node.file("ctr0.conflist", &config);
    let empty = "NAME      TYPE\n";
    assert_eq!(node.circuit(&["network", "list"]).ok(), empty);
    assert_eq!(node.circuit(&["network", "create", "ctr0", &file]).ok(), "");
    for alias in ["list", "ls"] {
        let ran = node.circuit(&["network", alias]);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (LISTING, ""));
    }
    assert_eq!(node.circuit(&["network", "info", "ctr0"]).ok(), config);
    let delete = ["network", "delete", "ctr0"];
    assert_eq!(node.circuit(&delete).ok(), "ctr0\n");
    assert_eq!(node.circuit(&["network", "ls"]).ok(), empty);

    node.circuit(&["network", "create", "ctr0", &file]).ok();
    assert_eq!(node.circuit(&["network", "rm", "ctr0"]).ok(), "ctr0\n");
    let other = node.file("b", network::bridge("b", "10.8.0.0/16"));
    node.circuit(&["network", "create", "ctr0", &file]).ok();
    node.circuit(&["network", "create", "b", &other]).ok();
    assert_eq!(
        node.circuit(&["network", "rm", "ctr0", "b"]).ok(),
        "ctr0\nb\n"
    );
}

#[test]
fn a_configuration_comes_back_byte_for_byte() {
    let node = crate::node().start();
    // Spacing, unknown keys, their order, and no line feed at the end.
    let config = "{\t\"zeta\": 1.50,\r\n \"name\":\"ctr0\", \"cniVersion\" : \"1.0.0\",\n\
                  \"plugins\":[ {\"type\":\"bridge\",\"unknown\":[1,\"\\u00e9é\"],\
                  \"ipam\":{\"type\":\"host-local\",\"subnet\":\"10.9.0.0/24\"}} ] }";
    let create = ["network", "create", "ctr0", "-"];
    assert_eq!(node.circuit_with_input(&create, config.as_bytes()).ok(), "");
    assert_eq!(node.circuit(&["network", "info", "ctr0"]).ok(), config);
    let stored = std::fs::read(node.store().join("ctr0.json")).unwrap();
    assert_eq!(stored, config.as_bytes());
}

#[test]
fn containers_are_connected_shown_and_disconnected() {
    let node = crate::node().start();
    create_ctr0(&node);
    let long = network::bridge("production-network", "10.8.0.0/16").replace(
        "\"bridge\": \"production-network\"",
        "\"bridge\": \"prod0\"",
    );
    node.create_network("production-network", &long);
    node.run_container("shell", &[], &[]);

    let ips = |arguments: &[&str]| {
        let all = [&["network", "ips", "shell"], arguments].concat();
        node.circuit(&all).ok()
    };
    assert_eq!(ips(&[]), "NETWORK   IP        INTERFACE\n");
    let connect = |network: &str| node.circuit(&["network", "connect", "shell", network]).ok();
    assert_eq!(
        connect("ctr0"),
        "connected shell to ctr0 with ip=10.255.0.2\n"
    );
    let table = "NETWORK   IP           INTERFACE\nctr0      10.255.0.2   eth0\n";
    assert_eq!(ips(&[]), table);
    assert_eq!(
        connect("ctr0"),
        "connected shell to ctr0 with ip=10.255.0.2\n"
    );
    connect("production-network");
    assert_eq!(
        ips(&[]),
        "NETWORK              IP           INTERFACE\n\
         ctr0                 10.255.0.2   eth0\n\
         production-network   10.8.0.2     eth1\n"
    );
    assert_eq!(ips(&["--network", "ctr0"]), table);
    let disconnect = ["network", "disconnect", "shell", "ctr0"];
    assert_eq!(
        node.circuit(&disconnect).ok(),
        "disconnected shell from ctr0\n"
    );
    node.circuit(&["network", "disconnect", "shell", "production-network"])
        .ok();
    assert_eq!(ips(&[]), "NETWORK   IP        INTERFACE\n");
    node.assert_nothing_left();
}

#[test]
fn listings_for_programs() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("shell", &[], &[]);
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    assert_eq!(
        json(&node, &["network", "ls"]),
        json!({ "networks": [{ "name": "ctr0", "type": "bridge" }], "problems": [] })
    );
    assert_eq!(
        json(&node, &["network", "ips", "shell"]),
        json!({
            "container": "shell",
            "ips": [{ "network": "ctr0", "ip": "10.255.0.2", "interface": "eth0" }],
            "problems": [],
        })
    );
    let nodes = json(&node, &["cluster", "nodes"]);
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1);
    let only = &nodes["nodes"][0];
    assert_eq!(only["name"], "node");
    assert_eq!(only["version"], env!("CARGO_PKG_VERSION"));
    let kernel = node.run("uname", &["-r"]).ok();
    assert_eq!(only["kernel_version"], kernel.trim());
    assert!(only["cpus"].as_i64().unwrap() > 0);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kilobytes: u64 = meminfo.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(only["memory"], kilobytes * 1024);
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split_whitespace().next().unwrap().parse().unwrap();
    let told = only["uptime"].as_f64().unwrap();
    assert!(uptime - 60.0 < told && told <= uptime, "{told} {uptime}");
}

#[test]
fn a_lone_node_lists_itself() {
    let node = crate::node().server(&["--node-name", "alone"]).start();
    let table = node.circuit(&["cluster", "nodes"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    let header: Vec<&str> = lines[0].split_whitespace().collect();
    let want = ["NAME", "VERSION", "CPUS", "MEMORY", "UPTIME", "KERNEL"];
    assert_eq!(header, want);
    // Every cell begins where its header does.
    for title in want {
        let at = lines[0].find(title).unwrap();
        assert_ne!(lines[1].as_bytes()[at], b' ', "{table}");
        assert!(at == 0 || lines[1].as_bytes()[at - 1] == b' ', "{table}");
    }
    assert!(lines[1].starts_with("alone     "), "{table}");
    let kernel = node.run("uname", &["-r"]).ok();
    assert!(
        lines[1].ends_with(&format!("   {}", kernel.trim())),
        "{table}"
    );
    assert_names(lines[1], &[" GB ", " ago "]);
}

#[test]
fn a_failure_is_one_line_and_exit_code_1() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("shell", &[], &[]);
    node.create_container("idle", &[], &[]);
    let file = node.file("x", network::bridge("x", "10.7.0.0/16"));
    for (arguments, parts) in [
        (&["network", "info", "ctr1"][..], &["ctr1", "ctr0?"][..]),
        (&["network", "delete", "ctr1"], &["ctr1"]),
        (&["network", "connect", "shell", "nope"], &["nope"]),
        (&["network", "connect", "nope", "ctr0"], &["container nope"]),
        (
            &["network", "connect", "idle", "ctr0"],
            &["idle", "not running"],
        ),
        (
            &["network", "disconnect", "shell", "ctr0"],
            &["shell", "ctr0", "not connected"],
        ),
        (&["network", "ips", "nope"], &["container nope"]),
        (
            &["network", "create", "x", "/nonexistent"],
            &["/nonexistent", "no such file"],
        ),
        (&["network", "create", "ctr0", &file], &["ctr0"]),
        (&["container", "stop", "nope"], &["container nope"]),
        (&["container", "start", "nope"], &["container nope"]),
        (
            &["network", "ls", "-a", "127.0.0.1:1"],
            &["127.0.0.1:1", "circuit server"],
        ),
        (
            &["network", "ls", "-a", "unix:///run/no.sock"],
            &["/run/no.sock"],
        ),
    ] {
        let error = error_of(node.circuit(arguments));
        for part in parts {
            let (error, part) = (error.to_lowercase(), part.to_lowercase());
            assert!(error.contains(&part), "{arguments:?}: {error}");
        }
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let node = crate::node().without_daemon().start();
    for arguments in [
        &[][..],
        &["nonsense"],
        &["network"],
        &["network", "connect", "shell"],
        &["network", "ips"],
        &["network", "create"],
        &["network", "delete"],
        &["network", "ls", "--format", "yaml"],
        &["network", "ls", "--no-such-flag"],
        &["container", "stop", "--timeout", "soon", "a"],
        &["server", "--cni-timeout", "soon"],
    ] {
        let ran = node.circuit(arguments);
        assert_eq!(ran.stdout, "", "{ran}");
        ran.fails(2);
    }
    for arguments in [["--version"], ["-v"]] {
        let want = format!("circuit version {} (", env!("CARGO_PKG_VERSION"));
        let printed = node.circuit(&arguments).ok();
        assert!(printed.starts_with(&want), "{printed}");
    }
    assert_names(&node.circuit(&["--help"]).ok(), &["network", "cluster"]);
}

#[test]
fn without_a_daemon_the_error_says_where_it_was_looked_for() {
    let node = crate::node().without_daemon().start();
    let error = error_of(node.circuit(&["network", "ls"]));
    let places = ["/run/circuit/circuit.sock", "127.0.0.1:8080"];
    assert_names(&error, &places);
    assert_names(&error, &["circuit server"]);
}

#[test]
fn problems_are_warnings_beside_the_listing() {
    let node = crate::node().start();
    create_ctr0(&node);
    std::fs::write(node.store().join("broken.json"), "{").unwrap();
    let ran = node.circuit(&["network", "ls"]);
    assert_eq!(ran.stdout, LISTING);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{ran}");
    assert!(lines[0].starts_with("warning: "), "{ran}");
    assert_names(lines[0], &["broken.json"]);
    assert!(ran.worked());
    let listing = json(&node, &["network", "ls"]);
    assert_eq!(listing["problems"][0]["network"], "broken");
}

#[test]
fn the_servers_address_stands_before_or_after_the_command() {
    let node = crate::node().start();
    create_ctr0(&node);
    for arguments in [
        &["-a", "127.0.0.1:8080", "network", "ls"][..],
        &["--address", ":8080", "network", "ls"],
        &["-a", "unix:///run/circuit/circuit.sock", "network", "ls"],
        &["network", "-a", "localhost:8080", "ls"],
        &["network", "ls", "-a", "http://127.0.0.1:8080"],
    ] {
        assert_eq!(node.circuit(arguments).ok(), LISTING, "{arguments:?}");
    }
}

#[test]
fn colours_are_for_terminals() {
    let node = crate::node().without_daemon().start();
    let command = format!("{} network ls", node.program());
    let on_terminal = |environment: &[(&str, &str)]| {
        let script = ["-q", "-c", &command, "/dev/null"];
        node.run_with("script", &script, environment, b"").stdout
    };
    let coloured = on_terminal(&[]);
    assert_names(&coloured, &["\x1b[", "error:"]);
    let plain = on_terminal(&[("NO_COLOR", "1")]);
    assert!(
        plain.contains("error:") && !plain.contains('\x1b'),
        "{plain:?}"
    );
    assert!(!node.circuit(&["network", "ls"]).stderr.contains('\x1b'));
}

fn await_line(node: &TestNode, parts: &[&str]) {
    wait_until(&format!("a log line with {parts:?}"), PATIENCE, || {
        logged(node, parts) > 0
    });
}

#[test]
fn the_log_tells_what_happens() {
    let node = crate::node().server(&["--debug"]).start();
    create_ctr0(&node);
    node.run_container("shell", &[("io.circuit.network", "ctr0")], &[]);
    let pid = node.task_pid("shell").unwrap();
    await_line(
        &node,
        &["INFO", "connected shell to ctr0 with ip 10.255.0.2"],
    );
    let start = format!("task start: container=shell pid={pid}");
    await_line(&node, &["DEBUG", &start]);
    node.remove_container("shell");
    await_line(&node, &["INFO", "disconnected shell from ctr0"]);
    assert!(!node.daemon_log().contains('\x1b'));
}

#[test]
fn the_log_for_programs_is_json() {
    let node = crate::node().server(&["--log-format", "json"]).start();
    create_ctr0(&node);
    node.run_container("shell", &[("io.circuit.network", "ctr0")], &[]);
    await_line(&node, &["connected shell to ctr0 with ip 10.255.0.2"]);
    node.stop_daemon();
    let log = node.daemon_log();
    let lines = log.lines().filter(|line| !line.starts_with("--- "));
    for line in lines {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(line["level"].is_string() && line["message"].is_string());
    }
}

#[test]
fn containers_are_stopped_and_started() {
    let node = crate::node().start();
    node.run_container("shell", &[], &[]);
    let printed = node.circuit(&["container", "stop", "shell"]).ok();
    assert_eq!(printed, "stopped shell\n");
    assert_eq!(node.task_pid("shell"), None);
    let printed = node.circuit(&["container", "start", "shell"]).ok();
    let pid = node.task_pid("shell").unwrap();
    assert_eq!(printed, format!("started shell with pid={pid}\n"));
    let restart = ["container", "restart", "--timeout", "5s", "shell"];
    let printed = node.circuit(&restart).ok();
    let new = node.task_pid("shell").unwrap();
    assert_ne!(new, pid);
    assert_eq!(printed, format!("restarted shell with pid={new}\n"));
}
