//! Attachments by hand: made, reported, taken away.

use std::{collections::BTreeMap, thread, time::Duration};

use circuit_api::v1::{ContainerNetworkConfig, NetworkConfig};
use circuit_testing::{EXTENSION_TYPE, NodeBuilder, PATIENCE, network, wait_until};
use prost::Message as _;

use crate::support::{
    Api, NETWORK, assert_exactly, assert_names, create_ctr0, error_of, ips, wait_for_problem,
};

crate::on_every_data_path!(
    several_networks,
    two_families,
    an_unlabelled_container_that_exits_leaves_nothing,
    a_container_removed_at_once_leaves_nothing,
    every_kind_of_network_leaves_nothing,
);

fn several_networks(node: NodeBuilder) {
    let node = node.uplink().start();
    create_ctr0(&node);
    node.create_network("lan", &network::macvlan("lan", "up0", "203.0.113.0/24"));
    node.create_network("ctr1", &network::bridge("ctr1", "10.8.0.0/16"));
    node.run_container("shell", &[], &[]);
    for network in ["ctr0", "lan", "ctr1"] {
        node.circuit(&["network", "connect", "shell", network]).ok();
    }
    let row =
        |network: &str, ip: &str, interface: &str| [network, ip, interface].map(str::to_owned);
    assert_eq!(
        ips(&node, "shell"),
        [
            row("ctr0", "10.255.0.2", "eth0"),
            row("lan", "203.0.113.2", "eth1"),
            row("ctr1", "10.8.0.2", "eth2"),
        ]
    );
    let names: Vec<String> = node
        .interfaces("shell")
        .into_iter()
        .map(|i| i.name)
        .collect();
    assert_eq!(names, ["eth0", "eth1", "eth2"]);
    node.exec("shell", &["ping", "-c", "1", "-W", "5", "192.0.2.1"])
        .ok();

    // The others stay, and the free name is taken again.
    node.circuit(&["network", "disconnect", "shell", "lan"])
        .ok();
    let names: Vec<String> = node
        .interfaces("shell")
        .into_iter()
        .map(|i| i.name)
        .collect();
    assert_eq!(names, ["eth0", "eth2"]);
    node.circuit(&["network", "connect", "shell", "lan"]).ok();
    let lan = ips(&node, "shell").into_iter().find(|row| row[0] == "lan");
    assert_eq!(lan.unwrap()[2], "eth1");
    node.remove_container("shell");
    node.assert_nothing_left();
}

fn two_families(node: NodeBuilder) {
    let node = node.start();
    let config = network::dual("ctr0", "10.255.0.0/16", "fd00:c1c::/64");
    node.create_network("ctr0", &config);
    node.run_container("shell", &[], &[]);
    let api = Api::of(&node);
    let connected = api.connect("shell", "ctr0").unwrap();
    assert_eq!(connected.ip, "10.255.0.2");
    assert_eq!(connected.ips, ["10.255.0.2", "fd00:c1c::2"]);
    let told: Vec<String> = ips(&node, "shell")
        .into_iter()
        .map(|row| row[1].clone())
        .collect();
    assert_eq!(told, ["10.255.0.2", "fd00:c1c::2"]);
    let mut inside = node.addresses("shell");
    inside.sort();
    assert_eq!(inside, ["10.255.0.2/16", "fd00:c1c::2/64"]);
    node.exec(
        "shell",
        &["ping", "-6", "-c", "1", "-W", "5", "fd00:c1c::1"],
    )
    .ok();
    api.disconnect("shell", "ctr0").unwrap();
    node.assert_nothing_left();
}

fn an_unlabelled_container_that_exits_leaves_nothing(node: NodeBuilder) {
    let node = node.start();
    create_ctr0(&node);
    node.run_container("shell", &[], &[]);
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    assert_exactly(&node, &[("shell", 1)]);
    node.kill_task("shell");
    node.assert_nothing_left();
    wait_until("the extension names no network", PATIENCE, || {
        node.extension("shell")
            .is_none_or(|(_, value)| value.is_empty())
    });
    assert_eq!(ips(&node, "shell"), [] as [[String; 3]; 0]);
}

