//! Networks by label: order, wishes, ports, and what is said of bad labels.

use std::{thread, time::Duration};

use circuit_testing::{NodeBuilder, PATIENCE, TestNode, network, wait_until};

use crate::support::{
    NETWORK, assert_exactly, assert_names, create_ctr0, ips, logged, problems, wait_for_problem,
    way_out,
};

crate::on_every_data_path!(
    order_is_kept,
    the_default_route_goes_where_it_is_wished,
    wishes_are_granted,
    ports_lead_to_the_container,
    the_hosts_loopback_stays_its_own
);

fn three_networks(node: &TestNode) {
    for (name, subnet) in [
        ("a", "10.1.0.0/16"),
        ("b", "10.2.0.0/16"),
        ("c", "10.3.0.0/16"),
    ] {
        node.create_network(name, &network::full(name, subnet));
    }
}

fn wait_for_ips(node: &TestNode, container: &str, count: usize) -> Vec<[String; 3]> {
    let mut last = Vec::new();
    wait_until(
        &format!("{container} has {count} addresses"),
        PATIENCE,
        || {
            last = ips(node, container);
            last.len() == count
        },
    );
    last
}

fn order_is_kept(node: NodeBuilder) {
    let node = node.start();
    three_networks(&node);
    node.run_container("web", &[(NETWORK, "c,a,b")], &[]);
    let told = wait_for_ips(&node, "web", 3);
    let networks: Vec<_> = told
        .iter()
        .map(|[n, _, i]| (n.as_str(), i.as_str()))
        .collect();
    assert_eq!(networks, [("c", "eth0"), ("a", "eth1"), ("b", "eth2")]);
    // The last plugin made its own way the first one; that is put right behind it.
    wait_until("the way out is that of c", PATIENCE, || {
        let way = way_out(&node, "web");
        way.contains("via 10.3.0.1") && way.contains("dev eth0")
    });
    node.exec("web", &["ping", "-c", "1", "-W", "5", "10.2.0.1"])
        .ok();
    node.remove_container("web");
    node.assert_nothing_left();
}

fn the_default_route_goes_where_it_is_wished(node: NodeBuilder) {
    let node = node.start();
    three_networks(&node);
    let mut list: serde_json::Value =
        serde_json::from_str(&network::full("high", "10.4.0.0/16")).unwrap();
    list["io.circuit.gw-priority"] = 5.into();
    node.create_network("high", &list.to_string());
    let labels = [
        (NETWORK, "a,b,high"),
        ("io.circuit.network.b.gw-priority", "10"),
    ];
    node.run_container("web", &labels, &[]);
    wait_for_ips(&node, "web", 3);
    let way_is = |by: [&str; 2]| {
        wait_until(&format!("the way out is {by:?}"), PATIENCE, || {
            let way = way_out(&node, "web");
            by.iter().all(|part| way.contains(part))
        });
    };
    way_is(["via 10.2.0.1", "dev eth1"]);
    node.circuit(&["network", "disconnect", "web", "b"]).ok();
    way_is(["via 10.4.0.1", "dev eth2"]);
    node.circuit(&["network", "disconnect", "web", "high"]).ok();
    way_is(["via 10.1.0.1", "dev eth0"]);
    // By hand, it has the priority that the labels give it.
    node.circuit(&["network", "connect", "web", "b"]).ok();
    way_is(["via 10.2.0.1", "dev eth1"]);
    node.remove_container("web");
    node.assert_nothing_left();
}

