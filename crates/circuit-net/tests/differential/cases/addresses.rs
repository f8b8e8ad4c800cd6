//! Address management, called by itself: host-local, static, and dhcp as far
//! as there is no daemon.

use serde_json::{Value, json};

use super::{cases, with};
use crate::script::Case;

fn local(name: &'static str, keys: Value) -> Case {
    addresses(name, "1.0.0", with(json!({"type": "host-local"}), keys))
}

fn fixed(name: &'static str, keys: Value) -> Case {
    addresses(name, "1.0.0", with(json!({"type": "static"}), keys))
}

fn addresses(name: &'static str, version: &str, ipam: Value) -> Case {
    let capabilities = json!({"ips": true, "ipRanges": true});
    let plugin = json!({"type": ipam["type"], "ipam": ipam, "capabilities": capabilities});
    Case::new(name, version, json!([plugin]))
}

/// With arguments in the configuration.
fn with_args(mut case: Case, args: Value) -> Case {
    case.list["plugins"][0]["args"] = json!({"cni": args});
    case
}

fn many() -> Value {
    json!({"ranges": [
        [{"subnet": "10.88.0.0/29"}, {"subnet": "10.89.0.0/29", "rangeStart": "10.89.0.3"}],
        [{"subnet": "fd00:88::/64", "rangeStart": "fd00:88::10", "rangeEnd": "fd00:88::20", "gateway": "fd00:88::9"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd00::/8", "gw": "fd00:88::9"}]})
}

fn simple() -> Value {
    json!({"subnet": "10.88.0.0/24"})
}

/// A lease that somebody has, and the last one that was given.
const LEASES: &str = "mkdir -p /var/lib/cni/networks/net; cd /var/lib/cni/networks/net; \
    printf 'other\\r\\neth0' > 10.88.0.2; printf 'other' > 10.88.0.3; printf '10.88.0.3' > last_reserved_ip.0";

cases! {
    host_local_version_0_3_1 => |name| addresses(name, "0.3.1", with(many(), json!({"type": "host-local"})));
    host_local_version_0_4_0 => |name| addresses(name, "0.4.0", with(many(), json!({"type": "host-local"})));
    host_local_version_1_1_0 => |name| addresses(name, "1.1.0", with(many(), json!({"type": "host-local"})));
    host_local_many_ranges => |name| local(name, many());
    host_local_in_other_letters => |name| local(name, json!({"Subnet": "10.88.0.0/24", "RANGESTART": "10.88.0.7"}))
        .capabilities(json!({"ipRanges": [[{"Subnet": "10.89.0.0/24", "RangeStart": "10.89.0.9"}]]}), json!({}));
    host_local_one_subnet => |name| local(name, simple());
    host_local_start_and_end => |name| local(name,
        json!({"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.7", "rangeEnd": "10.88.0.8"}));
    host_local_subnet_beside_ranges => |name| local(name,
        json!({"subnet": "10.88.0.0/24", "ranges": [[{"subnet": "10.89.0.0/24"}]]}));
    host_local_host_bits_are_refused => |name| local(name, json!({"subnet": "10.88.0.77/24"})).fails();
    host_local_point_to_point => |name| local(name, json!({"subnet": "10.88.0.4/30"}));
    host_local_leases_of_others => |name| local(name, simple()).prepare(LEASES);
    host_local_folder => |name| local(name, with(simple(), json!({"dataDir": "/run/cni/leases"})));
    host_local_resolv_conf => |name| local(name, with(simple(), json!({"resolvConf": "/run/resolv.conf"})))
        .prepare("printf 'nameserver 192.0.2.7\\nnameserver fd00::7\\nsearch a b\\n' > /run/resolv.conf");
    host_local_resolv_conf_missing_is_refused => |name| local(name,
        with(simple(), json!({"resolvConf": "/run/nowhere"}))).fails();
    host_local_asked_by_capability => |name| local(name, many())
        .capabilities(json!({"ips": ["10.89.0.5", "fd00:88::15"]}), json!({"ips": ["10.89.0.5"]})).fails();
    host_local_asked_with_prefix => |name| local(name, simple())
        .capabilities(json!({"ips": ["10.88.0.50/24"]}), json!({}));
    host_local_asked_by_arguments => |name| local(name, simple()).args("IgnoreUnknown=1;IP=10.88.0.99");
    host_local_asked_by_configuration => |name| with_args(local(name, simple()), json!({"ips": ["10.88.0.98"]}));
    host_local_asked_for_the_gateway_is_refused => |name| local(name, simple())
        .capabilities(json!({"ips": ["10.88.0.1"]}), json!({})).fails();
    host_local_asked_for_another_subnet_is_refused => |name| local(name, simple())
        .capabilities(json!({"ips": ["10.99.0.1"]}), json!({})).fails();
    host_local_asked_for_a_lease_of_others_is_refused => |name| local(name, simple())
        .capabilities(json!({"ips": ["10.88.0.2"]}), json!({})).prepare(LEASES).fails();
    host_local_asked_for_nonsense_is_refused => |name| local(name, simple())
        .capabilities(json!({"ips": ["oops"]}), json!({})).fails();
    host_local_ranges_of_the_runtime => |name| local(name, simple())
        .capabilities(json!({"ipRanges": [[{"subnet": "10.90.0.0/24"}], [{"subnet": "fd00:90::/64"}]]}), json!({}));
    host_local_ranges_of_the_runtime_only => |name| local(name, json!({}))
        .capabilities(json!({"ipRanges": [[{"subnet": "10.90.0.0/24"}]]}),
                      json!({"ipRanges": [[{"subnet": "10.90.0.0/24"}]]}));
    host_local_used_up => |name| local(name,
        json!({"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.9", "rangeEnd": "10.88.0.9"}));
    host_local_without_ranges_is_refused => |name| local(name, json!({})).fails().short();
    host_local_overlap_is_refused => |name| local(name,
        json!({"ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "10.88.0.0/16"}]]})).fails().short();
    host_local_mixed_range_is_refused => |name| local(name,
        json!({"ranges": [[{"subnet": "10.88.0.0/24"}, {"subnet": "fd00:88::/64"}]]})).fails().short();
    host_local_empty_range_is_refused => |name| local(name, json!({"ranges": [[]]})).fails().short();
    host_local_tiny_subnet_is_refused => |name| local(name, json!({"subnet": "10.88.0.0/31"})).fails().short();
    host_local_no_subnet_is_refused => |name| local(name, json!({"subnet": "oops"})).fails().short();
    host_local_start_outside_is_refused => |name| local(name,
        json!({"subnet": "10.88.0.0/24", "rangeStart": "10.89.0.1"})).fails().short();
    host_local_end_before_start_is_refused => |name| local(name,
        json!({"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.9", "rangeEnd": "10.88.0.8"})).fails().short();
    host_local_gateway_outside => |name| local(name,
        json!({"subnet": "10.88.0.0/24", "gateway": "10.89.0.1"})).may_fail().taken_by_ours().short();
    host_local_gateway_in_the_middle => |name| local(name,
        json!({"subnet": "10.88.0.0/29", "gateway": "10.88.0.3"}));

    static_version_0_3_1 => |name| addresses(name, "0.3.1", fixed_addresses());
    static_version_0_4_0 => |name| addresses(name, "0.4.0", fixed_addresses());
    static_version_1_1_0 => |name| addresses(name, "1.1.0", fixed_addresses());
    static_addresses => |name| addresses(name, "1.0.0", fixed_addresses());
    static_by_capability => |name| fixed(name, json!({"routes": [{"dst": "0.0.0.0/0", "gw": "10.88.0.1"}]}))
        .capabilities(json!({"ips": ["10.88.0.5/24", "fd00:88::5/64"]}), json!({"ips": ["10.88.0.6/24"]}));
    static_by_arguments => |name| fixed(name, json!({"addresses": [{"address": "10.88.0.2/24"}]}))
        .args("IgnoreUnknown=1;IP=10.88.0.7/24,fd00:88::7/64;GATEWAY=10.88.0.1,fd00:88::1");
    static_by_configuration => |name| with_args(fixed(name, json!({})), json!({"ips": ["10.88.0.8/24"]}));
    static_by_all => |name| with_args(fixed(name, json!({"addresses": [{"address": "10.88.0.2/24"}]})),
        json!({"ips": ["10.88.0.8/24"]})).args("IgnoreUnknown=1;IP=10.88.0.7/24")
        .capabilities(json!({"ips": ["10.88.0.9/24"]}), json!({}));
    static_without_addresses_gives_none => |name| fixed(name, json!({})).short();
    static_without_prefix_is_refused => |name| fixed(name,
        json!({"addresses": [{"address": "10.88.0.2"}]})).fails().short();
    static_nonsense_is_refused => |name| fixed(name, json!({"addresses": [{"address": "oops"}]})).fails().short();

    dhcp_without_daemon_is_refused => |name| addresses(name, "1.0.0", json!({"type": "dhcp"})).fails().short();
}

fn fixed_addresses() -> Value {
    json!({"type": "static",
        "addresses": [{"address": "10.88.0.2/24", "gateway": "10.88.0.1"}, {"address": "fd00:88::2/64"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd00::/8", "gw": "fd00:88::9"}],
        "dns": {"nameservers": ["192.0.2.1"], "domain": "example.org", "search": ["a.example"], "options": ["x"]}})
}
