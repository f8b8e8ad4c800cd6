//! Making and changing interfaces, addresses and routes, against what `ip`
//! says of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;

use circuit_net::netlink::{AddressSpec, Beside, LinkSpec, Mac, Netlink, RouteSpec, set_port};
use common::{Netns, on_private_host, shell};
use ipnet::IpNet;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A bridge and a port of it whose other end is `eth0` of a container.
struct Host {
    container: Netns,
    host: Netlink,
    inside: Netlink,
    bridge: u32,
    port: u32,
}

impl Host {
    fn new() -> Self {
        let container = Netns::new();
        let mut host = Netlink::open(None).unwrap();
        let bridge = LinkSpec {
            up: Some(true),
            mtu: Some(1400),
            ..LinkSpec::named("br0")
        };
        let bridge = host.create("br0", bridge.create("bridge", |m| m)).unwrap();
        assert!(bridge.up && bridge.is("bridge") && !bridge.vlan_filtering());
        assert_eq!(bridge.mtu, Some(1400));
        let netns = File::open(container.path()).unwrap();
        let peer = LinkSpec {
            netns: Some(netns.as_fd()),
            mac: Some(Mac([2, 0, 0, 0, 0, 7])),
            mtu: Some(1400),
            ..LinkSpec::named("eth0")
        };
        let port = LinkSpec {
            up: Some(true),
            master: Some(bridge.index),
            mtu: Some(1400),
            ..LinkSpec::named("port0")
        };
        let port = host.create("port0", port.create_veth(&peer)).unwrap();
        assert_eq!(port.master, Some(bridge.index));
        assert!(port.up && !port.running && port.parent_netns.is_some());
        let inside = Netlink::open(Some(&container.path())).unwrap();
        Self {
            container,
            host,
            inside,
            bridge: bridge.index,
            port: port.index,
        }
    }
}

#[test]
fn a_veth_is_made_in_one_request_with_its_other_end_in_place() {
    on_private_host(async || {
        let mut all = Host::new();
        let eth0 = all.inside.link("eth0").unwrap().unwrap();
        assert_eq!(
            all.host.link_at(all.port).unwrap().unwrap().parent,
            Some(eth0.index)
        );
        assert_eq!(eth0.parent, Some(all.port));
        assert_eq!(eth0.mac.as_deref(), Some("02:00:00:00:00:07"));
        assert!(!eth0.up && eth0.mtu == Some(1400) && eth0.is("veth"));
        let up = LinkSpec {
            up: Some(true),
            ..LinkSpec::default()
        };
        all.inside.set_link(eth0.index, &up).unwrap();
        assert!(all.host.link("port0").unwrap().unwrap().up);

        let ports = all.host.ports(all.bridge).unwrap();
        assert_eq!(ports.len(), 1);
        assert_eq!(ports[0].name, "port0");

        let taken = LinkSpec::named("port0").create("bridge", |m| m);
        let refused = all.host.create("port0", taken).unwrap_err();
        assert_eq!(refused.errno(), Some(libc::EEXIST));

        let gone = [all.port, all.port, 4711];
        all.host.delete_links(&gone).unwrap();
        assert!(all.inside.link("eth0").unwrap().is_none());
        assert!(all.host.link("port0").unwrap().is_none());
        assert!(all.host.link_at(all.port).unwrap().is_none());
        for name in ["", "a-name-that-is-much-too-long"] {
            assert!(all.host.link(name).unwrap().is_none());
        }
    });
}

#[test]
fn an_interface_is_renamed_moved_and_freed() {
    on_private_host(async || {
        let mut all = Host::new();
        let spec = LinkSpec {
            master: Some(0),
            name: Some("other0"),
            mtu: Some(1300),
            mac: Some(Mac([2, 0, 0, 0, 0, 9])),
            promisc: Some(true),
            group: Some(7),
            alias: Some("of a test"),
            ..LinkSpec::default()
        };
        all.host.set_link(all.port, &spec).unwrap();
        let link = all.host.link("other0").unwrap().unwrap();
        assert_eq!(
            (link.master, link.mtu, link.promiscuity),
            (None, Some(1300), 1)
        );
        assert_eq!(
            (link.group, link.mac.as_deref()),
            (7, Some("02:00:00:00:00:09"))
        );
        assert_eq!(link.alias.as_deref(), Some("of a test"));
        let netns = File::open(all.container.path()).unwrap();
        let moved = LinkSpec {
            netns: Some(netns.as_fd()),
            ..LinkSpec::named("eth9")
        };
        all.host.set_link(all.port, &moved).unwrap();
        assert!(all.host.link("other0").unwrap().is_none());
        assert!(all.inside.link("eth9").unwrap().is_some());
        let missing = all.host.set_link(4711, &moved).unwrap_err();
        assert_eq!(missing.errno(), Some(libc::ENODEV));
    });
}

#[test]
fn ports_have_flags() {
    on_private_host(async || {
        let mut all = Host::new();
        let plain = all.host.link("port0").unwrap().unwrap();
        assert!(!plain.hairpin() && !plain.isolated());
        for (hairpin, isolated) in [(true, false), (true, true), (false, true), (false, false)] {
            let request = set_port(all.port, hairpin, isolated);
            all.host.carry_out(&[request], &[]).unwrap();
            let port = all.host.link("port0").unwrap().unwrap();
            assert_eq!((port.hairpin(), port.isolated()), (hairpin, isolated));
        }
    });
}

