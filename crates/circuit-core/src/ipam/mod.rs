//! Addresses that are one pool over all nodes: the pure part.
//!
//! A pool's truth is a *ledger* that says for each address which node holds it;
//! it is in Redis, as scripts, and here as a model, [`ledger::Ledger`], which
//! also serves a node without Redis. A node takes addresses from the ledger a
//! few at a time and gives them to containers by itself, out of its
//! [`Holding`]. What is not in use can go back; what is in use stays the node's
//! until its container lets go of it.

pub mod agent;
mod disputes;
mod holding;
pub mod ledger;
mod moved;
mod owner;
mod span;
mod terms;
mod used_up;
pub mod wire;

pub use agent::{Agent, Duty, Given, Refusal, Trust};
pub use holding::{Entry, Holding, Missing};
pub use moved::Moved;
pub use owner::{Use, User};
pub use span::{AddressSet, Span, from_key, key};
pub use terms::{Exact, Hello, Listed, Standing, Taken, Tick, Timing, Wish};
pub use used_up::UsedUp;
