//! Attachments of which no record tells, only the extension on the container's record:
//! those that the first Circuit made, whose CNI container id is a pid, and our own of
//! which the record was lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use circuit_core::{
    Error, ErrorKind, Result,
    attachment::{Attachment, ContainerRecord, Origin, Phase, Sandbox},
    datapath::Held,
    labels::DesiredNetwork,
    runtime::ExtensionEntry,
};
use serde_json::Map;

use super::{Attachments, Join, Seen};
use crate::figures::Disconnect;

/// What a container's extension tells of networks that could not be taken over, and why.
/// It stays told, and is left as it is.
pub(crate) type Left = BTreeMap<String, (ExtensionEntry, Error)>;

/// An attachment that is to be taken over.
struct Inherited {
    network: String,
    interface: String,
    ips: Vec<IpAddr>,
    config: String,
    /// The CNI container id that its address is held for, where that is told.
    owner: Option<String>,
    /// The living task's namespace, when that is what it is of; else it is to go.
    sandbox: Option<Sandbox>,
}

impl Inherited {
    /// The record of it, made by these drivers, with its namespace pinned there.
    fn record(self, natives: BTreeSet<usize>, netns: Option<PathBuf>) -> Attachment {
        let phase = self.sandbox.map_or(Phase::Detaching, |_| Phase::Attached);
        let sandbox = self.sandbox.unwrap_or(Sandbox { pid: 0, netns: 0 });
        Attachment {
            network: self.network,
            interface: self.interface,
            phase,
            origin: Origin::Original,
            cni_id: self.owner.unwrap_or_else(|| sandbox.pid.to_string()),
            sandbox,
            netns,
            behind: Vec::new(),
            config: self.config,
            capability_args: Map::new(),
            config_args: Map::new(),
            natives,
            aliases: Vec::new(),
            ips: self.ips.into_iter().map(Into::into).collect(),
            mac: None,
            result: None,
            leaving: false,
        }
    }
}

/// What the former program left of tasks that have ended, by what is held for their pids on
/// a network: each to be taken away.
pub(super) fn left_over(network: &str, config: &str, held: &[Held]) -> Vec<Attachment> {
    let mut left: BTreeMap<(&str, &str), Vec<IpAddr>> = BTreeMap::new();
    for held in held.iter().filter(|held| pid_of(&held.cni_id).is_some()) {
        if let (Some(ip), false) = (held.address, held.interface.is_empty()) {
            let of = (held.cni_id.as_str(), held.interface.as_str());
            left.entry(of).or_default().push(ip);
        }
    }
    let inherited = left
        .into_iter()
        .map(|((cni_id, interface), ips)| Inherited {
            network: network.to_owned(),
            interface: interface.to_owned(),
            ips,
            config: config.to_owned(),
            owner: Some(cni_id.to_owned()),
            sandbox: None,
        });
    inherited
        .map(|it| it.record(BTreeSet::new(), None))
        .collect()
}