fn a_container_removed_at_once_leaves_nothing(node: NodeBuilder) {
    let node = node.start();
    create_ctr0(&node);
    for (name, labels) in [("byhand", &[][..]), ("bylabel", &[(NETWORK, "ctr0")])] {
        node.run_container(name, labels, &[]);
        if labels.is_empty() {
            node.circuit(&["network", "connect", name, "ctr0"]).ok();
        }
        node.wait_for_addresses(name);
        node.ctr(&["task", "rm", "-f", name]).ok();
        node.ctr(&["container", "rm", name]).ok();
        node.assert_nothing_left();
        wait_until("nothing is remembered", PATIENCE, || {
            node.record(name).is_none()
        });
    }
    // Before it is connected, or while.
    for _ in 0..5 {
        node.run_container("quick", &[(NETWORK, "ctr0")], &[]);
        node.ctr(&["task", "rm", "-f", "quick"]).ok();
        node.ctr(&["container", "rm", "quick"]).ok();
    }
    node.assert_nothing_left();
    wait_until("nothing is remembered", PATIENCE, || {
        node.record("quick").is_none()
    });
}

fn every_kind_of_network_leaves_nothing(node: NodeBuilder) {
    let node = node.uplink().start();
    for (name, config) in [
        ("single", network::single_bridge("single", "10.1.0.0/16")),
        ("full", network::full("full", "10.2.0.0/16")),
        ("dual", network::dual("dual", "10.3.0.0/16", "fd00:3::/64")),
        ("lan", network::macvlan("lan", "up0", "203.0.113.0/24")),
    ] {
        node.create_network(name, &config);
        for end in ["disconnect", "kill", "remove"] {
            node.run_container("shell", &[], &[]);
            node.circuit(&["network", "connect", "shell", name]).ok();
            match end {
                "disconnect" => {
                    node.circuit(&["network", "disconnect", "shell", name]).ok();
                }
                "kill" => node.kill_task("shell"),
                _ => node.remove_container("shell"),
            }
            node.assert_nothing_left();
            node.remove_container("shell");
        }
    }
}

#[test]
fn an_execd_process_that_ends_changes_nothing() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("byhand", &[], &[]);
    node.run_container("bylabel", &[(NETWORK, "ctr0")], &[]);
    node.circuit(&["network", "connect", "byhand", "ctr0"]).ok();
    node.wait_for_addresses("bylabel");
    assert_exactly(&node, &[("byhand", 1), ("bylabel", 1)]);
    let before = (
        node.leftovers(),
        node.extension("bylabel"),
        node.extension("byhand"),
    );
    for container in ["byhand", "bylabel"] {
        node.exec(container, &["true"]).ok();
        node.exec(container, &["false"]).fails(1);
        node.exec(container, &["sh", "-c", "kill -9 $$"]);
    }
    thread::sleep(Duration::from_secs(1));
    let after = (
        node.leftovers(),
        node.extension("bylabel"),
        node.extension("byhand"),
    );
    assert_eq!(after, before);
    assert_exactly(&node, &[("byhand", 1), ("bylabel", 1)]);
}

#[test]
fn the_hosts_network_is_left_alone() {
    let node = crate::node().uplink().start();
    create_ctr0(&node);
    // Without the flags of addresses, which come and go by themselves.
    let links = || node.run("ip", &["-br", "addr"]).ok();
    let before = links();
    node.run_container_with(&["--net-host"], "byhand", &[], &[]);
    let error = error_of(node.circuit(&["network", "connect", "byhand", "ctr0"]));
    assert_names(&error, &["host"]);
    node.run_container_with(&["--net-host"], "bylabel", &[(NETWORK, "ctr0")], &[]);
    assert_names(&wait_for_problem(&node, "bylabel", ""), &["host"]);
    assert_eq!(links(), before);
    node.assert_nothing_left();
}

