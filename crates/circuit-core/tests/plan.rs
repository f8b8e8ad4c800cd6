//! The difference between what should be and what is.
#![allow(clippy::unwrap_used)]

use circuit_core::{
    attachment::{Attachment, ContainerRecord, Origin, Phase, Sandbox},
    labels::{DesiredNetwork, Labels},
    plan::{Step, interface_names, plan, unmet},
    request::{Requested, Wishes},
};
use proptest::prelude::*;
use serde_json::Map;

const HERE: Sandbox = Sandbox { pid: 7, netns: 70 };

fn attachment(network: &str, phase: Phase, origin: Origin) -> Attachment {
    Attachment {
        network: network.into(),
        interface: format!("if-{network}"),
        phase,
        origin,
        cni_id: "default-x".into(),
        sandbox: HERE,
        netns: None,
        behind: Vec::new(),
        config: String::new(),
        capability_args: Map::new(),
        config_args: Map::new(),
        natives: Default::default(),
        aliases: Vec::new(),
        ips: Vec::new(),
        mac: None,
        result: None,
        leaving: false,
    }
}

fn detach(network: &str) -> Step {
    Step::Detach {
        network: network.into(),
        interface: format!("if-{network}"),
    }
}

fn attach(network: &str, origin: Origin) -> Step {
    Step::Attach {
        network: DesiredNetwork::named(network),
        ports: Vec::new(),
        origin,
    }
}

fn labelled(names: &[&str]) -> Vec<DesiredNetwork> {
    names
        .iter()
        .map(|name| DesiredNetwork::named(*name))
        .collect()
}

fn record(attachments: Vec<Attachment>, requested: &[&str]) -> ContainerRecord {
    ContainerRecord {
        attachments,
        requested: requested.iter().copied().map(Requested::named).collect(),
        ..ContainerRecord::new("x")
    }
}

#[test]
fn what_is_asked_for_by_hand_outlives_the_task() {
    let wishes = Wishes {
        ips: vec!["10.88.0.7".to_owned()],
        ports: vec!["8080:80".to_owned()],
        ..Wishes::default()
    };
    let by_hand = |network| Requested::read(network, wishes.clone()).unwrap();
    let record = ContainerRecord {
        requested: vec![by_hand("a"), by_hand("b")],
        ..ContainerRecord::new("x")
    };
    let steps = plan(&record, &labelled(&["a"]), Some(HERE), |_| true);
    let attach = |network, origin| {
        let Requested { network, ports } = by_hand(network);
        Step::Attach {
            network,
            ports,
            origin,
        }
    };
    assert_eq!(
        steps,
        [attach("a", Origin::Label), attach("b", Origin::Request)]
    );
}

#[test]
fn labels_then_requests_in_order() {
    let steps = plan(
        &record(vec![], &["c", "a"]),
        &labelled(&["b", "a"]),
        Some(HERE),
        |_| true,
    );
    assert_eq!(
        steps,
        [
            attach("b", Origin::Label),
            attach("a", Origin::Label),
            attach("c", Origin::Request)
        ]
    );
}

#[test]
fn what_is_there_stays() {
    let there = record(vec![attachment("a", Phase::Attached, Origin::Label)], &[]);
    assert_eq!(plan(&there, &labelled(&["a"]), Some(HERE), |_| true), []);
}

#[test]
fn half_done_is_undone_and_done_again() {
    for phase in [Phase::Attaching, Phase::Detaching] {
        let half = record(vec![attachment("a", phase, Origin::Label)], &[]);
        assert_eq!(
            plan(&half, &labelled(&["a"]), Some(HERE), |_| true),
            [detach("a"), attach("a", Origin::Label)]
        );
    }
}

#[test]
fn a_connect_that_nobody_heard_of_is_only_undone() {
    let half = record(
        vec![attachment("a", Phase::Attaching, Origin::Request)],
        &[],
    );
    assert_eq!(plan(&half, &[], Some(HERE), |_| true), [detach("a")]);
}

#[test]
fn without_a_task_everything_goes() {
    let there = record(
        vec![
            attachment("a", Phase::Attached, Origin::Label),
            attachment("b", Phase::Attached, Origin::Request),
            attachment("c", Phase::Attached, Origin::Original),
        ],
        &["b"],
    );
    let steps = plan(&there, &labelled(&["a"]), None, |_| true);
    assert_eq!(steps, [detach("a"), detach("b"), detach("c")]);
}

#[test]
fn a_label_that_went_takes_its_network_along() {
    let there = record(vec![attachment("a", Phase::Attached, Origin::Label)], &[]);
    assert_eq!(plan(&there, &[], Some(HERE), |_| true), [detach("a")]);
}

#[test]
fn the_former_programs_attachment_needs_no_wish() {
    let there = record(
        vec![attachment("a", Phase::Attached, Origin::Original)],
        &[],
    );
    assert_eq!(plan(&there, &[], Some(HERE), |_| true), []);
}

#[test]
fn a_network_left_by_hand_stays_left_for_that_task() {
    let mut left = record(vec![], &[]);
    left.decline("a", Some(7));
    assert_eq!(plan(&left, &labelled(&["a"]), Some(HERE), |_| true), []);
    let next_task = Sandbox { pid: 8, netns: 80 };
    assert_eq!(
        plan(&left, &labelled(&["a"]), Some(next_task), |_| true),
        [attach("a", Origin::Label)]
    );
}

