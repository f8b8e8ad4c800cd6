//! Clusters by every kind of Redis, and several daemons on one containerd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use circuit_testing::{Ends, Lan, PATIENCE, Plugins, TestNode, certificates, network, wait_until};

use crate::support::{json, membership};

/// Two nodes by this URL see each other's containers.
#[track_caller]
fn works(lan: &Lan, url: &str) {
    let node = |name: &str| {
        let arguments = ["--redis-url", url, "--node-name", name];
        crate::node().lan(lan).server(&arguments).start()
    };
    let (one, two) = (node("one"), node("two"));
    one.create_network("web", &network::bridge("web", "10.88.0.0/16"));
    one.run_container("shell", &[], &[]);
    one.circuit(&["network", "connect", "shell", "web"]).ok();
    let shown = || {
        two.circuit(&["network", "ips", "shell"])
            .stdout
            .contains("10.88.")
    };
    wait_until("the other node shows it", PATIENCE, shown);
    let status = json(&two, &["cluster", "status"]);
    assert_eq!(status["connected"], true, "{status}");
    one.circuit(&["network", "disconnect", "shell", "web"]).ok();
    let gone = || !two.circuit(&["network", "ips", "shell"]).worked();
    wait_until("and its end", PATIENCE, gone);
    // Addresses of a pool too.
    let given = [&one, &two].map(|node| {
        node.create_network(
            "lan",
            &network::pool("lan", &serde_json::json!({ "subnet": "10.99.0.0/24" })),
        );
        node.run_container("pooled", &[], &[]);
        node.circuit(&["network", "connect", "pooled", "lan"]).ok()
    });
    assert!(given[0].contains("ip=10.99.0."), "{given:?}");
    assert_ne!(given[0], given[1]);
}

#[test]
fn the_stock_plugin_gets_addresses_of_a_pool() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let node = crate::node_with(Plugins::Newer)
        .lan(&lan)
        .server(&["--redis-url", "redis://192.0.2.1", "--node-name", "one"])
        .start();
    node.script_plugin("circuit", &format!("#!/bin/sh\nexec {}\n", node.program()));
    node.create_network(
        "lan",
        &network::pool("lan", &serde_json::json!({ "subnet": "10.99.0.0/24" })),
    );
    node.run_container("shell", &[], &[]);
    let connected = node.circuit(&["network", "connect", "shell", "lan"]).ok();
    assert!(connected.contains("ip=10.99.0."), "{connected}");
    let executed = json(&node, &["ipam", "ls"]);
    let listed = executed.to_string();
    assert!(listed.contains("default-shell"), "{listed}");
    node.circuit(&["network", "disconnect", "shell", "lan"])
        .ok();
    let freed = || {
        !json(&node, &["ipam", "ls"])
            .to_string()
            .contains("default-shell")
    };
    wait_until("the address is free", PATIENCE, freed);
}

#[test]
fn by_tls() {
    let lan = Lan::new();
    let files = tempfile::tempdir().unwrap();
    certificates(files.path(), "192.0.2.1");
    let file = |name: &str| files.path().join(name).display().to_string();
    let _redis = lan.redis_with(&[
        "--tls-port",
        "6380",
        "--protected-mode",
        "no",
        "--tls-auth-clients",
        "yes",
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
    ]);
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    works(
        &lan,
        &format!("rediss://192.0.2.1:6380/?ca={ca}&cert={cert}&key={key}"),
    );
}

#[test]
fn by_a_sentinel() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("sentinel.conf");
    let lines = format!(
        "port 26379\nprotected-mode no\ndir {}\nsentinel monitor circuit 192.0.2.1 6379 1\n",
        folder.path().display()
    );
    fs::write(&configuration, lines).unwrap();
    let mut sentinel = lan.command("redis-server");
    sentinel
        .arg(&configuration)
        .arg("--sentinel")
        .stdout(Stdio::null());
    let _sentinel = Ends(sentinel.spawn().unwrap());
    works(&lan, "redis+sentinel://192.0.2.1/circuit");
}

#[test]
fn by_a_redis_cluster() {
    let lan = Lan::new();
    let ports = ["7001", "7002", "7003"];
    let redis = ports.map(|port| {
        let arguments = [
            "--port",
            port,
            "--protected-mode",
            "no",
            "--cluster-enabled",
            "yes",
        ];
        lan.redis_with(&arguments)
    });
    let mut create = lan.command("redis-cli");
    create.args(["--cluster", "create"]);
    create.args(ports.map(|port| format!("192.0.2.1:{port}")));
    let created = create.arg("--cluster-yes").output().unwrap();
    assert!(created.status.success(), "{created:?}");
    for server in &redis {
        wait_until("the cluster is ready", PATIENCE, || {
            server
                .cli(&["CLUSTER", "INFO"])
                .contains("cluster_state:ok")
        });
    }
    works(&lan, "redis+cluster://192.0.2.1:7001,192.0.2.1:7002");
}

