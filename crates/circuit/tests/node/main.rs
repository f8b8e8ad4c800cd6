//! The black-box suite: the built binary on real nodes, each with its own
//! network namespace, containerd and daemon. Takes root; see CONTRIBUTING.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod access;
mod api;
mod attach;
mod cli;
mod cluster;
mod cluster_kinds;
mod cluster_steady;
mod cni_runtimes;
mod contained;
mod crash;
mod dhcp;
mod disk;
mod dns;
mod dns_cluster;
mod dns_servers;
mod doctor;
mod everyday;
mod firewalld;
mod hindered;
mod labels;
mod load;
mod main_job;
mod metrics;
mod native;
mod neighbours;
mod nerdctl;
mod networkd;
mod networks;
mod original;
mod original_cluster;
mod owed;
mod picture;
mod plugins;
mod pools;
mod reconcile;
mod resolved;
mod restart;
mod restart_policies;
mod returning;
mod rootless;
mod routers;
mod runtime;
mod shared;
mod support;
mod taken_away;
mod traces;
mod udev;
mod unit;

use circuit_testing::{NodeBuilder, Plugins, TestNode};

/// A node that runs the binary under test.
fn node() -> NodeBuilder {
    TestNode::builder(env!("CARGO_BIN_EXE_circuit"))
}

/// A node whose networks are made by the stock plugins of that version.
fn node_with(plugins: Plugins) -> NodeBuilder {
    node().plugins(plugins).server(&["--data-path", "exec"])
}

/// Makes two tests of a function that takes the node's builder, which needs
/// the stock plugins: on both versions of them.
#[macro_export]
macro_rules! on_both_plugins {
    ($($name:ident),+ $(,)?) => {
        mod plugins_1_1 {
            $(#[test] fn $name() { super::$name($crate::node_with($crate::Plugins::System)); })+
        }
        mod plugins_1_9 {
            $(#[test] fn $name() { super::$name($crate::node_with($crate::Plugins::Newer)); })+
        }
    };
}

/// Makes three tests of a function that takes the node's builder: on both
/// versions of the stock plugins, and on the native drivers without any.
#[macro_export]
macro_rules! on_every_data_path {
    ($($name:ident),+ $(,)?) => {
        mod plugins_1_1 {
            $(#[test] fn $name() { super::$name($crate::node_with($crate::Plugins::System)); })+
        }
        mod plugins_1_9 {
            $(#[test] fn $name() { super::$name($crate::node_with($crate::Plugins::Newer)); })+
        }
        mod native {
            $(#[test] fn $name() { super::$name($crate::node().plugins($crate::Plugins::None)); })+
        }
    };
}
