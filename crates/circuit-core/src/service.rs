//! The traits that stand between the gRPC layer and the parts that do the
//! work, and the nouns they speak in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::Result;
use crate::cni::Description;
use crate::request::Requested;

/// A network as it is stored: its name and the bytes given to `create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredNetwork {
    /// The name given to `create`.
    pub name: String,
    /// The CNI configuration, byte for byte.
    pub data: Vec<u8>,
}

/// Something that should be and is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problem {
    /// The container it is about; empty when it is about no single one.
    pub container: String,
    /// The network it is about; empty when it is about no single one.
    pub network: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// Every stored network, and what could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkListing {
    /// Sorted by name.
    pub networks: Vec<StoredNetwork>,
    /// Entries of the store that hold no usable network.
    pub problems: Vec<Problem>,
}

/// A network that was looked at to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// The network.
    pub name: String,
    /// Why it is kept; none when it is deleted.
    pub kept: Option<String>,
}

/// What a connected container got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Every address, in the order of the CNI result; never empty for a
    /// network that gives addresses.
    pub ips: Vec<IpAddr>,
    /// The interface inside the container.
    pub interface: String,
}

/// One address of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerIp {
    /// The network it is on.
    pub network: String,
    /// The address.
    pub ip: IpAddr,
    /// The interface inside the container.
    pub interface: String,
    /// The node that the container is on; empty for this one, when it is in no
    /// cluster.
    pub node: String,
}

/// The addresses of one container, and where it should have one and has not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// In the order of the container's interfaces.
    pub ips: Vec<ContainerIp>,
    /// Networks the container should be on and is not.
    pub problems: Vec<Problem>,
}

/// What a node tells about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node's name.
    pub name: String,
    /// The version of its daemon.
    pub version: String,
    /// The number of its processors.
    pub cpus: i64,
    /// Its memory in bytes.
    pub memory: u64,
    /// Seconds since it booted.
    pub uptime: u64,
    /// Its kernel's release.
    pub kernel_version: String,
}

/// A node of a cluster, and how well it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterNode {
    /// What it tells about itself.
    pub info: NodeInfo,
    /// `live`; `late` when a heartbeat is overdue; `stale` when the registry is
    /// away, so that it may be gone; `original` for one of the program before
    /// this one.
    pub state: String,
    /// For how long it has not been heard of.
    pub seen: Option<Duration>,
}

/// How this node stands to its cluster registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Where the registry is, without passwords; empty when there is none.
    pub registry: String,
    /// Whether it answers.
    pub connected: bool,
    /// Why it does not.
    pub failure: String,
    /// For how long it has not been heard of.
    pub heard: Option<Duration>,
    /// How long the last comparison took.
    pub lag: Duration,
    /// What was found in it that made no sense.
    pub nonsense: u64,
    /// The nodes.
    pub nodes: Vec<ClusterNode>,
}

/// Addresses of containers, wherever they are.
#[async_trait]
pub trait Lookups: Send + Sync {
    /// The addresses of a container, on one network or on all.
    async fn ips(&self, container: &str, network: Option<&str>) -> Result<Addresses>;

    /// The containers of other nodes on a network, as `CONTAINER on NODE`, sorted.
    fn users_elsewhere(&self, network: &str) -> Vec<String>;

    /// Whether that is as it is now; else it is what was heard last, or nothing yet.
    fn is_current(&self) -> bool;
}

/// The networks of this node.
#[async_trait]
pub trait Networks: Send + Sync {
    /// Validates and stores a configuration; `force` accepts an overlap with
    /// routes, resolvers and other networks, and replaces an unused network.
    async fn create(&self, name: &str, data: &[u8], force: bool) -> Result<()>;

    /// Every stored network.
    async fn list(&self) -> Result<NetworkListing>;

    /// One stored network.
    async fn get(&self, name: &str) -> Result<StoredNetwork>;

    /// Deletes a network; `force` disconnects its containers first.
    async fn delete(&self, name: &str, force: bool) -> Result<()>;

    /// Writes the configuration of a described network, with a free subnet where
    /// it names none, and stores it unless `dry_run`; `force` as with `create`.
    async fn make(
        &self,
        description: Description,
        force: bool,
        dry_run: bool,
    ) -> Result<StoredNetwork>;

    /// Deletes the networks that nobody uses or asks for, unless `dry_run`. Each is
    /// told to `each`, which says whether to go on.
    async fn prune(
        &self,
        dry_run: bool,
        each: &(dyn Fn(Pruned) -> bool + Send + Sync),
    ) -> Result<()>;
}

/// The attachments of this node's containers to its networks.
#[async_trait]
pub trait Attachments: Send + Sync {
    /// Connects a running container; a second time returns the same addresses,
    /// or says which of the wishes they do not fulfil.
    async fn connect(&self, container: &str, wanted: &Requested) -> Result<Connected>;

    /// Disconnects a container.
    async fn disconnect(&self, container: &str, network: &str) -> Result<()>;

    /// The addresses of a container, on one network or on all.
    async fn ips(&self, container: &str, network: Option<&str>) -> Result<Addresses>;

    /// The same from memory alone; none when nothing is remembered of it.
    fn remembered(&self, container: &str, network: Option<&str>) -> Option<Addresses>;

