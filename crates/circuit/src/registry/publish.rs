//! This node's containers, published.

use std::collections::HashMap;

use super::scripts::{self, Identity, State, Tick};
use super::{Local, Settings, wire};
use crate::redis::{Failure, Store};

/// How many containers one script publishes.
const BATCH: usize = 200;

/// What this node has told the registry.
pub(super) struct Publisher {
    own: Identity,
    /// What this node told of itself last.
    published: HashMap<String, Vec<u8>>,
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
    /// was published, when it came back empty or from an old file.
    pub(super) fn heard(&mut self, tick: &Tick) {
        self.state = Some(tick.state);
        if self.revision != Some(tick.own) {
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
        let now: HashMap<String, Vec<u8>> = local
            .containers()
            .into_iter()
            .map(|(container, attached)| (container, wire::container(&attached)))
            .collect();
        if self.revision.is_none() {
            // In one step: nobody sees a part of it.
            let all: Vec<(String, Vec<u8>)> = now.into_iter().collect();
            self.published.clear();
            return self.send(store, true, &all, &[]).await;
        }
        let puts: Vec<(String, Vec<u8>)> = now
            .iter()
            .filter(|(container, record)| self.published.get(*container) != Some(record))
            .map(|(container, record)| (container.clone(), record.clone()))
            .collect();
        let gone: Vec<String> = self
            .published
            .keys()
            .filter(|container| !now.contains_key(*container))
            .cloned()
            .collect();
        for (puts, removes) in batches(&puts, &gone) {
            self.send(store, false, puts, removes).await?;
        }
        Ok(())
    }

    async fn send(
        &mut self,
        store: &Store,
        all: bool,
        puts: &[(String, Vec<u8>)],
        removes: &[String],
    ) -> Result<(), Failure> {
        self.revision = None;
        self.revision = scripts::publish(store, &self.own, all, puts, removes).await?;
        if self.revision.is_none() {
            // The next tick finds out whose the name is.
            self.state = None;
        }
        for container in removes {
            self.published.remove(container);
        }
        self.published.extend(puts.iter().cloned());
        Ok(())
    }
}

type Batch<'a> = (&'a [(String, Vec<u8>)], &'a [String]);

/// The changes in parts that no script takes long for.
fn batches<'a>(
    puts: &'a [(String, Vec<u8>)],
    removes: &'a [String],
) -> impl Iterator<Item = Batch<'a>> {
    let puts = puts.chunks(BATCH).map(|puts| (puts, &[][..]));
    let removes = removes.chunks(BATCH).map(|removes| (&[][..], removes));
    puts.chain(removes)
}
