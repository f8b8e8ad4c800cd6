//! Servers that ask us what we ask them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};

use super::super::message::{HEAD, end_of_question};

/// What is asked of which servers, and which of them may ask us.
#[derive(Debug, Default)]
pub(super) struct Loops {
    /// Questions that must not come back, and whether they did.
    probes: Mutex<HashMap<Name, bool>>,
    under_way: Mutex<HashMap<Key, Vec<SocketAddr>>>,
    suspects: Mutex<HashSet<SocketAddr>>,
}

/// A question's name, type and class.
type Key = Vec<u8>;

fn key(question: &[u8]) -> Option<Key> {
    let end = end_of_question(question)?;
    Some(question.get(HEAD..end)?.to_ascii_lowercase())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loops {
    /// Whether a question is one that must not come back, as often as it does.
    pub(super) fn is_probe(&self, name: &Name) -> bool {
        let mut probes = lock(&self.probes);
        let came_back = probes.get_mut(&name.to_lowercase());
        came_back.map(|came_back| *came_back = true).is_some()
    }

    /// The servers that are asked this at the moment and may be who asks it now:
    /// suspects from now on.
    pub(super) fn asked(&self, question: &[u8], peer: IpAddr, is_here: bool) -> Vec<SocketAddr> {
        let under_way = lock(&self.under_way);
        let Some(servers) = key(question).and_then(|key| under_way.get(&key)) else {
            return Vec::new();
        };
        let may = |server: &&SocketAddr| is_here || server.ip() == peer;
        let asked: Vec<SocketAddr> = servers.iter().filter(may).copied().collect();
        lock(&self.suspects).extend(&asked);
        asked
    }

    /// Whether a server may ask us, as far as was seen since this was asked last.
    pub(super) fn is_suspect(&self, server: SocketAddr) -> bool {
        lock(&self.suspects).remove(&server)
    }

    /// A question that nobody else asks.
    pub(super) fn probe(&self) -> Option<Probe<'_>> {
        let label = format!("{:032x}", rand::random::<u128>());
        let mut name = Name::from_labels([label.as_bytes(), label.as_bytes()]).ok()?;
        name.set_fqdn(true);
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        let query = Query::query(name.clone(), RecordType::HINFO);
        message.queries.push(query);
        let question = message.to_vec().ok()?;
        lock(&self.probes).insert(name.clone(), false);
        Some(Probe {
            loops: self,
            name,
            question,
        })
    }
}

/// A question that must not come back, while it is out.
pub(super) struct Probe<'a> {
    loops: &'a Loops,
    name: Name,
    question: Vec<u8>,
}

impl Probe<'_> {
    pub(super) fn question(&self) -> &[u8] {
        &self.question
    }

    /// Whether it came back so far.
    pub(super) fn came_back(&self) -> bool {
        let probes = lock(&self.loops.probes);
        probes.get(&self.name).is_some_and(|came_back| *came_back)
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        lock(&self.loops.probes).remove(&self.name);
    }
}

/// A question while a server is asked it.
pub(super) struct UnderWay<'a> {
    loops: &'a Loops,
    key: Key,
    server: SocketAddr,
}

impl<'a> UnderWay<'a> {
    pub(super) fn new(loops: &'a Loops, question: &[u8], server: SocketAddr) -> Self {
        // What is passed on was read before: it has a key.
        let key = key(question).unwrap_or_default();
        let mut under_way = lock(&loops.under_way);
        under_way.entry(key.clone()).or_default().push(server);
        drop(under_way);
        Self { loops, key, server }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut under_way = lock(&self.loops.under_way);
        let Some(servers) = under_way.get_mut(&self.key) else {
            return;
        };
        if let Some(at) = servers.iter().position(|server| *server == self.server) {
            servers.swap_remove(at);
        }
        if servers.is_empty() {
            under_way.remove(&self.key);
        }
    }
}
