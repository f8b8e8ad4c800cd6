//! What has happened, remembered for a while and told to whoever watches.

mod fleet;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use circuit_core::event::{Event, Events, Filter, Kind, Since};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

pub use fleet::follow_fleet;

/// How many events are remembered.
const KEPT: usize = 4096;
/// How many events a watcher may be behind.
const BEHIND: usize = 4096;

type Receiver = broadcast::Receiver<Arc<Event>>;

/// An event to be told; what it does not say stays empty.
#[derive(Debug, Clone, Default)]
pub struct Happening<'a> {
    /// The node, when it is not this one.
    pub node: Option<&'a Arc<str>>,
    /// The container.
    pub container: &'a str,
    /// The network.
    pub network: &'a str,
    /// The interface.
    pub interface: &'a str,
    /// The addresses.
    pub ips: Vec<IpAddr>,
    /// For people.
    pub message: String,
}

/// The events of a node, and what it hears of others.
pub struct EventLog {
    node: Arc<str>,
    memory: Mutex<Memory>,
    live: broadcast::Sender<Arc<Event>>,
}

struct Memory {
    next: u64,
    kept: VecDeque<Arc<Event>>,
}

impl EventLog {
    /// A log of the node of that name.
    pub fn new(node: &str) -> Self {
        // Ids of a later life are higher, also after a restart in the same second.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(0));
        Self {
            node: node.into(),
            memory: Mutex::new(Memory {
                next: now.saturating_mul(1000) + 1,
                kept: VecDeque::new(),
            }),
            live: broadcast::Sender::new(BEHIND),
        }
    }

    /// Tells of something that has happened now.
    pub fn tell(&self, kind: Kind, what: Happening<'_>) {
        // The order of ids is the order in which watchers hear of them.
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Arc::new(Event {
            id: memory.next,
            at: SystemTime::now(),
            node: Arc::clone(what.node.unwrap_or(&self.node)),
            kind,
            container: what.container.to_owned(),
            network: what.network.to_owned(),
            interface: what.interface.to_owned(),
            ips: what.ips,
            message: what.message,
        });
        memory.next += 1;
        if memory.kept.len() == KEPT {
            memory.kept.pop_front();
        }
        memory.kept.push_back(Arc::clone(&event));
        // Nobody may be watching.
        let _ = self.live.send(event);
    }

    /// What a watcher gets in the place of what it missed, and what it gets then. The
    /// id is that of the last one missed: who goes on `after` it misses nothing more.
    fn missed(&self, mut count: u64, live: &mut Receiver) -> (Arc<Event>, Option<Arc<Event>>) {
        let next = loop {
            match live.try_recv() {
                Ok(event) => break Some(event),
                Err(TryRecvError::Lagged(more)) => count += more,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break None,
            }
        };
        let id = match &next {
            Some(event) => event.id,
            None => {
                let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.next
            }
        };
        let missed = Arc::new(Event {
            id: id.saturating_sub(1),
            at: SystemTime::now(),
            node: Arc::clone(&self.node),
            kind: Kind::Missed,
            container: String::new(),
            network: String::new(),
            interface: String::new(),
            ips: Vec::new(),
            message: format!("{count} events were missed: ask anew for what is there"),
        });
        (missed, next)
    }

    fn earlier(&self, since: Since, wanted: &Filter) -> (Vec<Arc<Event>>, Receiver) {
        // Under the lock, so that nothing falls between the two.
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        let kept = &memory.kept;
        if let Some(after) = since.after {
            let from = kept.partition_point(|event| event.id <= after);
            let earlier = kept.iter().skip(from).filter(|event| wanted.takes(event));
            return (earlier.cloned().collect(), live);
        }
        let latest = kept.iter().rev().filter(|event| wanted.takes(event));
        let mut earlier: Vec<_> = latest.take(since.last).cloned().collect();
        earlier.reverse();
        (earlier, live)
    }
}

/// A log that can be watched.
#[derive(Clone)]
pub struct Watched(pub Arc<EventLog>);

impl Events for Watched {
    fn node(&self) -> &str {
        &self.0.node
    }

