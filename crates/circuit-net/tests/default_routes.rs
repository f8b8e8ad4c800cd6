//! The order of default routes, in kernels and with the stock plugins.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use circuit_core::ErrorKind;
use circuit_net::cni::{CniRuntime, PluginPath};
use circuit_net::netlink::order_default_routes;
use common::{Netns, STOCK_PLUGINS, attach, list_with, on_private_host};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);

/// Adds a default route as plugins do, which ask for no place: before those
/// there are in IPv4, among them in IPv6.
const AS_PLUGINS: &str = "prepend";

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A container whose interface `ethN` has the addresses 10.N.0.2 and
/// fd00:N::2.
struct Container {
    inside: Netns,
    outside: Netns,
}

impl Container {
    fn new() -> Self {
        let container = Self {
            inside: Netns::new(),
            outside: Netns::new(),
        };
        container.inside.ip("link set lo up");
        container
    }

    fn veth(&self, number: u8) -> &Self {
        self.inside.ip(&format!(
            "link add eth{number} type veth peer name out{number} netns {}",
            self.outside.path().display()
        ));
        self.outside.ip(&format!("link set out{number} up"));
        self.address(number)
    }

    fn bridge(&self, number: u8) -> &Self {
        self.inside.ip(&format!("link add eth{number} type bridge"));
        self.address(number)
    }

    fn address(&self, n: u8) -> &Self {
        for command in [
            format!("link set eth{n} addrgenmode none up"),
            format!("addr add 10.{n}.0.2/24 dev eth{n}"),
            format!("addr add fd00:{n}::2/64 dev eth{n} nodad"),
        ] {
            self.inside.ip(&command);
        }
        self
    }

    /// Adds the default routes of an interface.
    fn defaults(&self, n: u8, how: &str) -> &Self {
        self.inside
            .ip(&format!("route {how} default via 10.{n}.0.1 dev eth{n}"));
        self.inside.ip(&format!(
            "-6 route {how} default via fd00:{n}::1 dev eth{n}"
        ));
        self
    }

    fn order(&self, interfaces: &[&str]) {
        order_default_routes(&self.inside.path(), &names(interfaces), &[]).unwrap();
    }

    /// The default routes of a family: interface and metric.
    fn routes(&self, family: u8) -> Vec<(String, u64)> {
        let text = self
            .inside
            .ip(&format!("-j -{family} route show table main default"));
        let routes: Vec<Value> = serde_json::from_str(&text).unwrap();
        let hops = |route: &Value| -> Vec<(String, u64)> {
            let metric = route["metric"].as_u64().unwrap_or(0);
            let one = vec![route.clone()];
            let hops = route["nexthops"].as_array().unwrap_or(&one);
            let dev = |hop: &Value| hop["dev"].as_str().unwrap().to_owned();
            let hops = hops.iter().filter(|hop| hop["dev"].is_string());
            hops.map(|hop| (dev(hop), metric)).collect()
        };
        routes.iter().flat_map(hops).collect()
    }

    /// The interface by which the world is reached.
    fn way(&self) -> [String; 2] {
        ["1.1.1.1", "2600::1"].map(|to| {
            let text = self.inside.ip(&format!("-j route get {to}"));
            let found: Value = serde_json::from_str(&text).unwrap();
            found[0]["dev"].as_str().unwrap().to_owned()
        })
    }

    fn assert_routes(&self, four: &[(&str, u64)], six: &[(&str, u64)]) {
        for (family, expected) in [(4, four), (6, six)] {
            let routes = self.routes(family);
            let routes: Vec<_> = routes.iter().map(|(dev, m)| (dev.as_str(), *m)).collect();
            assert_eq!(routes, expected, "IPv{family}");
        }
    }
}

/// What happens to the routes of a namespace.
struct Monitor<'a> {
    netns: &'a Netns,
    child: Child,
    lines: Receiver<String>,
    marks: u8,
}

