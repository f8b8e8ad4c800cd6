//! The services and messages of the original Circuit, as programs know them that
//! exist: what stands here never changes, whatever is added to it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeSet;

use circuit_api::v1::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Each call with its request and its answer, neither of them a stream.
const CALLS: &str = "
Circuit/CreateNetwork CreateNetworkRequest google.protobuf.Empty
Circuit/ListNetworks ListNetworksRequest ListNetworksResponse
Circuit/GetNetwork GetNetworkRequest GetNetworkResponse
Circuit/DeleteNetwork DeleteNetworkRequest google.protobuf.Empty
Circuit/Connect ConnectRequest ConnectResponse
Circuit/Disconnect DisconnectRequest google.protobuf.Empty
Circuit/GetContainerIPs GetContainerIPsRequest GetContainerIPsResponse
Cluster/Nodes NodesRequest NodesResponse
";

/// Each field: its message, number, name and type.
const FIELDS: &str = "
CreateNetworkRequest 1 name string
CreateNetworkRequest 2 data bytes
ListNetworksResponse 1 networks repeated Network
Network 1 name string
Network 3 data bytes
GetNetworkRequest 1 name string
GetNetworkResponse 1 network Network
DeleteNetworkRequest 1 name string
ConnectRequest 1 container string
ConnectRequest 2 network string
ConnectResponse 1 ip string
DisconnectRequest 1 network string
DisconnectRequest 2 container string
GetContainerIPsRequest 1 container string
GetContainerIPsRequest 2 network string
GetContainerIPsResponse 1 ips repeated ContainerIP
ContainerIP 1 network string
ContainerIP 2 ip string
ContainerIP 3 interface string
NodesResponse 1 nodes repeated NodeInfo
NodeInfo 1 name string
NodeInfo 2 version string
NodeInfo 3 cpus int64
NodeInfo 4 memory uint64
NodeInfo 5 uptime uint64
NodeInfo 6 kernel_version string
NetworkConfig 1 networks repeated NetworkConfig.NetworksEntry
NetworkConfig.NetworksEntry 1 key string
NetworkConfig.NetworksEntry 2 value ContainerNetworkConfig
ContainerNetworkConfig 1 interface string
ContainerNetworkConfig 2 ip string
ClusterRequest 1 channel string
ClusterRequest 2 request google.protobuf.Any
OpComplete 1 node string
ContainerIPQuery 1 channel string
ContainerIPQuery 2 container string
";

/// Messages without fields.
const EMPTY: [&str; 2] = ["ListNetworksRequest", "NodesRequest"];

/// A name of the package as it stands in the lists.
fn short(name: &str) -> &str {
    let name = name.trim_start_matches('.');
    name.strip_prefix("io.circuit.v1.").unwrap_or(name)
}

fn kind(field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Int64 => "int64",
        Type::Uint64 => "uint64",
        Type::Message => short(field.type_name()),
        other => other.as_str_name(),
    };
    match field.label() {
        Label::Repeated => format!("repeated {name}"),
        _ => name.to_owned(),
    }
}

/// The lines of a message and of those inside it.
fn fields(message: &DescriptorProto, of: &str, lines: &mut BTreeSet<String>) {
    let name = format!("{of}{}", message.name());
    for field in &message.field {
        let (number, called) = (field.number(), field.name());
        lines.insert(format!("{name} {number} {called} {}", kind(field)));
    }
    for inner in &message.nested_type {
        fields(inner, &format!("{name}."), lines);
    }
}

fn listed(text: &str) -> BTreeSet<String> {
    text.trim().lines().map(str::to_owned).collect()
}

fn ours() -> FileDescriptorSet {
    let mut all = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    all.file.retain(|file| file.package() == "io.circuit.v1");
    all
}

#[test]
fn fields_keep_their_numbers_names_and_types() {
    let (mut there, mut messages) = (BTreeSet::new(), BTreeSet::new());
    for message in ours().file.iter().flat_map(|file| &file.message_type) {
        messages.insert(message.name().to_owned());
        fields(message, "", &mut there);
    }
    let missing: Vec<_> = listed(FIELDS).difference(&there).cloned().collect();
    assert_eq!(missing, [""; 0], "of {there:#?}");
    assert!(EMPTY.iter().all(|name| messages.contains(*name)));
}

#[test]
fn calls_keep_their_names_requests_and_answers() {
    let mut there = BTreeSet::new();
    for service in ours().file.iter().flat_map(|file| &file.service) {
        for call in &service.method {
            let (name, streams) = (
                call.name(),
                call.client_streaming() || call.server_streaming(),
            );
            let (request, answer) = (short(call.input_type()), short(call.output_type()));
            let streams = if streams { " stream" } else { "" };
            there.insert(format!(
                "{}/{name} {request} {answer}{streams}",
                service.name()
            ));
        }
    }
    let missing: Vec<_> = listed(CALLS).difference(&there).cloned().collect();
    assert_eq!(missing, [""; 0], "of {there:#?}");
}
