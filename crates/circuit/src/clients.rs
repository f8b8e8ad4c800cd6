//! Accepting clients for as long as the daemon lives, whatever they do.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::logging::DependencyLog;

/// The pause after a failed accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Whether a client of a loopback address is no program of this machine. The kernel lets
/// containers in there where a bridge has `route_localnet`, as the stock `portmap` sets it.
pub(crate) fn is_from_afar(at: SocketAddr, peer: SocketAddr) -> bool {
    at.ip().to_canonical().is_loopback() && !peer.ip().to_canonical().is_loopback()
}

/// The clients of one listener, as many at a time as may be.
pub(crate) struct Clients {
    permits: Arc<Semaphore>,
    health: DependencyLog,
}

impl Clients {
    /// At most so many at a time.
    pub(crate) fn new(most: usize) -> Self {
        let permits = Arc::new(Semaphore::new(most));
        Self {
            permits,
            health: DependencyLog::new("accepting connections"),
        }
    }

    /// The next one, once there is a place for it; the place is free again when the
    /// permit is dropped.
    pub(crate) async fn next<T, F>(
        &mut self,
        accept: impl Fn() -> F,
    ) -> Option<(OwnedSemaphorePermit, T)>
    where
        F: Future<Output = io::Result<T>>,
    {
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        loop {
            match accept().await {
                Ok(accepted) => {
                    self.health.recovered();
                    return Some((permit, accepted));
                }
                Err(e) => {
                    self.health.failed(&e);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}
