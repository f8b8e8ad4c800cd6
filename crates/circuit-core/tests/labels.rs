//! What labels ask for.
#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, net::IpAddr};

use circuit_core::labels::{
    DesiredNetwork, Labels, NETWORK_LABEL, PORTS_LABEL, PortMapping, check_interface, parse_ports,
};
use proptest::prelude::*;

fn read(labels: &[(&str, &str)]) -> Labels {
    let map: HashMap<String, String> = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Labels::read(&map, NETWORK_LABEL)
}

fn names(labels: &Labels) -> Vec<&str> {
    labels.networks.iter().map(|n| n.network.as_str()).collect()
}

#[test]
fn one_network_as_ever() {
    let labels = read(&[(NETWORK_LABEL, "ctr0")]);
    assert_eq!(labels.networks, [DesiredNetwork::named("ctr0")]);
    assert!(labels.problems.is_empty());
}

#[test]
fn several_networks_keep_their_order() {
    assert_eq!(
        names(&read(&[(NETWORK_LABEL, "b, a ,c,")])),
        ["b", "a", "c"]
    );
}

#[test]
fn priorities_are_read_for_every_network() {
    let labels = read(&[
        (NETWORK_LABEL, "a,b"),
        ("io.circuit.network.b.gw-priority", " 10 "),
        ("io.circuit.network.by.hand.gw-priority", "-3"),
        ("io.circuit.network.a.gw-priority", "first"),
    ]);
    assert_eq!(names(&labels), ["a", "b"]);
    assert_eq!(labels.gw_priorities.get("b"), Some(&10));
    assert_eq!(labels.gw_priorities.get("by.hand"), Some(&-3));
    assert_eq!(labels.problems.len(), 1);
    assert_eq!(labels.problems[0].network, "a");
    assert!(labels.problems[0].message.contains("no whole number"));
    // Without a list of networks they count for what is joined by hand.
    let alone = read(&[("io.circuit.network.b.gw-priority", "1")]);
    assert!(alone.problems.is_empty() && alone.networks.is_empty());
}

#[test]
fn another_key_brings_its_own_family() {
    let map = HashMap::from([
        ("net".to_owned(), "a".to_owned()),
        ("net.a.ip".to_owned(), "10.1.0.7".to_owned()),
        ("io.circuit.network.a.ip".to_owned(), "10.1.0.8".to_owned()),
    ]);
    assert_eq!(Labels::read(&map, "net").networks[0].ips, ["10.1.0.7"]);
}

#[test]
fn wishes_of_one_network() {
    let labels = read(&[
        (NETWORK_LABEL, "my.net,b"),
        ("io.circuit.network.my.net.ip", "10.1.0.7, fd00::7/64"),
        ("io.circuit.network.my.net.mac", "02:AA:00:00:00:07"),
        ("io.circuit.network.my.net.aliases", "db, www"),
        ("io.circuit.network.my.net.interface", "lan0"),
    ]);
    assert!(labels.problems.is_empty(), "{:?}", labels.problems);
    assert_eq!(
        labels.networks[0],
        DesiredNetwork {
            network: "my.net".into(),
            ips: vec!["10.1.0.7".into(), "fd00::7/64".into()],
            mac: Some("02:aa:00:00:00:07".into()),
            aliases: vec!["db".into(), "www".into()],
            interface: Some("lan0".into()),
        }
    );
    assert_eq!(labels.networks[1], DesiredNetwork::named("b"));
}

#[test]
fn a_bad_wish_spoils_only_its_network() {
    for (key, value, says) in [
        ("ip", "10.1.0", "is no address"),
        ("ip", "", "no address is given"),
        ("mac", "02:aa", "is no hardware address"),
        ("mac", "01:00:00:00:00:07", "is a group address"),
        ("interface", "lo", "is taken"),
        ("interface", "a/b", "is no interface name"),
        ("interface", "much-too-long-for-it", "is no interface name"),
    ] {
        let key = format!("io.circuit.network.a.{key}");
        let labels = read(&[(NETWORK_LABEL, "a,b"), (&key, value)]);
        assert_eq!(names(&labels), ["b"], "{key}={value}");
        assert_eq!(labels.problems.len(), 1);
        assert_eq!(labels.problems[0].network, "a");
        let message = &labels.problems[0].message;
        assert!(
            message.contains(says) && message.contains(&key),
            "{message}"
        );
    }
}

