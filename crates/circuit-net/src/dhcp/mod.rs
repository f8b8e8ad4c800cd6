//! Addresses from DHCP servers, for containers: a client, and a keeper that
//! renews what it got.
//!
//! [`LeaseKeeper`] is what the stock `dhcp daemon` is, and [`Listener`] speaks
//! its protocol, so that the stock plugin and the driver `dhcp` can use either.
//! A lease costs no thread and no socket: those are opened, in the container's
//! namespace, when something is to be said.

mod client;
mod gob;
mod identity;
mod keeper;
mod lease;
mod listener;
mod options;
mod packet;
mod port;
pub(crate) mod rpc;
mod store;

pub use client::Timing;
pub use identity::HostMark;
pub use keeper::{LeaseKeeper, LeaseRequest, Settings};
pub use lease::Holder;
pub use listener::Listener;

/// Where the stock daemon listens.
pub const DEFAULT_SOCKET: &str = "/run/cni/dhcp.sock";
