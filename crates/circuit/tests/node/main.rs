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
mod crash;
mod labels;
mod load;
mod main_job;
mod networks;
mod original;
mod plugins;
mod reconcile;
mod restart;
mod restart_policies;
mod runtime;
mod support;

use circuit_testing::{NodeBuilder, Plugins, TestNode};

/// A node that runs the binary under test.
fn node() -> NodeBuilder {
    TestNode::builder(env!("CARGO_BIN_EXE_circuit"))
}

/// Makes a test for each version of the CNI plugins of a function that takes
/// the node's builder.
#[macro_export]
macro_rules! on_both_plugins {
    ($($name:ident),+ $(,)?) => {
        mod plugins_1_1 {
            $(#[test] fn $name() { super::$name($crate::node()); })+
        }
        mod plugins_1_9 {
            $(#[test] fn $name() { super::$name($crate::node().plugins($crate::Plugins::Newer)); })+
        }
    };
}