#[test]
fn addresses_come_and_go() {
    on_private_host(async || {
        let mut all = Host::new();
        let index = all.inside.link("eth0").unwrap().unwrap().index;
        let nodad = AddressSpec {
            nodad: true,
            ..net("fd00::2/64").into()
        };
        let peer = AddressSpec {
            peer: Some(ip("10.3.0.1")),
            scope: 253,
            ..net("10.3.0.2/32").into()
        };
        let bare = AddressSpec {
            noprefixroute: true,
            ..net("10.4.0.2/24").into()
        };
        let plain = AddressSpec::from(net("10.1.0.2/16"));
        for address in [plain, nodad, peer, bare, plain] {
            all.inside.add_address(index, &address).unwrap();
        }
        let twice = all.inside.request(&plain.add(index)).unwrap_err();
        assert_eq!(twice.errno(), Some(libc::EEXIST));
        let shown = all.container.ip("-o addr show dev eth0");
        for part in [
            "inet 10.1.0.2/16 brd 10.1.255.255 scope global eth0",
            "inet 10.3.0.2 peer 10.3.0.1/32 scope link eth0",
            "inet 10.4.0.2/24 brd 10.4.0.255 scope global noprefixroute eth0",
            "inet6 fd00::2/64 scope global nodad",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        let listed = |all: &mut Host| {
            let found = all.inside.addresses(index).unwrap();
            found
                .iter()
                .map(|a| a.address.to_string())
                .collect::<Vec<_>>()
        };
        // In the order of scopes.
        let expected = ["10.3.0.2/32", "10.1.0.2/16", "10.4.0.2/24", "fd00::2/64"];
        assert_eq!(listed(&mut all), expected);
        for (ipv6, expected) in [(false, &expected[..3]), (true, &expected[3..])] {
            let found = all.inside.addresses_by(index, ipv6).unwrap();
            let found: Vec<String> = found.iter().map(|a| a.address.to_string()).collect();
            assert_eq!(found, expected);
        }
        for address in [plain, nodad, plain, peer, bare] {
            all.inside.delete_address(index, &address).unwrap();
        }
        assert!(listed(&mut all).is_empty());
        assert!(all.inside.addresses(4711).unwrap().is_empty());
    });
}

#[test]
fn routes_come_and_go() {
    on_private_host(async || {
        let mut all = Host::new();
        let index = all.inside.link("eth0").unwrap().unwrap().index;
        all.container.ip("link set eth0 up");
        all.container.ip("addr add 10.1.0.2/16 dev eth0");
        all.container.ip("addr add fd00::2/64 dev eth0 nodad");
        let four = RouteSpec {
            src: Some(ip("10.1.0.2")),
            priority: 50,
            mtu: Some(1300),
            advmss: Some(1200),
            ..RouteSpec::new(net("0.0.0.0/0"), Some(ip("10.1.0.1")), index)
        };
        let onlink = RouteSpec {
            onlink: true,
            table: Some(1000),
            ..RouteSpec::new(net("10.9.0.0/16"), Some(ip("192.0.2.1")), index)
        };
        let link = RouteSpec {
            scope: 253,
            table: Some(77),
            ..RouteSpec::new(net("10.8.0.0/16"), None, index)
        };
        let six = RouteSpec::new(net("::/0"), Some(ip("fd00::1")), index);
        let mixed = RouteSpec::new(net("10.7.0.0/16"), Some(ip("fd00::1")), index);
        for route in [&four, &onlink, &link, &six, &mixed] {
            all.inside.add_route(route, Beside::Refused).unwrap();
            for beside in [Beside::Refused, Beside::Before] {
                let twice = all.inside.add_route(route, beside).unwrap_err();
                assert_eq!(twice.errno(), Some(libc::EEXIST));
            }
            all.inside.add_route(route, Beside::Replaced).unwrap();
        }
        let shown =
            all.container.ip("route show table all") + &all.container.ip("-6 route show table all");
        for part in [
            "default via 10.1.0.1 dev eth0 src 10.1.0.2 metric 50 mtu 1300 advmss 1200",
            "10.9.0.0/16 via 192.0.2.1 dev eth0 table 1000 onlink",
            "10.8.0.0/16 dev eth0 table 77 scope link",
            "default via fd00::1 dev eth0 metric 1024",
            "10.7.0.0/16 via inet6 fd00::1 dev eth0",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        let found = all.inside.routes(false).unwrap();
        let default = found.iter().find(|r| r.dst.prefix_len() == 0).unwrap();
        assert_eq!((default.gateway, default.priority), (four.gateway, 50));
        for route in [&four, &onlink, &link, &six, &mixed, &four] {
            all.inside.delete_route(route).unwrap();
        }
        let left = all.inside.routes(false).unwrap();
        assert!(!left.iter().any(|r| r.dst == four.dst || r.dst == link.dst));
        assert!(
            !all.inside
                .routes(true)
                .unwrap()
                .iter()
                .any(|r| r.dst == six.dst)
        );
    });
}

#[test]
fn interfaces_are_found_by_their_further_names() {
    on_private_host(|| async {
        let names = ["alt", "a-name-of-more-than-15-bytes", &"n".repeat(127)];
        shell("ip link add first type dummy 2>/dev/null || ip link add first type bridge");
        let mut host = Netlink::open(None).unwrap();
        for name in names {
            assert_eq!(host.link(name).unwrap(), None, "{name}");
            shell(&format!("ip link property add dev first altname {name}"));
            let found = host.link(name).unwrap().map(|link| link.name);
            assert_eq!(found.as_deref(), Some("first"), "{name}");
        }
        assert_eq!(host.link(&"n".repeat(128)).unwrap(), None);
        assert_eq!(host.link("").unwrap(), None);
    });
}
