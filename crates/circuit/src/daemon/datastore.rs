//! Where the networks are, by the options.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use circuit_core::event::Kind;
use circuit_core::service::Attachments as _;
use circuit_core::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    attachments::{Attachments, NetworkSource},
    cli::server::ServerOptions,
    events::Happening,
    networks::{Fate, Surroundings, remove_left_bridge},
    redis::{self, Failure},
    store::{Change, Datastore, LocalStore, SharedStore, Store},
};

/// How long a start waits for the Redis with the networks. Without it, those
/// that this node remembers are there.
const PATIENCE: Duration = Duration::from_secs(3);

/// The networks, in each of the forms that somebody needs.
pub(super) struct Networks {
    pub(super) store: Arc<dyn Store>,
    pub(super) source: Arc<dyn NetworkSource>,
    /// The folder in which this node finds them.
    pub(super) folder: PathBuf,
    /// The Redis they are in.
    pub(super) redis: Option<redis::Store>,
    shared: Option<Arc<SharedStore>>,
    /// What became of them while this node was away.
    missed: Vec<Change>,
    /// Where they leave their bridges.
    host: Arc<dyn Surroundings>,
}

impl Networks {
    /// Opens the datastore; `registry` is a connection that it uses too, when it
    /// is to the same Redis.
    pub(super) async fn open(
        options: &ServerOptions,
        registry: Option<&redis::Store>,
        host: Arc<dyn Surroundings>,
    ) -> Result<Self> {
        let url = match &options.datastore {
            Datastore::Local(dir) => {
                let store = Arc::new(LocalStore::in_folder(dir.clone())?);
                return Ok(Self {
                    source: Arc::clone(&store) as _,
                    store,
                    folder: dir.clone(),
                    redis: None,
                    shared: None,
                    missed: Vec::new(),
                    host,
                });
            }
            Datastore::Shared(url) => url.clone(),
        };
        let about = |failure: Failure| Error::from(failure).context("--datastore");
        let redis = match registry.filter(|registry| registry.url() == &*url) {
            Some(registry) => registry.clone(),
            None => redis::Store::open(&url).map_err(about)?,
        };
        let up = redis.wait_up(PATIENCE).await;
        let dir = options.state_dir.join("networks");
        let shared = Arc::new(SharedStore::open(redis.clone(), &dir)?);
        let missed = match up {
            Ok(()) => missed(&shared).await?,
            Err(failure) if failure.is_unavailable() => {
                tracing::warn!(
                    "{url} does not answer: starting with the networks that this node remembers"
                );
                Vec::new()
            }
            Err(failure) => return Err(about(failure)),
        };
        Ok(Self {
            source: Arc::clone(&shared) as _,
            store: Arc::clone(&shared) as _,
            folder: dir,
            redis: Some(redis),
            shared: Some(shared),
            missed,
            host,
        })
    }

    /// Whether other nodes have the same networks.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Follows the changes of other nodes until `stop`; containers that wait for
    /// a network are looked at when it comes, and a bridge of its own goes with it.
    pub(super) async fn follow(self, attachments: Arc<Attachments>, stop: CancellationToken) {
        let Some(shared) = self.shared else {
            return stop.cancelled().await;
        };
        let store = Arc::clone(&shared);
        let (tell, mut changes) = mpsc::unbounded_channel();
        let wake = async {
            for change in &self.missed {
                clear(&store, self.host.as_ref(), change).await;
            }
            while let Some(change) = changes.recv().await {
                // Before a container comes that waits for the network.
                clear(&store, self.host.as_ref(), &change).await;
                told(&attachments, &change).await;
            }
        };
        tokio::join!(shared.follow(stop, tell), wake);
    }
}

/// What became of the networks while this node was away. A Redis that ends at this moment
/// and a disk that is full keep nobody from starting: they are compared again and again.
async fn missed(shared: &SharedStore) -> Result<Vec<Change>> {
    match shared.compare().await {
        Err(error) if error.kind() != ErrorKind::FailedPrecondition => {
            tracing::warn!("starting with the networks that this node remembers: {error}");
            Ok(Vec::new())
        }
        compared => compared,
    }
}

/// Tells of a network that another node has made or deleted.
async fn told(attachments: &Attachments, change: &Change) {
    let (kind, name, verb) = match change {
        Change::Came(name) => (Kind::NetworkCreated, name, "comes from"),
        Change::Replaced(network) => (Kind::NetworkCreated, &network.name, "is replaced in"),
        Change::Went(network) => (Kind::NetworkDeleted, &network.name, "is deleted in"),
    };
    tracing::info!("network {name} {verb} the shared datastore");
    attachments.events().tell(
        kind,
        Happening {
            network: name,
            message: "by another node of the fleet".to_owned(),
            ..Happening::default()
        },
    );
    if kind == Kind::NetworkCreated {
        attachments.network_created(name).await;
    }
}

/// Removes what this node still has of a network that is gone, or was another.
async fn clear(store: &SharedStore, host: &dyn Surroundings, change: &Change) {
    let (before, fate) = match change {
        Change::Came(_) => return,
        Change::Replaced(network) => (network, Fate::Replaced),
        Change::Went(network) => (network, Fate::Gone),
    };
    let mut others = match store.networks().await {
        Ok(others) => others,
        Err(error) => {
            tracing::warn!(network = before.name, "its bridge stays: {error}");
            return;
        }
    };
    // One that is back under its name has the bridge.
    others.retain(|other| fate == Fate::Gone || other.name != before.name);
    remove_left_bridge(host, (before, fate), &others).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use circuit_testing::RedisServer;

    use super::*;

    #[tokio::test]
    async fn a_redis_that_ends_at_the_start_does_not_end_the_start() {
        let mut server = RedisServer::start();
        let url = redis::Url::parse(&server.url()).unwrap();
        let store = redis::Store::open(&url).unwrap();
        store.wait_up(circuit_testing::PATIENCE).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let shared = SharedStore::open(store, dir.path()).unwrap();
        // One that refuses has to be put right.
        server.cli(&["set", "circuit:{fleet}:networks", "no hash"]);
        let refused = missed(&shared).await.map(drop).map_err(|e| e.kind());
        assert_eq!(refused, Err(ErrorKind::FailedPrecondition));
        server.kill();
        assert_eq!(missed(&shared).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_redis_that_takes_nothing_now_does_not_end_the_start() {
        let server = RedisServer::start();
        let url = redis::Url::parse(&server.url()).unwrap();
        let store = redis::Store::open(&url).unwrap();
        store.wait_up(circuit_testing::PATIENCE).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let network = circuit_testing::network::bridge("web", "10.88.0.0/16");
        std::fs::write(dir.path().join("web.json"), network).unwrap();
        let shared = SharedStore::open(store.clone(), dir.path()).unwrap();
        let known = || server.cli(&["hkeys", "circuit:{fleet}:networks"]);
        for (option, short, enough) in
            [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")]
        {
            server.cli(&["config", "set", option, short]);
            assert_eq!(missed(&shared).await.unwrap(), [], "{option}");
            assert_eq!(known(), "", "{option}");
            server.cli(&["config", "set", option, enough]);
            store.wait_up(circuit_testing::PATIENCE).await.unwrap();
        }
        missed(&shared).await.unwrap();
        assert_eq!(known(), "web");
    }
}
