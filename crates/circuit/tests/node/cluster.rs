//! Nodes of one cluster, by a Redis on their LAN.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use circuit_testing::{
    Lan, NodeBuilder, PATIENCE, RedisServer, Stops, TestNode, network, wait_until,
};
use serde_json::Value;

use crate::support::{assert_names, json, member};

/// How long a node is cut off.
const CUT: Duration = Duration::from_secs(30);

/// A lease short enough for tests.
pub(crate) const LEASE: Duration = Duration::from_secs(4);

/// One that holds while a node is away for a moment, also on a busy machine.
const LONG_LEASE: Duration = Duration::from_secs(15);

pub(crate) struct Cluster {
    pub(crate) lan: Lan,
    pub(crate) redis: RedisServer,
    pub(crate) nodes: Vec<TestNode>,
}

impl Cluster {
    pub(crate) fn of(count: u8) -> Self {
        Self::with_lease(count, LEASE)
    }

    fn with_lease(count: u8, lease: Duration) -> Self {
        let lan = Lan::new();
        let redis = lan.redis();
        let nodes = (0..count)
            .map(|number| join_with(&lan, &name(number), lease).start())
            .collect();
        Self { lan, redis, nodes }
    }

    /// Runs a container on a node, and connects it.
    fn run(&self, node: usize, container: &str) -> String {
        // Each node has a bridge of its own under that name.
        let subnet = format!("10.{}.0.0/16", 90 + node);
        let node = &self.nodes[node];
        if !node.circuit(&["network", "info", "web"]).worked() {
            node.create_network("web", &network::bridge("web", &subnet));
        }
        node.run_container(container, &[], &[]);
        node.circuit(&["network", "connect", container, "web"]).ok();
        let ips = ips(node, container);
        ips[0].0.clone()
    }

    /// Runs `a` on the first node and `b` on the second, until all know them.
    #[track_caller]
    fn run_both(&self) {
        self.run(0, "a");
        self.run(1, "b");
        self.all("both", |node| {
            !ips(node, "a").is_empty() && !ips(node, "b").is_empty()
        });
    }

    /// Waits until every node says so.
    #[track_caller]
    pub(crate) fn all(&self, what: &str, says: impl Fn(&TestNode) -> bool) {
        for node in &self.nodes {
            wait_until(&format!("{what} on {}", node.name()), PATIENCE, || {
                says(node)
            });
        }
    }
}

fn name(number: u8) -> String {
    format!("node{number}")
}

fn join(lan: &Lan, name: &str) -> TestNode {
    join_with(lan, name, LEASE).start()
}

fn join_with(lan: &Lan, name: &str, lease: Duration) -> NodeBuilder {
    member(lan, name, u32::try_from(lease.as_secs()).unwrap())
}

/// Addresses of a container with their nodes; none when nobody knows it.
pub(crate) fn ips(node: &TestNode, container: &str) -> Vec<(String, String)> {
    let ran = node.circuit(&["network", "ips", container, "--format", "json"]);
    let Ok(answer) = serde_json::from_str::<Value>(&ran.stdout) else {
        return Vec::new();
    };
    let text = |ip: &Value, key: &str| ip[key].as_str().unwrap().to_owned();
    let ips = answer["ips"].as_array().unwrap().iter();
    ips.map(|ip| (text(ip, "ip"), text(ip, "node"))).collect()
}

