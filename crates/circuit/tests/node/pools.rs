//! Addresses out of one pool over three nodes, on a network of macvlan.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use circuit_testing::{Lan, PATIENCE, RedisServer, TestNode, network, wait_for, wait_until};
use serde_json::json;

use crate::support::{self, member};

struct Fleet {
    lan: Lan,
    redis: RedisServer,
    nodes: Vec<TestNode>,
    /// Every container with its node and address.
    given: BTreeMap<String, (usize, String)>,
}

impl Fleet {
    fn start() -> Self {
        let lan = Lan::new();
        let redis = lan.redis();
        let node = |number: usize| {
            let name = format!("node{number}");
            let node = member(&lan, &name, 4).start();
            let ipam = json!({ "subnet": "10.99.0.0/24", "exclude": ["10.99.0.1"] });
            node.create_network("lan", &network::pool("lan", &ipam));
            node
        };
        let nodes = (0..3).map(node).collect();
        Self {
            lan,
            redis,
            nodes,
            given: BTreeMap::new(),
        }
    }

    /// Connects a new container on each of these nodes, all at once.
    #[track_caller]
    fn connect(&mut self, what: &str, nodes: &[usize]) {
        let round = |node: &usize| {
            let container = format!("{what}{node}");
            let on = &self.nodes[*node];
            on.run_container(&container, &[], &[]);
            on.circuit(&["network", "connect", &container, "lan"]).ok();
            let ips = support::json(on, &["network", "ips", &container]);
            let own = ips["ips"].as_array().unwrap().iter();
            let mut own = own.map(|ip| ip["ip"].as_str().unwrap().to_owned());
            (container, (*node, own.next_back().unwrap()))
        };
        let made: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = nodes
                .iter()
                .map(|node| scope.spawn(|| round(node)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        self.given.extend(made);
        self.no_address_twice();
    }

    #[track_caller]
    fn no_address_twice(&self) {
        let mut by_address: BTreeMap<&str, &str> = BTreeMap::new();
        for (container, (_, address)) in &self.given {
            let other = by_address.insert(address, container);
            assert_eq!(other, None, "{address} is also {container}'s");
        }
    }
}

#[test]
fn no_address_is_given_twice_whatever_happens() {
    let mut fleet = Fleet::start();
    for round in ["a", "b"] {
        fleet.connect(round, &[0, 1, 2]);
    }
    // They reach each other over the LAN.
    let (_, there) = fleet.given["a1"].clone();
    let ping = || {
        fleet.nodes[0]
            .exec("a0", &["ping", "-c1", "-W1", &there])
            .worked()
    };
    wait_until("containers of two nodes reach each other", PATIENCE, ping);

    fleet.nodes[0].kill_daemon();
    fleet.nodes[0].start_daemon();
    fleet.connect("crash", &[0, 1, 2]);

    fleet.lan.cut(&fleet.nodes[2]);
    fleet.connect("cut", &[0, 1, 2]);
    fleet.lan.mend(&fleet.nodes[2]);
    fleet.connect("mended", &[0, 1, 2]);

    fleet.redis.kill();
    fleet.connect("away", &[0, 1, 2]);
    fleet.redis.come_back();
    fleet.connect("empty", &[0, 1, 2]);

    // What is given back can be given again, and what lives stays.
    fleet.nodes[1]
        .circuit(&["network", "disconnect", "a1", "lan"])
        .ok();
    fleet.given.remove("a1");
    fleet.connect("again", &[0, 1, 2]);
    // The ledger that came back empty is filled again within a heartbeat, once the
    // nodes have noticed that it is back.
    wait_until("every address is in the ledger", PATIENCE, || {
        let listed = fleet.nodes[0].circuit(&["ipam", "ls"]);
        let has = |(container, (_, address)): (&String, &(usize, String))| {
            let owner = format!("default-{container}");
            let named = |line: &str| {
                let words: Vec<_> = line.split_whitespace().collect();
                words.contains(&address.as_str()) && words.contains(&owner.as_str())
            };
            listed.stdout.lines().any(named)
        };
        listed.worked() && fleet.given.iter().all(has)
    });
}

#[test]
fn a_dead_nodes_addresses_come_back_and_those_of_living_containers_do_not() {
    let lan = Lan::new();
    let _redis = lan.redis();
    // Five addresses: all but the gateway's.
    let ipam = json!({ "subnet": "10.99.0.0/29", "gateway": "10.99.0.1" });
    let config = network::pool("lan", &ipam);
    let node = |name: &str| {
        let node = member(&lan, name, 3)
            .server(&["--ipam-grace", "2s"])
            .start();
        node.create_network("lan", &config);
        node
    };
    let (dead, alive) = (node("dead"), node("alive"));
    dead.run_container("a", &[], &[]);
    let connected = dead.circuit(&["network", "connect", "a", "lan"]).ok();
    let address = connected.trim().rsplit_once('=').unwrap().1.to_owned();
    dead.kill_daemon();
    let connect = |container: &str| {
        let ran = alive.circuit(&["network", "connect", container, "lan"]);
        let ip = ran
            .stdout
            .trim()
            .rsplit_once('=')
            .map(|(_, ip)| ip.to_owned());
        ran.worked().then(|| ip.unwrap())
    };
    for number in 0..4 {
        let container = format!("b{number}");
        alive.run_container(&container, &[], &[]);
        let given = wait_for("what nobody uses is given", PATIENCE, || {
            connect(&container)
        });
        assert_ne!(given, address);
    }
    // The daemon is dead, the container is not: the wire says so.
    alive.run_container("last", &[], &[]);
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        assert_eq!(connect("last"), None, "the address of a living container");
    }
    lan.cut(&dead);
    // One that answered is left alone for longer each time.
    let given = wait_for("what is gone is given", 3 * PATIENCE, || connect("last"));
    assert_eq!(given, address);
}

#[test]
fn both_families_fixed_addresses_and_release_by_hand() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let ipam = json!({
        "ranges": [[{ "subnet": "10.99.0.0/24" }], [{ "subnet": "fd99::/64" }]],
        "exclude": ["10.99.0.1-10.99.0.9"],
    });
    let config = network::pool("lan", &ipam);
    let node = |name: &str| {
        let node = member(&lan, name, 3).start();
        node.create_network("lan", &config);
        node
    };
    let (one, two) = (node("one"), node("two"));
    let addresses = |node: &TestNode, container: &str| -> Vec<String> {
        let ran = node.circuit(&["network", "ips", container, "--format", "json"]);
        let Ok(answer) = serde_json::from_str::<serde_json::Value>(&ran.stdout) else {
            return Vec::new();
        };
        let ips = answer["ips"].as_array().unwrap().iter();
        ips.map(|ip| ip["ip"].as_str().unwrap().to_owned())
            .collect()
    };
    let labels = [
        ("io.circuit.network", "lan"),
        ("io.circuit.network.lan.ip", "10.99.0.77"),
    ];
    one.run_container("fixed", &labels, &[]);
    wait_until("it is connected", PATIENCE, || {
        addresses(&one, "fixed").len() == 2
    });
    let found = addresses(&one, "fixed");
    assert!(found.contains(&"10.99.0.77".to_owned()), "{found:?}");
    assert!(found.iter().any(|ip| ip.starts_with("fd99::")), "{found:?}");
    // Nobody else gets it, and nobody what is excluded.
    two.run_container("same", &labels, &[]);
    let told = || {
        let ran = two.circuit(&["network", "ips", "same"]);
        ran.stderr.contains("10.99.0.77")
    };
    wait_until("that it is taken is told", PATIENCE, told);
    assert_eq!(addresses(&two, "same"), [""; 0]);
    two.run_container("free", &[], &[]);
    two.circuit(&["network", "connect", "free", "lan"]).ok();
    let given = addresses(&two, "free");
    let last: u8 = given[0].rsplit_once('.').unwrap().1.parse().unwrap();
    assert!(last > 9 && last != 77, "{given:?}");
    // What lives is not released by mistake; who is gone for good is.
    let refused = one.circuit(&["ipam", "release", "10.99.0.77"]);
    assert!(!refused.worked(), "{refused}");
    two.kill_daemon();
    lan.cut(&two);
    let release = ["ipam", "release", "--node", "two"];
    let refused = one.circuit(&release);
    assert!(refused.stderr.contains("--force"), "{refused}");
    one.circuit(&[&release[..], &["--force"]].concat()).ok();
    let listed = one.circuit(&["ipam", "ls"]).ok();
    let row = listed.lines().find(|line| line.contains(&given[0]));
    // The wire is asked before it is given.
    assert!(row.unwrap().contains("abandoned"), "{listed}");
}
