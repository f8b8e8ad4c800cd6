//! `circuit dns`: names of containers.

use circuit_api::v1;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Global;
use super::client::{Client, answer, question};
use super::output::{self, Failure, Format, FormatArg};
use crate::table;

/// What can be found out about names.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask the daemon for a name, and show where the answer came from.
    Query(Query),
    /// List every name that leads to an address or a port.
    #[command(alias = "ls")]
    Dump(Dump),
}

/// The arguments of `circuit dns query`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  circuit dns query web.ctr0
  circuit dns query web.circuit.internal AAAA
  circuit dns query 10.88.0.7              which container has this address")]
pub struct Query {
    /// A name, or an address to find the name of.
    name: String,

    /// A, AAAA, PTR, SRV, …
    #[arg(value_name = "TYPE")]
    kind: Option<String>,

    #[command(flatten)]
    format: FormatArg,
}

/// The arguments of `circuit dns dump`.
#[derive(Debug, Args)]
pub struct Dump {
    /// Only names that end so: a domain, or a network in it.
    #[arg(value_name = "SUFFIX")]
    suffix: Option<String>,

    #[command(flatten)]
    format: FormatArg,
}

impl Command {
    /// Asks the daemon.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = Client::open(global).await?;
        match self {
            Self::Query(arguments) => query(&client, arguments).await,
            Self::Dump(arguments) => dump(&client, arguments).await,
        }
    }
}

async fn query(client: &Client, arguments: Query) -> Result<(), Failure> {
    let name = arguments.name.clone();
    let request = question(v1::QueryNameRequest {
        name: arguments.name,
        r#type: arguments.kind.unwrap_or_default(),
    });
    let told = answer(client.dns().query_name(request).await)?;
    match arguments.format.format {
        Format::Json => output::print_json(&json!({
            "code": told.code,
            "records": told.records.iter().map(to_json).collect::<Value>(),
            "source": told.source,
            "nodes": told.nodes,
            "micros": told.micros,
        }))?,
        Format::Table => {
            let rows: Vec<_> = told.records.iter().map(answered).collect();
            if !rows.is_empty() {
                let header = ["NAME", "TYPE", "TTL", "DATA"];
                output::print(table::render(header, &rows).as_bytes())?;
            }
            output::print_line(&format!("{}: {}", told.code, source(&told)))?;
        }
    }
    match &*told.code {
        "NOERROR" if !told.records.is_empty() => Ok(()),
        "NOERROR" => Err(format!("{name} exists and has no such record").into()),
        "NXDOMAIN" => Err(format!("{name} does not exist").into()),
        code => Err(format!("{name} cannot be resolved: {code}").into()),
    }
}

/// Where an answer came from, in words.
fn source(told: &v1::QueryNameResponse) -> String {
    let time = format!("{}.{:03} ms", told.micros / 1000, told.micros % 1000);
    match (&*told.source, told.nodes.as_slice()) {
        ("zone", []) => format!("from the daemon's zones, in {time}"),
        ("zone", nodes) => format!("from containers on {}, in {time}", nodes.join(", ")),
        ("upstream", _) => format!("from another server, in {time}"),
        _ => format!("no server answered, in {time}"),
    }
}

async fn dump(client: &Client, arguments: Dump) -> Result<(), Failure> {
    let request = question(v1::ListNamesRequest {
        suffix: arguments.suffix.unwrap_or_default(),
    });
    let records = answer(client.dns().list_names(request).await)?.records;
    match arguments.format.format {
        Format::Json => {
            let records: Value = records.iter().map(to_json).collect();
            output::print_json(&json!({ "records": records }))
        }
        Format::Table => {
            let rows: Vec<_> = records.iter().map(listed).collect();
            let header = ["NAME", "TYPE", "DATA", "NODE"];
            output::print(table::render(header, &rows).as_bytes())
        }
    }
}

fn answered(record: &v1::NameRecord) -> [String; 4] {
    let (name, kind, data) = fields(record);
    [name, kind, record.ttl.to_string(), data]
}

fn listed(record: &v1::NameRecord) -> [String; 4] {
    let (name, kind, data) = fields(record);
    [name, kind, data, record.node.clone()]
}

fn fields(record: &v1::NameRecord) -> (String, String, String) {
    (
        record.name.clone(),
        record.r#type.clone(),
        record.data.clone(),
    )
}

fn to_json(record: &v1::NameRecord) -> Value {
    json!({
        "name": record.name,
        "type": record.r#type,
        "data": record.data,
        "ttl": record.ttl,
        "node": record.node,
    })
}
