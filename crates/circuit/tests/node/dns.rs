//! Names of containers, on one node.

use circuit_testing::{PATIENCE, Ran, TestNode, network, wait_until};
use serde_json::{Value, json};

use crate::node;
use crate::support::{NETWORK, assert_names, error_of, json};

const DNS: &str = "io.circuit.dns";
const LISTEN: [&str; 2] = ["--dns-listen", "127.0.0.1:5353"];

/// A bridge whose containers ask for names.
fn asking(name: &str, subnet: &str) -> String {
    let mut configuration: Value = serde_json::from_str(&network::bridge(name, subnet)).unwrap();
    configuration[DNS] = json!(true);
    configuration.to_string()
}

/// A node with networks `ctr0` and `ctr1`; containers of the first ask for names.
fn two_networks() -> TestNode {
    let node = node().server(&LISTEN).start();
    node.create_network("ctr0", &asking("ctr0", "10.88.0.0/16"));
    node.create_network("ctr1", &network::bridge("ctr1", "10.99.0.0/16"));
    node
}

/// What a name leads to, by the server on loopback.
fn found(node: &TestNode, name: &str, kind: &str) -> Vec<String> {
    lines(node.dig(&["@127.0.0.1", "-p", "5353", "+short", name, kind]))
}

fn lines(ran: Ran) -> Vec<String> {
    let mut lines: Vec<String> = ran.ok().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The result code of an answer.
fn status(ran: Ran) -> String {
    let text = ran.ok();
    let (_, rest) = text.split_once("status: ").expect("an answer");
    rest.split(',').next().unwrap_or_default().to_owned()
}

fn resolv_conf(node: &TestNode, container: &str) -> String {
    node.exec(container, &["cat", "/etc/resolv.conf"]).ok()
}

#[test]
fn containers_find_each_other_by_name() {
    let node = two_networks();
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    let aliases = ("io.circuit.network.ctr0.aliases", "store,My.DB");
    node.run_container("db", &[(NETWORK, "ctr0,ctr1"), aliases], &[]);
    let (web, db) = (
        node.wait_for_addresses("web"),
        node.wait_for_addresses("db"),
    );
    let bare = |address: &str| address.split('/').next().unwrap().to_owned();
    let (web, [db0, db1]) = (bare(&web[0]), [bare(&db[0]), bare(&db[1])]);
    for (name, expected) in [
        ("web.ctr0", vec![&web]),
        ("web.ctr0.circuit.internal", vec![&web]),
        ("WEB.circuit.internal", vec![&web]),
        ("db.ctr0", vec![&db0]),
        ("db.ctr1", vec![&db1]),
        ("db.circuit.internal", vec![&db0, &db1]),
        ("store.ctr0", vec![&db0]),
        ("my-db.ctr0", vec![&db0]),
        ("store.ctr1", vec![]),
        ("gone.ctr0", vec![]),
    ] {
        assert_eq!(
            found(&node, name, "A").iter().collect::<Vec<_>>(),
            expected,
            "{name}"
        );
    }
    let name = format!("{}.{}.{}.{}.in-addr.arpa", 2, 0, 88, 10);
    assert_eq!(found(&node, &name, "PTR"), ["web.ctr0.circuit.internal."]);
    // From inside, by nothing but the name.
    wait_until("a resolver in web", PATIENCE, || {
        resolv_conf(&node, "web").contains("nameserver 10.88.0.1")
    });
    let conf = resolv_conf(&node, "web");
    assert_names(
        &conf,
        &[
            "search ctr0.circuit.internal circuit.internal",
            "nameserver 10.88.0.1",
        ],
    );
    let told = node.exec("web", &["nslookup", "db"]).ok();
    assert_names(&told, &["10.88.0.1:53", &db0]);
    assert_names(
        &node
            .exec("web", &["ping", "-c", "1", "-W", "5", "store"])
            .ok(),
        &["1 packets received"],
    );
    // What is on another network is not seen through the gateway, but by who is
    // on it too.
    node.run_container("far", &[(NETWORK, "ctr1")], &[]);
    let far = bare(&node.wait_for_addresses("far")[0]);
    let code = |container: &str, name: &str| status(node.dig_in(container, &["@10.88.0.1", name]));
    assert_eq!(code("web", "far.ctr1"), "NXDOMAIN");
    assert_eq!(code("web", "far.circuit.internal"), "NXDOMAIN");
    assert_eq!(code("web", "web.ctr0"), "NOERROR");
    assert_eq!(code("db", "far.ctr1"), "NOERROR");
    let told = node.dig_in("db", &["@10.88.0.1", "+short", "+tcp", "far.ctr1"]);
    assert_eq!(lines(told), [far]);
    for container in ["web", "db", "far"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

#[test]
fn a_name_comes_with_a_connect_and_goes_with_a_disconnect() {
    let node = two_networks();
    node.run_container("web", &[], &[]);
    assert!(found(&node, "web.ctr0", "A").is_empty());
    let before = resolv_conf_or_none(&node, "web");
    for _ in 0..5 {
        node.circuit(&["network", "connect", "web", "ctr0"]).ok();
        // At once: nothing is waited for.
        assert_eq!(found(&node, "web.ctr0", "A").len(), 1);
        assert_names(&resolv_conf(&node, "web"), &["nameserver 10.88.0.1"]);
        node.circuit(&["network", "disconnect", "web", "ctr0"]).ok();
        assert!(found(&node, "web.ctr0", "A").is_empty());
        assert_eq!(resolv_conf_or_none(&node, "web"), before);
    }
    node.remove_container("web");
    node.assert_nothing_left();
}

fn resolv_conf_or_none(node: &TestNode, container: &str) -> Option<String> {
    let ran = node.exec(container, &["cat", "/etc/resolv.conf"]);
    ran.worked().then(|| ran.ok())
}

#[test]
fn people_ask_the_daemon() {
    let node = two_networks();
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("web");
    let told = node.circuit(&["dns", "query", "web.ctr0"]).ok();
    assert_names(
        &told,
        &["web.ctr0", "10.88.0.2", "NOERROR: from containers on "],
    );
    let told = json(&node, &["dns", "query", "10.88.0.2"]);
    assert_eq!(told["records"][0]["data"], "web.ctr0.circuit.internal");
    let missing = node.circuit(&["dns", "query", "gone.ctr0"]);
    assert_eq!(missing.fails(1), "error: gone.ctr0 does not exist\n");
    let wrong = error_of(node.circuit(&["dns", "query", "web", "NONSENSE"]));
    assert_names(&wrong, &["NONSENSE", "AAAA"]);
    let list = json(&node, &["dns", "dump", "ctr0.circuit.internal"]);
    assert_eq!(list["records"][0]["data"], "10.88.0.2");
    assert_names(
        &node.circuit(&["dns", "dump"]).ok(),
        &["web.ctr0.circuit.internal", "NODE"],
    );
    node.remove_container("web");
    node.assert_nothing_left();
}