impl<'a> Monitor<'a> {
    fn new(netns: &'a Netns) -> Self {
        let name = netns.path();
        let mut child = Command::new("ip")
            .arg("-n")
            .arg(name.file_name().unwrap())
            .args(["monitor", "route"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut monitor = Self {
            netns,
            child,
            lines,
            marks: 0,
        };
        let listens = |monitor: &mut Self| {
            monitor.mark();
            monitor
                .lines
                .recv_timeout(Duration::from_millis(100))
                .is_ok()
        };
        assert!((0..100).any(|_| listens(&mut monitor)));
        monitor.events();
        monitor
    }

    fn mark(&mut self) -> String {
        self.marks += 1;
        let mark = format!("198.51.100.{}", self.marks);
        self.netns.ip(&format!("route add blackhole {mark}"));
        mark
    }

    /// What happened since it was asked last.
    fn events(&mut self) -> Vec<String> {
        let mark = self.mark();
        let next = || self.lines.recv_timeout(LIMIT).unwrap();
        std::iter::repeat_with(next)
            .take_while(|line| !line.contains(&mark))
            .map(|line| line.trim_end().to_owned())
            .filter(|line| !line.contains("blackhole"))
            .collect()
    }
}

impl Drop for Monitor<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_first_of_two_networks_wins() {
    let container = Container::new();
    container.veth(0).veth(1);
    container.defaults(0, AS_PLUGINS).defaults(1, AS_PLUGINS);
    let shared = [("eth0", 1024), ("eth1", 1024)];
    container.assert_routes(&[("eth1", 0), ("eth0", 0)], &shared);
    let mut monitor = Monitor::new(&container.inside);
    container.order(&["eth0", "eth1"]);
    assert_eq!(container.way(), ["eth0", "eth0"]);
    let expected = [
        "default via 10.1.0.1 dev eth1 metric 100",
        "Deleted default via 10.1.0.1 dev eth1",
        "default via fd00:1::1 dev eth1 metric 1124 pref medium",
        "Deleted default via fd00:1::1 dev eth1 metric 1024 pref medium",
    ];
    assert_eq!(monitor.events(), expected, "made before broken");
    let six = [("eth0", 1024), ("eth1", 1124)];
    container.assert_routes(&[("eth0", 0), ("eth1", 100)], &six);

    let before = container.inside.ip("-d route show table all");
    for interfaces in [&["eth0", "eth1"][..], &["eth0"], &["eth1"], &[]] {
        container.order(interfaces);
    }
    assert_eq!(monitor.events(), [""; 0], "nothing is written");
    assert_eq!(
        container
            .inside
            .ip("-d route show table all")
            .lines()
            .count(),
        before.lines().count() + 1,
        "the mark"
    );

    container.inside.ip("link del eth0");
    assert_eq!(container.way(), ["eth1", "eth1"]);
    monitor.events();
    container.order(&["eth0", "eth1"]);
    assert_eq!(monitor.events(), [""; 0], "it stays the fall-back it was");
    // Interfaces are left in another order too.
    container.veth(0).defaults(0, "append");
    container.order(&["eth1", "eth0"]);
    assert_eq!(container.way(), ["eth1", "eth1"]);
    container.order(&["eth0", "eth1"]);
    assert_eq!(container.way(), ["eth0", "eth0"]);
}

#[test]
fn what_others_had_first_stays_first() {
    let container = Container::new();
    container.veth(0).veth(1).veth(2);
    for n in 0..3 {
        container.defaults(n, AS_PLUGINS);
    }
    let order = |interfaces: &[&str]| {
        let (inside, foreign) = (container.inside.path(), names(&["eth0"]));
        order_default_routes(&inside, &names(interfaces), &foreign).unwrap();
    };
    assert_eq!(container.way()[0], "eth2");
    let mut monitor = Monitor::new(&container.inside);
    order(&["eth0", "eth1", "eth2"]);
    let events = monitor.events();
    assert!(
        events.iter().all(|event| !event.contains("eth0")),
        "{events:?}"
    );
    assert_eq!(container.way(), ["eth0", "eth0"]);
    let four = [("eth0", 0), ("eth1", 100), ("eth2", 200)];
    let six = [("eth0", 1024), ("eth1", 1124), ("eth2", 1224)];
    container.assert_routes(&four, &six);
    order(&["eth0", "eth1", "eth2"]);
    assert_eq!(monitor.events(), [""; 0], "nothing is written");
    // Before them as well, when that is wanted, and without touching them.
    order(&["eth1", "eth0", "eth2"]);
    assert_eq!(container.way(), ["eth1", "eth1"]);
    let events = monitor.events();
    assert!(
        events.iter().all(|event| !event.contains("eth0")),
        "{events:?}"
    );
    order(&["eth0", "eth1", "eth2"]);
    assert_eq!(container.way(), ["eth0", "eth0"]);
    container.inside.ip("link del eth0");
    assert_eq!(container.way(), ["eth1", "eth1"]);
}

#[test]
fn three_networks_fall_back_one_after_the_other() {
    for how in ["prepend", "append"] {
        let container = Container::new();
        container.bridge(0).veth(1).bridge(2);
        for number in 0..3 {
            container.defaults(number, how);
        }
        container.order(&["eth2", "eth0", "eth1"]);
        container.assert_routes(
            &[("eth2", 0), ("eth0", 100), ("eth1", 200)],
            &[("eth2", 1024), ("eth0", 1124), ("eth1", 1224)],
        );
        for first in ["eth2", "eth0", "eth1"] {
            assert_eq!(container.way(), [first, first]);
            container.inside.ip(&format!("link del {first}"));
        }
        container.assert_routes(&[], &[]);
    }
}

#[test]
fn a_network_that_comes_back_takes_its_place() {
    let container = Container::new();
    container.veth(0).veth(1).veth(2);
    let order = ["eth0", "eth1", "eth2"];
    for number in 0..3 {
        container.defaults(number, AS_PLUGINS);
        container.order(&order);
    }
    let six = [("eth0", 1024), ("eth1", 1124), ("eth2", 1224)];
    let four = [("eth0", 0), ("eth1", 100), ("eth2", 200)];
    container.assert_routes(&four, &six);
    for number in 0..3 {
        container.inside.ip(&format!("link del eth{number}"));
        container.veth(number).defaults(number, AS_PLUGINS);
        container.order(&order);
        assert_eq!(container.way(), ["eth0", "eth0"]);
    }
    container.assert_routes(&four, &six);
}

#[test]
fn routes_keep_what_they_have() {
    let container = Container::new();
    container.veth(0).veth(1);
    let inside = &container.inside;
    inside.ip("addr add 10.1.0.9/24 dev eth1");
    inside.ip("addr add fd00:1::9/64 dev eth1 nodad");
    inside.ip("addr add fd00:0::9/64 dev eth0 nodad");
    inside.ip("route add default via 10.0.0.1 dev eth0");
    // What the first hop has is not what the others get.
    inside.ip("-6 route add default via fd00:0::1 dev eth0 src fd00:0::9 proto 66 mtu 1280");
    let options = "dev eth1 onlink proto static mtu 1300 advmss 1200";
    for route in [
        &format!("route prepend default via 203.0.113.1 src 10.1.0.9 realm 7 {options}"),
        "route append default dev eth1 scope link",
        "-4 route append default via inet6 fd00:1::7 dev eth1 proto 77",
        &format!("-6 route append default via 2001:db8::1 src fd00:1::9 {options}"),
        "-6 route append default via fd00:1::1 dev eth1 proto 77",
        "-6 route append default dev eth1 mtu 1400",
    ] {
        inside.ip(route);
    }
    let mut monitor = Monitor::new(inside);
    container.order(&["eth0", "eth1"]);
    assert_eq!(container.way(), ["eth0", "eth0"]);
    let first = inside.ip("-6 route show default dev eth0");
    let six = "src fd00::9 metric 1024 mtu 1280";
    assert!(first.contains("proto 66") && first.contains(six), "{first}");
    monitor.events();
    container.order(&["eth0", "eth1"]);
    assert_eq!(monitor.events(), [""; 0]);

    // Each is looked at by itself.
    inside.ip("link del eth0");
    let four = inside.ip("-4 -d route show default");
    let expected = [
        "unicast default via 203.0.113.1 dev eth1 proto static scope global src 10.1.0.9 \
         metric 100 onlink realm 7 mtu 1300 advmss 1200",
        "unicast default via inet6 fd00:1::7 dev eth1 proto 77 scope global metric 100",
        "unicast default dev eth1 proto boot scope link metric 100",
    ];
    assert_eq!(sorted(&four), sorted(&expected.join("\n")), "{four}");
    // A removal tells what the hop had.
    monitor.events();
    inside.ip("-6 route del default via fd00:1::1");
    inside.ip("-6 route del default via 2001:db8::1");
    inside.ip("-6 route del default dev eth1");
    let expected = [
        "Deleted default via fd00:1::1 dev eth1 proto 77 metric 1124 pref medium",
        "Deleted default via 2001:db8::1 dev eth1 proto static src fd00:1::9 metric 1124 onlink \
         mtu 1300 advmss 1200 pref medium",
        "Deleted default dev eth1 metric 1124 mtu 1400 pref medium",
    ];
    let removed = monitor.events().join("\n");
    assert_eq!(sorted(&removed), sorted(&expected.join("\n")), "{removed}");
}

/// The words of each line, in an order that does not depend on the tool.
fn sorted(text: &str) -> Vec<String> {
    let sorted = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.sort_unstable();
        words.join(" ")
    };
    let mut lines: Vec<String> = text.lines().map(sorted).collect();
    lines.sort();
    lines
}

#[test]
fn others_routes_are_left_alone() {
    let container = Container::new();
    container.veth(0).veth(1).veth(8).veth(9);
    let inside = &container.inside;
    inside.ip("route add default via 10.8.0.1 dev eth8 metric 100");
    inside.ip("-6 route add default via fd00:8::1 dev eth8 metric 1124");
    inside.ip("route add default via 10.1.0.1 dev eth1 table 77");
    inside.ip("route add default via 10.1.0.1 dev eth1 tos 0x10");
    inside.ip("route add blackhole default metric 7000");
    inside.ip("-6 route add default via fd00:1::1 dev eth1 table 77");
    container.defaults(9, "add");
    let foreign = |family: u8| {
        let all = inside.ip(&format!("-{family} -o route show table all"));
        let mut lines: Vec<String> = all
            .lines()
            .filter(|line| line.contains("eth8") || line.contains("77") || line.contains("tos"))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let before = [foreign(4), foreign(6)];
    container.defaults(0, "prepend").defaults(1, "prepend");
    container.order(&["eth0", "eth1"]);
    assert_eq!([foreign(4), foreign(6)], before);
    assert_eq!(container.way(), ["eth0", "eth0"]);
    let four = container.routes(4);
    assert!(four.contains(&("eth9".to_owned(), 0)), "{four:?}");
    assert!(four.contains(&("eth1".to_owned(), 101)), "{four:?}");
    let six = [
        ("eth0", 1023),
        ("eth9", 1024),
        ("eth1", 1123),
        ("eth8", 1124),
    ];
    let routes = container.routes(6);
    let routes: Vec<_> = routes.iter().map(|(dev, m)| (dev.as_str(), *m)).collect();
    assert_eq!(routes, six);
    let mut monitor = Monitor::new(inside);
    container.order(&["eth0", "eth1"]);
    assert_eq!(monitor.events(), [""; 0]);
}

#[test]
fn what_others_renew_or_share_stays() {
    let container = Container::new();
    container.veth(0).veth(1).veth(2);
    let inside = &container.inside;
    inside.ip("-6 route add default dev eth0 proto ra expires 600");
    inside.ip("nexthop add id 7 via 10.0.0.1 dev eth0");
    inside.ip("route add default nhid 7");
    container.defaults(1, "append").defaults(2, "prepend");
    container.order(&["eth1", "eth0", "eth2"]);
    let six = container.routes(6);
    assert_eq!(six[0], ("eth1".to_owned(), 1023), "{six:?}");
    assert_eq!(six[1], ("eth0".to_owned(), 1024), "{six:?}");
    assert_eq!(six[2].0, "eth2", "{six:?}");
    assert!(inside.ip("-6 route show default").contains("expires"));
    assert!(inside.ip("route show default").contains("nhid 7"));
    let mut monitor = Monitor::new(inside);
    container.order(&["eth1", "eth0", "eth2"]);
    assert_eq!(monitor.events(), [""; 0]);
}

#[test]
fn what_is_gone_is_passed_over() {
    let container = Container::new();
    container.order(&["eth0", "eth1"]);
    container.veth(0).veth(1).veth(2);
    container.defaults(0, AS_PLUGINS).defaults(2, AS_PLUGINS);
    container.order(&["none", "eth0", "eth0", "eth1", "eth2"]);
    assert_eq!(container.way(), ["eth0", "eth0"]);
    let six = [("eth0", 1024), ("eth2", 1124)];
    container.assert_routes(&[("eth0", 0), ("eth2", 100)], &six);
    let gone = order_default_routes("/run/netns/none-of-that-name".as_ref(), &[], &[]).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert!(gone.message().contains("none-of-that-name"), "{gone}");
}

#[test]
fn interfaces_may_vanish_meanwhile() {
    let container = Container::new();
    let order = ["eth0", "eth1", "eth2"];
    for round in 0..30 {
        for number in 0..3 {
            container.veth(number).defaults(number, AS_PLUGINS);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(100 * round));
                container.inside.ip("link del eth1");
            });
            for _ in 0..20 {
                container.order(&order);
            }
        });
        container.order(&order);
        assert_eq!(container.way(), ["eth0", "eth0"]);
        container.inside.ip("link del eth0");
        assert_eq!(container.way(), ["eth2", "eth2"]);
        container.inside.ip("link del eth2");
    }
}

