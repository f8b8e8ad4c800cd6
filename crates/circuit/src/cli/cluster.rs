//! `circuit cluster`: the nodes of the cluster.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use circuit_api::v1;

use super::Global;
use super::client::{Client, answer, question};
use super::human;
use super::output::{self, Failure, Format, FormatArg};
use crate::table;

/// What can be done about the cluster.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the nodes, sorted by name.
    Nodes(Listing),
    /// Show whether this node sees the cluster registry, and who was heard of when.
    Status(FormatArg),
}

/// How nodes are listed.
#[derive(Debug, Args)]
pub struct Listing {
    /// Show also each node's state, and when it was heard of.
    #[arg(short, long)]
    wide: bool,

    #[command(flatten)]
    format: FormatArg,
}

impl Command {
    /// Asks the daemon.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Nodes(listing) => nodes(&Client::open(global).await?, listing).await,
            Self::Status(FormatArg { format }) => {
                status(&Client::open(global).await?, format).await
            }
        }
    }
}

async fn nodes(client: &Client, listing: Listing) -> Result<(), Failure> {
    let request = question(v1::NodesRequest {});
    let mut nodes = answer(client.cluster().nodes(request).await)?.nodes;
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    match listing.format.format {
        Format::Table if listing.wide => output::print(wide(&nodes).as_bytes()),
        Format::Table => {
            let rows: Vec<_> = nodes.iter().map(row).collect();
            let header = ["NAME", "VERSION", "CPUS", "MEMORY", "UPTIME", "KERNEL"];
            output::print(table::render(header, &rows).as_bytes())
        }
        Format::Json => {
            let nodes: Value = nodes.iter().map(to_json).collect();
            output::print_json(&json!({ "nodes": nodes }))
        }
    }
}

async fn status(client: &Client, format: Format) -> Result<(), Failure> {
    let request = question(v1::StatusRequest {});
    let status = answer(client.cluster().status(request).await)?;
    match format {
        Format::Table => {
            output::print(described(&status).as_bytes())?;
            output::print(wide(&status.nodes).as_bytes())
        }
        Format::Json => {
            let nodes: Value = status.nodes.iter().map(to_json).collect();
            output::print_json(&json!({
                "registry": status.registry,
                "connected": status.connected,
                "failure": status.failure,
                "heard_ms": status.heard_ms,
                "lag_us": status.lag_us,
                "nonsense": status.nonsense,
                "nodes": nodes,
            }))
        }
    }
}

/// The registry in a few lines.
fn described(status: &v1::StatusResponse) -> String {
    if status.registry.is_empty() {
        return "registry:  none, this node is alone\n".to_owned();
    }
    let state = match status.connected {
        true => "connected".to_owned(),
        false if status.failure.is_empty() => "stale".to_owned(),
        false => format!("away, {}", status.failure),
    };
    let heard = status.heard_ms.map_or_else(|| "never".to_owned(), seen);
    let lag = Duration::from_micros(status.lag_us);
    let mut lines = format!(
        "registry:  {}\nstate:     {state}\nheard:     {heard}\nlag:       {:.1} ms\n",
        status.registry,
        lag.as_secs_f64() * 1000.0,
    );
    if status.nonsense > 0 {
        lines += &format!("ignored:   {} messages or records\n", status.nonsense);
    }
    lines
}

fn wide(nodes: &[v1::NodeInfo]) -> String {
    let row = |node: &v1::NodeInfo| {
        let [name, version, cpus, memory, uptime, kernel] = row(node);
        let seen = node.seen_ms.map_or_else(|| "-".to_owned(), seen);
        [
            name,
            version,
            cpus,
            memory,
            uptime,
            kernel,
            node.state.clone(),
            seen,
        ]
    };
    let rows: Vec<_> = nodes.iter().map(row).collect();
    let header = [
        "NAME", "VERSION", "CPUS", "MEMORY", "UPTIME", "KERNEL", "STATE", "SEEN",
    ];
    table::render(header, &rows)
}

/// A moment so many milliseconds ago.
fn seen(millis: u64) -> String {
    match millis {
        0..2000 => "now".to_owned(),
        _ => human::ago(millis / 1000),
    }
}

fn row(node: &v1::NodeInfo) -> [String; 6] {
    [
        node.name.clone(),
        node.version.clone(),
        node.cpus.to_string(),
        human::bytes(node.memory),
        human::ago(node.uptime),
        node.kernel_version.clone(),
    ]
}

fn to_json(node: &v1::NodeInfo) -> Value {
    json!({
        "name": node.name,
        "version": node.version,
        "cpus": node.cpus,
        "memory": node.memory,
        "uptime": node.uptime,
        "kernel_version": node.kernel_version,
        "state": node.state,
        "seen_ms": node.seen_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_told_in_words() {
        let node = v1::NodeInfo {
            name: "node-1".into(),
            version: "0.1.0".into(),
            cpus: 4,
            memory: 25_212_469_248,
            uptime: 2170,
            kernel_version: "6.18.5".into(),
            ..v1::NodeInfo::default()
        };
        assert_eq!(
            row(&node),
            ["node-1", "0.1.0", "4", "25 GB", "36 minutes ago", "6.18.5"]
        );
        assert_eq!(to_json(&node)["memory"], 25_212_469_248_u64);
    }
}
