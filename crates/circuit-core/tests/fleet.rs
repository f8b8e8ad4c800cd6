//! The fleet's map against a naive one.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use circuit_core::fleet::{Attached, Fleet, NodeWord, Record, Snapshot};
use circuit_core::service::NodeInfo;
use proptest::prelude::*;

fn word(node: &str) -> NodeWord {
    NodeWord {
        info: NodeInfo {
            name: node.into(),
            ..NodeInfo::default()
        },
        at: 0,
        heartbeat: 10_000,
        lease: 30_000,
    }
}

/// The network of a container with these addresses.
fn network(ips: &[u8]) -> String {
    format!("net{}", ips.first().map_or(0, |first| first % 3))
}

fn record(node: &str, container: &str, ips: &[u8]) -> Record {
    let network = network(ips);
    let ips: Box<[IpAddr]> = ips
        .iter()
        .map(|last| Ipv4Addr::new(10, 0, 0, *last).into())
        .collect();
    let attached = Attached {
        network: network.into(),
        interface: "eth0".into(),
        ips,
        mac: None,
        aliases: Box::default(),
        ports: Box::default(),
    };
    Record {
        container: container.into(),
        node: node.into(),
        attached: if attached.ips.is_empty() {
            Box::default()
        } else {
            [attached].into()
        },
    }
}

#[derive(Debug, Clone)]
enum Step {
    Replace(u8, BTreeMap<u8, Vec<u8>>),
    Put(u8, u8, Vec<u8>),
    Take(u8, u8),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let ips = || prop::collection::vec(0..20_u8, 0..3);
    let node = 0..4_u8;
    prop_oneof![
        (
            node.clone(),
            prop::collection::btree_map(0..6_u8, ips(), 0..5)
        )
            .prop_map(|(n, all)| Step::Replace(n, all)),
        (node.clone(), 0..6_u8, ips()).prop_map(|(n, c, ips)| Step::Put(n, c, ips)),
        (node.clone(), 0..6_u8).prop_map(|(n, c)| Step::Take(n, c)),
        node.prop_map(Step::Remove),
    ]
}

type Naive = BTreeMap<u8, BTreeMap<u8, Vec<u8>>>;

fn apply(fleet: &mut Fleet, naive: &mut Naive, step: &Step, revision: u64) {
    match step {
        Step::Replace(n, all) => {
            let node = format!("n{n}");
            let records = all
                .iter()
                .map(|(c, ips)| record(&node, &format!("c{c}"), ips));
            fleet.replace(&node, word(&node), revision, records.collect());
            let full = all.iter().filter(|(_, ips)| !ips.is_empty());
            naive.insert(*n, full.map(|(c, ips)| (*c, ips.clone())).collect());
        }
        Step::Put(n, c, ips) => {
            let node = format!("n{n}");
            let put = record(&node, &format!("c{c}"), ips);
            fleet.change::<&str>(&node, revision, vec![put], &[]);
            if let Some(all) = naive.get_mut(n) {
                if ips.is_empty() {
                    all.remove(c);
                } else {
                    all.insert(*c, ips.clone());
                }
            }
        }
        Step::Take(n, c) => {
            fleet.change(&format!("n{n}"), revision, vec![], &[format!("c{c}")]);
            if let Some(all) = naive.get_mut(n) {
                all.remove(c);
            }
        }
        Step::Remove(n) => {
            assert_eq!(fleet.remove(&format!("n{n}")), naive.remove(n).is_some());
        }
    }
}

fn ips_of(found: &[Arc<Record>]) -> Vec<(String, Vec<IpAddr>)> {
    found
        .iter()
        .map(|r| (r.node.to_string(), r.ips().collect()))
        .collect()
}

fn compare(snapshot: &Snapshot, naive: &Naive) {
    let nodes: Vec<String> = snapshot.nodes().map(|(name, _)| name.to_string()).collect();
    assert_eq!(
        nodes,
        naive.keys().map(|n| format!("n{n}")).collect::<Vec<_>>()
    );
    for c in 0..6 {
        let want: Vec<(String, Vec<IpAddr>)> = naive
            .iter()
            .filter_map(|(n, all)| Some((n, all.get(&c)?)))
            .map(|(n, ips)| {
                let ips = ips.iter().map(|ip| Ipv4Addr::new(10, 0, 0, *ip).into());
                (format!("n{n}"), ips.collect())
            })
            .collect();
        assert_eq!(ips_of(snapshot.containers(&format!("c{c}"))), want);
    }
    for ip in 0..20_u8 {
        let want: Vec<(String, String)> = naive
            .iter()
            .flat_map(|(n, all)| all.iter().map(move |(c, ips)| (n, c, ips)))
            .filter(|(_, _, ips)| ips.contains(&ip))
            .map(|(n, c, _)| (format!("n{n}"), format!("c{c}")))
            .collect();
        let found = snapshot.holders(Ipv4Addr::new(10, 0, 0, ip).into());
        let found: Vec<_> = found
            .iter()
            .map(|r| (r.node.to_string(), r.container.to_string()))
            .collect();
        assert_eq!(found, want);
    }
    let networks: BTreeSet<String> = naive
        .values()
        .flat_map(|all| all.values())
        .map(|ips| network(ips))
        .collect();
    let found: Vec<String> = snapshot.networks().map(ToString::to_string).collect();
    assert_eq!(found, Vec::from_iter(networks));
    let names: BTreeSet<&u8> = naive.values().flat_map(BTreeMap::keys).collect();
    assert_eq!(snapshot.len(), names.len());
}

proptest! {
    #[test]
    fn it_knows_what_a_naive_map_knows(steps in prop::collection::vec(step(), 0..40)) {
        let (mut fleet, mut naive) = (Fleet::new(), Naive::new());
        let mut earlier = Vec::new();
        for (step, revision) in steps.iter().zip(1..) {
            apply(&mut fleet, &mut naive, step, revision);
            earlier.push((fleet.snapshot(), naive.clone()));
        }
        // Snapshots stay as they were, whatever came after them.
        for (snapshot, naive) in earlier {
            compare(&snapshot, &naive);
        }
    }
}

#[test]
fn revisions_are_of_nodes_that_are_known() {
    let mut fleet = Fleet::new();
    fleet.change("a", 7, vec![record("a", "c", &[1])], &[""; 0]);
    assert_eq!(fleet.revision("a"), None);
    assert!(fleet.snapshot().is_empty());
    fleet.replace("a", word("a"), 3, vec![]);
    assert_eq!(fleet.revision("a"), Some(3));
    fleet.change("a", 7, vec![record("a", "c", &[1])], &[""; 0]);
    assert_eq!(fleet.revision("a"), Some(7));
    assert_eq!(fleet.snapshot().len(), 1);
}
