//! What the keeper says to the ledger.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Duration;

use circuit_core::ipam::wire::Reply;
use circuit_core::ipam::{AddressSet, Agent, Entry, Exact, Hello, Standing, Trust, Wish};
use circuit_core::{Error, Result};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::clock::{fresh, now};
use super::keeper::{Keeper, Next, conflict, listed};

/// How often the ledger is called.
const EVERY: Duration = Duration::from_secs(1);

/// What came of a wish for addresses.
enum Got {
    /// Some.
    Some,
    /// None yet: the ledger settles for so many milliseconds more.
    Settling(u64),
    /// None: others hold them all.
    None,
}

impl Keeper {
    /// Keeps what is held confirmed and enough of it in stock, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut calls = interval(EVERY);
        calls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.low.notified() => {}
                _ = calls.tick() => {
                    match self.call().await {
                        Ok(()) => self.outage.recovered(),
                        Err(error) => {
                            self.outage.failed(&error);
                            continue;
                        }
                    }
                }
            }
            let worked = self.stock().await.and(self.tell().await).and(self.tidy());
            if let Err(error) = worked {
                self.outage.failed(&error);
            }
        }
    }

    fn hello(&self) -> Hello {
        let mut hello = self.agent().hello.clone();
        hello.fresh = fresh();
        hello
    }

    /// Calls the ledger once, and does what follows from its answer.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn call(&self) -> Result<()> {
        let _alone = self.remote.lock().await;
        let asked = now();
        if let Some((other, true)) = self.agent().taken() {
            return Err(copied(other));
        }
        let tick = self.ledger.tick(&self.hello()).await?;
        let duty = {
            let mut agent = self.agent();
            tell_disputes(&agent, &tick.disputed, asked);
            let known = |agent: &Agent| {
                let hello = &agent.hello;
                (hello.epoch.clone(), hello.count, agent.moved().clone())
            };
            let before = known(&agent);
            let duty = agent.heard(&tick, asked);
            if let Some((other, _)) = agent.taken() {
                return Err(copied(other));
            }
            if before != known(&agent) || !duty.entries.is_empty() {
                self.write_heard(&agent, &duty.entries)?;
            }
            duty
        };
        for (pool, addresses) in duty.give_back {
            self.give_back(&pool, &addresses).await?;
        }
        if duty.claim {
            self.claim(asked).await?;
        }
        self.write_confirmed()
    }

    /// Tells the ledger everything that is held, and gives back what it takes
    /// to be this node's and is not.
    async fn claim(&self, asked: u64) -> Result<()> {
        let (node, pools) = {
            let agent = self.agent();
            let pools = agent.pools().iter();
            let pools: Vec<(String, Vec<IpAddr>)> = pools
                .map(|(name, pool)| (name.clone(), pool.holding.all()))
                .collect();
            (agent.hello.node.clone(), pools)
        };
        for (pool, addresses) in pools {
            let conflicts = self.ledger.claim(&node, &pool, &addresses).await?;
            let mut agent = self.agent();
            self.tell_conflicts(&agent, &pool, &conflicts);
            let entries = agent.claimed(&pool, &conflicts);
            self.write(&pool, &entries)?;
        }
        for (pool, ip) in self.ledger.held_by(&node).await? {
            let ours = {
                let agent = self.agent();
                agent
                    .pools()
                    .get(&pool)
                    .is_some_and(|pool| pool.holding.holds(ip))
            };
            if !ours {
                self.ledger.give_back(&node, &pool, &[ip], true).await?;
            }
        }
        let mut agent = self.agent();
        if agent.trust(asked) == Trust::Claiming {
            // The ledger may have forgotten what was told of them.
            self.note_used(&agent);
        }
        agent.all_claimed(asked);
        Ok(())
    }

    /// Says loudly, once, that an address of a live container is another
    /// node's.
    fn tell_conflicts(&self, agent: &Agent, pool: &str, conflicts: &[(IpAddr, String)]) {
        let Some(its) = agent.pools().get(pool) else {
            return;
        };
        for (ip, node) in conflicts {
            if let Some(by) = its.holding.used().get(ip)
                && !its.conflicts.contains_key(ip)
            {
                tracing::error!(
                    pool,
                    network = by.network,
                    "{}",
                    conflict(*ip, &by.user.container, node)
                );
            }
        }
    }

    /// Gives addresses back: first on disk, then in the ledger, so that none is
    /// ever both given back and held.
    async fn give_back(&self, pool: &str, addresses: &[IpAddr]) -> Result<()> {
        let (node, suspect, sound) = {
            let mut agent = self.agent();
            if let Some((other, _)) = agent.taken() {
                return Err(copied(other));
            }
            let holding = &agent.pool(pool).holding;
            // One may have been given to a container meanwhile.
            let free: Vec<IpAddr> = holding
                .spare()
                .filter(|ip| addresses.contains(ip))
                .collect();
            let (suspect, sound): (Vec<_>, Vec<_>) =
                free.iter().partition(|ip| holding.is_suspect(**ip));
            let entry = Entry::Drop { addresses: free };
            agent.apply(pool, &entry);
            self.write(pool, &[entry])?;
            (agent.hello.node.clone(), suspect, sound)
        };
        self.sync().await?;
        if !sound.is_empty() {
            self.ledger.give_back(&node, pool, &sound, false).await?;
        }
        if !suspect.is_empty() {
            self.ledger.give_back(&node, pool, &suspect, true).await?;
        }
        Ok(())
    }

    /// Lets go of free addresses that somebody else on the wire has.
    pub(super) async fn abandon(&self, pool: &str, addresses: &[IpAddr]) {
        let new = self.answered.note(pool, addresses, now());
        if !new.is_empty() {
            tracing::warn!(
                pool,
                "somebody on the wire has {}: it is not given to containers",
                listed(&new)
            );
        }
        let _alone = self.remote.lock().await;
        {
            let mut agent = self.agent();
            let entry = Entry::Hold {
                addresses: addresses.to_vec(),
                suspect: true,
            };
            agent.apply(pool, &entry);
        }
        // What the ledger does not hear now it hears with the next claim.
        if let Err(error) = self.give_back(pool, addresses).await {
            tracing::debug!(%error, "addresses will be given back later");
        }
    }

    async fn take(&self, pool: &str, set: &AddressSet, want: usize) -> Result<Got> {
        let _alone = self.remote.lock().await;
        let mut looked_at = 0;
        let mut abandoned = Vec::new();
        // Those that just answered are not asked for again, so that others are.
        let answered = self.answered.of(pool, now());
        let wish = Wish {
            pool,
            set,
            want,
            abandoned: want + answered.len(),
        };
        while looked_at < set.size() {
            let taken = self.ledger.take(&self.hello(), &wish).await?;
            let suspect = taken.standing.suspect;
            self.hold(pool, &taken.standing, taken.addresses.clone(), suspect)?;
            if taken.standing.settling > 0 {
                return Ok(Got::Settling(taken.standing.settling));
            }
            if !taken.addresses.is_empty() {
                return Ok(Got::Some);
            }
            abandoned.extend(taken.abandoned);
            looked_at += taken.looked_at.max(1);
        }
        for ip in abandoned {
            if answered.contains(&ip) {
                continue;
            }
            let (standing, exact) = self.ledger.exact(&self.hello(), pool, ip).await?;
            if let Exact::Yours { .. } = exact {
                self.hold(pool, &standing, vec![ip], true)?;
                return Ok(Got::Some);
            }
        }
        Ok(Got::None)
    }

    /// Takes over what the ledger gave.
    fn hold(
        &self,
        pool: &str,
        standing: &Standing,
        addresses: Vec<IpAddr>,
        suspect: bool,
    ) -> Result<()> {
        if let Some(other) = &standing.taken {
            return Err(copied(other));
        }
        let mut agent = self.agent();
        for (pool, entry) in agent.learn(standing, now()) {
            self.write(&pool, &[entry])?;
        }
        if !addresses.is_empty() {
            let entry = Entry::Hold { addresses, suspect };
            agent.apply(pool, &entry);
            agent.pool(pool).used_up.clear();
            self.write(pool, &[entry])?;
        }
        self.write_known(&agent)
    }

    /// Takes addresses because there is none.
    pub(super) async fn take_one(&self, pool: &str, set: &AddressSet) -> Next {
        match self.take(pool, set, set.batch()).await {
            Ok(Got::Some) => Next::Again,
            Ok(Got::Settling(ms)) => Next::Wait(settling(pool, ms)),
            Ok(Got::None) => {
                let wanted = self.ledger.want(pool).await;
                if let Err(error) = wanted {
                    return Next::End(Reply::Later(error.to_string()));
                }
                Next::Wait(Reply::Failed(format!(
                    "no address of pool {pool} is left in {set}: detach something, or widen it; \
                     `circuit ipam ls` shows who has them"
                )))
            }
            Err(error) => Next::End(Reply::Later(format!(
                "no free address of pool {pool} is left on this node: {error}"
            ))),
        }
    }

    /// Takes the address that is asked for.
    pub(super) async fn take_exact(&self, pool: &str, set: &AddressSet, ip: IpAddr) -> Next {
        let _alone = self.remote.lock().await;
        // Another request may have had it meanwhile.
        let held = |agent: &Agent| {
            agent
                .pools()
                .get(pool)
                .is_some_and(|it| it.holding.holds(ip))
        };
        if held(&self.agent()) {
            return Next::Again;
        }
        let asked = self.ledger.exact(&self.hello(), pool, ip).await;
        let asked = asked.and_then(|answer| match &answer.0.taken {
            Some(other) => Err(copied(other)),
            None => Ok(answer),
        });
        let (standing, exact) = match asked {
            Ok(answer) => answer,
            Err(error) => {
                return Next::End(Reply::Later(format!(
                    "requested address {ip} of pool {pool} is not held by this node: {error}"
                )));
            }
        };
        let yours = match exact {
            Exact::Settling => return Next::Wait(settling(pool, standing.settling)),
            Exact::Held(node) => {
                if let Err(error) = self.ledger.want(pool).await {
                    return Next::End(Reply::Later(error.to_string()));
                }
                return Next::Wait(Reply::Failed(format!(
                    "requested IP address {ip} is not available in range set {set}: node {node} \
                     has it"
                )));
            }
            Exact::Yours { suspect } => suspect || standing.suspect,
        };
        match self.hold(pool, &standing, vec![ip], yours) {
            Ok(()) => Next::Again,
            Err(error) => Next::End(Reply::Failed(error.to_string())),
        }
    }

    /// Takes addresses before they are needed, and asks the wire for those that
    /// are suspect.
    pub(super) async fn stock(&self) -> Result<()> {
        let (low, links) = {
            let agent = self.agent();
            // It is the other's to take, and to give back.
            if let Some((other, _)) = agent.taken() {
                return Err(copied(other));
            }
            let pools = agent.pools().iter();
            let low: Vec<_> = pools
                .clone()
                .flat_map(|(name, pool)| {
                    let low = pool.low(now()).into_iter();
                    low.map(|(set, want)| (name.clone(), set, want))
                })
                .collect();
            let links: Vec<_> = pools
                .filter_map(|(name, pool)| {
                    let doubt = |ip: &IpAddr| pool.holding.is_suspect(*ip);
                    let suspect: Vec<IpAddr> = pool.holding.spare().filter(doubt).collect();
                    let link = pool.link.clone().filter(|_| !suspect.is_empty())?;
                    Some((name.clone(), link, suspect))
                })
                .collect();
            (low, links)
        };
        for (pool, set, want) in low {
            if let Got::None = self.take(&pool, &set, want).await? {
                self.agent().pool(&pool).used_up.note(&set, now());
            }
        }
        for (pool, link, suspect) in links {
            let answering = match self.wire.answering(&link, &suspect).await {
                Ok(answering) => answering,
                // They stay suspect: they are asked for when they are needed.
                Err(error) => {
                    tracing::debug!(pool, link, %error, "nobody can be asked for addresses");
                    continue;
                }
            };
            let mut sound = suspect;
            sound.retain(|ip| !answering.contains(ip) && !self.is_disputed(&pool, *ip));
            self.clear(&pool, &sound)?;
            if !answering.is_empty() {
                self.abandon(&pool, &answering).await;
            }
        }
        Ok(())
    }

    fn is_disputed(&self, pool: &str, ip: IpAddr) -> bool {
        let agent = self.agent();
        let pool = agent.pools().get(pool);
        pool.is_some_and(|pool| pool.is_disputed(ip, now()))
    }

    /// Tells the ledger, for people, what addresses are used for.
    pub(super) async fn tell(&self) -> Result<()> {
        // They are none of the other's.
        if self.agent().taken().is_some() {
            return Ok(());
        }
        let notes = {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *notes)
        };
        let node = self.agent().hello.node.clone();
        let mut pools = std::collections::BTreeMap::<String, Vec<(IpAddr, String)>>::new();
        for ((pool, ip), text) in notes {
            pools.entry(pool).or_default().push((ip, text));
        }
        for (pool, uses) in pools {
            if let Err(error) = self.ledger.note(&node, &pool, &uses).await {
                let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
                for (ip, text) in uses {
                    notes.entry((pool.clone(), ip)).or_insert(text);
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Says once that another node has addresses in use which are this node's.
fn tell_disputes(agent: &Agent, disputed: &[(String, IpAddr)], now: u64) {
    for (name, ip) in disputed {
        let Some(pool) = agent.pools().get(name) else {
            continue;
        };
        if pool.holding.holds(*ip) && !pool.is_disputed(*ip, now) {
            tracing::warn!(
                pool = name,
                "{ip} is in use on another node, too, which was away for too long: before it is \
                 given again here, the wire is asked for it"
            );
        }
    }
}

fn settling(pool: &str, ms: u64) -> Reply {
    Reply::Later(format!(
        "no free address of pool {pool} is left on this node, and others are given in {} s: redis \
         was started anew, and every node may first say what it holds",
        ms.div_ceil(1000)
    ))
}

/// What to say when another host calls by this node's id.
pub(super) fn copied(other: &str) -> Error {
    Error::precondition(format!(
        "host {other} has the same node-id and is given the addresses of pools: if this host was \
         just started again, wait for a lease; else one is a copy of the other: stop the copy's \
         daemon, remove node-id from its --state-dir, and start it"
    ))
}
