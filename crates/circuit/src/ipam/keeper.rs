//! The keeper.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use circuit_core::ipam::wire::{Question, Reply, Wanted};
use circuit_core::ipam::{
    AddressSet, Agent, Entry, Given, Hello, Missing, Refusal, Timing, Trust, Use, User,
};
use circuit_core::{Error, Result};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::answered::Answered;
use super::clock::{now, place};
use super::journal::{FILE, Journal, Line, known, load, take_up, whole};
use super::ledger::Ledger;
use super::remote::copied;
use super::wire::{Heard, Wire, on_the_wire};
use crate::files::is_full;
use crate::logging::DependencyLog;

/// How long a request waits for addresses that others may give back.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long it waits between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// How often it is written down that the ledger has confirmed everything.
const WRITE_EVERY_MS: u64 = 30_000;
/// As many addresses are tried that somebody on the wire turns out to have.
const TRIES: usize = 16;

/// What a keeper is made of.
pub struct Parts {
    /// Which node holds what.
    pub ledger: Arc<dyn Ledger>,
    /// The wires of this node.
    pub wire: Arc<dyn Wire>,
    /// The folder of its journal.
    pub state_dir: PathBuf,
    /// The node's lasting id.
    pub node: String,
    /// The node's name.
    pub name: String,
    /// How long things take.
    pub timing: Timing,
}

/// Gives addresses to containers of this node.
pub struct Keeper {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) wire: Arc<dyn Wire>,
    pub(super) agent: Mutex<Agent>,
    journal: Journal,
    place: String,
    /// Held by whoever changes the ledger for this node, until the change is
    /// in the agent too.
    pub(super) remote: tokio::sync::Mutex<()>,
    /// Addresses are to be taken before they are needed.
    pub(super) low: Notify,
    /// The last confirmation that is written down; 0 when there is none.
    written: AtomicU64,
    pub(super) outage: DependencyLog,
    /// What is to be told of addresses, by pool and address.
    pub(super) notes: Mutex<BTreeMap<(String, IpAddr), String>>,
    /// What somebody on the wire has.
    pub(super) answered: Answered,
}

impl Keeper {
    /// A keeper that takes up what an earlier one wrote down.
    ///
    /// # Errors
    /// When the journal cannot be used.
    pub fn open(parts: Parts) -> Result<Self> {
        let path = parts.state_dir.join(FILE);
        let refused = |error: std::io::Error| {
            Error::precondition(format!(
                "cannot use the journal of addresses {}: {error}: mend it, or give another folder \
                 with --state-dir",
                path.display()
            ))
        };
        let loaded = load(&path).map_err(refused)?;
        if loaded.damaged > 0 {
            tracing::error!(
                "{} lines of {} cannot be read: addresses may be held in vain",
                loaded.damaged,
                path.display()
            );
        }
        let place = place(&parts.state_dir);
        let hello = Hello {
            node: parts.node,
            name: parts.name,
            epoch: String::new(),
            count: 0,
            fresh: String::new(),
            place: place.clone(),
        };
        let mut agent = Agent::new(hello, parts.timing);
        take_up(&mut agent, &loaded.lines, &place);
        let journal = match Journal::create(&path, &whole(&agent, &place)) {
            Err(error) if is_full(&error) && path.exists() => Journal::resume(&path, &loaded),
            made => made,
        };
        let journal = journal.map_err(refused)?;
        if let Some(epoch) = parts.ledger.own_epoch() {
            agent.hello.epoch = epoch;
            agent.hello.count = 0;
        }
        let keeper = Self {
            ledger: parts.ledger,
            wire: parts.wire,
            agent: Mutex::new(agent),
            journal,
            place,
            remote: tokio::sync::Mutex::default(),
            low: Notify::new(),
            written: AtomicU64::new(0),
            outage: DependencyLog::new("the ledger of addresses"),
            notes: Mutex::default(),
            answered: Answered::default(),
        };
        // What an earlier one had not told yet.
        keeper.note_used(&keeper.agent());
        Ok(keeper)
    }

    pub(super) fn agent(&self) -> MutexGuard<'_, Agent> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the driver.
    pub async fn answer(&self, question: Question) -> Reply {
        let answered = match question {
            Question::Add(wanted) => self.add(&wanted).await,
            Question::Del { pool, user } => self.del(&pool, &user),
            Question::Check { pool, user } => self.check(&pool, &user),
            Question::Status { pool, sets } => self.status(&pool, &sets),
            Question::Gc {
                pool,
                network,
                valid,
            } => self.gc(&pool, &network, &valid),
        };
        answered.unwrap_or_else(|error| Reply::Failed(error.to_string()))
    }

