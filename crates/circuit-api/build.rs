//! Generates the API's code from `proto/`; needs `protoc`.

use std::{env, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/circuit.proto",
        "proto/cluster.proto",
        "proto/containers.proto",
        "proto/coredns.proto",
        "proto/dns.proto",
        "proto/doctor.proto",
        "proto/events.proto",
        "proto/internal.proto",
        "proto/ipam.proto",
        "proto/networks.proto",
    ];
    let descriptor = PathBuf::from(env::var("OUT_DIR")?).join("circuit.descriptor.bin");
    tonic_prost_build::configure()
        .file_descriptor_set_path(descriptor)
        // The generated `connect(endpoint)` would clash with the RPC of that name.
        .build_transport(false)
        .btree_map(".")
        .compile_protos(&files, &["proto"])?;
    Ok(())
}
