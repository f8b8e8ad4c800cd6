//! Suspect addresses: the wire is asked before one is given.

use std::net::IpAddr;

use async_trait::async_trait;
use circuit_core::ipam::Given;
use circuit_core::ipam::wire::{Reply, Wanted};
use circuit_core::{Error, ErrorKind, Result};

use super::clock::now;
use super::keeper::{Keeper, Next, listed};

/// Asks a wire who is there.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Those of these addresses that somebody has on the wire of an interface
    /// of the host.
    ///
    /// # Errors
    /// When it cannot be asked: with [`InvalidArgument`](ErrorKind::InvalidArgument)
    /// never, else not now.
    async fn answering(&self, link: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>>;
}

/// What a wire says to suspect addresses.
pub(super) enum Heard {
    /// Nobody has them, or they are not suspect: they may be used.
    Nobody,
    /// Somebody has one; they are given back.
    Somebody,
    /// It cannot be asked, so what was chosen is free again.
    Nothing {
        /// The sets that another address may help of.
        places: Vec<usize>,
        /// Why, when it can at other times.
        why: Option<Error>,
    },
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
        let answering = match self.wire.answering(link, &given.suspect).await {
            Ok(answering) => answering,
            Err(error) if error.kind() == ErrorKind::InvalidArgument => {
                return self.hear_nothing(wanted, given);
            }
            // It may be well in a moment, and somebody be there.
            Err(error) => {
                let places = self.suspects(wanted, given);
                self.release_given(wanted)?;
                return Ok(Heard::Nothing {
                    places,
                    why: Some(error),
                });
            }
        };
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
    /// memory, all is suspect for ever: it is given when nodes that are cut off, and copies
    /// of this one, give nothing any more, for a network without addresses would be none.
    fn hear_nothing(&self, wanted: &Wanted, given: &Given) -> Result<Heard> {
        let places = self.suspects(wanted, given);
        if places.is_empty() {
            return Ok(Heard::Nobody);
        }
        if self.withheld_for(wanted, given) == Some(0) {
            tracing::warn!(
                pool = wanted.pool,
                network = wanted.network,
                "{} may be in use by a node that is away, and its wire cannot be asked",
                listed(&given.addresses)
            );
            return Ok(Heard::Nobody);
        }
        self.release_given(wanted)?;
        Ok(Heard::Nothing { places, why: None })
    }

    /// The sets whose chosen address is itself suspect, not only for the time being.
    fn suspects(&self, wanted: &Wanted, given: &Given) -> Vec<usize> {
        let agent = self.agent();
        let pool = agent.pools().get(&wanted.pool);
        let is_suspect = |ip: &IpAddr| pool.is_some_and(|it| it.holding.is_suspect(*ip));
        let places = given.addresses.iter().enumerate();
        let places = places.filter(|(_, ip)| is_suspect(ip));
        places.map(|(place, _)| place).collect()
    }

    /// For how many milliseconds more those are not given, if there is an end.
    fn withheld_for(&self, wanted: &Wanted, given: &Given) -> Option<u64> {
        let suspects = self.suspects(wanted, given);
        let (agent, now) = (self.agent(), now());
        let of = |place: &usize| agent.withheld_for(&wanted.pool, given.addresses[*place], now);
        suspects
            .iter()
            .try_fold(0, |longest, place| Some(of(place)?.max(longest)))
    }

    /// What to say of an address that is not given, as nobody could be asked for it.
    pub(super) fn not_heard(&self, wanted: &Wanted, given: &Given, why: Option<&Error>) -> Reply {
        let (addresses, pool) = (listed(&given.suspect), &wanted.pool);
        let network = &wanted.network;
        let by = match self.agent().doubts_for(now()) {
            Some(_) => "a node that is away, as redis was started anew or has lost what it knew",
            None => "a copy of this host, as this one was started anew",
        };
        Reply::Later(match (why, self.withheld_for(wanted, given)) {
            (Some(why), _) => format!(
                "{addresses} of pool {pool} may be in use by a node that is away, and the wire of \
                 network {network} cannot be asked: {why}"
            ),
            (None, Some(ms)) => format!(
                "{addresses} of pool {pool} may be in use by {by}, and the wire of network \
                 {network} cannot be asked: addresses are given in {} s",
                ms.div_ceil(1000)
            ),
            (None, None) => format!(
                "{addresses} of pool {pool} may be in use by a node that is away, no other address \
                 is free, and the wire of network {network} cannot be asked: see that all nodes \
                 are there, try again later, or free it by `circuit ipam release --force` when its \
                 node is gone for good"
            ),
        })
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
