//! What the API asks of attachments.

use std::collections::BTreeMap;
use std::time::Instant;

use async_trait::async_trait;
use circuit_core::{
    Error, ErrorKind, Result,
    attachment::{Attachment, ContainerRecord, Origin, Sandbox},
    event::Kind,
    labels::{DesiredNetwork, Labels, PortMapping},
    request::Requested,
    service::{self, Addresses, Connected, ContainerIp, Problem, StoredNetwork},
};
use futures::FutureExt as _;

use super::{Attachments, Join, Seen, no_container};
use crate::events::Happening;
use crate::figures::{Connect, Disconnect, Outcome};
use crate::traces::{span, traced};

impl Attachments {
    async fn connect_now(
        &self,
        container: &str,
        asked: &Requested,
    ) -> Result<(Connected, Outcome)> {
        let network = asked.network.network.as_str();
        let guard = self.lock(container).await;
        let (seen, pid) = self.running(container).await?;
        let sandbox = self.parts.datapath.sandbox(pid).await?;
        let mut record = self.book().record(container);
        self.renew(&mut record, &seen).await?;
        self.adopt(&mut record, &seen, Some(sandbox)).await?;
        if let Some((_, error)) = self.left(container).remove(network) {
            return Err(error);
        }
        if let Some(there) = self.there(&mut record, network, sandbox).await? {
            return already(container, &there, asked);
        }
        let before = record.clone();
        // Who asks again for the network alone wants what was asked for before.
        if !asked.is_plain() || record.requested(network).is_none() {
            record.request(asked);
        }
        let (wanted, ports) = self.wanted(&seen, &record, network);
        self.check_publisher(asked).await?;
        let join = Join {
            interface: wanted.interface.clone(),
            network: &wanted,
            origin: Origin::Request,
            sandbox,
            ports: &ports,
            name: seen.name(),
        };
        match self.attach(&mut record, join).await {
            Ok(there) if there.origin == Origin::Original => {
                // It was connected all along, as nobody asked for here.
                self.take_back(&mut record, before).await?;
                self.publish_later(guard, &record, None);
                already(container, &there, asked)
            }
            Ok(attachment) => {
                let ip = ip_text(&attachment);
                tracing::info!("connected {container} to {network} with ip {ip}");
                self.settle_in(&mut record, &seen, pid).await;
                self.solved_by_hand(container, network);
                self.publish_later(guard, &record, None);
                Ok((connected(&attachment), Outcome::Success))
            }
            Err(error) => {
                // Who was told "no" has not asked for it.
                self.take_back(&mut record, before).await?;
                self.wake(container);
                Err(error)
            }
        }
    }

    /// What a task has on a network already. What is not as it was made is taken away.
    async fn there(
        &self,
        record: &mut ContainerRecord,
        network: &str,
        sandbox: Sandbox,
    ) -> Result<Option<Attachment>> {
        let Some(there) = record.attachment(network).cloned() else {
            return Ok(None);
        };
        if self.intact(&there, sandbox).await? {
            return Ok(Some(there));
        }
        let cause = Disconnect::of(&there, Some(sandbox));
        self.leave(record, network, &there.interface, cause).await?;
        Ok(None)
    }

    /// Has what is asked for by hand be what it was before.
    async fn take_back(&self, record: &mut ContainerRecord, before: ContainerRecord) -> Result<()> {
        record.requested = before.requested;
        record.declined = before.declined;
        self.book().save(record).await
    }

    /// A container whose task is alive, and the task's pid.
    async fn running(&self, container: &str) -> Result<(Seen, u32)> {
        let Some(seen) = self.see_known(container).await? else {
            return Err(no_container(container));
        };
        let Some(pid) = seen.alive().map(|task| task.pid) else {
            return Err(Error::precondition(format!(
                "container {container} is not running: start it, then connect it"
            )));
        };
        Ok((seen, pid))
    }

