//! The driver `portmap`, with real packets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/attachment.rs"]
mod attachment;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/lan.rs"]
mod lan;
mod mended;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use attachment::*;
use circuit_core::cni::{CniResult, ErrorReport};
use circuit_net::driver::Command;
use circuit_net::nft::{Nft, TABLE};
use common::{on_private_host, shell};
use lan::*;
use serde_json::{Value, json};

/// A container of the network `net` that wants ports.
struct Container {
    id: String,
    netns: PathBuf,
    config: Value,
}

impl Container {
    fn new(lan: &Lan, n: usize, mappings: Value) -> Self {
        let netns = lan.containers[n].path();
        let addresses = [format!("{}/24", ip4(n)), format!("{}/64", ip6(n))];
        let config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "portmap",
            "runtimeConfig": {"portMappings": mappings},
            "prevResult": bridge_result(&netns, &addresses),
        });
        Self {
            id: format!("container{n}"),
            netns,
            config,
        }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    fn try_run(&self, command: Command) -> Result<Option<CniResult>, ErrorReport> {
        let attachment = Attachment {
            id: &self.id,
            netns: Some(&self.netns),
        };
        attachment.run(command, &self.config)
    }

    fn mend(&self) {
        let attachment = Attachment {
            id: &self.id,
            netns: Some(&self.netns),
        };
        attachment.mend(&self.config).unwrap();
    }

    fn run(&self, command: Command) -> Option<CniResult> {
        self.try_run(command).unwrap()
    }

    fn add(&self) {
        let result = self.run(Command::Add).unwrap();
        let prev = CniResult::parse(&self.config["prevResult"]).unwrap();
        assert_eq!(result, prev);
        self.run(Command::Check);
    }

    fn del(&self) {
        self.run(Command::Del);
        self.run(Command::Del);
    }
}

fn port(host: u16, container: u16, protocol: &str) -> Value {
    json!({"hostPort": host, "containerPort": container, "protocol": protocol})
}

fn ruleset() -> String {
    shell("nft list table inet circuit")
}

/// How many elements there are in all sets.
fn elements() -> usize {
    let mut nft = Nft::open(None).unwrap();
    let mut count = |set: &str| nft.elements(TABLE, set).unwrap().len();
    [
        "ports4",
        "ports6",
        "host_ports4",
        "host_ports6",
        "hairpin4",
        "hairpin6",
        "hairpin_pairs4",
        "hairpin_pairs6",
        "masq_all4",
        "masq_all6",
        "waiting_host_ports4",
        "waiting_ports4",
        "waiting_host_ports6",
        "waiting_ports6",
        "attachments",
    ]
    .into_iter()
    .map(&mut count)
    .sum()
}

/// As systemd-resolved has one.
#[test]
fn loopback_addresses_of_programs_stay_theirs() {
    on_private_host(|| async {
        let lan = Lan::new(1);
        serve_udp(Some(&lan.containers[0].path()), "0.0.0.0:53", "dns");
        serve_udp(None, "127.0.0.53:5353", "resolved");
        Container::new(&lan, 0, json!([port(5353, 53, "udp")])).add();
        let ask = |at: &str| ask_udp(&udp_client(None, false), at).unwrap();
        assert_eq!(ask("127.0.0.1:5353"), "dns 10.77.0.1");
        assert_eq!(ask("127.0.0.53:5353"), "resolved 127.0.0.1");
    });
}

/// What is sent from `::1` cannot leave the host.
#[test]
fn the_loopback_of_ipv6_is_for_programs_of_the_host() {
    on_private_host(|| async {
        let lan = Lan::new(1);
        serve_tcp(Some(&lan.containers[0].path()), "[::]:80", "web");
        serve_tcp(None, "[::1]:8080", "program");
        let at = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "::1"});
        for ports in [json!([port(8080, 80, "tcp")]), json!([at])] {
            // The stock plugin takes such an address too.
            let web = Container::new(&lan, 0, ports);
            web.add();
            assert_eq!(ask_tcp(None, "[::1]:8080").unwrap(), "program ::1");
            web.del();
        }
    });
}

