//! The ledger of all pools: which node holds which address. This is what the
//! scripts in Redis do, step by step, on maps; tests hold one against the
//! other. A node without Redis uses it as it is.
//!
//! # Epochs
//! Redis may come back empty, or as it was a while ago. So the ledger has an
//! *epoch*, a random text, and a count of what it ever gave. Every node
//! remembers both. A node that knows another epoch, or a higher count, has seen
//! something that is lost; from then on the ledger *settles*: nothing is given
//! out until the nodes have had the time of a lease to claim what they hold,
//! and for ever, what is given is *suspect*: the wire is to be asked first, as
//! a node that has it may be cut off, or its daemon be down. An empty ledger that nobody knows anything
//! of settles for the moment in which every node that can be there calls.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::AddressSet;

/// Most addresses that are looked at for one answer.
pub const LOOKED_AT: u64 = 4096;
/// How long a pool is called for.
pub const WANTED_MS: u64 = 10_000;
/// As many addresses of a node that is gone are taken back at a time.
pub const TAKEN_BACK: usize = 128;

/// How long things take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A node that is not heard of for so long is away.
    pub lease: u64,
    /// The addresses of a node that is away for longer than this are taken
    /// back.
    pub grace: u64,
    /// How long every node that is up needs to call.
    pub moment: u64,
}

impl Timing {
    /// How long a claim holds that is not renewed.
    pub fn claim(&self) -> u64 {
        self.lease.saturating_add(self.grace)
    }

    /// How old the last renewal may be for a node to give out addresses that
    /// nobody uses yet: half of the time, so that neither a slow disk nor
    /// a clock that is off by some percent lets a node give what it has lost.
    pub fn trusted(&self) -> u64 {
        self.claim() / 2
    }
}

/// Who calls, and what it remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The node's lasting id.
    pub node: String,
    /// Its name, for people.
    pub name: String,
    /// The epoch it was told last; empty when it never was.
    pub epoch: String,
    /// The highest count it was told in that epoch.
    pub count: u64,
    /// An epoch, should a new one be needed.
    pub fresh: String,
}

/// How the ledger stands; with every answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its epoch.
    pub epoch: String,
    /// How much it ever gave.
    pub count: u64,
    /// For how many more milliseconds nothing is given.
    pub settling: u64,
    /// Whether what is given is suspect.
    pub suspect: bool,
}

/// The answer to the call that a node makes all the time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tick {
    /// How the ledger stands.
    pub standing: Standing,
    /// Whether the node's claim still held.
    pub known: bool,
    /// How many addresses are the node's.
    pub held: u64,
    /// Pools that somebody needs addresses of.
    pub wanted: Vec<String>,
}

/// A wish for any addresses.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The pool.
    pub pool: &'a str,
    /// What of it.
    pub set: &'a AddressSet,
    /// As many at most.
    pub want: usize,
    /// As many at most are told of that were taken back from nodes that are away.
    pub abandoned: usize,
}

/// The answer to a wish for any address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// How the ledger stands.
    pub standing: Standing,
    /// These are the node's now.
    pub addresses: Vec<IpAddr>,
    /// These are nobody's, and a node that is away had them: to be had one by
    /// one, and suspect.
    pub abandoned: Vec<IpAddr>,
    /// How many were looked at; when it is fewer than there are, the next look
    /// goes on where this one ended.
    pub looked_at: u64,
}

/// The answer to a wish for one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exact {
    /// It is the node's now, or was before.
    Yours {
        /// A node that is away had it. Or the node itself, which asks only for what it
        /// does not know to be its own: an answer was lost, or what it has written.
        suspect: bool,
    },
    /// Another node, of this id, has it.
    Held(String),
    /// Nothing is given yet.
    Settling,
}

/// An address as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The pool.
    pub pool: String,
    /// The address.
    pub address: IpAddr,
    /// The id of the node that holds it, or held it last.
    pub node: String,
    /// That node's name.
    pub name: String,
    /// True when it was taken back from that node.
    pub abandoned: bool,
    /// For how long that node's claim holds, in milliseconds; 0 when it does
    /// not.
    pub claim: u64,
    /// What that node told of its use, as JSON; empty when it is free.
    pub used: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    node: String,
    abandoned: bool,
}

/// The ledger as a model. `now` is in milliseconds, of one clock.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    standing: Standing,
    born: u64,
    settles: u64,
    suspect: bool,
    owners: BTreeMap<(String, IpAddr), Owner>,
    claims: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
    names: BTreeMap<String, String>,
    wanted: BTreeMap<String, u64>,
    cursors: BTreeMap<(String, IpAddr), IpAddr>,
    uses: BTreeMap<(String, IpAddr), String>,
}

impl Ledger {
    /// One that only this node uses, and that has nothing to settle.
    pub fn alone(epoch: &str) -> Self {
        let standing = Standing {
            epoch: epoch.to_owned(),
            ..Standing::default()
        };
        Self {
            standing,
            ..Self::default()
        }
    }