    /// The containers that should be on a network and are not, and why.
    fn problems_of_network(&self, network: &str) -> Vec<Problem>;

    /// The networks that containers of this node ask for, running or not, each with
    /// one that does.
    async fn wanted(&self) -> Result<BTreeMap<String, String>>;

    /// The containers attached to a network, sorted.
    async fn users_of(&self, network: &str) -> Result<Vec<String>>;

    /// The CNI container ids, sorted, for which other programs of this host hold
    /// something on a network, such as an address or a port.
    async fn holders(&self, network: &StoredNetwork) -> Result<Vec<String>>;

    /// Says that a network exists now, so that containers waiting for it are
    /// connected.
    async fn network_created(&self, network: &str);

    /// Disconnects every container of a network.
    async fn disconnect_all(&self, network: &str) -> Result<()>;
}

/// Containers stopped and started by people, in agreement with their restart
/// policy.
#[async_trait]
pub trait Containers: Send + Sync {
    /// Ends the task and suspends the restart policy. `timeout` is the time
    /// between SIGTERM and SIGKILL.
    async fn stop(&self, container: &str, timeout: Option<Duration>) -> Result<()>;

    /// Starts a task, puts the restart policy in force again and returns the
    /// task's process id.
    async fn start(&self, container: &str) -> Result<u32>;

    /// Stops, then starts.
    async fn restart(&self, container: &str, timeout: Option<Duration>) -> Result<u32>;
}

/// The nodes that share a cluster registry.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// The known nodes; a node without a registry knows itself.
    async fn nodes(&self) -> Result<Vec<NodeInfo>>;

    /// The known nodes, and how well they are known.
    async fn cluster(&self) -> Result<Vec<ClusterNode>> {
        let live = |info| ClusterNode {
            info,
            state: "live".to_owned(),
            seen: Some(Duration::ZERO),
        };
        Ok(self.nodes().await?.into_iter().map(live).collect())
    }

    /// How this node stands to the registry.
    async fn status(&self) -> Result<ClusterStatus> {
        Ok(ClusterStatus {
            nodes: self.cluster().await?,
            ..ClusterStatus::default()
        })
    }
}

/// How it stands with an address of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressState {
    /// A container has it.
    Used,
    /// A node holds it for containers to come.
    Spare,
    /// It was taken back from a node that is away; the wire is asked before it
    /// is used.
    Abandoned,
    /// Two nodes use it.
    Conflict,
}

/// An address of a pool that a node holds, or held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The pool.
    pub pool: String,
    /// The address.
    pub address: IpAddr,
    /// How it stands with it.
    pub state: AddressState,
    /// The name of the node that holds it, or held it last.
    pub node: String,
    /// The container that has it, as its CNI id; empty when none has, or its
    /// node has not told.
    pub container: String,
    /// The network it is used on; empty as the container.
    pub network: String,
    /// The interface inside the container; empty as the container.
    pub interface: String,
    /// For how long the node's claim holds, in milliseconds; 0 when it has
    /// ended.
    pub claim_ms: u64,
}

/// What is to be freed by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// One address.
    Address {
        /// Of this pool; may be left out when only one has it.
        pool: Option<String>,
        /// The address.
        address: IpAddr,
    },
    /// All of the node of this name.
    Node(String),
}

impl Address {
    /// Whether this is what, or of what, is to be freed.
    pub fn is_of(&self, what: &Release) -> bool {
        match what {
            Release::Address { address, .. } => self.address == *address,
            Release::Node(node) => self.node == *node,
        }
    }
}

/// A name and what it leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameRecord {
    /// The name, without a dot at its end.
    pub name: String,
    /// `A`, `AAAA`, `PTR`, `SRV` and the like.
    pub kind: String,
    /// In the form of zone files.
    pub data: String,
    /// Seconds that others may remember it.
    pub ttl: u32,
    /// The node with the container; empty where that is not known.
    pub node: String,
}

/// An answer of DNS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameAnswer {
    /// `NOERROR`, `NXDOMAIN` and the like.
    pub code: String,
    /// What the name leads to.
    pub records: Vec<NameRecord>,
    /// `zone`, `upstream`, or `none` when nobody answered.
    pub source: String,
    /// The nodes whose containers are the answer.
    pub nodes: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Names of containers.
#[async_trait]
pub trait Names: Send + Sync {
    /// Asks for a name, as a container with every network would; `kind` is `A`
    /// when empty, or `PTR` when the name is an address.
    async fn query(&self, name: &str, kind: &str) -> Result<NameAnswer>;

    /// Every name that leads to an address or a port, sorted.
    fn list(&self) -> Vec<NameRecord>;

    /// Answers a message of DNS from what is known of containers; of other names it
    /// says that they are none of ours. Nothing when the message is no question.
    fn message(&self, message: &[u8]) -> Option<Vec<u8>>;
}

/// The pools of addresses that nodes share.
#[async_trait]
pub trait Addressing: Send + Sync {
    /// The addresses that nodes hold, of one pool or of all.
    async fn list(&self, pool: Option<&str>) -> Result<Vec<Address>>;

    /// Frees addresses by hand and returns them; those of containers that may
    /// live only with `force`.
    async fn release(&self, what: Release, force: bool) -> Result<Vec<Address>>;
}
