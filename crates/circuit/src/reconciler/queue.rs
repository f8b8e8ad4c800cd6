//! The containers to look at: each at most once at a time, again when it was
//! asked for in between, later when it was asked for later.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

/// The queue; it does no waiting itself.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: VecDeque<String>,
    waiting: HashSet<String>,
    running: HashSet<String>,
    again: HashSet<String>,
    due: HashMap<String, Instant>,
    times: BTreeSet<(Instant, String)>,
}

impl Queue {
    /// Asks for a look now.
    pub(super) fn wake(&mut self, container: &str) {
        if self.running.contains(container) {
            self.again.insert(container.to_owned());
        } else if self.waiting.insert(container.to_owned()) {
            self.ready.push_back(container.to_owned());
        }
    }

    /// Asks for a look after a time; the earliest wish holds.
    pub(super) fn wake_after(&mut self, container: &str, delay: Duration) {
        let at = Instant::now() + delay;
        if let Some(earlier) = self.due.get(container) {
            if *earlier <= at {
                return;
            }
            self.times.remove(&(*earlier, container.to_owned()));
        }
        self.due.insert(container.to_owned(), at);
        self.times.insert((at, container.to_owned()));
    }

    /// Takes the next container, if one is ready.
    pub(super) fn pop(&mut self) -> Option<String> {
        self.release(Instant::now());
        let container = self.ready.pop_front()?;
        self.waiting.remove(&container);
        self.running.insert(container.clone());
        // This look answers every wish for a later one; it will say anew.
        if let Some(at) = self.due.remove(&container) {
            self.times.remove(&(at, container.clone()));
        }
        Some(container)
    }

    /// Says that the look at a container has ended.
    pub(super) fn done(&mut self, container: &str) {
        self.running.remove(container);
        if self.again.remove(container) {
            self.wake(container);
        }
    }

    /// When the next delayed wish is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.times.first().map(|(at, _)| *at)
    }

    fn release(&mut self, now: Instant) {
        while let Some((at, container)) = self.times.first().cloned() {
            if at > now {
                return;
            }
            self.times.remove(&(at, container.clone()));
            self.due.remove(&container);
            self.wake(&container);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_container_is_looked_at_once_at_a_time() {
        let mut queue = Queue::default();
        queue.wake("a");
        queue.wake("a");
        queue.wake("b");
        assert_eq!(queue.pop().as_deref(), Some("a"));
        queue.wake("a");
        assert_eq!(queue.pop().as_deref(), Some("b"));
        assert_eq!(queue.pop(), None);
        queue.done("a");
        assert_eq!(queue.pop().as_deref(), Some("a"));
        queue.done("a");
        queue.done("b");
        assert_eq!(queue.pop(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_wish_holds() {
        let mut queue = Queue::default();
        queue.wake_after("a", Duration::from_secs(5));
        queue.wake_after("a", Duration::from_secs(2));
        queue.wake_after("a", Duration::from_secs(9));
        assert_eq!(queue.pop(), None);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(queue.pop().as_deref(), Some("a"));
        queue.done("a");
        assert_eq!(queue.next_due(), None);
    }
}
