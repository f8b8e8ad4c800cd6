//! This node's containers, published.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use circuit_core::fleet::Record;

use super::scripts::{self, Identity, State, Tick};
use super::{Local, Settings, wire};
use crate::redis::{Failure, Store};

/// How many containers one script publishes.
const BATCH: usize = 200;

/// What this node has told the registry.
pub(super) struct Publisher {
    own: Identity,
    /// What this node told of itself last.
    published: HashMap<Arc<str>, Arc<Record>>,
    /// The revision that this has in Redis; none when it may be something else
    /// that is there, so that all of it is to be replaced.
    revision: Option<u64>,
    state: Option<State>,
}

impl Publisher {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            own: Identity {
                name: settings.name.clone(),
                id: settings.id.clone(),
                life: settings.life,
                token: format!("{:016x}", rand::random::<u64>()),
            },
            published: HashMap::new(),
            revision: None,
            state: None,
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.own
    }

    /// Whether another node has the name.
    pub(super) fn is_taken(&self) -> bool {
        self.state == Some(State::Taken)
    }

    /// Hears whose the name is, and what Redis has of it: something else than
    /// was published, when it came back empty or from an old file. A Redis that evicts
    /// keys loses records without another revision.
    pub(super) fn heard(&mut self, tick: &Tick) {
        self.state = Some(tick.state);
        let whole = tick.records == Some(self.published.len() as u64);
        if self.revision != Some(tick.own) || !whole {
            self.revision = None;
        }
    }

    /// Publishes what is other than it was.
    ///
    /// # Errors
    /// When Redis is away. The change may have been made all the same, so that
    /// everything is published next.
    pub(super) async fn publish(
        &mut self,
        store: &Store,
        local: &dyn Local,
    ) -> Result<(), Failure> {
        if !matches!(self.state, Some(State::Held | State::Claimed)) {
            return Ok(());
        }
        let now = local.containers();
        if self.revision.is_none() {
            // In one step: nobody sees a part of it.
            self.published.clear();
            return self.send(store, true, &now, &[]).await;
        }
        // What has not changed is the same record, as a rule.
        let is_published = |record: &Arc<Record>| {
            let published = self.published.get(&record.container);
            published.is_some_and(|it| Arc::ptr_eq(it, record) || it == record)
        };
        let puts: Vec<Arc<Record>> = now
            .iter()
            .filter(|record| !is_published(record))
            .cloned()
            .collect();
        let gone: Vec<Arc<str>> = match self.published.len() + puts.len() > now.len() {
            true => {
                let now: HashSet<&str> = now.iter().map(|record| &*record.container).collect();
                let published = self.published.keys();
                published
                    .filter(|it| !now.contains(&***it))
                    .cloned()
                    .collect()
            }
            false => Vec::new(),
        };
        for (puts, removes) in batches(&puts, &gone) {
            self.send(store, false, puts, removes).await?;
        }
        Ok(())
    }

    async fn send(
        &mut self,
        store: &Store,
        all: bool,
        puts: &[Arc<Record>],
        removes: &[Arc<str>],
    ) -> Result<(), Failure> {
        let put = |record: &Arc<Record>| {
            let bytes = wire::container(&record.attached);
            (record.container.to_string(), bytes)
        };
        let told: Vec<(String, Vec<u8>)> = puts.iter().map(put).collect();
        let gone: Vec<String> = removes.iter().map(ToString::to_string).collect();
        self.revision = None;
        self.revision = scripts::publish(store, &self.own, all, &told, &gone).await?;
        if self.revision.is_none() {
            // The next tick finds out whose the name is.
            self.state = None;
        }
        for container in removes {
            self.published.remove(container);
        }
        let published = |record: &Arc<Record>| (Arc::clone(&record.container), Arc::clone(record));
        self.published.extend(puts.iter().map(published));
        Ok(())
    }
}

type Batch<'a> = (&'a [Arc<Record>], &'a [Arc<str>]);

/// The changes in parts that no script takes long for.
fn batches<'a>(
    puts: &'a [Arc<Record>],
    removes: &'a [Arc<str>],
) -> impl Iterator<Item = Batch<'a>> {
    let puts = puts.chunks(BATCH).map(|puts| (puts, &[][..]));
    let removes = removes.chunks(BATCH).map(|removes| (&[][..], removes));
    puts.chain(removes)
}