fn names(node: &TestNode) -> Vec<String> {
    let nodes = json(node, &["cluster", "nodes"]);
    let nodes = nodes["nodes"].as_array().unwrap().iter();
    nodes
        .map(|n| n["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_node_knows_every_container() {
    let cluster = Cluster::of(3);
    cluster.all("the nodes are there", |node| {
        names(node) == ["node0", "node1", "node2"]
    });
    let address = cluster.run(0, "web");
    let there = [(address.clone(), "node0".to_owned())];
    cluster.all("its address", |node| ips(node, "web") == there);
    // The same name on another node is another container.
    let second = cluster.run(2, "web");
    let mut both = vec![there[0].clone(), (second, "node2".to_owned())];
    both.sort();
    let both = |node: &TestNode| {
        let mut found = ips(node, "web");
        found.sort();
        found == both
    };
    cluster.all("both", both);
    let wide = cluster.nodes[1]
        .circuit(&["network", "ips", "web", "--wide"])
        .ok();
    assert!(wide.starts_with("NETWORK"), "{wide}");
    assert!(wide.contains("node0"), "{wide}");
    let narrow = cluster.nodes[1].circuit(&["network", "ips", "web"]).ok();
    assert!(
        narrow.lines().next().unwrap().ends_with("INTERFACE"),
        "{narrow}"
    );
    cluster.nodes[0]
        .circuit(&["network", "disconnect", "web", "web"])
        .ok();
    let only_second = |node: &TestNode| {
        let found = ips(node, "web");
        found.len() == 1 && found[0].1 == "node2"
    };
    cluster.all("the second one alone", only_second);
    let unknown = cluster.nodes[1].circuit(&["network", "ips", "nobody"]);
    assert!(!unknown.worked());
    for (node, container) in [(0, "web"), (2, "web")] {
        cluster.nodes[node].remove_container(container);
    }
}

#[test]
fn a_stopped_node_is_forgotten_at_once_and_a_killed_one_with_its_lease() {
    let cluster = Cluster::with_lease(3, LONG_LEASE);
    cluster.run_both();
    let last = &cluster.nodes[2];
    let start = Instant::now();
    cluster.nodes[0].stop_daemon();
    wait_until("the stopped one is forgotten", PATIENCE, || {
        ips(last, "a").is_empty()
    });
    assert!(
        start.elapsed() < LONG_LEASE,
        "that took {:?}",
        start.elapsed()
    );
    cluster.nodes[1].kill_daemon();
    sleep(LEASE / 4);
    assert!(!ips(last, "b").is_empty(), "its lease still holds");
    wait_until("the killed one is forgotten", PATIENCE, || {
        ips(last, "b").is_empty()
    });
    assert_eq!(names(last), ["node2"]);
    // A start after a crash takes the name over, lease or not.
    cluster.nodes[1].start_daemon();
    wait_until("it is back", PATIENCE, || !ips(last, "b").is_empty());
    cluster.nodes[1].kill_daemon();
    cluster.nodes[1].start_daemon();
    wait_until("and again", PATIENCE, || !ips(last, "b").is_empty());
}

#[test]
fn a_node_that_was_cut_off_is_right_again_soon() {
    let cluster = Cluster::of(2);
    let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
    cluster.run_both();
    cluster.lan.cut(one);
    let cut = Instant::now();
    wait_until("its lease ends", PATIENCE, || ips(two, "a").is_empty());
    // It goes on: networking, answering for itself and for what it last heard.
    cluster.run(0, "late");
    let stale = one.circuit(&["network", "ips", "b"]);
    assert!(
        stale.worked() && stale.stderr.contains("redis was last heard"),
        "{stale}"
    );
    assert!(!ips(one, "b").is_empty() && !ips(one, "late").is_empty());
    two.circuit(&["network", "disconnect", "b", "web"]).ok();
    let status = json(one, &["cluster", "status"]);
    assert_eq!(status["connected"], false, "{status}");
    sleep(CUT.saturating_sub(cut.elapsed()));
    cluster.lan.mend(one);
    let mended = Instant::now();
    let right =
        || ips(one, "b").is_empty() && !ips(two, "a").is_empty() && !ips(two, "late").is_empty();
    wait_until("everything is right", PATIENCE, right);
    println!("right again {:?} after the cut", mended.elapsed());
    assert!(
        mended.elapsed() < Duration::from_secs(5),
        "{:?}",
        mended.elapsed()
    );
    let log = one.daemon_log();
    let complaints = log
        .lines()
        .filter(|line| line.contains("no connection to redis"))
        .count();
    assert!((1..10).contains(&complaints), "{log}");
}

#[test]
fn a_redis_that_refuses_what_is_asked_is_left_alone_until_it_does_not() {
    let cluster = Cluster::of(2);
    cluster.run_both();
    let lines = || cluster.nodes[0].daemon_log().lines().count();
    let connections = || {
        let stats = cluster.redis.cli(&["INFO", "stats"]);
        let count = stats
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse::<usize>().unwrap()
    };
    let before = (lines(), connections());
    // A replica takes connections and answers a PING.
    cluster.redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    sleep(Duration::from_secs(10));
    let (logged, connected) = (lines() - before.0, connections() - before.1);
    println!("{logged} lines, {connected} connections of two nodes in 10 s");
    let log = cluster.nodes[0].daemon_log();
    assert!((1..10).contains(&logged), "{log}");
    assert!(connected < 100, "{connected}");
    assert!(!ips(&cluster.nodes[0], "b").is_empty());
    cluster.redis.cli(&["REPLICAOF", "NO", "ONE"]);
    cluster.all("all is well", |node| {
        json(node, &["cluster", "status"])["connected"] == true && names(node).len() == 2
    });
}

#[test]
fn redis_comes_back_empty_and_everything_is_there_again() {
    let mut cluster = Cluster::of(2);
    cluster.run_both();
    cluster.redis.kill();
    // What was last heard of is still answered.
    cluster.nodes[1]
        .circuit(&["network", "disconnect", "b", "web"])
        .ok();
    assert!(!ips(&cluster.nodes[0], "b").is_empty());
    cluster.redis.come_back();
    cluster.all("what is there, and no more", |node| {
        !ips(node, "a").is_empty() && ips(node, "b").is_empty() && names(node).len() == 2
    });
}

#[test]
fn a_frozen_node_comes_back_with_everything() {
    let cluster = Cluster::of(2);
    let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
    cluster.run(0, "a");
    wait_until("it is known", PATIENCE, || !ips(two, "a").is_empty());
    one.freeze_daemon(true);
    wait_until("it is forgotten", PATIENCE, || ips(two, "a").is_empty());
    one.freeze_daemon(false);
    wait_until("it is known again", PATIENCE, || !ips(two, "a").is_empty());
}

#[test]
fn two_nodes_of_one_name_are_told_apart() {
    let cluster = Cluster::of(1);
    let second = crate::node().lan(&cluster.lan).without_daemon().start();
    let arguments = second.server_arguments();
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.extend(["--redis-url", "redis://192.0.2.1", "--node-name", "node0"]);
    let said = second.circuit(&arguments).fails(1);
    assert!(
        said.contains("another node of the fleet is called node0"),
        "{said}"
    );
    assert!(said.contains("--node-name"), "{said}");
}

#[test]
fn nonsense_is_ignored_and_counted() {
    let cluster = Cluster::of(2);
    cluster.run(0, "a");
    cluster.all("it is known", |node| !ips(node, "a").is_empty());
    let redis = &cluster.redis;
    redis.cli(&["PUBLISH", "circuit:{fleet}:changes", "nonsense"]);
    redis.cli(&[
        "PUBLISH",
        "circuit:{fleet}:changes",
        "node0\n1\nx\nchange\n",
    ]);
    redis.cli(&[
        "PUBLISH",
        "circuit:{fleet}:changes",
        "node9\n1\n9999999\nchange\nnonsense",
    ]);
    redis.cli(&[
        "HSET",
        "circuit:{fleet}:records:node0",
        "evil",
        "\u{ff}\u{ff}nonsense",
    ]);
    let counted = |node: &TestNode| json(node, &["cluster", "status"])["nonsense"] != 0;
    cluster.all("nonsense is counted", counted);
    let told = cluster.nodes[0].circuit(&["doctor"]).stdout;
    assert_names(&told, &["made no sense since the daemon was started"]);
    cluster.run(1, "b");
    cluster.all("all is well", |node| {
        !ips(node, "a").is_empty() && !ips(node, "b").is_empty()
    });
}

#[test]
fn a_node_starts_without_redis_and_joins_when_it_comes() {
    let lan = Lan::new();
    let alone = join(&lan, "node0");
    alone.create_network("web", &network::bridge("web", "10.88.0.0/16"));
    alone.run_container("a", &[], &[]);
    alone.circuit(&["network", "connect", "a", "web"]).ok();
    assert!(!ips(&alone, "a").is_empty());
    let _redis = lan.redis();
    let second = join(&lan, "node1");
    wait_until("the first one joined", PATIENCE, || {
        !ips(&second, "a").is_empty()
    });
}

#[test]
fn a_shared_network_is_not_deleted_while_another_node_uses_it() {
    let lan = Lan::new();
    let _redis = lan.valkey();
    let node = |name: &str| {
        let folder = crate::node().without_daemon().lan(&lan).start();
        // Nobody else sees a URL that is in a file.
        let file = folder.file("redis-url", "redis://192.0.2.1\n");
        folder.start_daemon_with(&["--redis-url-file", &file, "--node-name", name]);
        folder
    };
    let shared = |name: &str| {
        let node = crate::node()
            .without_daemon()
            .lan(&lan)
            .server(&["--datastore", "redis", "--node-name", name])
            .start();
        let file = node.file("redis-url", "redis://192.0.2.1\n");
        node.start_daemon_with(&["--redis-url-file", &file]);
        node
    };
    let (one, two, other) = (shared("one"), shared("two"), node("other"));
    one.create_network("web", &network::bridge("web", "10.88.0.0/16"));
    let there = || two.circuit(&["network", "info", "web"]).worked();
    wait_until("the network is shared", PATIENCE, there);
    two.run_container("user", &[], &[]);
    two.circuit(&["network", "connect", "user", "web"]).ok();
    wait_until("its user is known", PATIENCE, || {
        !ips(&one, "user").is_empty()
    });
    wait_until("everywhere", PATIENCE, || !ips(&other, "user").is_empty());
    let refused = one.circuit(&["network", "rm", "web"]);
    assert!(!refused.worked(), "{refused}");
    assert!(refused.stderr.contains("user on two"), "{refused}");
    two.circuit(&["network", "disconnect", "user", "web"]).ok();
    let deleted = || one.circuit(&["network", "rm", "web"]).worked();
    wait_until("it can be deleted", PATIENCE, deleted);
}

#[test]
fn a_wrong_password_in_the_file_ends_the_start_and_is_told_nowhere() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let node = crate::node().without_daemon().lan(&lan).start();
    let file = node.file("redis-url", "redis://nobody:s3cret@192.0.2.1");
    let mut arguments = node.server_arguments();
    arguments.extend(["--redis-url-file".to_owned(), file]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = node.circuit(&arguments).fails(1);
    assert!(said.contains("refuses the user or the password"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
}

#[test]
fn a_crash_with_a_quick_start_goes_unnoticed() {
    let cluster = Cluster::with_lease(2, LONG_LEASE);
    cluster.run(1, "b");
    let watcher = &cluster.nodes[0];
    wait_until("it is known", PATIENCE, || !ips(watcher, "b").is_empty());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                assert!(!ips(watcher, "b").is_empty(), "it was gone at look {looks}");
                looks += 1;
            }
            looks
        });
        let stops = Stops(&stop);
        for _ in 0..3 {
            cluster.nodes[1].kill_daemon();
            cluster.nodes[1].start_daemon();
            sleep(Duration::from_millis(1500));
        }
        drop(stops);
        println!("looked {} times", watching.join().unwrap());
    });
}

