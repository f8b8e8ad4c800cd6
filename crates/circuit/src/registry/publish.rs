//! This node's containers, published.

use std::collections::HashMap;

use super::scripts::{self, Identity, State};
use super::{Local, Settings, wire};
use crate::redis::{Failure, Store};

/// How many containers one script publishes.
const BATCH: usize = 200;

/// What this node has told the registry.
pub(super) struct Publisher {
    own: Identity,
    /// What Redis has of this node; nothing is published before a claim.
    published: HashMap<String, Vec<u8>>,
    /// Whether what Redis has may be something else, so that all of it is
    /// replaced at once.
    unsure: bool,
    state: Option<State>,
}

impl Publisher {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            own: Identity {
                name: settings.name.clone(),
                id: settings.id.clone(),
                incarnation: fresh(),
            },
            published: HashMap::new(),
            unsure: true,
            state: None,
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.own
    }

    /// What tells data that are empty now from all others.
    pub(super) fn fresh_epoch(&self) -> String {
        fresh()
    }

    /// Whether another node has the name.
    pub(super) fn is_taken(&self) -> bool {
        self.state == Some(State::Taken)
    }

    /// The name is claimed anew, as if this were another life of the node.
    pub(super) fn claim_again(&mut self) {
        self.own.incarnation = fresh();
        self.state = None;
    }

    /// Hears whose the name is.
    pub(super) fn heard(&mut self, state: State) {
        self.unsure |= state == State::Claimed;
        self.state = Some(state);
    }

    /// Publishes what is other than it was. The next tick finds out what went
    /// wrong, and claims again.
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
        if self.unsure {
            return self.publish_all(store, now).await;
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
            // It may have happened although it failed.
            self.unsure = true;
            if !scripts::publish(store, &self.own, false, puts, removes).await? {
                self.state = None;
                return Ok(());
            }
            self.unsure = false;
            for container in removes {
                self.published.remove(container);
            }
            self.published.extend(puts.iter().cloned());
        }
        Ok(())
    }

    /// Everything in one step: nobody sees a part of it.
    async fn publish_all(
        &mut self,
        store: &Store,
        now: HashMap<String, Vec<u8>>,
    ) -> Result<(), Failure> {
        let puts: Vec<(String, Vec<u8>)> = now.into_iter().collect();
        if scripts::publish(store, &self.own, true, &puts, &[]).await? {
            self.published = puts.into_iter().collect();
            self.unsure = false;
        } else {
            self.state = None;
        }
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

fn fresh() -> String {
    format!("{:016x}", rand::random::<u64>())
}
