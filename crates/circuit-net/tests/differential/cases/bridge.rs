//! The bridge plugin.

use serde_json::{Value, json};

use super::{cases, dual, plugin, subnet, usual_bridge, with};
use crate::script::Case;

/// A bridge alone, in a version that all sides speak.
fn bridge(name: &'static str, keys: Value) -> Case {
    Case::new(name, "1.0.0", json!([plugin("bridge", keys)]))
}

/// As [`bridge`], but refused by all.
fn refused(name: &'static str, keys: Value) -> Case {
    bridge(name, keys).fails().short()
}

/// A bridge without addresses.
fn layer2(name: &'static str, keys: Value) -> Case {
    let plugin = with(json!({"type": "bridge"}), keys);
    Case::new(name, "1.0.0", json!([plugin]))
}

fn version(name: &'static str, version: &str) -> Case {
    Case::new(name, version, json!([usual_bridge()]))
}

/// A bridge that is the gateway, with these addresses.
fn gateway(name: &'static str, ipam: Value) -> Case {
    bridge(name, json!({"isGateway": true, "ipam": ipam}))
}

/// A bridge that is there already, with another address.
const EXISTING: &str = "ip link add br7 type bridge; ip addr add 10.88.9.1/16 dev br7; \
                        ip addr add fd00:88::7/64 dev br7 nodad; ip link set br7 mtu 1420 up";

