#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::fleet::{Fleet, NodeWord, Port, Protocol};
use crate::service::NodeInfo;

fn attached(network: &str, ips: &[&str]) -> Attached {
    Attached {
        network: network.into(),
        interface: "eth0".into(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        mac: None,
        aliases: Box::default(),
        ports: Box::default(),
    }
}

fn map(node: &str, containers: Vec<(&str, Vec<Attached>)>) -> Snapshot {
    let records = containers.into_iter().map(|(container, attached)| Record {
        container: container.into(),
        node: node.into(),
        attached: attached.into(),
    });
    let word = NodeWord {
        info: NodeInfo::default(),
        at: 0,
        heartbeat: 0,
        lease: 0,
    };
    let mut fleet = Fleet::new();
    fleet.replace(node, word, 1, records.collect());
    fleet.snapshot()
}

/// Two nodes with a container each on two networks, and some odd names.
fn maps() -> [Snapshot; 2] {
    let mut db = attached("ctr0", &["10.88.0.3"]);
    db.aliases = ["Store".into(), "my db".into()].into();
    db.ports = [Port {
        host: 8080,
        container: 80,
        protocol: Protocol::Tcp,
    }]
    .into();
    let here = map(
        "edge-1.lan",
        vec![
            (
                "web",
                vec![
                    attached("ctr0", &["10.88.0.2", "fd00::2"]),
                    attached("my.net", &["10.99.0.2"]),
                ],
            ),
            ("db", vec![db]),
            ("Web.1", vec![attached("ctr0", &["10.88.0.4"])]),
            ("Odd.1", vec![attached("ctr0", &["10.88.0.5"])]),
            ("odd-1", vec![attached("ctr0", &["10.88.0.6"])]),
        ],
    );
    let there = map(
        "edge-2",
        vec![
            ("web", vec![attached("ctr0", &["10.88.0.9", "10.88.0.2"])]),
            ("far", vec![attached("lan7", &["192.168.7.5"])]),
        ],
    );
    [here, there]
}

fn networks() -> Networks {
    let subnet = |text: &str| text.parse().unwrap();
    Networks::new([
        ("ctr0", vec![subnet("10.88.0.0/16"), subnet("fd00::/64")]),
        ("my.net", vec![subnet("10.99.0.0/20")]),
        ("Spare", vec![subnet("10.98.0.16/28")]),
    ])
}

fn asked(kind: &str) -> Asked {
    match kind {
        "A" => Asked::V4,
        "AAAA" => Asked::V6,
        "PTR" => Asked::Pointer,
        "SRV" => Asked::Service,
        "SOA" => Asked::Authority,
        "NS" => Asked::Server,
        "ANY" => Asked::Any,
        _ => Asked::Other,
    }
}

/// What a name leads to, as text: `-` when it is not ours, `no` when it does not
/// exist, and with the zone when nothing is there.
fn told(scope: Scope<'_>, name: &str, kind: &str) -> String {
    let (domain, networks, maps) = (Domain::parse(DOMAIN).unwrap(), networks(), maps());
    let servers = ["10.0.0.53".parse().unwrap()];
    let zone = Zone {
        domain: &domain,
        networks: &networks,
        maps: &maps,
        scope,
        servers: &servers,
    };
    let labels: Vec<&str> = name.split('.').collect();
    let Some(found) = zone.find(&labels, asked(kind)) else {
        return "-".into();
    };
    if !found.exists {
        assert!(found.data.is_empty());
        return format!("no in {}", found.apex);
    }
    if found.data.is_empty() {
        return format!("nothing in {}", found.apex);
    }
    let one = |data: &Data| match data {
        Data::Address(ip) => ip.to_string(),
        Data::Pointer(name) => name.clone(),
        Data::Service { port, target } => format!("{port} of {target}"),
        Data::Authority => "soa".into(),
        Data::Server(name) => name.clone(),
    };
    let all: Vec<String> = found.data.iter().map(one).collect();
    all.join(" ")
}

fn all(name: &str, kind: &str) -> String {
    told(Scope::All, name, kind)
}

#[test]
fn every_form_of_a_name_leads_to_its_addresses() {
    for (name, kind, expected) in [
        ("web.ctr0", "A", "10.88.0.2 10.88.0.9"),
        ("web.ctr0", "AAAA", "fd00::2"),
        ("web.ctr0.circuit.internal", "A", "10.88.0.2 10.88.0.9"),
        ("web.circuit.internal", "A", "10.88.0.2 10.99.0.2 10.88.0.9"),
        ("web.my.net", "A", "10.99.0.2"),
        ("web.my-net.circuit.internal", "A", "10.99.0.2"),
        ("web.my.net.circuit.internal", "A", "10.99.0.2"),
        ("far.lan7", "A", "192.168.7.5"),
        (
            "web.edge-2.node.circuit.internal",
            "A",
            "10.88.0.9 10.88.0.2",
        ),
        ("web.edge-1.lan.node.circuit.internal", "AAAA", "fd00::2"),
        ("web.edge-1-lan.node.circuit.internal", "AAAA", "fd00::2"),
        ("store.ctr0", "A", "10.88.0.3"),
        ("my-db.circuit.internal", "A", "10.88.0.3"),
        ("web-1.ctr0", "A", "10.88.0.4"),
        // The very name goes before one that had to be changed.
        ("odd-1.ctr0", "A", "10.88.0.6"),
        ("ns.circuit.internal", "A", "10.0.0.53"),
        ("web.ctr0", "ANY", "10.88.0.2 10.88.0.9"),
    ] {
        assert_eq!(all(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn a_name_without_the_type_is_not_a_name_that_does_not_exist() {
    for (name, kind, expected) in [
        ("db.ctr0", "AAAA", "nothing in ctr0"),
        ("db.ctr0", "TXT", "nothing in ctr0"),
        ("db.circuit.internal", "AAAA", "nothing in circuit.internal"),
        ("gone.ctr0", "A", "no in ctr0"),
        ("far.ctr0", "A", "no in ctr0"),
        ("gone.circuit.internal", "A", "no in circuit.internal"),
        ("a.b.c.circuit.internal", "A", "no in circuit.internal"),
        // Between names that exist and the domain.
        ("ctr0.circuit.internal", "A", "nothing in circuit.internal"),
        ("node.circuit.internal", "A", "nothing in circuit.internal"),
        (
            "edge-2.node.circuit.internal",
            "A",
            "nothing in circuit.internal",
        ),
        (
            "edge-3.node.circuit.internal",
            "A",
            "no in circuit.internal",
        ),
        // Also where only another node has containers, and above what has dots.
        ("lan7.circuit.internal", "A", "nothing in circuit.internal"),
        ("net.circuit.internal", "A", "nothing in circuit.internal"),
        ("et.circuit.internal", "A", "no in circuit.internal"),
        (
            "lan.node.circuit.internal",
            "A",
            "nothing in circuit.internal",
        ),
        ("an.node.circuit.internal", "A", "no in circuit.internal"),
        (
            "_tcp.db.circuit.internal",
            "A",
            "nothing in circuit.internal",
        ),
        ("_udp.db.circuit.internal", "A", "no in circuit.internal"),
        ("ctr0", "A", "nothing in ctr0"),
        ("ctr0", "SOA", "soa"),
        ("circuit.internal", "SOA", "soa"),
        ("circuit.internal", "NS", "ns.circuit.internal"),
        ("spare", "A", "nothing in spare"),
        ("web.spare", "A", "no in spare"),
        // Somebody else's.
        ("example.com", "A", "-"),
        ("a.web.lan7", "A", "-"),
        ("_tcp.web", "A", "-"),
        ("net", "A", "-"),
        ("web", "A", "-"),
        ("internal", "A", "-"),
        ("web.lan7", "A", "-"),
        ("arpa", "A", "-"),
    ] {
        assert_eq!(all(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn whatever_is_below_names_of_ours_is_ours() {
    for (name, kind, expected) in [
        ("a.b.ctr0", "A", "no in ctr0"),
        ("a.web.ctr0", "A", "no in ctr0"),
        ("_dmarc.ctr0", "TXT", "no in ctr0"),
        ("_80._tcp.ctr0", "SRV", "no in ctr0"),
        ("a.b.my.net", "A", "no in my.net"),
        ("_80._tcp.my.net", "SRV", "no in my.net"),
        ("03.0.88.10.in-addr.arpa", "PTR", "no in 88.10.in-addr.arpa"),
        (
            "1.3.0.88.10.in-addr.arpa",
            "PTR",
            "no in 88.10.in-addr.arpa",
        ),
        ("256.88.10.in-addr.arpa", "PTR", "no in 88.10.in-addr.arpa"),
        (
            "lb._dns-sd._udp.0.0.88.10.in-addr.arpa",
            "PTR",
            "no in 88.10.in-addr.arpa",
        ),
        (
            "x.17.0.98.10.in-addr.arpa",
            "PTR",
            "no in 17.0.98.10.in-addr.arpa",
        ),
        ("x.0.0.d.f.ip6.arpa", "PTR", "-"),
    ] {
        assert_eq!(all(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn ports_have_names() {
    let db = "80 of db.ctr0.circuit.internal";
    for (name, kind, expected) in [
        ("_80._tcp.db.ctr0", "SRV", db),
        ("_80._tcp.store.circuit.internal", "SRV", db),
        ("db.ctr0.circuit.internal", "SRV", db),
        (
            "_80._tcp.db.edge-1.lan.node.circuit.internal",
            "SRV",
            "80 of db.edge-1.lan.node.circuit.internal",
        ),
        (
            "_80._tcp.store.edge-1-lan.node.circuit.internal",
            "SRV",
            "80 of db.edge-1-lan.node.circuit.internal",
        ),
        ("_80._tcp.db.ctr0", "A", "nothing in ctr0"),
        ("_80._udp.db.ctr0", "SRV", "no in ctr0"),
        ("_8080._tcp.db.ctr0", "SRV", "no in ctr0"),
        ("_http._tcp.db.ctr0", "SRV", "no in ctr0"),
        ("_tcp.db.ctr0", "A", "nothing in ctr0"),
        ("_udp.db.ctr0", "A", "no in ctr0"),
        ("_tcp.gone.ctr0", "A", "no in ctr0"),
        (
            "_http._tcp.db.circuit.internal",
            "SRV",
            "no in circuit.internal",
        ),
        ("web.ctr0", "SRV", "nothing in ctr0"),
    ] {
        assert_eq!(all(name, kind), expected, "{name} {kind}");
    }
}

/// What a zone without networks of its own says of services.
fn services(maps: &[Snapshot], name: &str) -> Found {
    let domain = Domain::parse(DOMAIN).unwrap();
    let zone = Zone {
        domain: &domain,
        networks: &Networks::default(),
        maps,
        scope: Scope::All,
        servers: &[],
    };
    let labels: Vec<&str> = name.split('.').collect();
    zone.find(&labels, Asked::Service).unwrap()
}

fn with_port(mut attached: Attached, alias: &str) -> Attached {
    attached.ports = [Port {
        host: 8080,
        container: 80,
        protocol: Protocol::Tcp,
    }]
    .into();
    attached.aliases = [alias.into()].into();
    attached
}

#[test]
fn a_port_of_a_node_leads_to_that_node_only() {
    let web = |ip: &str| with_port(attached("ctr0", &[ip]), "www");
    let first = vec![web("10.88.0.2"), attached("ctr1", &["10.99.0.2"])];
    let maps = [
        map("edge-1", vec![("web", first)]),
        map("edge-2", vec![("web", vec![web("10.88.0.9")])]),
    ];
    let addresses = |name: &str| {
        let found = services(&maps, name);
        let all = found.additional.iter();
        let all: Vec<String> = all.map(|(name, ip)| format!("{name} {ip}")).collect();
        (found.data.len(), all.join(" "))
    };
    let target = "web.edge-1.node.circuit.internal";
    let expected = (1, format!("{target} 10.88.0.2 {target} 10.99.0.2"));
    for name in ["web", "www"] {
        let name = format!("_80._tcp.{name}.edge-1.node.circuit.internal");
        assert_eq!(addresses(&name), expected, "{name}");
    }
    let target = "web.ctr0.circuit.internal";
    let expected = (1, format!("{target} 10.88.0.2 {target} 10.88.0.9"));
    assert_eq!(addresses("_80._tcp.www.circuit.internal"), expected);
}

#[test]
fn thousands_of_containers_may_have_one_alias() {
    let names: Vec<String> = (0..4000).map(|n| format!("c{n}")).collect();
    let containers = names.iter().zip(0_u32..).map(|(name, n)| {
        let ip = IpAddr::from((0x0a58_0000 + n).to_be_bytes()).to_string();
        let attached = attached("ctr0", &[&ip]);
        (name.as_str(), vec![with_port(attached, "all")])
    });
    let maps = [map("edge-1", containers.collect())];
    let started = std::time::Instant::now();
    let found = services(&maps, "_80._tcp.all.ctr0");
    // Each compared with each other takes a minute.
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
    assert_eq!((found.data.len(), found.additional.len()), (4000, 4000));
}

#[test]
fn addresses_have_names() {
    let v6 = format!("2.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    for (name, kind, expected) in [
        ("3.0.88.10.in-addr.arpa", "PTR", "db.ctr0.circuit.internal"),
        (
            "4.0.88.10.in-addr.arpa",
            "PTR",
            "web-1.ctr0.circuit.internal",
        ),
        (&v6, "PTR", "web.ctr0.circuit.internal"),
        (
            "5.7.168.192.in-addr.arpa",
            "PTR",
            "far.lan7.circuit.internal",
        ),
        (
            "3.0.88.10.in-addr.arpa",
            "A",
            "nothing in 88.10.in-addr.arpa",
        ),
        ("9.9.88.10.in-addr.arpa", "PTR", "no in 88.10.in-addr.arpa"),
        // Only the part of a subnet that is cut at whole octets is a zone.
        (
            "9.15.99.10.in-addr.arpa",
            "PTR",
            "no in 15.99.10.in-addr.arpa",
        ),
        (
            "17.0.98.10.in-addr.arpa",
            "PTR",
            "no in 17.0.98.10.in-addr.arpa",
        ),
        ("88.10.in-addr.arpa", "SOA", "soa"),
        (
            "7.88.10.in-addr.arpa",
            "SOA",
            "nothing in 88.10.in-addr.arpa",
        ),
        ("9.16.99.10.in-addr.arpa", "PTR", "-"),
        ("10.in-addr.arpa", "SOA", "-"),
        ("1.1.1.1.in-addr.arpa", "PTR", "-"),
        ("03.1.1.1.in-addr.arpa", "PTR", "-"),
        ("x.99.10.in-addr.arpa", "PTR", "-"),
    ] {
        assert_eq!(all(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn a_network_sees_its_own_names_only() {
    let networks: [Arc<str>; 1] = ["my.net".into()];
    let scope = Scope::Networks(&networks);
    for (name, kind, expected) in [
        ("web.my.net", "A", "10.99.0.2"),
        ("web.circuit.internal", "A", "10.99.0.2"),
        ("web.ctr0", "A", "no in ctr0"),
        ("ctr0", "SOA", "no in ctr0"),
        ("_tcp.db.ctr0", "A", "no in ctr0"),
        ("web.ctr0.circuit.internal", "A", "no in circuit.internal"),
        ("ctr0.circuit.internal", "A", "no in circuit.internal"),
        ("lan7.circuit.internal", "A", "no in circuit.internal"),
        ("net.circuit.internal", "A", "nothing in circuit.internal"),
        ("db.circuit.internal", "A", "no in circuit.internal"),
        ("far.lan7", "A", "-"),
        ("3.0.88.10.in-addr.arpa", "PTR", "no in 88.10.in-addr.arpa"),
        (
            "2.0.99.10.in-addr.arpa",
            "PTR",
            "web.my.net.circuit.internal",
        ),
    ] {
        assert_eq!(told(scope, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn names_that_are_too_long_keep_their_beginning() {
    let long = "x".repeat(76);
    let label = label(&long);
    assert_eq!(label.len(), 63);
    assert!(label.starts_with(&"x".repeat(54)), "{label}");
    assert_ne!(label, super::label(&format!("{}y", "x".repeat(75))));
    assert_eq!(network_labels("My.Net"), "my.net");
    assert_eq!(network_labels("a..b"), "a--b");
}

#[test]
fn what_is_no_domain_is_refused() {
    for good in ["circuit.internal", "Lan", "a.b.c."] {
        assert!(Domain::parse(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "a..b", "a b", "_tcp.x", &"a".repeat(64)] {
        assert!(Domain::parse(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn every_name_has_a_label(name in "\\PC{0,90}") {
        let once = label(&name).into_owned();
        prop_assert!((1..=63).contains(&once.len()));
        prop_assert!(!once.contains('.'));
        prop_assert_eq!(&*label(&once), &once);
    }

    #[test]
    fn every_question_has_an_answer(
        labels in prop::collection::vec(
            prop_oneof![
                Just("web".to_owned()), Just("ctr0".to_owned()), Just("node".to_owned()),
                Just("circuit".to_owned()), Just("internal".to_owned()), Just("in-addr".to_owned()),
                Just("ip6".to_owned()), Just("arpa".to_owned()), Just("_80".to_owned()),
                Just("_tcp".to_owned()), "[0-9a-f]{1,3}", "\\PC{0,4}",
            ],
            0..8,
        ),
        kind in 0..8_usize,
    ) {
        let kinds = ["A", "AAAA", "PTR", "SRV", "SOA", "NS", "ANY", "TXT"];
        let _ = all(&labels.join("."), kinds[kind]);
    }
}
