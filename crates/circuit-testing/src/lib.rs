//! Test nodes: a network namespace, a containerd and a Circuit daemon of their
//! own, so that a test sees everything and the machine sees nothing of it.
//!
//! ```no_run
//! use circuit_testing::{TestNode, network};
//! let node = TestNode::builder("target/debug/circuit").start();
//! node.create_network("ctr0", &network::bridge("ctr0", "10.255.0.0/16"));
//! node.run_container("shell", &[], &[]);
//! node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
//! node.remove_container("shell");
//! node.assert_nothing_left();
//! ```
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what cannot be set up must fail its test, loudly"
)]

mod bus;
mod certificates;
mod cgroup;
mod collector;
mod command;
mod containerd;
mod containers;
mod cri;
mod daemon;
mod dns;
mod extension;
mod firewalld;
mod history;
mod holder;
mod image;
mod lan;
mod leftovers;
pub mod network;
mod networkd;
mod node;
mod plugins;
mod process;
mod promtool;
mod redis_server;
mod resolved;
mod stops;
mod sweep;
mod udev;

pub use certificates::certificates;
pub use collector::{Collector, Span};
pub use command::{PATIENCE, Ran, wait_for, wait_until};
pub use containerd::Containerd;
pub use containers::{IMAGE, Interface};
pub use dns::CoreDns;
pub use extension::{EXTENSION_KEY, EXTENSION_TYPE};
pub use firewalld::Firewalld;
pub use history::{History, Overlap};
pub use lan::Lan;
pub use leftovers::Leftovers;
pub use networkd::Networkd;
pub use node::{NodeBuilder, TestNode};
pub use plugins::Plugins;
pub use process::Ends;
pub use promtool::promtool;
pub use redis_server::{RedisServer, free_ports};
pub use resolved::Resolved;
pub use stops::Stops;
pub use sweep::new_name;
pub use udev::Udev;