#[test]
fn tcp_and_udp_reach_the_container_from_everywhere() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        let (web, other) = (lan.containers[0].path(), lan.containers[1].path());
        let client = lan.client.path();
        serve_tcp(Some(&web), "[::]:80", "web");
        serve_udp(Some(&web), "0.0.0.0:53", "dns");
        serve_udp(Some(&web), "[::1]:1", "unused");
        let first = Container::new(
            &lan,
            0,
            json!([port(8080, 80, "tcp"), port(5353, 53, "udp")]),
        );
        first.add();

        // From outside, with the client's address.
        let ask = |netns, host: &str| ask_tcp(netns, &format!("{host}:8080")).unwrap();
        assert_eq!(ask(Some(&client), HOST), format!("web ::ffff:{CLIENT}"));
        let host6 = format!("[{HOST6}]");
        assert_eq!(ask(Some(&client), &host6), format!("web {CLIENT6}"));
        let socket = udp_client(Some(&client), false);
        let answer = ask_udp(&socket, &format!("{HOST}:5353")).unwrap();
        assert_eq!(answer, format!("dns {CLIENT}"));

        // From the host itself, by each of its addresses.
        assert_eq!(ask(None, "127.0.0.1"), "web ::ffff:10.77.0.1");
        assert_eq!(ask(None, HOST), format!("web ::ffff:{HOST}"));
        assert_eq!(ask(None, &host6), format!("web {HOST6}"));
        assert_eq!(ask(None, "10.77.0.1"), "web ::ffff:10.77.0.1");
        let socket = udp_client(None, false);
        assert_eq!(ask_udp(&socket, "127.0.0.1:5353").unwrap(), "dns 10.77.0.1");

        // From a neighbour and from the container itself.
        for netns in [&other, &web] {
            assert_eq!(ask(Some(netns), HOST), "web ::ffff:10.77.0.1");
            assert_eq!(ask(Some(netns), "10.77.0.1"), "web ::ffff:10.77.0.1");
            assert_eq!(ask(Some(netns), &host6), "web fd77::1");
            let socket = udp_client(Some(netns), false);
            let answer = ask_udp(&socket, &format!("{HOST}:5353")).unwrap();
            assert_eq!(answer, "dns 10.77.0.1");
        }

        first.del();
        for (netns, host) in [
            (Some(&*client), HOST),
            (None, "127.0.0.1"),
            (Some(&*other), HOST),
        ] {
            assert!(ask_tcp(netns, &format!("{host}:8080")).is_err(), "{host}");
        }
        assert_eq!(elements(), 0);
    });
}

/// Sends an SCTP INIT as it is on the wire: this kernel may have no SCTP
/// sockets, but connection tracking knows the protocol.
const SCTP_INIT: &str = r#"
import socket, struct, sys
def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff
init = struct.pack('!BBHIIHHI', 1, 0, 20, 7, 65536, 1, 1, 1)
head = struct.pack('!HHI', 40000, int(sys.argv[2]), 0)
packet = head + struct.pack('<I', crc32c(head + bytes(4) + init)) + init
socket.socket(socket.AF_INET, socket.SOCK_RAW, 132).sendto(packet, (sys.argv[1], 0))
"#;

#[test]
fn sctp_is_translated_as_connection_tracking_shows() {
    on_private_host(|| async {
        let lan = Lan::new(1);
        let web = Container::new(&lan, 0, json!([port(3868, 3869, "sctp")]));
        web.add();
        let script = std::env::temp_dir().join(format!("circuit-sctp-{}.py", std::process::id()));
        std::fs::write(&script, SCTP_INIT).unwrap();
        let client = lan.client.path();
        shell(&format!(
            "nsenter --net={} python3 {} {HOST} 3868",
            client.display(),
            script.display()
        ));
        std::fs::remove_file(script).unwrap();
        let table = shell("grep sctp /proc/net/nf_conntrack");
        let translated = format!("src={} dst={CLIENT} sport=3869 dport=40000", ip4(0));
        assert!(table.contains(&translated), "{table}");
    });
}

