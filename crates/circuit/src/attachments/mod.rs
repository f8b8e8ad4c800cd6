//! Attachments: made, kept and taken away, each recorded before the kernel is
//! touched, so that whatever a crash leaves is found and finished.

mod attach;
mod book;
mod called;
mod extension;
mod garbage;
mod locks;
mod original;
mod pins;
mod resolver;
mod service;
mod sightings;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_trait::async_trait;
use circuit_core::{
    Error, ErrorKind, Result,
    attachment::{Attachment, ContainerRecord, Phase},
    cni::ConfigList,
    datapath::Datapath,
    labels::{Labels, NERDCTL_NAME_LABEL},
    resolver::Place,
    runtime::{Container, Runtime, Task},
    service::StoredNetwork,
};
use futures::FutureExt as _;
use tokio::sync::{RwLock, mpsc};
use tokio_util::task::TaskTracker;

use crate::events::EventLog;
use crate::figures::Figures;

use original::Left;

pub use attach::Join;
pub use book::Book;
pub use locks::{KeyGuard, KeyedLocks};
pub use resolver::Nameservers;
use sightings::Sightings;

/// Where the configuration of a network comes from.
#[async_trait]
pub trait NetworkSource: Send + Sync {
    /// One network.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    async fn network(&self, name: &str) -> Result<StoredNetwork>;

    /// Every usable network.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn networks(&self) -> Result<Vec<StoredNetwork>>;
}

/// What the attachments of one node are made with.
pub struct Parts {
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// What brings them into the kernel.
    pub datapath: Arc<dyn Datapath>,
    /// The networks' configurations.
    pub networks: Arc<dyn NetworkSource>,
    /// The records.
    pub book: Book,
    /// The folder of pinned namespaces.
    pub pins: PathBuf,
    /// The key of the label that names networks.
    pub label: String,
    /// Where it is told what happens.
    pub events: Arc<EventLog>,
}

/// The attachments of this node's containers.
pub struct Attachments {
    pub(crate) parts: Parts,
    locks: KeyedLocks,
    /// Two containers may share one namespace; interfaces are named and made
    /// under its lock.
    sandboxes: KeyedLocks,
    /// Held for reading by ADD and DEL, for writing by GC, as CNI demands.
    collecting: RwLock<()>,
    wake: mpsc::UnboundedSender<String>,
    publishing: TaskTracker,
    /// What of each container that was looked at could not be taken over from its
    /// extension. Where that is nothing, the record is the truth.
    taken_over: Mutex<HashMap<String, Left>>,
    own_updates: Arc<OwnUpdates>,
    sightings: Sightings,
    nameservers: OnceLock<Arc<dyn Nameservers>>,
    figures: Figures,
}

/// How many changes of a container's record that the runtime will tell of are
/// our own, by container. They are no reason to look at it.
type OwnUpdates = Mutex<HashMap<String, u32>>;

/// A container and its task, as the runtime knows them now.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its record in the runtime.
    pub container: Container,
    /// Its task.
    pub task: Option<Task>,
}

impl Seen {
    /// The task, when it is alive.
    pub fn alive(&self) -> Option<&Task> {
        self.task.as_ref().filter(|task| task.is_alive())
    }

    /// What people call the container, where its id is not for people.
    fn name(&self) -> Option<&str> {
        let name = self.container.labels.get(NERDCTL_NAME_LABEL);
        name.map(String::as_str)
    }

    /// Where the `/etc/resolv.conf` of a task of it is. What is mounted there is the
    /// container's own when it is called so and lies in a folder named by the container's
    /// id, as nerdctl keeps it for each container and containerd for each pod of CRI. Such
    /// an id is 64 digits long: one like `etc` would make a folder of the host's its own.
    fn resolver(&self, pid: u32) -> Place {
        let (id, mounted) = (&self.container.id, self.container.resolv_conf.as_deref());
        let is_own = |file: &&Path| {
            let folder = file.parent().and_then(Path::file_name);
            folder == Some(OsStr::new(id)) && file.file_name() == Some(OsStr::new("resolv.conf"))
        };
        let is_drawn = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mounted = mounted.filter(|_| is_drawn);
        Place {
            pid,
            own_file: mounted.filter(is_own).map(Path::to_path_buf),
        }
    }
}

