//! The gRPC API of Circuit, package `io.circuit.v1`, and the service that CoreDNS
//! calls: messages, services and clients generated from `proto/`.

pub mod address;
pub mod client;
mod tls;

pub use address::{ListenAddress, Target};
pub use client::{ClientOptions, ConnectError, LARGEST_ANSWER, TlsOptions, connect};

/// Generated messages, client and server of what CoreDNS calls.
pub mod coredns {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    tonic::include_proto!("coredns.dns");
}

/// Generated messages, clients and servers of package `io.circuit.v1`.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    tonic::include_proto!("io.circuit.v1");

    /// The encoded `FileDescriptorSet`, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        tonic::include_file_descriptor_set!("circuit.descriptor");
}
