//! The reconciler: compares what should be with what is, one container at a
//! time, and does what is missing. Events only wake it.

mod container;
mod follow;
mod mend;
mod places;
mod queue;
mod restarts;
#[cfg(test)]
mod staged_tests;
mod steps;
mod stop_start;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use circuit_core::{
    attachment::{Attachment, ContainerRecord},
    restart::LastRun,
    runtime::{Container, Event, Task},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::attachments::{Attachments, Seen};
use crate::pulse::Answerer;
use places::Places;
use queue::Queue;

/// The first delay after a failure; it doubles up to `LONGEST_RETRY`.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What was seen of a container's tasks since this daemon started.
#[derive(Debug, Clone, Default)]
struct Watched {
    /// The pid of the living task and when it was first seen.
    alive: Option<(u32, Instant)>,
    /// The end of the last task: its exit status, how long it ran, and when.
    ended: Option<(u32, Duration, Instant)>,
    /// Since when there is no task although its end was not told.
    missed: Option<Instant>,
    /// The pid of the last task that ended: the runtime may call it alive for
    /// a moment longer.
    ended_pid: Option<u32>,
    /// Restarts since the last steady run.
    streak: u32,
    /// Looks that failed in a row.
    failures: u32,
    /// Attachments were checked once.
    checked: bool,
    /// Attachments that the plugins say are broken, and why.
    broken: Vec<(Attachment, String)>,
    /// The last thing said about its restarts, to say it once.
    said: Option<String>,
    /// When the first event was that no look has answered yet.
    told: Option<SystemTime>,
}

impl Watched {
    fn end(&mut self, pid: u32, status: u32) {
        let ran = match self.alive {
            Some((known, since)) if known == pid => since.elapsed(),
            // The end of a task that was already replaced.
            Some(_) => return,
            None if self.ended.is_some() => return,
            None => Duration::ZERO,
        };
        self.alive = None;
        self.ended_pid = Some(pid);
        self.ended = Some((status, ran, Instant::now()));
        if ran >= circuit_core::restart::STEADY_AFTER {
            self.streak = 0;
        }
    }

    /// As [`end`](Self::end), of a task that the runtime shows when it is asked at that
    /// time: one that was alive before has been replaced by it while nobody looked.
    fn see_end(&mut self, pid: u32, status: u32, asked: Instant) {
        self.alive
            .take_if(|(known, since)| *known != pid && *since < asked);
        // So has one that had ended.
        let is_another = self.alive.is_none() && self.ended_pid != Some(pid);
        self.ended
            .take_if(|(.., ended)| is_another && *ended < asked);
        self.end(pid, status);
    }
}

/// Keeps containers as they should be.
pub struct Reconciler {
    attachments: Arc<Attachments>,
    watched: Mutex<HashMap<String, Watched>>,
    /// Containers that are mended as soon as nobody works on them.
    waiting: Mutex<HashSet<String>>,
    /// Until when tasks are waited for that were asked to end.
    ending: Mutex<HashMap<String, watch::Sender<Deadline>>>,
}

/// None when it never comes.
type Deadline = Option<tokio::time::Instant>;

/// What a look at a container asks for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing until something happens.
    Rest,
    /// A look after this time.
    After(Duration),
    /// Something failed that may go well later.
    Retry,
}

impl Reconciler {
    /// A reconciler of these attachments.
    pub fn new(attachments: Arc<Attachments>) -> Self {
        Self {
            attachments,
            watched: Mutex::default(),
            waiting: Mutex::default(),
            ending: Mutex::default(),
        }
    }

    fn watch<T>(&self, container: &str, f: impl FnOnce(&mut Watched) -> T) -> T {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        f(watched.entry(container.to_owned()).or_default())
    }