#[test]
fn interfaces_keep_the_order_of_networks() {
    let taken = ["lo".to_owned(), "eth1".to_owned()];
    assert_eq!(interface_names(&taken, 3), ["eth0", "eth2", "eth3"]);
}

fn any_record() -> impl Strategy<Value = ContainerRecord> {
    let phase = prop_oneof![
        Just(Phase::Attaching),
        Just(Phase::Attached),
        Just(Phase::Detaching)
    ];
    let origin = prop_oneof![
        Just(Origin::Label),
        Just(Origin::Request),
        Just(Origin::Original)
    ];
    let attachments = proptest::collection::btree_map("[a-e]", (phase, origin), 0..5);
    let requested = proptest::collection::btree_set("[a-e]", 0..3);
    (attachments, requested).prop_map(|(attachments, requested)| ContainerRecord {
        attachments: attachments
            .into_iter()
            .map(|(n, (p, o))| attachment(&n, p, o))
            .collect(),
        requested: requested.into_iter().map(Requested::named).collect(),
        ..ContainerRecord::new("x")
    })
}

/// What the record says after the steps have gone well.
fn carry_out(record: &mut ContainerRecord, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Detach { network, interface } => {
                assert!(
                    record.take(network, interface).is_some(),
                    "nothing to detach"
                );
            }
            Step::Attach {
                network, origin, ..
            } => {
                assert!(
                    record.attachment(&network.network).is_none(),
                    "attached twice"
                );
                record.put(attachment(&network.network, Phase::Attached, *origin));
            }
        }
    }
}

proptest! {
    /// One plan carried out is enough: the next has nothing to do, and what is
    /// wanted is there.
    #[test]
    fn one_plan_is_enough(
        mut record in any_record(),
        labels in proptest::collection::btree_set("[a-e]", 0..4),
        alive: bool,
    ) {
        let labels: Vec<_> = labels.iter().map(DesiredNetwork::named).collect();
        let sandbox = alive.then_some(HERE);
        let steps = plan(&record, &labels, sandbox, |_| true);
        carry_out(&mut record, &steps);
        prop_assert_eq!(plan(&record, &labels, sandbox, |_| true), []);
        for wanted in &labels {
            prop_assert_eq!(record.attachment(&wanted.network).is_some(), alive);
        }
    }

    #[test]
    fn a_record_is_read_as_it_is_written(record in any_record()) {
        let text = serde_json::to_string(&record).unwrap();
        prop_assert_eq!(serde_json::from_str::<ContainerRecord>(&text).unwrap(), record);
    }
}

/// What labels of these say, beside that the container is to be on `a`, and what the
/// attachment to it then lacks.
fn lacking(there: &Attachment, requested: &[&str], labels: &[(&str, &str)]) -> Option<String> {
    let labels = [&[("io.circuit.network", "a")], labels].concat();
    let labels = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let labels = Labels::read(&labels, "io.circuit.network");
    assert!(labels.problems.is_empty(), "{:?}", labels.problems);
    let record = record(vec![there.clone()], requested);
    let mut unmet = unmet(&record, &labels, Some("a"));
    assert!(unmet.len() <= 1, "{unmet:?}");
    let (network, what) = unmet.pop()?;
    assert_eq!(network, "a");
    Some(what)
}

#[test]
fn what_labels_ask_for_since_an_attachment_was_made_is_told() {
    let mut there = attachment("a", Phase::Attached, Origin::Label);
    there.ips = vec!["10.88.0.2/24".parse().unwrap()];
    there.mac = Some("02:00:00:00:00:01".to_owned());
    assert_eq!(lacking(&there, &[], &[]), None);
    for (key, value, what) in [
        ("io.circuit.network.a.ip", "10.88.0.7", "address 10.88.0.7"),
        (
            "io.circuit.network.a.mac",
            "02:00:00:00:00:07",
            "hardware address 02:00:00:00:00:07",
        ),
        ("io.circuit.network.a.aliases", "db", "alias db"),
        ("io.circuit.network.a.interface", "lan", "interface lan"),
    ] {
        let labels = [(key, value)];
        assert_eq!(lacking(&there, &[], &labels).as_deref(), Some(what));
        // By hand other wishes count.
        assert_eq!(lacking(&there, &["a"], &labels), None);
    }
    let ports = [("io.circuit.ports", "8080:80")];
    let told = lacking(&there, &[], &ports).unwrap();
    assert!(told.starts_with("port 8080:80"), "{told}");
    let published = Labels::read(
        &[("io.circuit.network", "a"), ports[0]]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        "io.circuit.network",
    );
    let published = published.ports.iter().map(|port| port.to_json()).collect();
    let mappings = serde_json::Value::Array(published);
    there
        .capability_args
        .insert("portMappings".to_owned(), mappings);
    assert_eq!(lacking(&there, &[], &ports), None);
    // Not every plugin tells it.
    there.mac = None;
    let mac = [("io.circuit.network.a.mac", "02:00:00:00:00:07")];
    assert_eq!(lacking(&there, &[], &mac), None);
}
