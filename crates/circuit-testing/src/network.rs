//! CNI configurations for tests.

use serde_json::{Value, json};

fn bridge_plugin(name: &str, subnet: &str) -> Value {
    json!({
        "type": "bridge",
        "bridge": name,
        "isGateway": true,
        "ipMasq": true,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": subnet }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    })
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// A list with one plugin: a bridge with masquerade and host-local addresses.
pub fn bridge(name: &str, subnet: &str) -> String {
    list(name, &[bridge_plugin(name, subnet)])
}

/// The same as a single plugin's configuration.
pub fn single_bridge(name: &str, subnet: &str) -> String {
    let mut plugin = bridge_plugin(name, subnet);
    plugin["cniVersion"] = json!("0.4.0");
    plugin["name"] = json!(name);
    pretty(&plugin)
}

/// A bridge that takes fixed addresses and hardware addresses, and published
/// ports.
pub fn full(name: &str, subnet: &str) -> String {
    let mut plugin = bridge_plugin(name, subnet);
    plugin["capabilities"] = json!({ "ips": true, "mac": true });
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    list(name, &[plugin, portmap])
}

/// A bridge with an IPv4 and an IPv6 address on each interface.
pub fn dual(name: &str, subnet4: &str, subnet6: &str) -> String {
    let mut plugin = bridge_plugin(name, subnet4);
    plugin["ipam"]["ranges"] = json!([[{ "subnet": subnet4 }], [{ "subnet": subnet6 }]]);
    list(name, &[plugin])
}

/// A network whose containers sit directly on the wire of the interface
/// `master`.
pub fn macvlan(name: &str, master: &str, subnet: &str) -> String {
    let plugin = json!({
        "type": "macvlan",
        "master": master,
        "mode": "bridge",
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": subnet }]] },
    });
    list(name, &[plugin])
}

/// Containers straight on the LAN of nodes ([`Lan`](crate::Lan)), with addresses of
/// a pool that they share; `ipam` holds its keys beside the type.
pub fn pool(name: &str, ipam: &Value) -> String {
    let mut plugin = json!({ "type": "macvlan", "master": "lan0", "ipam": ipam });
    plugin["ipam"]["type"] = json!("circuit");
    list(name, &[plugin])
}

/// A bridge made by the plugin `kind`, which a test has put in the node.
pub fn by_plugin(kind: &str, name: &str, subnet: &str) -> String {
    let mut plugin = bridge_plugin(name, subnet);
    plugin["type"] = json!(kind);
    list(name, &[plugin])
}

/// A configuration list of the given plugins.
pub fn list(name: &str, plugins: &[Value]) -> String {
    pretty(&json!({ "cniVersion": "1.0.0", "name": name, "plugins": plugins }))
}
