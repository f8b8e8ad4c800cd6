//! Bytes recorded from the original program decode to what they mean, and
//! encode to the same bytes again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use circuit_api::v1::{
    ClusterRequest, ContainerIp, ContainerIpQuery, ContainerNetworkConfig, NetworkConfig, NodeInfo,
    OpComplete,
};
use prost::Message;
use prost_types::Any;
use serde_json::Value;

fn vectors() -> Vec<Value> {
    serde_json::from_str(include_str!("vectors/original-wire.json")).unwrap()
}

/// The vector of that name: its bytes and what they mean.
fn vector(name: &str) -> (Vec<u8>, Value) {
    let all = vectors();
    let found = all
        .iter()
        .find(|vector| vector["name"] == name)
        .unwrap_or_else(|| panic!("no vector {name}"));
    let hex = found["hex"].as_str().unwrap().as_bytes();
    let bytes = hex
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    (bytes, found["means"].clone())
}

fn text(meaning: &Value, key: &str) -> String {
    meaning[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} in {meaning}"))
        .to_owned()
}

/// Decodes a vector that is an `Any` of `M`, compares it with `want`, and
/// encodes it again.
fn check_any<M: Message + Default + PartialEq + std::fmt::Debug>(
    name: &str,
    want: impl FnOnce(&Value) -> M,
) {
    let (bytes, meaning) = vector(name);
    let any = Any::decode(bytes.as_slice()).unwrap();
    assert_eq!(any.type_url, text(&meaning, "Any.type_url"), "{name}");
    let message = M::decode(any.value.as_slice()).unwrap();
    assert_eq!(message, want(&meaning), "{name}");
    let again = Any {
        type_url: any.type_url,
        value: message.encode_to_vec(),
    };
    assert_eq!(again.encode_to_vec(), bytes, "{name}");
}

#[test]
fn every_vector_is_tried() {
    let mut names: Vec<String> = vectors().iter().map(|v| text(v, "name")).collect();
    names.sort();
    let tried = [
        "cluster-complete",
        "cluster-ip",
        "cluster-request",
        "containerd-extension",
        "node-heartbeat",
    ];
    assert_eq!(names, tried);
}

#[test]
fn a_question_to_the_cluster() {
    check_any("cluster-request", |meaning| {
        // Of the query the original fills the container only.
        let query = ContainerIpQuery {
            container: text(meaning, "request.container"),
            ..ContainerIpQuery::default()
        };
        ClusterRequest {
            channel: text(meaning, "channel"),
            request: Some(Any {
                type_url: text(meaning, "request.type_url"),
                value: query.encode_to_vec(),
            }),
        }
    });
}

#[test]
fn an_address_of_another_node() {
    check_any("cluster-ip", |meaning| ContainerIp {
        network: text(meaning, "network"),
        ip: text(meaning, "ip"),
        interface: text(meaning, "interface"),
        ..ContainerIp::default()
    });
}

#[test]
fn the_end_of_a_nodes_answers() {
    check_any("cluster-complete", |meaning| OpComplete {
        node: text(meaning, "node"),
    });
}

#[test]
fn a_heartbeat() {
    check_any("node-heartbeat", |meaning| NodeInfo {
        name: text(meaning, "name"),
        version: text(meaning, "version"),
        cpus: meaning["cpus"].as_i64().unwrap(),
        memory: meaning["memory"].as_u64().unwrap(),
        uptime: meaning["uptime"].as_u64().unwrap(),
        kernel_version: text(meaning, "kernel_version"),
        ..NodeInfo::default()
    });
}

#[test]
fn the_extension_of_a_container() {
    let (bytes, meaning) = vector("containerd-extension");
    let config = NetworkConfig::decode(bytes.as_slice()).unwrap();
    let networks = meaning["networks"].as_object().unwrap();
    assert_eq!(config.networks.len(), networks.len());
    for (name, entry) in networks {
        let want = ContainerNetworkConfig {
            interface: text(entry, "interface"),
            ip: text(entry, "ip"),
        };
        assert_eq!(config.networks[name], want);
    }
    assert_eq!(config.encode_to_vec(), bytes);
}
