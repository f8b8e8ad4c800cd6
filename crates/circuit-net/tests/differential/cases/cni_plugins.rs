//! What only the stock plugins 1.10.0 do, and of the rest a piece of everything, beside
//! these. `CIRCUIT_DIFFERENTIAL_NEWEST` has all other cases compared with them too.

use serde_json::{Value, json};

use super::{cases, plugin, subnet, usual_bridge, with};
use crate::script::{Case, mapping};

fn bridge(name: &'static str, keys: Value) -> Case {
    Case::new(name, "1.1.0", json!([plugin("bridge", keys)])).with_newest()
}

fn sbr(name: &'static str, keys: Value) -> Case {
    let sbr = with(json!({"type": "sbr"}), keys);
    Case::new(name, "1.0.0", json!([usual_bridge(), sbr])).with_newest()
}

/// As [`sbr`], with addresses that have no gateway.
fn sbr_without_gateway(name: &'static str, keys: Value) -> Case {
    let bridge = plugin(
        "bridge",
        json!({"ipam": {"type": "static", "addresses":
        [{"address": "10.88.0.2/24"}, {"address": "fd00:88::2/64"}]}}),
    );
    let sbr = with(json!({"type": "sbr"}), keys);
    Case::new(name, "1.0.0", json!([bridge, sbr]))
        .with_newest()
        .short()
}

/// A device that the host uses: with addresses of each kind, routes to the link, behind
/// it and in another table, and rules for that one, of which not all belong to the device.
const IN_USE: &str = "ip link add hd0 type veth peer name hd1; \
    ip link set hd0 address 02:00:00:00:07:00; ip link set hd1 up; ip link set hd0 up; \
    ip addr add 10.66.0.7/24 dev hd0; ip addr add 10.67.0.7/32 dev hd0; \
    ip addr add 169.254.7.7/16 dev hd0 scope link; \
    ip addr add fd00:66::7/64 dev hd0 nodad; \
    ip addr add fd00:67::7/64 dev hd0 nodad valid_lft 3600 preferred_lft 1800; \
    ip route add 10.66.9.0/24 via 10.66.0.1 dev hd0 metric 77; \
    ip route add 10.68.0.0/16 dev hd0 scope link; \
    ip route add 10.69.0.0/16 via 10.68.0.1 dev hd0 mtu 1300; \
    ip route add default via 10.66.0.1 dev hd0 metric 500; \
    ip route add default via 10.66.0.1 dev hd0 table 66; \
    ip route add 10.70.0.0/16 via 10.66.0.2 dev hd0 table 4711; \
    ip route add fd00:69::/64 via fd00:66::1 dev hd0; \
    ip route add default via fd00:66::1 dev hd0 table 66; \
    ip route add fd00:71::/64 dev hd0 proto ra; \
    ip rule add from 10.66.0.0/24 table 66 pref 700; \
    ip rule add from 10.67.0.7 table 4711 pref 701; \
    ip rule add from 10.66.0.7 table 99 pref 702; \
    ip rule add from 192.0.2.0/24 table 66 pref 703; \
    ip -6 rule add from fd00:66::7 table 66 pref 704";

fn device(name: &'static str, version: &str, keys: Value) -> Case {
    let plugin = json!({"type": "host-device", "device": "hd0", "useInterfaceNetwork": true});
    Case::new(name, version, json!([with(plugin, keys)]))
        .prepare(IN_USE)
        .with_newest()
}

/// A bridge whose last port was taken out has no hardware address.
const WITHOUT_MAC: &str = "ip link add br7 type bridge; ip link set br7 up; \
    ip link add was type veth peer name it; ip link set was master br7; ip link set was nomaster; \
    ip link del was";

/// A bridge with the gateway's addresses, whose hardware address is its ports'.
const WITH_ADDRESSES: &str = "ip link add br7 type bridge; ip link set br7 up; \
    ip addr add 10.88.0.1/24 dev br7; ip addr add fd00:88::1/64 dev br7 nodad";

