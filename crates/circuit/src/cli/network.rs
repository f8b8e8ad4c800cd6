//! `circuit network`: networks and the attachments of containers.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use circuit_api::v1;

use super::client::{Client, answer, question};
use super::output::{self, Failure, Format, FormatArg};
use super::transfer::{self, Pull, Push};
use super::{Failures, Global, unique};
use crate::{table, text};

const CREATE_EXAMPLES: &str = "\
Examples:
  circuit network create ctr0 /etc/cni/net.d/ctr0.conflist
  sed s/10.1/10.2/ ctr0.conflist | circuit network create ctr0 -";

const CONNECT_EXAMPLES: &str = "\
Examples:
  circuit network connect shell ctr0
  circuit network connect db ctr0 --ip 10.88.0.7 --alias database
  circuit network connect web ctr0 -p 8080:80 -p 127.0.0.1:53:53/udp";

/// What can be done with networks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a network from a CNI configuration.
    ///
    /// The configuration is a list (conflist) or a single plugin's. It is
    /// checked before it is stored, and its own name must be NAME.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Create),
    /// List the networks.
    #[command(visible_alias = "ls")]
    List(FormatArg),
    /// Print a network's CNI configuration as it was given to create.
    Info(Name),
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
    /// Show the addresses of a container.
    Ips(Ips),
    /// Add the networks whose files are in a folder.
    Push(Push),
    /// Write the networks into a folder, as files.
    Pull(Pull),
}

/// What `create` takes.
#[derive(Debug, Args)]
pub struct Create {
    /// The network's name.
    name: String,

    /// The file with the CNI configuration; - reads standard input.
    #[arg(value_name = "CONFIG")]
    path: PathBuf,

    /// Accept an overlap with routes, resolvers and other networks, and replace
    /// a network of that name that no container is connected to.
    #[arg(short, long)]
    force: bool,
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

    /// Disconnect their containers first.
    #[arg(short, long)]
    force: bool,
}

/// A container and a network.
#[derive(Debug, Args)]
pub struct Attachment {
    /// The container's id.
    container: String,

    /// The network's name.
    network: String,
}

/// What `connect` takes.
#[derive(Debug, Args)]
pub struct Connect {
    #[command(flatten)]
    attachment: Attachment,

    /// A fixed address; several times or separated by commas for several.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    ip: Vec<String>,

    /// A fixed hardware address, like 02:42:0a:58:00:07.
    #[arg(long, value_name = "ADDRESS")]
    mac: Option<String>,

    /// A further name of the container on this network; several times or
    /// separated by commas for several.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    alias: Vec<String>,

    /// Publish a port: [ADDRESS:]HOSTPORT:CONTAINERPORT[/tcp|udp|sctp]; several
    /// times or separated by commas for several.
    #[arg(short, long, value_name = "PORT", value_delimiter = ',')]
    publish: Vec<String>,

    /// The interface inside the container; the first free eth0, eth1, … when
    /// not given.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
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
            Self::Create(args) => create(global, args).await,
            Self::List(FormatArg { format }) => list(&Client::open(global).await?, format).await,
            Self::Info(Name { name }) => info(&Client::open(global).await?, name).await,
            Self::Delete(args) => delete(&Client::open(global).await?, args).await,
            Self::Connect(args) => connect(&Client::open(global).await?, *args).await,
            Self::Disconnect(args) => disconnect(&Client::open(global).await?, args).await,
            Self::Ips(args) => ips(&Client::open(global).await?, args).await,
            Self::Push(args) => transfer::push(&Client::open(global).await?, args).await,
            Self::Pull(args) => transfer::pull(&Client::open(global).await?, args).await,
        }
    }
}

async fn create(global: &Global, args: Create) -> Result<(), Failure> {
    let data = read(&args.path)?;
    let client = Client::open(global).await?;
    let request = v1::CreateNetworkRequest {
        name: args.name,
        data,
        force: args.force,
    };
    answer(client.circuit().create_network(request).await)?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut data = Vec::new();
    let (result, from) = if path == Path::new("-") {
        (
            std::io::stdin().lock().read_to_end(&mut data),
            "standard input".to_owned(),
        )
    } else {
        let file = std::fs::File::open(path);
        (
            file.and_then(|mut file| file.read_to_end(&mut data)),
            path.display().to_string(),
        )
    };
    match result {
        Ok(_) => Ok(data),
        Err(e) => Err(format!("cannot read {from}: {}", text::io_error(&e)).into()),
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

/// The type of the first plugin of a CNI configuration, or `-`.
fn first_type(data: &[u8]) -> String {
    let Ok(config) = serde_json::from_slice::<Value>(data) else {
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
        failures.keep(result.and_then(|()| output::print_line(&name)))?;
    }
    failures.finish()
}

async fn connect(client: &Client, args: Connect) -> Result<(), Failure> {
    let Attachment { container, network } = args.attachment;
    let request = v1::ConnectRequest {
        container: container.clone(),
        network: network.clone(),
        ips: args.ip,
        mac: args.mac.unwrap_or_default(),
        aliases: args.alias,
        interface: args.interface.unwrap_or_default(),
        ports: args.publish,
    };
    let connected = answer(client.circuit().connect(request).await)?;
    output::print_line(&format!(
        "connected {container} to {network} with ip={}",
        connected.ip
    ))
}

async fn disconnect(client: &Client, args: Attachment) -> Result<(), Failure> {
    let Attachment { container, network } = args;
    let request = v1::DisconnectRequest {
        network: network.clone(),
        container: container.clone(),
    };
    answer(client.circuit().disconnect(request).await)?;
    output::print_line(&format!("disconnected {container} from {network}"))
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
