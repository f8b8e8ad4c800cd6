//! The tuning and sbr plugins.

use serde_json::{Value, json};

use super::{cases, plugin, usual_bridge, with};
use crate::script::{Case, mapping};

fn tuning(name: &'static str, version: &str, keys: Value) -> Case {
    let tuning = with(json!({"type": "tuning"}), keys);
    Case::new(
        name,
        version,
        json!([plugin("bridge", json!({"isGateway": true})), tuning]),
    )
}

fn refused(name: &'static str, keys: Value) -> Case {
    tuning(name, "1.0.0", keys).fails().short()
}

fn everything() -> Value {
    json!({"sysctl": {"net.ipv4.conf.eth0.arp_filter": "1", "net.core.somaxconn": "500"},
        "promisc": true, "mtu": 1400, "allmulti": true, "txQLen": 77})
}

fn sbr(name: &'static str, version: &str, keys: Value) -> Case {
    let sbr = with(json!({"type": "sbr"}), keys);
    Case::new(name, version, json!([usual_bridge(), sbr]))
}

cases! {
    tuning_version_0_3_1 => |name| tuning(name, "0.3.1", json!({"sysctl": {"net.core.somaxconn": "500"}}));
    tuning_version_0_4_0 => |name| tuning(name, "0.4.0", json!({"sysctl": {"net.core.somaxconn": "500"}}));
    tuning_version_1_1_0 => |name| tuning(name, "1.1.0", everything());
    tuning_nothing => |name| tuning(name, "1.0.0", json!({}));
    tuning_everything => |name| tuning(name, "1.0.0", everything()).only_new();
    tuning_sysctl_of_the_interface => |name| tuning(name, "1.0.0",
        json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net/ipv6/conf/IFNAME/hop_limit": "77"}}));
    tuning_sysctl_of_an_interface_with_a_dot => |name| tuning(name, "1.0.0",
        json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}))
        .ifname("net0.5").only_new();
    tuning_mac => |name| tuning(name, "1.0.0", json!({"mac": "02:11:22:33:44:55"})).short();
    tuning_mac_of_the_runtime => |name| tuning(name, "1.0.0", json!({"capabilities": {"mac": true},
        "mac": "02:11:22:33:44:77"}))
        .capabilities(json!({"mac": "02:11:22:33:44:55"}), json!({"mac": "02:11:22:33:44:66"}));
    tuning_mac_of_the_arguments => |name| tuning(name, "1.0.0", json!({}))
        .args("IgnoreUnknown=1;MAC=02:11:22:33:44:55").short();
    tuning_by_arguments_of_the_configuration => |name| tuning(name, "1.0.0", json!({"sysctl": {},
        "args": {"cni": {"mtu": 1350, "promisc": true, "mac": "02:11:22:33:44:55",
                         "sysctl": {"net.core.somaxconn": "501"}}}})).short();
    tuning_promiscuous => |name| tuning(name, "1.0.0", json!({"promisc": true}));
    tuning_allmulti => |name| tuning(name, "1.0.0", json!({"allmulti": true}));
    tuning_no_allmulti => |name| tuning(name, "1.0.0", json!({"allmulti": false})).short();
    tuning_mtu => |name| tuning(name, "1.0.0", json!({"mtu": 1400}));
    tuning_queue => |name| tuning(name, "1.0.0", json!({"txQLen": 55})).only_new();
    tuning_queue_of_nothing => |name| tuning(name, "1.0.0", json!({"txQLen": 0})).only_new().short();
    tuning_folder => |name| tuning(name, "1.0.0", json!({"mtu": 1400, "dataDir": "/run/cni/elsewhere"}));
    tuning_sysctl_of_nothing_is_refused => |name| refused(name, json!({"sysctl": {"net.nowhere.at": "1"}}));
    tuning_sysctl_of_a_wrong_value_is_refused => |name| refused(name,
        json!({"sysctl": {"net.ipv4.conf.eth0.arp_filter": "oops"}}));
    tuning_sysctl_outside_of_net_is_refused => |name| refused(name, json!({"sysctl": {"kernel.domainname": "x"}}));
    tuning_sysctl_by_a_way_around_is_refused => |name| refused(name,
        json!({"sysctl": {"net/ipv4/../../kernel/domainname": "x"}}));
    tuning_mac_that_is_none_is_refused => |name| refused(name, json!({"mac": "oops"}));
    tuning_mtu_too_small_is_refused => |name| refused(name, json!({"mtu": 20}));
    tuning_alone_is_refused => |name| Case::new(name, "1.0.0",
        json!([{"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}])).fails().short();
    tuning_sysctl_that_is_not_on_the_list_is_refused => |name| tuning(name, "1.0.0", json!({"sysctl": {"net.core.somaxconn": "500"}})).fails().short()
        .prepare("mkdir -p /run/etc/cni/tuning; cp -r /etc/passwd /etc/group /etc/protocols /run/etc 2>/dev/null || true; \
                  echo '^net.ipv4.conf.*' > /run/etc/cni/tuning/allowlist.conf; mount --bind /run/etc /etc").only_new();

    sbr_version_0_3_1 => |name| sbr(name, "0.3.1", json!({}));
    sbr_version_0_4_0 => |name| sbr(name, "0.4.0", json!({}));
    sbr_version_1_1_0 => |name| sbr(name, "1.1.0", json!({}));
    sbr_plain => |name| sbr(name, "1.0.0", json!({}));
    sbr_table => |name| sbr(name, "1.0.0", json!({"table": 222})).only_new();
    sbr_ipv4_without_route => |name| Case::new(name, "1.0.0", json!([plugin("bridge", json!({"isGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.88.0.0/24"}})), {"type": "sbr"}]));
    sbr_two_subnets => |name| Case::new(name, "1.0.0", json!([plugin("bridge", json!({"isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "fd00:88::/64"}], [{"subnet": "fd00:89::/64"}]],
                 "routes": [{"dst": "fd00::/8"}]}})), {"type": "sbr"}]));
    sbr_alone_is_refused => |name| Case::new(name, "1.0.0", json!([{"type": "sbr"}])).fails().short();

    everything_in_a_row => |name| Case::new(name, "1.0.0", json!([
        with(usual_bridge(), json!({"mtu": 1450})), {"type": "firewall"},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "mtu": 1400, "promisc": true},
        {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000},
        {"type": "sbr"}, {"type": "portmap", "capabilities": {"portMappings": true}}]))
        .capabilities(json!({"portMappings": [mapping(18080, "tcp")]}), json!({}));
}
