//! The records in memory, beside those on disk, and what is read from them:
//! the addresses as a snapshot that is swapped whole, and the problems.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use circuit_core::{
    Result,
    attachment::{Attachment, ContainerRecord, Phase},
    fleet::{Attached, Fleet, NodeWord, Port, Protocol, Record, Snapshot},
    runtime::ExtensionEntry,
    service::{NodeInfo, Problem},
};
use serde_json::Value;

use tokio::sync::watch;

use crate::state::{State, Ticket};

/// A record that was noted.
#[derive(Debug, Clone, Copy)]
pub struct Noted(Ticket);

/// The records of every container.
pub struct Book {
    state: State,
    node: Arc<str>,
    records: Mutex<Records>,
    snapshot: ArcSwap<Snapshot>,
    problems: Mutex<BTreeMap<(String, String), String>>,
    /// Counts the snapshots.
    changes: watch::Sender<u64>,
}

/// What is changed together.
struct Records {
    all: HashMap<String, Arc<ContainerRecord>>,
    /// What no record tells of, and is there.
    beside: HashMap<String, Told>,
    /// What others see of it.
    map: Fleet,
}

/// What a container's extension tells, by network.
pub(super) type Told = BTreeMap<String, ExtensionEntry>;

impl Book {
    /// A book of the records of an earlier run, kept in `state`; `node` is this
    /// node's name.
    pub fn new(state: State, node: &str, records: BTreeMap<String, Arc<ContainerRecord>>) -> Self {
        let mut map = Fleet::new();
        let node = map.intern(node);
        let shown = records
            .values()
            .filter_map(|record| shown(&mut map, &node, record, None))
            .collect();
        map.replace(&node, no_word(&node), 0, shown);
        Self {
            state,
            snapshot: ArcSwap::from_pointee(map.snapshot()),
            node,
            records: Mutex::new(Records {
                all: records.into_iter().collect(),
                beside: HashMap::new(),
                map,
            }),
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
            .all
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
            .all
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
        // Of nothing it does not matter whose it is.
        let record = Arc::new(match record.is_empty() {
            true => ContainerRecord::new(&record.container),
            false => record.clone(),
        });
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
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        self.swap(&mut records, &record);
        if record.is_empty() {
            records.all.remove(&record.container);
        } else {
            records.all.insert(record.container.clone(), record);
        }
    }

    /// Shows a container's addresses that no record tells of yet, in the place of such
    /// that were shown before.
    pub(super) fn show_beside(&self, container: &str, told: Told) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match told.is_empty() {
            true => records.beside.remove(container),
            false => records.beside.insert(container.to_owned(), told.clone()),
        };
        if before.unwrap_or_default() != told {
            let record = records.all.get(container).cloned();
            let record = record.unwrap_or_else(|| Arc::new(ContainerRecord::new(container)));
            self.swap(&mut records, &record);
        }
    }

    /// Has others see what is known of a container now: under the lock of the records, so
    /// that no change is lost.
    fn swap(&self, records: &mut Records, record: &ContainerRecord) {
        let Records { map, beside, .. } = records;
        let beside = beside.get(&record.container);
        match shown(map, &self.node, record, beside) {
            Some(shown) => map.change::<&str>(&self.node, 0, vec![shown], &[]),
            None => map.change(&self.node, 0, Vec::new(), &[&record.container]),
        }
        let (before, now) = (self.snapshot.load(), map.snapshot());
        if !now.is_same(&before) {
            self.snapshot.store(Arc::new(now));
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// The containers that are connected to something, with their addresses, as of
    /// now.
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

    /// Replaces a container's problems and returns those that are news, and those
    /// that are no more.
    pub fn set_problems(
        &self,
        container: &str,
        found: BTreeMap<String, String>,
    ) -> (Vec<Problem>, Vec<Problem>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = Vec::new();
        for (network, message) in &found {
            let key = (container.to_owned(), network.clone());
            if problems.get(&key) != Some(message) {
                news.push(problem(&key, message));
            }
        }
        let mut solved = Vec::new();
        problems.retain(|key, message| {
            let kept = key.0 != container;
            if !kept && !found.contains_key(&key.1) {
                solved.push(problem(key, message));
            }
            kept
        });
        for (network, message) in found {
            problems.insert((container.to_owned(), network), message);
        }
        (news, solved)
    }

    /// Forgets a container's problem with a network and returns it: it was just
    /// connected to it, or taken off it, by hand.
    pub fn solve(&self, container: &str, network: &str) -> Option<Problem> {
        let key = (container.to_owned(), network.to_owned());
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let message = problems.remove(&key)?;
        Some(problem(&key, &message))
    }

    /// The problems of a container.
    pub fn problems_of(&self, container: &str) -> Vec<Problem> {
        self.problems_where(|(of, _)| of == container)
    }

    /// How many problems there are.
    pub fn problem_count(&self) -> usize {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.len()
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

/// This node among its own containers: it says nothing of itself.
fn no_word(node: &str) -> NodeWord {
    NodeWord {
        info: NodeInfo {
            name: node.to_owned(),
            ..NodeInfo::default()
        },
        at: 0,
        heartbeat: 0,
        lease: 0,
    }
}

/// What others see of a container; nothing when it is connected to nothing.
fn shown(
    map: &mut Fleet,
    node: &Arc<str>,
    record: &ContainerRecord,
    beside: Option<&Told>,
) -> Option<Record> {
    let attached = record.attachments.iter();
    let mut attached: Vec<Attached> = attached
        .filter(|attachment| attachment.phase == Phase::Attached)
        .map(|attachment| attached_as(map, attachment))
        .collect();
    for (network, entry) in beside.into_iter().flatten() {
        if record.attachment(network).is_none() {
            attached.extend(told_as(map, network, entry));
        }
    }
    (!attached.is_empty()).then(|| Record {
        container: record.container.as_str().into(),
        node: Arc::clone(node),
        attached: attached.into(),
    })
}

/// What an entry of the extension tells; nothing without an address.
fn told_as(map: &mut Fleet, network: &str, entry: &ExtensionEntry) -> Option<Attached> {
    let ip = entry.ip.parse().ok()?;
    Some(Attached {
        network: map.intern(network),
        interface: map.intern(&entry.interface),
        ips: Box::new([ip]),
        mac: None,
        aliases: Box::default(),
        ports: Box::default(),
    })
}

fn attached_as(map: &mut Fleet, attachment: &Attachment) -> Attached {
    let ports = attachment.capability_args.get("portMappings");
    let ports = ports.and_then(Value::as_array).into_iter().flatten();
    Attached {
        network: map.intern(&attachment.network),
        interface: map.intern(&attachment.interface),
        ips: attachment.ips.iter().map(ipnet::IpNet::addr).collect(),
        mac: attachment.mac.as_deref().and_then(hardware_address),
        aliases: attachment
            .aliases
            .iter()
            .map(|alias| alias.as_str().into())
            .collect(),
        ports: ports.filter_map(port).collect(),
    }
}

/// Reads a port as the capability has it.
fn port(mapping: &Value) -> Option<Port> {
    let number = |key: &str| u16::try_from(mapping.get(key)?.as_u64()?).ok();
    let protocol = mapping.get("protocol").and_then(Value::as_str);
    Some(Port {
        host: number("hostPort")?,
        container: number("containerPort")?,
        protocol: Protocol::named(protocol.unwrap_or("tcp"))?,
    })
}

fn hardware_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes?.try_into().ok()
}
