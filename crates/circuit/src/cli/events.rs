//! `circuit events`: what happens, as it happens.

use circuit_api::v1;
use clap::Args;
use serde_json::{Value, json};

use super::Global;
use super::client::{Client, answer};
use super::output::{self, Failure, Format, FormatArg};

/// What `events` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  circuit events --last 20
  circuit events --kind container.problem --kind container.solved
  circuit events --format json | jq -r 'select(.kind == \"task.exited\") | .container'")]
pub struct Events {
    /// Begin with so many that have happened before, as far as the server
    /// remembers them.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t)]
    last: u32,

    /// Only events of this kind; may be repeated.
    #[arg(short, long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,

    /// Only events of this container.
    #[arg(
        long,
        value_name = "CONTAINER",
        default_value = "",
        hide_default_value = true
    )]
    container: String,

    /// Only events of this network.
    #[arg(
        long,
        value_name = "NETWORK",
        default_value = "",
        hide_default_value = true
    )]
    network: String,

    /// Only events of the server's own node.
    #[arg(long)]
    here: bool,

    #[command(flatten)]
    format: FormatArg,
}

impl Events {
    /// Prints until the user or the server ends it.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = Client::open(global).await?;
        let request = v1::WatchRequest {
            after: None,
            last: self.last,
            kinds: self.kind,
            container: self.container,
            network: self.network,
            here: self.here,
        };
        let mut events = answer(client.events().watch(request).await)?;
        while let Some(event) = next(events.message().await)? {
            match self.format.format {
                Format::Table => output::print_line(&line(&event))?,
                Format::Json => output::print(format!("{}\n", to_json(&event)).as_bytes())?,
            }
        }
        Err("the server has ended".to_owned().into())
    }
}

/// The next event; a connection that breaks is the end of the server.
fn next(told: Result<Option<v1::Event>, tonic::Status>) -> Result<Option<v1::Event>, Failure> {
    match told {
        Err(status) if std::error::Error::source(&status).is_some() => Ok(None),
        told => answer(told.map(tonic::Response::new)),
    }
}

/// An event in a line: time, node, kind, and what it is about.
pub(super) fn line(event: &v1::Event) -> String {
    let mut words = vec![
        time(event),
        event.node.clone(),
        format!("{:<22}", event.kind),
        event.container.clone(),
        event.network.clone(),
        event.interface.clone(),
        event.ips.join(","),
    ];
    words.retain(|word| !word.is_empty());
    if !event.message.is_empty() {
        words.push(format!("({})", event.message));
    }
    words.join(" ").trim_end().to_owned()
}

fn time(event: &v1::Event) -> String {
    event.time.map(|time| time.to_string()).unwrap_or_default()
}

fn to_json(event: &v1::Event) -> Value {
    json!({
        "id": event.id, "time": time(event), "node": event.node, "kind": event.kind,
        "container": event.container, "network": event.network,
        "interface": event.interface, "ips": event.ips, "message": event.message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_there_is() {
        let event = v1::Event {
            id: 1,
            time: Some(prost_types::Timestamp {
                seconds: 1_764_136_800,
                nanos: 5_000_000,
            }),
            node: "edge1".into(),
            kind: "container.connected".into(),
            container: "web".into(),
            network: "ctr0".into(),
            interface: "eth0".into(),
            ips: vec!["10.88.0.2".into()],
            message: String::new(),
        };
        assert_eq!(
            line(&event),
            "2025-11-26T06:00:00.005Z edge1 container.connected    web ctr0 eth0 10.88.0.2"
        );
        let plain = v1::Event {
            kind: "registry.lost".into(),
            message: "no answer".into(),
            ..v1::Event::default()
        };
        assert_eq!(line(&plain), "registry.lost          (no answer)");
    }
}
