//! Networks that are masqueraded: whom the world sees, and for how long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use circuit_net::driver::Command;
use circuit_net::netns::in_netns;
use common::plugin::{Way, Who, who};
use common::{Netns, on_private_host, shell};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(5);

/// A host with a world behind it that knows no way to its containers.
struct Host {
    way: Way,
    world: Netns,
    leases: tempfile::TempDir,
}

impl Host {
    fn new(way: Way) -> Self {
        let world = Netns::new();
        let name = world.path();
        let name = name.file_name().unwrap().to_str().unwrap();
        shell(&format!(
            "ip link add up0 type veth peer name world0 netns {name}; \
             ip addr add 192.0.2.2/24 dev up0; ip addr add 2001:db8::2/64 dev up0 nodad; \
             ip link set up0 up; \
             ip -n {name} addr add 192.0.2.1/24 dev world0; \
             ip -n {name} addr add 2001:db8::1/64 dev world0 nodad; \
             ip -n {name} link set world0 up"
        ));
        Self {
            way,
            world,
            leases: tempfile::tempdir().unwrap(),
        }
    }

    fn config(&self, kind: &str, more: &Value) -> Value {
        let ranges = json!([[{"subnet": "10.79.0.0/24"}], [{"subnet": "fd00:79::/64"}]]);
        let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
        let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": kind,
            "ipMasq": true, "ipMasqBackend": "nftables",
            "ipam": {"type": "host-local", "dataDir": self.leases.path(), "ranges": ranges,
                     "routes": routes}});
        if kind == "bridge" {
            let keys = json!({"bridge": "br0", "isGateway": true});
            config
                .as_object_mut()
                .unwrap()
                .extend(keys.as_object().unwrap().clone());
        }
        let object = config.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        config
    }

    fn run(&self, command: Command, config: &Value, who: &Who) -> Value {
        let kind = config["type"].as_str().unwrap();
        self.way.run(kind, command, config, who).unwrap()
    }

    /// Whom somebody in the world sees when the container connects.
    fn seen(&self, container: &Netns, world: &str) -> IpAddr {
        let address = SocketAddr::new(world.parse().unwrap(), 0);
        let listener = in_netns(self.world.path(), || Ok(TcpListener::bind(address))).unwrap();
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        let connected = in_netns(container.path(), || {
            Ok(TcpStream::connect_timeout(&address, LIMIT))
        });
        let _stream = connected.unwrap().unwrap();
        listener.accept().unwrap().1.ip()
    }
}

fn attached(container: &Netns, id: &str) -> Who {
    Who {
        netns: Some(container.path()),
        ..who(id)
    }
}

fn rules() -> String {
    shell("nft list ruleset")
}

fn count(rules: &str, what: &str) -> usize {
    rules.lines().filter(|line| line.contains(what)).count()
}

fn life(way: Way, kind: &str) {
    let host = Host::new(way);
    let config = host.config(kind, &json!({}));
    let (one, two) = (Netns::new(), Netns::new());
    let (who_one, who_two) = (attached(&one, "c1"), attached(&two, "c2"));
    for who in [&who_one, &who_two] {
        host.run(Command::Add, &config, who);
    }
    for container in [&one, &two] {
        assert_eq!(host.seen(container, "192.0.2.1").to_string(), "192.0.2.2");
        assert_eq!(
            host.seen(container, "2001:db8::1").to_string(),
            "2001:db8::2"
        );
    }
    if way == Way::Stock19 {
        return;
    }
    let made = rules();
    assert_eq!(count(&made, "10.79.0.0/24"), 1, "{made}");
    assert_eq!(count(&made, "fd00:79::/64"), 1, "{made}");

    host.run(Command::Del, &config, &who_one);
    assert_eq!(host.seen(&two, "192.0.2.1").to_string(), "192.0.2.2");
    for _ in 0..2 {
        host.run(Command::Del, &config, &who_two);
        assert_eq!(count(&rules(), "10.79.0.0/24"), 0, "{}", rules());
        assert_eq!(count(&rules(), "fd00:79::/64"), 0, "{}", rules());
    }
}

