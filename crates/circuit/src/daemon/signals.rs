//! The signals that end the daemon, and the one that does not.

use circuit_core::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the daemon hears from here on: SIGTERM and SIGINT end it, and
/// SIGHUP, by which tools ask daemons to read their settings anew, ends nothing.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hangup: Signal,
}

impl Signals {
    /// # Errors
    /// When the runtime cannot hear them.
    pub(super) fn hear() -> Result<Self> {
        let hear = |kind| {
            signal(kind).map_err(|error| Error::internal(format!("cannot hear signals: {error}")))
        };
        Ok(Self {
            term: hear(SignalKind::terminate())?,
            int: hear(SignalKind::interrupt())?,
            hangup: hear(SignalKind::hangup())?,
        })
    }

    /// Returns at the first that ends the daemon.
    pub(super) async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.term.recv() => tracing::info!("stopping on SIGTERM"),
                _ = self.int.recv() => tracing::info!("stopping on SIGINT"),
                Some(()) = self.hangup.recv() => {
                    tracing::warn!("SIGHUP changes nothing: settings are read at a start alone");
                    continue;
                }
            }
            return;
        }
    }
}
