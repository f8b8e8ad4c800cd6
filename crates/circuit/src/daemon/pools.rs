//! The keeper of address pools, for networks with ipam type `circuit`.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use circuit_core::{ErrorKind, Result, ipam::Timing};
use circuit_net::announce::answering_async;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    datapath::Giver,
    ipam::{Alone, InRedis, Keeper, Ledger, Listener, Parts, Shared, Wire},
    redis::Store,
};

/// As long as every node that is up needs to call a Redis that has come back:
/// it connects again within a second, and calls each second.
const MOMENT_MS: u64 = 3_000;

/// What the keeper needs to know.
pub(super) struct Settings<'a> {
    /// The folder of its journal.
    pub(super) state_dir: &'a Path,
    /// Where the driver finds it.
    pub(super) socket: &'a Path,
    /// The node's lasting id.
    pub(super) node: String,
    /// The node's name.
    pub(super) name: String,
    /// The time of a lease, in milliseconds.
    pub(super) lease_ms: u64,
    /// How long the addresses of a node that is away stay its own, in
    /// milliseconds.
    pub(super) grace_ms: u64,
    /// The cluster registry; without one, pools are this node's alone.
    pub(super) redis: Option<Store>,
}

/// A keeper at a socket.
pub(super) struct Pools {
    keeper: Arc<Keeper>,
    listener: Option<Listener>,
    socket: PathBuf,
}

impl Pools {
    /// Opens the keeper and its socket. When another daemon is at the socket,
    /// the driver goes there.
    pub(super) async fn open(settings: Settings<'_>) -> Result<Self> {
        let timing = Timing {
            lease: settings.lease_ms,
            grace: settings.grace_ms,
            moment: MOMENT_MS,
        };
        let ledger: Arc<dyn Ledger> = match settings.redis {
            Some(store) => Arc::new(Shared::new(InRedis::new(store), timing)),
            None => Arc::new(Alone::new(crate::ipam::fresh(), timing)),
        };
        let keeper = Keeper::open(Parts {
            ledger,
            wire: Arc::new(HostWire),
            state_dir: settings.state_dir.to_owned(),
            node: settings.node,
            name: settings.name,
            timing,
        })?;
        let listener = match Listener::bind(settings.socket, settings.state_dir).await {
            Ok(listener) => Some(listener),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                tracing::info!("{error}: pools are its business");
                None
            }
            // Nobody may ever ask for an address of a pool.
            Err(error) => {
                tracing::warn!("{error}: networks with ipam type circuit will not work");
                None
            }
        };
        Ok(Self {
            keeper: Arc::new(keeper),
            listener,
            socket: settings.socket.to_owned(),
        })
    }

    /// The keeper.
    pub(super) fn keeper(&self) -> Arc<Keeper> {
        Arc::clone(&self.keeper)
    }

    /// Who gives addresses, if it is us.
    pub(super) fn giver(&self) -> Option<Giver> {
        self.listener.as_ref().map(|_| Giver {
            holder: self.keeper() as _,
            socket: self.socket.clone(),
        })
    }

    /// Runs until `stop`.
    pub(super) fn run(self, stop: &CancellationToken) -> JoinHandle<()> {
        let (keeper, stop) = (self.keeper, stop.clone());
        tokio::spawn(async move {
            let serving = async {
                if let Some(listener) = self.listener {
                    listener.serve(Arc::clone(&keeper), stop.clone()).await;
                }
            };
            tokio::join!(serving, keeper.run(stop.clone()));
        })
    }
}

/// The wires that this host is on.
struct HostWire;

#[async_trait]
impl Wire for HostWire {
    async fn answering(&self, link: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>> {
        answering_async(link.to_owned(), addresses.to_vec()).await
    }
}
