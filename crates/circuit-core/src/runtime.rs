//! What Circuit needs of a container runtime.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::SystemTime,
};

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::error::Result;
use crate::labels::CONTAINERD_STOPPED_LABEL;

/// A container's record in the runtime.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// What the extension `io.circuit.network` says: network → interface and
    /// address. `None` when there is no such extension.
    pub extension: Option<BTreeMap<String, ExtensionEntry>>,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// When its record was last changed, by whomever.
    pub changed_at: Option<SystemTime>,
    /// What its OCI specification mounts at `/etc/resolv.conf`, if it does: a path of
    /// the host.
    pub resolv_conf: Option<PathBuf>,
}

impl Container {
    /// Whether somebody stopped it by another program that says so, such as nerdctl: the
    /// restart policy rests until it is started by hand.
    pub fn is_stopped_elsewhere(&self) -> bool {
        let label = self.labels.get(CONTAINERD_STOPPED_LABEL);
        label.is_some_and(|label| label == "true")
    }
}

/// One network in the extension on the container's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionEntry {
    /// The interface inside the container.
    pub interface: String,
    /// One address, without prefix length.
    pub ip: String,
}

/// A task's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    /// Made, its process waits to be started.
    Created,
    /// Runs (or is paused, or about to be).
    Running,
    /// Has ended and was not deleted yet.
    Stopped,
    /// Who looks after it does not answer: it may well run.
    Unknown,
}

/// A container's task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The container's id.
    pub container: String,
    /// The pid of its first process.
    pub pid: u32,
    /// Its state.
    pub status: TaskStatus,
    /// The exit status, when it has ended.
    pub exit_status: u32,
    /// When it ended.
    pub exited_at: Option<SystemTime>,
}

impl Task {
    /// True while it has a network namespace, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.status != TaskStatus::Stopped
    }
}

/// What the runtime tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A container was made or deleted.
    Container {
        /// Its id.
        container: String,
    },
    /// A container's record was changed, by whomever.
    ContainerUpdated {
        /// Its id.
        container: String,
    },
    /// A task was made; its process does not run yet.
    TaskCreated {
        /// The container.
        container: String,
        /// The task's pid.
        pid: u32,
    },
    /// A task's process runs.
    TaskStarted {
        /// The container.
        container: String,
        /// The task's pid.
        pid: u32,
    },
    /// A task's first process has ended. Exits of exec'd processes are no
    /// events here.
    TaskExited {
        /// The container.
        container: String,
        /// The task's pid.
        pid: u32,
        /// Its exit status.
        status: u32,
        /// When it ended.
        at: Option<SystemTime>,
    },
    /// A task was deleted.
    TaskDeleted {
        /// The container.
        container: String,
    },
}

impl Event {
    /// The container it is about.
    pub fn container(&self) -> &str {
        match self {
            Self::Container { container }
            | Self::ContainerUpdated { container }
            | Self::TaskCreated { container, .. }
            | Self::TaskStarted { container, .. }
            | Self::TaskExited { container, .. }
            | Self::TaskDeleted { container } => container,
        }
    }
}

/// An event, and when it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What happened.
    pub event: Event,
    /// When, by the runtime's clock, if it says so.
    pub at: Option<SystemTime>,
}

/// A container runtime; one namespace of containerd.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// The namespace.
    fn namespace(&self) -> &str;

    /// Every namespace that there is.
    async fn namespaces(&self) -> Result<Vec<String>>;

    /// Every container.
    async fn containers(&self) -> Result<Vec<Container>>;

    /// One container; `None` when it does not exist.
    async fn container(&self, id: &str) -> Result<Option<Container>>;

    /// Every task.
    async fn tasks(&self) -> Result<Vec<Task>>;

    /// A container's task; `None` when it has none.
    ///
    /// # Errors
    /// Also when nothing is known of it: of a task that may be there it must not be
    /// said that there is none.
    async fn task(&self, id: &str) -> Result<Option<Task>>;

    /// Writes the extension `io.circuit.network`; a container that is gone is
    /// no error.
    async fn set_extension(
        &self,
        id: &str,
        networks: &BTreeMap<String, ExtensionEntry>,
    ) -> Result<()>;

    /// Takes back that somebody stopped it, by the label that says so to others
    /// ([`CONTAINERD_STOPPED_LABEL`](crate::labels::CONTAINERD_STOPPED_LABEL)); a
    /// container that is gone is no error.
    async fn clear_stopped(&self, id: &str) -> Result<()>;

    /// Makes a task, whose process then waits to be started, and returns its
    /// pid. `log` is an address for its output, as containerd's shims take it.
    async fn create_task(&self, id: &str, log: Option<&str>) -> Result<u32>;

    /// Starts the process of a task that was made.
    async fn start_task(&self, id: &str) -> Result<()>;

    /// Ends and deletes a task that was made and cannot be started, also when
    /// its container was deleted meanwhile.
    async fn discard_task(&self, id: &str) -> Result<()>;

    /// Returns when the task's first process has ended, or there is none.
    async fn wait_task(&self, id: &str) -> Result<()>;

    /// Sends a signal to a task's first process.
    async fn kill_task(&self, id: &str, signal: u32) -> Result<()>;

    /// Deletes an ended task; one that is gone is no error.
    async fn delete_task(&self, id: &str) -> Result<()>;

    /// Subscribes, within moments. The stream ends with an error when the
    /// runtime goes away; what happened before must be asked for.
    fn events(&self) -> BoxStream<'static, Result<Notice>>;
}