#[test]
fn a_bridge_that_passes_everything_to_netfilter_changes_nothing() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        set_bridge_netfilter(true);
        serve_tcp(Some(&lan.containers[0].path()), "[::]:80", "web");
        let web = Container::new(&lan, 0, json!([port(8080, 80, "tcp")]));
        web.add();
        let ask = |n: usize| ask_tcp(Some(&lan.containers[n].path()), &format!("{HOST}:8080"));
        assert_eq!(ask(0).unwrap(), "web ::ffff:10.77.0.1");
        // The bridge translates on the way back too, so no masquerading is
        // needed; the packets do not say that they came in by the bridge.
        assert_eq!(ask(1).unwrap(), format!("web ::ffff:{}", ip4(1)));
        // A neighbour's direct connection is none of ours.
        let neighbour = lan.containers[1].path();
        let direct = ask_tcp(Some(&neighbour), &format!("{}:80", ip4(0))).unwrap();
        assert_eq!(direct, format!("web ::ffff:{}", ip4(1)));
    });
}

#[test]
fn a_host_address_narrows_the_port_to_it() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        shell("ip addr add 192.0.2.9/24 dev up0");
        let client = lan.client.path();
        serve_tcp(Some(&lan.containers[0].path()), "[::]:80", "one");
        serve_tcp(Some(&lan.containers[1].path()), "[::]:80", "two");
        let at = |ip: &str| json!([{"hostPort": 80, "containerPort": 80, "protocol": "tcp", "hostIP": ip}]);
        let one = Container::new(&lan, 0, at("192.0.2.9"));
        one.add();
        let ask = |host: &str| ask_tcp(Some(&client), &format!("{host}:80"));
        assert!(ask("192.0.2.9").unwrap().starts_with("one"));
        assert!(ask(HOST).is_err());
        assert!(ask(&format!("[{HOST6}]")).is_err());
        // The rest of the addresses is free; 0.0.0.0 is all of IPv4.
        let two = Container::new(&lan, 1, at("0.0.0.0"));
        two.add();
        assert!(ask("192.0.2.9").unwrap().starts_with("one"));
        assert!(ask(HOST).unwrap().starts_with("two"));
        assert!(ask(&format!("[{HOST6}]")).is_err());
        one.del();
        assert!(ask("192.0.2.9").unwrap().starts_with("two"));
        two.del();
        let six = Container::new(&lan, 0, at(HOST6));
        six.add();
        assert!(ask(&format!("[{HOST6}]")).unwrap().starts_with("one"));
        assert!(ask(HOST).is_err());
        six.del();
        assert_eq!(elements(), 0);
    });
}

#[test]
fn a_port_that_is_taken_is_refused_with_the_holders_name() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        let first = Container::new(&lan, 0, json!([port(8080, 80, "tcp"), port(53, 53, "udp")]));
        let second = Container::new(
            &lan,
            1,
            json!([port(8081, 80, "tcp"), port(53, 5353, "udp")]),
        );
        first.add();
        let before = ruleset();
        let error = second.try_run(Command::Add).unwrap_err();
        assert!(
            error.msg.contains(
                "host port udp 53 is taken by container container0 (eth0 in network net)"
            ),
            "{}",
            error.msg
        );
        assert_eq!(ruleset(), before);
        second.del();
        first.run(Command::Check);
        // The same port of another protocol is another port.
        let second = Container::new(&lan, 1, json!([port(53, 53, "tcp")]));
        second.add();
        second.del();
        first.del();
        let second = Container::new(&lan, 1, json!([port(53, 5353, "udp")]));
        second.add();
    });
}

/// A container on two networks, whose service tells by which of them it is reached.
fn on_two_networks(lan: &Lan) -> [Container; 2] {
    let at = json!({"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": HOST});
    let ports = json!([port(8080, 80, "tcp"), at]);
    [(0, "one"), (1, "two")].map(|(n, name)| {
        serve_tcp(Some(&lan.containers[n].path()), "[::]:80", name);
        let mut it = Container::new(lan, n, ports.clone());
        it.id = "web".to_owned();
        it.with("name", json!(name))
    })
}

