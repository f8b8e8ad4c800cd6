//! Networks that a fleet shares by Redis. Each node keeps a copy of all of them
//! in a folder of its own, which is all that is read: a node starts, and
//! connects containers, without Redis. Changes go to Redis first.

mod definitions;
mod entry;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use circuit_core::cni::ConfigList;
use circuit_core::service::{NetworkListing, StoredNetwork};
use circuit_core::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::local::already_there;
use super::{LocalStore, Store, Turn};
use crate::attachments::NetworkSource;
use crate::{files, redis, text};
use definitions::{Definitions, Written};
use entry::{Entries, Entry, Index, exchange};

/// How often everything is compared, should a message have been lost.
const COMPARE: Duration = Duration::from_secs(30);
/// The file with the revisions, beside the networks' files; no network's name
/// begins with a dot.
const INDEX: &str = ".revisions";

/// What another node has done to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Came(String),
    /// It is other than it was; this is what it was.
    Replaced(StoredNetwork),
    /// It was deleted; this is what it was.
    Went(StoredNetwork),
}

/// Networks that a fleet shares.
pub struct SharedStore {
    dir: PathBuf,
    copy: LocalStore,
    definitions: Definitions,
    /// The revisions of what is in the copy. Held while copy and index change.
    index: Mutex<Index>,
    runtime: Handle,
    /// How many changes the copy has in it.
    seen: AtomicU64,
    /// What others have done and nobody was told of yet.
    untold: StdMutex<Vec<Change>>,
    /// What in Redis is no network, and was told of.
    nonsense: StdMutex<HashSet<String>>,
}

