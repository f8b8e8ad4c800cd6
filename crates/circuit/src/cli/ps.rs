//! `circuit ps`: containers with everything that Circuit knows of them.

use circuit_api::v1;
use clap::Args;
use serde_json::{Value, json};

use super::Global;
use super::client::{Client, answer, question};
use super::output::{self, Failure, Format, FormatArg};
use crate::table;

/// What `ps` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  circuit ps
  circuit ps --all --cluster
  circuit ps --format json | jq -r '.containers[] | select(.problems != []) | .id'")]
pub struct Ps {
    /// Also containers that do not run and with which Circuit has nothing to do.
    #[arg(long)]
    all: bool,

    /// Also containers of other nodes.
    #[arg(short, long)]
    cluster: bool,

    #[command(flatten)]
    format: FormatArg,
}

impl Ps {
    /// Asks the daemon.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = Client::open(global).await?;
        let request = question(v1::ListContainersRequest {
            here: !self.cluster,
            traffic: false,
        });
        let mut containers = answer(client.containers().list(request).await)?.containers;
        containers.retain(|container| self.all || concerns(container));
        match self.format.format {
            Format::Table => {
                output::print(text(&containers, self.cluster).as_bytes())?;
                let problems: Vec<_> = containers.into_iter().flat_map(|c| c.problems).collect();
                output::print_problems(&problems);
                Ok(())
            }
            Format::Json => {
                let containers: Value = containers.iter().map(to_json).collect();
                output::print_json(&json!({ "containers": containers }))
            }
        }
    }
}

pub(super) fn concerns(container: &v1::Container) -> bool {
    let runs = matches!(&*container.state, "running" | "created");
    runs || !container.networks.is_empty()
        || container.restart.is_some()
        || !container.problems.is_empty()
}

fn text(containers: &[v1::Container], cluster: bool) -> String {
    if cluster {
        let rows: Vec<[String; 6]> = containers
            .iter()
            .map(|container| {
                let [id, state, networks, ports, restart] = row(container);
                [id, container.node.clone(), state, networks, ports, restart]
            })
            .collect();
        let header = ["CONTAINER", "NODE", "STATE", "NETWORKS", "PORTS", "RESTART"];
        return table::render(header, &rows);
    }
    let rows: Vec<[String; 5]> = containers.iter().map(row).collect();
    let header = ["CONTAINER", "STATE", "NETWORKS", "PORTS", "RESTART"];
    table::render(header, &rows)
}

/// The columns that people look at.
pub(super) fn row(container: &v1::Container) -> [String; 5] {
    let or_dash = |text: String| match text.is_empty() {
        true => "-".to_owned(),
        false => text,
    };
    let networks: Vec<String> = container.networks.iter().map(on_network).collect();
    let ports = container.networks.iter().flat_map(|on| &on.ports);
    let ports: Vec<&str> = ports.map(String::as_str).collect();
    [
        container.id.clone(),
        state(container),
        or_dash(networks.join(", ")),
        or_dash(ports.join(", ")),
        or_dash(container.restart.as_ref().map(restart).unwrap_or_default()),
    ]
}

fn state(container: &v1::Container) -> String {
    let state = match (&*container.state, container.exit_status) {
        ("stopped", Some(status)) => format!("exited ({status})"),
        (state, _) => state.to_owned(),
    };
    match container.problems.is_empty() {
        true => state,
        false => format!("{state}, problem"),
    }
}

fn on_network(on: &v1::ContainerNetwork) -> String {
    let phase = match &*on.phase {
        "attached" | "" => String::new(),
        phase => format!(" ({phase})"),
    };
    match on.ips.is_empty() {
        true => format!("{}{phase}", on.network),
        false => format!("{}={}{phase}", on.network, on.ips.join("+")),
    }
}

fn restart(restart: &v1::RestartPolicy) -> String {
    let count = match restart.count {
        0 => String::new(),
        count => format!(" ({count})"),
    };
    let rests = if restart.stopped { ", stopped" } else { "" };
    format!("{}{count}{rests}", restart.policy)
}

pub(super) fn network_json(on: &v1::ContainerNetwork) -> Value {
    json!({
        "network": on.network, "interface": on.interface, "ips": on.ips, "mac": on.mac,
        "aliases": on.aliases, "ports": on.ports, "phase": on.phase, "origin": on.origin,
    })
}

fn to_json(container: &v1::Container) -> Value {
    let restart = container.restart.as_ref().map(|restart| {
        json!({ "policy": restart.policy, "count": restart.count, "stopped": restart.stopped })
    });
    json!({
        "id": container.id,
        "node": container.node,
        "state": container.state,
        "pid": container.pid,
        "exit_status": container.exit_status,
        "networks": container.networks.iter().map(network_json).collect::<Vec<_>>(),
        "restart": restart,
        "problems": output::problems_json(&container.problems),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_what_is_there() {
        let on = |network: &str, ips: &[&str], ports: &[&str]| v1::ContainerNetwork {
            network: network.into(),
            ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
            ports: ports.iter().map(|port| (*port).to_owned()).collect(),
            phase: "attached".into(),
            ..v1::ContainerNetwork::default()
        };
        let web = v1::Container {
            id: "web".into(),
            state: "running".into(),
            networks: vec![
                on("ctr0", &["10.88.0.2", "fd00::2"], &["8080:80/tcp"]),
                v1::ContainerNetwork {
                    phase: "attaching".into(),
                    ..on("lan", &[], &[])
                },
            ],
            restart: Some(v1::RestartPolicy {
                policy: "always".into(),
                count: 3,
                stopped: false,
            }),
            problems: vec![v1::Problem::default()],
            ..v1::Container::default()
        };
        assert_eq!(
            row(&web),
            [
                "web",
                "running, problem",
                "ctr0=10.88.0.2+fd00::2, lan (attaching)",
                "8080:80/tcp",
                "always (3)"
            ]
        );
        let old = v1::Container {
            id: "old".into(),
            state: "stopped".into(),
            exit_status: Some(1),
            restart: Some(v1::RestartPolicy {
                policy: "no".into(),
                count: 0,
                stopped: true,
            }),
            ..v1::Container::default()
        };
        assert_eq!(row(&old), ["old", "exited (1)", "-", "-", "no, stopped"]);
        assert!(concerns(&old) && concerns(&web));
        let other = v1::Container {
            state: "absent".into(),
            ..v1::Container::default()
        };
        assert!(!concerns(&other));
    }
}