#[test]
fn a_network_twice_and_an_interface_twice_are_told() {
    let twice = read(&[(NETWORK_LABEL, "a,a")]);
    assert_eq!((names(&twice), twice.problems.len()), (vec!["a"], 1));
    let clash = read(&[
        (NETWORK_LABEL, "a,b"),
        ("io.circuit.network.a.interface", "lan0"),
        ("io.circuit.network.b.interface", "lan0"),
    ]);
    assert_eq!((names(&clash), clash.problems.len()), (vec!["a"], 1));
}

#[test]
fn empty_label_and_lonely_ports_are_told() {
    assert_eq!(read(&[(NETWORK_LABEL, " ,")]).problems.len(), 1);
    assert_eq!(read(&[(PORTS_LABEL, "80:80")]).problems.len(), 1);
    assert_eq!(read(&[]), Labels::default());
}

fn port(
    host_ip: Option<&str>,
    host_port: u16,
    container_port: u16,
    protocol: &'static str,
) -> PortMapping {
    let host_ip = host_ip.map(|ip| ip.parse::<IpAddr>().unwrap());
    PortMapping {
        host_ip,
        host_port,
        container_port,
        protocol,
    }
}

#[test]
fn ports_in_every_form() {
    assert_eq!(
        parse_ports("8080:80, 127.0.0.1:53:5353/udp,[fd00::1]:9:9/SCTP,7000-7001:70-71").unwrap(),
        [
            port(None, 8080, 80, "tcp"),
            port(Some("127.0.0.1"), 53, 5353, "udp"),
            port(Some("fd00::1"), 9, 9, "sctp"),
            port(None, 7000, 70, "tcp"),
            port(None, 7001, 71, "tcp"),
        ]
    );
    assert_eq!(
        port(Some("127.0.0.1"), 53, 5353, "udp")
            .to_json()
            .to_string(),
        r#"{"hostPort":53,"containerPort":5353,"protocol":"udp","hostIP":"127.0.0.1"}"#
    );
}

#[test]
fn bad_ports_are_refused() {
    for bad in [
        "80",
        "0:80",
        "80:0",
        "80:65536",
        "80:80/icmp",
        "x:80:80",
        "1-3:1-2",
        "3-1:3-1",
        "80:80,80:81",
    ] {
        assert!(parse_ports(bad).is_err(), "{bad}");
    }
    assert!(parse_ports("80:80/tcp,80:80/udp").is_ok());
    assert!(parse_ports("10.0.0.1:80:80,10.0.0.2:80:80").is_ok());
    assert!(parse_ports("80:80,10.0.0.2:80:80").is_err());
    assert!(parse_ports("10.0.0.2:80:80,80:80").is_err());
}

#[test]
fn the_hosts_own_loopback_addresses_are_not_published_at() {
    let error = parse_ports("127.0.0.53:53:53/udp").unwrap_err();
    assert_eq!(
        error.message(),
        "\"127.0.0.53:53:53/udp\" is at an address for programs of the host: publish at \
         127.0.0.1, or at an address by which others reach the host"
    );
    let error = parse_ports("[::1]:53:53/udp").unwrap_err();
    assert_eq!(
        error.message(),
        "\"[::1]:53:53/udp\" is at an address from which nothing reaches a container: publish at \
         127.0.0.1, or at an address by which others reach the host"
    );
    for bad in ["127.0.0.0", "127.1.2.3", "[::ffff:127.0.0.53]"] {
        assert!(parse_ports(&format!("{bad}:53:53")).is_err(), "{bad}");
    }
    for good in [
        "127.0.0.1",
        "[::ffff:127.0.0.1]",
        "[::]",
        "126.0.0.53",
        "0.0.0.0",
    ] {
        assert!(parse_ports(&format!("{good}:53:53")).is_ok(), "{good}");
    }
    let labels = read(&[
        (NETWORK_LABEL, "ctr0"),
        (PORTS_LABEL, "127.0.0.53:53:53/udp"),
    ]);
    assert!(labels.ports.is_empty());
    assert!(
        labels.problems[0]
            .message
            .contains("label io.circuit.ports")
    );
}

