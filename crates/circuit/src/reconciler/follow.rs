//! Follows the runtime: every container once at the start and after each
//! reconnect, then events, and again every container now and then, because
//! events may be missed.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use circuit_core::{
    Result,
    event::Kind,
    labels::RESTART_LABEL,
    runtime::{Event, Notice},
};
use futures::StreamExt as _;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use crate::events::Happening;
use crate::logging::DependencyLog;

/// The first delay before the runtime is asked again; it doubles.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// From the first full pass to the second.
const SECOND_PASS: Duration = Duration::from_secs(1);

impl Reconciler {
    /// Follows until `shutdown`. `every` is the time between two full passes.
    pub async fn follow(self: Arc<Self>, every: Duration, shutdown: CancellationToken) {
        let outage = DependencyLog::new("containerd");
        let mut delay = FIRST_DELAY;
        loop {
            let followed = tokio::select! {
                () = shutdown.cancelled() => return,
                followed = self.follow_once(every, &outage, &mut delay) => followed,
            };
            self.attachments.figures().set_runtime_up(false);
            if let Err(error) = followed {
                outage.failed(&error);
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    }

    async fn follow_once(
        &self,
        every: Duration,
        outage: &DependencyLog,
        delay: &mut Duration,
    ) -> Result<()> {
        // Nobody tells when the subscription holds: a second pass soon after
        // the first finds what fell in between.
        let mut events = self.attachments.runtime().events();
        self.full_pass().await?;
        outage.recovered();
        self.attachments.figures().set_runtime_up(true);
        *delay = FIRST_DELAY;
        let mut passes = interval_at(Instant::now() + SECOND_PASS.min(every), every);
        passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(notice)) => self.take(&notice),
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                _ = passes.tick() => self.full_pass().await?,
            }
        }
    }

    fn take(&self, Notice { event, at }: &Notice) {
        self.attachments.figures().events.add();
        self.tell_task(event);
        self.note(event);
        let own = matches!(event, Event::ContainerUpdated { container }
            if self.attachments.is_own_update(container));
        if !own {
            self.attachments.changed(event.container());
            let at = at.unwrap_or_else(SystemTime::now);
            self.watch(event.container(), |watched| {
                watched.told.get_or_insert(at);
            });
            self.attachments.wake(event.container());
        }
    }

    fn tell_task(&self, event: &Event) {
        let (kind, message) = match event {
            Event::TaskStarted { pid, .. } => (Kind::TaskStarted, format!("pid {pid}")),
            Event::TaskExited { pid, status, .. } => {
                (Kind::TaskExited, format!("pid {pid}, status {status}"))
            }
            _ => return,
        };
        self.attachments.events().tell(
            kind,
            Happening {
                container: event.container(),
                message,
                ..Happening::default()
            },
        );
    }

    /// Asks for a look at every container that is, or should be, ours.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn full_pass(&self) -> Result<()> {
        self.attachments.forget_own_updates();
        self.attachments.all_may_have_changed();
        let containers = self.attachments.runtime().containers().await?;
        let mut ours: BTreeSet<String> = self
            .attachments
            .book()
            .records()
            .iter()
            .map(|r| r.container.clone())
            .collect();
        // Those that went unseen are looked at once more, and forgotten.
        ours.extend(self.watched_but_not_in(&containers));
        for container in containers {
            let labels = &container.labels;
            let wanted = labels.contains_key(self.attachments.label())
                || labels.contains_key(RESTART_LABEL)
                || container
                    .extension
                    .as_ref()
                    .is_some_and(|told| !told.is_empty());
            if wanted {
                ours.insert(container.id);
            }
        }
        for container in ours {
            self.attachments.wake(&container);
        }
        self.attachments.figures().passes.add();
        Ok(())
    }
}
