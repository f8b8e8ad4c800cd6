//! An attachment: one container on one network through one interface, and what
//! is remembered about it on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::SystemTime,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::request::Requested;
use crate::resolver::Kept;
use crate::restart::RestartState;

/// How far an attachment has come. It is on disk in its phase before the
/// kernel is touched, so that a start after a crash knows what may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// An ADD may be under way or half done.
    Attaching,
    /// ADD succeeded; the result is here.
    Attached,
    /// A DEL is owed.
    Detaching,
}

/// Who asked for an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The container's labels.
    Label,
    /// A `Connect` request.
    Request,
    /// The program before this one: its CNI container id is the task's pid.
    Original,
}

/// Where a task's network lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The task's pid.
    pub pid: u32,
    /// The inode of its network namespace.
    pub netns: u64,
}

/// One container on one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The interface's name inside the container.
    pub interface: String,
    /// How far it has come.
    pub phase: Phase,
    /// Who asked for it.
    pub origin: Origin,
    /// `CNI_CONTAINERID`.
    pub cni_id: String,
    /// The task it belongs to.
    pub sandbox: Sandbox,
    /// The pinned namespace, `CNI_NETNS`; absent when there is none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Interfaces of others that were in the namespace before it: a network that
    /// another program gave it, or those of a container that shares it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<String>,
    /// The network's configuration as ADD saw it: DEL must see the same even
    /// after the network was changed or deleted.
    pub config: String,
    /// Capability arguments (`runtimeConfig`); portmap's DEL needs them again.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub capability_args: Map<String, Value>,
    /// Entries of `args.cni`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub config_args: Map<String, Value>,
    /// The plugins that made it in this process, by their place in the
    /// configuration: what a driver made, a driver takes away.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub natives: BTreeSet<usize>,
    /// Further names of the container on this network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The container's addresses, in the order of the CNI result.
    #[serde(default)]
    pub ips: Vec<IpNet>,
    /// The interface's hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The final ADD result, the `prevResult` of CHECK and DEL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// It was whole when it began to be taken away, so that its end is to be told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// What a container had on a network, to ask for it again after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAddresses {
    /// Addresses, without prefix length.
    pub ips: Vec<IpAddr>,
    /// Hardware address: with the same one, neighbours that remember the
    /// address reach the restarted container at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// A network left by hand although the labels ask for it; it holds for the
/// task it was said of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declined {
    /// The network's name.
    pub network: String,
    /// The task's pid.
    pub pid: u32,
}

/// Everything that is remembered about one container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The container's id.
    pub container: String,
    /// When the container was made, in nanoseconds since 1970: one that is made anew
    /// may have the same id, and has nothing of what is remembered here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<u64>,
    /// Its attachments, in the order they were made.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// Networks connected by hand, in order. They hold until they are
    /// disconnected by hand, across restarts of the task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requested: Vec<Requested>,
    /// Networks left by hand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub declined: Vec<Declined>,
    /// What it had on each network before its task ended.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub last: BTreeMap<String, LastAddresses>,
    /// What its `/etc/resolv.conf` was, where that was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolver: Option<Kept>,
    /// Its restart policy's memory.
    #[serde(default, skip_serializing_if = "RestartState::is_default")]
    pub restart: RestartState,
}

/// Since 1970.
fn nanoseconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}

impl ContainerRecord {
    /// An empty record.
    pub fn new(container: impl Into<String>) -> Self {
        Self {
            container: container.into(),
            ..Self::default()
        }
    }

    /// The attachment to a network.
    pub fn attachment(&self, network: &str) -> Option<&Attachment> {
        self.attachments.iter().find(|a| a.network == network)
    }

    /// Whether what is remembered is of an earlier container with the same id, `made`
    /// being when the present one was.
    pub fn is_of_another(&self, made: Option<SystemTime>) -> bool {
        let made = made.and_then(nanoseconds);
        matches!((self.made, made), (Some(known), Some(made)) if known != made)
    }

    /// Notes when the container was made, unless that is known; says whether it is
    /// news.
    pub fn note_made(&mut self, made: Option<SystemTime>) -> bool {
        let made = made.and_then(nanoseconds);
        let news = self.made.is_none() && made.is_some();
        self.made = self.made.or(made);
        news
    }

    /// True when there is nothing worth keeping on disk.
    pub fn is_empty(&self) -> bool {
        self.attachments.is_empty()
            && self.requested.is_empty()
            && self.declined.is_empty()
            && self.last.is_empty()
            && self.resolver.is_none()
            && self.restart.is_default()
    }

    /// Whether something of that network and interface is on record: before another is
    /// made, it is to be taken away.
    pub fn owes(&self, network: &str, interface: &str) -> bool {
        let same = |a: &Attachment| a.network == network && a.interface == interface;
        self.attachments.iter().any(same)
    }

    /// Puts an attachment in the place of the one with the same network and
    /// interface, or at the end.
    pub fn put(&mut self, attachment: Attachment) {
        let same =
            |a: &Attachment| a.network == attachment.network && a.interface == attachment.interface;
        match self.attachments.iter().position(same) {
            Some(at) => self.attachments[at] = attachment,
            None => self.attachments.push(attachment),
        }
    }

    /// Forgets an attachment.
    pub fn take(&mut self, network: &str, interface: &str) -> Option<Attachment> {
        let at = self
            .attachments
            .iter()
            .position(|a| a.network == network && a.interface == interface)?;
        Some(self.attachments.remove(at))
    }

    /// Notes that a network is wanted by hand.
    pub fn request(&mut self, wanted: &Requested) {
        let network = &wanted.network.network;
        self.declined.retain(|d| d.network != *network);
        let same = |r: &Requested| r.network.network == *network;
        match self.requested.iter().position(same) {
            Some(at) => self.requested[at] = wanted.clone(),
            None => self.requested.push(wanted.clone()),
        }
    }

    /// What was asked for by hand of a network, if it was.
    pub fn requested(&self, network: &str) -> Option<&Requested> {
        self.requested.iter().find(|r| r.network.network == network)
    }

    /// The attachment to which the ports of the container's labels lead; those that were
    /// asked for by hand are not of them.
    pub fn labelled_publisher(&self) -> Option<&Attachment> {
        self.attachments.iter().find(|attachment| {
            let by_hand = self.requested(&attachment.network);
            let by_hand = by_hand.is_some_and(|requested| !requested.ports.is_empty());
            attachment.capability_args.contains_key("portMappings") && !by_hand
        })
    }

    /// Notes that a network is not wanted by hand, for the task `pid`.
    pub fn decline(&mut self, network: &str, pid: Option<u32>) {
        self.requested.retain(|r| r.network.network != network);
        self.last.remove(network);
        self.declined.retain(|d| d.network != network);
        if let Some(pid) = pid {
            self.declined.push(Declined {
                network: network.to_owned(),
                pid,
            });
        }
    }
}