    /// Tells that a container has no problem with a network any more.
    fn solved_by_hand(&self, container: &str, network: &str) {
        if let Some(problem) = self.book().solve(container, network) {
            self.tell_problem(Kind::Solved, &problem);
        }
    }

    /// Tells that a problem is there, or is no more.
    pub(crate) fn tell_problem(&self, kind: Kind, problem: &Problem) {
        self.events().tell(
            kind,
            Happening {
                container: &problem.container,
                network: &problem.network,
                message: problem.message.clone(),
                ..Happening::default()
            },
        );
    }

    /// What a container needs besides its networks. What fails is no reason to
    /// undo a connect; the next look tries again.
    async fn settle_in(&self, record: &mut ContainerRecord, seen: &Seen, pid: u32) {
        let container = record.container.clone();
        let labels = Labels::read(&seen.container.labels, self.label());
        let ordered = traced(span!("routes"), self.order_routes(record, &labels)).await;
        if let Err(error) = ordered {
            tracing::warn!(container, %error, "cannot order the default routes");
        }
        let settling = self.settle_resolver(record, &labels, seen, pid);
        let settled = traced(span!("resolv.conf"), settling).await;
        if let Err(error) = settled {
            tracing::warn!("container {container} cannot ask for names: {error}");
            self.wake(&container);
        }
    }

    async fn disconnect_now(&self, container: &str, network: &str) -> Result<()> {
        let guard = self.lock(container).await;
        let seen = self.see_known(container).await;
        let mut record = self.book().record(container);
        // What is on record can be taken away even when containerd is silent.
        let seen = match seen {
            Ok(seen) => seen,
            Err(_) if record.attachment(network).is_some() => None,
            Err(error) => return Err(error),
        };
        let task = seen.as_ref().and_then(Seen::alive);
        if let Some(seen) = &seen {
            self.renew(&mut record, seen).await?;
            self.adopt_as_seen(&mut record, seen).await?;
        }
        let requested = record.requested(network).is_some();
        let Some(attachment) = record.attachment(network).cloned() else {
            if requested {
                record.decline(network, task.map(|task| task.pid));
                self.book().save(&record).await?;
                self.solved_by_hand(container, network);
                return Ok(());
            }
            if seen.is_none() {
                return Err(no_container(container));
            }
            self.parts.networks.network(network).await?;
            return Err(Error::precondition(format!(
                "container {container} is not connected to network {network}"
            )));
        };
        // Where the runtime cannot be asked, it is for the task that was attached.
        let unseen = seen.is_none().then_some(attachment.sandbox.pid);
        record.decline(network, task.map(|task| task.pid).or(unseen));
        let unused = self
            .detach_but_pin(&mut record, network, &attachment.interface)
            .await?;
        self.solved_by_hand(container, network);
        tracing::info!("disconnected {container} from {network}");
        if let Some(seen) = &seen
            && let Some(task) = seen.alive()
        {
            let labels = Labels::read(&seen.container.labels, self.label());
            let settling = self.settle_resolver(&mut record, &labels, seen, task.pid);
            let settled = traced(span!("resolv.conf"), settling).await;
            if let Err(error) = settled {
                tracing::warn!("container {container} cannot be told of its names: {error}");
                self.wake(container);
            }
        }
        self.publish_later(guard, &record, unused);
        Ok(())
    }
}

#[async_trait]
impl service::Attachments for Attachments {
    async fn connect(&self, container: &str, asked: &Requested) -> Result<Connected> {
        let begun = Instant::now();
        let network = &asked.network.network;
        let span = span!("connect", container, network);
        let connecting = self.with_meant(container, |id| {
            async move { self.connect_now(&id, asked).await }.boxed()
        });
        let done = traced(span, connecting).await;
        let outcome = match &done {
            Ok((_, outcome)) => *outcome,
            Err(error) => Outcome::Failed(error.kind()),
        };
        self.figures()
            .connected(Connect::Request, outcome, begun.elapsed());
        done.map(|(connected, _)| connected)
    }

