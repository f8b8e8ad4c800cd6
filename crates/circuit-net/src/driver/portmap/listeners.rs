//! Where the daemon itself listens: a port that is published at all addresses is not
//! published there, or containers would ask another one for names than they are told to.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use circuit_core::Error;

use super::config::Protocol;
use super::rules::{names, part};
use crate::nft::{Batch, Element, Nft, NftError, TABLE, concat, ip_key};

/// What this process has said. Other daemons of the host say it of theirs.
#[derive(Debug)]
struct Listeners {
    here: BTreeSet<SocketAddr>,
    /// No more, and still to be taken away.
    left: BTreeSet<SocketAddr>,
}

static LISTENERS: Mutex<Listeners> = Mutex::new(Listeners {
    here: BTreeSet::new(),
    left: BTreeSet::new(),
});

fn listeners() -> MutexGuard<'static, Listeners> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has ports that are published at all addresses leave these alone, for TCP and UDP, since
/// this process listens there; and no more those of which it said so before. Costs one
/// question when that is so already.
///
/// # Errors
/// When the ruleset cannot be read or changed; it is tried again when ports are published.
pub fn leave_to_daemon(addresses: BTreeSet<SocketAddr>) -> circuit_core::Result<()> {
    let mut said = listeners();
    let former = std::mem::replace(&mut said.here, addresses);
    said.left.extend(former);
    drop(said);
    let kept = Nft::open(None).and_then(|mut nft| keep(&mut nft));
    kept.map_err(|e| Error::unavailable(format!("published ports may lead away from dns: {e}")))
}

/// Whether published ports leave an address to this process.
pub fn is_left_to_daemon(address: SocketAddr) -> bool {
    listeners().here.contains(&address)
}

/// Puts in where this process listens, if there are rules of ports at all.
pub(super) fn keep(nft: &mut Nft) -> Result<(), NftError> {
    let mut said = listeners();
    if said.here.is_empty() && said.left.is_empty() || !nft.finds(&part())? {
        return Ok(());
    }
    nft.transaction(|nft, _| {
        let mut batch = Batch::new();
        for v6 in [false, true] {
            let set = names(v6).listeners;
            let there = nft.elements(TABLE, set)?.into_iter().map(|it| it.key);
            let there: BTreeSet<Vec<u8>> = there.collect();
            let (here, left) = (keys(&said.here, v6), keys(&said.left, v6));
            let over = left.difference(&here).filter(|key| there.contains(*key));
            let over: Vec<Element> = over.cloned().map(Element::new).collect();
            let new = here.difference(&there).cloned().map(Element::new);
            batch.delete_elements(TABLE, set, &over);
            batch.add_elements(TABLE, set, &new.collect::<Vec<_>>());
        }
        Ok::<_, NftError>((batch, ()))
    })?;
    said.left.clear();
    Ok(())
}

fn keys(addresses: &BTreeSet<SocketAddr>, v6: bool) -> BTreeSet<Vec<u8>> {
    let of_family = addresses.iter().filter(|it| it.is_ipv6() == v6);
    let keys = of_family.flat_map(|it| {
        let key = |protocol| {
            let (ip, port) = (ip_key(it.ip()), it.port().to_be_bytes());
            concat(&[&ip, &[protocol as u8], &port])
        };
        [Protocol::Tcp, Protocol::Udp].map(key)
    });
    keys.collect()
}