/// The pid that a CNI container id of the former program is; others' are no such numbers.
pub(super) fn pid_of(cni_id: &str) -> Option<u32> {
    let pid: Option<u32> = cni_id.parse().ok();
    pid.filter(|pid| pid.to_string() == cni_id)
}

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
        for (network, entry) in untold(record, seen, sandbox) {
            // Rare, and large: everybody who looks at a container would carry it.
            let taking = Box::pin(self.take_over(record, network, entry, sandbox));
            match taking.await {
                Ok(taken) => adopted |= taken,
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
        !untold(record, seen, None).is_empty()
    }

    /// What of a container could not be taken over.
    pub(crate) fn left(&self, container: &str) -> Left {
        let left = self.taken_over().get(container).cloned();
        left.unwrap_or_default()
    }

    /// Takes over what is behind an entry, if there is something; says whether there was.
    async fn take_over(
        &self,
        record: &mut ContainerRecord,
        network: &str,
        entry: &ExtensionEntry,
        sandbox: Option<Sandbox>,
    ) -> Result<bool> {
        let known = is_known(record, network, &entry.interface);
        let container = &record.container;
        let found = match self.behind(container, network, entry, sandbox).await {
            Err(error) if known && error.kind() == ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        // What a record knows is ours, whatever is still told, unless somebody else made
        // something in its place.
        let own = self.cni_id(container);
        let is_newer = |found: &Inherited| {
            found.sandbox == sandbox && found.owner.as_ref().is_some_and(|id| *id != own)
        };
        let Some(found) = found.filter(|found| !known || is_newer(found)) else {
            return Ok(false);
        };
        self.give_way(record, &entry.interface, sandbox).await?;
        let attachment = self.inherit(&record.container, found).await?;
        record.put(attachment);
        Ok(true)
    }

    /// The attachment of a living task that the former program made and the extension does
    /// not tell of: that forgot containers when a process ended that was exec'd in them.
    /// Its interface is among those in the namespace that no record knows, and has an
    /// address that is held for the task. The pid alone may be another's by now.
    pub(super) async fn forgotten(
        &self,
        record: &ContainerRecord,
        config: &str,
        join: &Join<'_>,
        pin: &Path,
        foreign: &[String],
    ) -> Result<Option<Attachment>> {
        if foreign.is_empty() {
            return Ok(None);
        }
        let (datapath, pid) = (&self.parts.datapath, join.sandbox.pid.to_string());
        let mut of_task: Vec<(String, IpAddr)> = Vec::new();
        for (interface, ip) in datapath.addresses(pin).await? {
            let of_one = of_task.first().is_none_or(|(first, _)| *first == interface);
            if of_one
                && foreign.contains(&interface)
                && datapath.owner_of(config, &ip.to_string()).await.as_ref() == Some(&pid)
            {
                of_task.push((interface, ip));
            }
        }
        let Some((interface, _)) = of_task.first() else {
            return Ok(None);
        };
        let inherited = Inherited {
            network: join.network.network.clone(),
            interface: interface.clone(),
            ips: of_task.iter().map(|(_, ip)| *ip).collect(),
            config: config.to_owned(),
            owner: Some(pid),
            sandbox: Some(join.sandbox),
        };
        self.inherit(&record.container, inherited).await.map(Some)
    }

    /// What is behind an entry; `None` when there is nothing of it any more, or it is
    /// another container's by now.
    async fn behind(
        &self,
        container: &str,
        network: &str,
        entry: &ExtensionEntry,
        sandbox: Option<Sandbox>,
    ) -> Result<Option<Inherited>> {
        let datapath = &self.parts.datapath;
        let mut inside = false;
        if let Some(sandbox) = sandbox {
            let netns = PathBuf::from(format!("/proc/{}/ns/net", sandbox.pid));
            let interfaces = datapath.interfaces(&netns).await?;
            inside = interfaces.contains(&entry.interface);
        }
        let gone = sandbox.is_some() && !inside;
        let config = match self.stored(network).await {
            Err(error) if gone && error.kind() == ErrorKind::NotFound => return Ok(None),
            config => config?,
        };
        let owner = datapath.owner_of(&config, &entry.ip).await;
        let own = owner.as_ref() == Some(&self.cni_id(container));
        let pid = sandbox.map(|sandbox| sandbox.pid.to_string());
        let by_task = owner.is_some() && owner == pid;
        let lives = inside && (owner.is_none() || own || by_task);
        // Its address is still held, under the pid it had or under its name.
        let to_go = match &owner {
            _ if lives => false,
            None => false,
            Some(_) if own => sandbox.is_none(),
            Some(id) => by_task || self.has_ended(id).await?,
        };
        Ok((lives || to_go).then(|| Inherited {
            network: network.to_owned(),
            interface: entry.interface.clone(),
            ips: entry.ip.parse().into_iter().collect(),
            config,
            owner,
            sandbox: sandbox.filter(|_| lives),
        }))
    }

    /// Whether a CNI container id is the pid of a task that has ended. A container of
    /// another namespace of containerd is known by a network namespace of its own.
    async fn has_ended(&self, cni_id: &str) -> Result<bool> {
        let Some(pid) = pid_of(cni_id) else {
            return Ok(false);
        };
        let tasks = self.runtime().tasks().await?;
        let of_task = tasks.iter().any(|task| task.is_alive() && task.pid == pid);
        Ok(!of_task && self.parts.datapath.sandbox(pid).await.is_err())
    }

    /// Takes away what is on record of an interface that is another attachment's by now,
    /// which stays.
    async fn give_way(
        &self,
        record: &mut ContainerRecord,
        interface: &str,
        sandbox: Option<Sandbox>,
    ) -> Result<()> {
        let former = record.attachments.iter();
        let former: Vec<Attachment> = former
            .filter(|a| a.interface == interface)
            .cloned()
            .collect();
        for mut attachment in former {
            let network = attachment.network.clone();
            let cause = match sandbox {
                Some(alive) if attachment.sandbox == alive => Disconnect::Change,
                _ => Disconnect::Exit,
            };
            if let (Some(netns), Some(sandbox)) = (&attachment.netns, sandbox)
                && self.parts.datapath.pinned(netns).await? == Some(sandbox.netns)
            {
                // DEL is not to find the interface.
                attachment.netns = None;
                record.put(attachment);
            }
            let begun = Instant::now();
            let left = self.detach(record, &network, interface).await;
            self.figures().disconnected(cause, &left, begun.elapsed());
            left?;
        }
        Ok(())
    }

    /// The record of what is taken over.
    async fn inherit(&self, container: &str, found: Inherited) -> Result<Attachment> {
        let own = found.owner.as_ref() == Some(&self.cni_id(container));
        let natives = own.then(|| self.natives(&found.config, &found.network));
        let mut netns = None;
        if let Some(sandbox) = found.sandbox {
            // Pinned, so that its DEL finds the namespace when the task has
            // ended: without it, bridge leaves its masquerade rules.
            let pin = self.pin_path(container, sandbox);
            self.parts.datapath.pin(sandbox, &pin).await?;
            netns = Some(pin);
        }
        let (network, ip) = (&found.network, found.ips.first().map(IpAddr::to_string));
        tracing::info!(
            container,
            network,
            ip,
            "taking over an attachment that no record tells of"
        );
        Ok(found.record(natives.unwrap_or_default(), netns))
    }

    /// The configuration of a network.
    async fn stored(&self, network: &str) -> Result<String> {
        let stored = self.parts.networks.network(network).await?;
        String::from_utf8(stored.data).map_err(|_| {
            Error::precondition(format!(
                "the configuration of network {network} is not UTF-8"
            ))
        })
    }

    /// The plugins of a network that are drivers here, as far as that can be told.
    fn natives(&self, config: &str, network: &str) -> BTreeSet<usize> {
        let plainly = DesiredNetwork::named(network);
        let arguments = self.parts.datapath.arguments(config, &plainly, None, &[]);
        arguments.map_or_else(|_| BTreeSet::new(), |arguments| arguments.natives)
    }
}

/// The entries of the extension of which no record tells the same; with a living task's
/// namespace, a record of that task.
fn untold<'a>(
    record: &ContainerRecord,
    seen: &'a Seen,
    sandbox: Option<Sandbox>,
) -> Vec<(&'a String, &'a ExtensionEntry)> {
    let same = |a: &Attachment, network: &str, entry: &ExtensionEntry| {
        let ip = entry.ip.parse::<IpAddr>();
        a.network == network
            && a.interface == entry.interface
            && ip.map_or(a.ips.is_empty(), |ip| {
                a.ips.iter().any(|it| it.addr() == ip)
            })
            && sandbox.is_none_or(|sandbox| a.sandbox == sandbox)
    };
    let told = |network: &str, entry: &ExtensionEntry| {
        record.attachments.iter().any(|a| same(a, network, entry))
    };
    let entries = seen.container.extension.iter().flatten();
    entries
        .filter(|(network, entry)| !told(network, entry))
        .collect()
}

/// Whether a record is of that network, or of that interface.
fn is_known(record: &ContainerRecord, network: &str, interface: &str) -> bool {
    let same = |a: &Attachment| a.network == network || a.interface == interface;
    record.attachments.iter().any(same)
}

#[cfg(test)]
mod tests {
    use super::pid_of;

    #[test]
    fn only_what_can_be_a_pid_is_the_former_programs() {
        assert_eq!(pid_of("1"), Some(1));
        assert_eq!(pid_of("4194304"), Some(4_194_304));
        for other in ["", "007", "+7", "99999999999", "default-7", "7a"] {
            assert_eq!(pid_of(other), None, "{other}");
        }
    }
}
