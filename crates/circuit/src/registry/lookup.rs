//! Addresses and nodes of the whole fleet.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use circuit_core::Result;
use circuit_core::fleet::{NodeWord, Record};
use circuit_core::service::{
    Addresses, Attachments, ClusterNode, ClusterStatus, ContainerIp, Lookups, NodeInfo, Nodes,
    Problem,
};

use super::original::Originals;
use super::{Local, Registry, scripts, wire};
use crate::overview::Elsewhere;

/// How long `cluster nodes` waits for Redis before it tells what was heard last.
const PATIENCE: Duration = Duration::from_millis(500);

/// This node's own word about its containers, and what it heard of the others.
pub struct FleetLookup {
    registry: Arc<Registry>,
    attachments: Arc<dyn Attachments>,
    local: Arc<dyn Local>,
    originals: Arc<Originals>,
}

impl FleetLookup {
    pub(super) fn new(
        registry: Arc<Registry>,
        attachments: Arc<dyn Attachments>,
        local: Arc<dyn Local>,
        originals: Arc<Originals>,
    ) -> Self {
        Self {
            registry,
            attachments,
            local,
            originals,
        }
    }

    /// Adds what the others have, one address on one network once. Returns whether
    /// one of them has the container.
    async fn elsewhere(
        &self,
        container: &str,
        network: Option<&str>,
        ips: &mut Vec<ContainerIp>,
    ) -> bool {
        let fleet = self.registry.fleet();
        let records = fleet.containers(container);
        for record in records {
            of_record(record, network).for_each(|found| add(ips, found));
        }
        let wanted = |ip: &ContainerIp| network.is_none_or(|network| network == ip.network);
        let asked = self.originals.ask(container, &fleet).await;
        let known = !records.is_empty() || !asked.is_empty();
        asked
            .into_iter()
            .filter(wanted)
            .for_each(|found| add(ips, found));
        known
    }

    fn staleness(&self) -> Option<Problem> {
        let age = self.registry.stale_for()?;
        let since = match age {
            Duration::MAX => "redis has not answered yet".to_owned(),
            age => format!("redis was last heard {} s ago", age.as_secs()),
        };
        Some(Problem {
            message: format!("{since}: what other nodes have is as it was then, and may be old"),
            ..Problem::default()
        })
    }
}

/// Adds an address that is not there yet: several daemons may look after one
/// containerd.
fn add(ips: &mut Vec<ContainerIp>, found: ContainerIp) {
    let same = |ip: &ContainerIp| ip.network == found.network && ip.ip == found.ip;
    if !ips.iter().any(same) {
        ips.push(found);
    }
}

fn of_record<'a>(
    record: &'a Arc<Record>,
    network: Option<&'a str>,
) -> impl Iterator<Item = ContainerIp> + 'a {
    let wanted = move |name: &str| network.is_none_or(|network| network == name);
    let attached = record.attached.iter().filter(move |a| wanted(&a.network));
    attached.flat_map(|a| {
        a.ips.iter().map(|ip| ContainerIp {
            network: a.network.to_string(),
            ip: *ip,
            interface: a.interface.to_string(),
            node: record.node.to_string(),
        })
    })
}

impl Elsewhere for FleetLookup {
    fn records(&self) -> Vec<Arc<Record>> {
        self.registry.fleet().records().cloned().collect()
    }
}

#[async_trait]
impl Lookups for FleetLookup {
    async fn ips(&self, container: &str, network: Option<&str>) -> Result<Addresses> {
        let mut found = self
            .attachments
            .remembered(container, network)
            .unwrap_or_default();
        for ip in &mut found.ips {
            ip.node.clone_from(&self.registry.settings().name);
        }
        let known_here = found != Addresses::default();
        let known_elsewhere = self.elsewhere(container, network, &mut found.ips).await;
        if !known_here && !known_elsewhere {
            // Nobody knows it: the runtime may.
            found = self.attachments.ips(container, network).await?;
        }
        found.problems.extend(self.staleness());
        Ok(found)
    }

    fn users_elsewhere(&self, network: &str) -> Vec<String> {
        let fleet = self.registry.fleet();
        let user = |record: &Arc<Record>| format!("{} on {}", record.container, record.node);
        let mut users: Vec<String> = fleet.on_network(network).map(user).collect();
        users.sort();
        users
    }

    fn is_current(&self) -> bool {
        self.registry.stale_for().is_none()
    }
}

#[async_trait]
impl Nodes for FleetLookup {
    async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        let nodes = self.cluster().await?;
        Ok(nodes.into_iter().map(|node| node.info).collect())
    }

    async fn cluster(&self) -> Result<Vec<ClusterNode>> {
        let own = ClusterNode {
            info: self.local.info(),
            state: "live".to_owned(),
            seen: Some(Duration::ZERO),
        };
        let mut nodes = vec![own];
        let asked = tokio::time::timeout(PATIENCE, scripts::list(self.registry.store())).await;
        let name = &self.registry.settings().name;
        match asked {
            Ok(Ok(all)) => nodes.extend(all.iter().filter(|(node, ..)| node != name).filter_map(
                |(node, left, word)| Some(live(wire::read_word(node, word, 0)?, *left)),
            )),
            // What was heard last.
            _ => {
                let age = self.registry.stale_for().filter(|age| *age < Duration::MAX);
                let fleet = self.registry.fleet();
                nodes.extend(fleet.nodes().map(|(_, word)| ClusterNode {
                    info: word.info.clone(),
                    state: "stale".to_owned(),
                    seen: age,
                }));
            }
        }
        let listed: HashSet<String> = nodes.iter().map(|node| node.info.name.clone()).collect();
        let originals = self.originals.nodes(&self.registry.fleet()).into_iter();
        let originals = originals.filter(|info| !listed.contains(&info.name));
        nodes.extend(originals.map(|info| ClusterNode {
            info,
            state: "original".to_owned(),
            seen: None,
        }));
        Ok(nodes)
    }

    async fn status(&self) -> Result<ClusterStatus> {
        let status = self.registry.status();
        let stale = self.registry.stale_for();
        Ok(ClusterStatus {
            registry: self.registry.store().url().to_string(),
            connected: status.failure.is_none() && stale.is_none(),
            failure: status.failure.clone().unwrap_or_default(),
            heard: status.compared.map(|at| at.elapsed()),
            lag: status.took,
            nonsense: status.nonsense,
            nodes: self.cluster().await?,
        })
    }
}

/// A node whose lease has so many milliseconds left.
fn live(word: NodeWord, left: u64) -> ClusterNode {
    let seen = word.lease.saturating_sub(left);
    let late = seen > word.heartbeat.saturating_mul(3) / 2;
    ClusterNode {
        info: word.info,
        state: if late { "late" } else { "live" }.to_owned(),
        seen: Some(Duration::from_millis(seen)),
    }
}
