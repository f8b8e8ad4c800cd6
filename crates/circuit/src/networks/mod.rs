//! The networks of this node: checked before they are stored, and never taken
//! away from under a container.

mod bridge;
mod host;
mod made;
mod prune;
mod users;

use std::sync::Arc;

use async_trait::async_trait;
use circuit_core::cni::{AnyCase as _, ConfigList, Description};
use circuit_core::event::Kind;
use circuit_core::service::{Attachments, NetworkListing, Networks, Pruned, StoredNetwork};
use circuit_core::{Error, Result};
use circuit_net::cni::CniRuntime;
use circuit_net::host::{Clash, overlaps};
use circuit_net::netlink::Route;
use tokio::sync::Mutex;

pub(crate) use bridge::{Fate, remove_left_bridge};
pub use circuit_core::cni::SubnetPool;
pub use host::{Facts, Host, Surroundings};
pub use users::Sharing;

use crate::events::{EventLog, Happening};
use crate::store::{Store, Turn, check_name};

/// How often a change is decided anew because other nodes were faster.
const ROUNDS: usize = 20;

/// The service of networks.
pub struct NetworkService {
    store: Arc<dyn Store>,
    attachments: Arc<dyn Attachments>,
    host: Arc<dyn Surroundings>,
    /// Who else has these networks.
    sharing: Sharing,
    /// Where subnets are taken from for networks that name none.
    pools: Vec<SubnetPool>,
    events: Option<Arc<EventLog>>,
    /// One change at a time: two that overlap must not miss each other.
    changing: Mutex<()>,
}

impl NetworkService {
    /// A service on that store, for networks of those plugins on this host.
    pub fn new(store: Arc<dyn Store>, attachments: Arc<dyn Attachments>, cni: CniRuntime) -> Self {
        Self::on(store, attachments, Arc::new(Host::new(cni)))
    }

    /// A service on that store and that host.
    pub fn on(
        store: Arc<dyn Store>,
        attachments: Arc<dyn Attachments>,
        host: Arc<dyn Surroundings>,
    ) -> Self {
        Self {
            store,
            attachments,
            host,
            sharing: Sharing::Alone,
            pools: Vec::new(),
            events: None,
            changing: Mutex::default(),
        }
    }

    /// The same for networks that are shared: those that other nodes use are not
    /// replaced or deleted.
    #[must_use]
    pub fn shared(self, sharing: Sharing) -> Self {
        Self { sharing, ..self }
    }

    /// The same, with subnets from those pools for networks that name none.
    #[must_use]
    pub fn with_pools(self, pools: Vec<SubnetPool>) -> Self {
        Self { pools, ..self }
    }

    /// The same, telling there of what is created and deleted.
    #[must_use]
    pub fn telling(self, events: Arc<EventLog>) -> Self {
        let events = Some(events);
        Self { events, ..self }
    }

    fn tell(&self, kind: Kind, network: &str, message: String) {
        if let Some(events) = &self.events {
            events.tell(
                kind,
                Happening {
                    network,
                    message,
                    ..Happening::default()
                },
            );
        }
    }

    /// What of the host or of other networks the configuration would take.
    async fn check_overlaps(&self, name: &str, list: &ConfigList) -> Result<()> {
        let subnets = list.subnets();
        if subnets.is_empty() {
            return Ok(());
        }
        let mut clashes = Vec::new();
        for other in self
            .store
            .list()?
            .networks
            .iter()
            .filter(|other| other.name != name)
        {
            let Ok(theirs) = ConfigList::parse(&other.data) else {
                continue;
            };
            for subnet in theirs.subnets() {
                if subnets
                    .iter()
                    .any(|ours| ours.contains(&subnet) || subnet.contains(ours))
                {
                    clashes.push(format!("network {} ({subnet})", other.name));
                }
            }
        }
        let facts = self.host.facts().await?;
        clashes.extend(host_clashes(list, &facts).iter().map(ToString::to_string));
        if clashes.is_empty() {
            return Ok(());
        }
        let subnets: Vec<String> = subnets.iter().map(ToString::to_string).collect();
        Err(Error::precondition(format!(
            "the subnet {} of network {name} overlaps {}; choose another one, or give --force",
            subnets.join(", "),
            clashes.join(", ")
        )))
    }

