//! This node's place in its fleet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use circuit_core::fleet::Record;
use circuit_core::service::{Lookups, NodeInfo, Nodes};
use circuit_core::{Error, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    attachments::Attachments,
    cli::server::ServerOptions,
    files,
    node::{Alone, this_node},
    overview::Elsewhere,
    redis,
    registry::{Local, Member, Registry, Settings},
};

/// How long a start waits for the registry.
const PATIENCE: Duration = Duration::from_secs(3);

/// The connection to the cluster registry, which begins to be made.
///
/// # Errors
/// When a certificate that the URL names cannot be used.
pub(super) fn connect(options: &ServerOptions) -> Result<Option<redis::Store>> {
    let open = |url| redis::Store::open(url);
    let opened = options.redis.as_ref().map(open).transpose();
    opened.map_err(|failure| Error::from(failure).context("--redis-url"))
}

/// The fleet, or this node alone.
pub(super) struct Fleet {
    pub(super) nodes: Arc<dyn Nodes>,
    /// None when this node is alone.
    pub(super) lookups: Option<Arc<dyn Lookups>>,
    /// None when this node is alone.
    pub(super) elsewhere: Option<Arc<dyn Elsewhere>>,
    /// The registry's Redis.
    pub(super) redis: Option<redis::Store>,
    member: Option<Member>,
}

impl Fleet {
    /// Joins by that connection; without one, this node is alone.
    pub(super) async fn join(
        options: &ServerOptions,
        store: Option<redis::Store>,
        attachments: &Arc<Attachments>,
    ) -> Result<Self> {
        let Some(store) = store else {
            return Ok(Self {
                nodes: Arc::new(Alone::new(&options.node_name)),
                lookups: None,
                elsewhere: None,
                redis: None,
                member: None,
            });
        };
        let settings = Settings {
            name: options.node_name.clone(),
            id: node_id(&options.state_dir)?,
            life: node_life(&options.state_dir)?,
            heartbeat: options.heartbeat,
            lease: options.lease,
            leave_on_stop: options.leave_on_stop,
        };
        let local: Arc<dyn Local> = Arc::new(Containers {
            attachments: Arc::clone(attachments),
            node: options.node_name.clone(),
        });
        let redis = Some(store.clone());
        let member = Member::join(store, settings, local, PATIENCE).await?;
        let lookup = Arc::new(member.lookup(Arc::clone(attachments) as _));
        Ok(Self {
            nodes: Arc::clone(&lookup) as _,
            elsewhere: Some(Arc::clone(&lookup) as _),
            lookups: Some(lookup),
            redis,
            member: Some(member),
        })
    }

    /// What is known of others; none when this node is alone.
    pub(super) fn registry(&self) -> Option<Arc<Registry>> {
        self.member.as_ref().map(Member::registry)
    }

    /// Keeps the place until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        match self.member {
            Some(member) => member.run(stop).await,
            None => stop.cancelled().await,
        }
    }
}

/// What this node tells others of.
struct Containers {
    attachments: Arc<Attachments>,
    node: String,
}

impl Local for Containers {
    fn containers(&self) -> Vec<Arc<Record>> {
        let snapshot = self.attachments.book().snapshot();
        snapshot.records().cloned().collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.attachments.book().changes()
    }

    fn info(&self) -> NodeInfo {
        this_node(&self.node)
    }
}

/// The id that this node keeps for ever, made when there is none.
pub(super) fn node_id(dir: &Path) -> Result<String> {
    let file = Kept::new(dir, "node-id");
    if let Some(id) = file.read()? {
        return Ok(id);
    }
    let id = format!("{:032x}", rand::random::<u128>());
    file.write(&id).map_err(|error| file.failed(&error))?;
    Ok(id)
}

/// How often this node was started, this time too.
fn node_life(dir: &Path) -> Result<u64> {
    let file = Kept::new(dir, "node-life");
    let before: u64 = file.read()?.and_then(|text| text.parse().ok()).unwrap_or(0);
    let life = before.saturating_add(1);
    match file.write(&life.to_string()) {
        Err(error) if files::is_full(&error) => {
            // The next life must not be taken for a copy of this one.
            if file.overwrite(&life.to_string()).is_err() {
                // The journals, too, go on without room for another file.
                tracing::error!("{}", file.failed(&error));
            }
        }
        written => written.map_err(|error| file.failed(&error))?,
    }
    Ok(life)
}

/// A word that a node keeps in its state folder.
struct Kept(PathBuf);

impl Kept {
    fn new(dir: &Path, name: &str) -> Self {
        Self(dir.join(name))
    }

    fn read(&self) -> Result<Option<String>> {
        match fs::read_to_string(&self.0) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        files::replace(&self.0, format!("{text}\n").as_bytes())
    }

    fn overwrite(&self, text: &str) -> io::Result<()> {
        files::overwrite(&self.0, format!("{text}\n").as_bytes())
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::precondition(format!(
            "cannot keep what this node is in {}: {}",
            self.0.display(),
            crate::text::io_error(error)
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_id_and_counts_its_lives() {
        let dir = tempfile::tempdir().unwrap();
        let id = node_id(dir.path()).unwrap();
        assert_eq!(node_id(dir.path()).unwrap(), id);
        assert_eq!(node_life(dir.path()).unwrap(), 1);
        assert_eq!(node_life(dir.path()).unwrap(), 2);
        fs::write(dir.path().join("node-life"), "nonsense").unwrap();
        assert_eq!(node_life(dir.path()).unwrap(), 1);
        assert!(node_id(&dir.path().join("missing")).is_err());
    }
}
