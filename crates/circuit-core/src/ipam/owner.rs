//! Who has an address on a node.

use serde::{Deserialize, Serialize};

/// An interface of a container, as CNI names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct User {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// What an address is used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Whose it is.
    #[serde(flatten)]
    pub user: User,
    /// The network it was given for; several may share a pool.
    pub network: String,
}
