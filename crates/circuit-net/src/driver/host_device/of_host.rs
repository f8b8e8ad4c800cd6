//! What the host has on a device: addresses, routes, and rules that lead to these. The
//! container gets it with the device, where the configuration says so.
//!
//! What came from a router's advertisements is not taken along, nor are IPv6 addresses
//! that are leased: the container gets its own.

use std::cmp::Reverse;
use std::net::IpAddr;

use circuit_core::cni::{CniResult, IpConfig, Route};
use ipnet::IpNet;

use crate::driver::Answer;
use crate::driver::configure::{no_address, refused, settle};
use crate::netlink::rules::{self, LinkRoute, Rule};
use crate::netlink::{Address, AddressSpec, Link, Message, Netlink, NetlinkError};

/// The table of the host's own addresses, which the kernel keeps.
const LOCAL_TABLE: u32 = 255;

const RTPROT_KERNEL: u8 = 2;
const RTPROT_RA: u8 = 9;
const RT_SCOPE_UNIVERSE: u8 = 0;

/// The addresses, routes and rules of a device.
pub(super) struct OfHost {
    addresses: Vec<IpNet>,
    routes: Vec<LinkRoute>,
    rules: Vec<Rule>,
}

impl OfHost {
    /// Reads those of a device, in the namespace of the socket.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(super) fn read(socket: &mut Netlink, device: &Link) -> Answer<Self> {
        let unread = |e: NetlinkError| {
            let name = &device.name;
            refused(format_args!("read the addresses and routes of {name}"), &e)
        };
        let addresses = socket.addresses(device.index).map_err(unread)?;
        let addresses = addresses.iter().filter(|address| is_its_own(address));
        let addresses: Vec<IpNet> = addresses.map(|address| address.address).collect();
        let mut routes = rules::all_link_routes(socket, device.index).map_err(unread)?;
        routes.retain(is_set);
        let mut rules = rules::rules(socket).map_err(unread)?;
        rules.retain(|rule| leads(rule, &addresses, &routes));
        Ok(Self {
            addresses,
            routes,
            rules,
        })
    }

    /// Gives an interface all of it, in the namespace of the socket; what is there
    /// already stays.
    ///
    /// # Errors
    /// The first that the kernel refuses.
    pub(super) fn give(&self, socket: &mut Netlink, name: &str, index: u32) -> Answer<()> {
        let add = |address: &IpNet| AddressSpec::from(*address).add(index);
        for (answer, address) in send(socket, self.addresses.iter().map(add))?
            .into_iter()
            .zip(&self.addresses)
        {
            answer.map_err(|e| no_address(address.addr(), name, &e))?;
        }
        // The kernel takes no source that somebody else may have.
        let is_v6 = |source: IpAddr| source.is_ipv6();
        if self
            .routes
            .iter()
            .any(|route| route.source.is_some_and(is_v6))
        {
            settle(socket, name, index)?;
        }
        let mut routes: Vec<&LinkRoute> = self.routes.iter().collect();
        // What is on the link has to be known before what lies behind it.
        routes.sort_by_key(|route| Reverse(route.scope));
        let copies = routes.iter().map(|route| route.copy_to_link(index));
        for (answer, route) in send(socket, copies)?.into_iter().zip(&routes) {
            let what = format_args!("add the host's route {} to {name}", route.dst);
            answer.map_err(|e| refused(what, &e))?;
        }
        for (answer, rule) in send(socket, self.rules.iter().map(Rule::addition))?
            .into_iter()
            .zip(&self.rules)
        {
            let what = format_args!("add the host's rule for table {}", rule.table);
            answer.map_err(|e| refused(what, &e))?;
        }
        Ok(())
    }

    /// Removes the rules, which do not go with the interface.
    ///
    /// # Errors
    /// The first that the kernel does not remove, though it is there.
    pub(super) fn remove_rules(&self, socket: &mut Netlink) -> Answer<()> {
        let removals: Vec<Message> = self.rules.iter().map(Rule::removal).collect();
        let removed = socket.carry_out(&removals, &[libc::ENOENT]);
        removed.map_err(|e| refused("remove the rules of the host's device", &e))
    }

    /// Tells of the addresses and routes in a result whose first interface has them.
    pub(super) fn tell(&self, result: &mut CniResult) {
        let ip = |address: &IpNet| IpConfig {
            address: *address,
            gateway: None,
            interface: Some(0),
        };
        result.ips.extend(self.addresses.iter().map(ip));
        let some = |value: u32| (value != 0).then_some(value);
        let route = |route: &LinkRoute| Route {
            priority: some(route.priority),
            table: some(route.table),
            scope: some(route.scope.into()),
            ..Route::new(route.dst, route.gateway)
        };
        result.routes.extend(self.routes.iter().map(route));
    }
}

/// Sends requests; that something is there already is no refusal.
fn send(
    socket: &mut Netlink,
    messages: impl Iterator<Item = Message>,
) -> Answer<Vec<Result<(), NetlinkError>>> {
    let messages: Vec<Message> = messages.collect();
    let answers = socket
        .pipeline(&messages)
        .map_err(|e| refused("use netlink", &e))?;
    let there = |answer: Result<_, NetlinkError>| match answer {
        Err(error) if error.errno() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    };
    Ok(answers.into_iter().map(there).collect())
}

/// Whether somebody gave the device this address. A lease of IPv4 counts: nobody renews
/// it in the container, but its routes are nothing without it.
fn is_its_own(address: &Address) -> bool {
    let lasts = address.permanent || address.address.addr().is_ipv4();
    address.scope == RT_SCOPE_UNIVERSE && lasts
}

/// Whether somebody made this route.
fn is_set(route: &LinkRoute) -> bool {
    let by_kernel = [RTPROT_KERNEL, RTPROT_RA].contains(&route.protocol);
    let link_local = match route.dst {
        IpNet::V6(dst) => dst.prefix_len() > 0 && dst.addr().is_unicast_link_local(),
        IpNet::V4(_) => false,
    };
    route.table != LOCAL_TABLE && !by_kernel && !link_local
}

/// Whether a rule sends what comes from one of the addresses to one of the routes.
fn leads(rule: &Rule, addresses: &[IpNet], routes: &[LinkRoute]) -> bool {
    let covers = |source: IpNet| addresses.iter().any(|it| source.contains(&it.addr()));
    rule.table != LOCAL_TABLE
        && rule.source.is_some_and(covers)
        && routes.iter().any(|route| route.table == rule.table)
}
