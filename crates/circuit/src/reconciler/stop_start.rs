//! Tasks stopped and started, for people and for the restart policy. The
//! networks are there before the process runs.

use std::{
    collections::HashMap,
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use circuit_core::{
    Error, ErrorKind, Result,
    attachment::ContainerRecord,
    labels::{CONTAINERD_RESTART_LABEL, Labels},
    runtime::{Task, TaskStatus},
    service::Containers,
};
use futures::FutureExt as _;
use tokio::sync::watch;

use super::{Deadline, Next, Reconciler, restarts, sleep_until};
use crate::attachments::{Seen, no_container};
use crate::figures::Restart;
use crate::traces::{span, traced};

/// Between SIGTERM and SIGKILL, as people know it.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// A killed process is gone within this, or the kernel holds it.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;
/// A runtime that is away is asked again after this time.
const AGAIN: Duration = Duration::from_millis(500);

#[async_trait]
impl Containers for Reconciler {
    async fn stop(&self, container: &str, timeout: Option<Duration>) -> Result<()> {
        let stop = |id: String| async move { self.stop_now(&id, timeout).await }.boxed();
        self.attachments.with_meant(container, stop).await
    }

    async fn start(&self, container: &str) -> Result<u32> {
        let start = |id: String| async move { self.start_now(&id).await }.boxed();
        self.attachments.with_meant(container, start).await
    }

    async fn restart(&self, container: &str, timeout: Option<Duration>) -> Result<u32> {
        let span = span!("restart", container, cause = "request");
        let restart = |id: String| async move { self.restart_now(&id, timeout).await }.boxed();
        traced(span, self.attachments.with_meant(container, restart)).await
    }
}

impl Reconciler {
    async fn stop_now(&self, container: &str, timeout: Option<Duration>) -> Result<()> {
        self.shorten(container, timeout.unwrap_or(STOP_TIMEOUT));
        let _guard = self.attachments.lock(container).await;
        let seen = self.see(container).await?;
        let mut record = self.record_of(&seen).await?;
        record.restart.stopped = true;
        record.restart.restarting = false;
        let halted = self.halt(&mut record, &seen, timeout).await;
        self.publish(&record, &seen).await;
        halted?;
        tracing::info!("stopped {container}");
        Ok(())
    }

    async fn start_now(&self, container: &str) -> Result<u32> {
        let _guard = self.attachments.lock(container).await;
        let seen = self.see(container).await?;
        let mut record = self.record_of(&seen).await?;
        let pid = self.start_by_hand(&mut record, &seen).await?;
        tracing::info!("started {container}: pid {pid}");
        Ok(pid)
    }

    async fn restart_now(&self, container: &str, timeout: Option<Duration>) -> Result<u32> {
        self.shorten(container, timeout.unwrap_or(STOP_TIMEOUT));
        let _guard = self.attachments.lock(container).await;
        let seen = self.see(container).await?;
        let mut record = self.record_of(&seen).await?;
        record.restart.restarting = true;
        self.halt(&mut record, &seen, timeout).await?;
        let seen = self.see(container).await?;
        let begun = Instant::now();
        let started = self.start_by_hand(&mut record, &seen).await;
        let figures = self.attachments.figures();
        figures.restarted(Restart::Request, &started, begun.elapsed());
        let pid = started?;
        tracing::info!("restarted {container}: pid {pid}");
        Ok(pid)
    }

    /// Writes the extension; when that fails, the next look does.
    async fn publish(&self, record: &ContainerRecord, seen: &Seen) {
        if let Err(error) = self.attachments.publish(record, seen).await {
            let container = &record.container;
            tracing::warn!(container, %error, "will write the extension later");
            self.attachments.wake(container);
        }
    }

    async fn see(&self, container: &str) -> Result<Seen> {
        let asked = Instant::now();
        let seen = self
            .attachments
            .see(container)
            .await?
            .ok_or_else(|| no_container(container))?;
        if seen.container.labels.contains_key(CONTAINERD_RESTART_LABEL) {
            return Err(Error::precondition(format!(
                "container {container} has the label {CONTAINERD_RESTART_LABEL}: containerd restarts \
                 it, so stop and start it there"
            )));
        }
        self.note_seen(&seen, asked);
        Ok(seen)
    }

    /// The record of the container that is there.
    async fn record_of(&self, seen: &Seen) -> Result<ContainerRecord> {
        let id = &seen.container.id;
        let mut record = self.attachments.book().record(id);
        if self.attachments.renew(&mut record, seen).await? {
            self.unwatch(id);
            self.note_seen(seen, Instant::now());
        }
        self.attachments.adopt_as_seen(&mut record, seen).await?;
        Ok(record)
    }

    /// Ends the task; that it is to rest, or to be started again, is on disk before the
    /// signal is sent.
    async fn halt(
        &self,
        record: &mut ContainerRecord,
        seen: &Seen,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let id = &seen.container.id;
        record.restart.stopped_pid = seen.task.as_ref().map(|task| task.pid);
        self.attachments.book().save(record).await?;
        if let Some(task) = &seen.task {
            let ending = self.end(seen, task, timeout.unwrap_or(STOP_TIMEOUT));
            traced(span!("end task"), ending).await?;
        }
        self.leave_all(record).await;
        self.attachments.runtime().delete_task(id).await
    }

    async fn end(&self, seen: &Seen, task: &Task, timeout: Duration) -> Result<()> {
        let id = &seen.container.id;
        match task.status {
            TaskStatus::Stopped => return Ok(()),
            // Its process waits to be started and listens to no signal.
            TaskStatus::Created => {}
            TaskStatus::Running | TaskStatus::Unknown => {
                self.signal(id, restarts::stop_signal(seen)).await?;
                let ended = self.ended_before(id, self.patience(id, timeout)).await;
                self.ending().remove(id);
                if ended? {
                    return Ok(());
                }
            }
        }
        self.signal(id, SIGKILL).await?;
        let killed = tokio::time::sleep(KILL_TIMEOUT);
        if self.ended_before(id, killed).await? {
            return Ok(());
        }
        Err(Error::deadline(format!(
            "container {id} has not ended {} s after SIGKILL: look for a process that hangs in the kernel",
            KILL_TIMEOUT.as_secs()
        )))
    }

    async fn signal(&self, id: &str, signal: u32) -> Result<()> {
        match self.attachments.runtime().kill_task(id, signal).await {
            // It ended by itself.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Waits for a task's end, and no longer than for `late`. A runtime that is started
    /// anew meanwhile is asked again.
    async fn ended_before(&self, id: &str, late: impl Future<Output = ()>) -> Result<bool> {
        let ended = async {
            loop {
                match self.attachments.runtime().wait_task(id).await {
                    Err(error) if is_unclear(&error) => tokio::time::sleep(AGAIN).await,
                    other => return other,
                }
            }
        };
        tokio::select! {
            biased;
            ended = ended => ended.map(|()| true),
            () = late => Ok(false),
        }
    }

    fn ending(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Deadline>>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time that a task has to end, unless somebody [shortens](Self::shorten) it.
    async fn patience(&self, id: &str, timeout: Duration) {
        let (deadline, mut sooner) = watch::channel(deadline(timeout));
        self.ending().insert(id.to_owned(), deadline);
        loop {
            let until = *sooner.borrow_and_update();
            tokio::select! {
                () = sleep_until(until) => return,
                Ok(()) = sooner.changed() => {}
            }
        }
    }

    /// Has who waits for a container's task wait no longer than this from now: whoever
    /// stops it in less time would otherwise wait for the one before.
    fn shorten(&self, container: &str, timeout: Duration) {
        let (ending, wanted) = (self.ending(), deadline(timeout));
        let Some(known) = ending.get(container) else {
            return;
        };
        known.send_if_modified(|known| {
            let is_sooner = wanted.is_some_and(|at| known.is_none_or(|known| at < known));
            if is_sooner {
                *known = wanted;
            }
            is_sooner
        });
    }

    /// Takes every attachment away; what fails stays on record and is tried
    /// again by the next look.
    async fn leave_all(&self, record: &mut ContainerRecord) {
        let container = record.container.clone();
        for attachment in record.attachments.clone() {
            let left = self
                .take_away(record, &attachment.network, &attachment.interface, None)
                .await;
            if let Err(error) = left {
                tracing::warn!(container, network = attachment.network, %error, "will disconnect later");
                self.attachments.wake(&container);
            }
        }
    }

    async fn start_by_hand(&self, record: &mut ContainerRecord, seen: &Seen) -> Result<u32> {
        if seen.container.is_stopped_elsewhere() {
            let runtime = self.attachments.runtime();
            runtime.clear_stopped(&seen.container.id).await?;
        }
        record.restart.begin_anew();
        self.watch(&seen.container.id, |watched| watched.streak = 0);
        let labels = Labels::read(&seen.container.labels, self.attachments.label());
        match seen.alive() {
            // Made by somebody who did not come to start it.
            Some(task) if task.status == TaskStatus::Created => {
                self.attachments.book().save(record).await?;
                self.connect_task(record, &labels, seen, task.pid).await;
                let runtime = self.attachments.runtime();
                traced(span!("start task"), runtime.start_task(&seen.container.id)).await?;
                record.restart.launching = false;
                record.restart.pid = Some(task.pid);
                self.attachments.book().save(record).await?;
                Ok(task.pid)
            }
            Some(task) => {
                self.attachments.book().save(record).await?;
                Ok(task.pid)
            }
            None => self.launch(record, seen, &labels).await,
        }
    }

    /// Makes a task, connects it, then lets its process run.
    pub(super) async fn launch(
        &self,
        record: &mut ContainerRecord,
        seen: &Seen,
        labels: &Labels,
    ) -> Result<u32> {
        let span = span!("start", container = seen.container.id);
        traced(span, self.launch_traced(record, seen, labels)).await
    }

    async fn launch_traced(
        &self,
        record: &mut ContainerRecord,
        seen: &Seen,
        labels: &Labels,
    ) -> Result<u32> {
        self.leave_all(record).await;
        // Before anything of the former task goes: how it ended is known by it alone.
        record.restart.launching = true;
        record.restart.seen = true;
        self.attachments.book().save(record).await?;
        // Restarts are rare, and large: every look would carry them on its stack.
        let launched = Box::pin(self.make_and_start(record, seen, labels)).await;
        let saved = self.attachments.book().save(record).await;
        self.publish(record, seen).await;
        let pid = launched?;
        saved?;
        Ok(pid)
    }

    /// The launch is over with it, unless a task may be left that is to be started, or the
    /// former one may be gone: then [`finish_launch`](Self::finish_launch) goes on.
    async fn make_and_start(
        &self,
        record: &mut ContainerRecord,
        seen: &Seen,
        labels: &Labels,
    ) -> Result<u32> {
        let id = &seen.container.id;
        let runtime = self.attachments.runtime();
        // Also when none is seen: a start that was cut off half way leaves one
        // that containerd does not list and that is in the way.
        let deleted = runtime.delete_task(id).await;
        record.restart.launching = may_be_done(&deleted);
        deleted?;
        let log = restarts::log_of(seen).unwrap_or_else(|line| {
            self.say_once(id, format!("container {id}: {line}"));
            None
        });
        let created = traced(span!("create task"), runtime.create_task(id, log)).await;
        record.restart.launching = may_be_done(&created);
        let pid = created?;
        self.watch(id, |watched| watched.ended_pid = None);
        self.note_alive(id, pid);
        record.restart.pid = Some(pid);
        self.connect_task(record, labels, seen, pid).await;
        if let Err(error) = traced(span!("start task"), runtime.start_task(id)).await {
            // A task that was made and not started would be in the way.
            match runtime.discard_task(id).await {
                Ok(()) => {
                    self.leave_all(record).await;
                    record.restart.launching = false;
                }
                Err(error) => {
                    tracing::warn!(container = id, %error, "a task that was not started stays");
                    self.attachments.wake(id);
                }
            }
            return Err(error);
        }
        record.restart.launching = false;
        Ok(pid)
    }

    /// After a crash in the middle of a restart by hand: the task is ended, if it still
    /// is the one that was there then, and another started.
    pub(super) async fn finish_restart(
        &self,
        record: &mut ContainerRecord,
        seen: &Seen,
        labels: &Labels,
    ) -> Result<Next> {
        let id = &seen.container.id;
        if let Some(task) = seen.alive() {
            self.end(seen, task, STOP_TIMEOUT).await?;
        }
        record.restart.begin_anew();
        let begun = Instant::now();
        let launched = self.launch(record, seen, labels).await;
        let figures = self.attachments.figures();
        figures.restarted(Restart::Recovery, &launched, begun.elapsed());
        let pid = launched?;
        tracing::info!("restarted {id}, as was begun before: pid {pid}");
        Ok(Next::Rest)
    }

    /// After a crash in the middle of a launch: a task that was made is
    /// started, now that it is connected.
    pub(super) async fn finish_launch(
        &self,
        record: &mut ContainerRecord,
        seen: &Seen,
    ) -> Result<()> {
        if !record.restart.launching {
            return Ok(());
        }
        let id = &seen.container.id;
        match &seen.task {
            Some(Task { pid, status, .. }) if *status == TaskStatus::Created => {
                let begun = Instant::now();
                let started = self.attachments.runtime().start_task(id).await;
                let figures = self.attachments.figures();
                figures.restarted(Restart::Recovery, &started, begun.elapsed());
                started?;
                record.restart.pid = Some(*pid);
                tracing::info!("restarted {id}: pid {pid}");
            }
            Some(task) if task.is_alive() => record.restart.pid = Some(task.pid),
            Some(_) => {}
            // The former task is gone and there is no other: a start that failed.
            None => self.watch(id, |watched| {
                watched
                    .ended
                    .get_or_insert((1, Duration::ZERO, Instant::now()));
            }),
        }
        record.restart.launching = false;
        self.attachments.book().save(record).await
    }
}

fn deadline(timeout: Duration) -> Deadline {
    tokio::time::Instant::now().checked_add(timeout)
}

/// Whether the runtime has done it, or may have.
fn may_be_done<T>(asked: &Result<T>) -> bool {
    asked.as_ref().err().is_none_or(is_unclear)
}

/// Whether the runtime may have done what it gave no answer to.
fn is_unclear(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded
    )
}