proptest! {
    #[test]
    fn nothing_written_in_a_label_panics(
        list in ".{0,60}", ip in ".{0,40}", mac in ".{0,20}", interface in ".{0,20}", ports in ".{0,60}",
    ) {
        let labels = read(&[
            (NETWORK_LABEL, &list),
            ("io.circuit.network.a.ip", &ip),
            ("io.circuit.network.a.mac", &mac),
            ("io.circuit.network.a.interface", &interface),
            (PORTS_LABEL, &ports),
        ]);
        for network in &labels.networks {
            prop_assert!(!network.network.is_empty() && !network.network.contains(','));
        }
        let mut seen = names(&labels);
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), labels.networks.len());
    }

    #[test]
    fn what_is_written_is_read(
        names_in in proptest::collection::hash_set("[a-z0-9][a-z0-9_.-]{0,12}", 1..6),
        host in 1_u16.., container in 1_u16..,
    ) {
        let wanted: Vec<&str> = names_in.iter().map(String::as_str).collect();
        let labels = read(&[
            (NETWORK_LABEL, &wanted.join(",")),
            (PORTS_LABEL, &format!("{host}:{container}")),
        ]);
        prop_assert_eq!(names(&labels), wanted);
        prop_assert_eq!(labels.ports, [port(None, host, container, "tcp")]);
    }

    #[test]
    fn interface_names_follow_the_kernel(name in "[ -~]{0,18}") {
        let kernel = !name.is_empty() && name.len() <= 15 && name != "." && name != ".."
            && !name.contains(['/', ':', ' ']);
        prop_assert_eq!(check_interface(&name).is_ok(), kernel && name != "lo");
    }
}

#[test]
fn a_misspelt_wish_is_told() {
    let read = read(&[
        ("io.circuit.network", "web,web.eu,lan"),
        ("io.circuit.network.web.alias", "shop"),
        ("io.circuit.network.web.eu.ip", "10.1.0.7"),
        ("io.circuit.network.web.eu.mtu", "1400"),
        ("io.circuit.network.lan.gw-priority", "7"),
        ("io.circuit.network.other.alias", "shop"),
        ("io.circuit.networks", "lan"),
    ]);
    let [told] = &read.problems[..] else {
        panic!("{:?}", read.problems);
    };
    assert_eq!(told.network, "");
    let unknown = "io.circuit.network.web.alias, io.circuit.network.web.eu.mtu";
    let known = "aliases, gw-priority, interface, ip, mac";
    assert_eq!(
        told.message,
        format!("not known: label {unknown}; those of a network end with {known}")
    );
    assert_eq!(read.networks.len(), 3);
}

/// Whoever writes labels must not have the daemon count for long.
#[test]
fn so_many_ports_and_no_more_are_published() {
    let calls = parse_ports("10000-20000:10000-20000/udp").unwrap();
    assert_eq!(calls.len(), 10_001);
    let all = "1-65535:1-65535";
    let many: Vec<String> = (0..250).map(|at| format!("10.0.0.{at}:{all}")).collect();
    let rest = "1-16384:1-16384,10.0.0.9:20000:1";
    for far_too_many in [all, &many.join(","), rest] {
        let error = parse_ports(far_too_many).unwrap_err();
        assert!(error.message().contains("16384 ports"), "{error}");
    }
}
