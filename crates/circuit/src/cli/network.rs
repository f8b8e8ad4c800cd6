//! `circuit network`: networks and the attachments of containers.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use circuit_api::v1;

use super::client::{Client, answer, question};
use super::connect::{Attachment, Connect};
use super::create::{self, Create};
use super::inspect::{Inspect, Prune};
use super::output::{self, Failure, Format, FormatArg};
use super::transfer::{self, Pull, Push};
use super::{Failures, Global, unique};
use crate::table;

const CONNECT_EXAMPLES: &str = "\
Examples:
  circuit network connect shell ctr0
  circuit network connect db ctr0 --ip 10.88.0.7 --alias database
  circuit network connect web ctr0 -p 8080:80 -p 127.0.0.1:53:53/udp
  ctr task ls -q | circuit network connect - ctr0            everything that runs";

/// What can be done with networks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a network, from a few words or from a CNI configuration.
    ///
    /// A configuration is a list (conflist) or a single plugin's. It is checked
    /// before it is stored, and its own name must be NAME.
    #[command(after_help = create::EXAMPLES)]
    Create(Box<Create>),
    /// List the networks.
    #[command(visible_alias = "ls")]
    List(FormatArg),
    /// Print a network's CNI configuration as it was given to create.
    Info(Name),
    /// Show a network, its addresses and everyone on it.
    Inspect(Inspect),
    /// Delete networks that no container is connected to.
    #[command(visible_alias = "rm")]
    Delete(Delete),
    /// Connect a running container to a network.
    ///
    /// Connecting twice changes nothing and prints the same address. What is
    /// asked for holds until the container is disconnected, also when its task
    /// ends and starts again.
    #[command(after_help = CONNECT_EXAMPLES)]
    Connect(Box<Connect>),
    /// Disconnect a container from a network.
    Disconnect(Attachment),
    /// Delete all networks that no container uses or asks for.
    ///
    /// Networks that labels of containers name are kept, whether those run or
    /// not, and those on which other programs hold addresses or ports. Of other nodes
    /// of a fleet only connected containers are known, with --redis-url; without it,
    /// networks that they share are kept.
    Prune(Prune),
    /// Show the addresses of a container.
    Ips(Ips),
    /// Add the networks whose files are in a folder.
    Push(Push),
    /// Write the networks into a folder, as files.
    Pull(Pull),
}

/// One network.
#[derive(Debug, Args)]
pub struct Name {
    /// The network.
    name: String,
}

/// What `delete` takes.
#[derive(Debug, Args)]
pub struct Delete {
    /// The networks.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// Disconnect their containers first; those of other programs and nodes are left
    /// as they are.
    #[arg(short, long)]
    force: bool,
}

/// What `ips` takes.
#[derive(Debug, Args)]
pub struct Ips {
    /// The container's id.
    container: String,

    /// Only the addresses on this network.
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,

    /// Show also the node that it is on.
    #[arg(short, long)]
    wide: bool,

    #[command(flatten)]
    format: FormatArg,
}

impl Command {
    /// Asks the daemon.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Create(args) => args.run(global).await,
            Self::List(FormatArg { format }) => list(&Client::open(global).await?, format).await,
            Self::Info(Name { name }) => info(&Client::open(global).await?, name).await,
            Self::Delete(args) => delete(&Client::open(global).await?, args).await,
            Self::Connect(args) => args.run(&Client::open(global).await?).await,
            Self::Disconnect(args) => args.disconnect(&Client::open(global).await?).await,
            Self::Inspect(args) => args.run(&Client::open(global).await?).await,
            Self::Prune(args) => args.run(&Client::open(global).await?).await,
            Self::Ips(args) => ips(&Client::open(global).await?, args).await,
            Self::Push(args) => transfer::push(&Client::open(global).await?, args).await,
            Self::Pull(args) => transfer::pull(&Client::open(global).await?, args).await,
        }
    }
}

