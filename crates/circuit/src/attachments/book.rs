//! The records in memory, beside those on disk, and what is read from them:
//! the addresses as a snapshot that is swapped whole, and the problems.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use circuit_core::{
    Result,
    attachment::{ContainerRecord, Phase},
    service::{ContainerIp, Problem},
};

use tokio::sync::watch;

use crate::state::{State, Ticket};

/// The addresses of every container.
pub(super) type Snapshot = HashMap<String, Arc<[ContainerIp]>>;

/// A record that was noted.
#[derive(Debug, Clone, Copy)]
pub struct Noted(Ticket);

/// The records of every container.
pub struct Book {
    state: State,
    records: Mutex<HashMap<String, Arc<ContainerRecord>>>,
    snapshot: ArcSwap<Snapshot>,
    problems: Mutex<BTreeMap<(String, String), String>>,
    /// Counts the snapshots.
    changes: watch::Sender<u64>,
}

impl Book {
    /// A book of the records of an earlier run, kept in `state`.
    pub fn new(state: State, records: BTreeMap<String, Arc<ContainerRecord>>) -> Self {
        let snapshot = records
            .iter()
            .map(|(id, record)| (id.clone(), addresses(record)))
            .filter(|(_, addresses)| !addresses.is_empty())
            .collect();
        Self {
            state,
            records: Mutex::new(records.into_iter().collect()),
            snapshot: ArcSwap::from_pointee(snapshot),
            problems: Mutex::default(),
            changes: watch::Sender::default(),
        }
    }

    /// Ends the use of the state: everything is on disk soon after.
    pub fn close(&self) {
        self.state.end();
    }

    /// A container's record; an empty one when there is none.
    pub fn record(&self, container: &str) -> ContainerRecord {
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(container)
            .map_or_else(
                || ContainerRecord::new(container),
                |record| record.as_ref().clone(),
            )
    }

    /// Every record.
    pub fn records(&self) -> Vec<Arc<ContainerRecord>> {
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Notes a record, which is visible from now on and survives the end of
    /// this process: an intent, before the kernel is touched. After a power cut
    /// it may be missing, as everything is that the kernel was told.
    ///
    /// # Errors
    /// When the disk refuses; memory then still says what the disk says.
    pub fn note(&self, record: &ContainerRecord) -> Result<Noted> {
        let record = Arc::new(record.clone());
        let ticket = self.state.put(Arc::clone(&record))?;
        self.show(record);
        Ok(Noted(ticket))
    }

    /// Waits until what was noted survives the end of the machine.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn durable(&self, noted: Noted) -> Result<()> {
        self.state.durable(noted.0).await
    }

    /// Notes a record and waits until it survives the end of the machine.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn save(&self, record: &ContainerRecord) -> Result<()> {
        let noted = self.note(record)?;
        self.durable(noted).await
    }

    fn show(&self, record: Arc<ContainerRecord>) {
        let id = record.container.clone();
        let shown = addresses(&record);
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if record.is_empty() {
            records.remove(&id);
        } else {
            records.insert(id.clone(), record);
        }
        let before = self.snapshot.load();
        let same = match before.get(&id) {
            Some(old) => **old == *shown,
            None => shown.is_empty(),
        };
        // Under the lock of the records, so that no change is lost.
        if !same {
            let mut next = Snapshot::clone(&before);
            if shown.is_empty() {
                next.remove(&id);
            } else {
                next.insert(id, shown);
            }
            self.snapshot.store(Arc::new(next));
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// The addresses of every container, as of now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Changes whenever the addresses do.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The containers attached to a network, sorted.
    pub fn users_of(&self, network: &str) -> Vec<String> {
        let mut users: Vec<String> = self
            .records()
            .iter()
            .filter(|record| record.attachment(network).is_some())
            .map(|record| record.container.clone())
            .collect();
        users.sort();
        users
    }

    /// Replaces a container's problems and returns those that are news.
    pub fn set_problems(&self, container: &str, found: BTreeMap<String, String>) -> Vec<Problem> {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = Vec::new();
        for (network, message) in &found {
            let key = (container.to_owned(), network.clone());
            if problems.get(&key) != Some(message) {
                news.push(problem(&key, message));
            }
        }
        problems.retain(|(of, _), _| of != container);
        for (network, message) in found {
            problems.insert((container.to_owned(), network), message);
        }
        news
    }

    /// Forgets a container's problem with a network: it was just connected to
    /// it, or taken off it, by hand.
    pub fn solved(&self, container: &str, network: &str) {
        let key = (container.to_owned(), network.to_owned());
        self.problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
    }

    /// The problems of a container.
    pub fn problems_of(&self, container: &str) -> Vec<Problem> {
        self.problems_where(|(of, _)| of == container)
    }

    /// The problems with a network.
    pub fn problems_with(&self, network: &str) -> Vec<Problem> {
        self.problems_where(|(_, with)| with == network)
    }

    /// The containers that have a problem.
    pub fn troubled(&self) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let mut containers: Vec<String> = problems.keys().map(|(of, _)| of.clone()).collect();
        containers.dedup();
        containers
    }

    fn problems_where(&self, which: impl Fn(&(String, String)) -> bool) -> Vec<Problem> {
        self.problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(key, _)| which(key))
            .map(|(key, message)| problem(key, message))
            .collect()
    }
}

fn problem((container, network): &(String, String), message: &str) -> Problem {
    Problem {
        container: container.clone(),
        network: network.clone(),
        message: message.to_owned(),
    }
}

fn addresses(record: &ContainerRecord) -> Arc<[ContainerIp]> {
    record
        .attachments
        .iter()
        .filter(|attachment| attachment.phase == Phase::Attached)
        .flat_map(|attachment| {
            attachment.ips.iter().map(|ip| ContainerIp {
                network: attachment.network.clone(),
                ip: ip.addr(),
                interface: attachment.interface.clone(),
                node: String::new(),
            })
        })
        .collect()
}
