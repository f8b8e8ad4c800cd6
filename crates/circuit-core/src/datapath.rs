//! What Circuit needs of whatever brings an attachment into the kernel.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::overview::Traffic;
use crate::{
    attachment::{Attachment, ContainerRecord, LastAddresses, Sandbox},
    error::{Error, Result},
    labels::{DesiredNetwork, PortMapping},
    resolver::{Place, Present},
};

/// The arguments an attachment needs, worked out from its configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arguments {
    /// Capability arguments (`runtimeConfig`).
    pub capability_args: Map<String, Value>,
    /// Entries of `args.cni`.
    pub config_args: Map<String, Value>,
    /// True when an address is asked for that the container merely had before:
    /// when it is taken, another will do.
    pub preferred_only: bool,
    /// The plugins of the network, by their place in its configuration, that
    /// are run in this process.
    pub natives: BTreeSet<usize>,
}

/// What an ADD gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Added {
    /// The container's addresses.
    pub ips: Vec<IpNet>,
    /// The interface's hardware address.
    pub mac: Option<String>,
    /// The final result.
    pub result: Value,
}

/// A failed ADD.
#[derive(Debug, Clone, PartialEq)]
pub struct AddFailure {
    /// Why.
    pub error: Error,
    /// True when a DEL is owed.
    pub cleanup_owed: bool,
    /// The result as far as it went, for that DEL.
    pub so_far: Option<Value>,
}

impl std::fmt::Display for AddFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

/// The addresses of one family that a network gives out, as far as its
/// configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The type of address management, such as `host-local`.
    pub ipam: String,
    /// The pool; named as the network when it is the network's alone.
    pub name: String,
    /// Whether they are IPv6 addresses.
    pub ipv6: bool,
    /// How many there are.
    pub size: u64,
    /// How many are in use; `None` when others keep account of it.
    pub used: Option<u64>,
}

/// Something that is held for a container on a network: an address, or rules of the
/// firewall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The CNI container id that it was asked for with, by whatever runtime.
    pub cni_id: String,
    /// The interface; empty when that was not written down.
    pub interface: String,
    /// The address, if it is one.
    pub address: Option<IpAddr>,
}

/// Holds addresses for containers.
pub trait Holder: Send + Sync {
    /// Those of a network.
    fn held(&self, network: &str) -> Vec<Held>;
}

/// What took something of attachments away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// Another program, such as `nft flush ruleset`: any attachment may miss some.
    Rules,
    /// A reload, a start or the end of firewalld, which forgets what it was told
    /// for the plugin `firewall`.
    Firewalld,
    /// Another program took something from bridges or the host's ends of pairs: a
    /// port, an address, or that they are up; or the host forwards no more.
    Ends,
}

/// Brings attachments into the kernel and takes them away.
#[async_trait]
pub trait Datapath: Send + Sync {
    /// Works out the arguments for joining a network, and refuses what its
    /// configuration cannot do.
    ///
    /// # Errors
    /// `InvalidArgument` that names the label or the network and the remedy.
    fn arguments(
        &self,
        config: &str,
        wanted: &DesiredNetwork,
        last: Option<&LastAddresses>,
        ports: &[PortMapping],
    ) -> Result<Arguments>;

    /// True when a network can publish ports.
    fn publishes_ports(&self, config: &str) -> bool;

    /// The namespace of a process.
    ///
    /// # Errors
    /// `FailedPrecondition` when the process is gone or uses the host's
    /// namespace.
    async fn sandbox(&self, pid: u32) -> Result<Sandbox>;

    /// When the process with this pid was started, in any unit; `None` when it
    /// has ended. A process that gets the same pid later has another start.
    fn started(&self, pid: u32) -> Option<u64>;

    /// Pins a task's namespace at `pin`; doing it twice is no error.
    ///
    /// # Errors
    /// As [`Datapath::sandbox`], and when the namespace is not the sandbox's.
    async fn pin(&self, sandbox: Sandbox, pin: &Path) -> Result<()>;

    /// Pins a task's namespace, as [`Datapath::pin`], and lists the names of the
    /// interfaces in it.
    async fn prepare(&self, sandbox: Sandbox, pin: &Path) -> Result<Vec<String>>;

