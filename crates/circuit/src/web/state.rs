//! All that the page draws, as JSON.

use std::net::IpAddr;
use std::time::Instant;

use axum::body::Bytes;
use circuit_core::overview::{ContainerView, NetworkView, OnNetwork};
use circuit_core::service::{ClusterNode, ClusterStatus, NetworkListing, Problem};
use circuit_core::{Error, Result};
use serde::Serialize;
use tokio::sync::Mutex;

use super::Shown;

/// Reads everything; for many who ask at the same time, once.
pub(super) struct Reader {
    shown: Shown,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Reader {
    pub(super) fn new(shown: Shown) -> Self {
        Self {
            shown,
            last: Mutex::new(None),
        }
    }

    pub(super) async fn read(&self) -> Result<Bytes> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        // Only a reading that began after the question knows all that the asker
        // has heard of.
        if let Some((_, body)) = last.as_ref().filter(|(began, _)| *began >= asked) {
            return Ok(body.clone());
        }
        let began = Instant::now();
        let body = Bytes::from(self.whole().await?);
        *last = Some((began, body.clone()));
        Ok(body)
    }

    async fn whole(&self) -> Result<Vec<u8>> {
        let shown = &self.shown;
        let (containers, networks, status) = tokio::join!(
            shown.overview.containers(false),
            shown.networks.list(),
            shown.nodes.status()
        );
        // A picture without networks that cannot be listed is better than none.
        let networks = networks.unwrap_or_else(|error| NetworkListing {
            problems: vec![Problem {
                message: format!("networks cannot be listed: {error}"),
                ..Problem::default()
            }],
            ..NetworkListing::default()
        });
        let (containers, status) = (containers?, status?);
        let all = All::new(shown.events.node(), &containers, &networks, &status);
        serde_json::to_vec(&all)
            .map_err(|error| Error::internal(format!("cannot write the picture: {error}")))
    }
}

#[derive(Serialize)]
struct All<'a> {
    node: &'a str,
    version: &'static str,
    registry: Option<Registry<'a>>,
    nodes: Vec<Node<'a>>,
    networks: Vec<&'a str>,
    containers: Vec<Container<'a>>,
    problems: Vec<Told<'a>>,
}

#[derive(Serialize)]
struct Registry<'a> {
    connected: bool,
    failure: &'a str,
}

#[derive(Serialize)]
struct Node<'a> {
    name: &'a str,
    state: &'a str,
    version: &'a str,
    kernel: &'a str,
    cpus: i64,
    memory: u64,
    seen: Option<u64>,
}

#[derive(Serialize)]
struct Told<'a> {
    container: &'a str,
    network: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Restart<'a> {
    policy: &'a str,
    count: u32,
    stopped: bool,
}

#[derive(Serialize)]
struct Container<'a> {
    id: &'a str,
    node: &'a str,
    state: &'static str,
    pid: u32,
    exit: Option<u32>,
    restart: Option<Restart<'a>>,
    networks: Vec<On<'a>>,
    problems: Vec<Told<'a>>,
}

#[derive(Serialize)]
struct On<'a> {
    network: &'a str,
    interface: &'a str,
    ips: &'a [IpAddr],
    mac: &'a str,
    aliases: &'a [String],
    ports: &'a [String],
    phase: &'static str,
    origin: &'static str,
}

impl<'a> All<'a> {
    fn new(
        node: &'a str,
        containers: &'a [ContainerView],
        networks: &'a NetworkListing,
        status: &'a ClusterStatus,
    ) -> Self {
        Self {
            node,
            version: crate::VERSION,
            registry: (!status.registry.is_empty()).then_some(Registry {
                connected: status.connected,
                failure: &status.failure,
            }),
            nodes: status.nodes.iter().map(Node::from).collect(),
            networks: networks.networks.iter().map(|it| &*it.name).collect(),
            containers: containers.iter().map(Container::from).collect(),
            problems: networks.problems.iter().map(Told::from).collect(),
        }
    }
}

impl<'a> From<&'a ClusterNode> for Node<'a> {
    fn from(node: &'a ClusterNode) -> Self {
        Self {
            name: &node.info.name,
            state: &node.state,
            version: &node.info.version,
            kernel: &node.info.kernel_version,
            cpus: node.info.cpus,
            memory: node.info.memory,
            seen: node.seen.map(|seen| seen.as_secs()),
        }
    }
}

impl<'a> From<&'a Problem> for Told<'a> {
    fn from(problem: &'a Problem) -> Self {
        Self {
            container: &problem.container,
            network: &problem.network,
            message: &problem.message,
        }
    }
}

impl<'a> From<&'a ContainerView> for Container<'a> {
    fn from(view: &'a ContainerView) -> Self {
        Self {
            id: &view.id,
            node: &view.node,
            state: view.state.name(),
            pid: view.pid,
            exit: view.exit_status,
            restart: view.restart.as_ref().map(|restart| Restart {
                policy: &restart.policy,
                count: restart.count,
                stopped: restart.stopped,
            }),
            networks: view.networks.iter().map(On::from).collect(),
            problems: view.problems.iter().map(Told::from).collect(),
        }
    }
}

impl<'a> From<&'a OnNetwork> for On<'a> {
    fn from(on: &'a OnNetwork) -> Self {
        Self {
            network: &on.network,
            interface: &on.interface,
            ips: &on.ips,
            mac: &on.mac,
            aliases: &on.aliases,
            ports: &on.ports,
            phase: on.phase,
            origin: on.origin,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Network<'a> {
    name: &'a str,
    plugins: &'a [String],
    subnets: &'a [String],
    ipam: &'a str,
    pools: Vec<Pool<'a>>,
    problems: Vec<Told<'a>>,
}

#[derive(Serialize)]
struct Pool<'a> {
    name: &'a str,
    ipv6: bool,
    size: u64,
    used: Option<u64>,
}

/// A network, for who looks at it closely.
pub(super) fn network(view: &NetworkView) -> Network<'_> {
    let pools = view.pools.iter().map(|pool| Pool {
        name: &pool.name,
        ipv6: pool.ipv6,
        size: pool.size,
        used: pool.used,
    });
    Network {
        name: &view.network.name,
        plugins: &view.plugins,
        subnets: &view.subnets,
        ipam: &view.ipam,
        pools: pools.collect(),
        problems: view.problems.iter().map(Told::from).collect(),
    }
}
