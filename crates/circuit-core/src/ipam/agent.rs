//! What a node knows of its addresses, and what follows from it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::wire::Wanted;
use super::{
    AddressSet, Entry, Hello, Holding, Missing, Moved, Standing, Tick, Timing, Use, UsedUp, User,
};

/// How far a node may rely on what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The ledger has just said so.
    Sure,
    /// The ledger said so more than a lease ago. It may have lost its memory
    /// since: the wire is asked before an address is used.
    Doubtful,
    /// The ledger has another memory now, and was not told yet what is held.
    Claiming,
    /// Too long ago, or never.
    Lost,
}

/// One pool on this node.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    /// What is held.
    pub holding: Holding,
    /// Addresses in use here that another node holds, with its id.
    pub conflicts: BTreeMap<IpAddr, String>,
    /// The sets that were last asked for.
    pub sets: Vec<AddressSet>,
    /// The interface that was last on the wire.
    pub link: Option<String>,
    /// Others need addresses until then: none is taken for later.
    pub modest_until: u64,
    /// Addresses that another node has in use, too, and until when that is believed.
    pub disputed: BTreeMap<IpAddr, u64>,
    /// What of it nothing is taken of for later, as there was nothing.
    pub used_up: UsedUp,
}

/// What is to be done after a [`Tick`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Duty {
    /// To be written down, by pool.
    pub entries: Vec<(String, Entry)>,
    /// Everything that is held is to be claimed.
    pub claim: bool,
    /// To be given back, by pool.
    pub give_back: Vec<(String, Vec<IpAddr>)>,
}

/// Addresses for an interface, chosen and taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// One of each set.
    pub addresses: Vec<IpAddr>,
    /// Those of them that the wire is to be asked for first.
    pub suspect: Vec<IpAddr>,
    /// To be written down before they are used.
    pub entries: Vec<Entry>,
}

/// Why there are no addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The interface has these already.
    Has(Vec<IpAddr>),
    /// What is held does not do.
    Missing(Missing),
    /// What is held cannot be relied on.
    Untrusted(Trust),
}

/// The addresses of a node, over all pools. Times are in milliseconds, of one
/// clock of this machine that does not stop while it sleeps.
#[derive(Debug, Clone)]
pub struct Agent {
    /// How the node calls the ledger.
    pub hello: Hello,
    timing: Timing,
    pub(super) pools: BTreeMap<String, Pool>,
    confirmed: Option<u64>,
    claiming: bool,
    /// The ledger has lost something, and until then a node that is cut off may still give
    /// what is given anew: the wire is asked each time, as what nobody had a moment ago
    /// may be in use by now.
    doubts: Option<u64>,
    taken: Taken,
    pub(super) moved: Moved,
}

/// Whether another host calls by this node's id.
#[derive(Debug, Clone)]
enum Taken {
    No,
    /// The one of this name did, as was first heard then. It may be this host before it
    /// was started again.
    By(String, u64),
    /// It is another: one that is gone is forgotten by the ledger after a lease.
    ForGood(String),
}

impl Agent {
    /// A node that holds nothing.
    pub fn new(hello: Hello, timing: Timing) -> Self {
        Self {
            hello,
            timing,
            pools: BTreeMap::new(),
            confirmed: None,
            claiming: false,
            doubts: None,
            taken: Taken::No,
            moved: Moved::default(),
        }
    }

    /// Takes up what was written down: a change, in its order.
    pub fn apply(&mut self, pool: &str, entry: &Entry) {
        let pool = self.pools.entry(pool.to_owned()).or_default();
        pool.holding.apply(entry);
        if let Entry::Drop { addresses } = entry {
            for address in addresses {
                pool.conflicts.remove(address);
            }
        }
    }

    /// When the ledger last confirmed what is held, if that is known.
    pub fn confirmed(&self) -> Option<u64> {
        self.confirmed
    }

    /// Takes up when the ledger last confirmed what is held, if it did.
    pub fn set_confirmed(&mut self, at: Option<u64>) {
        self.confirmed = at;
    }

    /// The pools, by name.
    pub fn pools(&self) -> &BTreeMap<String, Pool> {
        &self.pools
    }

    /// One pool, made when it is not there.
    pub fn pool(&mut self, name: &str) -> &mut Pool {
        self.pools.entry(name.to_owned()).or_default()
    }

    /// How long things take.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// How many addresses are held, those left out that another node has.
    pub fn held(&self) -> u64 {
        let of = |pool: &Pool| pool.holding.len() - pool.conflicts.len();
        self.pools.values().map(of).sum::<usize>() as u64
    }

    /// The name of another host that calls by this node's id, and whether that is for
    /// good: one of the two is a copy of the other.
    pub fn taken(&self) -> Option<(&str, bool)> {
        match &self.taken {
            Taken::No => None,
            Taken::By(name, _) => Some((name, false)),
            Taken::ForGood(name) => Some((name, true)),
        }
    }