cases! {
    bridge_version_0_3_1 => |name| version(name, "0.3.1");
    bridge_version_0_4_0 => |name| version(name, "0.4.0");
    bridge_version_1_0_0 => |name| version(name, "1.0.0");
    bridge_version_1_1_0 => |name| version(name, "1.1.0");
    bridge_in_other_letters => |name| bridge(name, json!({"isgateway": true, "IPMASQ": true, "MTU": 1400,
        "hairpinmode": true, "ipam": {"Type": "host-local", "RANGES": [[{"Subnet": "10.88.0.0/24", "rangestart": "10.88.0.7"}]],
        "Routes": [{"Dst": "0.0.0.0/0"}]}}));
    bridge_plain => |name| bridge(name, json!({}));
    bridge_gateway => |name| bridge(name, json!({"isGateway": true}));
    bridge_default_gateway => |name| bridge(name, json!({"isDefaultGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]]}}));
    bridge_default_gateway_beside_a_route => |name| bridge(name, json!({"isDefaultGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.88.0.0/24",
                 "routes": [{"dst": "0.0.0.0/0", "gw": "10.88.0.9"}, {"dst": "192.0.2.0/24", "gw": "10.88.0.7"}]}}));
    bridge_masquerade_without_gateway => |name| bridge(name, json!({"ipMasq": true}));
    bridge_masquerade_by_iptables => |name| bridge(name, json!({"isGateway": true, "ipMasq": true,
        "ipMasqBackend": "iptables"})).only_new().left_to_the_stock_plugin();
    bridge_masquerade_by_nftables => |name| bridge(name, json!({"isGateway": true, "ipMasq": true,
        "ipMasqBackend": "nftables"})).only_new();
    bridge_masquerade_by_something_else_is_refused => |name| refused(name, json!({"ipMasq": true,
        "ipMasqBackend": "pf"})).only_new();
    bridge_ipv6_only => |name| bridge(name, json!({"isDefaultGateway": true, "ipMasq": true,
        "ipam": subnet("fd00:88::/64")}));
    bridge_hairpin => |name| bridge(name, json!({"isGateway": true, "hairpinMode": true}));
    bridge_promiscuous => |name| bridge(name, json!({"isGateway": true, "promiscMode": true}));
    bridge_hairpin_and_promiscuous_is_refused => |name| refused(name,
        json!({"hairpinMode": true, "promiscMode": true}));
    bridge_mtu => |name| bridge(name, json!({"isGateway": true, "mtu": 1400}));
    bridge_mtu_too_small_is_refused => |name| refused(name, json!({"mtu": 20}));
    bridge_of_another_name => |name| bridge(name, json!({"bridge": "br-0123456789a", "isGateway": true}))
        .ifname("net0.1");
    bridge_of_a_name_too_long_is_refused => |name| refused(name, json!({"bridge": "br-0123456789abcdef"}));
    bridge_existing => |name| bridge(name, json!({"bridge": "br7", "mtu": 1300})).prepare(EXISTING);
    bridge_existing_with_another_address_is_refused => |name|
        refused(name, json!({"bridge": "br7", "isGateway": true})).prepare(EXISTING);
    bridge_existing_force_address => |name| bridge(name, json!({"bridge": "br7", "isGateway": true,
        "forceAddress": true})).prepare(EXISTING);
    bridge_name_of_something_else_is_refused => |name| refused(name, json!({"bridge": "uplink"}));
    bridge_vlan_is_refused_without_vlan_filtering_in_the_kernel => |name| refused(name,
        json!({"vlan": 100, "isGateway": true}));
    bridge_vlan_trunk_is_refused_without_vlan_filtering_in_the_kernel => |name| refused(name,
        json!({"vlanTrunk": [{"minID": 10, "maxID": 12}, {"id": 20}]})).only_new();
    bridge_empty_vlan_trunk_is_refused_without_vlan_filtering_in_the_kernel => |name| bridge(name, json!({"vlanTrunk": []})).fails().short().only_new();
    bridge_preserve_default_vlan_alone => |name| bridge(name, json!({"preserveDefaultVlan": true})).short();
    bridge_vlan_out_of_range_is_refused => |name| refused(name, json!({"vlan": 4095}));
    bridge_vlan_out_of_range_is_refused_and_forgotten => |name| Case::new(name, "1.1.0",
        json!([plugin("bridge", json!({"vlan": 9999, "ipMasq": true}))])).fails();
    bridge_vlan_trunk_without_end_is_refused => |name| refused(name, json!({"vlanTrunk": [{"minID": 3}]})).only_new();
    bridge_vlan_trunk_backwards_is_refused => |name| refused(name,
        json!({"vlanTrunk": [{"minID": 5, "maxID": 3}]})).only_new();
    bridge_vlan_trunk_out_of_range_is_refused => |name| refused(name, json!({"vlanTrunk": [{"id": 0}]})).only_new();
    bridge_mac_spoof_check => |name| bridge(name, json!({"isGateway": true, "macspoofchk": true}))
        .left_to_the_stock_plugin();
    bridge_dad => |name| bridge(name, json!({"isGateway": true, "enabledad": true}));
    bridge_disabled_container_interface => |name| layer2(name, json!({"disableContainerInterface": true})).only_new();
    bridge_disabled_container_interface_with_addresses_is_refused => |name|
        refused(name, json!({"disableContainerInterface": true})).only_new();
    bridge_port_isolation => |name| bridge(name, json!({"isGateway": true, "portIsolation": true})).only_new();
    bridge_layer_2 => |name| layer2(name, json!({}));
    bridge_layer_2_with_everything => |name| layer2(name, json!({"mtu": 1300, "hairpinMode": true,
        "isGateway": true, "ipMasq": true, "dns": {"nameservers": ["192.0.2.1"]}}));
    bridge_mac_of_the_runtime => |name| Case::new(name, "1.0.0", json!([with(usual_bridge(),
        json!({"capabilities": {"mac": true}}))]))
        .capabilities(json!({"mac": "02:11:22:33:44:55"}), json!({"mac": "02:11:22:33:44:66"}));
    bridge_mac_of_the_arguments => |name| bridge(name, json!({"isGateway": true}))
        .args("IgnoreUnknown=1;MAC=02:11:22:33:44:77");
    bridge_mac_of_the_configuration => |name| bridge(name, json!({"isGateway": true,
        "args": {"cni": {"mac": "02:11:22:33:44:88"}}})).args("IgnoreUnknown=1;MAC=02:11:22:33:44:77").short();
    bridge_mac_that_is_none_is_refused => |name| refused(name, json!({"args": {"cni": {"mac": "oops"}}}));
    bridge_unknown_argument_is_refused => |name| refused(name, json!({})).args("FOO=1");
    bridge_dns_of_the_configuration => |name| bridge(name, json!({"isGateway": true, "dns":
        {"nameservers": ["192.0.2.1"], "domain": "example.org", "search": ["a.example"], "options": ["ndots:2"]}}))
        .short();
    bridge_dns_of_a_file => |name| gateway(name, with(dual(), json!({"resolvConf": "/run/resolv.conf"})))
        .prepare("printf '# none\\nnameserver 192.0.2.7\\nsearch a.example b.example\\ndomain c.example\\noptions ndots:1 x\\n' \
                  > /run/resolv.conf").short();
    bridge_two_subnets_of_a_family_are_refused => |name| gateway(name, json!({"type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "10.89.0.0/24"}]]})).fails();
    bridge_two_subnets_of_ipv6 => |name| gateway(name, json!({"type": "host-local",
        "ranges": [[{"subnet": "fd00:88::/64"}], [{"subnet": "fd00:89::/64"}]]}));
    bridge_two_subnets_forced => |name| bridge(name, json!({"isGateway": true, "forceAddress": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "10.89.0.0/24"}]]}}));
    bridge_gateway_of_the_configuration => |name| gateway(name, json!({"type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/24", "gateway": "10.88.0.254"}]], "routes": [{"dst": "0.0.0.0/0"}]}));
    bridge_static_addresses => |name| Case::new(name, "1.0.0", json!([plugin("bridge", json!({"isGateway": true,
        "ipMasq": true, "capabilities": {"ips": true}, "ipam": {"type": "static",
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}))]))
        .capabilities(json!({"ips": ["10.88.3.2/24", "fd00:88::2/64"]}), json!({"ips": ["10.88.3.3/24", "fd00:88::3/64"]}));
    bridge_routes_of_all_kinds => |name| Case::new(name, "1.1.0", json!([plugin("bridge", json!({"isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1300, "advmss": 1200, "priority": 77},
                   {"dst": "192.0.2.0/24", "gw": "10.88.0.9", "table": 100},
                   {"dst": "2001:db8:7::/64", "gw": "fd00:88::9", "priority": 7},
                   {"dst": "::/0", "mtu": 1290}]}}))]));
    bridge_route_to_nowhere_is_refused => |name| gateway(name, with(dual(),
        json!({"routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]}))).fails();
    bridge_one_address_only => |name| gateway(name, json!({"type": "host-local",
        "subnet": "10.88.0.0/24", "rangeStart": "10.88.0.9", "rangeEnd": "10.88.0.9"}));
    bridge_address_management_missing_is_refused => |name| refused(name, json!({"ipam": {"type": "nowhere"}}));
    bridge_without_an_answer_is_refused => |name| refused(name, json!({"isGateway": true,
        "ipam": {"type": "static"}}));
    bridge_keys_of_other_kinds_are_passed_over => |name| bridge(name, json!({"isGateway": true,
        "com.example/key": {"a": [1]}})).short();
    bridge_everything => |name| Case::new(name, "1.1.0", json!([plugin("bridge", json!({"bridge": "br9",
        "isDefaultGateway": true, "forceAddress": true, "ipMasq": true, "ipMasqBackend": "nftables", "mtu": 1380,
        "hairpinMode": true, "enabledad": true, "portIsolation": true,
        "capabilities": {"mac": true, "ips": true},
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]]}}))]))
        .capabilities(json!({"mac": "02:11:22:33:44:55", "ips": ["10.88.0.77"]}), json!({"mac": "02:11:22:33:44:66"}));
}