#[test]
fn a_stale_view_is_a_metric() {
    let lan = Lan::new();
    let mut redis = lan.redis();
    let node = crate::node()
        .lan(&lan)
        .server(&[
            "--redis-url",
            "redis://192.0.2.1",
            "--metrics",
            "127.0.0.1:9464",
        ])
        .start();
    let metric = |name: &str| -> Option<f64> {
        let page = node
            .run("curl", &["-sf", "http://127.0.0.1:9464/metrics"])
            .ok();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line?.parse().ok()
    };
    wait_until("redis answers", PATIENCE, || {
        metric("circuit_registry_up") == Some(1.0)
    });
    assert_eq!(metric("circuit_cluster_nodes"), Some(1.0));
    redis.kill();
    wait_until("redis is away", PATIENCE, || {
        metric("circuit_registry_up") == Some(0.0)
    });
    let old = || metric("circuit_registry_age_seconds").is_some_and(|age| age > 2.0);
    wait_until("the view gets old", PATIENCE, old);
    redis.come_back();
    wait_until("all is well", PATIENCE, || {
        metric("circuit_registry_up") == Some(1.0)
    });
}

#[test]
fn redis_comes_back_as_it_was_and_everything_is_right() {
    let mut cluster = Cluster::of(3);
    cluster.run(0, "a");
    cluster.run(1, "b");
    cluster.run(2, "quiet");
    let known = |node: &TestNode| ["a", "b", "quiet"].iter().all(|c| !ips(node, c).is_empty());
    cluster.all("all three", known);
    // The file that it will come back with.
    cluster.redis.cli(&["SAVE"]);
    cluster.run(0, "new");
    for _ in 0..5 {
        cluster.nodes[1]
            .circuit(&["network", "connect", "b", "web"])
            .ok();
        cluster.nodes[1]
            .circuit(&["network", "disconnect", "b", "web"])
            .ok();
    }
    cluster.all("the changes", |node| {
        !ips(node, "new").is_empty() && ips(node, "b").is_empty()
    });
    cluster.redis.kill();
    cluster.redis.come_back();
    cluster.all("what is there, and no more", |node| {
        !ips(node, "new").is_empty() && ips(node, "b").is_empty() && known_but_b(node)
    });
    // Also for one who comes only now, and for what happens next.
    let late = join(&cluster.lan, "late");
    let right =
        || known_but_b(&late) && !ips(&late, "new").is_empty() && ips(&late, "b").is_empty();
    wait_until("a node that joins hears the same", PATIENCE, right);
    cluster.nodes[1]
        .circuit(&["network", "connect", "b", "web"])
        .ok();
    cluster.nodes[0]
        .circuit(&["network", "disconnect", "new", "web"])
        .ok();
    cluster.nodes.push(late);
    cluster.all("what happened next", |node| {
        !ips(node, "b").is_empty() && ips(node, "new").is_empty() && known_but_b(node)
    });
}

