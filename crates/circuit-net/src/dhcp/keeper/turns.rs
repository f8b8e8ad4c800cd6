//! Whose turn it is to work for a holder of a lease.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use circuit_core::cni::{ErrorReport, code};

use super::super::lease::Holder;
use super::kept::Kept;
use super::{LONG, Shared};
use crate::driver::Answer;

#[derive(Default)]
pub(super) struct State {
    pub(super) entries: HashMap<Holder, Entry>,
    /// Those whose leases came to an end by themselves, and who were not attached anew.
    pub(super) ended: HashSet<Holder>,
    /// Threads that renew leases.
    pub(super) workers: usize,
    pub(super) stopping: bool,
}

impl State {
    /// When something is to be done for those that nobody works for.
    pub(super) fn idle(&self) -> impl Iterator<Item = (&Holder, Instant)> {
        let idle = self.entries.iter().filter(|(_, entry)| !entry.busy);
        idle.filter_map(|(holder, entry)| Some((holder, entry.kept.as_ref()?.due)))
    }

    /// For whom it is time.
    pub(super) fn due(&self, now: Instant) -> Vec<Holder> {
        let due = self.idle().filter(|(_, due)| *due <= now);
        due.map(|(holder, _)| holder.clone()).collect()
    }

    /// How long there is nothing to be begun.
    pub(super) fn rest(&self, now: Instant) -> Duration {
        let later = self.idle().map(|(_, due)| due).filter(|due| *due > now);
        let next = later.min().unwrap_or(now + LONG);
        next.saturating_duration_since(Instant::now())
    }
}

/// What is known of a holder. A holder that is worked for is worked for by one
/// thread only, which others wait for.
pub(super) struct Entry {
    pub(super) busy: bool,
    /// Tells the one who works to give up.
    pub(super) cancel: Arc<AtomicBool>,
    pub(super) kept: Option<Kept>,
}

impl Entry {
    pub(super) fn idle(kept: Kept) -> Self {
        Self {
            busy: false,
            cancel: Arc::default(),
            kept: Some(kept),
        }
    }
}

/// The right to work for a holder; others wait for its end.
pub(super) struct Turn<'a> {
    pub(super) shared: &'a Shared,
    pub(super) holder: Holder,
    pub(super) cancel: Arc<AtomicBool>,
}

impl Turn<'_> {
    pub(super) fn kept(&self) -> Option<Kept> {
        self.shared.lock().entries.get(&self.holder)?.kept.clone()
    }

    pub(super) fn stopped(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Ends with a lease that is kept.
    pub(super) fn keep(&self, kept: Kept) {
        if let Some(entry) = self.shared.lock().entries.get_mut(&self.holder) {
            entry.kept = Some(kept);
        }
    }

    /// There is no lease any more.
    pub(super) fn forget(&self) {
        if let Some(entry) = self.shared.lock().entries.get_mut(&self.holder) {
            entry.kept = None;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(entry) = state.entries.get_mut(&self.holder) {
            entry.busy = false;
            if entry.kept.is_none() {
                state.entries.remove(&self.holder);
            }
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for one's turn to work for a holder.
    pub(super) fn turn(&self, holder: &Holder) -> Answer<Turn<'_>> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return Err(ErrorReport::new(
                    code::TRY_AGAIN_LATER,
                    "the keeper of leases is stopping, try again later",
                ));
            }
            let entry = state.entries.entry(holder.clone()).or_insert(Entry {
                busy: false,
                cancel: Arc::default(),
                kept: None,
            });
            if !entry.busy {
                return Ok(self.begin(holder, entry));
            }
            state = self.wait(state);
        }
    }

    /// As [`turn`](Self::turn), for who ends it all: whoever works for the
    /// holder gives up. `None` when there is nothing to end.
    pub(super) fn last_turn(&self, holder: &Holder) -> Option<Turn<'_>> {
        let mut state = self.lock();
        loop {
            let entry = state.entries.get_mut(holder)?;
            if !entry.busy {
                return Some(self.begin(holder, entry));
            }
            entry.cancel.store(true, Ordering::Relaxed);
            state = self.wait(state);
        }
    }

    pub(super) fn begin(&self, holder: &Holder, entry: &mut Entry) -> Turn<'_> {
        entry.busy = true;
        entry.cancel = Arc::default();
        Turn {
            shared: self,
            holder: holder.clone(),
            cancel: Arc::clone(&entry.cancel),
        }
    }
}