fn wishes_are_granted(node: NodeBuilder) {
    let node = node.start();
    three_networks(&node);
    // A network that declares no capability takes the wishes as arguments.
    node.create_network("plain", &network::bridge("plain", "10.9.0.0/16"));
    let labels = [
        (NETWORK, "a,b,plain"),
        ("io.circuit.network.a.ip", "10.1.0.77"),
        ("io.circuit.network.a.mac", "02:42:0A:01:00:4D"),
        ("io.circuit.network.b.interface", "back0"),
        ("io.circuit.network.b.aliases", "db,store"),
        ("io.circuit.network.plain.ip", "10.9.3.3"),
        ("io.circuit.network.plain.mac", "02:42:0a:09:03:03"),
    ];
    node.run_container("web", &labels, &[]);
    let told = wait_for_ips(&node, "web", 3);
    assert_eq!(told[0], ["a", "10.1.0.77", "eth0"]);
    assert_eq!([&told[1][0], &told[1][2]], ["b", "back0"]);
    assert_eq!(told[2], ["plain", "10.9.3.3", "eth1"]);
    let inside = node.interfaces("web");
    let link = |name: &str| inside.iter().find(|i| i.name == name).unwrap();
    assert_eq!(link("eth0").mac, "02:42:0a:01:00:4d");
    assert_eq!(link("eth0").addresses, ["10.1.0.77/16"]);
    assert_eq!(link("eth1").mac, "02:42:0a:09:03:03");
    assert!(problems(&node, "web").is_empty());
    node.remove_container("web");
    node.assert_nothing_left();
}

/// A web server that answers `hello`.
pub(crate) const WEB: [&str; 3] = [
    "sh",
    "-c",
    "mkdir -p /www && echo hello >/www/index.html && exec httpd -f -p 80 -h /www",
];

pub(crate) fn get(node: &TestNode, url: &str) -> String {
    node.outside("curl", &["-s", "-m", "5", url]).stdout
}

/// A bridge whose ports are published takes packets for loopback addresses.
fn the_hosts_loopback_stays_its_own(node: NodeBuilder) {
    let node = node.start();
    node.create_network("a", &network::full("a", "10.1.0.0/16"));
    let folder = node.folder().display().to_string();
    let serve =
        format!("echo secret >{folder}/it; exec busybox httpd -p 127.0.0.1:7000 -h {folder}");
    node.run("sh", &["-c", &serve]).ok();
    let labels = [(NETWORK, "a"), ("io.circuit.ports", "8081:80")];
    node.run_container("web", &labels, &WEB);
    wait_for_ips(&node, "web", 1);
    let lead = "ip route add 127.0.0.0/8 via 10.1.0.1 table 5; \
         ip rule add pref 0 to 127.0.0.0/8 table 5; ip rule del pref 0 table local; \
         ip rule add pref 10 table local; echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet";
    node.in_netns("web", &["sh", "-ec", lead]).ok();
    let ask = || {
        let curl = ["curl", "-s", "-m", "1", "http://127.0.0.1:7000/it"];
        node.in_netns("web", &curl).stdout
    };
    assert_eq!(ask(), "");
    // It is the rule that keeps it out, and it is made again.
    node.freeze_daemon(true);
    node.run(
        "nft",
        &["flush", "chain", "inet", "circuit", "hostports_input"],
    )
    .ok();
    assert_eq!(ask(), "secret\n");
    node.freeze_daemon(false);
    wait_until("it is kept out again", PATIENCE, || ask().is_empty());
    node.remove_container("web");
    node.assert_nothing_left();
}

fn ports_lead_to_the_container(node: NodeBuilder) {
    let node = node.uplink().start();
    node.create_network("a", &network::full("a", "10.1.0.0/16"));
    node.create_network("plain", &network::bridge("plain", "10.9.0.0/16"));
    // The first network that can publish does, wherever it stands.
    let labels = [
        (NETWORK, "plain,a"),
        ("io.circuit.ports", "8081:80/tcp,8082:80"),
    ];
    node.run_container("web", &labels, &WEB);
    wait_for_ips(&node, "web", 2);
    for url in ["http://192.0.2.2:8081/", "http://192.0.2.2:8082/"] {
        wait_until(&format!("{url} answers"), PATIENCE, || {
            get(&node, url) == "hello\n"
        });
    }
    // The rules stay when the daemon goes and comes.
    node.kill_daemon();
    assert_eq!(get(&node, "http://192.0.2.2:8081/"), "hello\n");
    node.start_daemon();
    assert_eq!(get(&node, "http://192.0.2.2:8081/"), "hello\n");
    let published = node.publications();
    assert_names(&published.join("\n"), &["tcp 8081 -> ", "tcp 8082 -> "]);

    node.remove_container("web");
    node.assert_nothing_left();
    assert!(node.publications().is_empty(), "{:?}", node.publications());
    assert_eq!(get(&node, "http://192.0.2.2:8081/"), "");
}

