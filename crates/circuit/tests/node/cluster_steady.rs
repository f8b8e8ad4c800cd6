//! Containers that are connected and disconnected all the time, on a pool that
//! all nodes share, while things go wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use circuit_testing::{Lan, PATIENCE, RedisServer, Stops, TestNode, network, wait_until};
use serde_json::json;

use crate::cluster::{Cluster, LEASE, ips};

/// Connects and disconnects a node's containers until it is told to stop; what
/// is refused is tried again by the next round. Returns how many connects worked.
fn churn(node: &TestNode, containers: &[String], stop: &AtomicBool) -> u32 {
    let (mut rounds, mut connected) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        for container in containers {
            node.circuit(&["network", "disconnect", container, "web"]);
            let connect = node.circuit(&["network", "connect", container, "web"]);
            connected += u32::from(connect.worked());
            let _ = ips(node, container);
        }
        rounds += 1;
    }
    assert!(rounds > 0, "no round came to its end");
    connected
}

/// The nodes with their containers, which are connected and disconnected all the
/// time.
struct Steady {
    cluster: Cluster,
    names: Vec<Vec<String>>,
}

impl Steady {
    fn start() -> Self {
        let cluster = Cluster::of(3);
        let name = |node: usize, number: u8| format!("c{number}-of-{node}");
        let names: Vec<Vec<String>> = (0..3)
            .map(|node| (0..3).map(|number| name(node, number)).collect())
            .collect();
        for (node, containers) in cluster.nodes.iter().zip(&names) {
            node.create_network(
                "web",
                &network::pool("web", &json!({ "subnet": "10.99.0.0/24" })),
            );
            for container in containers {
                node.run_container(container, &[], &[]);
            }
        }
        Self { cluster, names }
    }

    /// Has something happen during steady changes, then looks at what all know.
    #[track_caller]
    fn through(&mut self, what: &str, fault: impl FnOnce(&mut RedisServer, &Lan, &[TestNode])) {
        let stop = AtomicBool::new(false);
        let Cluster { lan, redis, nodes } = &mut self.cluster;
        let connected: Vec<u32> = scope(|scope| {
            let threads: Vec<_> = nodes
                .iter()
                .zip(&self.names)
                .map(|(node, containers)| scope.spawn(|| churn(node, containers, &stop)))
                .collect();
            let stops = Stops(&stop);
            sleep(Duration::from_secs(1));
            fault(redis, lan, nodes);
            sleep(Duration::from_secs(1));
            drop(stops);
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        // Before and after what happens there is a second each.
        let all = connected.iter().all(|count| *count > 0);
        assert!(all, "{connected:?} connects worked during {what}");
        self.all_agree(what);
    }

    #[track_caller]
    fn all_agree(&self, what: &str) {
        let mut given = BTreeMap::new();
        for (node, containers) in self.cluster.nodes.iter().zip(&self.names) {
            let connect = || {
                node.circuit(&["network", "connect", &containers[0], "web"])
                    .worked()
            };
            wait_until(&format!("a connect after {what}"), PATIENCE, connect);
            node.circuit(&["network", "disconnect", &containers[1], "web"]);
        }
        for (node, containers) in self.cluster.nodes.iter().zip(&self.names) {
            for container in containers {
                // A node's own word is the truth.
                let own = ips(node, container);
                let about = format!("after {what} all agree that {container} has {own:?}");
                self.cluster
                    .all(&about, |other| ips(other, container) == own);
                for (ip, _) in own {
                    let other = given.insert(ip.clone(), container);
                    assert_eq!(other, None, "after {what}, {ip} is also {container}'s");
                }
            }
            assert!(!ips(node, &containers[0]).is_empty(), "after {what}");
            assert!(ips(node, &containers[1]).is_empty(), "after {what}");
        }
    }
}

#[test]
fn after_each_fault_during_steady_changes_all_agree() {
    let mut steady = Steady::start();
    steady.through("nothing", |_, _, _| {});
    steady.through("redis that comes back empty", |redis, _, _| {
        redis.kill();
        sleep(Duration::from_secs(2));
        redis.come_back();
    });
    steady.through("a cut link", |_, lan, nodes| {
        lan.cut(&nodes[1]);
        sleep(LEASE + Duration::from_secs(2));
        lan.mend(&nodes[1]);
    });
    steady.through("a frozen daemon", |_, _, nodes| {
        nodes[2].freeze_daemon(true);
        sleep(LEASE + Duration::from_secs(2));
        nodes[2].freeze_daemon(false);
    });
    steady.through("a killed daemon", |_, _, nodes| {
        nodes[0].kill_daemon();
        sleep(Duration::from_secs(1));
        nodes[0].start_daemon();
    });
}
