//! The keeper of DHCP leases, for networks whose addresses come from a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use circuit_core::{ErrorKind, Result};
use circuit_net::dhcp::{HostMark, LeaseKeeper, Listener, Settings, Timing};
use tokio::sync::mpsc;

use crate::datapath::Lender;

/// A plugin has so much time to say why there is no lease before it is given up.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A keeper at a socket; without one when another daemon is there: then it only keeps
/// what it has lent before.
pub(super) struct Leases {
    keeper: LeaseKeeper,
    listener: Option<Listener>,
    socket: PathBuf,
}

impl Leases {
    /// Starts a keeper whose leases are in `dir`, for plugins that call it at
    /// `socket` and are given up after `limit`.
    pub(super) fn start(dir: &Path, socket: &Path, limit: Duration) -> Result<Self> {
        let usual = Timing::default();
        let within = limit.saturating_sub(LAST_WORDS).max(limit / 2);
        let timing = Timing {
            acquisition: usual.acquisition.min(within),
            ..usual
        };
        let settings = Settings {
            timing,
            // Of all who ask here: their ids are those of containers, as ours are.
            host: HostMark::of_this_host(),
            ..Settings::default()
        };
        let keeper = LeaseKeeper::start(dir, settings)?;
        let listener = match keeper.listen(socket) {
            Ok(listener) => Some(listener),
            Err(error) => {
                if error.kind() == ErrorKind::AlreadyExists {
                    let socket = socket.display();
                    tracing::info!(
                        "another dhcp daemon listens at {socket}: new leases are its business"
                    );
                } else {
                    // Nobody may ever ask for a lease.
                    tracing::warn!("{error}: networks with ipam type dhcp will not work");
                }
                None
            }
        };
        Ok(Self {
            keeper,
            listener,
            socket: socket.to_owned(),
        })
    }

    /// Who lends addresses, or has lent them before.
    pub(super) fn lender(&self) -> Lender {
        Lender {
            keeper: self.keeper.clone(),
            socket: self.socket.clone(),
            listens: self.listener.is_some(),
        }
    }

    /// Has containers of a containerd namespace looked at whose leases are over.
    pub(super) fn wake(&self, namespace: &str, wake: mpsc::UnboundedSender<String>) {
        let prefix = format!("{namespace}-");
        self.keeper.on_end(move |holder| {
            if let Some(container) = holder.container_id.strip_prefix(&prefix) {
                // The reconciler is gone only when the daemon ends.
                let _ = wake.send(container.to_owned());
            }
        });
    }

    /// Ends; the leases stay, for the next keeper to renew.
    pub(super) async fn stop(self) {
        let stopped = tokio::task::spawn_blocking(move || {
            drop(self.listener);
            self.keeper.stop();
        });
        if stopped.await.is_err() {
            tracing::error!("the keeper of leases hit a defect");
        }
    }
}