/// Who is reached by its ports.
fn reached() -> [String; 2] {
    let asked = [8080, 8081].map(|port| ask_tcp(None, &format!("{HOST}:{port}")));
    asked.map(|told| told.map_or("nobody".to_owned(), |it| it[..3].to_owned()))
}

#[test]
fn a_container_on_two_networks_has_its_ports_by_one_after_the_other() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        let [one, two] = on_two_networks(&lan);
        one.add();
        let alone = elements();
        two.add();
        assert_eq!(reached(), ["one", "one"]);
        // Again, as after a flush, in any order.
        two.add();
        one.add();
        two.add();
        assert_eq!(reached(), ["one", "one"]);
        let other = Container::new(&lan, 1, json!([port(8080, 80, "tcp")]));
        assert!(other.try_run(Command::Add).is_err());
        one.del();
        assert_eq!(reached(), ["two", "two"]);
        two.run(Command::Check);
        assert_eq!(elements(), alone);
        two.del();
        assert_eq!(reached(), ["nobody", "nobody"]);
        assert_eq!(elements(), 0);
        // The one that waits goes first.
        one.add();
        two.add();
        two.del();
        assert_eq!(reached(), ["one", "one"]);
        assert_eq!(elements(), alone);
    });
}

#[test]
fn ports_of_garbage_go_to_the_other_network_of_the_container() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        let [one, two] = on_two_networks(&lan);
        one.add();
        two.add();
        let gc = |network: &str| {
            let config = json!({"cniVersion": "1.1.0", "name": network, "type": "portmap",
                "cni.dev/valid-attachments": []});
            let nobody = Attachment {
                id: "",
                netns: None,
            };
            nobody.run(Command::Gc, &config).unwrap();
        };
        gc("one");
        assert_eq!(reached(), ["two", "two"]);
        two.run(Command::Check);
        one.add();
        gc("one");
        gc("two");
        assert_eq!(elements(), 0);
    });
}

#[test]
fn what_a_container_left_whose_address_is_ours_now_does_not_stand_in_the_way() {
    on_private_host(|| async {
        let lan = Lan::new(1);
        let mut dead = Container::new(
            &lan,
            0,
            json!([port(8080, 80, "tcp"), port(8081, 80, "tcp")]),
        );
        dead.id = "dead".to_owned();
        dead.add();
        let alive = Container::new(&lan, 0, json!([port(8080, 80, "tcp")]));
        alive.add();
        // The late DEL takes only what is still its own.
        dead.del();
        alive.run(Command::Check);
        alive.del();
        assert_eq!(elements(), 0);
    });
}

#[test]
fn add_again_changes_what_differs() {
    on_private_host(|| async {
        let lan = Lan::new(1);
        let old = Container::new(
            &lan,
            0,
            json!([port(8080, 80, "tcp"), port(8081, 81, "tcp")]),
        );
        old.add();
        old.add();
        let new = Container::new(
            &lan,
            0,
            json!([port(8080, 8080, "tcp"), port(8082, 82, "tcp")]),
        )
        .with("snat", json!(false));
        new.add();
        let text = ruleset();
        assert!(!text.contains("8081") && text.contains("8082"), "{text}");
        assert!(old.try_run(Command::Check).is_err());
        assert_eq!(elements(), 5, "{text}");
        new.del();
        assert_eq!(elements(), 0);
    });
}

#[test]
fn del_needs_neither_mappings_nor_result_nor_namespace() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        let ports: Vec<Value> = (0..100).map(|n| port(9000 + n, 80, "tcp")).collect();
        let first = Container::new(&lan, 0, json!(ports));
        let second = Container::new(&lan, 1, json!([port(8080, 80, "tcp")]));
        first.add();
        second.add();
        let bare = json!({"cniVersion": "1.1.0", "name": "net", "type": "portmap"});
        let attachment = Attachment {
            id: &first.id,
            netns: None,
        };
        attachment.run(Command::Del, &bare).unwrap();
        attachment.run(Command::Del, &bare).unwrap();
        second.run(Command::Check);
        assert!(first.try_run(Command::Check).is_err());
        assert!(!ruleset().contains("container0"));
        // Of another network with the same name nothing is taken.
        let other = json!({"cniVersion": "1.1.0", "name": "net2", "type": "portmap"});
        let attachment = Attachment {
            id: &second.id,
            netns: None,
        };
        attachment.run(Command::Del, &other).unwrap();
        second.run(Command::Check);
    });
}