    async fn disconnect(&self, container: &str, network: &str) -> Result<()> {
        let begun = Instant::now();
        let span = span!("disconnect", container, network);
        let disconnecting = self.with_meant(container, |id| {
            async move { self.disconnect_now(&id, network).await }.boxed()
        });
        let done = traced(span, disconnecting).await;
        self.figures()
            .disconnected(Disconnect::Request, &done, begun.elapsed());
        done
    }

    async fn ips(&self, container: &str, network: Option<&str>) -> Result<Addresses> {
        if let Some(found) = self.remembered(container, network) {
            return Ok(found);
        }
        let told = self.told(container).await?.into_iter();
        Ok(Addresses {
            ips: told.filter(|ip| is_on(network, &ip.network)).collect(),
            problems: Vec::new(),
        })
    }

    fn remembered(&self, container: &str, network: Option<&str>) -> Option<Addresses> {
        let problems: Vec<Problem> = self
            .book()
            .problems_of(container)
            .into_iter()
            .filter(|problem| problem.network.is_empty() || is_on(network, &problem.network))
            .collect();
        let snapshot = self.book().snapshot();
        let known = snapshot.containers(container).first();
        // Of a container that was looked at, the record is the truth.
        if known.is_none() && problems.is_empty() && !self.is_settled(container) {
            return None;
        }
        let attached = known.into_iter().flat_map(|record| &record.attached);
        let ips = attached
            .filter(|attached| is_on(network, &attached.network))
            .flat_map(|attached| {
                attached.ips.iter().map(|ip| ContainerIp {
                    network: attached.network.to_string(),
                    ip: *ip,
                    interface: attached.interface.to_string(),
                    node: String::new(),
                })
            });
        Some(Addresses {
            ips: ips.collect(),
            problems,
        })
    }

    fn problems_of_network(&self, network: &str) -> Vec<Problem> {
        self.book().problems_with(network)
    }

    async fn wanted(&self) -> Result<BTreeMap<String, String>> {
        let mut wanted = BTreeMap::new();
        for container in self.runtime().containers().await? {
            let labels = Labels::read(&container.labels, self.label());
            for network in labels.networks {
                wanted.insert(network.network, container.id.clone());
            }
        }
        for record in self.book().records() {
            for asked in &record.requested {
                let network = asked.network.network.clone();
                wanted.insert(network, record.container.clone());
            }
        }
        Ok(wanted)
    }

    async fn users_of(&self, network: &str) -> Result<Vec<String>> {
        Ok(self.book().users_of(network))
    }

    async fn holders(&self, network: &StoredNetwork) -> Result<Vec<String>> {
        self.others_on(network).await
    }

    async fn network_created(&self, _network: &str) {
        for container in self.book().troubled() {
            self.wake(&container);
        }
    }

