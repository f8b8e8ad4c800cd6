//! A network that nodes share, and a Redis on it.

use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::command::host;
use crate::redis_server::RedisServer;
use crate::{TestNode, sweep};

/// The first node's last byte.
const FIRST: u8 = 11;

/// A switch with nodes on it, in a namespace of its own, and a host on it:
/// 192.0.2.1. Nodes have 192.0.2.11, 192.0.2.12 and so on, on their interface
/// `lan0`.
#[derive(Debug)]
pub struct Lan {
    netns: String,
    next: AtomicU8,
}

/// A node's place on a LAN.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) lan: String,
    pub(crate) number: u8,
}

impl Place {
    /// The switch's port that the node is at.
    fn port(&self) -> String {
        format!("node{}", self.number)
    }

    /// The node's address.
    pub(crate) fn address(&self) -> String {
        format!("192.0.2.{}", self.number)
    }

    /// Plugs a node in; the cable goes with its namespace.
    pub(crate) fn plug(&self, node: &str) {
        let port = self.port();
        let switch = ["link", "add", &port, "netns", &self.lan, "type", "veth"];
        let end = ["peer", "name", "lan0", "netns", node];
        host("ip", &[switch.as_slice(), end.as_slice()].concat()).ok();
        let address = format!("{}/24", self.address());
        for (netns, command) in [
            (
                &*self.lan,
                &["link", "set", &port, "master", "lan", "up"][..],
            ),
            (node, &["addr", "add", &address, "dev", "lan0"]),
            (node, &["link", "set", "lan0", "up"]),
        ] {
            host("ip", &[&["-n", netns], command].concat()).ok();
        }
    }
}

impl Lan {
    /// Makes the switch.
    pub fn new() -> Self {
        let netns = sweep::new_name();
        for command in [
            &["netns", "add", &netns][..],
            &["-n", &netns, "link", "set", "lo", "up"],
            &["-n", &netns, "link", "add", "lan", "type", "bridge"],
            &["-n", &netns, "addr", "add", "192.0.2.1/24", "dev", "lan"],
            &["-n", &netns, "link", "set", "lan", "up"],
        ] {
            host("ip", command).ok();
        }
        Self {
            netns,
            next: AtomicU8::new(FIRST),
        }
    }

    /// A free place.
    pub(crate) fn place(&self) -> Place {
        Place {
            lan: self.netns.clone(),
            number: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// A Redis that nodes reach at 192.0.2.1, on its usual port.
    pub fn redis(&self) -> RedisServer {
        RedisServer::on_lan(&self.netns)
    }

    /// A Redis with these arguments, at 192.0.2.1 too; `DIR` in them is its folder.
    pub fn redis_with(&self, arguments: &[&str]) -> RedisServer {
        RedisServer::with_on_lan(&self.netns, arguments)
    }

    /// A command that will run on the LAN's host.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns));
        command.arg(program);
        command
    }

    /// A Valkey in its place.
    pub fn valkey(&self) -> RedisServer {
        RedisServer::valkey_on_lan(&self.netns)
    }

    /// Loses whatever a node sends and is sent, without the node noticing: its
    /// cable stays plugged in.
    pub fn cut(&self, node: &TestNode) {
        self.set_state(node, "0");
    }

    /// Undoes [`cut`](Self::cut).
    pub fn mend(&self, node: &TestNode) {
        self.set_state(node, "3");
    }

    /// Sets the state of the node's port in the switch: 0 is disabled, 3 is
    /// forwarding.
    fn set_state(&self, node: &TestNode, state: &str) {
        let port = node.place().port();
        let set = ["link", "set", "dev", &port, "state", state];
        host("bridge", &[&["-n", &self.netns][..], &set].concat()).ok();
    }
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        sweep::remove_netns(&self.netns);
    }
}
