//! Hosts with udev, which gives each new interface a hardware address by its name,
//! unless it has one for good.

use circuit_testing::{PATIENCE, Plugins, TestNode, Udev, wait_until};
use serde_json::{Value, json};

use crate::support::NETWORK;

/// The interfaces of the host, by name: each with its hardware address.
fn addresses(node: &TestNode) -> Vec<(String, String)> {
    let links: Value = serde_json::from_str(&node.run("ip", &["-j", "link"]).ok()).unwrap();
    let text = |link: &Value, key: &str| link[key].as_str().unwrap().to_owned();
    let links = links.as_array().unwrap().iter();
    links
        .map(|link| (text(link, "ifname"), text(link, "address")))
        .collect()
}

/// What a container knows of its gateway.
fn gateway(node: &TestNode, container: &str, address: &str) -> String {
    node.exec(container, &["ping", "-c1", "-W5", address]).ok();
    let known = node.in_netns(container, &["ip", "-j", "neigh", "show", address]);
    let known: Value = serde_json::from_str(&known.ok()).unwrap();
    known[0]["lladdr"].as_str().expect("a neighbour").to_owned()
}

fn network(kind: &str, subnet: &str) -> String {
    let ipam = json!({"type": "host-local", "subnet": subnet,
        "routes": [{"dst": "0.0.0.0/0"}]});
    let plugin = json!({"type": kind, "bridge": "br-a", "isGateway": true, "ipam": ipam});
    let plugin = match kind {
        "ptp" => json!({"type": kind, "ipam": ipam}),
        _ => plugin,
    };
    json!({"cniVersion": "1.0.0", "name": kind, "plugins": [plugin]}).to_string()
}

#[test]
fn hardware_addresses_stay_what_containers_know() {
    let node = crate::node().plugins(Plugins::None).start();
    let udev = Udev::start(&node);
    // It does replace one that the kernel has given.
    node.run("ip", &["link", "add", "plain", "type", "bridge"])
        .ok();
    udev.settle();
    assert!(
        udev.has_set_address("plain"),
        "udev leaves interfaces alone here"
    );
    node.run("ip", &["link", "delete", "plain"]).ok();

    node.create_network("bridge", &network("bridge", "10.88.0.0/16"));
    node.create_network("ptp", &network("ptp", "10.89.0.0/16"));
    for (container, of, first) in [("web", "bridge", "10.88.0.1"), ("db", "ptp", "10.89.0.1")] {
        // It comes late, when the container has found its gateway.
        udev.hold();
        node.run_container(container, &[(NETWORK, of)], &[]);
        wait_until("it is connected", PATIENCE, || {
            !node.addresses(container).is_empty()
        });
        let known = gateway(&node, container, first);
        let before = addresses(&node);
        assert!(before.iter().any(|(_, address)| *address == known));
        udev.settle();
        assert_eq!(addresses(&node), before, "{of}");
        node.remove_container(container);
    }
    drop(udev);
    node.circuit(&["network", "delete", "bridge"]).ok();
}
