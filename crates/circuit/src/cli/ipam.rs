//! `circuit ipam`: the pools of addresses that nodes share.

use circuit_api::v1;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Global;
use super::client::{Client, answer, question};
use super::output::{self, Failure, Format, FormatArg};
use crate::table;

/// What can be done about addresses.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the addresses that nodes hold.
    #[command(alias = "list")]
    Ls(Ls),
    /// Free an address, or all of a node that is gone for good.
    Release(Release),
}

/// The arguments of `circuit ipam ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// Only addresses of this pool.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,

    /// Only addresses that are used on this network.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,

    /// Show free addresses too, the interface, and for how long the node's claim
    /// holds.
    #[arg(long)]
    wide: bool,

    #[command(flatten)]
    format: FormatArg,
}

/// The arguments of `circuit ipam release`.
#[derive(Debug, Args)]
#[command(after_help = "\
What a node holds that lives is only freed with --force, in use or in stock: two
containers may have it then. Disconnecting the container frees it as well. Before it is
given again, the wire is asked who has it; with --force, one that is abandoned already
is given without a question.")]
pub struct Release {
    // The global flag has the id `address`.
    /// The address.
    #[arg(id = "released", value_name = "IP", required_unless_present = "node")]
    address: Option<String>,

    /// Free every address of this node.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["released", "pool"])]
    node: Option<String>,

    /// The pool that has the address, when several have.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,

    /// Free it although its node lives.
    #[arg(long)]
    force: bool,
}

impl Command {
    /// Asks the daemon.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = Client::open(global).await?;
        match self {
            Self::Ls(arguments) => ls(&client, arguments).await,
            Self::Release(arguments) => release(&client, arguments).await,
        }
    }
}

async fn ls(client: &Client, arguments: Ls) -> Result<(), Failure> {
    let request = question(v1::ListAddressesRequest {
        pool: arguments.pool.unwrap_or_default(),
        network: arguments.network.unwrap_or_default(),
    });
    let addresses = answer(client.ipam().list_addresses(request).await)?.addresses;
    match arguments.format.format {
        Format::Json => {
            let addresses: Value = addresses.iter().map(to_json).collect();
            output::print_json(&json!({ "addresses": addresses }))
        }
        Format::Table if arguments.wide => {
            let rows: Vec<_> = addresses.iter().map(wide).collect();
            let header = [
                "POOL",
                "ADDRESS",
                "STATE",
                "NODE",
                "NETWORK",
                "CONTAINER",
                "INTERFACE",
                "CLAIM",
            ];
            output::print(table::render(header, &rows).as_bytes())
        }
        Format::Table => {
            let used = addresses.iter().filter(|address| address.state != "spare");
            let rows: Vec<_> = used.map(row).collect();
            let header = ["POOL", "ADDRESS", "STATE", "NODE", "NETWORK", "CONTAINER"];
            output::print(table::render(header, &rows).as_bytes())
        }
    }
}

async fn release(client: &Client, arguments: Release) -> Result<(), Failure> {
    let request = v1::ReleaseAddressesRequest {
        address: arguments.address.unwrap_or_default(),
        node: arguments.node.unwrap_or_default(),
        pool: arguments.pool.unwrap_or_default(),
        force: arguments.force,
    };
    let freed = answer(client.ipam().release_addresses(request).await)?.addresses;
    for address in freed {
        output::print_line(&address.address)?;
    }
    Ok(())
}

fn row(address: &v1::PoolAddress) -> [String; 6] {
    [
        address.pool.clone(),
        address.address.clone(),
        address.state.clone(),
        address.node.clone(),
        address.network.clone(),
        address.container.clone(),
    ]
}

fn wide(address: &v1::PoolAddress) -> [String; 8] {
    let [pool, ip, state, node, network, container] = row(address);
    let claim = match address.claim_seconds {
        0 => "ended".to_owned(),
        seconds => format!("{seconds}s"),
    };
    [
        pool,
        ip,
        state,
        node,
        network,
        container,
        address.interface.clone(),
        claim,
    ]
}

fn to_json(address: &v1::PoolAddress) -> Value {
    json!({
        "pool": address.pool,
        "address": address.address,
        "state": address.state,
        "node": address.node,
        "network": address.network,
        "container": address.container,
        "interface": address.interface,
        "claim_seconds": address.claim_seconds,
    })
}
