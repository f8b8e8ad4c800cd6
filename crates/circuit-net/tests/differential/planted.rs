//! Whether the suite can fail: stock plugins compared with themselves are
//! equal, and each difference made on purpose is found, where it is.

use serde_json::{Value, json};

use crate::cases::{plugin, usual_bridge};
use crate::compare::{Record, differences, matches};
use crate::normal::Names;
use crate::runtime::{Attachment, Runtime, result_of};
use crate::script::{Case, live, mapping};
use crate::sides::Side;
use crate::snapshot;
use crate::traffic;
use crate::world::{CONTAINERS, OUTSIDE, OUTSIDE_V4, World};

/// A difference: a command that makes it, one that takes it back, and where it
/// must show. `VETH` is the host's end of the first container's interface.
const PLANTS: [(&str, &str, &str); 29] = [
    (
        "ip link set VETH mtu 1400",
        "ip link set VETH mtu 1500",
        "host.links.(peer of one eth0).mtu",
    ),
    (
        "echo 77 > /proc/sys/net/core/somaxconn",
        "echo 4096 > /proc/sys/net/core/somaxconn",
        "host.sysctls.core.somaxconn",
    ),
    (
        "ip link set cni0 alias mine",
        "ip link set cni0 alias ''",
        "host.links.cni0.ifalias",
    ),
    (
        "ip link property add dev cni0 altname other",
        "ip link property del dev cni0 altname other",
        "host.links.cni0.altnames",
    ),
    (
        "ip link set cni0 promisc on",
        "ip link set cni0 promisc off",
        "host.links.cni0.flags",
    ),
    (
        "ip link set VETH nomaster",
        "ip link set VETH master cni0",
        "host.links.(peer of one eth0).master",
    ),
    (
        "ip link set VETH down",
        "ip link set VETH up",
        "host.links.(peer of one eth0).flags",
    ),
    (
        "ip link set VETH group 7",
        "ip link set VETH group 0",
        "host.links.(peer of one eth0).group",
    ),
    (
        "ip link add extra type bridge",
        "ip link del extra",
        "host.links.extra",
    ),
    (
        "ip -n one link add extra type bridge",
        "ip -n one link del extra",
        "one.links.extra",
    ),
    (
        "ip addr add 192.0.2.1/24 dev cni0",
        "ip addr del 192.0.2.1/24 dev cni0",
        "host.links.cni0.addr_info",
    ),
    (
        "ip addr add 192.0.2.1/24 dev lo scope link",
        "ip addr del 192.0.2.1/24 dev lo",
        "host.links.lo.addr_info",
    ),
    (
        "ip -n one addr add fd00:99::1/64 dev eth0 nodad",
        "ip -n one addr del fd00:99::1/64 dev eth0",
        "one.links.eth0.addr_info",
    ),
    (
        "ip -n one route add 192.0.2.0/24 via 10.88.0.1",
        "ip -n one route del 192.0.2.0/24",
        "one.routes",
    ),
    (
        "ip route add 192.0.2.0/24 dev cni0 table 77",
        "ip route del 192.0.2.0/24 dev cni0 table 77",
        "host.routes",
    ),
    (
        "ip -6 route add 2001:db8:9::/48 dev cni0 metric 7",
        "ip -6 route del 2001:db8:9::/48 dev cni0 metric 7",
        "host.routes",
    ),
    (
        "ip -n one rule add from 192.0.2.1 table 7",
        "ip -n one rule del from 192.0.2.1 table 7",
        "one.rules",
    ),
    (
        "ip -n one -6 rule add from 2001:db8::1 table 7",
        "ip -n one -6 rule del from 2001:db8::1 table 7",
        "one.rules6",
    ),
    (
        "ip neigh add 10.88.0.77 lladdr 02:00:00:00:00:77 dev cni0 nud permanent",
        "ip neigh del 10.88.0.77 dev cni0",
        "host.neighbours",
    ),
    (
        "echo 1 > /proc/sys/net/ipv4/conf/cni0/route_localnet",
        "echo 0 > /proc/sys/net/ipv4/conf/cni0/route_localnet",
        "host.sysctls.ipv4.conf.cni0.route_localnet",
    ),
    (
        "echo 0 > /proc/sys/net/ipv6/conf/VETH/accept_dad",
        "echo 1 > /proc/sys/net/ipv6/conf/VETH/accept_dad",
        "host.sysctls.ipv6.conf.(peer of one eth0).accept_dad",
    ),
    (
        "echo 0 > /proc/sys/net/ipv4/ip_forward",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "host.sysctls.ipv4.ip_forward",
    ),
    (
        "bridge link set dev VETH hairpin on",
        "bridge link set dev VETH hairpin off",
        "host.ports.(peer of one eth0).hairpin",
    ),
    (
        "bridge link set dev VETH isolated on",
        "bridge link set dev VETH isolated off",
        "host.ports.(peer of one eth0).isolated",
    ),
    (
        "bridge link set dev VETH learning off",
        "bridge link set dev VETH learning on",
        "host.ports.(peer of one eth0).learning",
    ),
    (
        "tc qdisc add dev cni0 root tbf rate 1mbit burst 10k latency 10ms",
        "tc qdisc del dev cni0 root",
        "host.tc",
    ),
    (
        "tc qdisc add dev cni0 ingress; tc filter add dev cni0 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev uplink",
        "tc qdisc del dev cni0 ingress",
        "host.tc",
    ),
    (
        "echo > /var/lib/cni/networks/net/10.88.0.9",
        "rm /var/lib/cni/networks/net/10.88.0.9",
        "files./var/lib/cni/networks/net/10.88.0.9",
    ),
    (
        "cd /var/lib/cni/networks/net; mv 10.88.0.2 saved; printf other > 10.88.0.2",
        "cd /var/lib/cni/networks/net; mv saved 10.88.0.2",
        "files./var/lib/cni/networks/net/10.88.0.2",
    ),
];

