//! What nodes and the ledger say to each other.

use std::net::IpAddr;

use super::AddressSet;

/// How long things take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A node that is not heard of for so long is away.
    pub lease: u64,
    /// The addresses of a node that is away for longer than this are taken
    /// back.
    pub grace: u64,
    /// How long every node that is up needs to call.
    pub moment: u64,
}

impl Timing {
    /// How long a claim holds that is not renewed.
    pub fn claim(&self) -> u64 {
        self.lease.saturating_add(self.grace)
    }

    /// How old the last renewal may be for a node to give out addresses that
    /// nobody uses yet: half of the time, so that neither a slow disk nor
    /// a clock that is off by some percent lets a node give what it has lost.
    pub fn trusted(&self) -> u64 {
        self.claim() / 2
    }
}

/// Who calls, and what it remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The node's lasting id.
    pub node: String,
    /// Its name, for people.
    pub name: String,
    /// The epoch it was told last; empty when it never was.
    pub epoch: String,
    /// The highest count it was told in that epoch.
    pub count: u64,
    /// An epoch, should a new one be needed.
    pub fresh: String,
    /// What tells its state folder on this boot of its machine from every copy of it.
    pub place: String,
}

/// How the ledger stands; with every answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its epoch.
    pub epoch: String,
    /// How much it ever gave.
    pub count: u64,
    /// For how many more milliseconds nothing is given.
    pub settling: u64,
    /// Whether what is given is suspect.
    pub suspect: bool,
    /// For how many milliseconds it has had its memory: what was given before may be lost.
    pub age: u64,
    /// The name of a host that called by the same node id within a lease, from another
    /// place: nothing is done for who asks.
    pub taken: Option<String>,
}

/// The answer to the call that a node makes all the time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tick {
    /// How the ledger stands.
    pub standing: Standing,
    /// Whether the node's claim still held.
    pub known: bool,
    /// How many addresses are the node's.
    pub held: u64,
    /// Whether the node called from another place the last time, longer ago.
    pub moved: bool,
    /// Pools that somebody needs addresses of.
    pub wanted: Vec<String>,
    /// Addresses of the node that others have claimed since its last call, with their
    /// pools.
    pub disputed: Vec<(String, IpAddr)>,
}

/// A wish for any addresses.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The pool.
    pub pool: &'a str,
    /// What of it.
    pub set: &'a AddressSet,
    /// As many at most.
    pub want: usize,
    /// As many at most are told of that were taken back from nodes that are away.
    pub abandoned: usize,
}

/// The answer to a wish for any address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// How the ledger stands.
    pub standing: Standing,
    /// These are the node's now.
    pub addresses: Vec<IpAddr>,
    /// These are nobody's, and a node that is away had them: to be had one by
    /// one, and suspect.
    pub abandoned: Vec<IpAddr>,
    /// How many were looked at; when it is fewer than there are, the next look
    /// goes on where this one ended.
    pub looked_at: u64,
}

/// The answer to a wish for one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exact {
    /// It is the node's now, or was before.
    Yours {
        /// A node that is away had it. Or the node itself, which asks only for what it
        /// does not know to be its own: an answer was lost, or what it has written.
        suspect: bool,
    },
    /// Another node, of this id, has it.
    Held(String),
    /// Nothing is given yet.
    Settling,
}

/// An address as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The pool.
    pub pool: String,
    /// The address.
    pub address: IpAddr,
    /// The id of the node that holds it, or held it last.
    pub node: String,
    /// That node's name.
    pub name: String,
    /// True when it was taken back from that node.
    pub abandoned: bool,
    /// For how long that node's claim holds, in milliseconds; 0 when it does
    /// not.
    pub claim: u64,
    /// What that node told of its use, as JSON; empty when it is free.
    pub used: String,
}