    /// Takes a pin away; one that is gone is no error.
    async fn unpin(&self, pin: &Path) -> Result<()>;

    /// Every pin in a folder.
    async fn pins(&self, dir: &Path) -> Result<Vec<PathBuf>>;

    /// The inode of a pinned namespace; `None` when the pin is gone.
    ///
    /// # Errors
    /// When that cannot be told: it may well be there.
    async fn pinned(&self, pin: &Path) -> Result<Option<u64>>;

    /// The names of the interfaces in a namespace.
    async fn interfaces(&self, netns: &Path) -> Result<Vec<String>>;

    /// The addresses in a namespace, each with the name of its interface.
    async fn addresses(&self, netns: &Path) -> Result<Vec<(String, IpAddr)>>;

    /// Whether what an attachment needs outside of its container is there: what a
    /// driver made on the host, and the lease of addresses that a server lends.
    fn stands(&self, attachment: &Attachment) -> bool;

    /// What has passed the interfaces of a namespace, by their names.
    async fn traffic(&self, netns: &Path) -> Result<Vec<(String, Traffic)>>;

    /// Makes the default route of the first of these interfaces that has one
    /// the one that counts, and those of the others fall-backs in this order. The
    /// routes of those that are `foreign` stay as they are.
    async fn order_routes(
        &self,
        netns: &Path,
        interfaces: &[String],
        foreign: &[String],
    ) -> Result<()>;

    /// What is at the `/etc/resolv.conf` of a task.
    ///
    /// # Errors
    /// `NotFound` when the process is gone, and `FailedPrecondition` when the file
    /// is not the container's own to change.
    async fn resolver(&self, place: &Place) -> Result<Present>;

    /// Has this text there, in the place of what is, which is returned.
    ///
    /// # Errors
    /// As [`Datapath::resolver`].
    async fn write_resolver(&self, place: &Place, text: &str) -> Result<Present>;

    /// Puts what was there before in the place of what is there now, unless
    /// somebody else has changed that since.
    ///
    /// # Errors
    /// As [`Datapath::resolver`].
    async fn restore_resolver(
        &self,
        place: &Place,
        now: &Present,
        original: &Present,
    ) -> Result<()>;

    /// Attaches.
    async fn add(&self, attachment: &Attachment) -> Result<Added, AddFailure>;

    /// Detaches; doing it twice is no error.
    async fn del(&self, attachment: &Attachment) -> Result<()>;

    /// Asks whether an attachment is as ADD left it.
    async fn check(&self, attachment: &Attachment) -> Result<()>;

    /// Makes again what other programs may have taken away of an attachment's
    /// firewall rules, of its gateway and of its end on the host. Doing it in vain is no
    /// error.
    async fn mend(&self, attachment: &Attachment) -> Result<()>;

    /// Those attachments of which somebody changed the host's end, such as a port that
    /// is in no bridge any more, as container and network: they are to be mended.
    ///
    /// # Errors
    /// When it cannot be told.
    async fn loose(&self, records: &[Arc<ContainerRecord>]) -> Result<Vec<(String, String)>>;

    /// Returns when firewall rules of attachments, or what they have on the host, may
    /// have been taken away: those that it concerns are to be mended.
    ///
    /// # Errors
    /// When it cannot be told.
    async fn disturbed(&self) -> Result<Disturbance>;

    /// Removes whatever the network's plugins hold beyond these attachments,
    /// given as CNI container id and interface.
    async fn gc(&self, config: &str, valid: &[(String, String)]) -> Result<()>;

    /// What is held on a network, as far as it can be told for whom.
    ///
    /// # Errors
    /// When it cannot be read.
    async fn held(&self, config: &str) -> Result<Vec<Held>>;

    /// Whether that is all: what other daemons lend or give on the network is known to
    /// them only.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    fn knows_holders(&self, config: &str) -> Result<bool>;

    /// Lets go of what was kept for a container that is gone.
    async fn retire(&self, cni_id: &str);

    /// Finds the CNI container id under which an address was handed out, for
    /// attachments whose record does not say.
    async fn owner_of(&self, config: &str, ip: &str) -> Option<String>;

    /// The pools of a network, one for each family; none when its addresses are
    /// not given out of ranges.
    async fn pools(&self, config: &str) -> Vec<Pool>;
}
