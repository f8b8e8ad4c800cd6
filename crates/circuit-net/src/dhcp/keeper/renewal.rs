//! Renewing leases when it is time.

use std::mem::discriminant;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use circuit_core::ErrorKind;

use super::super::lease::{Grant, Holder, Need};
use super::super::port::{Failure, Port};
use super::kept::Kept;
use super::turns::{State, Turn};
use super::{LONG, Shared};

/// How many leases are renewed at a time.
const AT_A_TIME: usize = 32;

impl Shared {
    /// Has leases renewed when it is time, until it is stopped.
    pub(super) fn watch(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.stopping {
            let now = Instant::now();
            for holder in state.due(now) {
                if state.workers < AT_A_TIME {
                    self.renew_elsewhere(&mut state, &holder);
                }
            }
            // Whoever ends tells, so that those who wait for a place get it.
            let rest = state.rest(now);
            let waited = self.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn renew_elsewhere(self: &Arc<Self>, state: &mut State, holder: &Holder) {
        let Some(entry) = state.entries.get_mut(holder) else {
            return;
        };
        let (shared, holder) = (Arc::clone(self), holder.clone());
        let cancel = Arc::<AtomicBool>::default();
        let its = Arc::clone(&cancel);
        let spawned = thread::Builder::new()
            .name("dhcp-renewal".to_owned())
            .spawn(move || {
                let turn = Turn {
                    shared: &shared,
                    holder,
                    cancel: its,
                };
                shared.maintain(&turn);
                drop(turn);
                shared.lock().workers -= 1;
                shared.changed.notify_all();
            });
        match spawned {
            Ok(_) => {
                (entry.busy, entry.cancel) = (true, cancel);
                state.workers += 1;
            }
            Err(error) => {
                tracing::warn!(%error, "a lease cannot be renewed now");
                if let Some(kept) = &mut entry.kept {
                    kept.due = Instant::now() + Duration::from_secs(1);
                }
            }
        }
    }

    /// Does what a lease is in need of.
    fn maintain(&self, turn: &Turn<'_>) {
        let Some(mut kept) = turn.kept() else {
            return;
        };
        let (holder, need) = (&turn.holder, kept.need());
        if let Need::Nothing(rest) = need {
            kept.due = Instant::now() + rest;
            return turn.keep(kept);
        }
        let failure = match self.try_to_renew(turn, &kept, need) {
            Ok(grant) => {
                tracing::debug!(?holder, address = %grant.address, "lease renewed");
                let renewed = kept.renewed(grant);
                if let Err(error) = self.store.save(&renewed.lease) {
                    tracing::warn!(?holder, %error, "renewal is not on disk");
                }
                return turn.keep(renewed);
            }
            Err(failure) => failure,
        };
        match failure {
            Failure::Stopped => return,
            Failure::Broken(error) if error.kind() == ErrorKind::NotFound => {
                tracing::info!(?holder, %error, "lease is of no use any more");
                return self.end(turn);
            }
            _ => {}
        }
        // A server that refuses it has said that the address is not its holder's any
        // more, RFC 2131, section 4.4.5.
        if kept.need() == Need::Expired || matches!(failure, Failure::Refused(_)) {
            tracing::warn!(?holder, error = %failure, "lease is over: interface is set down");
            let port = Port::open(&kept.path(), &holder.ifname, false);
            if let Err(error) = port.and_then(|mut port| port.set_down()) {
                tracing::warn!(?holder, %error, "interface cannot be set down");
            }
            return self.end(turn);
        }
        tracing::info!(?holder, error = %failure, "lease is not renewed yet");
        let now_needed = kept.need();
        kept.due = Instant::now();
        // What is to be done next in any case is done at once.
        if discriminant(&now_needed) == discriminant(&need) {
            kept.due += now_needed.pause();
        }
        turn.keep(kept);
    }

    /// Has a lease renewed. A server that does not know it any more may still
    /// give the same address; another one would not be the container's. When it is
    /// refused, and the address not to be had anew, the failure is the refusal.
    fn try_to_renew(
        &self,
        turn: &Turn<'_>,
        kept: &Kept,
        need: Need,
    ) -> std::result::Result<Grant, Failure> {
        // Who set it down while all was well is left alone.
        let up = !matches!(need, Need::Renewal(_));
        let port = Port::open(&kept.path(), &turn.holder.ifname, up)?;
        let stopped = || turn.stopped();
        let client = self.client(&port, &kept.lease.sent, &stopped);
        let grant = &kept.lease.grant;
        let within = |rest: Duration| Instant::now() + rest.min(self.settings.timing.exchange);
        let ask = |rest| client.ask(Some(grant.address), within(rest));
        let ask_after = |failure: Failure, rest| match (ask(rest), failure) {
            (Err(Failure::NoAnswer), refused) => Err(refused),
            (answer, _) => answer,
        };
        match need {
            Need::Renewal(rest) => match client.renew(grant, within(rest)) {
                Err(refused @ Failure::Refused(_)) => ask_after(refused, rest),
                other => other,
            },
            Need::Rebinding(rest) => match client.rebind(grant, within(rest / 2)) {
                Err(failure @ (Failure::Refused(_) | Failure::NoAnswer)) => {
                    ask_after(failure, rest / 2)
                }
                other => other,
            },
            Need::Nothing(_) | Need::Expired => ask(LONG),
        }
    }

    fn end(&self, turn: &Turn<'_>) {
        if let Err(error) = self.store.remove(&turn.holder) {
            tracing::warn!(holder = ?turn.holder, %error, "lease stays on disk");
        }
        turn.forget();
        self.lock().ended.insert(turn.holder.clone());
        if let Some(tell) = self.ends.get() {
            tell(&turn.holder);
        }
    }
}
