//! Containers straight on the LAN, with addresses of its DHCP server.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use circuit_testing::{Ends, Lan, NodeBuilder, PATIENCE, Plugins, TestNode, network, wait_until};
use serde_json::{Value, json};

use crate::support::{NETWORK, assert_names, create_ctr0, error_of, ips, member, wait_for_problem};

/// How long it may take until a failed look is repeated and a server asked again.
const REPEATED: Duration = Duration::from_secs(90);

/// A hardware address, and the address that the server has reserved for it.
const RESERVED: &str = "02:00:00:00:00:77";
const RESERVATION: &str = "192.0.2.50";

/// dnsmasq at 192.0.2.1. Its leases are of two minutes, the shortest that it gives,
/// and are to be renewed after three seconds.
struct DhcpServer {
    dir: tempfile::TempDir,
    running: Option<Ends>,
}

impl DhcpServer {
    fn on(lan: &Lan) -> Self {
        let mut server = Self {
            dir: tempfile::tempdir().unwrap(),
            running: None,
        };
        server.start(lan, "192.0.2.100,192.0.2.119");
        server
    }

    /// Has it give addresses of this range.
    fn start(&mut self, lan: &Lan, range: &str) {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let mut dnsmasq: Command = lan.command("dnsmasq");
        dnsmasq
            .args(["-k", "--conf-file=/dev/null", "--port=0", "--user=root"])
            .args(["--interface=lan", "--no-ping", "--dhcp-authoritative"])
            .arg(format!("--dhcp-host={RESERVED},{RESERVATION}"))
            .arg(format!("--dhcp-range={range},2m"))
            .args(["--dhcp-option=58,3s", "--pid-file=", "--log-dhcp"])
            .arg(format!("--dhcp-leasefile={}", file("leases")))
            .arg(format!("--log-facility={}", file("log")))
            .stdin(Stdio::null());
        self.running = Some(Ends(dnsmasq.spawn().unwrap()));
        let listens = || {
            let sockets = lan.command("ss").arg("-uln").output().unwrap();
            String::from_utf8_lossy(&sockets.stdout).contains(":67 ")
        };
        wait_until("dnsmasq listens", PATIENCE, listens);
    }

    /// Ends it, and has it forget its leases.
    fn lose(&mut self) {
        self.running = None;
        std::fs::remove_file(self.file("leases")).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How many addresses are lent.
    fn lent(&self) -> usize {
        let leases = std::fs::read_to_string(self.file("leases")).unwrap_or_default();
        leases.lines().count()
    }

    /// How often it said something of an address.
    fn said(&self, word: &str, address: &str) -> usize {
        let log = std::fs::read_to_string(self.file("log")).unwrap_or_default();
        let address = format!(" {address} ");
        let told = log.lines().filter(|line| line.contains(word));
        told.filter(|line| format!("{line} ").contains(&address))
            .count()
    }
}

/// A network of containers straight on the LAN.
fn home() -> String {
    let macvlan = json!({"type": "macvlan", "master": "lan0", "ipam": {"type": "dhcp"},
        "capabilities": {"mac": true}});
    network::list("home", &[macvlan])
}

/// Waits until the container `web` has an address of the other range.
#[track_caller]
fn wait_until_moved(node: &TestNode) {
    wait_until("the container moves", REPEATED, || {
        let told = ips(node, "web");
        told.first()
            .is_some_and(|[_, ip, _]| ip.starts_with("192.0.2.2"))
    });
}

/// The address that the node's container has, and that the node tells; of other nodes'
/// containers of the same name it tells too.
fn address(node: &TestNode, container: &str) -> String {
    let has = node.addresses(container);
    let [address] = has.as_slice() else {
        panic!("{container} has {has:?}");
    };
    let ip = address.split('/').next().unwrap().to_owned();
    let told = ips(node, container);
    let row = ["home", &ip, "eth0"].map(str::to_owned);
    assert!(told.contains(&row), "{told:?}");
    ip
}

fn reaches(node: &TestNode, container: &str, address: &str) -> bool {
    let ping = ["ping", "-c1", "-W2", address];
    node.exec(container, &ping).worked()
}

/// Who has this name, by this node.
fn named(node: &TestNode, name: &str) -> String {
    node.circuit(&["dns", "query", name]).stdout
}

fn run(node: &TestNode, container: &str) -> String {
    node.run_container(container, &[(NETWORK, "home")], &[]);
    node.wait_for_addresses(container);
    address(node, container)
}

#[test]
fn containers_of_two_nodes_are_hosts_of_the_lan() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let server = DhcpServer::on(&lan);
    let words = "network create home --driver macvlan --parent lan0 --ipam dhcp";
    let [one, two] = ["one", "two"].map(|name| {
        let node = member(&lan, name, 30).start();
        node.circuit(&words.split(' ').collect::<Vec<_>>()).ok();
        node
    });
    // Of the same name and on networks of the same name, and yet two hosts.
    let (web, other) = (run(&one, "web"), run(&two, "web"));
    assert_eq!(server.lent(), 2);
    assert_ne!(web, other);
    for to in [&other, "192.0.2.1"] {
        assert!(reaches(&one, "web", to), "{to}");
    }
    let routes = one.exec("web", &["ip", "route"]).ok();
    assert!(routes.contains("default via 192.0.2.1"), "{routes}");
    let known = || named(&one, "web.home").contains(&other);
    wait_until("the other node knows its name", PATIENCE, known);

