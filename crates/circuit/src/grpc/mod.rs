//! The gRPC API: where it listens, who may talk to it, and the services that
//! turn messages into calls of core's traits.

mod accept;
mod addresses;
mod authority;
mod containers;
mod doctor;
mod drive;
mod events;
mod front;
pub mod listen;
mod names;
mod networks;
mod outlive;
mod packets;
mod questions;
pub mod serve;
pub mod services;
pub mod status;
pub mod tls;

pub use listen::{Listeners, Security, bind};
pub use serve::serve;
pub use services::{Backends, Services};

/// Serves whatever these bytes are, as from a client that asks for names, for a fuzzer.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    questions::fuzz(bytes);
}