#[test]
fn ports_without_a_network_that_publishes_are_told() {
    let node = crate::node().start();
    create_ctr0(&node);
    let labels = [(NETWORK, "ctr0"), ("io.circuit.ports", "8081:80")];
    node.run_container("web", &labels, &[]);
    node.wait_for_addresses("web");
    assert_names(
        &wait_for_problem(&node, "web", ""),
        &["io.circuit.ports", "portMappings"],
    );
    node.run_container(
        "odd",
        &[(NETWORK, "ctr0"), ("io.circuit.ports", "80:x")],
        &[],
    );
    assert_names(
        &wait_for_problem(&node, "odd", ""),
        &["io.circuit.ports", "80:x"],
    );
    node.wait_for_addresses("odd");
}

#[test]
fn another_key_of_the_label() {
    let node = crate::node()
        .server(&["--network-label", "org.example.net"])
        .start();
    create_ctr0(&node);
    let labels = [
        ("org.example.net", "ctr0"),
        ("org.example.net.ctr0.ip", "10.255.7.7"),
    ];
    node.run_container("web", &labels, &[]);
    node.run_container("other", &[(NETWORK, "ctr0")], &[]);
    assert_eq!(node.wait_for_addresses("web"), ["10.255.7.7/16"]);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(node.addresses("other"), [] as [String; 0]);
    // The extension's key is not the label's.
    wait_until("the extension is there", PATIENCE, || {
        node.extension("web").is_some()
    });
}

#[test]
fn an_unknown_network_is_told_once_and_joined_when_it_exists() {
    let node = crate::node()
        .server(&["--reconcile-interval", "1s"])
        .start();
    create_ctr0(&node);
    node.run_container("web", &[(NETWORK, "later,ctr0")], &[]);
    let message = wait_for_problem(&node, "web", "later");
    assert_names(&message, &["later", "does not exist"]);
    let ran = node.circuit(&["network", "ips", "web"]);
    assert_names(&ran.stderr, &["warning: ", "web", "later"]);
    assert_eq!(ran.stderr.lines().count(), 1, "{ran}");
    // The others do not wait for it, and its interface's name stays free.
    let told = wait_for_ips(&node, "web", 1);
    assert_eq!(told[0], ["ctr0", "10.255.0.2", "eth1"]);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(
        logged(&node, &["WARN", "web", "later"]),
        1,
        "{}",
        node.daemon_log()
    );

    node.create_network("later", &network::bridge("later", "10.5.0.0/16"));
    let told = wait_for_ips(&node, "web", 2);
    assert!(
        told.contains(&["later", "10.5.0.2", "eth0"].map(str::to_owned)),
        "{told:?}"
    );
    wait_until("the problem is gone", PATIENCE, || {
        problems(&node, "web").is_empty()
    });
    assert_eq!(node.circuit(&["network", "ips", "web"]).stderr, "");
    assert_names(&way_out(&node, "web"), &["via 10.5.0.1", "dev eth0"]);
    assert_exactly(&node, &[("web", 2)]);
}