    // Renewed, by this daemon and by the next, and kept in between.
    let renewed = |of: &str| {
        let before = server.said("DHCPACK", of);
        let renewed = || server.said("DHCPACK", of) > before;
        wait_until("the lease is renewed", PATIENCE, renewed);
    };
    renewed(&web);
    let asked = server.said("DHCPOFFER", &web);
    one.kill_daemon();
    one.start_daemon();
    renewed(&web);
    assert_eq!(server.said("DHCPOFFER", &web), asked);
    assert_eq!(address(&one, "web"), web);
    assert!(reaches(&one, "web", &other));

    // Given back by hand, at the end of the task, and after it.
    one.circuit(&["network", "disconnect", "web", "home"]).ok();
    wait_until("it is given back", PATIENCE, || server.lent() == 1);
    let reserved = ["network", "connect", "web", "home", "--mac", RESERVED];
    one.circuit(&reserved).ok();
    assert_eq!(
        (server.lent(), address(&one, "web")),
        (2, RESERVATION.to_owned())
    );
    two.remove_container("web");
    wait_until("it is given back", PATIENCE, || server.lent() == 1);
    one.kill_daemon();
    one.remove_container("web");
    assert_eq!(server.lent(), 1);
    one.start_daemon();
    wait_until("it is given back", PATIENCE, || server.lent() == 0);
    for node in [&one, &two] {
        node.assert_nothing_left();
    }
}