    fn watch(&self, since: Since, wanted: Filter) -> BoxStream<'static, Arc<Event>> {
        let (earlier, live) = self.0.earlier(since, &wanted);
        let log = Arc::clone(&self.0);
        let later = stream::unfold((live, log, None), |(mut live, log, next)| async move {
            if let Some(event) = next {
                return Some((event, (live, log, None)));
            }
            match live.recv().await {
                Ok(event) => Some((event, (live, log, None))),
                Err(RecvError::Lagged(count)) => {
                    let (missed, next) = log.missed(count, &mut live);
                    Some((missed, (live, log, next)))
                }
                Err(RecvError::Closed) => None,
            }
        });
        let later = later.filter(move |event| std::future::ready(wanted.takes(event)));
        stream::iter(earlier).chain(later).boxed()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn told(log: &EventLog, container: &str) {
        let what = Happening {
            container,
            ..Happening::default()
        };
        log.tell(Kind::TaskStarted, what);
    }

    async fn take(stream: &mut BoxStream<'static, Arc<Event>>, count: usize) -> Vec<Arc<Event>> {
        stream.take(count).collect().await
    }

    fn names(events: &[Arc<Event>]) -> Vec<&str> {
        events.iter().map(|event| &*event.container).collect()
    }

    #[tokio::test]
    async fn the_last_are_the_last_of_those_that_are_wanted() {
        let log = Arc::new(EventLog::new("here"));
        for name in ["a", "b", "a", "b", "b"] {
            told(&log, name);
        }
        let last = Since {
            last: 2,
            ..Since::default()
        };
        let of_a = Filter {
            container: "a".to_owned(),
            ..Filter::default()
        };
        let mut events = Watched(Arc::clone(&log)).watch(last, of_a);
        told(&log, "b");
        told(&log, "a");
        let events = take(&mut events, 3).await;
        let ids: Vec<_> = events.iter().map(|event| event.id).collect();
        assert_eq!(names(&events), ["a", "a", "a"]);
        assert_eq!(ids, [ids[0], ids[0] + 2, ids[0] + 6]);
    }

    #[tokio::test]
    async fn what_was_and_what_comes_are_told_once_and_in_order() {
        let log = Arc::new(EventLog::new("here"));
        for name in ["a", "b", "c"] {
            told(&log, name);
        }
        let mut from_now = Watched(Arc::clone(&log)).watch(Since::default(), Filter::default());
        let last = Since {
            last: 2,
            ..Since::default()
        };
        let mut last = Watched(Arc::clone(&log)).watch(last, Filter::default());
        told(&log, "d");
        assert_eq!(names(&take(&mut from_now, 1).await), ["d"]);
        let seen = take(&mut last, 3).await;
        assert_eq!(names(&seen), ["b", "c", "d"]);
        assert!(seen.is_sorted_by(|a, b| a.id < b.id));
        let after = Since {
            after: Some(seen[0].id),
            last: 0,
        };
        let mut after = Watched(Arc::clone(&log)).watch(after, Filter::default());
        assert_eq!(names(&take(&mut after, 2).await), ["c", "d"]);
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_what_it_missed() {
        let log = Arc::new(EventLog::new("here"));
        let mut slow = Watched(Arc::clone(&log)).watch(Since::default(), Filter::default());
        for _ in 0..BEHIND + 10 {
            told(&log, "x");
        }
        let seen = take(&mut slow, BEHIND + 1).await;
        assert_eq!(seen[0].kind, Kind::Missed);
        assert!(
            seen[0].message.starts_with("10 events"),
            "{}",
            seen[0].message
        );
        assert!(
            seen[1..]
                .iter()
                .all(|event| event.kind == Kind::TaskStarted)
        );
        // Who goes on after the first one gets all the others.
        assert!(seen.is_sorted_by(|one, next| one.id < next.id));
        assert_eq!(seen[0].id + 1, seen[1].id);
    }

    #[test]
    fn memory_has_an_end() {
        let log = EventLog::new("here");
        for number in 0..KEPT + 5 {
            told(&log, &number.to_string());
        }
        let since = Since {
            after: Some(0),
            last: 0,
        };
        let (all, _) = log.earlier(since, &Filter::default());
        assert_eq!(all.len(), KEPT);
        assert_eq!(all[0].container, "5");
    }

    #[test]
    fn every_kind_has_a_name() {
        for name in Kind::names() {
            assert_eq!(Kind::named(name).unwrap().name(), name);
        }
        assert_eq!(Kind::named("task.nonsense"), None);
    }
}
