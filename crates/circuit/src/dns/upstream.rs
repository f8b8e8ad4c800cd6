//! Other servers, for names that are not ours.
//!
//! Messages are passed on as they came and come back as they are, but for their
//! number; each is asked from a port of its own, so that a forged answer has to
//! guess both (RFC 5452).

mod exchange;
mod hosts;
mod loops;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::PATIENCE;
use hosts::Hosts;
use loops::{Loops, UnderWay};

/// How long one server has to answer before the next one is asked too.
const EACH: Duration = Duration::from_millis(1500);
/// A server that does not answer is asked last for so long.
const RESTS: Duration = Duration::from_secs(10);
/// So many questions in a row are left unanswered by a server that does not answer. One
/// alone may be of a name whose own servers are slow.
const SILENCES: u32 = 3;
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
    loops: Loops,
}

/// What is known of a server.
#[derive(Debug, Clone)]
struct State {
    address: SocketAddr,
    /// It does not answer, and is asked last until then.
    rests: Option<Instant>,
    /// As many questions in a row it has not answered.
    silences: u32,
    /// It asks us what we ask it.
    asks: Option<Asks>,
}

/// Whom a server asks that asks us what we ask it. Its questions to us are refused
/// meanwhile, so that nothing goes round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// Nobody who answers.
    Only,
    /// Others too, of whom one answers; systemd-resolved asks several at once.
    Besides,
}

