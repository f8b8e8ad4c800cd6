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

use super::{Exact, Hello, Listed, Standing, Taken, Tick, Timing, Wish};

/// Most addresses that are looked at for one answer.
pub const LOOKED_AT: u64 = 4096;
/// How long a pool is called for.
pub const WANTED_MS: u64 = 10_000;
/// As many addresses of a node that is gone are taken back at a time.
pub const TAKEN_BACK: usize = 128;

/// A clock that is behind by less is not looked at.
const SET_BACK_MS: u64 = 1_000;

/// From where a node called last, and until when nobody else can be that node.
#[derive(Debug, Clone)]
struct Home {
    place: String,
    name: String,
    until: u64,
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
    homes: BTreeMap<String, Home>,
    wanted: BTreeMap<String, u64>,
    cursors: BTreeMap<(String, IpAddr), IpAddr>,
    uses: BTreeMap<(String, IpAddr), String>,
    /// What nodes were told to be another's and have in use: whose it is, and what.
    disputed: BTreeSet<(String, String, IpAddr)>,
    /// When somebody called last.
    heard: u64,
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
        let lives = |home: &&Home| (now + 1..=now + long).contains(&home.until);
        if let Some(home) = self.elsewhere(hello).filter(lives) {
            return Standing {
                taken: Some(home.name.clone()),
                suspect: self.suspect,
                settling: 0,
                age: 0,
                ..self.standing.clone()
            };
        }
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
        standing.age = now.saturating_sub(self.born);
        standing.clone()
    }

    fn elsewhere(&self, hello: &Hello) -> Option<&Home> {
        let home = self.homes.get(&hello.node);
        home.filter(|home| home.place != hello.place)
    }

    /// The call that a node makes all the time: its claim is renewed, and the
    /// claims of others that ended are looked after.
    pub fn tick(&mut self, hello: &Hello, timing: &Timing, now: u64) -> Tick {
        let standing = self.enter(hello, timing, now);
        if standing.taken.is_some() {
            return Tick {
                standing,
                ..Tick::default()
            };
        }
        self.follow_clock(timing, now);
        let moved = self.elsewhere(hello).is_some();
        let home = Home {
            place: hello.place.clone(),
            name: hello.name.clone(),
            until: now.saturating_add(timing.lease),
        };
        self.homes.insert(hello.node.clone(), home);
        let claim = now.saturating_add(timing.claim());
        let known = self.claims.insert(hello.node.clone(), claim).is_some();
        self.lost.remove(&hello.node);
        self.names.insert(hello.node.clone(), hello.name.clone());
        self.take_back(timing, now);
        let calls = |until: u64| until > now && until <= now + WANTED_MS;
        self.wanted.retain(|_, until| calls(*until));
        let (its, others) = std::mem::take(&mut self.disputed)
            .into_iter()
            .partition(|(owner, ..)| *owner == hello.node);
        self.disputed = others;
        let held = self.owners.values();
        let held = held.filter(|owner| owner.node == hello.node && !owner.abandoned);
        Tick {
            standing,
            known,
            held: held.count() as u64,
            moved,
            wanted: self.wanted.keys().cloned().collect(),
            disputed: BTreeSet::into_iter(its)
                .map(|(_, pool, ip)| (pool, ip))
                .collect(),
        }
    }

    /// Claims of a time to come, as the clock was set back since, hold for as long as new
    /// ones: for how long they were renewed before is not known, as it may have been set
    /// forward by mistake.
    fn follow_clock(&mut self, timing: &Timing, now: u64) {
        let behind = self.heard.saturating_sub(now);
        if behind >= SET_BACK_MS {
            let longest = now.saturating_add(timing.claim());
            for until in self.claims.values_mut() {
                *until = longest.min(*until);
            }
        }
        if behind >= SET_BACK_MS || now > self.heard {
            self.heard = now;
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
                self.homes.remove(&node);
                self.disputed.retain(|(owner, ..)| *owner != node);
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
        if taken.standing.settling > 0 || taken.standing.taken.is_some() {
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
        if standing.taken.is_some() {
            return (standing, Exact::Settling);
        }
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
    /// another has are left to it, and told with its id; and it is told, too.
    pub fn claim(&mut self, node: &str, pool: &str, addresses: &[IpAddr]) -> Vec<(IpAddr, String)> {
        let mut conflicts = Vec::new();
        for ip in addresses {
            match self.owners.get(&(pool.to_owned(), *ip)) {
                Some(owner) if owner.node != node && !owner.abandoned => {
                    conflicts.push((*ip, owner.node.clone()));
                    let disputed = (owner.node.clone(), pool.to_owned(), *ip);
                    self.disputed.insert(disputed);
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