    /// Whether a network can be created; the lock of changes is held.
    async fn check(&self, name: &str, list: &ConfigList, force: bool) -> Result<()> {
        let exists = self.store.has(name);
        if exists && !force {
            let unknown = self.unknown().map(|unknown| format!(": {}", unknown.what));
            return Err(Error::already_exists(format!(
                "network {name} already exists; delete it first, or give --force to replace it{}",
                unknown.unwrap_or_default()
            )));
        }
        if exists {
            let remedy = "disconnect them before it is replaced, or delete it with --force";
            self.refuse_while_used(name, remedy).await?;
        }
        if !force {
            self.check_overlaps(name, list).await?;
        }
        let probed = self.host.probe(list).await;
        probed.map_err(|e| e.context(format!("network {name}")))
    }

    /// Stores a network that was checked in this turn. False when somebody else has
    /// changed networks since.
    async fn store_it(
        &self,
        turn: Turn,
        network: &StoredNetwork,
        list: &ConfigList,
        force: bool,
    ) -> Result<bool> {
        let StoredNetwork { name, data } = network;
        let before = self.store.get(name).ok();
        let (file, bytes) = (name.clone(), data.clone());
        let writing = move |store: &dyn Store| store.write(&file, &bytes, force, &turn);
        if !self.on_disk(writing).await? {
            return Ok(false);
        }
        let kind = list.first_kind();
        tracing::info!("created network {name} of type {kind}");
        self.tell(Kind::NetworkCreated, name, format!("of type {kind}"));
        if let Some(before) = before.filter(|before| before.data != *data) {
            // Before a container comes that waits for it.
            let others = self.others(name).await;
            let replaced = (&before, Fate::Replaced);
            remove_left_bridge(self.host.as_ref(), replaced, &others).await;
        }
        self.attachments.network_created(name).await;
        Ok(true)
    }

    /// Takes a network that nobody uses out of the store.
    async fn remove(&self, name: &str) -> Result<()> {
        let before = self.store.get(name).ok();
        let file = name.to_owned();
        self.on_disk(move |store| store.remove(&file)).await?;
        tracing::info!("deleted network {name}");
        self.tell(Kind::NetworkDeleted, name, String::new());
        if let Some(before) = before {
            let others = self.others(name).await;
            remove_left_bridge(self.host.as_ref(), (&before, Fate::Gone), &others).await;
        }
        Ok(())
    }

    /// The networks but that one.
    async fn others(&self, name: &str) -> Vec<StoredNetwork> {
        let listing = self.on_disk(|store| store.list()).await;
        let mut others = listing.map_or_else(|_| Vec::new(), |listing| listing.networks);
        others.retain(|other| other.name != name);
        others
    }

    /// Disk writes wait for the disk; other requests must not wait with them.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(store.as_ref()))
            .await
            .map_err(|e| Error::internal(format!("the datastore hit a defect: {e}")))?
    }
}

#[async_trait]
impl Networks for NetworkService {
    async fn create(&self, name: &str, data: &[u8], force: bool) -> Result<()> {
        check_name(name)?;
        let list = read(name, data)?;
        let network = StoredNetwork {
            name: name.to_owned(),
            data: data.to_vec(),
        };
        let _changing = self.changing.lock().await;
        for _ in 0..ROUNDS {
            let turn = self.on_disk(|store| store.turn()).await?;
            self.check(name, &list, force).await?;
            if self.store_it(turn, &network, &list, force).await? {
                return Ok(());
            }
        }
        Err(outrun(name))
    }

