//! The fleet's map: which node has which containers, with which addresses.
//!
//! [`Fleet`] is changed by one writer; [`Snapshot`] is what readers hold. Both
//! share everything that did not change: a change copies the shards it touches
//! and nothing else.

mod index;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use crate::service::NodeInfo;
use crate::zone::label;
use index::{Entry, Index};

/// A port of a container that is published on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The host's port.
    pub host: u16,
    /// The container's port.
    pub container: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// The protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// Its name, as in `_tcp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The protocol of that name, in whatever case.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Tcp, Self::Udp, Self::Sctp];
        all.into_iter()
            .find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }
}

/// A container on one network, compactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The network's name.
    pub network: Arc<str>,
    /// The interface inside the container.
    pub interface: Arc<str>,
    /// Its addresses, in the order of the CNI result.
    pub ips: Box<[IpAddr]>,
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
    /// Further names on this network.
    pub aliases: Box<[Box<str>]>,
    /// Ports that are published through this network.
    pub ports: Box<[Port]>,
}

/// A container of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The container's id.
    pub container: Arc<str>,
    /// The node it runs on.
    pub node: Arc<str>,
    /// Its networks; never empty in a map.
    pub attached: Box<[Attached]>,
}

impl Record {
    /// Every address.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.attached.iter().flat_map(|a| a.ips.iter().copied())
    }

    /// The labels under which DNS knows it, each once.
    fn labels(&self) -> Vec<Arc<str>> {
        let own = match label(&self.container) {
            Cow::Borrowed(_) => Arc::clone(&self.container),
            Cow::Owned(label) => label.into(),
        };
        let mut labels = vec![own];
        for alias in self.attached.iter().flat_map(|a| &a.aliases) {
            let label = label(alias);
            if labels.iter().all(|known| **known != *label) {
                labels.push(label.into());
            }
        }
        labels
    }
}

/// What a node says of itself, and how long its word holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeWord {
    /// About its machine; the uptime is as of `at`.
    pub info: NodeInfo,
    /// When it said so, in milliseconds of the registry's clock.
    pub at: u64,
    /// Milliseconds between two heartbeats.
    pub heartbeat: u64,
    /// Milliseconds that its word holds after a heartbeat.
    pub lease: u64,
}

/// One node's part, as the writer holds it.
#[derive(Debug, Default)]
struct Part {
    revision: u64,
    records: HashMap<Arc<str>, Arc<Record>>,
}

/// The map, for its one writer.
#[derive(Debug, Default)]
pub struct Fleet {
    parts: HashMap<Arc<str>, Part>,
    now: Snapshot,
    names: HashSet<Arc<str>>,
}

impl Fleet {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// The map as of now; it stays as it is.
    pub fn snapshot(&self) -> Snapshot {
        self.now.clone()
    }

    /// The revision of what is held of a node.
    pub fn revision(&self, node: &str) -> Option<u64> {
        self.parts.get(node).map(|part| part.revision)
    }

    /// The names of all nodes.
    pub fn nodes(&self) -> Vec<Arc<str>> {
        self.parts.keys().cloned().collect()
    }

    /// One copy of a name that many records hold.
    pub fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    /// Puts everything that a node has in the place of what was held of it.
    pub fn replace(&mut self, node: &str, word: NodeWord, revision: u64, records: Vec<Record>) {
        let name = self.intern(node);
        let kept: HashSet<Arc<str>> = records.iter().map(|r| Arc::clone(&r.container)).collect();
        let part = self.parts.entry(Arc::clone(&name)).or_default();
        let gone: Vec<Arc<str>> = part
            .records
            .keys()
            .filter(|container| !kept.contains(*container))
            .cloned()
            .collect();
        self.change(node, revision, records, &gone);
        Arc::make_mut(&mut self.now.nodes).insert(name, Arc::new(word));
    }

    /// Changes containers of a node that is known. An empty record is a removal.
    pub fn change<N: AsRef<str>>(
        &mut self,
        node: &str,
        revision: u64,
        puts: Vec<Record>,
        removes: &[N],
    ) {
        let Some(part) = self.parts.get_mut(node) else {
            return;
        };
        part.revision = revision;
        for container in removes {
            if let Some(old) = part.records.remove(container.as_ref()) {
                self.now.forget(&old);
            }
        }
        for record in puts {
            let new = Arc::new(record);
            let old = if new.attached.is_empty() {
                part.records.remove(&new.container)
            } else {
                if part.records.get(&new.container) == Some(&new) {
                    continue;
                }
                part.records
                    .insert(Arc::clone(&new.container), Arc::clone(&new))
            };
            if let Some(old) = old {
                self.now.forget(&old);
            }
            if !new.attached.is_empty() {
                self.now.learn(&new);
            }
        }
    }