    async fn add(&self, wanted: &Wanted) -> Result<Reply> {
        let mut deadline = Instant::now() + PATIENCE;
        let (mut taken_by_others, mut others) = (0, false);
        let fixed = !wanted.wishes.is_empty();
        loop {
            let now = now();
            let answer = {
                let mut agent = self.agent();
                let answer = agent.give(wanted, now);
                if let Ok(given) = &answer {
                    self.write(&wanted.pool, &given.entries)?;
                }
                answer
            };
            let waiting = match answer {
                Ok(given) => match self.hear(wanted, &given).await? {
                    Heard::Nobody => return Ok(self.given(wanted, given)),
                    Heard::Somebody if taken_by_others >= TRIES || fixed => {
                        return Ok(on_the_wire(wanted, &given));
                    }
                    Heard::Somebody => {
                        taken_by_others += 1;
                        // Asking took its time; others have theirs all the same.
                        deadline = Instant::now() + PATIENCE;
                        continue;
                    }
                    Heard::Nothing { places, why } => {
                        if others || fixed || places.is_empty() {
                            return Ok(self.not_heard(wanted, &given, why.as_ref()));
                        }
                        others = true;
                        match self.take_others(wanted, &places).await {
                            Next::Again => continue,
                            Next::End(reply) => return Ok(reply),
                            Next::Wait(_) => self.not_heard(wanted, &given, why.as_ref()),
                        }
                    }
                },
                Err(refusal) => match self.provide(wanted, refusal).await {
                    Next::Again => continue,
                    Next::End(reply) => return Ok(reply),
                    Next::Wait(reply) => reply,
                },
            };
            if Instant::now() >= deadline {
                return Ok(waiting);
            }
            sleep(PAUSE).await;
        }
    }

    fn given(&self, wanted: &Wanted, given: Given) -> Reply {
        let by = Use {
            user: wanted.user.clone(),
            network: wanted.network.clone(),
        };
        for address in &given.addresses {
            self.note(&wanted.pool, *address, Some(&by));
        }
        let runs_low = {
            let agent = self.agent();
            let pool = agent.pools().get(&wanted.pool);
            pool.is_some_and(|pool| !pool.low(now()).is_empty())
        };
        if runs_low {
            self.low.notify_one();
        }
        Reply::Addresses(given.addresses)
    }

    fn del(&self, pool: &str, user: &User) -> Result<Reply> {
        let mut agent = self.agent();
        let entries = agent.release(pool, user);
        self.write(pool, &entries)?;
        self.forget_uses(pool, &entries);
        Ok(Reply::Done)
    }

    fn gc(&self, pool: &str, network: &str, valid: &[User]) -> Result<Reply> {
        let mut agent = self.agent();
        let entries = agent.retain(pool, network, valid);
        self.write(pool, &entries)?;
        if !entries.is_empty() {
            tracing::info!(
                pool,
                network,
                "{} addresses were in use by nobody",
                entries.len()
            );
        }
        self.forget_uses(pool, &entries);
        Ok(Reply::Done)
    }

    fn check(&self, pool: &str, user: &User) -> Result<Reply> {
        let agent = self.agent();
        let Some(pool) = agent.pools().get(pool) else {
            return Ok(Reply::Addresses(Vec::new()));
        };
        let has = pool.holding.of(user);
        let conflict = has.iter().find_map(|ip| {
            let node = pool.conflicts.get(ip)?;
            Some(conflict(*ip, &user.container, node))
        });
        Ok(conflict.map_or(Reply::Addresses(has), Reply::Failed))
    }

    fn status(&self, name: &str, sets: &[AddressSet]) -> Result<Reply> {
        let agent = self.agent();
        let trust = agent.trust(now());
        if trust != Trust::Lost {
            return Ok(Reply::Done);
        }
        if let Some((other, _)) = agent.taken() {
            return Ok(Reply::Later(copied(other).to_string()));
        }
        let pool = agent.pools().get(name);
        let spare = |set: &AddressSet| pool.is_some_and(|pool| pool.holding.spare_in(set) > 0);
        if sets.iter().all(spare) {
            return Ok(Reply::Later(unconfirmed(name)));
        }
        Ok(Reply::Later(format!(
            "the cluster registry does not answer, and this node holds no free address of pool \
             {name}"
        )))
    }

    fn forget_uses(&self, pool: &str, entries: &[Entry]) {
        for entry in entries {
            if let Entry::Free { address } = entry {
                self.note(pool, *address, None);
            }
        }
    }

    /// Remembers what is to be told of an address.
    pub(super) fn note(&self, pool: &str, address: IpAddr, by: Option<&Use>) {
        let text = by.and_then(|by| serde_json::to_string(by).ok());
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.insert((pool.to_owned(), address), text.unwrap_or_default());
    }

    /// Remembers to tell of everything that is in use.
    pub(super) fn note_used(&self, agent: &Agent) {
        for (name, pool) in agent.pools() {
            for (ip, by) in pool.holding.used() {
                self.note(name, *ip, Some(by));
            }
        }
    }

    /// Writes changes down that the agent has taken over; it is locked, so that
    /// they are in the same order.
    pub(super) fn write(&self, pool: &str, entries: &[Entry]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let change = |entry: &Entry| change(pool, entry);
        self.append(&entries.iter().map(change).collect::<Vec<_>>())
    }

