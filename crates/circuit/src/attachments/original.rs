//! Attachments of which no record tells, only the extension on the container's record:
//! those that the first Circuit made, whose CNI container id is a pid, and our own of
//! which the record was lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use circuit_core::{
    Result,
    attachment::{Attachment, ContainerRecord, Origin, Phase, Sandbox},
    labels::DesiredNetwork,
    runtime::ExtensionEntry,
};
use serde_json::Map;

use super::{Attachments, Seen};

impl Attachments {
    /// Takes what the extension tells and no record knows into the record:
    /// attached when its task still runs, to be detached when it has ended.
    /// Returns true when the record changed.
    ///
    /// # Errors
    /// When the record cannot be saved.
    pub async fn adopt(
        &self,
        record: &mut ContainerRecord,
        seen: &Seen,
        sandbox: Option<Sandbox>,
    ) -> Result<bool> {
        let nothing = BTreeMap::new();
        let told = seen.container.extension.as_ref().unwrap_or(&nothing);
        let mut adopted = false;
        for (network, entry) in told {
            // An interface that a record knows is ours, whatever is still told.
            let ours = |a: &Attachment| a.network == *network || a.interface == entry.interface;
            if record.attachments.iter().any(ours) {
                continue;
            }
            if let Some(attachment) = self
                .original(&record.container, network, entry, sandbox)
                .await
            {
                tracing::info!(
                    container = record.container,
                    network,
                    ip = entry.ip,
                    "taking over an attachment that no record tells of"
                );
                record.put(attachment);
                adopted = true;
            }
        }
        if adopted {
            self.book().save(record).await?;
        }
        self.settled().insert(record.container.clone());
        Ok(adopted)
    }

    async fn original(
        &self,
        container: &str,
        network: &str,
        entry: &ExtensionEntry,
        sandbox: Option<Sandbox>,
    ) -> Option<Attachment> {
        // Without its configuration there is nothing to be done about it.
        let stored = self.parts.networks.network(network).await.ok()?;
        let config = String::from_utf8(stored.data).ok()?;
        let owner = self.parts.datapath.owner_of(&config, &entry.ip).await;
        let own = owner.clone().filter(|id| *id == self.cni_id(container));
        let natives = own.as_ref().map(|_| self.natives(&config, network));
        let by_pid = |id: &String| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        let held_by = own.or_else(|| owner.filter(by_pid));
        let (phase, sandbox, cni_id, netns) = match sandbox {
            Some(sandbox) => {
                let netns = PathBuf::from(format!("/proc/{}/ns/net", sandbox.pid));
                let there = self.parts.datapath.interfaces(&netns).await.ok()?;
                if !there.contains(&entry.interface) {
                    return None;
                }
                // Pinned, so that its DEL finds the namespace when the task has
                // ended: without it, bridge leaves its masquerade rules.
                let pin = self.pin_path(container, sandbox);
                self.parts.datapath.pin(sandbox, &pin).await.ok()?;
                let id = held_by.unwrap_or_else(|| sandbox.pid.to_string());
                (Phase::Attached, sandbox, id, Some(pin))
            }
            // Its address is still held, under the pid it had or under its name.
            None => (
                Phase::Detaching,
                Sandbox { pid: 0, netns: 0 },
                held_by?,
                None,
            ),
        };
        Some(Attachment {
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
        })
    }

    /// The plugins of a network that are drivers here, as far as that can be told.
    fn natives(&self, config: &str, network: &str) -> BTreeSet<usize> {
        let plainly = DesiredNetwork::named(network);
        let arguments = self.parts.datapath.arguments(config, &plainly, None, &[]);
        arguments.map_or_else(|_| BTreeSet::new(), |arguments| arguments.natives)
    }
}