impl State {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            rests: None,
            silences: 0,
            asks: None,
        }
    }

    fn answered(&mut self) {
        (self.rests, self.silences) = (None, 0);
    }

    fn failed(&mut self) {
        self.rests = Some(Instant::now() + RESTS);
    }

    fn was_silent(&mut self) {
        self.silences = self.silences.saturating_add(1);
        if self.silences >= SILENCES {
            self.failed();
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
            loops: Loops::default(),
        }
    }

    /// Whether a question is the one of ours that must not come back; whoever was
    /// asked it has told on itself.
    pub(super) fn is_probe(&self, name: &Name) -> bool {
        self.loops.is_probe(name)
    }

    /// Whether a question is what a server passes on to us while we ask it: to be
    /// refused, or it would go round. A server asks from its own address, or is a
    /// program of this host, as whoever asks may be.
    pub(super) fn comes_back(&self, question: &[u8], peer: IpAddr, is_here: bool) -> bool {
        let asked = self.loops.asked(question, peer, is_here);
        let is_one = |state: &State| state.asks.is_some() && asked.contains(&state.address);
        !asked.is_empty() && self.states().iter().any(is_one)
    }

    /// Asks one server after the other until one knows an answer; none when all
    /// are silent or cannot answer. Those that take their time may answer until the
    /// end, also while others are asked.
    pub(super) async fn ask(&self, question: &[u8], stream: bool) -> Option<Vec<u8>> {
        let _room = self.room.try_acquire().ok()?;
        let mut turn = self.in_turn().into_iter();
        let (mut asked, mut since) = (FuturesUnordered::new(), Vec::new());
        let end = Instant::now() + PATIENCE;
        let (mut due, mut last) = (Instant::now(), None);
        let good = loop {
            let now = Instant::now();
            if now >= due
                && let Some(server) = turn.next()
            {
                asked.push(self.ask_one(server, question, stream));
                since.push((server, now));
                due = now + EACH;
            }
            let until = match turn.len() {
                0 => end,
                _ => due.min(end),
            };
            let (server, answer) = match timeout_at(until.into(), asked.next()).await {
                Ok(Some(done)) => done,
                // The next one has its turn.
                Err(_) if until < end => continue,
                Ok(None) | Err(_) => break None,
            };
            since.retain(|(waiting, _)| *waiting != server);
            match answer {
                Some(answer) if is_good(&answer) => break Some(answer),
                None => {}
                some => last = some,
            }
            // It cannot, or will not: another may.
            due = now;
        };
        let patient = since.iter().filter(|(_, at)| at.elapsed() >= EACH);
        for (server, _) in patient {
            tracing::debug!(%server, "a dns server does not answer");
            self.change(*server, State::was_silent);
        }
        good.or(last)
    }

    async fn ask_one(
        &self,
        server: SocketAddr,
        question: &[u8],
        stream: bool,
    ) -> (SocketAddr, Option<Vec<u8>>) {
        let _under_way = UnderWay::new(&self.loops, question, server);
        let answer = match exchange::ask(server, question, stream).await {
            Ok(answer) => {
                self.change(server, State::answered);
                Some(answer)
            }
            Err(error) => {
                tracing::debug!(%server, %error, "a dns server cannot be asked");
                self.change(server, State::failed);
                None
            }
        };
        (server, answer)
    }

    /// The servers to ask: first those that answered last time, and of these those
    /// that do not ask us.
    fn in_turn(&self) -> Vec<SocketAddr> {
        if let Some(addresses) = self.hosts.changed() {
            self.replace(&addresses);
        }
        let now = Instant::now();
        let states = self.states();
        let rests = |state: &State| state.rests.is_some_and(|until| until > now);
        let mut turn: Vec<&State> = states.iter().collect();
        turn.sort_by_key(|state| (rests(state), state.asks.is_some()));
        turn.into_iter().map(|state| state.address).collect()
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of servers that stay is known what was known.
    fn replace(&self, addresses: &[SocketAddr]) {
        let mut states = self.states();
        let known = |address: &SocketAddr| states.iter().find(|state| state.address == *address);
        let state = |address| known(address).cloned().unwrap_or(State::new(*address));
        let new = addresses.iter().map(state).collect();
        *states = new;
    }

    fn change(&self, server: SocketAddr, change: impl FnOnce(&mut State)) {
        let mut states = self.states();
        if let Some(state) = states.iter_mut().find(|state| state.address == server) {
            change(state);
        }
    }

    /// Asks each server for a name that nobody else asks for: when that comes to us,
    /// the server asks us. Those are asked again now and then, and so is one that may
    /// have begun to.
    pub(super) async fn watch_for_loops(&self) {
        let mut timer = tokio::time::interval(Duration::from_secs(1));
        let mut probed: HashMap<SocketAddr, Instant> = HashMap::new();
        loop {
            timer.tick().await;
            // The file may have others by now.
            let _ = self.in_turn();
            let states = self.states().clone();
            probed.retain(|server, _| states.iter().any(|state| state.address == *server));
            for State { address, asks, .. } in states {
                let due = match probed.get(&address) {
                    None => true,
                    Some(last) if last.elapsed() < AGAIN => false,
                    Some(_) => asks.is_some() || self.loops.is_suspect(address),
                };
                // One that is silent may ask us as soon as it is up.
                if due && self.probe(address).await {
                    probed.insert(address, Instant::now());
                }
            }
        }
    }

    /// Returns whether it is known now if the server asks us.
    async fn probe(&self, server: SocketAddr) -> bool {
        let Some(probe) = self.loops.probe() else {
            return false;
        };
        let asked = exchange::ask(server, probe.question(), false);
        let answer = tokio::time::timeout(PROBE, asked).await;
        let answer = answer.ok().and_then(Result::ok);
        // Who else is asked knows that there is no such name.
        let knows = |answer: &Vec<u8>| {
            matches!(code(answer), ResponseCode::NoError | ResponseCode::NXDomain)
        };
        let asks = probe
            .came_back()
            .then(|| match answer.as_ref().is_some_and(knows) {
                true => Asks::Besides,
                false => Asks::Only,
            });
        self.change(server, |state| {
            match (asks, state.asks) {
                (Some(Asks::Only), None | Some(Asks::Besides)) => tracing::warn!(
                    "the dns server {server} asks this one, and nobody who answers: name others \
                     with --dns-upstream"
                ),
                (Some(Asks::Besides), None | Some(Asks::Only)) => tracing::info!(
                    "the dns server {server} asks this one besides others, and is refused what \
                     it is asked itself"
                ),
                (None, Some(_)) => {
                    tracing::info!("the dns server {server} asks this one no more");
                }
                _ => {}
            }
            state.asks = asks;
        });
        asks.is_some() || answer.is_some()
    }
}

/// Whether no other server is to be asked.
fn is_good(answer: &[u8]) -> bool {
    let code = code(answer);
    !matches!(code, ResponseCode::ServFail | ResponseCode::Refused)
}

/// The result in an answer's head.
fn code(answer: &[u8]) -> ResponseCode {
    ResponseCode::from_low(answer.get(3).map_or(0, |flags| flags & 0x0f))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
