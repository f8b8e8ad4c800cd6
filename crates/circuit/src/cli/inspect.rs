//! `circuit network inspect` and `prune`.

use circuit_api::v1;
use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, answer, question};
use super::network::config;
use super::output::{self, Failure, Format, FormatArg};
use super::progress::{Progress, interruption};
use super::ps::network_json;
use crate::table;

/// What `inspect` takes.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The network.
    name: String,

    #[command(flatten)]
    format: FormatArg,
}

/// What `prune` takes.
#[derive(Debug, Args)]
pub struct Prune {
    /// Only say which would be deleted, and why the others are kept.
    #[arg(long)]
    dry_run: bool,
}

impl Inspect {
    /// Asks the daemon.
    pub(super) async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = question(v1::InspectNetworkRequest { name: self.name });
        let seen = answer(client.networks().inspect(request).await)?;
        match self.format.format {
            Format::Table => {
                output::print(text(&seen).as_bytes())?;
                output::print_problems(&seen.problems);
                Ok(())
            }
            Format::Json => output::print_json(&to_json(&seen)),
        }
    }
}

fn text(seen: &v1::InspectNetworkResponse) -> String {
    let network = seen.network.clone().unwrap_or_default();
    let or_none = |text: String| match text.is_empty() {
        true => "none".to_owned(),
        false => text,
    };
    let pools: Vec<String> = seen.pools.iter().map(pool).collect();
    let facts = [
        ("name", network.name),
        ("driver", seen.plugins.join(", ")),
        ("subnets", or_none(seen.subnets.join(", "))),
        ("addresses by", or_none(seen.ipam.clone())),
        ("in use", or_none(pools.join(", "))),
        ("containers", seen.members.len().to_string()),
    ];
    let mut text = String::new();
    for (name, value) in facts {
        text.push_str(&format!("{:<14}{}\n", format!("{name}:"), tame(&value)));
    }
    if !seen.members.is_empty() {
        let rows: Vec<[String; 7]> = seen.members.iter().map(row).collect();
        let header = [
            "CONTAINER",
            "NODE",
            "IP",
            "INTERFACE",
            "MAC",
            "PORTS",
            "ALIASES",
        ];
        text.push('\n');
        text.push_str(&table::render(header, &rows));
    }
    text.push_str("\nconfiguration:\n");
    let data = String::from_utf8_lossy(&network.data);
    text.push_str(data.trim_end());
    text.push('\n');
    text
}

fn tame(text: &str) -> String {
    text.replace(char::is_control, "?")
}

fn pool(pool: &v1::PoolUse) -> String {
    let family = if pool.ipv6 { " of IPv6" } else { "" };
    match pool.used {
        Some(used) => format!("{used} of {}{family}", pool.size),
        None => format!("? of {}{family}", pool.size),
    }
}

fn row(member: &v1::NetworkMember) -> [String; 7] {
    let on = member.attachment.clone().unwrap_or_default();
    [
        member.container.clone(),
        member.node.clone(),
        on.ips.join(","),
        on.interface,
        on.mac,
        on.ports.join(","),
        on.aliases.join(","),
    ]
}

fn to_json(seen: &v1::InspectNetworkResponse) -> Value {
    let network = seen.network.clone().unwrap_or_default();
    let config = config(&network.data).unwrap_or(Value::Null);
    let pool = |pool: &v1::PoolUse| {
        json!({
            "name": pool.name, "family": if pool.ipv6 { 6 } else { 4 },
            "size": pool.size, "used": pool.used,
        })
    };
    let member = |member: &v1::NetworkMember| {
        let mut shown = member
            .attachment
            .as_ref()
            .map(network_json)
            .unwrap_or_default();
        if let Some(shown) = shown.as_object_mut() {
            shown.insert("container".into(), member.container.clone().into());
            shown.insert("node".into(), member.node.clone().into());
        }
        shown
    };
    json!({
        "name": network.name,
        "plugins": seen.plugins,
        "subnets": seen.subnets,
        "ipam": seen.ipam,
        "pools": seen.pools.iter().map(pool).collect::<Vec<_>>(),
        "containers": seen.members.iter().map(member).collect::<Vec<_>>(),
        "config": config,
        "problems": output::problems_json(&seen.problems),
    })
}

impl Prune {
    /// Asks the daemon.
    pub(super) async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = v1::PruneNetworksRequest {
            dry_run: self.dry_run,
        };
        let mut pruned = answer(client.networks().prune(request).await)?;
        let mut progress = Progress::new("looked at", None);
        let mut interrupted = interruption();
        loop {
            let next = tokio::select! {
                next = pruned.message() => next,
                Ok(_) = interrupted.wait_for(|times| *times > 0) => {
                    return Err("stopped: the remaining networks were left as they are"
                        .to_owned()
                        .into());
                }
            };
            let Some(network) = answer(next.map(tonic::Response::new))? else {
                return Ok(());
            };
            progress.clear();
            let v1::PrunedNetwork { name, kept } = network;
            let line = match (self.dry_run, kept.is_empty()) {
                (false, true) => Some(name.clone()),
                (true, true) => Some(format!("{name}: would be deleted")),
                (true, false) => Some(format!("{name}: kept, {kept}")),
                (false, false) => None,
            };
            if let Some(line) = line {
                output::though_unread(output::print_line(&line))?;
            }
            progress.step(&name);
        }
    }
}