fn known_but_b(node: &TestNode) -> bool {
    ["a", "quiet"].iter().all(|c| !ips(node, c).is_empty())
}

#[test]
fn containers_of_others_are_known_without_containerd() {
    let cluster = Cluster::of(2);
    cluster.run(0, "a");
    let other = &cluster.nodes[1];
    wait_until("it is known", PATIENCE, || !ips(other, "a").is_empty());
    other.stop_containerd();
    assert!(!ips(other, "a").is_empty(), "memory answers");
    other.start_containerd();
}

#[test]
fn a_copied_disk_is_no_second_life_of_a_node() {
    let cluster = Cluster::of(2);
    let (one, other) = (&cluster.nodes[0], &cluster.nodes[1]);
    cluster.run(0, "a");
    wait_until("it is known", PATIENCE, || !ips(other, "a").is_empty());
    let copy = member(&cluster.lan, "node0", 4).without_daemon().start();
    let state = "/var/lib/circuit/state";
    std::fs::create_dir_all(copy.path(state)).unwrap();
    for entry in std::fs::read_dir(one.path(state)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("node-") {
            std::fs::copy(entry.path(), copy.path(state).join(entry.file_name())).unwrap();
        }
    }
    copy.start_daemon();
    // The later one has the name, and the former says that it has not.
    let told = || {
        one.daemon_log()
            .contains("another node of the fleet is called node0")
    };
    wait_until("the former one says so", PATIENCE, told);
    copy.create_network("web", &network::bridge("web", "10.99.0.0/16"));
    copy.run_container("b", &[], &[]);
    copy.circuit(&["network", "connect", "b", "web"]).ok();
    wait_until("the later one is heard", PATIENCE, || {
        !ips(other, "b").is_empty()
    });
    for _ in 0..12 {
        sleep(Duration::from_millis(250));
        assert!(!ips(other, "b").is_empty(), "the name goes to and fro");
    }
}

