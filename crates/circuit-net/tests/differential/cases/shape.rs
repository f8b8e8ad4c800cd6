//! The bandwidth plugin, behind a bridge.

use serde_json::{Value, json};

use super::{cases, plugin, with};
use crate::script::Case;

fn bandwidth(name: &'static str, version: &str, keys: Value) -> Case {
    let bandwidth = with(
        json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
        keys,
    );
    Case::new(
        name,
        version,
        json!([plugin("bridge", json!({"isGateway": true})), bandwidth]),
    )
}

fn received() -> Value {
    json!({"ingressRate": 8_000_000, "ingressBurst": 800_000})
}

fn sent() -> Value {
    json!({"egressRate": 8_000_000, "egressBurst": 800_000})
}

cases! {
    bandwidth_version_0_3_1 => |name| bandwidth(name, "0.3.1", received());
    bandwidth_version_0_4_0 => |name| bandwidth(name, "0.4.0", received());
    bandwidth_version_1_1_0 => |name| bandwidth(name, "1.1.0", received());
    bandwidth_received => |name| bandwidth(name, "1.0.0", received());
    bandwidth_slow => |name| bandwidth(name, "1.0.0", json!({"ingressRate": 9_600, "ingressBurst": 80_000})).short();
    bandwidth_fast => |name| bandwidth(name, "1.0.0",
        json!({"ingressRate": 80_000_000_000_u64, "ingressBurst": 8_000_000_000_u64})).short();
    bandwidth_of_the_runtime => |name| bandwidth(name, "1.0.0", json!({}))
        .capabilities(json!({"bandwidth": received()}), json!({"bandwidth": {"ingressRate": 4_000_000, "ingressBurst": 400_000}}));
    bandwidth_as_go_cni_hands_it_over => |name| bandwidth(name, "1.0.0", json!({}))
        .capabilities(json!({"bandwidth": {"IngressRate": 8_000_000, "IngressBurst": 800_000, "EgressRate": 4_000_000,
            "EgressBurst": 400_000}}), json!({}));
    bandwidth_of_both => |name| bandwidth(name, "1.0.0", received())
        .capabilities(json!({"bandwidth": {"ingressRate": 4_000_000, "ingressBurst": 400_000}}), json!({}));
    bandwidth_without_limits => |name| bandwidth(name, "1.0.0", json!({}));
    bandwidth_of_nothing => |name| bandwidth(name, "1.0.0", json!({"ingressRate": 0, "ingressBurst": 0})).short();
    bandwidth_sent => |name| bandwidth(name, "1.0.0", sent());
    bandwidth_both_ways => |name| bandwidth(name, "1.0.0", with(received(), sent()));
    bandwidth_without_burst_is_refused => |name| bandwidth(name, "1.0.0", json!({"ingressRate": 8_000}))
        .fails().short();
    bandwidth_without_rate_is_refused => |name| bandwidth(name, "1.0.0", json!({"egressBurst": 8_000}))
        .fails().short();
    bandwidth_burst_too_large_is_refused => |name| bandwidth(name, "1.0.0",
        json!({"ingressRate": 8_000, "ingressBurst": 40_000_000_000_u64})).fails().short();
    bandwidth_alone_is_refused => |name| Case::new(name, "1.0.0", json!([with(json!({"type": "bandwidth"}),
        received())])).fails().short();
}
