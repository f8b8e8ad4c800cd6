//! Circuit: container networking for plain containerd.
#![forbid(unsafe_code)]

pub mod attachments;
pub mod cli;
mod clients;
pub mod containerd;
pub mod daemon;
pub mod datapath;
pub mod dns;
pub mod doctor;
pub mod events;
pub mod figures;
pub mod files;
pub mod grpc;
pub mod ipam;
pub mod logging;
pub mod metrics;
pub mod networks;
pub mod node;
pub mod overview;
mod pages;
pub mod plugin;
pub mod pulse;
pub mod reconciler;
pub mod redis;
pub mod registry;
pub mod state;
pub mod store;
pub mod table;
pub mod text;
pub mod traces;
pub mod web;

pub use circuit_net::{memory, names};

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
