//! The other nodes, followed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use circuit_core::fleet::{Fleet, Record, Snapshot};

use super::Settings;
use super::scripts::{self, Said, Tick};
use super::wire::{self, Kind, Told};
use crate::redis::{Failure, Store};

/// How many nodes are read in one exchange.
const BATCH: usize = 50;
/// How long a node that Redis has an old word of has to say what is right.
const PATIENCE: Duration = Duration::from_secs(5);

/// What this node knows of the others.
pub(super) struct Follower {
    own: String,
    fleet: Fleet,
    /// The revision of what is held of each node, or that it is gone.
    known: HashMap<String, u64>,
    /// Every change up to this one was heard of.
    since: u64,
    /// Up to which revision the list of all nodes was compared, and what was in it.
    from: u64,
    listed: HashSet<String>,
    /// Nodes that are not in the list, though nobody said that they went, and
    /// until when they are believed to be there: Redis has lost its data, and
    /// they will be back.
    unlisted: HashMap<String, Instant>,
    /// Nodes that Redis has an older word of than was heard, and until when that is
    /// not believed.
    older: HashMap<String, Instant>,
    lease: Duration,
    /// Redis' clock at the last tick.
    now: u64,
    nonsense: u64,
}

impl Follower {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            own: settings.name.clone(),
            fleet: Fleet::new(),
            known: HashMap::new(),
            since: 0,
            from: 0,
            listed: HashSet::new(),
            unlisted: HashMap::new(),
            older: HashMap::new(),
            lease: settings.lease,
            now: 0,
            nonsense: 0,
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.fleet.snapshot()
    }

    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// The revision behind which to go on in the list of all nodes.
    pub(super) fn from(&self) -> u64 {
        self.from
    }

    /// How many nodes are soon not believed in any more.
    #[cfg(test)]
    pub(super) fn unlisted(&self) -> usize {
        self.unlisted.len()
    }

    /// For how long the older word that Redis has of a node is not believed yet.
    #[cfg(test)]
    pub(super) fn doubted_for(&self, node: &str) -> Option<Duration> {
        let until = self.older.get(node)?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    pub(super) fn nonsense(&self) -> u64 {
        self.nonsense
    }

    /// Takes over what a tick tells of, as far as it is not known.
    pub(super) async fn take(&mut self, store: &Store, tick: &Tick) -> Result<(), Failure> {
        self.now = tick.now;
        let mut other: Vec<String> = Vec::new();
        for (node, revision) in tick.changed.iter().chain(&tick.some) {
            if *node != self.own && self.is_other(node, *revision) && !other.contains(node) {
                other.push(node.clone());
            }
        }
        for nodes in other.chunks(BATCH) {
            self.read(store, nodes).await?;
        }
        self.since = match tick.changed.last() {
            Some((_, last)) => *last,
            // The clock of this Redis is behind that of the former one.
            None => self.since.min(tick.last),
        };
        self.compare(&tick.some);
        self.disbelieve(store).await
    }

    /// Whether a node is to be read, which has this revision in Redis. An older one
    /// than was heard of is what an old file had: the node is about to say what is
    /// right. Only when it does not, it may be right after all.
    fn is_other(&mut self, node: &str, revision: u64) -> bool {
        let Some(known) = self.known.get(node) else {
            return true;
        };
        if revision >= *known {
            self.older.remove(node);
            return revision > *known;
        }
        let now = Instant::now();
        // One that went has nothing to say any more, and the lease that it had in the
        // file is to end first.
        let wait = match self.fleet.revision(node) {
            Some(_) => PATIENCE,
            None => PATIENCE + self.lease,
        };
        let until = self.older.entry(node.to_owned()).or_insert(now + wait);
        *until <= now
    }

    /// Goes on in the list of all nodes. At its end, nodes that are held and were
    /// not in it are no longer believed in for ever.
    fn compare(&mut self, some: &[(String, u64)]) {
        for (node, _) in some {
            self.unlisted.remove(node);
            self.listed.insert(node.clone());
        }
        self.from = some.last().map_or(self.from, |(_, revision)| *revision);
        if some.len() < scripts::PAGE {
            let until = Instant::now() + self.lease;
            let listed = std::mem::take(&mut self.listed);
            self.from = 0;
            for node in self.fleet.nodes() {
                if !listed.contains(&*node) {
                    self.unlisted.entry(node.to_string()).or_insert(until);
                }
            }
            let held = &self.unlisted;
            self.known
                .retain(|node, _| listed.contains(node) || held.contains_key(node));
            self.older.retain(|node, _| listed.contains(node));
        }
    }

    /// Gives up nodes that were not in the list for long enough, unless Redis has
    /// them after all.
    async fn disbelieve(&mut self, store: &Store) -> Result<(), Failure> {
        let now = Instant::now();
        let over = self.unlisted.iter().filter(|(_, until)| **until <= now);
        let over: Vec<String> = over.map(|(node, _)| node.clone()).collect();
        for nodes in over.chunks(BATCH) {
            self.read(store, nodes).await?;
        }
        for node in over {
            self.unlisted.remove(&node);
            if self.fleet.revision(&node).is_none() {
                self.known.remove(&node);
            }
        }
        Ok(())
    }

    /// Takes a message over.
    pub(super) async fn hear(&mut self, store: &Store, payload: &[u8]) -> Result<(), Failure> {
        let Some(told) = wire::told(payload) else {
            self.nonsense += 1;
            return Ok(());
        };
        let known = self.known.get(&told.node).copied();
        if told.node == self.own || known.is_some_and(|known| known >= told.revision) {
            return Ok(());
        }
        match &told.kind {
            Kind::Change(change) if known == Some(told.before) => {
                self.change(&told, change);
                Ok(())
            }
            // Something was missed, or everything is other. Nor is it believed unread
            // that a node went: what is said in one database of a Redis is heard in
            // all of them.
            Kind::Change(_) | Kind::Word | Kind::Gone => self.read(store, &[told.node]).await,
        }
    }

    fn gone(&mut self, node: &str) {
        self.unlisted.remove(node);
        self.fleet.remove(node);
    }

    fn change(&mut self, told: &Told, change: &[u8]) {
        let Some((puts, removes)) = wire::read_changes(change) else {
            self.nonsense += 1;
            return;
        };
        let records = self.records(&told.node, puts);
        self.fleet
            .change(&told.node, told.revision, records, &removes);
        self.known.insert(told.node.clone(), told.revision);
    }

    /// Reads nodes from Redis, in the place of what was known of them.
    async fn read(&mut self, store: &Store, nodes: &[String]) -> Result<(), Failure> {
        let said = scripts::read(store, nodes).await?;
        for (node, said) in nodes.iter().zip(said) {
            self.replace(node, said);
        }
        Ok(())
    }

    fn replace(&mut self, node: &str, said: Said) {
        let word = said.word.map(|word| wire::read_word(node, &word, self.now));
        match word {
            Some(Some(word)) => {
                self.unlisted.remove(node);
                let records = self.records(node, said.records);
                self.fleet.replace(node, word, said.revision, records);
            }
            Some(None) => {
                self.nonsense += 1;
                self.gone(node);
            }
            None => self.gone(node),
        }
        self.older.remove(node);
        self.known.insert(node.to_owned(), said.revision);
    }

    /// Reads records; what is none is counted and left out.
    fn records(&mut self, node: &str, records: Vec<(String, Vec<u8>)>) -> Vec<Record> {
        let node: Arc<str> = self.fleet.intern(node);
        let mut read = Vec::with_capacity(records.len());
        for (container, bytes) in records {
            match wire::read_container(&mut self.fleet, &node, &container, &bytes) {
                Some(record) => read.push(record),
                None => self.nonsense += 1,
            }
        }
        read
    }
}
