//! Containers and networks as people look at them: everything that is known of
//! each, in one place.

use std::net::IpAddr;

use async_trait::async_trait;

use crate::Result;
use crate::attachment::{Attachment, Origin, Phase};
use crate::datapath::Pool;
use crate::fleet::{Attached, Record};
use crate::labels::PortMapping;
use crate::service::{Problem, StoredNetwork};

/// How a container's task is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TaskState {
    /// It runs.
    Running,
    /// It was made and does not run yet.
    Created,
    /// It has ended.
    Stopped,
    /// There is none.
    Absent,
    /// The runtime does not say.
    #[default]
    Unknown,
}

impl TaskState {
    /// As the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Created => "created",
            Self::Stopped => "stopped",
            Self::Absent => "absent",
            Self::Unknown => "unknown",
        }
    }
}

/// A container on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnNetwork {
    /// The network.
    pub network: String,
    /// The interface inside the container.
    pub interface: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its hardware address; empty when that is not known.
    pub mac: String,
    /// Further names on this network.
    pub aliases: Vec<String>,
    /// Published ports, as labels write them.
    pub ports: Vec<String>,
    /// `attached`, `attaching` or `detaching`.
    pub phase: &'static str,
    /// `label`, `request` or `original`; empty when that is not known.
    pub origin: &'static str,
    /// What has passed the interface, where that was asked for and is known.
    pub traffic: Option<Traffic>,
}

/// What has passed an interface since it was made, as its container sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received bytes.
    pub received: u64,
    /// Sent bytes.
    pub sent: u64,
}

impl From<&Attachment> for OnNetwork {
    fn from(attachment: &Attachment) -> Self {
        let ports = attachment.capability_args.get("portMappings");
        let ports = ports.and_then(serde_json::Value::as_array);
        let ports = ports.into_iter().flatten();
        Self {
            network: attachment.network.clone(),
            interface: attachment.interface.clone(),
            ips: attachment.ips.iter().map(ipnet::IpNet::addr).collect(),
            mac: attachment.mac.clone().unwrap_or_default(),
            aliases: attachment.aliases.clone(),
            ports: ports
                .filter_map(PortMapping::from_json)
                .map(|port| port.to_string())
                .collect(),
            phase: match attachment.phase {
                Phase::Attaching => "attaching",
                Phase::Attached => "attached",
                Phase::Detaching => "detaching",
            },
            origin: match attachment.origin {
                Origin::Label => "label",
                Origin::Request => "request",
                Origin::Original => "original",
            },
            traffic: None,
        }
    }
}

impl From<&Attached> for OnNetwork {
    fn from(attached: &Attached) -> Self {
        let mac = attached.mac.map(|mac| {
            let bytes = mac.map(|byte| format!("{byte:02x}"));
            bytes.join(":")
        });
        Self {
            network: attached.network.to_string(),
            interface: attached.interface.to_string(),
            ips: attached.ips.to_vec(),
            mac: mac.unwrap_or_default(),
            aliases: attached.aliases.iter().map(ToString::to_string).collect(),
            ports: attached
                .ports
                .iter()
                .map(|port| {
                    let protocol = port.protocol.name();
                    format!("{}:{}/{protocol}", port.host, port.container)
                })
                .collect(),
            phase: "attached",
            origin: "",
            traffic: None,
        }
    }
}

/// A restart policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartView {
    /// As its label says it.
    pub policy: String,
    /// How often it has started the container since somebody did by hand.
    pub count: u32,
    /// It rests: the container was stopped by hand.
    pub stopped: bool,
}

/// A container, and everything that is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerView {
    /// Its id.
    pub id: String,
    /// The node it is on.
    pub node: String,
    /// How its task is.
    pub state: TaskState,
    /// Of its first process; 0 when there is none, or it is elsewhere.
    pub pid: u32,
    /// How its last task ended.
    pub exit_status: Option<u32>,
    /// In the order in which it was connected.
    pub networks: Vec<OnNetwork>,
    /// Its restart policy.
    pub restart: Option<RestartView>,
    /// What it should be and is not.
    pub problems: Vec<Problem>,
}

impl From<&Record> for ContainerView {
    /// A container of another node: it is on networks, so its task runs.
    fn from(record: &Record) -> Self {
        Self {
            id: record.container.to_string(),
            node: record.node.to_string(),
            state: TaskState::Running,
            networks: record.attached.iter().map(OnNetwork::from).collect(),
            ..Self::default()
        }
    }
}

/// A container of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The container.
    pub container: String,
    /// The node it is on.
    pub node: String,
    /// How it is attached.
    pub attachment: OnNetwork,
}

/// A network, and everything that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkView {
    /// As it is stored.
    pub network: StoredNetwork,
    /// The types of its plugins, in the order of ADD.
    pub plugins: Vec<String>,
    /// Its subnets, as far as its configuration tells.
    pub subnets: Vec<String>,
    /// What gives its addresses; empty when nothing does.
    pub ipam: String,
    /// How much of its addresses is in use, one for each family.
    pub pools: Vec<Pool>,
    /// Who is on it, sorted by node and container.
    pub members: Vec<Member>,
    /// Containers that should be on it and are not.
    pub problems: Vec<Problem>,
}

/// Looks at everything.
#[async_trait]
pub trait Overview: Send + Sync {
    /// The containers of this node and, unless only those are asked for, those of
    /// other nodes that are on networks; sorted by node and container. When the
    /// runtime does not answer, what is remembered is told.
    async fn containers(&self, here: bool) -> Result<Vec<ContainerView>>;

    /// Adds what has passed the interfaces of those that are on this node.
    async fn add_traffic(&self, views: &mut [ContainerView]);

    /// A network and who is on it.
    async fn network(&self, name: &str) -> Result<NetworkView>;
}
