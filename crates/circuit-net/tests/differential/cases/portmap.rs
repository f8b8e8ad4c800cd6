//! The portmap plugin, behind a bridge.

use serde_json::{Value, json};

use super::{cases, plugin, usual_bridge, with};
use crate::script::{CONTAINER_PORT, Case, mapping};

fn portmap(name: &'static str, keys: Value, ports: Value) -> Case {
    behind(name, "1.0.0", usual_bridge(), keys, ports)
}

fn behind(name: &'static str, version: &str, bridge: Value, keys: Value, ports: Value) -> Case {
    let portmap = with(
        json!({"type": "portmap", "capabilities": {"portMappings": true}}),
        keys,
    );
    Case::new(name, version, json!([bridge, portmap]))
        .capabilities(json!({"portMappings": ports}), json!({}))
}

fn tcp() -> Value {
    json!([mapping(18080, "tcp")])
}

fn at(host_ip: &str) -> Value {
    json!([with(mapping(18080, "tcp"), json!({"hostIP": host_ip}))])
}

fn bridge_of(subnet: &str, route: &str) -> Value {
    plugin(
        "bridge",
        json!({"isGateway": true, "ipMasq": true, "ipam":
        {"type": "host-local", "subnet": subnet, "routes": [{"dst": route}]}}),
    )
}

cases! {
    portmap_version_0_3_1 => |name| behind(name, "0.3.1", usual_bridge(), json!({}), tcp());
    portmap_version_0_4_0 => |name| behind(name, "0.4.0", usual_bridge(), json!({}), tcp());
    portmap_version_1_0_0 => |name| behind(name, "1.0.0", usual_bridge(), json!({}), tcp());
    portmap_version_1_1_0 => |name| behind(name, "1.1.0", usual_bridge(), json!({}), tcp());
    portmap_ipv4_only => |name| behind(name, "1.0.0", bridge_of("10.88.0.0/24", "0.0.0.0/0"), json!({}), tcp());
    portmap_ipv6_only => |name| behind(name, "1.0.0", bridge_of("fd00:88::/64", "::/0"), json!({}), tcp());
    portmap_many => |name| portmap(name, json!({}),
        json!([mapping(18080, "tcp"), mapping(18081, "udp"), mapping(18082, "TCP"), mapping(18083, "udp")]));
    portmap_as_go_cni_hands_it_over => |name| portmap(name, json!({"SNAT": true, "masqall": true}),
        json!([{"HostPort": 18080, "ContainerPort": CONTAINER_PORT, "Protocol": "tcp", "HostIP": ""}]));
    portmap_none => |name| portmap(name, json!({}), json!([]));
    portmap_at_an_address => |name| portmap(name, json!({}), at("198.51.100.1"));
    portmap_at_an_ipv6_address => |name| portmap(name, json!({}), at("2001:db8:51::1"));
    portmap_at_any_address => |name| portmap(name, json!({}), at("0.0.0.0"));
    portmap_at_any_ipv6_address => |name| portmap(name, json!({}), at("::"));
    portmap_at_localhost => |name| portmap(name, json!({}), at("127.0.0.1"));
    portmap_without_snat => |name| portmap(name, json!({"snat": false}), tcp());
    portmap_masquerade_all => |name| portmap(name, json!({"masqAll": true}), tcp());
    portmap_mark_bit => |name| portmap(name, json!({"markMasqBit": 7}), tcp());
    portmap_mark_bit_out_of_range_is_refused => |name| portmap(name, json!({"markMasqBit": 32}), tcp()).fails().short();
    portmap_with_conditions => |name| portmap(name, json!({"conditionsV4": ["-s", "198.51.100.2"],
        "conditionsV6": ["-s", "2001:db8:51::2"]}), tcp()).left_to_the_stock_plugin();
    portmap_by_iptables => |name| portmap(name, json!({"backend": "iptables"}), tcp()).only_new()
        .left_to_the_stock_plugin();
    portmap_by_nftables => |name| portmap(name, json!({"backend": "nftables"}), tcp()).only_new();
    portmap_by_nftables_with_conditions => |name| portmap(name, json!({"backend": "nftables",
        "conditionsV4": ["ip", "saddr", "198.51.100.2"], "conditionsV6": ["ip6", "saddr", "2001:db8:51::2"]}), tcp())
        .only_new().left_to_the_stock_plugin();
    portmap_by_nftables_of_udp => |name| portmap(name, json!({"backend": "nftables"}),
        json!([mapping(18081, "udp"), mapping(18080, "tcp")])).only_new();
    portmap_by_nftables_without_snat => |name| portmap(name, json!({"backend": "nftables", "snat": false}), tcp())
        .only_new();
    portmap_by_nftables_at_an_address => |name| portmap(name, json!({"backend": "nftables"}), at("198.51.100.1"))
        .only_new();
    portmap_by_something_else_is_refused => |name| portmap(name, json!({"backend": "pf"}), tcp())
        .only_new().fails().short();
    portmap_behind_a_hairpin => |name| behind(name, "1.0.0",
        plugin("bridge", json!({"isGateway": true, "ipMasq": true, "hairpinMode": true})), json!({}), tcp());
    portmap_where_bridged_traffic_is_filtered => |name| portmap(name, json!({}), tcp())
        .prepare("echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables; \
                  echo 1 > /proc/sys/net/bridge/bridge-nf-call-ip6tables");
    portmap_behind_ptp => |name| behind(name, "1.0.0", plugin("ptp", json!({"ipMasq": true})), json!({}), tcp());
    portmap_of_port_0_is_refused => |name| portmap(name, json!({}), json!([mapping(0, "tcp")])).fails().short();
    portmap_of_a_port_too_high_is_refused => |name| portmap(name, json!({}),
        json!([{"hostPort": 70000, "containerPort": 80, "protocol": "tcp"}])).fails().short();
    portmap_of_container_port_0_is_refused => |name| portmap(name, json!({}),
        json!([{"hostPort": 18080, "containerPort": 0, "protocol": "tcp"}])).fails().short();
    portmap_of_no_such_protocol_is_refused => |name| portmap(name, json!({}), json!([mapping(18080, "oops")]))
        .fails().short();
    portmap_at_no_address_is_refused => |name| portmap(name, json!({}), at("oops")).fails().short();
    portmap_alone_is_refused => |name| Case::new(name, "1.0.0",
        json!([{"type": "portmap", "capabilities": {"portMappings": true}}]))
        .capabilities(json!({"portMappings": tcp()}), json!({})).fails().short();
    portmap_of_both_containers => |name| {
        let mut case = portmap(name, json!({}), tcp());
        case.capabilities[1] = json!({"portMappings": [mapping(18090, "tcp")]});
        case
    };
}