    async fn disconnect_all(&self, network: &str) -> Result<()> {
        let mut first_error = None;
        for container in self.book().users_of(network) {
            match self.disconnect(&container, network).await {
                Ok(()) => {}
                // It left by itself in the meantime.
                Err(error) if error.kind() == ErrorKind::FailedPrecondition => {}
                Err(error) => {
                    first_error.get_or_insert(error.context(format!("container {container}")));
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

impl Attachments {
    /// How a network is joined that is connected by hand: as it was asked for, else
    /// as the labels say.
    fn wanted(
        &self,
        seen: &Seen,
        record: &ContainerRecord,
        network: &str,
    ) -> (DesiredNetwork, Vec<PortMapping>) {
        let labels = Labels::read(&seen.container.labels, self.label());
        let labelled = labels.networks.into_iter().find(|n| n.network == network);
        let mut ports = match labelled {
            Some(_) if record.labelled_publisher().is_none() => labels.ports,
            _ => Vec::new(),
        };
        let labelled = labelled.unwrap_or_else(|| DesiredNetwork::named(network));
        match record.requested(network) {
            None => (labelled, ports),
            Some(by_hand) => {
                ports.extend_from_slice(&by_hand.ports);
                (by_hand.over(&labelled), ports)
            }
        }
    }

    /// Whoever asks for ports is told when there is no plugin to publish them.
    async fn check_publisher(&self, asked: &Requested) -> Result<()> {
        if asked.ports.is_empty() {
            return Ok(());
        }
        let network = &asked.network.network;
        let stored = self.parts.networks.network(network).await?;
        let config = String::from_utf8_lossy(&stored.data);
        if self.parts.datapath.publishes_ports(&config) {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "network {network} cannot publish ports: add a plugin with the portMappings \
             capability to its configuration, such as portmap"
        )))
    }

    /// As [`adopt`](Self::adopt), but where the living task cannot be looked at: then
    /// everything stays as it is.
    pub(crate) async fn adopt_as_seen(
        &self,
        record: &mut ContainerRecord,
        seen: &Seen,
    ) -> Result<()> {
        let Some(task) = seen.alive() else {
            return self.adopt(record, seen, None).await;
        };
        match self.parts.datapath.sandbox(task.pid).await {
            Ok(sandbox) => self.adopt(record, seen, Some(sandbox)).await,
            Err(_) => Ok(()),
        }
    }

    /// True when an attachment is in place in this sandbox.
    ///
    /// # Errors
    /// When that cannot be told: nothing is to be taken away for it.
    pub(crate) async fn intact(&self, attachment: &Attachment, sandbox: Sandbox) -> Result<bool> {
        if attachment.phase != circuit_core::attachment::Phase::Attached {
            return Ok(false);
        }
        let Some(netns) = &attachment.netns else {
            return Ok(false);
        };
        let original = attachment.origin == Origin::Original;
        if original && attachment.sandbox != sandbox {
            return Ok(false);
        }
        // Of what the former program made, neither is known.
        if !original && !self.parts.datapath.stands(attachment) {
            return Ok(false);
        }
        if self.parts.datapath.pinned(netns).await? != Some(sandbox.netns) {
            return Ok(false);
        }
        let interfaces = self.parts.datapath.interfaces(netns).await?;
        Ok(interfaces.contains(&attachment.interface))
    }

    /// The addresses in the extension of a container that nobody has looked at
    /// yet. For others the record is the truth, and an extension that says
    /// something else is about to be written.
    async fn told(&self, container: &str) -> Result<Vec<ContainerIp>> {
        let Some(found) = self.runtime().container(container).await? else {
            return Err(no_container(container));
        };
        let entries = found.extension.unwrap_or_default().into_iter();
        Ok(entries
            .filter_map(|(network, entry)| {
                let ip = entry.ip.parse().ok()?;
                Some(ContainerIp {
                    network,
                    ip,
                    interface: entry.interface,
                    node: String::new(),
                })
            })
            .collect())
    }
}

/// The answer to who asks for what is there.
fn already(container: &str, there: &Attachment, asked: &Requested) -> Result<(Connected, Outcome)> {
    let network = &there.network;
    match asked.missing(there) {
        None => Ok((connected(there), Outcome::Unchanged)),
        Some(missing) => Err(Error::precondition(format!(
            "container {container} is already connected to network {network}, without {missing}: \
             disconnect it first, then connect it anew"
        ))),
    }
}

fn connected(attachment: &Attachment) -> Connected {
    Connected {
        ips: attachment.ips.iter().map(ipnet::IpNet::addr).collect(),
        interface: attachment.interface.clone(),
    }
}

/// Whether this is the network that was asked for.
fn is_on(wanted: Option<&str>, network: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == network)
}

/// The first address, as log lines show it.
pub(crate) fn ip_text(attachment: &Attachment) -> String {
    attachment
        .ips
        .first()
        .map_or_else(|| "none".to_owned(), |ip| ip.addr().to_string())
}
