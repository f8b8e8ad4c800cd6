//! The driver `bandwidth` beside the stock plugin.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod plugins;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use circuit_net::driver::Command::{Add, Check, Del, Gc};
use circuit_net::netns::in_netns;
use common::{Netns, on_private_host, shell};
use plugins::{By, Plugin};
use serde_json::{Value, json};

/// `printf netweb | sha512sum`
const IFB: &str = "bwp437252eec243";

/// A container with a veth pair, whose other end is in the test's namespace.
fn connected() -> Netns {
    let netns = Netns::new();
    let path = netns.path();
    let name = path.file_name().unwrap().to_str().unwrap();
    shell(&format!(
        "ip link add host0 mtu 1400 type veth peer name eth0 mtu 1400 netns {name} &&
         ip addr add 10.1.0.1/24 dev host0 && ip link set host0 up"
    ));
    netns.ip("addr add 10.1.0.2/24 dev eth0");
    netns.ip("link set eth0 up");
    netns
}

fn plugin(netns: &Path, mut keys: Value) -> Plugin {
    keys["prevResult"] = json!({"cniVersion": "1.1.0",
        "interfaces": [{"name": "host0"}, {"name": "eth0", "sandbox": netns}],
        "ips": [{"address": "10.1.0.2/24", "interface": 1}]});
    Plugin::new("bandwidth", netns, keys)
}

fn both() -> Value {
    json!({"ingressRate": 8_000_000, "ingressBurst": 800_000,
        "egressRate": 16_000_000, "egressBurst": 1_600_000})
}