#[test]
fn gc_removes_what_is_not_valid_and_only_of_its_network() {
    on_private_host(|| async {
        let lan = Lan::new(3);
        let [a, b, c] =
            [0, 1, 2].map(|n| Container::new(&lan, n, json!([port(8000 + n as u16, 80, "tcp")])));
        let c = c.with("name", json!("net2"));
        for container in [&a, &b, &c] {
            container.add();
        }
        let config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "portmap",
            "cni.dev/valid-attachments": [{"containerID": "container1", "ifname": "eth0"}],
        });
        let nobody = Attachment {
            id: "",
            netns: None,
        };
        // Nothing said is not none.
        let mut silent = config.clone();
        silent
            .as_object_mut()
            .unwrap()
            .remove("cni.dev/valid-attachments");
        assert!(nobody.run(Command::Gc, &silent).is_err());
        a.run(Command::Check);
        nobody.run(Command::Gc, &config).unwrap();
        assert!(a.try_run(Command::Check).is_err());
        b.run(Command::Check);
        c.run(Command::Check);
        nobody.run(Command::Status, &config).unwrap();
    });
}

#[test]
fn stale_udp_connections_are_forgotten() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        let client = lan.client.path();
        serve_udp(Some(&lan.containers[0].path()), "0.0.0.0:53", "old");
        serve_udp(Some(&lan.containers[1].path()), "0.0.0.0:53", "new");
        serve_udp(None, &format!("{HOST}:53"), "host");
        let socket = udp_client(Some(&client), false);
        let ask = || ask_udp(&socket, &format!("{HOST}:53")).unwrap();
        // From the host to the container, to another one, to the host: always
        // from the same port.
        assert_eq!(ask(), format!("host {CLIENT}"));
        let old = Container::new(&lan, 0, json!([port(53, 53, "udp")]));
        old.add();
        assert_eq!(ask(), format!("old {CLIENT}"));
        old.del();
        assert_eq!(ask(), format!("host {CLIENT}"));
        let new = Container::new(&lan, 1, json!([port(53, 53, "udp")]));
        new.add();
        assert_eq!(ask(), format!("new {CLIENT}"));
    });
}

#[test]
fn snat_and_masq_all_say_what_is_masqueraded() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        let (client, other) = (lan.client.path(), lan.containers[1].path());
        serve_tcp(Some(&lan.containers[0].path()), "[::]:80", "web");
        let ask = |netns| ask_tcp(netns, &format!("{HOST}:8080"));
        let ports = json!([port(8080, 80, "tcp")]);
        let none = Container::new(&lan, 0, ports.clone()).with("snat", json!(false));
        none.add();
        assert_eq!(ask(Some(&client)).unwrap(), format!("web ::ffff:{CLIENT}"));
        assert!(ask(Some(&other)).is_err());
        none.del();
        let all = Container::new(&lan, 0, ports).with("masqAll", json!(true));
        all.add();
        assert_eq!(ask(Some(&client)).unwrap(), "web ::ffff:10.77.0.1");
        assert_eq!(ask(Some(&other)).unwrap(), "web ::ffff:10.77.0.1");
        assert!(ask_tcp(None, "127.0.0.1:8080").is_ok());
        // What is not mapped keeps its address.
        let direct = ask_tcp(Some(&client), &format!("{}:80", ip4(0))).unwrap();
        assert_eq!(direct, format!("web ::ffff:{CLIENT}"));
        all.del();
        assert_eq!(elements(), 0);
    });
}