    /// As [`watch`](Self::watch), for one that is watched already: nothing is to be
    /// remembered of containers that are gone.
    fn watched(&self, container: &str, f: impl FnOnce(&mut Watched)) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = watched.get_mut(container) {
            f(watched);
        }
    }

    fn unwatch(&self, container: &str) {
        self.watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(container);
    }

    fn watched_but_not_in(&self, containers: &[Container]) -> Vec<String> {
        let there: HashSet<&str> = containers.iter().map(|c| c.id.as_str()).collect();
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched
            .keys()
            .filter(|id| !there.contains(id.as_str()))
            .cloned()
            .collect()
    }

    /// Takes note of an event.
    pub(crate) fn note(&self, event: &Event) {
        match event {
            Event::TaskCreated { container, pid } | Event::TaskStarted { container, pid } => {
                let what = if matches!(event, Event::TaskStarted { .. }) {
                    "start"
                } else {
                    "made"
                };
                tracing::debug!("task {what}: container={container} pid={pid}");
                if what == "made" {
                    self.watch(container, |watched| watched.ended_pid = None);
                }
                self.note_alive(container, *pid);
            }
            Event::TaskExited {
                container,
                pid,
                status,
                ..
            } => {
                tracing::debug!("task exit: container={container} pid={pid} status={status}");
                self.note_end(container, *pid, *status);
            }
            // Made, or deleted: what was seen of one of the same id before is over.
            Event::Container { container } => self.unwatch(container),
            Event::ContainerUpdated { .. } | Event::TaskDeleted { .. } => {}
        }
    }

    /// Returns false for a task whose end is known.
    fn note_alive(&self, container: &str, pid: u32) -> bool {
        self.watch(container, |watched| {
            if watched.ended_pid == Some(pid) {
                return false;
            }
            if watched.alive.is_none_or(|(known, _)| known != pid) {
                watched.alive = Some((pid, Instant::now()));
                watched.ended = None;
                watched.missed = None;
            }
            true
        })
    }

    fn note_end(&self, container: &str, pid: u32, status: u32) {
        self.watch(container, |watched| watched.end(pid, status));
    }

    /// Takes note of what a look finds: an event may have been missed. Returns
    /// false when the runtime calls a task alive whose end it has told. The runtime was
    /// asked at `asked`.
    fn note_seen(&self, seen: &Seen, asked: Instant) -> bool {
        let id = &seen.container.id;
        match &seen.task {
            Some(task) if task.is_alive() => return self.note_alive(id, task.pid),
            Some(Task {
                pid, exit_status, ..
            }) => self.watch(id, |watched| watched.see_end(*pid, *exit_status, asked)),
            // Its end was missed, and how it ended is not known.
            None => self.watch(id, |watched| {
                watched.alive = None;
                watched.missed.get_or_insert_with(Instant::now);
            }),
        }
        true
    }

    fn last_run(&self, seen: &Seen, record: &ContainerRecord) -> LastRun {
        let watched = self.watch(&seen.container.id, |watched| watched.clone());
        if let Some((status, ran, at)) = watched.ended {
            return LastRun::Ended {
                status,
                ran,
                ago: at.elapsed(),
            };
        }
        if record.restart.seen || !record.attachments.is_empty() {
            return LastRun::Unknown(
                watched
                    .missed
                    .map_or(Duration::ZERO, |since| since.elapsed()),
            );
        }
        let age = seen.container.created_at.and_then(|at| at.elapsed().ok());
        LastRun::NeverSeen(age.unwrap_or(Duration::MAX))
    }

    /// Works until `shutdown`, then finishes what it has begun.
    pub async fn run(
        self: Arc<Self>,
        mut wakes: mpsc::UnboundedReceiver<String>,
        mut pulse: Answerer,
        shutdown: CancellationToken,
    ) {
        let mut queue = Queue::default();
        let mut looks: JoinSet<(String, Next)> = JoinSet::new();
        let places = Places::default();
        loop {
            while let Some(place) = places.take()
                && let Some(container) = queue.pop()
            {
                let (this, ending) = (Arc::clone(&self), shutdown.clone());
                looks.spawn(async move {
                    let next = place.during(this.look_safely(&container, ending)).await;
                    (container, next)
                });
            }
            let due = queue.next_due().filter(|_| places.are_free());
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(container) = wakes.recv() => queue.wake(&container),
                Some(Ok((container, next))) = looks.join_next(), if !looks.is_empty() => {
                    self.after(&mut queue, &container, next);
                }
                () = places.given_up() => {}
                () = pulse.answer() => {}
                () = sleep_until(due), if due.is_some() => {}
            }
        }
        while looks.join_next().await.is_some() {}
    }

    fn after(&self, queue: &mut Queue, container: &str, next: Next) {
        match next {
            Next::Rest => {}
            Next::After(delay) => queue.wake_after(container, delay),
            Next::Retry => {
                let failures = self.watch(container, |watched| {
                    watched.failures = watched.failures.saturating_add(1);
                    watched.failures
                });
                let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(10));
                queue.wake_after(container, doubled.min(LONGEST_RETRY));
            }
        }
        queue.done(container);
    }

    /// A look in a task of its own: a defect in one spoils only that one.
    async fn look_safely(self: &Arc<Self>, container: &str, ending: CancellationToken) -> Next {
        let this = Arc::clone(self);
        let id = container.to_owned();
        let look = async move {
            // A stop by hand may have the container for long: what has not begun when the
            // daemon ends is the next one's.
            let locking = this.attachments.lock(&id);
            match ending.run_until_cancelled(locking).await {
                Some(guard) => this.look(&id, guard).await,
                None => Next::Rest,
            }
        };
        match tokio::spawn(look).await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(container, %error, "looking at the container failed");
                Next::Retry
            }
        }
    }
}

async fn sleep_until(due: Deadline) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_replaces_what_was_known_before_and_no_later_task() {
        let before = Instant::now();
        let asked = before + Duration::from_millis(1);
        let later = asked + Duration::from_millis(1);
        let mut watched = Watched {
            alive: Some((1, before)),
            ..Watched::default()
        };
        watched.see_end(2, 137, asked);
        assert_eq!((watched.alive, watched.ended_pid), (None, Some(2)));
        assert_eq!(watched.ended.map(|(status, ..)| status), Some(137));
        // A task that was told of since is not ended by what was seen before.
        let mut watched = Watched {
            alive: Some((3, later)),
            ..Watched::default()
        };
        watched.see_end(2, 137, asked);
        assert_eq!((watched.alive, watched.ended), (Some((3, later)), None));
    }

    #[test]
    fn an_end_that_is_seen_replaces_that_of_an_earlier_task_only() {
        let mut watched = Watched::default();
        let before = Instant::now();
        watched.end(1, 0);
        let mut known = |pid, asked| {
            watched.see_end(pid, 137, asked);
            let status = watched.ended.map(|(status, ..)| status);
            (status, watched.ended_pid)
        };
        let later = Instant::now() + Duration::from_millis(1);
        assert_eq!(known(1, later), (Some(0), Some(1)));
        // Task 1 may have followed this one since the runtime was asked.
        assert_eq!(known(2, before), (Some(0), Some(1)));
        assert_eq!(known(2, later), (Some(137), Some(2)));
    }
}
