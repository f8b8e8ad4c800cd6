//! The command line: one module a noun. Client commands know the daemon by its
//! API only.

mod client;
mod cluster;
pub mod config;
mod connect;
mod container;
mod create;
mod dns;
mod doctor;
mod events;
pub mod generate;
mod human;
mod inspect;
mod ipam;
mod network;
mod output;
mod progress;
mod ps;
pub mod server;
mod top;
mod transfer;

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{ArgAction, Args, Parser, Subcommand};

pub use output::{Failure, print_error};

use crate::logging::LogFormat;

/// What `--version` prints after the name; the build may be told its commit.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("CIRCUIT_COMMIT")
        .filter(|c| !c.is_empty())
        .unwrap_or("HEAD");
    format!("version {} ({commit})", env!("CARGO_PKG_VERSION"))
});

const EXAMPLES: &str = "\
Examples:
  circuit server                                  run the daemon
  circuit doctor                                  examine what it stands on
  circuit network create web --dns                add a network in a few words
  circuit network create ctr0 bridge.conflist     add one from a CNI file
  circuit network connect shell web               connect a running container
  circuit ps                                      show containers and addresses
  circuit -a https://node1:8080 --tls-ca ca.pem network ls";

/// Container networking for plain containerd: the daemon and its client.
#[derive(Debug, Parser)]
#[command(name = "circuit", version = VERSION.as_str(), disable_version_flag = true, after_help = EXAMPLES)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,

    /// Print the version.
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command; they may stand before it or after it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The configuration file, which may give every flag that is not given here;
    /// /etc/circuit/config.toml, if it exists, or the environment variable
    /// CIRCUIT_CONFIG.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The daemon's address: host:port, :port or unix:///path, for clients also
    /// https://host:port.
    ///
    /// For clients it names the server, by default unix:///run/circuit/circuit.sock,
    /// then 127.0.0.1:8080. For the server it says where to listen; it may be
    /// given several times, and the default is both.
    #[arg(short, long, global = true, value_name = "ADDRESS")]
    pub address: Vec<String>,

    /// Log what happens in detail.
    #[arg(short = 'D', long, global = true)]
    pub debug: bool,

    /// How log lines look.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,

    /// Server: PEM file with its certificate. Client: a certificate to trust,
    /// where --tls-ca is not given.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_server_cert: Option<PathBuf>,

    /// Server: PEM file with the key of its certificate.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_server_key: Option<PathBuf>,

    /// Server: PEM file with the authorities that every client's certificate
    /// must come from.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Client: PEM file with the authorities that the server's certificate must
    /// come from, or with that certificate; the system's when absent.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// Client: PEM file with the certificate to show.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_client_cert: Option<PathBuf>,

    /// Client: PEM file with the key of that certificate.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_client_key: Option<PathBuf>,

    /// Client: talk TLS and accept any certificate of the server.
    #[arg(long, global = true)]
    pub tls_skip_verify: bool,

    /// Accepted for compatibility; this build profiles nothing.
    #[arg(long, global = true, value_name = "WHAT")]
    pub profile: Option<String>,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon.
    Server(Box<server::ServerArgs>),
    /// Manage networks and who is connected to them.
    #[command(subcommand)]
    Network(network::Command),
    /// Look at the nodes of the cluster.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Stop and start containers in agreement with their restart policy.
    #[command(subcommand)]
    Container(container::Command),
    /// Look at the address pools that nodes share.
    #[command(subcommand)]
    Ipam(ipam::Command),
    /// Look at the names of containers.
    #[command(subcommand)]
    Dns(dns::Command),
    /// List containers with their networks, addresses, ports and restarts.
    Ps(ps::Ps),
    /// Examine the server's node: what it stands on, and what it has made.
    Doctor(doctor::Doctor),
    /// Show containers and their traffic, live.
    Top(top::Top),
    /// Print what happens, as it happens.
    Events(events::Events),
    /// Serve one call as a CNI plugin, for container runtimes.
    Cni(CniArgs),
    /// Print what makes a shell complete circuit's commands.
    Completions(generate::CompletionsArgs),
    /// Print the manual page, or write those of all commands.
    Man(generate::ManArgs),
}

impl Command {
    /// Whether it talks to a daemon.
    fn is_of_a_client(&self) -> bool {
        match self {
            Self::Network(_)
            | Self::Cluster(_)
            | Self::Container(_)
            | Self::Ipam(_)
            | Self::Dns(_)
            | Self::Ps(_)
            | Self::Doctor(_)
            | Self::Top(_)
            | Self::Events(_) => true,
            Self::Server(_) | Self::Cni(_) | Self::Completions(_) | Self::Man(_) => false,
        }
    }
}

