//! The signals that end the daemon.

use circuit_core::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns at the first SIGTERM or SIGINT, or when something else ends the
/// daemon.
pub(super) async fn wait(shutdown: CancellationToken) -> Result<()> {
    let failed = |error| Error::internal(format!("cannot listen to signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = term.recv() => tracing::info!("stopping on SIGTERM"),
        _ = int.recv() => tracing::info!("stopping on SIGINT"),
        () = shutdown.cancelled() => {}
    }
    Ok(())
}
