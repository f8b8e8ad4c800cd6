//! The keeper of address pools: gives addresses to the containers of this node
//! out of what it holds, and takes more from the ledger before they are needed.

mod answered;
mod clock;
mod journal;
mod keeper;
mod ledger;
mod listen;
mod remote;
mod role;
mod service;
mod shared;
mod wire;

pub use clock::fresh;
pub use keeper::{Keeper, Parts};
pub use ledger::{Alone, Ledger};
pub use listen::Listener;
pub use service::Account;
pub use shared::{InRedis, Scripts, Shared, Value};
pub use wire::Wire;

#[cfg(test)]
mod tests;