impl SharedStore {
    /// The networks in that Redis, with a copy in that folder. To be called
    /// within a runtime.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(redis: redis::Store, dir: &Path) -> Result<Self> {
        let copy = LocalStore::in_folder(dir.to_owned())?;
        let index = match fs::read(dir.join(INDEX)) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(
                    "the revisions of shared networks in {} cannot be read, \
                     those in redis count: {error}",
                    dir.display()
                );
                Index::default()
            }),
            Err(_) => Index::default(),
        };
        Ok(Self {
            dir: dir.to_owned(),
            copy,
            definitions: Definitions(redis),
            index: Mutex::new(index),
            runtime: Handle::current(),
            seen: AtomicU64::new(0),
            untold: StdMutex::default(),
            nonsense: StdMutex::default(),
        })
    }

    /// Keeps the copy like what is in Redis until `stop`, and tells `changed` of
    /// each network that others have changed.
    pub async fn follow(&self, stop: CancellationToken, changed: UnboundedSender<Change>) {
        let mut changes = self.definitions.changes();
        let mut timer = tokio::time::interval(COMPARE);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = changes.next() => if event.is_none() { return },
                _ = timer.tick() => {}
            }
            // Each look is at everything: many changes at once are one.
            changes.drain();
            match self.compare().await {
                Ok(changes) => {
                    for change in changes {
                        // Nobody may want to know any more.
                        let _ = changed.send(change);
                    }
                }
                // The connection tells of itself.
                Err(error) => tracing::debug!(%error, "shared networks were not compared"),
            }
        }
    }

    /// Makes copy and Redis the same, by the last change of each network.
    /// Returns what has become other than it was here.
    ///
    /// # Errors
    /// When Redis is away, or the folder cannot be written.
    pub async fn compare(&self) -> Result<Vec<Change>> {
        let mut index = self.index.lock().await;
        self.catch_up(&mut index).await?;
        Ok(std::mem::take(&mut *self.untold()))
    }

    fn untold(&self) -> MutexGuard<'_, Vec<Change>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn catch_up(&self, index: &mut Index) -> Result<()> {
        let (mut theirs, count) = self.definitions.read().await?;
        theirs.retain(|name, entry| self.makes_sense(name, entry));
        let ours = self.entries(index)?;
        let exchange = exchange(&ours, &theirs);
        for (name, entry) in &exchange.take {
            match self.take(index, name, entry) {
                Ok(change) => self.untold().extend(change),
                Err(error) => {
                    tracing::warn!(network = name, %error, "a shared network is not taken over");
                }
            }
        }
        if !exchange.take.is_empty() {
            self.save(index)?;
        }
        self.seen.store(count, Ordering::SeqCst);
        if !exchange.give.is_empty() {
            let names: Vec<&str> = exchange.give.keys().map(String::as_str).collect();
            tracing::info!(
                "redis did not know of networks, and is told: {}",
                names.join(", ")
            );
            self.definitions.restore(&exchange.give).await?;
        }
        Ok(())
    }

    /// Whether an entry in Redis is one of a network; others are left alone, and
    /// told of once.
    fn makes_sense(&self, name: &str, entry: &Entry) -> bool {
        let checked = super::check_name(name).and_then(|()| match &entry.data {
            Some(data) => ConfigList::parse(data).map(drop),
            None => Ok(()),
        });
        let mut nonsense = self.nonsense.lock().unwrap_or_else(PoisonError::into_inner);
        match checked {
            Ok(()) => {
                nonsense.remove(name);
                true
            }
            Err(error) => {
                if nonsense.insert(name.to_owned()) {
                    tracing::warn!("redis has {name:?} for a network, which it is not: {error}");
                }
                false
            }
        }
    }

    /// What this node knows of, with what is in the folder and was put there by
    /// hand.
    fn entries(&self, index: &Index) -> Result<Entries> {
        let mut entries = Entries::new();
        for (name, revision) in &index.deleted {
            let entry = Entry {
                revision: Some(*revision),
                data: None,
            };
            entries.insert(name.clone(), entry);
        }
        for network in self.copy.list()?.networks {
            let entry = Entry {
                revision: index.networks.get(&network.name).copied(),
                data: Some(network.data),
            };
            entries.insert(network.name, entry);
        }
        Ok(entries)
    }

    fn take(&self, index: &mut Index, name: &str, entry: &Entry) -> Result<Option<Change>> {
        let change = match &entry.data {
            Some(data) => {
                // One that cannot be read has nothing to leave behind.
                let before = self.copy.get(name).ok();
                self.copy.write(name, data, true, &Turn::default())?;
                match before {
                    None => Some(Change::Came(name.to_owned())),
                    // Written once more as it was.
                    Some(before) if before.data == *data => None,
                    Some(before) => Some(Change::Replaced(before)),
                }
            }
            None if self.copy.has(name) => {
                let gone = self.copy.get(name)?;
                self.copy.remove(name)?;
                Some(Change::Went(gone))
            }
            None => None,
        };
        index.note(
            name,
            entry.revision.unwrap_or_default(),
            entry.data.is_none(),
        );
        Ok(change)
    }

    /// Writes the index. Should it not come so far, the networks are compared
    /// again.
    fn save(&self, index: &Index) -> Result<()> {
        let path = self.dir.join(INDEX);
        let bytes = serde_json::to_vec(index)
            .map_err(|e| Error::internal(format!("cannot write revisions: {e}")))?;
        files::replace(&path, &bytes).map_err(|e| {
            let (path, reason) = (path.display(), text::io_error(&e));
            Error::unavailable(format!("cannot write {path}: {reason}"))
        })
    }

    async fn write_both(
        &self,
        name: &str,
        data: &[u8],
        replace: bool,
        turn: &Turn,
    ) -> Result<bool> {
        let mut index = self.index.lock().await;
        let written = self
            .definitions
            .write(name, data, replace, index.highest(), turn.count)
            .await
            .map_err(unreachable)?;
        let revision = match written {
            Written::As(revision) => revision,
            Written::Taken => return Err(already_there(name)),
            Written::Changed => {
                // Whoever follows is told of it; the writer looks at the copy.
                self.catch_up(&mut index).await.map_err(|error| {
                    error.context(format!("network {name}: others have changed networks"))
                })?;
                return Ok(false);
            }
        };
        let entry = Entry {
            revision: Some(revision),
            data: Some(data.to_vec()),
        };
        self.take(&mut index, name, &entry)?;
        if turn.count.is_some() {
            // It came right after what was seen.
            self.seen.store(revision, Ordering::SeqCst);
        }
        self.save(&index)?;
        Ok(true)
    }

    async fn remove_both(&self, name: &str) -> Result<()> {
        let mut index = self.index.lock().await;
        let removed = self.definitions.remove(name, index.highest()).await;
        let entry = Entry {
            revision: Some(removed.map_err(unreachable)?),
            data: None,
        };
        self.take(&mut index, name, &entry)?;
        self.save(&index)
    }
}

fn unreachable(failure: redis::Failure) -> Error {
    Error::from(failure).context(
        "networks are shared by redis and cannot be changed without it, those there are go on",
    )
}

/// Changes wait for Redis, so they are nothing for a thread of the runtime.
impl Store for SharedStore {
    fn get(&self, name: &str) -> Result<StoredNetwork> {
        self.copy.get(name)
    }

    fn list(&self) -> Result<NetworkListing> {
        self.copy.list()
    }

    fn turn(&self) -> Result<Turn> {
        let count = Some(self.seen.load(Ordering::SeqCst));
        Ok(Turn {
            count,
            ..Turn::default()
        })
    }

    fn write(&self, name: &str, data: &[u8], replace: bool, turn: &Turn) -> Result<bool> {
        super::check_name(name)?;
        self.runtime
            .block_on(self.write_both(name, data, replace, turn))
    }

    fn remove(&self, name: &str) -> Result<()> {
        if !self.copy.has(name) {
            return self.copy.remove(name);
        }
        self.runtime.block_on(self.remove_both(name))
    }

    fn has(&self, name: &str) -> bool {
        self.copy.has(name)
    }
}

#[async_trait]
impl NetworkSource for SharedStore {
    async fn network(&self, name: &str) -> Result<StoredNetwork> {
        self.copy.network(name).await
    }

    async fn networks(&self) -> Result<Vec<StoredNetwork>> {
        self.copy.networks().await
    }
}
