//! Names in a cluster, alone and behind a stock CoreDNS.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use circuit_testing::{CoreDns, Lan, PATIENCE, TestNode, network, wait_until};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::support::{Api, json, member};

/// Asks on this node, as programs on it do.
fn found_by(node: &TestNode, port: &str, name: &str, kind: &str) -> Vec<String> {
    let ran = node.dig(&["@127.0.0.1", "-p", port, "+short", "+time=8", name, kind]);
    let mut lines: Vec<String> = ran.ok().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn found(node: &TestNode, name: &str) -> Vec<String> {
    found_by(node, "5353", name, "A")
}

/// A lease short enough for tests.
const LEASE: Duration = Duration::from_secs(3);

/// A node that answers with names of others for as long without Redis.
fn naming(lan: &Lan, name: &str, stale: &str) -> TestNode {
    let dns = ["--dns-listen", "127.0.0.1:5353", "--dns-stale", stale];
    let lease = u32::try_from(LEASE.as_secs()).unwrap();
    member(lan, name, lease).server(&dns).start()
}

fn run(node: &TestNode, network: &str, container: &str) -> String {
    node.run_container(container, &[], &[]);
    node.circuit(&["network", "connect", container, network])
        .ok();
    let ips = json(node, &["network", "ips", container]);
    let own = |ip: &&serde_json::Value| ip["network"] == network;
    let ip = ips["ips"].as_array().unwrap().iter().find(own).unwrap()["ip"].clone();
    ip.as_str().unwrap().to_owned()
}

/// A bridge on each node, and one network straight on the LAN they share.
struct Fleet {
    nodes: Vec<TestNode>,
    redis: circuit_testing::RedisServer,
    _lan: Lan,
}

impl Fleet {
    fn start() -> Self {
        Self::of(["3s", "3s"])
    }

    /// Each believes for as long what it heard of the other.
    fn of(stale: [&str; 2]) -> Self {
        let lan = Lan::new();
        let redis = lan.redis();
        let nodes: Vec<TestNode> = ["one", "two"]
            .iter()
            .zip(stale)
            .map(|(name, stale)| naming(&lan, name, stale))
            .collect();
        let ipam = json!({ "subnet": "10.77.0.0/24", "gateway": "10.77.0.1" });
        for (node, subnet) in nodes.iter().zip(["10.81.0.0/16", "10.82.0.0/16"]) {
            node.create_network("web", &network::bridge("web", subnet));
            node.create_network("lan", &network::pool("lan", &ipam));
        }
        Self {
            nodes,
            redis,
            _lan: lan,
        }
    }
}

/// The first block of the documents that has this, for other zones.
fn documented(plugin: &str, zones: &str) -> String {
    let page = include_str!("../../../../docs/coredns.md");
    let mut blocks = page.split("```").skip(1).step_by(2);
    let block = blocks.find(|block| block.contains(plugin)).unwrap();
    let (header, rest) = block.split_once('{').unwrap();
    assert_eq!(header.trim(), "circuit.internal ctr0 88.10.in-addr.arpa");
    let (body, _) = rest.split_once("\n}").unwrap();
    format!("{zones} {{{body}\n}}\n")
}

#[test]
fn every_node_answers_for_all_also_behind_coredns() {
    let fleet = Fleet::start();
    let [one, two] = [&fleet.nodes[0], &fleet.nodes[1]];
    let a = run(one, "web", "a");
    let b = run(two, "lan", "b");
    let c = run(one, "lan", "c");
    let zones = "circuit.internal web lan 77.10.in-addr.arpa";
    let corefile = |port: &str, plugin: &str| {
        let zones: Vec<String> = zones
            .split(' ')
            .map(|zone| format!("{zone}:{port}"))
            .collect();
        documented(plugin, &zones.join(" "))
    };
    let servers: Vec<[CoreDns; 2]> = [one, two]
        .map(|node| {
            let grpc = corefile("5354", "grpc . 127.0.0.1:8080");
            let forward = corefile("5355", "forward . 127.0.0.1:5353");
            [
                CoreDns::start(node, &grpc, 5354),
                CoreDns::start(node, &forward, 5355),
            ]
        })
        .into();
    for node in [one, two] {
        for (name, kind, expected) in [
            ("a.web", "A", &*a),
            ("b.lan", "A", &b),
            ("c.lan.circuit.internal", "A", &c),
            ("b.circuit.internal", "A", &b),
            ("a.one.node.circuit.internal", "A", &a),
            ("a.two.node.circuit.internal", "A", ""),
            ("gone.lan", "A", ""),
            ("b.lan", "AAAA", ""),
        ] {
            let expected: Vec<&str> = Some(expected)
                .filter(|it| !it.is_empty())
                .into_iter()
                .collect();
            let what = format!("{name} on {}", node.name());
            // What comes from another node is there in a moment.
            wait_until(&what, PATIENCE, || {
                found_by(node, "5353", name, kind) == expected
            });
            for port in ["5354", "5355"] {
                assert_eq!(
                    found_by(node, port, name, kind),
                    expected,
                    "{what} at {port}"
                );
            }
        }
        let reverse: Vec<&str> = b.split('.').rev().collect();
        let reverse = format!("{}.in-addr.arpa", reverse.join("."));
        for port in ["5353", "5354", "5355"] {
            assert_eq!(
                found_by(node, port, &reverse, "PTR"),
                ["b.lan.circuit.internal."]
            );
        }
    }
    drop(servers);
    // The original's plugin: the name is cut at its first dot, and the addresses
    // are those of the network that is the rest.
    for (name, expected) in [("a.web", &a), ("b.lan", &b)] {
        let (container, rest) = name.split_once('.').unwrap();
        let told = Api::of(two).ips(container, "").unwrap();
        let ips = told.ips.iter().filter(|ip| ip.network == rest);
        let ips: Vec<&str> = ips.map(|ip| &*ip.ip).collect();
        assert_eq!(ips, [expected], "{name}");
    }
    // A disconnect is heard of too.
    two.circuit(&["network", "disconnect", "b", "lan"]).ok();
    assert!(found(two, "b.lan").is_empty());
    wait_until("b is gone", PATIENCE, || found(one, "b.lan").is_empty());
}

#[test]
fn names_of_other_nodes_last_for_a_while_without_redis() {
    let mut fleet = Fleet::of(["1h", "3s"]);
    let [one, two] = [&fleet.nodes[0], &fleet.nodes[1]];
    let a = run(one, "web", "a");
    let b = run(two, "web", "b");
    wait_until("b on one", PATIENCE, || found(one, "b.web") == [&*b]);
    wait_until("a on two", PATIENCE, || found(two, "a.web") == [&*a]);
    fleet.redis.kill();
    let killed = Instant::now();
    let [one, two] = [&fleet.nodes[0], &fleet.nodes[1]];
    wait_until("a is too old", PATIENCE, || found(two, "a.web").is_empty());
    // Who believes for longer does, though no lease holds any more; own names stay.
    sleep((LEASE * 2).saturating_sub(killed.elapsed()));
    assert_eq!(found(one, "b.web"), [&*b]);
    assert!(found(two, "a.web").is_empty());
    for (node, name, address) in [(one, "a.web", &a), (two, "b.web", &b)] {
        assert_eq!(found(node, name), [&**address]);
    }
    fleet.redis.come_back();
    let two = &fleet.nodes[1];
    wait_until("a is known again", PATIENCE, || {
        found(two, "a.web") == [&*a]
    });
}

/// How late a node may hear of another's changes; that they take far less is the
/// benchmark's matter.
const LATE: Duration = Duration::from_secs(1);

/// Now, on the clock that all programs of the machine share.
fn now() -> i128 {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    i128::try_from(time.as_nanos()).unwrap()
}

/// How long a container had an address, at most and at least.
#[derive(Debug)]
struct Spell {
    address: String,
    /// Before the connect began, and after the disconnect was answered.
    most: (i128, i128),
    /// After the connect was answered, and before the disconnect began.
    least: (i128, i128),
}

/// Connects and disconnects a container, and remembers when it had what: for a moment
/// mostly, and at times for so long that every node must have heard of it.
fn churn(node: &TestNode, container: &str, rounds: usize) -> Vec<Spell> {
    let mut spells = Vec::new();
    for round in 0..rounds {
        let before = now();
        let told = node.circuit(&["network", "connect", container, "web"]).ok();
        let up = now();
        let address = told.trim().rsplit('=').next().unwrap().to_owned();
        sleep(match round % 8 {
            7 => LATE * 2,
            _ => Duration::from_millis(20),
        });
        let down = now();
        node.circuit(&["network", "disconnect", container, "web"])
            .ok();
        spells.push(Spell {
            address,
            most: (before, now()),
            least: (up, down),
        });
    }
    spells
}

/// The interpreter with dnspython.
fn python() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/python-env");
    let made = Command::new("bash").arg(script).output().unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    String::from_utf8(made.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

fn resolve_py() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/resolve.py");
    script.to_str().unwrap().to_owned()
}

#[test]
fn another_resolver_library_agrees() {
    let node = crate::node()
        .server(&["--dns-listen", "127.0.0.1:5353"])
        .start();
    node.create_network("ctr0", &network::full("ctr0", "10.88.0.0/16"));
    let on = ("io.circuit.network", "ctr0");
    node.run_container("web", &[on], &[]);
    node.run_container("db", &[on, ("io.circuit.ports", "8080:80")], &[]);
    node.wait_for_addresses("web");
    node.wait_for_addresses("db");
    let checked = node.run(
        &python(),
        &["-B", &resolve_py(), "check", "127.0.0.1", "5353"],
    );
    assert_eq!(checked.ok(), "checked\n");
    node.remove_container("web");
    node.remove_container("db");
    node.assert_nothing_left();
}

#[test]
fn no_wrong_address_is_answered_while_containers_come_and_go() {
    const ROUNDS: usize = 24;
    let fleet = Fleet::start();
    let names: Vec<(usize, String)> = (0..2)
        .flat_map(|node| ["x", "y"].map(|which| (node, format!("{which}{node}"))))
        .collect();
    for (node, container) in &names {
        fleet.nodes[*node].run_container(container, &[], &[]);
    }
    let (python, script) = (python(), resolve_py());
    let mut history: BTreeMap<String, (usize, Vec<Spell>)> = BTreeMap::new();
    let answers: Vec<Output> = scope(|scope| {
        // What is asked ends with this file, also when something panics.
        let going = tempfile::NamedTempFile::new().unwrap();
        let going_path = going.path().to_str().unwrap();
        let askers: Vec<_> = fleet
            .nodes
            .iter()
            .map(|node| {
                let mut asker = node.command(&python);
                asker.args(["-B", &script, "watch", "127.0.0.1", "5353", going_path]);
                asker.args(
                    names
                        .iter()
                        .map(|(_, container)| format!("{container}.web")),
                );
                asker.stdout(Stdio::piped()).stdin(Stdio::null());
                let asker = asker.spawn().unwrap();
                scope.spawn(move || asker.wait_with_output().unwrap())
            })
            .collect();
        let changing: Vec<_> = names
            .iter()
            .map(|(node, container)| {
                let on = &fleet.nodes[*node];
                scope.spawn(move || (container.clone(), *node, churn(on, container, ROUNDS)))
            })
            .collect();
        for thread in changing {
            let (container, node, spells) = thread.join().unwrap();
            history.insert(format!("{container}.web"), (node, spells));
        }
        drop(going);
        let told = askers.into_iter().map(|asker| asker.join().unwrap());
        told.collect()
    });
    for (asker, output) in answers.iter().enumerate() {
        assert!(output.status.success(), "{asker}: {output:?}");
        let lines = String::from_utf8_lossy(&output.stdout);
        let judged: Vec<Judged> = lines
            .lines()
            .map(|line| judge(&history, asker, line))
            .collect();
        let count = |what: fn(&Judged) -> bool| judged.iter().filter(|it| what(it)).count();
        let seen = count(|it| it.addresses > 0);
        let bound = count(|it| it.bound && it.of_another);
        println!("{asker}: {seen} answers had an address, {bound} had to have another node's");
        assert!(seen > 100, "{asker}: only {seen} answers had an address");
        assert!(
            bound > 20,
            "{asker}: only {bound} had to have another node's"
        );
    }
}

/// An answer that is right.
struct Judged {
    addresses: usize,
    /// Whether one without an address would have been wrong.
    bound: bool,
    /// Whether it is of another node's container.
    of_another: bool,
}

/// Fails when an answer is wrong.
fn judge(history: &BTreeMap<String, (usize, Vec<Spell>)>, asker: usize, line: &str) -> Judged {
    let words: Vec<&str> = line.split(' ').collect();
    let [start, end, name, addresses @ ..] = &words[..] else {
        panic!("no answer: {line}");
    };
    let (start, end): (i128, i128) = (start.parse().unwrap(), end.parse().unwrap());
    let (home, spells) = &history[*name];
    let of_another = *home != asker;
    let late = if of_another { LATE.as_nanos() } else { 0 };
    let late = i128::try_from(late).unwrap();
    for address in addresses {
        let had = |spell: &&Spell| {
            spell.address == *address && spell.most.0 <= end && start <= spell.most.1 + late
        };
        assert!(
            spells.iter().any(|spell| had(&spell)),
            "{line}: it never had that then: {spells:?}"
        );
    }
    let has = |spell: &&Spell| spell.least.0 + late <= start && end <= spell.least.1;
    let bound = spells.iter().find(has);
    assert!(
        bound.is_none() || !addresses.is_empty(),
        "{line}: it had an address: {bound:?}"
    );
    Judged {
        addresses: addresses.len(),
        bound: bound.is_some(),
        of_another,
    }
}