#[test]
fn a_node_may_keep_its_place_over_a_stop() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let other = join(&lan, "other");
    let node = join_with(&lan, "upgraded", LONG_LEASE)
        .server(&["--leave-on-stop", "false"])
        .start();
    node.create_network("web", &network::bridge("web", "10.90.0.0/16"));
    node.run_container("a", &[], &[]);
    node.circuit(&["network", "connect", "a", "web"]).ok();
    wait_until("it is known", PATIENCE, || !ips(&other, "a").is_empty());
    node.stop_daemon();
    sleep(LEASE / 4);
    assert!(!ips(&other, "a").is_empty(), "its lease still holds");
    node.start_daemon();
    sleep(LONG_LEASE);
    assert!(!ips(&other, "a").is_empty(), "it is back in time");
    node.stop_daemon();
    wait_until("its lease ends", PATIENCE, || ips(&other, "a").is_empty());
}

#[test]
fn a_node_that_died_while_redis_was_away_is_forgotten() {
    let mut cluster = Cluster::of(2);
    cluster.run_both();
    cluster.redis.kill();
    cluster.nodes[1].kill_daemon();
    // Nobody is left to say that it is gone, and Redis never heard of it.
    cluster.redis.come_back();
    let left = &cluster.nodes[0];
    wait_until("it is forgotten", PATIENCE, || ips(left, "b").is_empty());
    assert!(!ips(left, "a").is_empty());
}