fn look(world: &World, names: &mut Names) -> Record {
    let seen = snapshot::take(world, names);
    Record {
        steps: vec![("look".to_owned(), names.normal(&seen))],
    }
}

#[test]
fn planted_differences_are_found_where_they_are() {
    World::with(|world| {
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [usual_bridge()]});
        let runtime = Runtime::new(Side::New.folder(), &list);
        let result = result_of(&runtime.add(&Attachment::of(CONTAINERS[0], "eth0")));
        let veth = result["interfaces"][1]["name"].as_str().unwrap();
        let mut names = Names::new(String::new());
        let plain = look(world, &mut names);
        for (plant, undo, place) in PLANTS {
            world.shell(&plant.replace("VETH", veth));
            let found = differences(&plain, &look(world, &mut names));
            let here = |path: &str| path == place || matches(&format!("{place}.*"), path);
            assert!(
                found.iter().any(|difference| here(&difference.path)),
                "{plant}: not found at {place}, but {found:?}"
            );
            world.shell(&undo.replace("VETH", veth));
        }
        let still = differences(&plain, &look(world, &mut names));
        assert!(still.is_empty(), "what was undone still differs: {still:?}");
    });
}

/// The same, of what plugins answer.
#[test]
fn other_answers_are_found() {
    let case = |keys: Value| {
        let plugins = json!([plugin("bridge", keys)]);
        Case::new("planted", "1.0.0", plugins).short().may_fail()
    };
    let plain = live(&case(json!({"isGateway": true})), Side::New);
    for (keys, place) in [
        (
            json!({"isGateway": true, "dns": {"domain": "a"}}),
            "0.answer.dns",
        ),
        (
            json!({"isGateway": true, "bridge": "cni1"}),
            "0.answer.interfaces.0.name",
        ),
        (
            json!({"isDefaultGateway": true, "hairpinMode": true, "promiscMode": true}),
            "0.exit",
        ),
    ] {
        let found = differences(&plain, &live(&case(keys.clone()), Side::New));
        let is_found = |difference: &crate::compare::Difference| {
            difference.step == "ADD one" && difference.path == place
        };
        assert!(
            found.iter().any(is_found),
            "{keys}: not found at {place}, but {found:?}"
        );
    }
}

/// The same, of traffic: what masquerade, ports and firewalls do to it.
#[test]
fn other_traffic_is_found() {
    World::with(|world| {
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [usual_bridge()]});
        let runtime = Runtime::new(Side::New.folder(), &list);
        result_of(&runtime.add(&Attachment::of(CONTAINERS[0], "eth0")));
        let outside = format!("{OUTSIDE_V4}:1000").parse().unwrap();
        let out = |by: fn(&World, &str, std::net::SocketAddr, (&str, u16)) -> String| {
            by(world, CONTAINERS[0], outside, (OUTSIDE, 1000))
        };
        assert_eq!(out(traffic::tcp), "from 198.51.100.1");
        assert_eq!(out(traffic::udp), "from 198.51.100.1");
        world.shell("iptables -I FORWARD -d 198.51.100.2 -j DROP");
        assert_eq!(out(traffic::tcp), "no answer");
        assert_eq!(out(traffic::udp), "lost");
        world.shell("iptables -F FORWARD; iptables -I FORWARD -s 198.51.100.2 -j DROP");
        assert_eq!(out(traffic::udp), "from 198.51.100.1, the answer is lost");
        world.shell("iptables -F FORWARD; iptables -t nat -F POSTROUTING");
        assert_eq!(out(traffic::tcp), "from 10.88.0.2");
        world.shell("iptables -I FORWARD -p tcp -j REJECT --reject-with tcp-reset");
        assert_eq!(out(traffic::tcp), "connection refused");
    });
}

/// Stock plugins differ from themselves in nothing, whatever is random.
#[test]
fn the_stock_plugins_are_equal_to_themselves() {
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let ports = json!({"portMappings": [mapping(18080, "tcp")]});
    let cases = [
        Case::new("itself", "1.0.0", json!([plugin("bridge", json!({}))])),
        Case::new("itself", "1.1.0", json!([usual_bridge(), portmap]))
            .capabilities(ports, json!({})),
        Case::new(
            "itself",
            "1.0.0",
            json!([plugin("ptp", json!({"ipMasq": true}))]),
        ),
    ];
    for case in &cases {
        for side in [Side::Old, Side::New] {
            if side == Side::Old && !case.old {
                continue;
            }
            let (one, other) = std::thread::scope(|scope| {
                let other = scope.spawn(|| live(case, side));
                (live(case, side), other.join().unwrap())
            });
            let found = differences(&one, &other);
            assert!(found.is_empty(), "{side:?} differs from itself: {found:?}");
        }
    }
}