    fn hear_of_another(&mut self, name: Option<&String>, asked: u64) {
        self.taken = match (&self.taken, name) {
            (Taken::ForGood(_), _) => return,
            (_, None) => Taken::No,
            (Taken::By(_, since), Some(name)) => {
                // Twice the time, for clocks that are not quite alike.
                if asked.saturating_sub(*since) > 2 * self.timing.lease {
                    Taken::ForGood(name.clone())
                } else {
                    Taken::By(name.clone(), *since)
                }
            }
            (Taken::No, Some(name)) => Taken::By(name.clone(), asked),
        };
    }

    /// How far what is held can be relied on.
    pub fn trust(&self, now: u64) -> Trust {
        if self.taken().is_some() {
            return Trust::Lost;
        }
        if self.claiming {
            return Trust::Claiming;
        }
        match self.confirmed.map(|at| now.saturating_sub(at)) {
            Some(age) if age < self.timing.lease => Trust::Sure,
            Some(age) if age < self.timing.trusted() => Trust::Doubtful,
            _ => Trust::Lost,
        }
    }

    /// For how many milliseconds more those may give what they hold who have not heard that
    /// the ledger has lost something, if so.
    pub fn doubts_for(&self, now: u64) -> Option<u64> {
        self.doubts?.checked_sub(now).filter(|left| *left > 0)
    }

    /// For how many milliseconds more a suspect address is not to be given where the wire
    /// cannot be asked: until all who may have given it give nothing new any more. `None`
    /// when it is so for ever.
    pub fn withheld_for(&self, pool: &str, address: IpAddr, now: u64) -> Option<u64> {
        let by_move = || {
            let mut stock = self.moved.stock.iter();
            stock.any(|(name, ip)| name == pool && *ip == address)
        };
        // Once the ledger has lost something, all is suspect from then on.
        let until = match self.doubts {
            Some(until) => until.max(self.moved.until),
            None if by_move() => self.moved.until,
            None => return None,
        };
        Some(until.saturating_sub(now))
    }

    /// Takes up how the ledger stands at this time. When it has another memory now, what is
    /// free here may have been given to others meanwhile, so it is suspect:
    /// returns what is to be written down, by pool.
    pub fn learn(&mut self, standing: &Standing, now: u64) -> Vec<(String, Entry)> {
        if standing.taken.is_some() {
            return Vec::new();
        }
        let other = self.hello.epoch != standing.epoch;
        if standing.suspect {
            // Whoever has not heard of the loss was confirmed before it, and no later.
            let left = self.timing.trusted().saturating_sub(standing.age);
            let until = now.saturating_add(left);
            self.doubts = Some(self.doubts.map_or(until, |other| other.max(until)));
        }
        if !other {
            self.hello.count = self.hello.count.max(standing.count);
            return Vec::new();
        }
        self.hello.epoch.clone_from(&standing.epoch);
        self.hello.count = standing.count;
        self.claiming = true;
        self.confirmed = None;
        self.moved.stock.clear();
        let mut entries = Vec::new();
        for (name, pool) in &mut self.pools {
            let addresses: Vec<IpAddr> = pool.holding.spare().collect();
            let suspect = true;
            let entry = Entry::Hold { addresses, suspect };
            pool.holding.apply(&entry);
            entries.push((name.clone(), entry));
        }
        entries
    }

    /// Takes up the answer to a call that was made at the time `asked`.
    pub fn heard(&mut self, tick: &Tick, asked: u64) -> Duty {
        self.hear_of_another(tick.standing.taken.as_ref(), asked);
        if self.taken().is_some() {
            return Duty::default();
        }
        let mut entries = Vec::new();
        // The answer that said so may have been lost: it is said once.
        if tick.moved || (tick.known && self.moved.unheard) {
            self.moved.until = asked.saturating_add(self.timing.trusted());
            entries.extend(self.distrust_stock());
        }
        self.moved.unheard = false;
        entries.extend(self.learn(&tick.standing, asked));
        if asked >= self.moved.until {
            entries.extend(self.trust_stock(&tick.wanted));
        }
        entries.extend(self.dispute(&tick.disputed, asked));
        let held = self.held();
        if tick.held != held || (!tick.known && held > 0) {
            self.claiming = true;
        }
        if !self.claiming {
            self.confirmed = Some(asked);
        }
        let (mut give_back, stock) = (Vec::new(), &self.moved.stock);
        for (name, pool) in &mut self.pools {
            let wanted = tick.wanted.contains(name);
            if wanted {
                pool.modest_until = asked + super::ledger::WANTED_MS;
            }
            let mut more = pool.unneeded(wanted);
            if pool.link.is_none() {
                // It would be suspect for ever then.
                more.retain(|ip| !stock.iter().any(|(of, its)| of == name && its == ip));
            }
            if !more.is_empty() {
                give_back.push((name.clone(), more));
            }
        }
        Duty {
            entries,
            claim: self.claiming || self.in_conflict(),
            give_back: if self.claiming { Vec::new() } else { give_back },
        }
    }

    /// Whether another node has addresses that are in use here.
    fn in_conflict(&self) -> bool {
        self.pools.values().any(|pool| !pool.conflicts.is_empty())
    }

