//! One look at one container.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use circuit_core::{
    Error, ErrorKind, Result,
    attachment::{Attachment, ContainerRecord, Origin, Phase, Sandbox},
    event::Kind,
    labels::Labels,
    plan::{Step, plan, unmet},
};

use super::{Next, Reconciler};
use crate::attachments::{KeyGuard, Seen};
use crate::figures::{Difference, Disconnect, Found};
use crate::text::one_line;
use crate::traces::{span, traced};

/// How soon to look again at a task that has ended and is still called alive.
const STALE: Duration = Duration::from_millis(20);

/// What went wrong in a look, by network.
#[derive(Default)]
pub(super) struct Findings {
    problems: BTreeMap<String, String>,
    retry: bool,
    /// What has made it look.
    by: Found,
}

impl Findings {
    /// What the labels get wrong.
    fn of(labels: &Labels, by: Found) -> Self {
        let wrong = labels.problems.iter();
        let wrong = wrong.map(|it| (it.network.clone(), it.message.clone()));
        Self {
            problems: wrong.collect(),
            by,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, network: &str, error: &Error) {
        // A network that is missing wakes its containers when it is made, and
        // what the labels get wrong is wrong until they change.
        if error.kind() != ErrorKind::NotFound {
            self.retry = true;
        }
        self.problems
            .insert(network.to_owned(), error.message().to_owned());
    }

    /// What labels ask for of networks that the container is on, and it has not.
    fn add_unmet(&mut self, unmet: Vec<(String, String)>) {
        for (network, what) in unmet {
            let problem = || {
                format!(
                    "it was connected without {what}, which its labels ask for by now: disconnect \
                     and connect it, or start the container again"
                )
            };
            self.problems.entry(network).or_insert_with(problem);
        }
    }
}

/// Whether the task that lives is on a network.
fn is_attached(record: &ContainerRecord, seen: &Seen) -> bool {
    let task = seen.alive();
    let here = |a: &Attachment| task.is_some_and(|task| a.sandbox.pid == task.pid);
    record.attachments.iter().any(here)
}

fn no_publisher() -> String {
    format!(
        "label {} cannot be followed: none of the container's networks has a plugin with the \
         portMappings capability, such as portmap",
        circuit_core::labels::PORTS_LABEL
    )
}

impl Reconciler {
    /// One look, by whoever has the container's lock.
    pub(super) async fn look(&self, container: &str, guard: KeyGuard) -> Next {
        let told = self.watch(container, |watched| watched.told.take());
        let by = told.map_or(Found::Pass, |_| Found::Event);
        let span = span!("look", container, found_by = by.name());
        let looked = traced(span, self.look_locked(container, by)).await;
        drop(guard);
        self.count_look(&looked, told);
        match looked {
            Ok(next) => {
                if next != Next::Retry {
                    self.watched(container, |watched| watched.failures = 0);
                }
                next
            }
            Err(error) => {
                // Containerd being away is told once by whoever follows its
                // events.
                if error.kind() == ErrorKind::Unavailable {
                    tracing::debug!(container, %error, "cannot look at the container");
                } else {
                    tracing::warn!(container, %error, "cannot look at the container");
                }
                Next::Retry
            }
        }
    }

    fn count_look(&self, looked: &Result<Next>, told: Option<SystemTime>) {
        let figures = self.attachments.figures();
        match looked {
            Ok(Next::Rest | Next::After(_)) => figures.looks.add(),
            Ok(Next::Retry) | Err(_) => figures.failed_looks.add(),
        }
        // Of a clock that was set back nothing can be said.
        if let Some(lag) = told.and_then(|at| at.elapsed().ok()) {
            figures.event_lag.observe(lag);
        }
    }

