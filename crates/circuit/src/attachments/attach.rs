//! One attachment made or taken away. The caller holds the container's lock.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use circuit_core::{
    Error, ErrorKind, Result,
    attachment::{Attachment, ContainerRecord, LastAddresses, Origin, Phase, Sandbox},
    datapath::{AddFailure, Added, Arguments},
    event::Kind,
    labels::{DesiredNetwork, PortMapping},
    plan::interface_names,
};

use super::{Attachments, Seen, book::Noted};
use crate::events::Happening;
use crate::figures::Disconnect;
use crate::traces::{span, traced};

/// How a container joins a network.
#[derive(Debug, Clone)]
pub struct Join<'a> {
    /// The network, and what the labels say of it.
    pub network: &'a DesiredNetwork,
    /// Who asks.
    pub origin: Origin,
    /// The task's namespace.
    pub sandbox: Sandbox,
    /// Ports that lead to it.
    pub ports: &'a [PortMapping],
    /// The interface; the first free one when absent.
    pub interface: Option<String>,
    /// What people call the container.
    pub name: Option<&'a str>,
}

impl Join<'_> {
    /// The container's further names on the network.
    fn aliases(&self) -> Vec<String> {
        let mut aliases = self.network.aliases.clone();
        aliases.extend(self.name.map(str::to_owned));
        let mut seen = HashSet::new();
        aliases.retain(|alias| seen.insert(alias.clone()));
        aliases
    }

    /// What is about to be attached, as far as those who ask know it.
    fn intent(&self, arguments: Arguments) -> Attachment {
        Attachment {
            network: self.network.network.clone(),
            interface: String::new(),
            phase: Phase::Attaching,
            origin: self.origin,
            cni_id: String::new(),
            sandbox: self.sandbox,
            netns: None,
            behind: Vec::new(),
            config: String::new(),
            capability_args: arguments.capability_args,
            config_args: arguments.config_args,
            natives: arguments.natives,
            aliases: self.aliases(),
            ips: Vec::new(),
            mac: None,
            result: None,
            leaving: false,
        }
    }
}

impl Attachments {
    /// Brings a container onto a network: intent on disk, namespace pinned,
    /// ADD, result on disk. After a failure nothing is left, or a
    /// record that says what is.
    ///
    /// # Errors
    /// The network's, the arguments' or the plugins' own words.
    pub async fn attach(&self, record: &mut ContainerRecord, join: Join<'_>) -> Result<Attachment> {
        let name = &join.network.network;
        let span = span!("attach", container = record.container, network = name);
        traced(span, self.attach_traced(record, join)).await
    }

    async fn attach_traced(
        &self,
        record: &mut ContainerRecord,
        join: Join<'_>,
    ) -> Result<Attachment> {
        let network = self.parts.networks.network(&join.network.network).await?;
        let config = String::from_utf8(network.data).map_err(|_| {
            Error::precondition(format!(
                "the configuration of network {} is not UTF-8",
                network.name
            ))
        })?;
        let last = record.last.get(&network.name).cloned();
        let arguments = self.arguments(&config, &join, last.as_ref())?;
        let second = arguments.preferred_only;
        let attempt = self.attempt(record, &config, &join, arguments).await;
        // Not before the DEL that is owed to the first attempt.
        let second = second && !record.attachments.iter().any(|a| a.network == network.name);
        match attempt {
            // The address it had before is taken: another will do.
            Err(error) if second && error.kind() != ErrorKind::DeadlineExceeded => {
                tracing::debug!(
                    container = record.container,
                    network = network.name,
                    %error,
                    "the former address cannot be had"
                );
                let arguments = self.arguments(&config, &join, None)?;
                self.attempt(record, &config, &join, arguments).await
            }
            other => other,
        }
    }

    fn arguments(
        &self,
        config: &str,
        join: &Join<'_>,
        last: Option<&LastAddresses>,
    ) -> Result<Arguments> {
        self.parts
            .datapath
            .arguments(config, join.network, last, join.ports)
    }

    async fn attempt(
        &self,
        record: &mut ContainerRecord,
        config: &str,
        join: &Join<'_>,
        arguments: Arguments,
    ) -> Result<Attachment> {
        let datapath = self.parts.datapath.as_ref();
        let pin = self.pin_path(&record.container, join.sandbox);
        let _sandbox = self.sandboxes.lock(&join.sandbox.netns.to_string()).await;
        let _no_gc = self.collecting.read().await;
        let prepared = self.prepare(record, config, join, arguments, &pin).await;
        let mut attachment = match prepared {
            Ok(attachment) => attachment,
            Err(error) => {
                self.unpin_unused(record, &pin).await;
                return Err(error);
            }
        };
        record.put(attachment.clone());
        if attachment.phase == Phase::Attached {
            self.book().save(record).await?;
            return Ok(attachment);
        }
        let intent = match self.book().note(record) {
            Ok(intent) => intent,
            Err(error) => {
                record.take(&attachment.network, &attachment.interface);
                self.unpin_unused(record, &pin).await;
                return Err(error);
            }
        };
        let added = match self.still_there(&attachment).await {
            Ok(()) => traced(span!("ADD"), datapath.add(&attachment)).await,
            Err(error) => Err(AddFailure {
                error,
                cleanup_owed: false,
                so_far: None,
            }),
        };
        match added {
            Ok(added) => {
                finish(&mut attachment, added);
                self.keep(record, attachment, intent).await
            }
            Err(failure) => Err(self.undo(record, attachment, failure).await),
        }
    }