    async fn make(
        &self,
        description: Description,
        force: bool,
        dry_run: bool,
    ) -> Result<StoredNetwork> {
        let name = description.name.clone();
        check_name(&name)?;
        let _changing = self.changing.lock().await;
        for _ in 0..ROUNDS {
            let turn = self.on_disk(|store| store.turn()).await?;
            let listing = self.on_disk(|store| store.list()).await?;
            let facts = self.host.facts().await?;
            let data = made::complete(description.clone(), &self.pools, &listing, &facts)?;
            let list = read(&name, &data)?;
            self.check(&name, &list, force).await?;
            let network = StoredNetwork {
                name: name.clone(),
                data,
            };
            if dry_run || self.store_it(turn, &network, &list, force).await? {
                return Ok(network);
            }
        }
        Err(outrun(&name))
    }

    async fn prune(
        &self,
        dry_run: bool,
        each: &(dyn Fn(Pruned) -> bool + Send + Sync),
    ) -> Result<()> {
        self.prune_all(dry_run, each).await
    }

    async fn list(&self) -> Result<NetworkListing> {
        self.on_disk(|store| store.list()).await
    }

    async fn get(&self, name: &str) -> Result<StoredNetwork> {
        self.store.get(name)
    }

    async fn delete(&self, name: &str, force: bool) -> Result<()> {
        check_name(name)?;
        let _changing = self.changing.lock().await;
        if !self.store.has(name) {
            // Says which one was meant.
            let file = name.to_owned();
            return self.on_disk(move |store| store.remove(&file)).await;
        }
        if force {
            self.disconnect_users(name).await?;
        } else {
            self.refuse_while_usable(name).await?;
        }
        self.remove(name).await
    }
}

fn outrun(name: &str) -> Error {
    Error::unavailable(format!(
        "network {name} is not stored, as others change networks all the time: try again"
    ))
}

/// The configuration of a network of that name.
fn read(name: &str, data: &[u8]) -> Result<ConfigList> {
    let about = |e: Error| e.context(format!("the configuration of network {name}"));
    let list = ConfigList::parse(data).map_err(about)?;
    list.validate().map_err(about)?;
    if list.name != name {
        return Err(Error::invalid(format!(
            "the configuration calls itself {:?}, not {name:?}; create it under that name, or \
             change its \"name\"",
            list.name
        )));
    }
    Ok(list)
}

/// What of the host's clashes with a network, its own interfaces left out.
fn host_clashes(list: &ConfigList, facts: &Facts) -> Vec<Clash> {
    let own = own_interfaces(list);
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let (ours, theirs): (Vec<Route>, Vec<Route>) = facts
        .routes
        .iter()
        .filter(|route| route.unicast && route.dst.prefix_len() > 0)
        .cloned()
        .partition(|route| route.oif.as_deref().is_some_and(|oif| own.contains(&oif)));
    // A resolver that is reached through the network's own interface, as on the
    // LAN that a macvlan joins, stays where it is.
    let resolvers: Vec<_> = facts
        .resolvers
        .iter()
        .filter(|resolver| !ours.iter().any(|route| route.dst.contains(*resolver)))
        .copied()
        .collect();
    overlaps(&list.subnets(), &theirs, &resolvers, &own)
}

/// The host's interfaces that belong to the network or that it joins.
fn own_interfaces(list: &ConfigList) -> Vec<String> {
    let mut own = Vec::new();
    for plugin in &list.plugins {
        let text = |key: &str| plugin.raw.find(key).and_then(serde_json::Value::as_str);
        own.extend(
            ["bridge", "master", "device"]
                .iter()
                .filter_map(|key| text(key)),
        );
        if plugin.kind == "bridge" && text("bridge").is_none_or(str::is_empty) {
            // The name that the plugin takes when it is given none.
            own.push("cni0");
        }
    }
    own.into_iter()
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests;