cases! {
    newest_bridge => |name| Case::new(name, "1.1.0", json!([usual_bridge()])).with_newest();
    newest_bridge_without_addresses => |name| Case::new(name, "1.1.0", json!([{"type": "bridge"}])).with_newest();
    newest_bridge_that_lost_its_hardware_address => |name| bridge(name, json!({"bridge": "br7", "isGateway": true}))
        .prepare(WITHOUT_MAC);
    newest_bridge_with_addresses_alone => |name| bridge(name, json!({"bridge": "br7", "isGateway": true}))
        .prepare(WITH_ADDRESSES);
    newest_ptp => |name| Case::new(name, "1.0.0", json!([plugin("ptp", json!({"ipMasq": true}))])).with_newest();
    newest_macvlan => |name| Case::new(name, "1.0.0", json!([{"type": "macvlan", "master": "uplink",
        "ipam": subnet("198.51.100.128/25")}])).with_newest();
    newest_vlan_without_addresses_fails_without_vlan_in_the_kernel => |name| Case::new(name, "1.0.0",
        json!([{"type": "vlan", "master": "uplink", "vlanId": 5}])).with_newest().fails();
    newest_portmap_masquerade_all_by_nftables => |name| Case::new(name, "1.0.0", json!([usual_bridge(),
        {"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables", "masqAll": true}]))
        .capabilities(json!({"portMappings": [mapping(18080, "tcp"), mapping(18081, "udp")]}), json!({})).with_newest();
    newest_gateway_outside_is_accepted => |name| Case::new(name, "1.0.0", json!([{"type": "host-local",
        "ipam": {"type": "host-local", "subnet": "10.88.0.0/24", "gateway": "10.89.0.1"}}])).with_newest().fails().taken_by_ours()
        .short();
    newest_everything_in_a_row => |name| Case::new(name, "1.0.0", json!([
        with(usual_bridge(), json!({"mtu": 1450})), {"type": "firewall"},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "mtu": 1400, "promisc": true},
        {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000},
        {"type": "sbr"}, {"type": "portmap", "capabilities": {"portMappings": true}}]))
        .capabilities(json!({"portMappings": [mapping(18080, "tcp")]}), json!({})).with_newest();

    sbr_gateways => |name| sbr(name, json!({"gateways": ["10.88.0.9", "fd00:88::9"]}));
    sbr_gateway_of_one_family => |name| sbr(name, json!({"gateways": ["fd00:88::9"]}));
    sbr_gateway_where_there_was_none => |name| sbr_without_gateway(name, json!({"gateways": ["10.88.0.9", "fd00:88::9"]}));
    sbr_gateways_of_none => |name| sbr(name, json!({"gateways": []}));
    sbr_gateways_with_a_table => |name| sbr(name, json!({"gateways": ["10.88.0.9"], "addSourceHints": true, "table": 222}));
    sbr_source_hints => |name| sbr(name, json!({"addSourceHints": true}));
    sbr_source_hints_without_gateway => |name| sbr_without_gateway(name, json!({"addSourceHints": true}));
    sbr_source_hints_and_gateways => |name| sbr(name, json!({"addSourceHints": true, "gateways": ["10.88.0.9"]}));
    sbr_gateways_of_one_family_are_refused => |name| sbr(name, json!({"gateways": ["10.88.0.8", "10.88.0.9"]})).fails();
    sbr_gateways_of_more_than_two_are_refused => |name| sbr(name,
        json!({"gateways": ["10.88.0.8", "fd00:88::9", "10.88.0.9"]})).fails();
    sbr_gateway_that_is_none_is_refused => |name| sbr(name, json!({"gateways": ["oops"]})).fails();
    sbr_gateway_out_of_reach_is_refused => |name| sbr(name, json!({"gateways": ["10.99.0.9"]})).fails();

    host_device_with_its_network => |name| device(name, "1.1.0", json!({}));
    host_device_with_its_network_version_1_0_0 => |name| device(name, "1.0.0", json!({}));
    host_device_with_its_network_and_more => |name| device(name, "1.1.0", json!({"ipam": {"type": "host-local",
        "subnet": "10.88.0.0/24", "routes": [{"dst": "10.99.0.0/16"}]}, "dns": {"nameservers": ["10.66.0.1"]}}));
    host_device_with_its_network_and_routes_alone => |name| device(name, "1.1.0", json!({"ipam": {"type": "static",
        "routes": [{"dst": "10.99.0.0/16", "gw": "10.66.0.1"}]}}));
    host_device_with_its_network_that_is_down => |name| Case::new(name, "1.0.0", json!([{"type": "host-device",
        "device": "hd0", "useInterfaceNetwork": true}])).with_newest()
        .prepare("ip link add hd0 type veth peer name hd1; ip link set hd0 address 02:00:00:00:07:00; \
                  ip addr add 10.66.0.7/24 dev hd0");
    host_device_without_its_network => |name| device(name, "1.0.0", json!({"useInterfaceNetwork": false}));
    host_device_with_its_network_of_nothing_is_refused => |name| device(name, "1.0.0",
        json!({"device": "nowhere"})).fails().short();
}
