//! What the runtime said last of containers that run, so that a request need
//! not wait for it. The kernel says whether the task is still the same.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Seen;

/// Of so many containers the news are told apart: those that are gone are not to
/// fill the memory.
const TOLD_APART: usize = 4096;

/// Containers with a task that was alive when it was seen.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    seen: HashMap<String, (Seen, u64)>,
    /// What the runtime may have told of since: it counts only while the runtime
    /// cannot be asked.
    older: HashMap<String, (Seen, u64)>,
    /// Grows with everything that the runtime tells.
    news: u64,
    /// The news that each container had last, since those that all had.
    told: HashMap<String, u64>,
    /// The last news that all containers had.
    told_all: u64,
}

impl Inner {
    /// All containers have news now.
    fn tell_all(&mut self) {
        self.news += 1;
        self.told_all = self.news;
        self.told.clear();
    }

    /// Whether something was told of a container since.
    fn has_news(&self, container: &str, since: AsOf) -> bool {
        let told = self.told.get(container).copied().unwrap_or(0);
        told.max(self.told_all) > since.0
    }
}

/// The news that were known when the runtime was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AsOf(u64);

impl Sightings {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the runtime is asked.
    pub(super) fn now(&self) -> AsOf {
        AsOf(self.inner().news)
    }

    /// Keeps what the runtime answered, with the start of the task's process,
    /// unless it has told of something of the container since: that may be newer.
    pub(super) fn keep(&self, as_of: AsOf, seen: &Seen, started: u64) {
        let mut inner = self.inner();
        if !inner.has_news(&seen.container.id, as_of) {
            let id = seen.container.id.clone();
            inner.older.remove(&id);
            inner.seen.insert(id, (seen.clone(), started));
        }
    }

    /// What is known of a container whose task's process is the one that was
    /// seen; `started` says when a living process was started.
    pub(super) fn get(
        &self,
        container: &str,
        started: impl Fn(u32) -> Option<u64>,
    ) -> Option<Seen> {
        let sighting = self.inner().seen.get(container).cloned();
        living(sighting?, started)
    }

    /// As [`get`](Self::get), for a runtime that cannot be asked: labels may have
    /// changed since.
    pub(super) fn get_older(
        &self,
        container: &str,
        started: impl Fn(u32) -> Option<u64>,
    ) -> Option<Seen> {
        let sighting = {
            let inner = self.inner();
            let found = inner.seen.get(container);
            found.or_else(|| inner.older.get(container)).cloned()
        };
        living(sighting?, started)
    }

    /// The runtime tells that something of a container changed.
    pub(super) fn forget(&self, container: &str) {
        let mut inner = self.inner();
        inner.news += 1;
        let news = inner.news;
        inner.told.insert(container.to_owned(), news);
        if inner.told.len() > TOLD_APART {
            inner.tell_all();
        }
        inner.seen.remove(container);
        inner.older.remove(container);
    }

    /// Anything may have changed.
    pub(super) fn forget_all(&self) {
        let mut inner = self.inner();
        inner.tell_all();
        let seen = std::mem::take(&mut inner.seen);
        inner.older.extend(seen);
    }
}

fn living((seen, start): (Seen, u64), started: impl Fn(u32) -> Option<u64>) -> Option<Seen> {
    let pid = seen.alive()?.pid;
    (started(pid) == Some(start)).then_some(seen)
}

#[cfg(test)]
mod tests {
    use circuit_core::runtime::{Container, Task, TaskStatus};

    use super::*;

    fn seen(status: TaskStatus) -> Seen {
        Seen {
            container: Container {
                id: "a".into(),
                labels: HashMap::new(),
                extension: None,
                created_at: None,
                changed_at: None,
                resolv_conf: None,
            },
            task: Some(Task {
                container: "a".into(),
                pid: 7,
                status,
                exit_status: 0,
                exited_at: None,
            }),
        }
    }

    #[test]
    fn a_sighting_holds_while_the_same_process_lives() {
        let sightings = Sightings::default();
        sightings.keep(sightings.now(), &seen(TaskStatus::Running), 5);
        assert!(sightings.get("a", |_| Some(5)).is_some());
        assert!(
            sightings.get("a", |_| Some(6)).is_none(),
            "its number went on"
        );
        assert!(sightings.get("a", |_| None).is_none(), "it has ended");
        assert!(sightings.get("b", |_| Some(5)).is_none());
        sightings.forget("a");
        assert!(sightings.get("a", |_| Some(5)).is_none());
    }

    #[test]
    fn what_may_have_changed_counts_while_nobody_can_be_asked() {
        let sightings = Sightings::default();
        sightings.keep(sightings.now(), &seen(TaskStatus::Running), 5);
        sightings.forget_all();
        sightings.forget_all();
        assert!(sightings.get("a", |_| Some(5)).is_none());
        assert!(sightings.get_older("a", |_| Some(5)).is_some());
        assert!(sightings.get_older("a", |_| Some(6)).is_none());
        sightings.forget("a");
        assert!(sightings.get_older("a", |_| Some(5)).is_none());
    }

    #[test]
    fn an_answer_older_than_the_news_is_not_kept() {
        let sightings = Sightings::default();
        let asked = sightings.now();
        sightings.forget("a");
        sightings.keep(asked, &seen(TaskStatus::Running), 5);
        assert!(sightings.get("a", |_| Some(5)).is_none());
        sightings.keep(sightings.now(), &seen(TaskStatus::Stopped), 5);
        assert!(sightings.get("a", |_| Some(5)).is_none());
        let asked = sightings.now();
        sightings.forget_all();
        sightings.keep(asked, &seen(TaskStatus::Running), 5);
        assert!(sightings.get("a", |_| Some(5)).is_none());
        // News of others are none.
        let asked = sightings.now();
        sightings.forget("b");
        sightings.keep(asked, &seen(TaskStatus::Running), 5);
        assert!(sightings.get("a", |_| Some(5)).is_some());
        // Those of very many are everybody's.
        let asked = sightings.now();
        sightings.forget("a");
        for number in 0..TOLD_APART {
            sightings.forget(&format!("gone-{number}"));
        }
        sightings.keep(asked, &seen(TaskStatus::Running), 5);
        assert!(sightings.get("a", |_| Some(5)).is_none());
        assert!(sightings.inner().told.len() < TOLD_APART);
    }
}