#[test]
fn a_refusal_names_the_route_and_stops_no_other() {
    let container = Container::new();
    container.veth(0).veth(1).veth(2);
    for number in [0, 1, 2] {
        container.defaults(number, AS_PLUGINS);
    }
    // The kernel keeps the route, but would not make it again.
    container.inside.ip("addr add 10.99.0.2/24 dev eth1");
    container.inside.ip("addr del 10.1.0.2/24 dev eth1");
    let order = names(&["eth0", "eth1", "eth2"]);
    let error = order_default_routes(&container.inside.path(), &order, &[]).unwrap_err();
    let path = container.inside.path();
    for part in [
        "route 0.0.0.0/0 via 10.1.0.1 dev eth1",
        path.to_str().unwrap(),
        "from 0 to 100",
    ] {
        assert!(error.message().contains(part), "{error}");
    }
    let four = container.routes(4);
    assert!(four.contains(&("eth2".to_owned(), 200)), "{four:?}");
    let six = [("eth0", 1024), ("eth1", 1124), ("eth2", 1224)];
    container.assert_routes(&[("eth1", 0), ("eth0", 0), ("eth2", 200)], &six);
}

#[test]
fn networks_of_the_stock_bridge_plugin() {
    on_private_host(async || {
        let (inside, outside) = (Netns::new(), Netns::new());
        let container = Container { inside, outside };
        let dir = tempfile::tempdir().unwrap();
        let runtime = CniRuntime::new(PluginPath::new([STOCK_PLUGINS]), LIMIT);
        for number in [0, 1] {
            let ranges = json!([[{"subnet": format!("10.{number}.0.0/24")}],
                [{"subnet": format!("fd00:{number}::/64")}]]);
            let plugin = json!({"type": "bridge", "bridge": format!("ctr{number}"),
                "isGateway": true, "isDefaultGateway": true,
                "ipam": {"type": "host-local", "dataDir": dir.path(), "ranges": ranges}});
            let list = list_with(
                json!({"cniVersion": "1.0.0", "name": format!("net{number}"),
                "plugins": [plugin]}),
            );
            let mut args = attach(&container.inside.path());
            args.ifname = format!("eth{number}");
            runtime.add(&list, &args, None).await.unwrap();
        }
        assert_eq!(container.routes(4)[0].0, "eth1", "the last one wins");
        container.order(&["eth0", "eth1"]);
        assert_eq!(container.way(), ["eth0", "eth0"]);
        let mut monitor = Monitor::new(&container.inside);
        container.order(&["eth0", "eth1"]);
        let events = monitor.events();
        assert!(!events.iter().any(|e| e.contains("default")), "{events:?}");
        container.inside.ip("link del eth0");
        assert_eq!(container.way(), ["eth1", "eth1"]);
    });
}