    /// Forgets a node with everything it had; true when it was known.
    pub fn remove(&mut self, node: &str) -> bool {
        let Some(part) = self.parts.remove(node) else {
            return false;
        };
        for record in part.records.values() {
            self.now.forget(record);
        }
        Arc::make_mut(&mut self.now.nodes).remove(node);
        drop(part);
        self.names.retain(|name| Arc::strong_count(name) > 1);
        true
    }
}

/// The map at one moment. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: Arc<BTreeMap<Arc<str>, Arc<NodeWord>>>,
    containers: Index<Arc<str>>,
    labels: Index<Arc<str>>,
    addresses: Index<IpAddr>,
    /// How often containers are on each.
    networks: Arc<BTreeMap<Arc<str>, usize>>,
}

impl Snapshot {
    /// The containers of a name, one for each node that has one.
    pub fn containers(&self, name: &str) -> &[Arc<Record>] {
        self.containers.get(name)
    }

    /// The containers that DNS knows under a label, by their own name or another
    /// one: in small letters, as [`label`] makes it.
    pub fn labelled(&self, label: &str) -> &[Arc<Record>] {
        self.labels.get(label)
    }

    /// Every container, in no order.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.containers.records()
    }

    /// The containers that have an address.
    pub fn holders(&self, address: IpAddr) -> &[Arc<Record>] {
        self.addresses.get(&address)
    }

    /// The containers on a network. Looks at all of them.
    pub fn on_network(&self, network: &str) -> impl Iterator<Item = &Arc<Record>> {
        let on =
            move |record: &&Arc<Record>| record.attached.iter().any(|a| &*a.network == network);
        self.containers.records().filter(on)
    }

    /// The nodes, sorted by name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Arc<NodeWord>)> {
        self.nodes.iter()
    }

    /// The networks that containers are on, sorted.
    pub fn networks(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.networks.keys()
    }

    /// Whether nothing has changed between the two; both are of one map.
    pub fn is_same(&self, other: &Self) -> bool {
        self.containers.is_same(&other.containers) && Arc::ptr_eq(&self.nodes, &other.nodes)
    }

    /// Tells what is not as it was: of each container of each node what it was, if it
    /// was there, and what it is now, if it still is. Looks only at what has changed;
    /// both snapshots are of one map.
    pub fn differences(
        &self,
        before: &Self,
        mut tell: impl FnMut(Option<&Arc<Record>>, Option<&Arc<Record>>),
    ) {
        let same = |a: &Record, b: &Record| a.node == b.node && a.container == b.container;
        for (now, before) in self.containers.changed(&before.containers) {
            for old in before.values().flat_map(Entry::records) {
                let there = now.get(&old.container).map_or(&[][..], Entry::records);
                match there.iter().find(|new| same(new, old)) {
                    Some(new) if Arc::ptr_eq(new, old) => {}
                    new => tell(Some(old), new),
                }
            }
            for new in now.values().flat_map(Entry::records) {
                let there = before.get(&new.container).map_or(&[][..], Entry::records);
                if !there.iter().any(|old| same(old, new)) {
                    tell(None, Some(new));
                }
            }
        }
    }

    /// How many container names there are.
    pub fn len(&self) -> usize {
        self.containers.len()
    }

    /// True when no container is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn learn(&mut self, record: &Arc<Record>) {
        self.containers
            .add(Arc::clone(&record.container), Arc::clone(record));
        for label in record.labels() {
            self.labels.add(label, Arc::clone(record));
        }
        for ip in unique_ips(record) {
            self.addresses.add(ip, Arc::clone(record));
        }
        let networks = Arc::make_mut(&mut self.networks);
        for attached in &record.attached {
            *networks.entry(Arc::clone(&attached.network)).or_default() += 1;
        }
    }

    fn forget(&mut self, record: &Arc<Record>) {
        self.containers.take(record.container.as_ref(), record);
        for label in record.labels() {
            self.labels.take(label.as_ref(), record);
        }
        for ip in unique_ips(record) {
            self.addresses.take(&ip, record);
        }
        let networks = Arc::make_mut(&mut self.networks);
        for attached in &record.attached {
            match networks.get_mut(&attached.network) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(networks.remove(&attached.network)),
            }
        }
    }
}

fn unique_ips(record: &Record) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = record.ips().collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}