impl Attachments {
    /// Puts the parts together; `wake` is told of containers to look at.
    pub fn new(parts: Parts, wake: mpsc::UnboundedSender<String>) -> Self {
        Self {
            parts,
            locks: KeyedLocks::default(),
            sandboxes: KeyedLocks::default(),
            collecting: RwLock::default(),
            wake,
            publishing: TaskTracker::new(),
            taken_over: Mutex::default(),
            own_updates: Arc::default(),
            sightings: Sightings::default(),
            nameservers: OnceLock::new(),
            figures: Figures::default(),
        }
    }

    /// The records.
    pub fn book(&self) -> &Book {
        &self.parts.book
    }

    /// What is counted of this node's containers.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// The container runtime.
    pub fn runtime(&self) -> &dyn Runtime {
        self.parts.runtime.as_ref()
    }

    /// Where it is told what happens.
    pub fn events(&self) -> &EventLog {
        &self.parts.events
    }

    /// The key of the label that names networks.
    pub fn label(&self) -> &str {
        &self.parts.label
    }

    /// Waits until no other work on this container is under way.
    pub async fn lock(&self, container: &str) -> KeyGuard {
        self.locks.lock(container).await
    }

    /// Whether work on this container is under way.
    pub(crate) fn is_worked_on(&self, container: &str) -> bool {
        self.locks.is_held(container)
    }

    /// Asks for a look at a container, soon.
    pub fn wake(&self, container: &str) {
        // The reconciler is gone only when the daemon ends.
        let _ = self.wake.send(container.to_owned());
    }