    /// Takes up that the ledger was told of a pool, and what of it another node
    /// has. Returns what is to be written down: a free address that another has
    /// is not this node's any more.
    pub fn claimed(&mut self, pool: &str, conflicts: &[(IpAddr, String)]) -> Vec<Entry> {
        let its = self.pool(pool);
        let lost: Vec<IpAddr> = conflicts
            .iter()
            .map(|(ip, _)| *ip)
            .filter(|ip| !its.holding.used().contains_key(ip))
            .collect();
        its.conflicts = conflicts
            .iter()
            .filter(|(ip, _)| its.holding.used().contains_key(ip))
            .cloned()
            .collect();
        if lost.is_empty() {
            return Vec::new();
        }
        let entry = Entry::Drop { addresses: lost };
        its.holding.apply(&entry);
        vec![entry]
    }

    /// The ledger was told of everything, by answers to questions that were
    /// asked at the time `asked` or later.
    pub fn all_claimed(&mut self, asked: u64) {
        self.claiming = false;
        self.confirmed = Some(asked);
    }

    /// Chooses addresses for an interface and takes them.
    ///
    /// # Errors
    /// When there are none, or none that can be relied on.
    pub fn give(&mut self, wanted: &Wanted, now: u64) -> Result<Given, Refusal> {
        let trust = self.trust(now);
        let all =
            trust == Trust::Doubtful || self.doubts_for(now).is_some() || now < self.moved.until;
        let pool = self.pool(&wanted.pool);
        pool.sets.clone_from(&wanted.sets);
        if wanted.link.is_some() || wanted.unasked {
            pool.link.clone_from(&wanted.link);
        }
        let has = pool.holding.of(&wanted.user);
        let in_sets = |ip: &IpAddr| wanted.sets.iter().any(|set| set.span_of(*ip).is_some());
        if has.iter().any(in_sets) {
            return Err(Refusal::Has(has));
        }
        let chosen = pool.holding.choose(&wanted.sets, &wanted.wishes);
        let addresses = chosen.map_err(Refusal::Missing)?;
        if matches!(trust, Trust::Claiming | Trust::Lost) {
            return Err(Refusal::Untrusted(trust));
        }
        let doubt = |ip: &&IpAddr| all || pool.holding.is_suspect(**ip);
        let suspect = addresses.iter().filter(doubt).copied().collect();
        let by = Use {
            user: wanted.user.clone(),
            network: wanted.network.clone(),
        };
        let entry = |address: &IpAddr| Entry::Use {
            address: *address,
            by: by.clone(),
        };
        let entries: Vec<Entry> = addresses.iter().map(entry).collect();
        for entry in &entries {
            pool.holding.apply(entry);
        }
        Ok(Given {
            addresses,
            suspect,
            entries,
        })
    }

    /// Lets go of the addresses of an interface. Returns what is to be written
    /// down.
    pub fn release(&mut self, pool: &str, user: &User) -> Vec<Entry> {
        let Some(its) = self.pools.get(pool) else {
            return Vec::new();
        };
        let addresses = its.holding.of(user);
        self.let_go(pool, &addresses)
    }

    /// Lets go of the addresses of a network's interfaces that are not among
    /// these.
    pub fn retain(&mut self, pool: &str, network: &str, valid: &[User]) -> Vec<Entry> {
        let Some(its) = self.pools.get(pool) else {
            return Vec::new();
        };
        let unused = its.holding.used().iter();
        let unused = unused.filter(|(_, by)| by.network == network && !valid.contains(&by.user));
        let addresses: Vec<IpAddr> = unused.map(|(ip, _)| *ip).collect();
        self.let_go(pool, &addresses)
    }

    fn let_go(&mut self, pool: &str, addresses: &[IpAddr]) -> Vec<Entry> {
        let its = self.pool(pool);
        let mut entries = Vec::new();
        for ip in addresses {
            // One that another node has does not become free here.
            entries.push(match its.conflicts.remove(ip) {
                Some(_) => Entry::Drop {
                    addresses: vec![*ip],
                },
                None => Entry::Free { address: *ip },
            });
        }
        for entry in &entries {
            its.holding.apply(entry);
        }
        entries
    }
}

impl Pool {
    /// Free addresses that are better given back.
    fn unneeded(&self, wanted: bool) -> Vec<IpAddr> {
        if wanted {
            return self.holding.spare().collect();
        }
        let surplus = |set: &AddressSet| self.holding.surplus(set, 2 * set.batch());
        self.sets.iter().flat_map(surplus).collect()
    }

    /// The sets of which addresses are better taken before they are needed, and
    /// how many of each.
    pub fn low(&self, now: u64) -> Vec<(AddressSet, usize)> {
        if self.modest_until > now {
            return Vec::new();
        }
        let need = |set: &AddressSet| {
            let (has, batch) = (self.holding.spare_in(set), set.batch());
            let low = has < (batch / 2).max(1) && !self.used_up.rests(set, now);
            low.then(|| (set.clone(), batch - has))
        };
        self.sets.iter().filter_map(need).collect()
    }
}
