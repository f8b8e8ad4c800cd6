//! The keeper of address pools: gives addresses to the containers of this node
//! out of what it holds, and takes more from the ledger before they are needed.

mod journal;
mod keeper;
mod ledger;
mod listen;
mod remote;
mod service;
mod shared;

pub use keeper::{Keeper, Parts, Wire, fresh};
pub use ledger::{Alone, Ledger};
pub use listen::Listener;
pub use shared::{InRedis, Scripts, Shared, Value};

#[cfg(test)]
mod tests;
