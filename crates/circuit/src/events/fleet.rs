//! What happens on other nodes, by the difference between two views of the fleet.

use std::sync::Arc;
use std::time::Duration;

use circuit_core::event::Kind;
use circuit_core::fleet::{Attached, Record, Snapshot};
use tokio_util::sync::CancellationToken;

use super::{EventLog, Happening};
use crate::registry::Registry;

/// How often it is looked whether the view has changed; looking costs nothing.
const LOOK: Duration = Duration::from_millis(100);

/// Tells of what happens on other nodes, and of the registry, until `stop`.
pub async fn follow_fleet(registry: Arc<Registry>, log: Arc<EventLog>, stop: CancellationToken) {
    let mut known: Option<Arc<Snapshot>> = None;
    let mut lost = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let stale = registry.stale_for();
        if stale.is_some() != lost {
            lost = stale.is_some();
            tell_registry(&log, &registry, lost);
        }
        // What is there at first is no news.
        if registry.status().compared.is_none() {
            continue;
        }
        let now = registry.fleet();
        if let Some(before) = &known
            && !now.is_same(before)
        {
            tell_difference(&log, before, &now);
        }
        known = Some(now);
    }
}

fn tell_registry(log: &EventLog, registry: &Registry, lost: bool) {
    let message = match (lost, &registry.status().failure) {
        (false, _) => "the cluster registry answers".to_owned(),
        (true, None) => "the cluster registry does not answer".to_owned(),
        (true, Some(failure)) => failure.clone(),
    };
    let kind = if lost {
        Kind::RegistryLost
    } else {
        Kind::RegistryBack
    };
    log.tell(
        kind,
        Happening {
            message,
            ..Happening::default()
        },
    );
}

fn tell_difference(log: &EventLog, before: &Snapshot, now: &Snapshot) {
    for (node, _) in now.nodes() {
        if before.nodes().all(|(known, _)| known != node) {
            tell_node(log, Kind::NodeJoined, node, "is there");
        }
    }
    now.differences(before, |old, new| tell_container(log, old, new));
    for (node, _) in before.nodes() {
        if now.nodes().all(|(known, _)| known != node) {
            tell_node(log, Kind::NodeLeft, node, "is there no more");
        }
    }
}

fn tell_node(log: &EventLog, kind: Kind, node: &Arc<str>, what: &str) {
    log.tell(
        kind,
        Happening {
            node: Some(node),
            message: format!("node {node} {what}"),
            ..Happening::default()
        },
    );
}

/// What has changed of one container of one node.
fn tell_container(log: &EventLog, old: Option<&Arc<Record>>, new: Option<&Arc<Record>>) {
    let Some(record) = old.or(new) else { return };
    let all = |record: Option<&Arc<Record>>| -> Vec<Attached> {
        record.map_or_else(Vec::new, |record| record.attached.to_vec())
    };
    let (before, now) = (all(old), all(new));
    let same = |a: &Attached, b: &Attached| a.network == b.network && a.ips == b.ips;
    for gone in &before {
        if !now.iter().any(|there| same(there, gone)) {
            tell_attached(log, Kind::Disconnected, record, gone);
        }
    }
    for come in &now {
        if !before.iter().any(|there| same(there, come)) {
            tell_attached(log, Kind::Connected, record, come);
        }
    }
}

fn tell_attached(log: &EventLog, kind: Kind, record: &Record, attached: &Attached) {
    log.tell(
        kind,
        Happening {
            node: Some(&record.node),
            container: &record.container,
            network: &attached.network,
            interface: &attached.interface,
            ips: attached.ips.to_vec(),
            message: String::new(),
        },
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use circuit_core::event::{Event, Filter, Since};
    use circuit_core::fleet::{Fleet, NodeWord};
    use circuit_core::service::NodeInfo;

    use super::*;

    fn word() -> NodeWord {
        NodeWord {
            info: NodeInfo::default(),
            at: 0,
            heartbeat: 0,
            lease: 0,
        }
    }

    fn record(node: &str, container: &str, ips: &[&str]) -> Record {
        let on = |ip: &&str| Attached {
            network: "web".into(),
            interface: "eth0".into(),
            ips: Box::new([ip.parse().unwrap()]),
            mac: None,
            aliases: Box::new([]),
            ports: Box::new([]),
        };
        Record {
            container: container.into(),
            node: node.into(),
            attached: ips.iter().map(on).collect(),
        }
    }

    fn told(before: &Snapshot, now: &Snapshot) -> Vec<String> {
        let log = EventLog::new("here");
        tell_difference(&log, before, now);
        let all = Since {
            after: Some(0),
            last: 0,
        };
        let (events, _) = log.earlier(all, &Filter::default());
        let line = |event: &Arc<Event>| {
            let ip = event.ips.first().map(ToString::to_string);
            let ip = ip.unwrap_or_default();
            format!(
                "{} {} {} {ip}",
                event.kind.name(),
                event.node,
                event.container
            )
            .trim()
            .to_owned()
        };
        let mut lines: Vec<String> = events.iter().map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_changed_is_told_and_nothing_else() {
        let mut fleet = Fleet::new();
        fleet.replace("n1", word(), 1, vec![record("n1", "same", &["10.0.0.1"])]);
        let before = fleet.snapshot();
        assert_eq!(told(&before, &fleet.snapshot()), [""; 0]);
        fleet.change::<&str>("n1", 2, vec![record("n1", "new", &["10.0.0.2"])], &[]);
        fleet.replace("n2", word(), 1, vec![record("n2", "same", &["10.0.0.3"])]);
        let then = fleet.snapshot();
        assert_eq!(
            told(&before, &then),
            [
                "container.connected n1 new 10.0.0.2",
                "container.connected n2 same 10.0.0.3",
                "node.joined n2",
            ]
        );
        fleet.change::<&str>("n1", 3, vec![record("n1", "new", &["10.0.0.9"])], &[]);
        fleet.remove("n2");
        assert_eq!(
            told(&then, &fleet.snapshot()),
            [
                "container.connected n1 new 10.0.0.9",
                "container.disconnected n1 new 10.0.0.2",
                "container.disconnected n2 same 10.0.0.3",
                "node.left n2",
            ]
        );
    }
}