    /// Pins the namespace, and chooses an interface that nothing is owed for; tells those
    /// of others, too. Attached already is what the former program made.
    async fn prepare(
        &self,
        record: &ContainerRecord,
        config: &str,
        join: &Join<'_>,
        arguments: Arguments,
        pin: &Path,
    ) -> Result<Attachment> {
        let preparing = self.parts.datapath.prepare(join.sandbox, pin);
        let taken = traced(span!("pin"), preparing).await?;
        let foreign = foreign(&taken, record, join.sandbox.netns);
        let there = match foreign.is_empty() {
            true => None,
            // Rare, and large: everybody who connects would carry it.
            false => Box::pin(self.forgotten(record, config, join, pin, &foreign)).await?,
        };
        let interface = match &there {
            Some(there) => there.interface.clone(),
            None => choose(&taken, join.interface.as_deref())?,
        };
        let network = &join.network.network;
        if record.owes(network, &interface) {
            return Err(Error::unavailable(format!(
                "what the container had on network {network} before is still to be taken away"
            )));
        }
        Ok(there.unwrap_or_else(|| Attachment {
            interface,
            cni_id: self.cni_id(&record.container),
            netns: Some(pin.to_path_buf()),
            behind: foreign,
            config: config.to_owned(),
            ..join.intent(arguments)
        }))
    }

