//! Other servers, for names that are not ours.
//!
//! Messages are passed on as they came and come back as they are, but for their
//! number; each is asked from a port of its own, so that a forged answer has to
//! guess both (RFC 5452).

mod exchange;
mod hosts;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::sync::Semaphore;

use hosts::Hosts;

/// How long one server has to answer before the next one is asked too.
const EACH: Duration = Duration::from_millis(1500);
/// A server that did not answer is asked last for so long.
const RESTS: Duration = Duration::from_secs(10);
/// How often a server that asks us is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// As many questions are under way at once.
const AT_ONCE: usize = 1024;
/// How long others have for the question that must not come back.
const PROBE: Duration = Duration::from_secs(2);

/// Which servers are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// These, in their order.
    These(Vec<SocketAddr>),
    /// Those of the host, in a file such as `/etc/resolv.conf`.
    OfHost(PathBuf),
}

/// The servers, and how it goes with them.
#[derive(Debug)]
pub struct Upstreams {
    hosts: Hosts,
    states: Mutex<Vec<State>>,
    room: Semaphore,
    probes: Mutex<HashSet<Name>>,
}

/// What is known of a server.
#[derive(Debug, Clone)]
struct State {
    address: SocketAddr,
    /// It did not answer, and is asked last until then.
    rests: Option<Instant>,
    /// It asks us what we ask it, as was found then.
    loops: Option<Instant>,
}

impl State {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            rests: None,
            loops: None,
        }
    }
}

impl Upstreams {
    /// Asks those servers, but for the addresses that are our own.
    pub(super) fn new(servers: Servers, own: Vec<SocketAddr>) -> Self {
        Self {
            hosts: Hosts::new(servers, own),
            states: Mutex::default(),
            room: Semaphore::new(AT_ONCE),
            probes: Mutex::default(),
        }
    }

    /// Whether a question is the one of ours that must not come back; whoever was
    /// asked it has told on itself.
    pub(super) fn is_probe(&self, name: &Name) -> bool {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.remove(&name.to_lowercase())
    }

    /// Asks one server after the other until one knows an answer; none when all
    /// are silent or cannot answer.
    pub(super) async fn ask(&self, question: &[u8], stream: bool) -> Option<Vec<u8>> {
        let _room = self.room.try_acquire().ok()?;
        let mut last = None;
        for server in self.in_turn() {
            let asked = exchange::ask(server, question, stream);
            match tokio::time::timeout(EACH, asked).await {
                Ok(Ok(answer)) => {
                    self.change(server, |state| state.rests = None);
                    // It cannot, or will not: another may.
                    if matches!(answer.get(3).map(|flags| flags & 0x0f), Some(2 | 5)) {
                        last = Some(answer);
                        continue;
                    }
                    return Some(answer);
                }
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, "a dns server cannot be asked");
                    self.change(server, |state| state.rests = Some(Instant::now() + RESTS));
                }
                Err(_) => {
                    tracing::debug!(%server, "a dns server does not answer");
                    self.change(server, |state| state.rests = Some(Instant::now() + RESTS));
                }
            }
        }
        last
    }

    /// The servers to ask, those that answered last time first.
    fn in_turn(&self) -> Vec<SocketAddr> {
        if let Some(addresses) = self.hosts.changed() {
            self.replace(&addresses);
        }
        let now = Instant::now();
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let well = |state: &&State| state.loops.is_none();
        let rests = |state: &State| state.rests.is_some_and(|until| until > now);
        let mut turn: Vec<&State> = states.iter().filter(well).collect();
        turn.sort_by_key(|state| rests(state));
        turn.into_iter().map(|state| state.address).collect()
    }

    fn replace(&self, addresses: &[SocketAddr]) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        *states = addresses.iter().copied().map(State::new).collect();
    }

    fn change(&self, server: SocketAddr, change: impl FnOnce(&mut State)) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = states.iter_mut().find(|state| state.address == server) {
            change(state);
        }
    }

    /// Asks each server for a name that nobody else asks for, now and then: when
    /// that comes to us, the server asks us, and asking it would go on for ever.
    pub(super) async fn watch_for_loops(&self) {
        let mut timer = tokio::time::interval(Duration::from_secs(1));
        let mut probed: HashSet<SocketAddr> = HashSet::new();
        loop {
            timer.tick().await;
            let now = Instant::now();
            let servers = self.in_turn();
            let looping = {
                let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
                probed.retain(|server| states.iter().any(|state| state.address == *server));
                let due = |at: Instant| now.duration_since(at) >= AGAIN;
                let looping = states.iter().filter(|state| state.loops.is_some_and(due));
                looping.map(|state| state.address).collect::<Vec<_>>()
            };
            let fresh = servers
                .into_iter()
                .filter(|server| !probed.contains(server));
            for server in looping.into_iter().chain(fresh.collect::<Vec<_>>()) {
                // One that is silent may ask us as soon as it is up.
                if self.probe(server).await {
                    probed.insert(server);
                }
            }
        }
    }

    /// Returns whether it is known now if the server asks us.
    async fn probe(&self, server: SocketAddr) -> bool {
        let label = format!("{:032x}", rand::random::<u128>());
        let Ok(mut name) = Name::from_labels([label.as_bytes(), label.as_bytes()]) else {
            return false;
        };
        name.set_fqdn(true);
        let lock = || self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        lock().insert(name.clone());
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message
            .queries
            .push(Query::query(name.clone(), RecordType::HINFO));
        let Ok(bytes) = message.to_vec() else {
            return false;
        };
        let asked = exchange::ask(server, &bytes, false);
        let answered = matches!(tokio::time::timeout(PROBE, asked).await, Ok(Ok(_)));
        let came_back = !lock().remove(&name);
        self.change(server, |state| {
            match (came_back, state.loops) {
                (true, None) => tracing::error!(
                    "the dns server {server} asks this one, so it is left out: name others with \
                     --dns-upstream"
                ),
                (false, Some(_)) => tracing::info!("the dns server {server} can be asked again"),
                _ => {}
            }
            state.loops = came_back.then(Instant::now);
        });
        came_back || answered
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