    /// Writes down what was heard, and what is known from it: one does not go without the
    /// other.
    pub(super) fn write_heard(&self, agent: &Agent, entries: &[(String, Entry)]) -> Result<()> {
        let entries = entries.iter().map(|(pool, entry)| change(pool, entry));
        self.write_with_known(agent, entries.collect())
    }

    fn append(&self, lines: &[Line]) -> Result<()> {
        self.journal.append(lines).map_err(cannot_write)
    }

    /// Has suspect addresses be sound.
    pub(super) fn clear(&self, pool: &str, addresses: &[IpAddr]) -> Result<()> {
        let mut agent = self.agent();
        let entries: Vec<Entry> = addresses
            .iter()
            .map(|address| Entry::Clear { address: *address })
            .collect();
        for entry in &entries {
            agent.apply(pool, entry);
        }
        self.write(pool, &entries)
    }

    /// Waits until everything that was written is on disk.
    pub(super) async fn sync(&self) -> Result<()> {
        // A few milliseconds, some times an hour.
        self.journal.sync().map_err(cannot_write)
    }

    /// Writes what is known of the ledger, if it is one that is remembered.
    pub(super) fn write_known(&self, agent: &Agent) -> Result<()> {
        self.write_with_known(agent, Vec::new())
    }

    fn write_with_known(&self, agent: &Agent, mut lines: Vec<Line>) -> Result<()> {
        if self.ledger.own_epoch().is_some() {
            return self.append(&lines);
        }
        lines.extend(known(agent, &self.place));
        self.append(&lines)?;
        let written = agent.confirmed().unwrap_or_default();
        self.written.store(written, Ordering::Relaxed);
        Ok(())
    }

    /// Writes down that the ledger has confirmed what is held, now and then.
    pub(super) fn write_confirmed(&self) -> Result<()> {
        let agent = self.agent();
        let written = self.written.load(Ordering::Relaxed);
        let due = |at: u64| written == 0 || at.saturating_sub(written) >= WRITE_EVERY_MS;
        match agent.confirmed() {
            Some(at) if due(at) => self.write_known(&agent),
            _ => Ok(()),
        }
    }

    /// Writes the journal anew when it has outgrown what it says.
    pub(super) fn tidy(&self) -> Result<()> {
        if !self.journal.has_grown() {
            return Ok(());
        }
        let agent = self.agent();
        let lines = whole(&agent, &self.place);
        self.journal.rewrite(&lines).map_err(cannot_write)
    }
}

/// How a request goes on.
pub(super) enum Next {
    /// Something has changed: look again.
    Again,
    /// Wait for others; the answer, should nothing come of it.
    Wait(Reply),
    /// The answer.
    End(Reply),
}

impl Keeper {
    /// Does something about why there were no addresses.
    async fn provide(&self, wanted: &Wanted, refusal: Refusal) -> Next {
        let failed = |text: String| Next::End(Reply::Failed(text));
        match refusal {
            Refusal::Has(ips) => failed(format!(
                "interface {} of {} has {} already: detach it first",
                wanted.user.ifname,
                wanted.user.container,
                listed(&ips)
            )),
            Refusal::Missing(Missing::Nowhere(ip)) => failed(format!(
                "requested address {ip} is in no range set, or excluded, or in a set that gives \
                 another already"
            )),
            Refusal::Missing(Missing::InUse(ip, by)) => failed(format!(
                "requested address {ip} is not available: {} has it on this node",
                by.user.container
            )),
            Refusal::Missing(Missing::Any(place)) => {
                let set = &wanted.sets[place];
                self.take_one(&wanted.pool, set).await
            }
            Refusal::Missing(Missing::Exact(place, ip)) => {
                self.take_exact(&wanted.pool, &wanted.sets[place], ip).await
            }
            Refusal::Untrusted(_) => match self.call().await {
                Ok(()) => Next::Again,
                Err(error) if self.agent().taken().is_some() => {
                    Next::End(Reply::Later(error.to_string()))
                }
                Err(error) => Next::End(Reply::Later(format!(
                    "{}: {error}",
                    unconfirmed(&wanted.pool)
                ))),
            },
        }
    }
}

fn unconfirmed(pool: &str) -> String {
    format!(
        "the addresses of pool {pool} that this node holds were not confirmed for too long, as the \
         cluster registry does not answer"
    )
}

/// What to say of an address that two nodes use.
pub(super) fn conflict(ip: IpAddr, container: &str, node: &str) -> String {
    format!(
        "address {ip} of {container} is held by node {node} too, as this node was away for too \
         long: disconnect and connect one of the two"
    )
}

pub(super) fn listed(ips: &[IpAddr]) -> String {
    let texts: Vec<String> = ips.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn change(pool: &str, entry: &Entry) -> Line {
    Line::Change {
        pool: pool.to_owned(),
        entry: entry.clone(),
    }
}

fn cannot_write(error: std::io::Error) -> Error {
    Error::internal(format!("cannot write the journal of addresses: {error}"))
}
