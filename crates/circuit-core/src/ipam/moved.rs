//! A node in another place than before.

use std::net::IpAddr;

/// A move of this node to another place: a copy of it, or what it is a copy of, may have
/// given what is held meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// The ledger has not answered there yet.
    pub unheard: bool,
    /// Until then the wire is asked for what is held.
    pub until: u64,
    /// What was in stock then, and sound, by pool.
    pub stock: Vec<(String, IpAddr)>,
}
