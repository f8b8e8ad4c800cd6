//! The firewall plugin, behind a bridge.

use serde_json::{Value, json};

use super::{cases, plugin, usual_bridge, with};
use crate::script::{Case, mapping};

fn firewall(name: &'static str, version: &str, keys: Value) -> Case {
    let firewall = with(json!({"type": "firewall"}), keys);
    Case::new(name, version, json!([usual_bridge(), firewall]))
}

/// A host that forwards nothing that nobody allows.
const STRICT: &str = "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP";
/// The same with nftables, whose accept is final only in its own table.
const STRICT_NFT: &str = "nft 'add table inet host; add chain inet host forward \
    { type filter hook forward priority 10; policy accept; }'";

cases! {
    firewall_version_0_3_1 => |name| firewall(name, "0.3.1", json!({})).prepare(STRICT).fails().taken_by_ours();
    firewall_version_0_4_0 => |name| firewall(name, "0.4.0", json!({})).prepare(STRICT);
    firewall_version_1_1_0 => |name| firewall(name, "1.1.0", json!({})).prepare(STRICT);
    firewall_open => |name| firewall(name, "1.0.0", json!({}));
    firewall_on_a_strict_host => |name| firewall(name, "1.0.0", json!({})).prepare(STRICT);
    firewall_beside_nftables => |name| firewall(name, "1.0.0", json!({})).prepare(STRICT_NFT);
    firewall_by_iptables => |name| firewall(name, "1.0.0", json!({"backend": "iptables"})).prepare(STRICT);
    firewall_admin_chain => |name| firewall(name, "1.0.0", json!({"iptablesAdminChainName": "HOUSE-RULES"}))
        .prepare("iptables -P FORWARD DROP; ip6tables -P FORWARD DROP; iptables -N HOUSE-RULES; \
                  iptables -A HOUSE-RULES -s 10.88.0.3 -j DROP");
    firewall_same_bridge => |name| firewall(name, "1.0.0", json!({"ingressPolicy": "same-bridge"}));
    firewall_same_bridge_on_a_strict_host => |name|
        firewall(name, "1.0.0", json!({"ingressPolicy": "same-bridge"})).prepare(STRICT);
    firewall_isolated => |name| firewall(name, "1.0.0", json!({"ingressPolicy": "isolated"})).only_new();
    firewall_no_such_policy_is_refused => |name| firewall(name, "1.0.0", json!({"ingressPolicy": "oops"}))
        .fails().short();
    firewall_no_such_backend_is_passed_over => |name| firewall(name, "1.0.0", json!({"backend": "oops"})).short();
    firewall_by_firewalld_that_does_not_run_is_refused => |name|
        firewall(name, "1.0.0", json!({"backend": "firewalld"})).fails().short();
    firewall_alone_is_refused => |name| Case::new(name, "1.0.0", json!([{"type": "firewall"}])).fails().short();
    firewall_with_ports_on_a_strict_host => |name| Case::new(name, "1.0.0", json!([usual_bridge(),
        {"type": "firewall"}, {"type": "portmap", "capabilities": {"portMappings": true}}])).prepare(STRICT)
        .capabilities(json!({"portMappings": [mapping(18080, "tcp")]}), json!({}));
    firewall_behind_ptp => |name| Case::new(name, "1.0.0",
        json!([plugin("ptp", json!({"ipMasq": true})), {"type": "firewall"}])).prepare(STRICT);
}