/// The arguments of `circuit cni`.
#[derive(Debug, Args)]
#[command(after_help = "\
The call is in the environment (CNI_COMMAND and its like) and on standard input,
as the CNI specification says. Links to circuit under the names of plugins do the
same: ln -s /usr/bin/circuit /opt/cni/bin/bridge")]
pub struct CniArgs {
    /// The plugin's type, such as bridge.
    #[arg(value_name = "TYPE")]
    pub kind: String,
}

/// A command that talks to a daemon.
#[derive(Debug)]
pub enum ClientCommand {
    /// `circuit network`.
    Network(network::Command),
    /// `circuit cluster`.
    Cluster(cluster::Command),
    /// `circuit container`.
    Container(container::Command),
    /// `circuit ipam`.
    Ipam(ipam::Command),
    /// `circuit dns`
    Dns(dns::Command),
    /// `circuit ps`
    Ps(ps::Ps),
    /// `circuit doctor`
    Doctor(doctor::Doctor),
    /// `circuit top`
    Top(top::Top),
    /// `circuit events`
    Events(events::Events),
}

/// Runs a client command.
///
/// # Errors
/// With the text to tell the user.
pub async fn run(global: &Global, command: ClientCommand) -> Result<(), Failure> {
    match command {
        ClientCommand::Network(command) => command.run(global).await,
        ClientCommand::Cluster(command) => command.run(global).await,
        ClientCommand::Container(command) => command.run(global).await,
        ClientCommand::Ipam(command) => command.run(global).await,
        ClientCommand::Dns(command) => command.run(global).await,
        ClientCommand::Ps(command) => command.run(global).await,
        ClientCommand::Doctor(command) => command.run(global).await,
        ClientCommand::Top(command) => command.run(global).await,
        ClientCommand::Events(command) => command.run(global).await,
    }
}

/// Failures of a command that goes on after one of several names failed, and when
/// nobody reads any more what was done.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    /// Keeps the failure, if it is one to tell of.
    fn keep(&mut self, result: Result<(), Failure>) {
        if let Err(Failure::Message(message)) = result {
            self.0.push(message);
        }
    }

    /// All failures in one.
    fn finish(self) -> Result<(), Failure> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(self.0.join("; ").into())
        }
    }
}

/// Names without repetition, in the order given.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    names
        .into_iter()
        .filter(|name| seen.insert(name.clone()))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_and_after_the_command() {
        for line in [
            "circuit -a node1:1 -D network ls",
            "circuit network -a node1:1 -D ls",
            "circuit network ls --address node1:1 --debug",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.address, ["node1:1"], "{line}");
            assert!(cli.global.debug, "{line}");
        }
    }

    #[test]
    fn every_command_of_the_original_parses() {
        for line in [
            "circuit server",
            "circuit --debug --profile cpu --tls-skip-verify server --redis-url redis://a",
            "circuit --tls-server-cert a --tls-server-key b server",
            "circuit server --containerd /a --containerd-namespace b --datastore local:///c",
            "circuit server --network-label a --cni-path /b --node-name c",
            "circuit server -l a",
            "circuit network create a b",
            "circuit network list",
            "circuit network ls",
            "circuit network info a",
            "circuit network delete a",
            "circuit network rm a",
            "circuit network connect a b",
            "circuit network disconnect a b",
            "circuit network ips a",
            "circuit cluster nodes",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_usage_is_code_2() {
        for line in [
            "circuit",
            "circuit network",
            "circuit nonsense",
            "circuit network ips",
        ] {
            assert_eq!(
                Cli::try_parse_from(line.split(' '))
                    .unwrap_err()
                    .exit_code(),
                2,
                "{line}"
            );
        }
        let version = Cli::try_parse_from(["circuit", "-v"]).unwrap_err();
        assert_eq!(version.exit_code(), 0);
        let want = format!("circuit version {} (", env!("CARGO_PKG_VERSION"));
        assert!(version.to_string().starts_with(&want), "{version}");
    }

    #[test]
    fn failures_are_told_in_one() {
        let mut failures = Failures::default();
        failures.keep(Err("a is away".to_owned().into()));
        failures.keep(Ok(()));
        failures.keep(Err(Failure::Unread));
        failures.keep(Err("b is away".to_owned().into()));
        let Err(Failure::Message(message)) = failures.finish() else {
            unreachable!()
        };
        assert_eq!(message, "a is away; b is away");
    }
}
