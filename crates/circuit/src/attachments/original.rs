//! Attachments of which no record tells, only the extension on the container's record:
//! those that the first Circuit made, whose CNI container id is a pid, and our own of
//! which the record was lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use circuit_core::{
    Error, Result,
    attachment::{Attachment, ContainerRecord, Origin, Phase, Sandbox},
    labels::DesiredNetwork,
    runtime::ExtensionEntry,
};
use serde_json::Map;

use super::{Attachments, Seen};

/// What a container's extension tells of networks that could not be taken over, and why.
/// It stays told, and is left as it is.
pub(crate) type Left = BTreeMap<String, (ExtensionEntry, Error)>;

impl Attachments {
    /// Takes what the extension tells and no record knows into the record:
    /// attached when its task still runs, to be detached when it has ended. What cannot
    /// be taken over now is [left](Self::left) to a later look.
    ///
    /// # Errors
    /// When the record cannot be saved.
    pub async fn adopt(
        &self,
        record: &mut ContainerRecord,
        seen: &Seen,
        sandbox: Option<Sandbox>,
    ) -> Result<()> {
        let (mut adopted, mut left) = (false, Left::new());
        for (network, entry) in untold(record, seen) {
            let container = &record.container;
            match self.original(container, network, entry, sandbox).await {
                Ok(Some(attachment)) => {
                    tracing::info!(
                        container,
                        network,
                        ip = entry.ip,
                        "taking over an attachment that no record tells of"
                    );
                    record.put(attachment);
                    adopted = true;
                }
                Ok(None) => {}
                Err(error) => {
                    let error =
                        error.context("what an earlier program connected cannot be taken over");
                    left.insert(network.clone(), (entry.clone(), error));
                }
            }
        }
        if adopted {
            self.book().save(record).await?;
        }
        // A task that lives is answered for, whoever connected it.
        let lives = left.iter().filter(|_| sandbox.is_some());
        let told = lives.map(|(network, (entry, _))| (network.clone(), entry.clone()));
        self.book().show_beside(&record.container, told.collect());
        self.taken_over().insert(record.container.clone(), left);
        Ok(())
    }

    /// Whether the extension tells of something that no record knows.
    pub(crate) fn is_untold(&self, record: &ContainerRecord, seen: &Seen) -> bool {
        untold(record, seen).next().is_some()
    }

    /// What of a container could not be taken over.
    pub(crate) fn left(&self, container: &str) -> Left {
        let left = self.taken_over().get(container).cloned();
        left.unwrap_or_default()
    }

    /// The configuration of a network that a container was connected to; `None` when the
    /// interface is not in its namespace any more.
    async fn connected_to(
        &self,
        network: &str,
        entry: &ExtensionEntry,
        sandbox: Option<Sandbox>,
    ) -> Result<Option<String>> {
        if let Some(sandbox) = sandbox {
            let netns = PathBuf::from(format!("/proc/{}/ns/net", sandbox.pid));
            let there = self.parts.datapath.interfaces(&netns).await?;
            if !there.contains(&entry.interface) {
                return Ok(None);
            }
        }
        let stored = self.parts.networks.network(network).await?;
        let config = String::from_utf8(stored.data).map_err(|_| {
            Error::precondition(format!(
                "the configuration of network {network} is not UTF-8"
            ))
        })?;
        Ok(Some(config))
    }

    /// The attachment behind an entry; `None` when there is nothing of it any more.
    async fn original(
        &self,
        container: &str,
        network: &str,
        entry: &ExtensionEntry,
        sandbox: Option<Sandbox>,
    ) -> Result<Option<Attachment>> {
        let Some(config) = self.connected_to(network, entry, sandbox).await? else {
            return Ok(None);
        };
        let owner = self.parts.datapath.owner_of(&config, &entry.ip).await;
        let own = owner.clone().filter(|id| *id == self.cni_id(container));
        let natives = own.as_ref().map(|_| self.natives(&config, network));
        let by_pid = |id: &String| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        let held_by = own.or_else(|| owner.filter(by_pid));
        let (phase, sandbox, cni_id, netns) = match sandbox {
            Some(sandbox) => {
                // Pinned, so that its DEL finds the namespace when the task has
                // ended: without it, bridge leaves its masquerade rules.
                let pin = self.pin_path(container, sandbox);
                self.parts.datapath.pin(sandbox, &pin).await?;
                let id = held_by.unwrap_or_else(|| sandbox.pid.to_string());
                (Phase::Attached, sandbox, id, Some(pin))
            }
            // Its address is still held, under the pid it had or under its name.
            None => {
                let Some(id) = held_by else { return Ok(None) };
                (Phase::Detaching, Sandbox { pid: 0, netns: 0 }, id, None)
            }
        };
        Ok(Some(Attachment {
            network: network.to_owned(),
            interface: entry.interface.clone(),
            phase,
            origin: Origin::Original,
            cni_id,
            sandbox,
            netns,
            behind: Vec::new(),
            config,
            capability_args: Map::new(),
            config_args: Map::new(),
            natives: natives.unwrap_or_default(),
            aliases: Vec::new(),
            ips: entry
                .ip
                .parse::<IpAddr>()
                .map(Into::into)
                .into_iter()
                .collect(),
            mac: None,
            result: None,
            leaving: false,
        }))
    }

    /// The plugins of a network that are drivers here, as far as that can be told.
    fn natives(&self, config: &str, network: &str) -> BTreeSet<usize> {
        let plainly = DesiredNetwork::named(network);
        let arguments = self.parts.datapath.arguments(config, &plainly, None, &[]);
        arguments.map_or_else(|_| BTreeSet::new(), |arguments| arguments.natives)
    }
}

/// The entries of the extension that no record knows. An interface that a record knows is
/// ours, whatever is still told.
fn untold<'a>(
    record: &ContainerRecord,
    seen: &'a Seen,
) -> impl Iterator<Item = (&'a String, &'a ExtensionEntry)> + use<'a> {
    let known = |network: &str, interface: &str| {
        let same = |a: &Attachment| a.network == network || a.interface == interface;
        record.attachments.iter().any(same)
    };
    let told = seen.container.extension.iter().flatten();
    let untold: Vec<_> = told
        .filter(|(network, entry)| !known(network, &entry.interface))
        .collect();
    untold.into_iter()
}
