//! `circuit container`: stopping and starting by hand.

use std::time::Duration;

use clap::{Args, Subcommand};

use circuit_api::v1;

use super::client::{Client, answer};
use super::output::{self, Failure};
use super::{Failures, Global, server::duration, unique};

/// What can be done with containers.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// End the tasks and suspend the restart policies until a start.
    ///
    /// A stopped container stays stopped, whatever its io.circuit.restart label
    /// says and however often the daemon restarts.
    #[command(
        after_help = "Examples:\n  circuit container stop web db\n  circuit container stop --timeout 1m db"
    )]
    Stop(Stopping),
    /// Start the tasks and put the restart policies in force again.
    Start(Starting),
    /// Stop, then start.
    Restart(Stopping),
}

/// Containers to stop.
#[derive(Debug, Args)]
pub struct Stopping {
    /// The containers.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,

    /// Time between the image's stop signal, or SIGTERM, and SIGKILL; the daemon's default is 10s.
    #[arg(short, long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

/// Containers to start.
#[derive(Debug, Args)]
pub struct Starting {
    /// The containers.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

impl Command {
    /// Asks the daemon, container by container.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = Client::open(global).await?;
        let mut failures = Failures::default();
        match self {
            Self::Stop(Stopping { names, timeout }) => {
                for name in unique(names) {
                    failures.keep(stop(&client, name, timeout).await);
                }
            }
            Self::Start(Starting { names }) => {
                for name in unique(names) {
                    failures.keep(start(&client, name).await);
                }
            }
            Self::Restart(Stopping { names, timeout }) => {
                for name in unique(names) {
                    failures.keep(restart(&client, name, timeout).await);
                }
            }
        }
        failures.finish()
    }
}

async fn stop(client: &Client, name: String, timeout: Option<Duration>) -> Result<(), Failure> {
    let timeout_seconds = timeout.map(seconds);
    let request = v1::StopRequest {
        container: name.clone(),
        timeout_seconds,
    };
    answer(client.containers().stop(request).await)?;
    output::print_line(&format!("stopped {name}"))
}

async fn start(client: &Client, name: String) -> Result<(), Failure> {
    let request = v1::StartRequest {
        container: name.clone(),
    };
    let started = answer(client.containers().start(request).await)?;
    output::print_line(&format!("started {name} with pid={}", started.pid))
}

async fn restart(client: &Client, name: String, timeout: Option<Duration>) -> Result<(), Failure> {
    let timeout_seconds = timeout.map(seconds);
    let request = v1::RestartRequest {
        container: name.clone(),
        timeout_seconds,
    };
    let started = answer(client.containers().restart(request).await)?;
    output::print_line(&format!("restarted {name} with pid={}", started.pid))
}

/// Whole seconds, upwards: half a second must not become none.
fn seconds(timeout: Duration) -> u32 {
    let whole = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    u32::try_from(whole).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_whole_seconds() {
        assert_eq!(seconds(Duration::from_millis(500)), 1);
        assert_eq!(seconds(Duration::from_secs(90)), 90);
        assert_eq!(seconds(Duration::ZERO), 0);
        assert_eq!(seconds(Duration::MAX - Duration::from_secs(1)), u32::MAX);
    }
}
