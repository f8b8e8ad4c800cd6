//! The bridge plugin.

use serde_json::{Value, json};

use super::cases;
use crate::script::Case;

/// A bridge with these keys, and addresses of both families.
pub(crate) fn dual(keys: Value) -> Value {
    let ranges = json!([[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]]);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    with(
        json!({"type": "bridge", "ipam": {"type": "host-local", "ranges": ranges, "routes": routes}}),
        keys,
    )
}

/// A configuration with more keys.
pub(crate) fn with(mut plugin: Value, keys: Value) -> Value {
    for (key, value) in keys.as_object().unwrap() {
        plugin[key] = value.clone();
    }
    plugin
}

cases! {
    bridge_gateway_and_masquerade => |name| Case::new(name, "1.0.0", json!([dual(json!(
        {"isGateway": true, "ipMasq": true}))]));
    bridge_plain => |name| Case::new(name, "1.0.0", json!([dual(json!({}))]));
}