/// What `tc` shows. The stock plugin's filter has a second action that is
/// never come to.
fn shown() -> String {
    let links = shell(&format!("ip -d link show {IFB} 2>&1 || true"));
    let qdiscs = shell(&format!(
        "tc qdisc show dev host0; tc qdisc show dev {IFB} 2>&1 || true"
    ));
    let filters = shell("tc filter show dev host0 parent ffff: 2>&1 || true");
    let without = |line: &&str| {
        !["link/ether", "alias", "index"]
            .iter()
            .any(|w| line.contains(w))
    };
    let filters: Vec<&str> = filters
        .lines()
        .filter(without)
        .take_while(|line| !line.contains("action order 2"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let links: Vec<&str> = links.lines().filter(without).collect();
    let text = format!("{}\n{qdiscs}\n{}", links.join("\n"), filters.join("\n"));
    // The number of an interface.
    match text.split_once(": bwp") {
        Some((_, rest)) => format!("bwp{rest}"),
        None => text,
    }
}

#[test]
fn the_kernel_shows_the_same_as_with_the_stock_plugin() {
    for keys in [
        both(),
        json!({"ingressRate": 8_000_000, "ingressBurst": 800_000}),
        json!({"egressRate": 8_000_000, "egressBurst": 800_000}),
        // What Kubernetes asks for, which is more than there is room for.
        json!({"egressRate": 1_000_000, "egressBurst": 2_147_483_647}),
        json!({"ingressRate": 400_000_000_000u64, "ingressBurst": 8_000_000_000u64}),
        json!({"runtimeConfig": {"bandwidth": both()}}),
        json!({"ingressRate": 0, "runtimeConfig": {"bandwidth": both()}}),
        json!({"runtimeConfig": {}}),
    ] {
        let seen = [By::Stock, By::Ours].map(|by| {
            let keys = keys.clone();
            on_private_host_with(move || {
                let netns = connected();
                let plugin = plugin(&netns.path(), keys);
                let mut result = plugin.run(by, Add).unwrap();
                for other in [By::Stock, By::Ours] {
                    plugin
                        .run(other, Check)
                        .unwrap_or_else(|e| panic!("{by:?} {other:?} {e:?}"));
                }
                let shown = shown();
                for _ in 0..2 {
                    plugin.run(by, Del).unwrap();
                    assert!(!shell("ip link").contains(IFB));
                }
                for interface in result["interfaces"].as_array_mut().unwrap() {
                    interface.as_object_mut().unwrap().remove("mac");
                    interface.as_object_mut().unwrap().remove("sandbox");
                }
                (shown, result)
            })
        });
        assert_eq!(seen[0], seen[1], "{keys}");
    }
}

/// As `on_private_host`, with an answer.
fn on_private_host_with<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    on_private_host(move || async move { sender.send(body()).unwrap() });
    receiver.recv().unwrap()
}

#[test]
fn a_failed_add_leaves_nothing() {
    on_private_host(|| async {
        let netns = connected();
        let before = shown();
        // Somebody's own ingress discipline is in the way, and stays.
        shell("tc qdisc add dev host0 ingress");
        let plugin = plugin(&netns.path(), both());
        plugin.run(By::Ours, Add).unwrap_err();
        let after = shown();
        assert!(
            after.contains("ingress ffff:") && !after.contains("tbf"),
            "{after}"
        );
        shell("tc qdisc del dev host0 ingress");
        assert_eq!(shown(), before);
        plugin.run(By::Ours, Add).unwrap();
        // Twice is an error that leaves the first as it is.
        let shaped = shown();
        plugin.run(By::Ours, Add).unwrap_err();
        assert_eq!(shown(), shaped);
    });
}

#[test]
fn both_refuse_the_same() {
    on_private_host(|| async {
        let netns = connected();
        let lone = container_of_its_own();
        for (path, keys) in [
            (netns.path(), json!({"ingressRate": 8000})),
            (netns.path(), json!({"egressBurst": 8000})),
            (
                netns.path(),
                json!({"egressRate": 8000, "egressBurst": 8u64 << 32}),
            ),
            (netns.path(), json!({"egressRate": 5, "egressBurst": 8000})),
            (
                netns.path(),
                json!({"egressRate": "8000", "egressBurst": 8000}),
            ),
            (lone.path(), both()),
        ] {
            for by in [By::Stock, By::Ours] {
                let plugin = plugin(&path, keys.clone());
                plugin.run(by, Add).expect_err(&format!("{by:?} {keys}"));
                plugin.run(by, Del).unwrap_or_default();
            }
        }
        let mut stranger = plugin(&netns.path(), both());
        stranger.config["prevResult"]["interfaces"][0]["name"] = json!("other");
        for by in [By::Stock, By::Ours] {
            stranger
                .run(by, Add)
                .expect_err("an interface that is not in the result");
        }
    });
}

/// A container whose interface has no end on the host.
fn container_of_its_own() -> Netns {
    let netns = Netns::new();
    netns.ip("link add eth0 type bridge");
    netns
}

#[test]
fn check_finds_what_is_missing() {
    on_private_host(|| async {
        for change in [
            "tc qdisc del dev host0 root".to_owned(),
            "tc qdisc del dev host0 ingress".to_owned(),
            format!("tc qdisc del dev {IFB} root"),
            format!("tc qdisc change dev {IFB} root tbf rate 1mbit burst 9000 limit 99999"),
            format!("ip link del {IFB}"),
        ] {
            let netns = connected();
            let plugin = plugin(&netns.path(), both());
            plugin.run(By::Ours, Add).unwrap();
            plugin.run(By::Ours, Check).unwrap();
            shell(&change);
            plugin.run(By::Ours, Check).expect_err(&change);
            plugin.run(By::Ours, Del).unwrap();
            shell("ip link del host0");
        }
    });
}

#[test]
fn gc_takes_the_devices_of_those_that_went() {
    on_private_host(|| async {
        let netns = connected();
        let mut plugin = plugin(
            &netns.path(),
            json!({"egressRate": 8000, "egressBurst": 8000}),
        );
        plugin.run(By::Ours, Add).unwrap();
        shell("ip link add bwp000000000000 type ifb");
        // Nothing said is not none.
        assert!(plugin.run(By::Ours, Gc).is_err());
        assert!(shell("ip link").contains(IFB));
        plugin.config["cni.dev/valid-attachments"] =
            json!([{"containerID": "web", "ifname": "eth0"}]);
        plugin.run(By::Ours, Gc).unwrap();
        assert!(shell("ip link").contains(IFB));
        plugin.config["cni.dev/valid-attachments"] = json!([]);
        plugin.config["name"] = json!("another");
        plugin.run(By::Ours, Gc).unwrap();
        assert!(shell("ip link").contains(IFB));
        plugin.config["name"] = json!("net");
        plugin.run(By::Ours, Gc).unwrap();
        let left = shell("ip link");
        assert!(
            !left.contains(IFB) && left.contains("bwp000000000000"),
            "{left}"
        );
    });
}

/// How long a transfer in each direction takes.
fn transfer(netns: &Path, bytes: usize) -> (Duration, Duration) {
    let listener = TcpListener::bind("10.1.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = in_netns(netns, || Ok(TcpStream::connect(address).unwrap())).unwrap();
    let server = listener.accept().unwrap().0;
    let timed = |mut from: &TcpStream, mut to: &TcpStream| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(move || from.write_all(&vec![0; bytes]).unwrap());
            to.read_exact(&mut vec![0; bytes]).unwrap();
        });
        start.elapsed()
    };
    (timed(&server, &client), timed(&client, &server))
}

#[test]
fn transfers_are_slowed_down() {
    on_private_host(|| async {
        let netns = connected();
        shell("ip link set lo up");
        let free = transfer(&netns.path(), 500_000);
        let plugin = plugin(
            &netns.path(),
            json!({"ingressRate": 8_000_000, "ingressBurst": 400_000,
                "egressRate": 8_000_000, "egressBurst": 400_000}),
        );
        plugin.run(By::Ours, Add).unwrap();
        let limited = transfer(&netns.path(), 500_000);
        // Half a megabyte at one megabyte a second, less the burst. Only that
        // it takes its time is certain.
        let least = Duration::from_millis(250);
        assert!(
            limited.0 > least && limited.1 > least,
            "{free:?} {limited:?}"
        );
    });
}