async fn list(client: &Client, format: Format) -> Result<(), Failure> {
    let request = question(v1::ListNetworksRequest {});
    let answer = answer(client.circuit().list_networks(request).await)?;
    let mut rows: Vec<[String; 2]> = answer
        .networks
        .into_iter()
        .map(|n| [n.name, first_type(&n.data)])
        .collect();
    // Servers before this one answered in no order.
    rows.sort();
    match format {
        Format::Table => {
            output::print(table::render(["NAME", "TYPE"], &rows).as_bytes())?;
            output::print_problems(&answer.problems);
            Ok(())
        }
        Format::Json => {
            let networks: Value = rows
                .iter()
                .map(|[name, kind]| json!({ "name": name, "type": kind }))
                .collect();
            let problems = output::problems_json(&answer.problems);
            output::print_json(&json!({ "networks": networks, "problems": problems }))
        }
    }
}

/// A stored configuration as JSON; it may have a byte order mark in front, as
/// `create` takes it.
pub(super) fn config(data: &[u8]) -> Option<Value> {
    let bytes = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    serde_json::from_slice(bytes).ok()
}

/// The type of the first plugin of a CNI configuration, or `-`.
fn first_type(data: &[u8]) -> String {
    let Some(config) = config(data) else {
        return "-".into();
    };
    let plugin = match config.get("plugins") {
        Some(plugins) => plugins.get(0),
        None => Some(&config),
    };
    match plugin
        .and_then(|plugin| plugin.get("type"))
        .and_then(Value::as_str)
    {
        Some(kind) if !kind.is_empty() => kind.to_owned(),
        _ => "-".into(),
    }
}

async fn info(client: &Client, name: String) -> Result<(), Failure> {
    let request = question(v1::GetNetworkRequest { name });
    let answer = answer(client.circuit().get_network(request).await)?;
    output::print(&answer.network.unwrap_or_default().data)?;
    output::print_problems(&answer.problems);
    Ok(())
}

async fn delete(client: &Client, args: Delete) -> Result<(), Failure> {
    let mut failures = Failures::default();
    for name in unique(args.names) {
        let request = v1::DeleteNetworkRequest {
            name: name.clone(),
            force: args.force,
        };
        let result = answer(client.circuit().delete_network(request).await);
        failures.keep(result.and_then(|()| output::print_line(&name)));
    }
    failures.finish()
}

async fn ips(client: &Client, args: Ips) -> Result<(), Failure> {
    let container = args.container;
    let network = args.network.unwrap_or_default();
    let request = question(v1::GetContainerIPsRequest {
        container: container.clone(),
        network,
    });
    let answer = answer(client.circuit().get_container_i_ps(request).await)?;
    match args.format.format {
        Format::Table if args.wide => {
            let row = |ip: v1::ContainerIp| [ip.network, ip.ip, ip.interface, ip.node];
            let rows: Vec<_> = answer.ips.into_iter().map(row).collect();
            let header = ["NETWORK", "IP", "INTERFACE", "NODE"];
            output::print(table::render(header, &rows).as_bytes())?;
            output::print_problems(&answer.problems);
            Ok(())
        }
        Format::Table => {
            let rows: Vec<_> = answer
                .ips
                .into_iter()
                .map(|ip| [ip.network, ip.ip, ip.interface])
                .collect();
            output::print(table::render(["NETWORK", "IP", "INTERFACE"], &rows).as_bytes())?;
            output::print_problems(&answer.problems);
            Ok(())
        }
        Format::Json => {
            let one = |ip: &v1::ContainerIp| {
                let mut shown =
                    json!({ "network": ip.network, "ip": ip.ip, "interface": ip.interface });
                if let Some(shown) = shown.as_object_mut().filter(|_| !ip.node.is_empty()) {
                    shown.insert("node".to_owned(), ip.node.clone().into());
                }
                shown
            };
            let ips: Value = answer.ips.iter().map(one).collect();
            let problems = output::problems_json(&answer.problems);
            output::print_json(&json!({ "container": container, "ips": ips, "problems": problems }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_the_first_plugins() {
        for (data, want) in [
            (
                r#"{"plugins":[{"type":"bridge"},{"type":"portmap"}]}"#,
                "bridge",
            ),
            (r#"{"type":"macvlan"}"#, "macvlan"),
            ("\u{feff}{\"type\":\"macvlan\"}", "macvlan"),
            (r#"{"plugins":[]}"#, "-"),
            (r#"{"plugins":{"type":"a"}}"#, "-"),
            (r#"{"type":1}"#, "-"),
            (r#"{"type":""}"#, "-"),
            (r#"[1]"#, "-"),
            ("not json", "-"),
        ] {
            assert_eq!(first_type(data.as_bytes()), want, "{data}");
        }
    }
}