    async fn look_locked(&self, container: &str, by: Found) -> Result<Next> {
        let mut record = self.attachments.book().record(container);
        let asked = Instant::now();
        let Some(seen) = self.attachments.see(container).await? else {
            return self.bury(record).await;
        };
        if self.attachments.renew(&mut record, &seen).await? {
            self.unwatch(container);
        }
        if !self.note_seen(&seen, asked) {
            // Its end was told already; the runtime will know in a moment.
            return Ok(Next::After(STALE));
        }
        self.remember_task(&mut record, &seen).await?;
        let labels = Labels::read(&seen.container.labels, self.attachments.label());
        let mut findings = Findings::of(&labels, by);
        if record.restart.restarting {
            return self.finish_restart(&mut record, &seen, &labels).await;
        }
        let sandbox = match self.sandbox(&seen, &record, &labels).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                findings.add("", &error);
                if is_attached(&record, &seen) || self.attachments.is_untold(&record, &seen) {
                    // What cannot be looked at stays as it is.
                    self.tell(container, findings.problems);
                    return Ok(Next::Retry);
                }
                None
            }
        };
        self.attachments.adopt(&mut record, &seen, sandbox).await?;
        for (network, (_, error)) in self.attachments.left(container) {
            findings.add(&network, &error);
        }
        let earlier = record.attachments.clone();
        self.bring_in_line(&mut record, &labels, sandbox, &mut findings)
            .await;
        if let Some(task) = seen.alive() {
            self.tell_of_names(&mut record, &labels, &seen, task.pid, &mut findings)
                .await;
        }
        self.check_once(&record, &earlier, &mut findings).await;
        self.tell(container, std::mem::take(&mut findings.problems));
        self.finish_launch(&mut record, &seen).await?;
        traced(span!("publish"), self.attachments.publish(&record, &seen)).await?;
        if seen.alive().is_none() {
            let next = self.restart_if_due(&mut record, &seen, &labels).await?;
            return Ok(if findings.retry && next == Next::Rest {
                Next::Retry
            } else {
                next
            });
        }
        Ok(if findings.retry {
            Next::Retry
        } else {
            Next::Rest
        })
    }

    /// The container is gone: so is everything of it.
    async fn bury(&self, mut record: ContainerRecord) -> Result<Next> {
        let container = record.container.clone();
        let mut findings = Findings::default();
        for attachment in record.attachments.clone() {
            let Attachment {
                network, interface, ..
            } = &attachment;
            match self
                .attachments
                .leave(&mut record, network, interface, Disconnect::Exit)
                .await
            {
                Ok(()) => tracing::info!("disconnected {container} from {network}"),
                Err(error) => findings.add(network, &error),
            }
        }
        if findings.retry || !record.attachments.is_empty() {
            self.tell(&container, findings.problems);
            return Ok(Next::Retry);
        }
        if !record.is_empty() {
            self.attachments
                .book()
                .save(&ContainerRecord::new(&container))
                .await?;
        }
        self.tell(&container, BTreeMap::new());
        self.attachments.retire(&container).await;
        self.unwatch(&container);
        Ok(Next::Rest)
    }

    /// What a later start must know of a task that runs now.
    async fn remember_task(&self, record: &mut ContainerRecord, seen: &Seen) -> Result<()> {
        let Some(task) = seen.alive() else {
            return Ok(());
        };
        if super::restarts::policy_label(seen).is_none() && record.restart.is_default() {
            return Ok(());
        }
        let before = record.restart.clone();
        record.restart.saw_task(task.pid);
        if record.restart != before {
            self.attachments.book().save(record).await?;
        }
        Ok(())
    }

    /// The living task's namespace. A container without any wish for a network
    /// is not asked for one.
    async fn sandbox(
        &self,
        seen: &Seen,
        record: &ContainerRecord,
        labels: &Labels,
    ) -> Result<Option<Sandbox>> {
        let wishes = !labels.networks.is_empty()
            || !record.requested.is_empty()
            || !record.attachments.is_empty()
            || seen
                .container
                .extension
                .as_ref()
                .is_some_and(|told| !told.is_empty());
        let Some(task) = seen.alive().filter(|_| wishes) else {
            return Ok(None);
        };
        match self.attachments.parts.datapath.sandbox(task.pid).await {
            Ok(sandbox) => Ok(Some(sandbox)),
            Err(error) => {
                // A task that ended this moment is no problem; its exit follows.
                let now = self.attachments.runtime().task(&seen.container.id).await?;
                let ended = now.is_none_or(|now| !now.is_alive() || now.pid != task.pid);
                if ended { Ok(None) } else { Err(error) }
            }
        }
    }

    async fn bring_in_line(
        &self,
        record: &mut ContainerRecord,
        labels: &Labels,
        sandbox: Option<Sandbox>,
        findings: &mut Findings,
    ) {
        let intact = self.intact(record, sandbox, findings).await;
        let steps = plan(record, &labels.networks, sandbox, |a| {
            intact
                .iter()
                .any(|(n, i)| *n == a.network && *i == a.interface)
        });
        // On what is left the container is already, by somebody else's work.
        let left = self.attachments.left(&record.container);
        let is_left = |step: &Step| match step {
            Step::Attach { network, .. } => left.contains_key(&network.network),
            Step::Detach { .. } => false,
        };
        let steps: Vec<Step> = steps.into_iter().filter(|step| !is_left(step)).collect();
        let owed = self.detach_all(record, &steps, sandbox, findings).await;
        let Some(sandbox) = sandbox else { return };
        let publisher = self.publisher(labels).await;
        if !labels.ports.is_empty() && publisher.is_none() {
            let problems = &mut findings.problems;
            problems.entry(String::new()).or_insert_with(no_publisher);
        }
        let joining: Vec<super::steps::Joining<'_>> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Attach { network, .. } if owed.contains(&network.network.as_str()) => None,
                Step::Attach {
                    network,
                    ports,
                    origin,
                } => Some((network, ports.as_slice(), *origin)),
                Step::Detach { .. } => None,
            })
            .collect();
        self.join_all(record, &joining, labels, publisher, sandbox, findings)
            .await;
        findings.add_unmet(unmet(record, labels, publisher));
        let ordering = self.attachments.order_routes(record, labels);
        if let Err(error) = traced(span!("routes"), ordering).await {
            findings.add("", &error);
        }
    }

    /// Takes away what is to go; returns the networks where that is still owed.
    async fn detach_all<'a>(
        &self,
        record: &mut ContainerRecord,
        steps: &'a [Step],
        sandbox: Option<Sandbox>,
        findings: &mut Findings,
    ) -> Vec<&'a str> {
        let figures = self.attachments.figures();
        let mut owed = Vec::new();
        for step in steps {
            let Step::Detach { network, interface } = step else {
                figures.found(Difference::Attach, findings.by);
                continue;
            };
            figures.found(Difference::Detach, findings.by);
            match self.take_away(record, network, interface, sandbox).await {
                Ok(()) => figures.mended(Difference::Detach),
                Err(error) => {
                    findings.add(network, &error);
                    owed.push(network.as_str());
                }
            }
        }
        owed
    }

    /// The attachments that are in place, or of which that cannot be told, by network and
    /// interface.
    async fn intact(
        &self,
        record: &ContainerRecord,
        sandbox: Option<Sandbox>,
        findings: &mut Findings,
    ) -> Vec<(String, String)> {
        let Some(sandbox) = sandbox else {
            return Vec::new();
        };
        let mut intact = Vec::new();
        for attachment in &record.attachments {
            let (network, interface) = (&attachment.network, &attachment.interface);
            match self.attachments.intact(attachment, sandbox).await {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) => findings.add(network, &error),
            }
            intact.push((network.clone(), interface.clone()));
        }
        intact
    }

    /// Has a task find the servers for names.
    async fn tell_of_names(
        &self,
        record: &mut ContainerRecord,
        labels: &Labels,
        seen: &Seen,
        pid: u32,
        findings: &mut Findings,
    ) {
        let settling = self.attachments.settle_resolver(record, labels, seen, pid);
        let settled = traced(span!("resolv.conf"), settling).await;
        // A task that ended this moment is no problem; its exit follows.
        if let Err(error) = settled
            && error.kind() != ErrorKind::NotFound
        {
            let error = error.context("cannot ask for names");
            findings.add("", &error);
        }
    }

    /// The first of the container's networks that can publish ports: they lead
    /// to it and to no other.
    async fn publisher<'a>(&self, labels: &'a Labels) -> Option<&'a str> {
        let parts = &self.attachments.parts;
        if labels.ports.is_empty() {
            return None;
        }
        for labelled in &labels.networks {
            if let Ok(stored) = parts.networks.network(&labelled.network).await
                && let Ok(config) = String::from_utf8(stored.data)
                && parts.datapath.publishes_ports(&config)
            {
                return Some(&labelled.network);
            }
        }
        None
    }

    /// Asks the plugins once a daemon's life whether attachments of an earlier
    /// life are as they left them. A "no" is told for as long as the
    /// attachment lasts, and left to people: making it anew cuts connections.
    async fn check_once(
        &self,
        record: &ContainerRecord,
        earlier: &[Attachment],
        findings: &mut Findings,
    ) {
        let kept = |a: &&Attachment| {
            earlier.contains(a) && a.phase == Phase::Attached && a.origin != Origin::Original
        };
        let first = self.watch(&record.container, |w| {
            !std::mem::replace(&mut w.checked, true)
        });
        for attachment in record.attachments.iter().filter(kept).filter(|_| first) {
            // Rules may have been taken away while nobody was there to notice.
            self.mend(attachment).await;
            let checking = self.attachments.parts.datapath.check(attachment);
            let network = &attachment.network;
            if let Err(error) = traced(span!("CHECK", network), checking).await {
                let message = format!(
                    "the attachment is not as it was made: {error}: disconnect and connect it again"
                );
                self.watch(&record.container, |w| {
                    w.broken.push((attachment.clone(), message))
                });
            }
        }
        let broken = self.watch(&record.container, |w| {
            w.broken
                .retain(|(attachment, _)| record.attachments.contains(attachment));
            w.broken.clone()
        });
        for (attachment, message) in broken {
            findings
                .problems
                .entry(attachment.network)
                .or_insert(message);
        }
    }

    /// Says each problem once.
    fn tell(&self, container: &str, problems: BTreeMap<String, String>) {
        let (news, solved) = self.attachments.book().set_problems(container, problems);
        for problem in solved {
            self.attachments.tell_problem(Kind::Solved, &problem);
        }
        for problem in news {
            self.attachments.tell_problem(Kind::Problem, &problem);
            // What labels say may have line ends, and be no line of ours.
            let (network, message) = (one_line(&problem.network), one_line(&problem.message));
            if network.is_empty() {
                tracing::warn!("container {container}: {message}");
            } else {
                tracing::warn!("container {container} cannot be on network {network}: {message}");
            }
        }
    }
}

impl Reconciler {
    /// Brings a task that was made, and does not run yet, onto its networks.
    /// What fails is told, and tried again once it runs.
    pub(super) async fn connect_task(
        &self,
        record: &mut ContainerRecord,
        labels: &Labels,
        seen: &Seen,
        pid: u32,
    ) {
        let container = record.container.clone();
        if labels.networks.is_empty() && record.requested.is_empty() {
            return;
        }
        // Whatever made the task was told of, or asked for.
        let mut findings = Findings::of(labels, Found::Event);
        match self.attachments.parts.datapath.sandbox(pid).await {
            Ok(sandbox) => {
                Box::pin(self.bring_in_line(record, labels, Some(sandbox), &mut findings)).await;
                self.tell_of_names(record, labels, seen, pid, &mut findings)
                    .await;
            }
            Err(error) => findings.add("", &error),
        }
        if findings.retry {
            self.attachments.wake(&container);
        }
        self.tell(&container, findings.problems);
    }
}