#[test]
fn the_url_may_come_from_the_environment() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let node = crate::node().lan(&lan).without_daemon().start();
    let mut server = node.command(&node.program());
    let daemon = server
        .args(node.server_arguments())
        .env("CIRCUIT_REDIS_URL", "redis://192.0.2.1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _daemon = Ends(daemon);
    let connected = || {
        let ran = node.circuit(&["cluster", "status"]);
        ran.stdout.contains("redis://192.0.2.1:6379") && ran.stdout.contains("connected")
    };
    wait_until("the node is in the cluster", PATIENCE, connected);
}

/// A second daemon on the containerd of a node; its API.
fn second_daemon(node: &TestNode, name: &str) -> (Ends, String) {
    let address = format!("unix:///run/{name}/circuit.sock");
    let mut arguments = vec!["--address".to_owned(), address.clone()];
    arguments.extend(node.server_arguments());
    for (flag, value) in [
        ("--run-dir", format!("/run/{name}")),
        ("--state-dir", format!("/var/lib/circuit/{name}")),
        ("--node-name", name.to_owned()),
    ] {
        match arguments.iter().position(|argument| argument == flag) {
            Some(at) => arguments[at + 1] = value,
            None => arguments.extend([flag.to_owned(), value]),
        }
    }
    let mut server = node.command(&node.program());
    server
        .args(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    (Ends(server.spawn().unwrap()), address)
}

#[test]
fn an_address_is_shown_once_by_several_daemons_on_one_containerd() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let node = crate::node()
        .lan(&lan)
        .server(&["--redis-url", "redis://192.0.2.1", "--node-name", "first"])
        .start();
    let others = ["second", "third"].map(|name| second_daemon(&node, name));
    // A daemon that starts clears the store they share of what is half written.
    let nodes = || {
        json(&node, &["cluster", "nodes"])["nodes"]
            .as_array()
            .unwrap()
            .len()
            == 3
    };
    wait_until("all three are nodes", PATIENCE, nodes);
    node.create_network("web", &network::bridge("web", "10.88.0.0/16"));
    node.run_container("shell", &[], &[]);
    node.circuit(&["network", "connect", "shell", "web"]).ok();
    for (_, address) in &others {
        let once = || {
            let ran = node.circuit(&["--address", address, "network", "ips", "shell"]);
            ran.stdout.matches("10.88.").count() == 1
        };
        wait_until("it is shown once", PATIENCE, once);
    }
    let own = node.circuit(&["network", "ips", "shell"]).ok();
    assert_eq!(own.matches("10.88.").count(), 1, "{own}");
}

/// This program with a clock that is wrong by `WRONG_CLOCK` seconds.
fn with_wrong_clock() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_circuit"));
    let path = built.with_file_name("examples").join("wrong_clock");
    let remedy = "run `cargo build -p circuit --example wrong_clock`, as `cargo test` does";
    assert!(path.exists(), "no {}: {remedy}", path.display());
    path
}

#[test]
fn clocks_that_differ_change_nothing() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let program = with_wrong_clock();
    let node = || {
        let node = TestNode::builder(&program).lan(&lan);
        node.without_daemon().start()
    };
    let nodes = [node(), node(), node()];
    let clocks = [("slow", "-600"), ("right", "0"), ("fast", "700")];
    let daemons = nodes.iter().zip(clocks).map(|(node, (name, wrong_by))| {
        let mut server = node.command(&node.program());
        server
            .args(node.server_arguments())
            .args(membership(name, 5))
            .env("WRONG_CLOCK", wrong_by);
        let log = node.folder().join("faked.log");
        server
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap());
        (Ends(server.spawn().unwrap()), log)
    });
    let daemons: Vec<_> = daemons.collect();
    let names = |node: &TestNode| {
        let ran = node.circuit(&["cluster", "nodes", "--wide"]);
        clocks.iter().all(|(name, _)| {
            let line = ran
                .stdout
                .lines()
                .find(|line| line.split_whitespace().next() == Some(*name));
            line.is_some_and(|line| line.contains("live"))
        })
    };
    for node in &nodes {
        wait_until("all three are live", PATIENCE, || names(node));
    }
    nodes[0].create_network("web", &network::bridge("web", "10.88.0.0/16"));
    nodes[0].run_container("shell", &[], &[]);
    nodes[0]
        .circuit(&["network", "connect", "shell", "web"])
        .ok();
    let shown = |node: &TestNode| {
        node.circuit(&["network", "ips", "shell"])
            .stdout
            .contains("10.88.")
    };
    for node in &nodes {
        wait_until("all know it", PATIENCE, || shown(node));
    }
    // Over several leases nobody is taken for dead.
    for _ in 0..48 {
        std::thread::sleep(std::time::Duration::from_millis(250));
        for node in &nodes {
            assert!(shown(node));
        }
    }
    // Their clocks do differ.
    let first = |log: &Path| {
        fs::read_to_string(log)
            .unwrap()
            .chars()
            .take(16)
            .collect::<String>()
    };
    let minutes: std::collections::BTreeSet<String> =
        daemons.iter().map(|(_, log)| first(log)).collect();
    assert_eq!(minutes.len(), 3, "{minutes:?}");
}
