//! `circuit cluster`: the nodes of the cluster.

use clap::Subcommand;
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
    Nodes(FormatArg),
}

impl Command {
    /// Asks the daemon.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Nodes(FormatArg { format }) => nodes(&Client::open(global).await?, format).await,
        }
    }
}

async fn nodes(client: &Client, format: Format) -> Result<(), Failure> {
    let request = question(v1::NodesRequest {});
    let mut nodes = answer(client.cluster().nodes(request).await)?.nodes;
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    match format {
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
        };
        assert_eq!(
            row(&node),
            ["node-1", "0.1.0", "4", "25 GB", "36 minutes ago", "6.18.5"]
        );
        assert_eq!(to_json(&node)["memory"], 25_212_469_248_u64);
    }
}
