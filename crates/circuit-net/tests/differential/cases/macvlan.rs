//! The macvlan and host-device plugins, on the wire to the outside.

use serde_json::{Value, json};

use super::{cases, with};
use crate::script::Case;

/// Addresses on the wire to the outside.
fn on_the_wire() -> Value {
    json!({"type": "host-local", "ranges": [
        [{"subnet": "198.51.100.0/24", "rangeStart": "198.51.100.50", "gateway": "198.51.100.2"}],
        [{"subnet": "2001:db8:51::/64", "rangeStart": "2001:db8:51::50", "gateway": "2001:db8:51::2"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]})
}

fn macvlan(name: &'static str, keys: Value) -> Case {
    let plugin = with(
        json!({"type": "macvlan", "master": "uplink", "ipam": on_the_wire()}),
        keys,
    );
    Case::new(name, "1.0.0", json!([plugin]))
}

fn refused(name: &'static str, keys: Value) -> Case {
    macvlan(name, keys).fails().short()
}

/// Devices to give away, the first with a known hardware address.
const DEVICES: &str =
    "ip link add hd0 type veth peer name hd1; ip link set hd0 address 02:00:00:00:07:00";

fn device(name: &'static str, keys: Value) -> Case {
    Case::new(
        name,
        "1.0.0",
        json!([with(json!({"type": "host-device"}), keys)]),
    )
    .prepare(DEVICES)
}

cases! {
    macvlan_version_0_3_1 => |name| Case::new(name, "0.3.1",
        json!([{"type": "macvlan", "master": "uplink", "ipam": on_the_wire()}]));
    macvlan_version_0_4_0 => |name| Case::new(name, "0.4.0",
        json!([{"type": "macvlan", "master": "uplink", "ipam": on_the_wire()}]));
    macvlan_version_1_1_0 => |name| Case::new(name, "1.1.0",
        json!([{"type": "macvlan", "master": "uplink", "ipam": on_the_wire()}]));
    macvlan_bridge => |name| macvlan(name, json!({"mode": "bridge"}));
    macvlan_private => |name| macvlan(name, json!({"mode": "private"}));
    macvlan_vepa => |name| macvlan(name, json!({"mode": "vepa"}));
    macvlan_passthru => |name| macvlan(name, json!({"mode": "passthru"}));
    macvlan_without_mode => |name| macvlan(name, json!({}));
    macvlan_of_the_default_route => |name| macvlan(name, json!({"master": ""}));
    macvlan_mtu => |name| macvlan(name, json!({"mtu": 1400}));
    macvlan_mtu_of_more_than_its_master_is_refused => |name| refused(name, json!({"mtu": 9000}));
    macvlan_mtu_below_zero_is_refused => |name| refused(name, json!({"mtu": -1}));
    macvlan_broadcast_queue => |name| macvlan(name, json!({"bcqueuelen": 2000})).only_new();
    macvlan_mac_of_the_runtime => |name| macvlan(name, json!({"capabilities": {"mac": true}}))
        .capabilities(json!({"mac": "02:11:22:33:44:55"}), json!({"mac": "02:11:22:33:44:66"}));
    macvlan_mac_of_the_configuration => |name| macvlan(name, json!({"mac": "02:11:22:33:44:88"})).short();
    macvlan_mac_of_the_arguments => |name| macvlan(name, json!({}))
        .args("IgnoreUnknown=1;MAC=02:11:22:33:44:77").short();
    macvlan_mac_that_is_none_is_refused => |name| refused(name, json!({"mac": "oops"}));
    macvlan_layer_2 => |name| Case::new(name, "1.0.0", json!([{"type": "macvlan", "master": "uplink"}]));
    macvlan_dns => |name| macvlan(name, json!({"dns": {"search": ["a.example"]}})).short();
    macvlan_in_the_container => |name| macvlan(name, json!({"master": "in0", "linkInContainer": true,
        "ipam": {"type": "host-local", "subnet": "10.88.0.0/24"}})).only_new()
        .prepare("for ns in one two; do ip -n $ns link add in0 type veth peer name in1; \
                  ip -n $ns link set in0 up; ip -n $ns link set in1 up; done");
    macvlan_of_no_such_master_is_refused => |name| refused(name, json!({"master": "nowhere"}));
    macvlan_of_no_such_mode_is_refused => |name| refused(name, json!({"mode": "loud"}));
    macvlan_address_management_missing_is_refused => |name| refused(name, json!({"ipam": {"type": "nowhere"}}));
    macvlan_without_addresses_left_is_refused => |name| refused(name, json!({"ipam": {"type": "static"}}));

    host_device_by_name => |name| device(name, json!({"device": "hd0"}));
    host_device_by_address => |name| device(name, json!({"hwaddr": "02:00:00:00:07:00"}));
    host_device_by_path_that_is_no_device_is_refused => |name| device(name, json!({"kernelpath": "/sys/devices/virtual/net/hd0"})).fails().short();
    host_device_with_addresses => |name| device(name, json!({"device": "hd0",
        "ipam": {"type": "host-local", "subnet": "10.88.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}}));
    host_device_version_1_1_0 => |name| Case::new(name, "1.1.0",
        json!([{"type": "host-device", "device": "hd0"}])).prepare(DEVICES);
    host_device_of_its_own_name => |name| device(name, json!({"device": "hd0"})).ifname("hd0");
    host_device_that_was_up_with_addresses => |name| Case::new(name, "1.0.0",
        json!([{"type": "host-device", "device": "hd0"}]))
        .prepare(&format!("{DEVICES}; ip addr add 192.0.2.1/24 dev hd0; ip link set hd0 alias mine up"));
    host_device_that_is_not_there_is_refused => |name| device(name, json!({"device": "nowhere"})).fails().short();
    host_device_without_a_device_is_refused => |name| device(name, json!({})).fails().short();
    host_device_of_no_such_address_is_refused => |name| device(name,
        json!({"hwaddr": "02:00:00:00:07:77"})).fails().short();
    host_device_of_no_such_pci_device_is_refused => |name| device(name,
        json!({"pciBusID": "0000:ff:1f.7"})).fails().short();
    host_device_of_no_such_runtime_device_is_refused => |name| device(name,
        json!({"capabilities": {"deviceID": true}, "device": "hd0"}))
        .capabilities(json!({"deviceID": "0000:ff:1f.7"}), json!({})).fails().short();
}
