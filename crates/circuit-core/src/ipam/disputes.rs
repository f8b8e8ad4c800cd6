//! Addresses of a node that another one says to have in use, which was away for so long
//! that they were taken back from it.

use std::net::IpAddr;

use super::agent::Pool;
use super::{Agent, Entry};

/// For how long that is believed: who has one in use says so each second.
const DISPUTED_MS: u64 = 10_000;

impl Agent {
    /// Has disputed addresses be suspect, those in use for when they become free. Returns
    /// what is to be written down, by pool.
    pub(super) fn dispute(
        &mut self,
        disputed: &[(String, IpAddr)],
        now: u64,
    ) -> Vec<(String, Entry)> {
        let mut entries = Vec::new();
        for (name, address) in disputed {
            let holds = |pool: &Pool| pool.holding.holds(*address);
            if !self.pools().get(name).is_some_and(holds) {
                continue;
            }
            let pool = self.pool(name);
            pool.disputed.retain(|_, until| *until > now);
            let until = now.saturating_add(DISPUTED_MS);
            pool.disputed.insert(*address, until);
            if !pool.holding.is_suspect(*address) {
                let entry = Entry::Hold {
                    addresses: vec![*address],
                    suspect: true,
                };
                pool.holding.apply(&entry);
                entries.push((name.clone(), entry));
            }
        }
        entries
    }
}

impl Pool {
    /// Whether another node has an address in use, too.
    pub fn is_disputed(&self, ip: IpAddr, now: u64) -> bool {
        self.disputed.get(&ip).is_some_and(|until| now < *until)
    }
}
