//! Examines a node: what it stands on, what it keeps, and what it has made.

mod firewall;
mod host;
mod made;
mod parts;
mod resolvers;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use circuit_core::Result;
use circuit_core::cni::ConfigList;
use circuit_core::doctor::{Doctor, Finding};
use circuit_core::service::{Names, Networks, Nodes};

use crate::attachments::Attachments;
use crate::networks::Surroundings;
use crate::redis;

pub use parts::{PINS_END, PINS_REMEDY};

/// What a doctor asks.
pub struct Patients {
    /// This node's attachments.
    pub attachments: Arc<Attachments>,
    /// Its networks.
    pub networks: Arc<dyn Networks>,
    /// Its host.
    pub host: Arc<dyn Surroundings>,
    /// Its fleet.
    pub nodes: Arc<dyn Nodes>,
    /// Names of containers.
    pub names: Arc<dyn Names>,
    /// Whether names are answered beside the gateways of networks.
    pub answers_names: bool,
    /// The Redis with the networks, where a fleet shares them.
    pub datastore: Option<redis::Store>,
    /// The Redis of the cluster, if this node is in one.
    pub registry: Option<redis::Store>,
    /// Where attachments are remembered.
    pub state_dir: PathBuf,
    /// Where namespaces are pinned.
    pub pins: PathBuf,
}

/// A doctor of this node.
pub struct NodeDoctor {
    of: Patients,
}

impl NodeDoctor {
    /// A doctor of that.
    pub fn new(of: Patients) -> Self {
        Self { of }
    }

    /// Every network whose configuration can be read.
    async fn lists(&self) -> Vec<ConfigList> {
        let listing = self.of.networks.list().await.unwrap_or_default();
        let lists = listing.networks.iter();
        lists
            .filter_map(|network| ConfigList::parse(&network.data).ok())
            .collect()
    }
}

#[async_trait]
impl Doctor for NodeDoctor {
    async fn examine(
        &self,
        fix: bool,
        tell: &(dyn Fn(Finding) -> bool + Send + Sync),
    ) -> Result<()> {
        let lists = self.lists().await;
        let all = |findings: Vec<Finding>| findings.into_iter().all(tell);
        let go_on = all(self.containerd().await)
            && all(self.store().await)
            && all(self.datastore().await)
            && all(self.pins())
            && all(host::kernel(&lists).await)
            && all(host::forwarding(&lists, fix).await)
            && all(firewall::firewall(&lists).await)
            && all(self.plugins(&lists).await)
            && all(self.redis().await)
            && all(self.dns(&lists).await)
            && self.rules(fix, tell).await
            && all(self.ports().await)
            && all(self.leaks(&lists, fix).await);
        if go_on {
            all(self.containers());
        }
        Ok(())
    }
}
