//! The other nodes, followed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use circuit_core::fleet::{Fleet, Record, Snapshot};

use super::scripts::{self, Said, Tick};
use super::wire::{self, Kind, Told};
use crate::redis::{Failure, Store};

/// How many nodes are read in one exchange.
const BATCH: usize = 50;

/// What this node knows of the others.
pub(super) struct Follower {
    own: String,
    fleet: Fleet,
    /// The revision of what is held of each node, or that it is gone.
    known: HashMap<String, u64>,
    /// Every change up to this one was heard of.
    since: u64,
    /// Which data that count belongs to.
    epoch: Option<Vec<u8>>,
    /// Nodes that were known before Redis lost its data, and until when they are
    /// believed to be there all the same.
    unconfirmed: HashMap<String, Instant>,
    /// Redis' clock at the last tick.
    now: u64,
    nonsense: u64,
}

impl Follower {
    pub(super) fn new(own: &str) -> Self {
        Self {
            own: own.to_owned(),
            fleet: Fleet::new(),
            known: HashMap::new(),
            since: 0,
            epoch: None,
            unconfirmed: HashMap::new(),
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

    pub(super) fn nonsense(&self) -> u64 {
        self.nonsense
    }

    /// Whether Redis has other data than those heard of before: it came back
    /// empty, or as it was some time ago.
    pub(super) fn is_other_life(&self, tick: &Tick) -> bool {
        self.epoch
            .as_ref()
            .is_some_and(|epoch| *epoch != tick.epoch || tick.revision < self.since)
    }

    /// Hears everything anew. Nodes that were known are believed for as long as
    /// a lease, in which all that are there will have claimed their names again.
    pub(super) fn begin_anew(&mut self, tick: &Tick, lease: Duration) {
        tracing::info!("redis has lost or changed its data: everything is published and read anew");
        self.epoch = Some(tick.epoch.clone());
        self.since = 0;
        self.known.clear();
        let until = Instant::now() + lease;
        for node in self.fleet.nodes() {
            self.unconfirmed.insert(node.to_string(), until);
        }
    }

    /// Takes over what has changed since the last tick.
    pub(super) async fn take(&mut self, store: &Store, tick: &Tick) -> Result<(), Failure> {
        self.epoch.get_or_insert_with(|| tick.epoch.clone());
        self.now = tick.now;
        let unknown: Vec<String> = tick
            .changed
            .iter()
            .filter(|(node, revision)| {
                *node != self.own && self.known.get(node).is_none_or(|known| known < revision)
            })
            .map(|(node, _)| node.clone())
            .collect();
        for nodes in unknown.chunks(BATCH) {
            self.read(store, nodes).await?;
        }
        if let Some((_, last)) = tick.changed.last() {
            self.since = *last;
        }
        Ok(())
    }

    /// Forgets nodes that did not come back with Redis.
    pub(super) fn forget_the_unconfirmed(&mut self) {
        let now = Instant::now();
        let over: Vec<String> = self
            .unconfirmed
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(node, _)| node.clone())
            .collect();
        for node in over {
            self.unconfirmed.remove(&node);
            self.fleet.remove(&node);
        }
    }

    /// Takes a message over.
    pub(super) async fn hear(&mut self, store: &Store, payload: &[u8]) -> Result<(), Failure> {
        let Some(told) = wire::told(payload) else {
            self.nonsense += 1;
            return Ok(());
        };
        // Before the first tick nothing is known that it could follow on.
        if told.node == self.own || self.epoch.is_none() {
            return Ok(());
        }
        let known = self.known.get(&told.node).copied();
        if known.is_some_and(|known| known >= told.revision) {
            return Ok(());
        }
        match &told.kind {
            Kind::Gone => {
                self.gone(&told.node, told.revision);
                Ok(())
            }
            Kind::Change(change) if known == Some(told.before) => {
                self.change(&told, change);
                Ok(())
            }
            // Something was missed.
            Kind::Change(_) | Kind::Word => self.read(store, &[told.node]).await,
        }
    }

    fn gone(&mut self, node: &str, revision: u64) {
        self.unconfirmed.remove(node);
        self.known.insert(node.to_owned(), revision);
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
                self.unconfirmed.remove(node);
                let records = self.records(node, said.records);
                self.fleet.replace(node, word, said.revision, records);
                self.known.insert(node.to_owned(), said.revision);
            }
            Some(None) => {
                self.nonsense += 1;
                self.gone(node, said.revision);
            }
            None if self.unconfirmed.contains_key(node) => {
                self.known.insert(node.to_owned(), said.revision);
            }
            None => self.gone(node, said.revision),
        }
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
