//! The keeper of DHCP leases, for networks whose addresses come from a server.

use std::path::Path;

use circuit_core::{ErrorKind, Result};
use circuit_net::dhcp::{LeaseKeeper, Listener, Settings};

/// A keeper at a socket; none when another daemon is there.
pub(super) struct Leases {
    running: Option<(LeaseKeeper, Listener)>,
}

impl Leases {
    /// Starts a keeper whose leases are in `dir`, for plugins that call it at
    /// `socket`.
    pub(super) fn start(dir: &Path, socket: &Path) -> Result<Self> {
        let keeper = LeaseKeeper::start(dir, Settings::default())?;
        match keeper.listen(socket) {
            Ok(listener) => Ok(Self {
                running: Some((keeper, listener)),
            }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                tracing::info!(
                    "another dhcp daemon listens at {}: leases are its business",
                    socket.display()
                );
                keeper.stop();
                Ok(Self { running: None })
            }
            // Nobody may ever ask for a lease.
            Err(error) => {
                tracing::warn!("{error}: networks with ipam type dhcp will not work");
                keeper.stop();
                Ok(Self { running: None })
            }
        }
    }

    /// Ends; the leases stay, for the next keeper to renew.
    pub(super) async fn stop(self) {
        let Some((keeper, listener)) = self.running else {
            return;
        };
        let stopped = tokio::task::spawn_blocking(move || {
            drop(listener);
            keeper.stop();
        });
        if stopped.await.is_err() {
            tracing::error!("the keeper of leases hit a defect");
        }
    }
}