#[test]
fn bridge_shows_the_host() {
    for way in [Way::Stock19, Way::Ours, Way::InProcess] {
        on_private_host(async move || life(way, "bridge"));
    }
}

#[test]
fn ptp_shows_the_host() {
    for way in [Way::Stock19, Way::Ours, Way::InProcess] {
        on_private_host(async move || life(way, "ptp"));
    }
}

#[test]
fn a_failed_attachment_and_garbage_leave_no_rules() {
    on_private_host(async || {
        for kind in ["bridge", "ptp"] {
            let host = Host::new(Way::InProcess);
            let config = host.config(kind, &json!({}));
            let container = Netns::new();
            let who = attached(&container, "c1");
            host.run(Command::Add, &config, &who);
            assert_ne!(count(&rules(), "10.79.0.0/24"), 0);
            // Its namespace went with everything in it, and nobody told.
            drop(container);
            common::eventually("the interfaces are gone", || {
                !shell("ip -o link").contains("veth")
            })
            .await;
            let mut gc = config.clone();
            gc["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
            host.run(Command::Gc, &gc, &Who::default());
            assert_ne!(count(&rules(), "10.79.0.0/24"), 0);
            gc["cni.dev/valid-attachments"] = json!([]);
            // What address management cannot do is told, and keeps nothing else.
            let mut hindered = gc.clone();
            hindered["ipam"]["dataDir"] = json!("/etc/passwd");
            let told = host.way.run(kind, Command::Gc, &hindered, &Who::default());
            assert!(told.is_err(), "{kind}");
            assert_eq!(count(&rules(), "10.79.0.0/24"), 0, "{}", rules());
            host.run(Command::Gc, &gc, &Who::default());
            assert_eq!(count(&rules(), "10.79.0.0/24"), 0, "{}", rules());

            let container = Netns::new();
            container.ip("link add eth0 type bridge");
            let who = attached(&container, "c2");
            let refused = host.way.run(kind, Command::Add, &config, &who);
            assert!(refused.is_err());
            assert_eq!(count(&rules(), "10.79.0.0/24"), 0, "{}", rules());
            assert!(!Path::new(host.leases.path()).join("net/10.79.0.3").exists());
            shell("ip link del up0; ip link del br0 2>/dev/null || true");
        }
    });
}

/// The configuration with another subnet, for one container.
fn edited(host: &Host, kind: &str, net: &str) -> Value {
    let mut config = host.config(kind, &json!({"forceAddress": true}));
    if kind == "ptp" {
        config.as_object_mut().unwrap().remove("forceAddress");
    }
    let (address, gateway) = (format!("{net}.9/24"), format!("{net}.1"));
    config["ipam"] = json!({"type": "static", "routes": [{"dst": "0.0.0.0/0"}],
        "addresses": [{"address": address, "gateway": gateway}]});
    config
}

#[test]
fn containers_of_other_subnets_keep_what_they_have() {
    for kind in ["bridge", "ptp"] {
        on_private_host(async move || {
            let host = Host::new(Way::InProcess);
            let (one, two) = (Netns::new(), Netns::new());
            let (who_one, who_two) = (attached(&one, "c1"), attached(&two, "c2"));
            let before = edited(&host, kind, "10.81.0");
            let after = edited(&host, kind, "10.82.0");
            let masqueraded = || ["10.81.0.0/24", "10.82.0.0/24"].map(|net| count(&rules(), net));
            host.run(Command::Add, &before, &who_one);
            host.run(Command::Add, &after, &who_two);
            assert_eq!(masqueraded(), [1, 1], "{kind}");
            // Whoever goes knows nothing of the other's subnet.
            host.run(Command::Del, &after, &who_two);
            assert_eq!(masqueraded(), [1, 1], "{kind}");
            if kind == "ptp" {
                assert_eq!(host.seen(&one, "192.0.2.1").to_string(), "192.0.2.2");
            }
            host.run(Command::Del, &before, &who_one);
            assert_eq!(masqueraded(), [0, 0], "{kind}");
        });
    }
}