    /// A container and its task; `None` when the container does not exist.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn see(&self, container: &str) -> Result<Option<Seen>> {
        let runtime = self.runtime();
        let as_of = self.sightings.now();
        let (record, task) = tokio::join!(runtime.container(container), runtime.task(container));
        let Some(container) = record? else {
            return Ok(None);
        };
        let seen = Seen {
            container,
            task: task?,
        };
        if let Some(task) = seen.alive()
            && let Some(started) = self.parts.datapath.started(task.pid)
        {
            self.sightings.keep(as_of, &seen, started);
        }
        Ok(Some(seen))
    }

    /// As [`see`](Self::see), without waiting for the runtime when what it said
    /// last still holds: nothing was told of the container since, and the
    /// task's process is alive. While the runtime is away, being alive is enough.
    ///
    /// # Errors
    /// When the runtime must be asked and does not answer.
    pub(crate) async fn see_known(&self, container: &str) -> Result<Option<Seen>> {
        let started = |pid| self.parts.datapath.started(pid);
        let mut seen = match self.sightings.get(container, started) {
            Some(seen) => seen,
            None => match self.see(container).await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    let older = self.sightings.get_older(container, started);
                    older.ok_or(error)?
                }
                asked => return asked,
            },
        };
        if self.is_settled(container) {
            // Our own changes to it are no news, so this may be an old one.
            seen.container.extension = None;
        }
        Ok(Some(seen))
    }

    /// The runtime tells of a change to a container.
    pub(crate) fn changed(&self, container: &str) {
        self.sightings.forget(container);
    }

    /// The runtime may not have told of everything.
    pub(crate) fn all_may_have_changed(&self) {
        self.sightings.forget_all();
    }

    /// Lets go of what is kept for a container that is gone.
    pub(crate) async fn retire(&self, container: &str) {
        self.sightings.forget(container);
        self.parts.datapath.retire(&self.cni_id(container)).await;
        self.book().show_beside(container, BTreeMap::new());
        self.taken_over().remove(container);
    }

    fn taken_over(&self) -> MutexGuard<'_, HashMap<String, Left>> {
        self.taken_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a container's record is the truth.
    fn is_settled(&self, container: &str) -> bool {
        self.taken_over()
            .get(container)
            .is_some_and(BTreeMap::is_empty)
    }

    /// The CNI container id of this node's attachments.
    fn cni_id(&self, container: &str) -> String {
        format!("{}-{container}", self.runtime().namespace())
    }

    /// Waits until nothing is left to be written.
    pub async fn idle(&self) {
        self.publishing.close();
        self.publishing.wait().await;
    }

    /// Gives the container one default route: that of the network with the
    /// highest priority by label or configuration; among equals that of the
    /// first network its labels name, else of the first it was connected to.
    /// The others' stay as fall-backs. Plugins by themselves let the last one
    /// win. What others had put into the namespace before comes first, but for
    /// networks with a priority.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn order_routes(
        &self,
        record: &ContainerRecord,
        labels: &Labels,
    ) -> Result<()> {
        let mut attached: Vec<_> = record
            .attachments
            .iter()
            .filter(|a| a.phase == Phase::Attached)
            .collect();
        // Of those that went, names may be the container's own by now.
        let is_own = |name: &String| attached.iter().any(|a| a.interface == *name);
        let behind = attached.first().map(|a| a.behind.as_slice());
        let foreign = behind.unwrap_or_default().iter();
        let foreign: Vec<String> = foreign.filter(|name| !is_own(name)).cloned().collect();
        let (true, Some(netns)) = (
            attached.len() > 1 || !foreign.is_empty(),
            attached.iter().find_map(|a| a.netns.clone()),
        ) else {
            return Ok(());
        };
        let priority = |a: &Attachment| {
            let labelled = labels.gw_priorities.get(&a.network).copied();
            let configured = || ConfigList::parse(a.config.as_bytes()).ok()?.gw_priority;
            labelled.or_else(configured).unwrap_or(0)
        };
        attached.sort_by_cached_key(|a| {
            let named = labels.networks.iter().position(|n| n.network == a.network);
            (Reverse(priority(a)), named.unwrap_or(usize::MAX))
        });
        let first = attached.iter().filter(|a| priority(a) > 0).count();
        let mut interfaces: Vec<String> = attached.iter().map(|a| a.interface.clone()).collect();
        interfaces.splice(first..first, foreign.iter().cloned());
        let datapath = &self.parts.datapath;
        datapath.order_routes(&netns, &interfaces, &foreign).await
    }

    /// Removes pins that no record speaks of: a crash came between the end of
    /// an attachment and the end of its pin.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn sweep_pins(&self) -> Result<()> {
        for pin in self.parts.datapath.pins(&self.parts.pins).await? {
            let Some(container) = self.container_of_pin(&pin) else {
                continue;
            };
            let _guard = self.lock(&container).await;
            if !self.is_on_record(&pin) {
                self.remove_pin(&pin).await?;
            }
        }
        Ok(())
    }

    /// How many pins no record speaks of, without those of containers that are being
    /// worked on: they were made just now, or go in a moment. Those that were counted
    /// are gone afterwards, if they are to be.
    ///
    /// # Errors
    /// When the folder cannot be read, or a pin cannot be removed.
    pub(crate) async fn unused_pins(&self, remove: bool) -> Result<usize> {
        let mut unused = 0;
        for pin in self.parts.datapath.pins(&self.parts.pins).await? {
            let container = self.container_of_pin(&pin);
            let Some(container) = container.filter(|_| !self.is_on_record(&pin)) else {
                continue;
            };
            let Some(_guard) = self.lock(&container).now_or_never() else {
                continue;
            };
            // As it is now that nobody else works on it.
            if self.is_on_record(&pin) || !pin.try_exists().unwrap_or(true) {
                continue;
            }
            unused += 1;
            if remove {
                self.remove_pin(&pin).await?;
            }
        }
        Ok(unused)
    }

    fn is_on_record(&self, pin: &Path) -> bool {
        let records = self.book().records();
        let mut attachments = records.iter().flat_map(|record| &record.attachments);
        attachments.any(|attachment| attachment.netns.as_deref() == Some(pin))
    }

    async fn remove_pin(&self, pin: &Path) -> Result<()> {
        tracing::info!(pin = %pin.display(), "removing a namespace that nothing uses");
        self.parts.datapath.unpin(pin).await
    }

    fn container_of_pin(&self, pin: &Path) -> Option<String> {
        let name = pin.file_name()?.to_str()?;
        let (id, _) = name.rsplit_once('.')?;
        garbage::container_in(self.runtime().namespace(), id).map(str::to_owned)
    }
}

/// The error for a container nobody knows.
pub(crate) fn no_container(container: &str) -> Error {
    Error::not_found(format!(
        "container {container} does not exist: `ctr containers list` shows those that do"
    ))
}
