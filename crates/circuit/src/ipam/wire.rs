//! Suspect addresses: the wire is asked before one is given.

use std::net::IpAddr;

use async_trait::async_trait;
use circuit_core::Result;
use circuit_core::ipam::Given;
use circuit_core::ipam::wire::{Reply, Wanted};

use super::clock::now;
use super::keeper::{Keeper, Next, listed};

/// Asks a wire who is there.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Those of these addresses that somebody has on the wire of an interface
    /// of the host. An interface that cannot be asked has nobody.
    async fn answering(&self, link: &str, addresses: &[IpAddr]) -> Vec<IpAddr>;
}

/// What a wire says to suspect addresses.
pub(super) enum Heard {
    /// Nobody has them, or they are not suspect: they may be used.
    Nobody,
    /// Somebody has one; they are given back.
    Somebody,
    /// It cannot be asked for those of these sets; they are given back.
    Nothing(Vec<usize>),
}

impl Keeper {
    /// Asks the wire for addresses that are suspect.
    pub(super) async fn hear(&self, wanted: &Wanted, given: &Given) -> Result<Heard> {
        if wanted.unasked {
            return self.hear_nothing(wanted, given);
        }
        let Some(link) = wanted.link.as_deref().filter(|_| !given.suspect.is_empty()) else {
            return Ok(Heard::Nobody);
        };
        let answering = self.wire.answering(link, &given.suspect).await;
        let clear = |ip: &&IpAddr| !answering.contains(ip);
        let sound: Vec<IpAddr> = given.suspect.iter().filter(clear).copied().collect();
        self.clear(&wanted.pool, &sound)?;
        if answering.is_empty() {
            return Ok(Heard::Nobody);
        }
        self.release_given(wanted)?;
        self.abandon(&wanted.pool, &answering).await;
        Ok(Heard::Somebody)
    }

    /// What is held for sure is given without a question. Once the ledger has lost its
    /// memory, all is suspect for ever: it is given when nodes that are cut off give
    /// nothing any more, for a network without addresses would be none.
    fn hear_nothing(&self, wanted: &Wanted, given: &Given) -> Result<Heard> {
        let (places, for_good) = {
            let mut agent = self.agent();
            let pool = agent.pools().get(&wanted.pool);
            let is_suspect = |ip: &IpAddr| pool.is_some_and(|it| it.holding.is_suspect(*ip));
            let places = given.addresses.iter().enumerate();
            let places: Vec<usize> = places
                .filter(|(_, ip)| is_suspect(ip))
                .map(|(place, _)| place)
                .collect();
            (places, agent.doubts_for_good(now()))
        };
        if places.is_empty() {
            return Ok(Heard::Nobody);
        }
        if for_good {
            tracing::warn!(
                pool = wanted.pool,
                network = wanted.network,
                "{} may be in use by a node that is away, and its wire cannot be asked",
                listed(&given.addresses)
            );
            return Ok(Heard::Nobody);
        }
        self.release_given(wanted)?;
        Ok(Heard::Nothing(places))
    }

    fn release_given(&self, wanted: &Wanted) -> Result<()> {
        let mut agent = self.agent();
        let entries = agent.release(&wanted.pool, &wanted.user);
        self.write(&wanted.pool, &entries)
    }

    /// Takes more addresses of these sets, as those that are held cannot be given.
    pub(super) async fn take_others(&self, wanted: &Wanted, places: &[usize]) -> Next {
        let sets = places.iter().filter_map(|place| wanted.sets.get(*place));
        for set in sets {
            match self.take_one(&wanted.pool, set).await {
                Next::Again => {}
                other => return other,
            }
        }
        Next::Again
    }
}

pub(super) fn on_the_wire(wanted: &Wanted, given: &Given) -> Reply {
    Reply::Failed(format!(
        "{} of pool {} answers on {} although no node of the fleet has it: find out who it is, or \
         exclude the address",
        listed(&given.suspect),
        wanted.pool,
        wanted.link.as_deref().unwrap_or("the wire"),
    ))
}

pub(super) fn not_heard(wanted: &Wanted, given: &Given) -> Reply {
    Reply::Later(format!(
        "{} of pool {} may be in use by a node that is away, no other address is free, and the \
         wire of network {} cannot be asked: see that all nodes are there, or try again later",
        listed(&given.suspect),
        wanted.pool,
        wanted.network,
    ))
}
