//! Types of devices that this kernel does not have: both sides must fail
//! alike, and leave nothing.

use serde_json::{Value, json};

use super::{cases, plugin};
use crate::script::Case;

fn refused(name: &'static str, kind: &str, keys: Value) -> Case {
    Case::new(name, "1.0.0", json!([plugin(kind, keys)])).fails()
}

cases! {
    ipvlan_fails_without_ipvlan_in_the_kernel => |name| refused(name, "ipvlan", json!({"master": "uplink"}));
    ipvlan_l3_fails_without_ipvlan_in_the_kernel => |name| refused(name, "ipvlan",
        json!({"master": "uplink", "mode": "l3"})).short();
    ipvlan_of_no_such_mode_is_refused => |name| refused(name, "ipvlan",
        json!({"master": "uplink", "mode": "oops"})).short();
    ipvlan_of_no_such_master_is_refused => |name| refused(name, "ipvlan", json!({"master": "nowhere"})).short();
    vlan_fails_without_vlan_in_the_kernel => |name| refused(name, "vlan", json!({"master": "uplink", "vlanId": 5}));
    vlan_without_master_is_refused => |name| refused(name, "vlan", json!({"vlanId": 5})).short();
    vlan_out_of_range_is_refused => |name| refused(name, "vlan", json!({"master": "uplink", "vlanId": 5000})).short();
    vlan_of_no_such_master_is_refused => |name| refused(name, "vlan",
        json!({"master": "nowhere", "vlanId": 5})).short();
    dummy_fails_without_dummy_in_the_kernel => |name| refused(name, "dummy", json!({})).only_new();
    dummy_without_addresses_is_refused => |name| Case::new(name, "1.0.0", json!([{"type": "dummy"}]))
        .fails().only_new().short();
}
