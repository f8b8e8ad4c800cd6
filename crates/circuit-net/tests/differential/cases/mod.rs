//! The configurations, by type.

mod addresses;
mod bridge;
mod cni_plugins;
mod firewall;
mod macvlan;
mod missing;
mod portmap;
mod ptp;
mod shape;
mod tuning;

use serde_json::{Value, json};

/// A test for each configuration: its name, and an expression that makes it.
macro_rules! cases {
    ($($name:ident => $case:expr;)+) => {
        $(#[test]
        fn $name() {
            let case: $crate::script::Case = $case(stringify!($name));
            case.run();
        })+
    };
}
pub(crate) use cases;

/// Addresses of both families, and a default route for each.
pub(crate) fn dual() -> Value {
    json!({
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    })
}

/// Addresses of one subnet, without a route.
pub(crate) fn subnet(subnet: &str) -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]})
}

/// A plugin's configuration with addresses of both families.
pub(crate) fn plugin(kind: &str, keys: Value) -> Value {
    with(json!({"type": kind, "ipam": dual()}), keys)
}

/// A bridge that is the gateway of its containers, and masquerades for them.
pub(crate) fn usual_bridge() -> Value {
    plugin("bridge", json!({"isGateway": true, "ipMasq": true}))
}

/// A configuration with more keys, or other values.
pub(crate) fn with(mut plugin: Value, keys: Value) -> Value {
    for (key, value) in keys.as_object().unwrap() {
        plugin[key] = value.clone();
    }
    plugin
}
