//! What is held on networks for nobody. Other programs of the host may use the same
//! networks: another daemon for another namespace of containerd, `ctr run --cni`,
//! nerdctl. What is theirs stays.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use circuit_core::{Error, Result, cni::ConfigList, datapath::Held, service::StoredNetwork};

use super::{Attachments, original};

/// Whoever starts a container may attach it before the runtime knows of its task, as
/// nerdctl does; shortly before that, the container's record is made or changed.
const STARTING: Duration = Duration::from_secs(60);

impl Attachments {
    /// Lets the plugins remove what is held for nobody. Of networks whose
    /// configuration is too old for that, what the former program left is taken away: it
    /// read no newer ones.
    ///
    /// # Errors
    /// When the networks cannot be listed, or the runtime does not answer. What a
    /// network's plugins cannot do is only logged.
    pub async fn collect_garbage(&self) -> Result<()> {
        self.claims().await?;
        for network in self.parts.networks.networks().await? {
            if let Err(error) = self.clean(&network).await {
                tracing::warn!(network = network.name, %error, "the plugins cannot clean up");
            }
        }
        Ok(())
    }

    async fn clean(&self, network: &StoredNetwork) -> Result<()> {
        let Ok(config) = std::str::from_utf8(&network.data) else {
            return Ok(());
        };
        let stray = self.stray(&network.name, config).await?;
        let datapath = &self.parts.datapath;
        let list = ConfigList::parse(&network.data)?;
        if !list.cni_version.has_status_and_gc() && !list.disable_gc {
            for left in original::left_over(&network.name, config, &stray) {
                let _no_gc = self.collecting.read().await;
                let (network, pid) = (&network.name, &left.cni_id);
                match datapath.del(&left).await {
                    Ok(()) => tracing::info!(network, pid, "freed what an ended task has left"),
                    Err(error) => {
                        tracing::warn!(network, pid, %error, "cannot free what an ended task has left");
                    }
                }
                datapath.retire(pid).await;
            }
            return Ok(());
        }
        let _nothing_else = self.collecting.write().await;
        let mut valid = self.attached(&network.name);
        for held in datapath.held(config).await? {
            // What came since is somebody's.
            if !stray.contains(&held) && !is_among(&valid, &held) {
                valid.push((held.cni_id, held.interface));
            }
        }
        datapath.gc(config, &valid).await
    }

    /// What is held on a network for nobody.
    ///
    /// # Errors
    /// When it cannot be read, or the runtime does not say which tasks there are.
    pub(crate) async fn stray(&self, network: &str, config: &str) -> Result<Vec<Held>> {
        let held = self.parts.datapath.held(config).await?;
        // Asked afterwards: whoever holds something then has a task, if it is alive.
        let claims = self.claims().await?;
        let ours = self.attached(network);
        let stray = |held: &Held| !is_among(&ours, held) && self.is_stray(&held.cni_id, &claims);
        Ok(held.into_iter().filter(stray).collect())
    }

    /// For whom other programs hold something on a network, as CNI container ids,
    /// sorted; without what is held for nobody.
    ///
    /// # Errors
    /// When it cannot be read, another daemon knows it, or the runtime does not say which
    /// tasks there are.
    pub(super) async fn others_on(&self, network: &StoredNetwork) -> Result<Vec<String>> {
        let Ok(config) = std::str::from_utf8(&network.data) else {
            return Ok(Vec::new());
        };
        // A file that is no network any more is no reason to keep it.
        if ConfigList::parse(&network.data).is_err() {
            return Ok(Vec::new());
        }
        if !self.parts.datapath.knows_holders(config)? {
            return Err(Error::precondition(
                "another daemon of this host gives its addresses",
            ));
        }
        let mut held = self.parts.datapath.held(config).await?;
        let ours = self.attached(&network.name);
        held.retain(|held| !is_among(&ours, held));
        if held.is_empty() {
            // The runtime need not be there for that.
            return Ok(Vec::new());
        }
        let claims = self.claims().await?;
        let ids = held.into_iter().map(|held| held.cni_id);
        let others: BTreeSet<String> = ids.filter(|id| !self.is_stray(id, &claims)).collect();
        Ok(others.into_iter().collect())
    }

    /// Our own attachments to a network.
    fn attached(&self, network: &str) -> Vec<(String, String)> {
        let records = self.book().records();
        let attachments = records.iter().flat_map(|record| &record.attachments);
        attachments
            .filter(|attachment| attachment.network == network)
            .map(|attachment| (attachment.cni_id.clone(), attachment.interface.clone()))
            .collect()
    }

    async fn claims(&self) -> Result<Claims> {
        let tasks = self.runtime().tasks().await?;
        let alive = tasks.into_iter().filter(|task| task.is_alive());
        let now = SystemTime::now();
        let may_start = |changed: SystemTime| {
            // Of a clock that was set back nothing can be said.
            now.duration_since(changed).is_ok_and(|age| age < STARTING)
        };
        let containers = self.runtime().containers().await?.into_iter();
        let starting = containers.filter(|it| it.changed_at.is_some_and(may_start));
        let own = self.runtime().namespace();
        let namespaces = self.runtime().namespaces().await?.into_iter();
        let longer = namespaces.filter(|other| container_in(own, other).is_some());
        Ok(Claims {
            alive: alive
                .map(|task| task.container)
                .chain(starting.map(|container| container.id))
                .collect(),
            longer: longer.collect(),
        })
    }

    /// Whether nobody has what is held for this CNI container id, of which no record
    /// speaks. Others of this namespace name their containers as we do; the former
    /// program took the pids of tasks.
    fn is_stray(&self, cni_id: &str, claims: &Claims) -> bool {
        if let Some(pid) = original::pid_of(cni_id) {
            return self.parts.datapath.started(pid).is_none();
        }
        let Some(container) = container_in(self.runtime().namespace(), cni_id) else {
            return false;
        };
        let mut longer = claims.longer.iter();
        let elsewhere = longer.any(|other| container_in(other, cni_id).is_some());
        !elsewhere && !claims.alive.contains(container)
    }
}

/// Whether something is held for one of these attachments.
fn is_among(attachments: &[(String, String)], held: &Held) -> bool {
    attachments.iter().any(|(id, interface)| {
        *id == held.cni_id && (held.interface.is_empty() || *interface == held.interface)
    })
}

/// Who may have what no record speaks of.
struct Claims {
    /// The containers with a task that is alive, or may be made at this moment.
    alive: HashSet<String>,
    /// Namespaces whose names go on where that of ours ends.
    longer: Vec<String>,
}

/// The container of a CNI container id, if it is of that namespace.
pub(super) fn container_in<'a>(namespace: &str, cni_id: &'a str) -> Option<&'a str> {
    cni_id.strip_prefix(namespace)?.strip_prefix('-')
}
