//! The ptp and loopback plugins.

use serde_json::{Value, json};

use super::{cases, plugin, subnet, with};
use crate::script::Case;

fn ptp(name: &'static str, keys: Value) -> Case {
    Case::new(name, "1.0.0", json!([plugin("ptp", keys)]))
}

fn loopback(name: &'static str, version: &str) -> Case {
    Case::new(name, version, json!([{"type": "loopback"}])).ifname("lo")
}

cases! {
    ptp_version_0_3_1 => |name| Case::new(name, "0.3.1", json!([plugin("ptp", json!({"ipMasq": true}))]));
    ptp_version_0_4_0 => |name| Case::new(name, "0.4.0", json!([plugin("ptp", json!({"ipMasq": true}))]));
    ptp_version_1_1_0 => |name| Case::new(name, "1.1.0", json!([plugin("ptp", json!({"ipMasq": true}))]));
    ptp_plain => |name| ptp(name, json!({}));
    ptp_masquerade => |name| ptp(name, json!({"ipMasq": true}));
    ptp_masquerade_by_nftables => |name| ptp(name, json!({"ipMasq": true, "ipMasqBackend": "nftables"})).only_new();
    ptp_mtu => |name| ptp(name, json!({"mtu": 1400}));
    ptp_ipv6_only => |name| ptp(name, json!({"ipMasq": true, "ipam": with(subnet("fd00:88::/64"),
        json!({"routes": [{"dst": "::/0"}]}))}));
    ptp_without_routes => |name| ptp(name, json!({"ipam": subnet("10.88.0.0/24")}));
    ptp_dns => |name| ptp(name, json!({"dns": {"nameservers": ["192.0.2.1"]}})).short();
    ptp_gateway_and_routes => |name| ptp(name, json!({"ipam": {"type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/24", "gateway": "10.88.0.250"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.88.0.250"}]}}));
    ptp_without_addresses_is_refused => |name| Case::new(name, "1.1.0", json!([{"type": "ptp"}])).fails();
    ptp_address_management_missing_is_refused => |name|
        ptp(name, json!({"ipam": {"type": "nowhere"}})).fails().short();
    loopback_version_0_3_1 => |name| loopback(name, "0.3.1");
    loopback_version_0_4_0 => |name| loopback(name, "0.4.0");
    loopback_version_1_0_0 => |name| loopback(name, "1.0.0");
    loopback_version_1_1_0 => |name| loopback(name, "1.1.0");
    loopback_behind_a_bridge => |name| Case::new(name, "1.0.0",
        json!([plugin("bridge", json!({"isGateway": true})), {"type": "loopback"}])).short();
}