#[test]
fn what_listens_on_loopback_stays_out_of_the_neighbours_reach() {
    on_private_host(|| async {
        let lan = Lan::new(1);
        serve_tcp(None, "127.0.0.1:7000", "secret");
        let container = lan.containers[0].path();
        lan.containers[0].ip("route add 127.0.0.0/8 via 10.77.0.1 table 5");
        lan.containers[0].ip("rule add pref 0 to 127.0.0.0/8 table 5");
        lan.containers[0].ip("rule del pref 0 table local");
        lan.containers[0].ip("rule add pref 10 table local");
        circuit_net::netns::in_netns(&container, || {
            let setting = "/proc/sys/net/ipv4/conf/eth0/route_localnet";
            std::fs::write(setting, "1").unwrap();
            Ok(())
        })
        .unwrap();
        let ask = || ask_tcp(Some(&container), "127.0.0.1:7000");
        let web = Container::new(&lan, 0, json!([port(8080, 80, "tcp")]));
        web.add();
        assert!(ask().is_err());
        // It is the rule that keeps it out.
        shell("nft flush chain inet circuit hostports_input");
        assert!(ask().is_ok());
    });
}

#[test]
fn a_thousand_ports_of_a_hundred_containers() {
    on_private_host(|| async {
        let lan = Lan::new(1);
        serve_tcp(Some(&lan.containers[0].path()), "[::]:80", "web");
        let container = |n: u16| {
            let ports: Vec<Value> = (0..10)
                .map(|p| port(10_000 + 10 * n + p, 80, "tcp"))
                .collect();
            let mut container = Container::new(&lan, 0, json!(ports));
            container.id = format!("container-{n}");
            if n > 0 {
                let addresses = [format!("10.77.0.{}/24", 100 + n)];
                container.config["prevResult"] = bridge_result(&container.netns, &addresses);
            }
            container
        };
        let all: Vec<Container> = (0..100).map(container).collect();
        let start = std::time::Instant::now();
        for container in &all {
            container.add();
        }
        println!("100 x add and check: {:?}", start.elapsed());
        let answer = ask_tcp(Some(&lan.client.path()), &format!("{HOST}:10009")).unwrap();
        assert_eq!(answer, format!("web ::ffff:{CLIENT}"));
        let start = std::time::Instant::now();
        for container in &all {
            container.run(Command::Del);
        }
        println!("100 x del: {:?}", start.elapsed());
        assert_eq!(elements(), 0);
        // All of one container.
        let ports: Vec<Value> = (0..1000).map(|p| port(20_000 + p, 80, "tcp")).collect();
        let big = Container::new(&lan, 0, json!(ports));
        big.add();
        assert!(ask_tcp(Some(&lan.client.path()), &format!("{HOST}:20999")).is_ok());
        big.del();
        assert_eq!(elements(), 0);
    });
}

/// Starts the driver as a process of its own.
fn start(executable: &Path, command: &str, id: &str, netns: &Path, config: &Value) -> Child {
    let mut child = std::process::Command::new(executable)
        .arg("portmap")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/nowhere")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(config.to_string().as_bytes()).unwrap();
    child
}

#[test]
fn processes_at_once_share_the_table() {
    on_private_host(|| async {
        let lan = Lan::new(1);
        let executable = executable();
        let netns = lan.containers[0].path();
        let run = |n: usize, command: &str| {
            let addresses = [format!("10.77.0.{}/24", n + 10)];
            let config = json!({
                "cniVersion": "1.1.0", "name": "net", "type": "portmap",
                "runtimeConfig": {"portMappings": [port(8000 + n as u16, 80, "tcp")]},
                "prevResult": bridge_result(&netns, &addresses),
            });
            start(
                &executable,
                command,
                &format!("container{n}"),
                &netns,
                &config,
            )
        };
        for command in ["ADD", "CHECK", "DEL"] {
            let children: Vec<_> = (0..20).map(|n| run(n, command)).collect();
            for child in children {
                let output = child.wait_with_output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{command}: {text}");
            }
            let text = ruleset();
            assert_eq!(text.matches("jump hostports").count(), 2, "{text}");
        }
        assert_eq!(elements(), 0);
    });
}
