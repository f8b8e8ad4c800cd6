//! A node in another place than before.

use std::net::IpAddr;

use super::{Agent, Entry};

/// A move of this node to another place: a copy of it, or what it is a copy of, may have
/// given what is held meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// The ledger has not answered there yet.
    pub unheard: bool,
    /// Until then the wire is asked for what is held.
    pub until: u64,
    /// What was in stock then, and sound, by pool.
    pub stock: Vec<(String, IpAddr)>,
}

impl Agent {
    /// How this node came to its place.
    pub fn moved(&self) -> &Moved {
        &self.moved
    }

    /// Takes up how this node came to its place.
    pub fn set_moved(&mut self, moved: Moved) {
        self.moved = moved;
    }

    /// Has all that is in stock be suspect: a copy of this host, or what this one is a copy
    /// of, has it in stock too.
    pub(super) fn distrust_stock(&mut self) -> Vec<(String, Entry)> {
        let mut entries = Vec::new();
        for (name, pool) in &mut self.pools {
            let spare = pool.holding.spare();
            let addresses: Vec<IpAddr> = spare.filter(|ip| !pool.holding.is_suspect(*ip)).collect();
            if addresses.is_empty() {
                continue;
            }
            let its = addresses.iter().map(|ip| (name.clone(), *ip));
            self.moved.stock.extend(its);
            let suspect = true;
            let entry = Entry::Hold { addresses, suspect };
            pool.holding.apply(&entry);
            entries.push((name.clone(), entry));
        }
        entries
    }

    /// Where the wire cannot be asked, that ends when the other gives nothing new any more;
    /// else such a network would lose its stock with each reboot.
    pub(super) fn trust_stock(&mut self, wanted: &[String]) -> Vec<(String, Entry)> {
        let mut entries = Vec::new();
        for (name, address) in std::mem::take(&mut self.moved.stock) {
            let Some(pool) = self.pools.get_mut(&name) else {
                continue;
            };
            if !pool.holding.holds(address) {
                // It is not the same any more when it comes again.
            } else if pool.sets.is_empty() && !wanted.contains(&name) {
                // Nobody has said yet on which wire it is. Those who call for it do not wait
                // for that: it may never be said, as here no container is to come.
                self.moved.stock.push((name, address));
            } else if pool.link.is_none() && pool.holding.is_suspect(address) {
                let entry = Entry::Clear { address };
                pool.holding.apply(&entry);
                entries.push((name, entry));
            }
        }
        entries
    }
}