    /// Whether the network is what it was when it was read. From the intent on it counts
    /// as used, and is not deleted any more; until then it may have been.
    async fn still_there(&self, attachment: &Attachment) -> Result<()> {
        let name = &attachment.network;
        let now = self.parts.networks.network(name).await?;
        if now.data == attachment.config.as_bytes() {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "network {name} was changed at this moment: try again"
        )))
    }

    /// The result is written before the caller hears of it, and the intent has
    /// reached the disk: after a power cut, which takes the interface too, the
    /// container is connected again.
    async fn keep(
        &self,
        record: &mut ContainerRecord,
        attachment: Attachment,
        intent: Noted,
    ) -> Result<Attachment> {
        record.last.remove(&attachment.network);
        record.put(attachment.clone());
        let noted = self.book().note(record);
        let kept = match noted {
            Ok(_) => self.durable(intent).await,
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            // The disk still says that the attachment is being made.
            let failure = AddFailure {
                error,
                cleanup_owed: true,
                so_far: None,
            };
            return Err(self.undo(record, attachment, failure).await);
        }
        self.tell(Kind::Connected, record, &attachment);
        Ok(attachment)
    }

    /// After a failed ADD: the DEL that is owed. When that fails too, the
    /// record stays and the reconciler goes on.
    async fn undo(
        &self,
        record: &mut ContainerRecord,
        mut attachment: Attachment,
        failure: AddFailure,
    ) -> Error {
        attachment.result = attachment.result.or(failure.so_far);
        let deleted = if failure.cleanup_owed {
            traced(span!("DEL"), self.parts.datapath.del(&attachment)).await
        } else {
            Ok(())
        };
        match deleted {
            Ok(()) => {
                record.take(&attachment.network, &attachment.interface);
                match self.forget(record, &attachment) {
                    Ok(unused) => self.unpin(unused).await,
                    Err(error) => {
                        tracing::warn!(container = record.container, %error, "will clean up later");
                    }
                }
            }
            Err(error) => {
                tracing::warn!(
                    container = record.container,
                    network = attachment.network,
                    %error,
                    "cleaning up after a failed connect failed: it will be tried again"
                );
                attachment.phase = Phase::Detaching;
                record.put(attachment);
                if let Err(error) = self.book().save(record).await {
                    tracing::warn!(container = record.container, %error, "cannot save the record");
                }
                self.wake(&record.container);
            }
        }
        failure.error
    }

    /// Takes an attachment away: intent on disk, DEL, record gone, pin gone.
    ///
    /// # Errors
    /// The plugins' own words; the record then stays and DEL is owed.
    pub async fn detach(
        &self,
        record: &mut ContainerRecord,
        network: &str,
        interface: &str,
    ) -> Result<()> {
        let unused = self.detach_but_pin(record, network, interface).await?;
        self.unpin(unused).await;
        Ok(())
    }

    /// As [`detach`](Self::detach), and counts it.
    ///
    /// # Errors
    /// As [`detach`](Self::detach).
    pub(crate) async fn leave(
        &self,
        record: &mut ContainerRecord,
        network: &str,
        interface: &str,
        cause: Disconnect,
    ) -> Result<()> {
        let begun = Instant::now();
        let left = self.detach(record, network, interface).await;
        self.figures().disconnected(cause, &left, begun.elapsed());
        left
    }

    /// As [`detach`](Self::detach), but for the pin, which is the caller's to
    /// take away while the container is still locked: the kernel takes its time.
    ///
    /// # Errors
    /// As [`detach`](Self::detach).
    pub(super) async fn detach_but_pin(
        &self,
        record: &mut ContainerRecord,
        network: &str,
        interface: &str,
    ) -> Result<Option<PathBuf>> {
        let span = span!("detach", container = record.container, network);
        traced(span, self.detach_traced(record, network, interface)).await
    }

    async fn detach_traced(
        &self,
        record: &mut ContainerRecord,
        network: &str,
        interface: &str,
    ) -> Result<Option<PathBuf>> {
        let found = record
            .attachments
            .iter()
            .find(|a| a.network == network && a.interface == interface);
        let Some(attachment) = found.cloned() else {
            return Ok(None);
        };
        let mut intent = None;
        if attachment.phase == Phase::Attached {
            record.put(Attachment {
                phase: Phase::Detaching,
                leaving: true,
                ..attachment.clone()
            });
            intent = Some(self.book().note(record)?);
        }
        // Also where an earlier try has failed.
        let was_there = attachment.phase == Phase::Attached || attachment.leaving;
        let reachable = self.reachable(attachment.clone()).await;
        let _sandbox = self
            .sandboxes
            .lock(&attachment.sandbox.netns.to_string())
            .await;
        let _no_gc = self.collecting.read().await;
        traced(span!("DEL"), self.parts.datapath.del(&reachable)).await?;
        record.take(network, interface);
        let unused = self.forget(record, &attachment)?;
        if let Some(intent) = intent {
            self.durable(intent).await?;
        }
        if was_there {
            self.tell(Kind::Disconnected, record, &attachment);
        }
        Ok(unused)
    }

    fn tell(&self, kind: Kind, record: &ContainerRecord, attachment: &Attachment) {
        self.events().tell(
            kind,
            Happening {
                container: &record.container,
                network: &attachment.network,
                interface: &attachment.interface,
                ips: attachment.ips.iter().map(ipnet::IpNet::addr).collect(),
                ..Happening::default()
            },
        );
    }

    /// Has a record be of the container that is there now. Of an earlier one with the
    /// same id, which went while nobody looked, everything is taken away and nothing
    /// remembered. Returns whether there was one.
    ///
    /// # Errors
    /// When something of the earlier one cannot be taken away.
    pub(crate) async fn renew(&self, record: &mut ContainerRecord, seen: &Seen) -> Result<bool> {
        let made = seen.container.created_at;
        if !record.is_of_another(made) {
            if record.note_made(made) && !record.is_empty() {
                self.book().note(record)?;
            }
            return Ok(false);
        }
        for attachment in record.attachments.clone() {
            let Attachment {
                network, interface, ..
            } = &attachment;
            self.leave(record, network, interface, Disconnect::Exit)
                .await?;
        }
        tracing::info!(
            "container {} was made anew: what was remembered of the former one is forgotten",
            record.container
        );
        *record = ContainerRecord::new(&record.container);
        self.book().save(record).await?;
        self.retire(&record.container).await;
        record.note_made(made);
        Ok(true)
    }

    /// Waits until an intent has reached the disk.
    async fn durable(&self, intent: Noted) -> Result<()> {
        traced(span!("sync"), self.book().durable(intent)).await
    }

    /// The same attachment without a namespace that is gone.
    async fn reachable(&self, mut attachment: Attachment) -> Attachment {
        if let Some(pin) = &attachment.netns
            && matches!(self.parts.datapath.pinned(pin).await, Ok(None))
        {
            attachment.netns = None;
        }
        attachment
    }

    /// The record of an attachment that is gone from the kernel goes; returns
    /// its pin, when nothing uses it any more. A crash before that is taken away
    /// leaves a pin, which the next start sweeps; after a power cut DEL may be
    /// repeated.
    fn forget(&self, record: &ContainerRecord, attachment: &Attachment) -> Result<Option<PathBuf>> {
        self.book().note(record)?;
        let pin = attachment.netns.clone();
        Ok(pin.filter(|pin| self.is_unused(record, pin)))
    }
}

fn finish(attachment: &mut Attachment, added: Added) {
    attachment.phase = Phase::Attached;
    attachment.ips = added.ips;
    attachment.mac = added.mac;
    attachment.result = Some(added.result);
}

/// The interfaces of a namespace that are not the container's own networks.
fn foreign(taken: &[String], record: &ContainerRecord, netns: u64) -> Vec<String> {
    let here = |a: &&Attachment| a.sandbox.netns == netns;
    let own = || record.attachments.iter().filter(here);
    let is_foreign = |name: &&String| *name != "lo" && own().all(|a| a.interface != **name);
    taken.iter().filter(is_foreign).cloned().collect()
}

fn choose(taken: &[String], wanted: Option<&str>) -> Result<String> {
    match wanted {
        Some(name) if taken.iter().any(|t| t == name) => Err(Error::precondition(format!(
            "the container has an interface {name} already: ask for another name"
        ))),
        Some(name) => Ok(name.to_owned()),
        None => interface_names(taken, 1)
            .pop()
            .ok_or_else(|| Error::internal("no interface name is free")),
    }
}