#[test]
fn an_address_outside_the_subnet_is_told() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.create_network("b", &network::bridge("b", "10.2.0.0/16"));
    let labels = [
        (NETWORK, "ctr0,b"),
        ("io.circuit.network.ctr0.ip", "10.77.0.1"),
    ];
    node.run_container("web", &labels, &[]);
    let message = wait_for_problem(&node, "web", "ctr0");
    assert_names(&message, &["10.77.0.1", "ctr0", "10.255.0.0/16"]);
    assert_eq!(wait_for_ips(&node, "web", 1)[0][0], "b");
    // Who asks about the network hears of it too.
    let ran = node.circuit(&["network", "info", "ctr0"]);
    assert_names(&ran.stderr, &["warning: ", "web", "10.77.0.1"]);
    assert_eq!(ran.stdout, network::bridge("ctr0", "10.255.0.0/16"));
    assert_exactly(&node, &[("web", 1)]);
}

#[test]
fn an_address_that_is_taken_is_told_and_had_later() {
    let node = crate::node().start();
    create_ctr0(&node);
    let labels = [
        (NETWORK, "ctr0"),
        ("io.circuit.network.ctr0.ip", "10.255.0.9"),
    ];
    node.run_container("first", &labels, &[]);
    assert_eq!(node.wait_for_addresses("first"), ["10.255.0.9/16"]);
    node.run_container("second", &labels, &[]);
    assert_names(&wait_for_problem(&node, "second", "ctr0"), &["10.255.0.9"]);
    assert_exactly(&node, &[("first", 1), ("second", 0)]);
    node.remove_container("first");
    assert_eq!(node.wait_for_addresses("second"), ["10.255.0.9/16"]);
    wait_until("the problem is gone", PATIENCE, || {
        problems(&node, "second").is_empty()
    });
    assert_exactly(&node, &[("second", 1)]);
}

#[test]
fn labels_that_cannot_be_read_spoil_only_themselves() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.create_network("b", &network::bridge("b", "10.2.0.0/16"));
    let labels = [
        (NETWORK, " ctr0 , b,, ../etc"),
        ("io.circuit.network.ctr0.ip", "not-an-address"),
        ("io.circuit.network.b.mac", "02:42:0a:02:00:07"),
    ];
    node.run_container("web", &labels, &[]);
    let told = wait_for_ips(&node, "web", 1);
    assert_eq!(told[0][0], "b");
    assert_names(&wait_for_problem(&node, "web", "ctr0"), &["not-an-address"]);
    wait_for_problem(&node, "web", "../etc");
    assert_exactly(&node, &[("web", 1)]);
}

#[test]
fn what_labels_ask_for_of_a_network_it_is_on_is_told() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    assert_exactly(&node, &[("web", 1)]);
    let told = "without address 10.255.0.77, which its labels ask for";
    let label = |value: &str| {
        let label = format!("io.circuit.network.ctr0.ip={value}");
        node.ctr(&["container", "label", "web", &label]).ok();
    };
    label("10.255.0.77");
    wait_until("it is told", PATIENCE, || {
        node.circuit(&["network", "ips", "web"])
            .stderr
            .contains(told)
    });
    let ask = |verb| node.circuit(&["network", verb, "web", "ctr0"]).ok();
    ask("disconnect");
    // Whoever follows events hears of its end, too.
    let program = node.program();
    let solved = ["events", "--last", "9", "--kind", "container.solved"];
    let solved = [&["2", program.as_str()], &solved[..]].concat();
    let solved = node.run("timeout", &solved).stdout;
    assert!(solved.contains("web"), "{solved}");
    ask("connect");
    wait_until("it is as the label says", PATIENCE, || {
        let ran = node.circuit(&["network", "ips", "web"]);
        ran.stdout.contains("10.255.0.77") && !ran.stderr.contains(told)
    });
}

#[test]
fn a_label_that_changes_is_followed() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.create_network("b", &network::bridge("b", "10.2.0.0/16"));
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("web");
    node.ctr(&["container", "label", "web", "io.circuit.network=b"])
        .ok();
    wait_until("web is on b alone", PATIENCE, || {
        let told = ips(&node, "web");
        told.len() == 1 && told[0][0] == "b"
    });
    assert_exactly(&node, &[("web", 1)]);
}
