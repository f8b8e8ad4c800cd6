//! Nodes that are only published: what makes a large fleet of few processes.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use circuit::redis::{Store, Url};
use circuit::registry::{Beacon, Local, Settings};
use circuit_core::fleet::{Attached, Record};
use circuit_core::service::NodeInfo;
use circuit_testing::RedisServer;
use tokio::sync::watch;

/// Containers of a simulated node.
pub(crate) const EACH: usize = 100;

/// A node with containers on the network `web`.
pub(crate) struct Simulated {
    node: usize,
    containers: usize,
    changes: watch::Sender<u64>,
}

impl Simulated {
    pub(crate) fn of(node: usize, containers: usize) -> Arc<Self> {
        Arc::new(Self {
            node,
            containers,
            changes: watch::Sender::default(),
        })
    }
}

/// A container's name.
pub(crate) fn name(node: usize, container: usize) -> String {
    format!("c{container}-of-{node}")
}

impl Local for Simulated {
    fn containers(&self) -> Vec<Arc<Record>> {
        let one = |container: usize| {
            let ip = address(self.node, container);
            let [_, a, b, c] = ip.octets();
            let attached = Attached {
                network: "web".into(),
                interface: "eth0".into(),
                ips: [IpAddr::V4(ip)].into(),
                mac: Some([2, 0, 0, a, b, c]),
                aliases: Box::default(),
                ports: Box::default(),
            };
            Arc::new(Record {
                container: name(self.node, container).into(),
                node: self.info().name.into(),
                attached: [attached].into(),
            })
        };
        (0..self.containers).map(one).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("simulated{}", self.node),
            version: "0".into(),
            ..NodeInfo::default()
        }
    }
}

/// Who such a node is.
pub(crate) fn settings(name: String) -> Settings {
    Settings {
        id: name.clone(),
        life: 1,
        name,
        heartbeat: Duration::from_secs(10),
        // Simulated nodes beat once only.
        lease: Duration::from_secs(3600),
        leave_on_stop: true,
    }
}

/// A connection that is there.
pub(crate) async fn open(redis: &RedisServer) -> Store {
    let store = Store::open(&Url::parse(&redis.url()).unwrap()).unwrap();
    store.wait_up(Duration::from_secs(10)).await.unwrap();
    store
}

/// The address of a container of such a node.
pub(crate) fn address(node: usize, container: usize) -> Ipv4Addr {
    let [_, a, b, c] = u32::try_from(node * EACH + container)
        .unwrap()
        .to_be_bytes();
    Ipv4Addr::new(10, a, b, c)
}

/// Publishes nodes of the fleet, from one number to the next.
pub(crate) async fn publish(store: &Store, nodes: std::ops::Range<usize>) {
    for node in nodes {
        let local = Simulated::of(node, EACH);
        let mut beacon = Beacon::new(store.clone(), settings(local.info().name), local);
        beacon.beat().await.unwrap();
    }
}