    /// Redis was started anew, or another took its place. What it gave last
    /// may be lost, and only known to a node that is cut off or down.
    pub fn restarted(&mut self, timing: &Timing, now: u64) {
        if self.standing.epoch.is_empty() {
            return;
        }
        self.born = now;
        // After a lease, whoever was not told of it asks the wire first.
        self.settles = self.settles.max(now + timing.lease);
        self.suspect = true;
    }

    fn enter(&mut self, hello: &Hello, timing: &Timing, now: u64) -> Standing {
        let long = timing.lease;
        // The clock may have been set back.
        self.born = self.born.min(now);
        let longest = now.saturating_add(long.max(timing.moment));
        self.settles = self.settles.min(longest);
        let standing = &mut self.standing;
        if standing.epoch.is_empty() {
            standing.epoch.clone_from(&hello.fresh);
            standing.count = hello.count;
            self.born = now;
            self.settles = now + timing.moment;
        }
        if hello.epoch == standing.epoch && hello.count > standing.count {
            // It is as it was a while ago.
            standing.epoch.clone_from(&hello.fresh);
            standing.count = hello.count;
            self.born = now;
        }
        if !hello.epoch.is_empty() && hello.epoch != standing.epoch {
            self.settles = self.settles.max(self.born + long);
            self.suspect = true;
        }
        standing.settling = self.settles.saturating_sub(now);
        standing.suspect = self.suspect;
        standing.clone()
    }

    /// The call that a node makes all the time: its claim is renewed, and the
    /// claims of others that ended are looked after.
    pub fn tick(&mut self, hello: &Hello, timing: &Timing, now: u64) -> Tick {
        let standing = self.enter(hello, timing, now);
        let claim = now.saturating_add(timing.claim());
        let known = self.claims.insert(hello.node.clone(), claim).is_some();
        self.lost.remove(&hello.node);
        self.names.insert(hello.node.clone(), hello.name.clone());
        self.take_back(timing, now);
        let calls = |until: u64| until > now && until <= now + WANTED_MS;
        self.wanted.retain(|_, until| calls(*until));
        let held = self.owners.values();
        let held = held.filter(|owner| owner.node == hello.node && !owner.abandoned);
        Tick {
            standing,
            known,
            held: held.count() as u64,
            wanted: self.wanted.keys().cloned().collect(),
        }
    }

