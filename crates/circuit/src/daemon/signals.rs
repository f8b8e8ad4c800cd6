//! The signals that end the daemon, and the one that does not.

use circuit_core::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns at the first SIGTERM or SIGINT, or when something else ends the
/// daemon. SIGHUP, by which tools ask daemons to read their settings anew, ends
/// nothing.
pub(super) async fn wait(shutdown: CancellationToken) -> Result<()> {
    let failed = |error| Error::internal(format!("cannot listen to signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    loop {
        tokio::select! {
            _ = term.recv() => tracing::info!("stopping on SIGTERM"),
            _ = int.recv() => tracing::info!("stopping on SIGINT"),
            Some(()) = hangup.recv() => {
                tracing::warn!("SIGHUP changes nothing: settings are read at a start alone");
                continue;
            }
            () = shutdown.cancelled() => {}
        }
        return Ok(());
    }
}