#[test]
fn without_a_server_that_is_said_and_nothing_left() {
    let lan = Lan::new();
    let patience = ["--cni-timeout", "4s"];
    let node = crate::node().lan(&lan).server(&patience).start();
    node.create_network("home", &home());
    node.run_container("hand", &[], &[]);
    let connect = ["network", "connect", "hand", "home"];
    let told = error_of(node.circuit(&connect));
    assert_names(
        &told,
        &["macvlan", "no dhcp server answers", "see that one"],
    );
    assert!(node.interfaces("hand").is_empty());
    node.run_container("web", &[(NETWORK, "home")], &[]);
    let told = wait_for_problem(&node, "web", "home");
    assert_names(&told, &["no dhcp server answers"]);
    for container in ["hand", "web"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

#[test]
fn a_lan_that_gets_other_addresses_takes_its_containers_along() {
    moves(crate::node());
}

#[test]
fn also_by_the_stock_plugins() {
    moves(crate::node_with(Plugins::Newer));
}

fn moves(node: NodeBuilder) {
    let lan = Lan::new();
    let mut server = DhcpServer::on(&lan);
    let node = node.lan(&lan).start();
    node.create_network("home", &home());
    let before = run(&node, "web");
    assert!(before.starts_with("192.0.2.1"), "{before}");
    let hardware = || {
        node.exec("web", &["cat", "/sys/class/net/eth0/address"])
            .ok()
    };
    let same = hardware();
    server.lose();
    server.start(&lan, "192.0.2.200,192.0.2.219");
    wait_until_moved(&node);
    assert!(server.said("DHCPNAK", &before) > 0);
    let after = address(&node, "web");
    assert_eq!(node.addresses("web"), [format!("{after}/24")]);
    assert_eq!(hardware(), same);
    assert!(reaches(&node, "web", "192.0.2.1"));
    let name = named(&node, "web.home");
    assert!(name.contains(&after) && !name.contains(&before), "{name}");
    node.remove_container("web");
    wait_until("it is given back", PATIENCE, || server.lent() == 0);
    node.assert_nothing_left();
}

#[test]
fn leases_outlast_another_daemon_at_the_socket() {
    let lan = Lan::new();
    let server = DhcpServer::on(&lan);
    let node = crate::node().lan(&lan).start();
    node.create_network("home", &home());
    let web = run(&node, "web");
    node.kill_daemon();
    // One that knows nothing of them, as the stock one would.
    let listen = [
        "import os, socket",
        "open('/run/other.pid', 'w').write(str(os.getpid()))",
        "s = socket.socket(socket.AF_UNIX)",
        "s.bind('/run/cni/dhcp.sock')",
        "s.listen()",
        "while True: s.accept()[0].close()",
    ];
    node.run("rm", &["-f", "/run/cni/dhcp.sock"]).ok();
    let mut other = node.command("python3");
    let _other = Ends(other.args(["-c", &listen.join("\n")]).spawn().unwrap());
    let listens = || {
        let sockets = node.run("ss", &["-xlH"]).stdout;
        sockets.contains("/run/cni/dhcp.sock")
    };
    wait_until("the other one listens", PATIENCE, listens);
    node.start_daemon();
    assert!(node.daemon_log().contains("another dhcp daemon listens"));
    for _ in 0..2 {
        let before = server.said("DHCPACK", &web);
        let renewed = || server.said("DHCPACK", &web) > before;
        wait_until("the lease is renewed", PATIENCE, renewed);
    }
    assert_eq!(address(&node, "web"), web);
    node.stop_daemon();
    node.run("sh", &["-c", "kill $(cat /run/other.pid)"]).ok();
    wait_until("the other one is gone", PATIENCE, || !listens());
    node.start_daemon();
    node.remove_container("web");
    wait_until("it is given back", PATIENCE, || server.lent() == 0);
    node.assert_nothing_left();
}

/// A network whose containers the stock daemon gives no lease by CHECK: it would get one
/// of its own, and release none while it waits for a server.
fn create_unchecked_home(node: &TestNode) {
    let mut list: Value = serde_json::from_str(&home()).unwrap();
    list["disableCheck"] = true.into();
    node.create_network("home", &list.to_string());
}

/// Starts the daemon again, after the stock one has taken its socket.
fn let_the_stock_daemon_in(node: &TestNode) -> Ends {
    node.kill_daemon();
    node.run("rm", &["-f", "/run/cni/dhcp.sock"]).ok();
    let mut other = node.command("/usr/lib/cni/dhcp");
    let other = Ends(other.arg("daemon").spawn().unwrap());
    let listens = || {
        node.run("ss", &["-xlH"])
            .stdout
            .contains("/run/cni/dhcp.sock")
    };
    wait_until("the stock daemon listens", PATIENCE, listens);
    node.start_daemon();
    other
}

#[test]
fn a_lease_that_ends_while_another_daemon_is_at_the_socket_is_made_anew() {
    let lan = Lan::new();
    let mut server = DhcpServer::on(&lan);
    let node = crate::node().lan(&lan).start();
    create_unchecked_home(&node);
    let before = run(&node, "web");
    let _other = let_the_stock_daemon_in(&node);
    server.lose();
    server.start(&lan, "192.0.2.200,192.0.2.219");
    wait_until_moved(&node);
    assert!(server.said("DHCPNAK", &before) > 0);
    let after = address(&node, "web");
    // It stays, as the end of the former lease is forgotten.
    wait_until("the other daemon's lease is renewed", PATIENCE, || {
        server.said("DHCPACK", &after) > 1
    });
    assert_eq!(address(&node, "web"), after);
    assert!(reaches(&node, "web", "192.0.2.1"));
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn a_lease_is_given_back_also_while_another_daemon_is_at_the_socket() {
    let lan = Lan::new();
    let server = DhcpServer::on(&lan);
    let node = crate::node().lan(&lan).start();
    create_unchecked_home(&node);
    node.run_container("web", &[], &[]);
    let connect = ["network", "connect", "web", "home"];
    node.circuit(&connect).ok();
    assert_eq!(server.lent(), 1);
    let _other = let_the_stock_daemon_in(&node);
    node.circuit(&["network", "disconnect", "web", "home"]).ok();
    wait_until("it is given back", PATIENCE, || server.lent() == 0);
    assert_eq!(node.run("ls", &["/run/circuit/dhcp"]).ok(), "");
    // The other's lease stays for as long as that renews it.
    node.circuit(&connect).ok();
    let lent = address(&node, "web");
    let index = || {
        let file = "/sys/class/net/eth0/ifindex";
        node.exec("web", &["cat", file]).ok()
    };
    let before = index();
    wait_until("the other daemon's lease is renewed", PATIENCE, || {
        server.said("DHCPACK", &lent) > 2
    });
    assert_eq!((address(&node, "web"), index()), (lent, before));
    node.remove_container("web");
    node.assert_nothing_left();
}

/// Has the leases on a node's disk be of long ago.
fn grow_old(node: &TestNode) {
    let script = "sed -i 's/\"since\":1/\"since\":/' /run/circuit/dhcp/*; cat /run/circuit/dhcp/*";
    let leases = node.run("sh", &["-c", script]).ok();
    let lease: Value = serde_json::from_str(&leases).unwrap();
    assert!(lease["grant"]["since"].as_u64() < Some(1_000_000_000));
}

#[test]
fn a_server_that_was_away_for_longer_than_a_lease_finds_its_containers_again() {
    let lan = Lan::new();
    let mut server = DhcpServer::on(&lan);
    let node = crate::node().lan(&lan).start();
    node.create_network("home", &home());
    create_ctr0(&node);
    run(&node, "web");
    node.kill_daemon();
    server.lose();
    grow_old(&node);
    node.start_daemon();
    let gone = || node.addresses("web").is_empty();
    wait_until("it has no address any more", PATIENCE, gone);
    // More than are looked at side by side wait for the server, each for longer than
    // a test has patience, and nobody waits for them.
    let waiting: Vec<String> = (0..12).map(|number| format!("waits{number}")).collect();
    for container in &waiting {
        node.run_container(container, &[(NETWORK, "home")], &[]);
    }
    node.run_container("other", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("other");
    server.start(&lan, "192.0.2.100,192.0.2.119");
    let back = || server.lent() == waiting.len() + 1;
    wait_until("all have addresses", REPEATED, back);
    let reached = || reaches(&node, "web", "192.0.2.1");
    wait_until("it is reached again", PATIENCE, reached);
    for container in waiting.iter().map(String::as_str).chain(["web", "other"]) {
        node.remove_container(container);
    }
    wait_until("all are given back", PATIENCE, || server.lent() == 0);
    node.assert_nothing_left();
}
