//! What the driver of `circuit` and the keeper of the pools say to each other:
//! one JSON object in a line each.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AddressSet, User};
use crate::cni::{AnyCase as _, JsonObject};

/// Where the keeper listens.
pub const DEFAULT_SOCKET: &str = "/run/circuit/ipam.sock";

/// The socket that a configuration of `circuit` names: as everywhere, `null` and an empty
/// text are none.
pub fn named_socket(ipam: &JsonObject) -> Option<&Value> {
    let named = |value: &&Value| !value.is_null() && value.as_str() != Some("");
    ipam.find("socket").filter(named)
}

/// What the driver asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Question {
    /// An address of each set.
    Add(Wanted),
    /// No more address for this interface.
    Del {
        /// The pool.
        pool: String,
        /// Whose.
        user: User,
    },
    /// Whether the interface has these addresses.
    Check {
        /// The pool.
        pool: String,
        /// Whose.
        user: User,
    },
    /// Whether addresses could be given.
    Status {
        /// The pool.
        pool: String,
        /// What of it.
        sets: Vec<AddressSet>,
    },
    /// Only these interfaces of a network have addresses.
    Gc {
        /// The pool.
        pool: String,
        /// The network.
        network: String,
        /// Those that have.
        valid: Vec<User>,
    },
}

/// What is wanted for an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The pool.
    pub pool: String,
    /// The network.
    pub network: String,
    /// For whom.
    pub user: User,
    /// One address is given out of each.
    pub sets: Vec<AddressSet>,
    /// Addresses that it must be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wishes: Vec<IpAddr>,
    /// The host's interface on the wire that the addresses are for: a parent
    /// or a bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// That wire is one that cannot be asked, such as a VLAN's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unasked: bool,
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// The addresses, one of each set.
    Addresses(Vec<IpAddr>),
    /// Done, or so it is.
    Done,
    /// Not done, and why.
    Failed(String),
    /// Not done: trying again later can help.
    Later(String),
}
