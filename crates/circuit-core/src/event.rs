//! What happens, as people and programs are told of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use futures::stream::BoxStream;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A container was connected to a network.
    Connected,
    /// A container was disconnected from a network.
    Disconnected,
    /// A container is not as it should be.
    Problem,
    /// A problem is no more.
    Solved,
    /// A task's process runs.
    TaskStarted,
    /// A task has ended.
    TaskExited,
    /// A restart policy has started a task.
    TaskRestarted,
    /// A network was created or replaced.
    NetworkCreated,
    /// A network was deleted.
    NetworkDeleted,
    /// A node of the fleet is there.
    NodeJoined,
    /// A node of the fleet is there no more.
    NodeLeft,
    /// The cluster registry does not answer.
    RegistryLost,
    /// It answers again.
    RegistryBack,
    /// Firewall rules that another program took away were made again.
    FirewallMended,
    /// Whoever watches was too slow.
    Missed,
}

const NAMES: [(Kind, &str); 15] = [
    (Kind::Connected, "container.connected"),
    (Kind::Disconnected, "container.disconnected"),
    (Kind::Problem, "container.problem"),
    (Kind::Solved, "container.solved"),
    (Kind::TaskStarted, "task.started"),
    (Kind::TaskExited, "task.exited"),
    (Kind::TaskRestarted, "task.restarted"),
    (Kind::NetworkCreated, "network.created"),
    (Kind::NetworkDeleted, "network.deleted"),
    (Kind::NodeJoined, "node.joined"),
    (Kind::NodeLeft, "node.left"),
    (Kind::RegistryLost, "registry.lost"),
    (Kind::RegistryBack, "registry.back"),
    (Kind::FirewallMended, "firewall.mended"),
    (Kind::Missed, "events.missed"),
];

impl Kind {
    /// As the API has it.
    pub fn name(self) -> &'static str {
        let found = NAMES.iter().find(|(kind, _)| *kind == self);
        found.map_or("", |(_, name)| name)
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        let found = NAMES.iter().find(|(_, known)| *known == name);
        found.map(|(kind, _)| *kind)
    }

    /// Every kind's name.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(_, name)| *name)
    }
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Grows by the order in which this node heard of it.
    pub id: u64,
    /// When this node heard of it.
    pub at: SystemTime,
    /// The node on which it happened.
    pub node: Arc<str>,
    /// What.
    pub kind: Kind,
    /// To which container; empty when to none.
    pub container: String,
    /// With which network; empty when with none.
    pub network: String,
    /// By which interface; empty when by none.
    pub interface: String,
    /// With which addresses.
    pub ips: Vec<IpAddr>,
    /// For people.
    pub message: String,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Since {
    /// After the event of this id, as far as it is remembered.
    pub after: Option<u64>,
    /// With so many of those that are wanted that have happened before, at most.
    pub last: usize,
}

/// Which events somebody wants; by default all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of these kinds; empty for all.
    pub kinds: Vec<Kind>,
    /// Of this container; empty for all.
    pub container: String,
    /// Of this network; empty for all.
    pub network: String,
    /// Of the node of this name alone.
    pub node: Option<String>,
}

impl Filter {
    /// Whether an event is wanted. What was missed concerns everybody.
    pub fn takes(&self, event: &Event) -> bool {
        let kind = self.kinds.is_empty() || self.kinds.contains(&event.kind);
        let is = |wanted: &str, told: &str| wanted.is_empty() || wanted == told;
        event.kind == Kind::Missed
            || kind
                && is(&self.container, &event.container)
                && is(&self.network, &event.network)
                && self.node.as_ref().is_none_or(|node| **node == *event.node)
    }
}

/// Tells what happens.
pub trait Events: Send + Sync {
    /// This node's name.
    fn node(&self) -> &str;

    /// What has happened since, and what happens from now on, as far as it is wanted; it
    /// never ends. Whoever is too slow gets a [`Kind::Missed`] in the place of what was
    /// missed.
    fn watch(&self, since: Since, wanted: Filter) -> BoxStream<'static, Arc<Event>>;
}