#[test]
fn the_extension_is_what_the_original_wrote() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.create_network("ctr1", &network::bridge("ctr1", "10.8.0.0/16"));
    node.run_container("shell", &[], &[]);
    let entry = |interface: &str, ip: &str| ContainerNetworkConfig {
        interface: interface.to_owned(),
        ip: ip.to_owned(),
    };
    let extension = |networks: &[(&str, ContainerNetworkConfig)]| {
        let networks: BTreeMap<_, _> = networks
            .iter()
            .map(|(name, c)| ((*name).to_owned(), c.clone()))
            .collect();
        let bytes = NetworkConfig { networks }.encode_to_vec();
        Some((EXTENSION_TYPE.to_owned(), bytes))
    };
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    let first = ("ctr0", entry("eth0", "10.255.0.2"));
    let one = extension(std::slice::from_ref(&first));
    wait_until("the extension is written", PATIENCE, || {
        node.extension("shell") == one
    });
    let (_, bytes) = one.clone().unwrap();
    // A map of one entry, of two texts: the very bytes of the original.
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "0a1a0a046374723012120a0465746830120a31302e3235352e302e32"
    );

    node.circuit(&["network", "connect", "shell", "ctr1"]).ok();
    let two = extension(&[first, ("ctr1", entry("eth1", "10.8.0.2"))]);
    wait_until("the extension has both", PATIENCE, || {
        node.extension("shell") == two
    });
    // Other fields of the record stay as they are.
    assert_eq!(
        node.container_info("shell")["Image"],
        circuit_testing::IMAGE
    );
    node.circuit(&["network", "disconnect", "shell", "ctr1"])
        .ok();
    wait_until("the extension has one", PATIENCE, || {
        node.extension("shell") == one
    });
}

#[test]
fn a_failed_connect_leaves_nothing_and_is_told() {
    let node = crate::node().start();
    node.script_plugin(
        "broken",
        "#!/bin/sh\n\
         if [ \"$CNI_COMMAND\" = VERSION ]; then exec %STOCK%/bridge; fi\n\
         if [ \"$CNI_COMMAND\" = DEL ]; then exec %STOCK%/bridge; fi\n\
         %STOCK%/bridge >/dev/null\n\
         echo '{\"cniVersion\":\"1.0.0\",\"code\":100,\"msg\":\"the cable is out\",\"details\":\"plug it in\"}'\n\
         exit 1\n",
    );
    node.create_network("a", &network::by_plugin("broken", "a", "10.1.0.0/16"));
    create_ctr0(&node);
    node.run_container("shell", &[], &[]);
    let error = error_of(node.circuit(&["network", "connect", "shell", "a"]));
    assert_names(&error, &["the cable is out", "plug it in"]);
    node.assert_nothing_left();
    assert_eq!(node.interfaces("shell"), []);
    // It was refused, so it is not tried again after a restart of the daemon.
    node.kill_daemon();
    node.start_daemon();
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    assert_exactly(&node, &[("shell", 1)]);
}

#[test]
fn a_network_without_free_addresses_is_told() {
    let node = crate::node().start();
    node.create_network("tiny", &network::bridge("tiny", "10.1.0.0/30"));
    node.run_container("one", &[], &[]);
    node.run_container("two", &[], &[]);
    node.circuit(&["network", "connect", "one", "tiny"]).ok();
    let error = error_of(node.circuit(&["network", "connect", "two", "tiny"]));
    assert_names(&error, &["no IP addresses available"]);
    assert_exactly(&node, &[("one", 1), ("two", 0)]);
    node.circuit(&["network", "disconnect", "one", "tiny"]).ok();
    node.circuit(&["network", "connect", "two", "tiny"]).ok();
    assert_exactly(&node, &[("one", 0), ("two", 1)]);
}

#[test]
fn a_disconnected_label_stays_disconnected_until_the_next_task() {
    let node = crate::node()
        .server(&["--reconcile-interval", "1s"])
        .start();
    create_ctr0(&node);
    node.run_container("shell", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("shell");
    node.circuit(&["network", "disconnect", "shell", "ctr0"])
        .ok();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(node.interfaces("shell"), []);
    node.end_task("shell");
    node.start_task("shell");
    node.wait_for_addresses("shell");
    node.remove_container("shell");
    node.assert_nothing_left();
}