    /// A claim that ended is first marked, and only when its node does not call
    /// for a lease more are its addresses taken back: a jump of the clock must
    /// not take them from nodes that are up.
    fn take_back(&mut self, timing: &Timing, now: u64) {
        let ended: Vec<String> = self
            .claims
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(node, _)| node.clone())
            .collect();
        for node in ended {
            let marked = self.lost.entry(node.clone()).or_insert(now);
            *marked = now.min(*marked);
            let marked = *marked;
            if now.saturating_sub(marked) < timing.lease {
                continue;
            }
            let its = |owner: &&mut Owner| owner.node == node && !owner.abandoned;
            let mut left = self.owners.values_mut().filter(its);
            for owner in left.by_ref().take(TAKEN_BACK) {
                owner.abandoned = true;
            }
            if left.next().is_none() {
                self.claims.remove(&node);
                self.lost.remove(&node);
            }
        }
    }

    /// Takes free addresses of a set for a node.
    pub fn take(&mut self, hello: &Hello, timing: &Timing, now: u64, wish: &Wish<'_>) -> Taken {
        let Wish {
            pool, set, want, ..
        } = *wish;
        let standing = self.enter(hello, timing, now);
        let mut taken = Taken {
            standing,
            ..Taken::default()
        };
        if taken.standing.settling > 0 {
            return taken;
        }
        let Some(first) = set.spans.first() else {
            return taken;
        };
        let place = (pool.to_owned(), first.first);
        let after = self.cursors.get(&place).copied();
        let all = || set.spans.iter().flat_map(super::Span::numbered);
        let later = all().filter(|ip| after.is_none_or(|after| *ip > after));
        let sooner = all().filter(|ip| after.is_some_and(|after| *ip <= after));
        for ip in later.chain(sooner) {
            if taken.addresses.len() >= want || taken.looked_at >= LOOKED_AT {
                break;
            }
            taken.looked_at += 1;
            self.cursors.insert(place.clone(), ip);
            match self.owners.get(&(pool.to_owned(), ip)) {
                None => {
                    self.give_to(pool, ip, &hello.node);
                    taken.addresses.push(ip);
                }
                Some(owner) if owner.abandoned && taken.abandoned.len() < wish.abandoned => {
                    taken.abandoned.push(ip);
                }
                Some(_) => {}
            }
        }
        self.standing.count += taken.addresses.len() as u64;
        taken.standing.count = self.standing.count;
        taken
    }

    /// Takes one address for a node.
    pub fn exact(
        &mut self,
        hello: &Hello,
        timing: &Timing,
        now: u64,
        (pool, ip): (&str, IpAddr),
    ) -> (Standing, Exact) {
        let mut standing = self.enter(hello, timing, now);
        let owner = self.owners.get(&(pool.to_owned(), ip)).cloned();
        let exact = match owner {
            Some(owner) if owner.node == hello.node && !owner.abandoned => {
                Exact::Yours { suspect: true }
            }
            Some(owner) if !owner.abandoned => Exact::Held(owner.node),
            _ if standing.settling > 0 => Exact::Settling,
            owner => {
                self.give_to(pool, ip, &hello.node);
                self.standing.count += 1;
                standing.count = self.standing.count;
                Exact::Yours {
                    suspect: owner.is_some(),
                }
            }
        };
        (standing, exact)
    }

    fn give_to(&mut self, pool: &str, ip: IpAddr, node: &str) {
        let owner = Owner {
            node: node.to_owned(),
            abandoned: false,
        };
        self.owners.insert((pool.to_owned(), ip), owner);
    }

    /// Says that these are the node's, which it was given before. Those that
    /// another has are left to it, and told with its id.
    pub fn claim(&mut self, node: &str, pool: &str, addresses: &[IpAddr]) -> Vec<(IpAddr, String)> {
        let mut conflicts = Vec::new();
        for ip in addresses {
            match self.owners.get(&(pool.to_owned(), *ip)) {
                Some(owner) if owner.node != node && !owner.abandoned => {
                    conflicts.push((*ip, owner.node.clone()));
                }
                _ => self.give_to(pool, *ip, node),
            }
        }
        conflicts
    }

    /// Gives addresses back; `abandoned` when somebody on the wire has them.
    pub fn give_back(&mut self, node: &str, pool: &str, addresses: &[IpAddr], abandoned: bool) {
        for ip in addresses {
            let place = (pool.to_owned(), *ip);
            let Some(owner) = self.owners.get_mut(&place) else {
                continue;
            };
            if owner.node != node || owner.abandoned {
                continue;
            }
            self.uses.remove(&place);
            if abandoned {
                owner.abandoned = true;
            } else {
                self.owners.remove(&place);
            }
        }
    }

    /// Asks every node for the addresses of a pool that it does not use.
    pub fn want(&mut self, pool: &str, now: u64) {
        self.wanted.insert(pool.to_owned(), now + WANTED_MS);
    }

    /// Tells for people what addresses of a node are used for; an empty text
    /// for one that is free.
    pub fn note(&mut self, node: &str, pool: &str, uses: &[(IpAddr, String)]) {
        for (ip, text) in uses {
            let place = (pool.to_owned(), *ip);
            let ours = |owner: &Owner| owner.node == node && !owner.abandoned;
            if !self.owners.get(&place).is_some_and(ours) || text.is_empty() {
                self.uses.remove(&place);
            } else {
                self.uses.insert(place, text.clone());
            }
        }
    }

    /// The addresses that are a node's, with their pools.
    pub fn held_by(&self, node: &str) -> BTreeSet<(String, IpAddr)> {
        let its = |owner: &Owner| owner.node == node && !owner.abandoned;
        let its = self.owners.iter().filter(|(_, owner)| its(owner));
        its.map(|(place, _)| place.clone()).collect()
    }

    /// Forgets that a node had addresses which were taken back from it: they are given
    /// without a question, as people know that nobody has them.
    pub fn release(&mut self, node: &str, pool: &str, addresses: &[IpAddr]) -> usize {
        let free = |ip: &&IpAddr| {
            let place = (pool.to_owned(), **ip);
            let its = |owner: &Owner| owner.node == node && owner.abandoned;
            if !self.owners.get(&place).is_some_and(its) {
                return false;
            }
            self.uses.remove(&place);
            self.owners.remove(&place).is_some()
        };
        addresses.iter().filter(free).count()
    }

    /// Every address that somebody holds, or held, in order.
    pub fn list(&self, pool: Option<&str>, now: u64) -> Vec<Listed> {
        let wanted = self
            .owners
            .iter()
            .filter(|((of, _), _)| pool.is_none_or(|pool| pool == of));
        wanted
            .map(|((of, ip), owner)| {
                let claim = self.claims.get(&owner.node).copied().unwrap_or_default();
                let place = (of.clone(), *ip);
                Listed {
                    pool: of.clone(),
                    address: *ip,
                    node: owner.node.clone(),
                    name: self.names.get(&owner.node).cloned().unwrap_or_default(),
                    abandoned: owner.abandoned,
                    claim: claim.saturating_sub(now),
                    used: self.uses.get(&place).cloned().unwrap_or_default(),
                }
            })
            .collect()
    }
}
