//! Interfaces, addresses and routes: reading them from the kernel, and changing
//! them.
//!
//! [`LinkSpec`], [`AddressSpec`] and [`RouteSpec`] say what is to be and make
//! the requests for it; [`Netlink`] carries requests out one by one, or many at
//! once with [`Netlink::pipeline`]. One interface is looked up by its name or
//! index; lists are for those who want all.

mod address;
mod attributes;
mod batch;
mod change;
mod create;
mod defaults;
mod link;
mod mac;
mod message;
mod netconf;
mod notify;
mod order;
mod port;
mod route;
pub mod rules;
mod socket;
pub mod tc;
mod toward;
mod traffic;

use std::net::IpAddr;
use std::path::Path;

use circuit_core::{Error, Result};
use ipnet::IpNet;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

pub use address::AddressSpec;
pub use attributes::{Reply, attributes};
pub use change::{LinkSpec, delete_link, delete_link_named};
pub use defaults::order_default_routes;
pub use link::{Link, found, get_link, get_link_at};
pub use mac::Mac;
pub use message::Message;
#[cfg(test)]
pub(crate) use notify::OLD_KERNEL;
pub use port::{Vlans, add_vlans, delete_vlans, set_port};
pub use route::{Beside, RouteSpec};
pub use socket::{Netlink, NetlinkError};
pub use toward::{index_toward, interface_toward};
pub use traffic::traffic;

pub(crate) use batch::BatchError;
pub(crate) use create::add_bridge;

/// Who has made a route: a router, by its advertisements.
const RTPROT_RA: u8 = 9;
/// The main routing table.
pub const MAIN_TABLE: u32 = 254;

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The index of the interface.
    pub index: u32,
    /// The address with its prefix length.
    pub address: IpNet,
    /// The scope: 0 is global, 253 link, 254 host.
    pub scope: u8,
    /// Whether it is not known yet that nobody else has it.
    pub tentative: bool,
    /// Whether somebody else was found to have it.
    pub dad_failed: bool,
    /// Whether it stays until it is removed; others are leased, or a router's doing.
    pub permanent: bool,
}

/// One hop of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The destination; prefix length 0 is a default route.
    pub dst: IpNet,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// The name of the outgoing interface.
    pub oif: Option<String>,
    /// The routing table.
    pub table: u32,
    /// Who made it: 2 is the kernel, 3 boot, 4 static.
    pub protocol: u8,
    /// The scope: 0 is global, 253 link.
    pub scope: u8,
    /// The metric.
    pub priority: u32,
    /// Whether it leads somewhere, unlike `blackhole` and its like.
    pub unicast: bool,
}

/// The interfaces of a namespace, of the calling thread's when there is no
/// path.
///
/// # Errors
/// An [`Error`] when the namespace or the kernel cannot be asked.
pub fn links(netns: Option<&Path>) -> Result<Vec<Link>> {
    links_on(&mut Netlink::open(netns)?)
}

/// The addresses of a namespace.
///
/// # Errors
/// As [`links`].
pub fn addresses(netns: Option<&Path>) -> Result<Vec<Address>> {
    let mut socket = Netlink::open(netns)?;
    let replies = socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(replies.iter().filter_map(Reply::address).collect())
}

/// The addresses of the interface of that name; none when there is no such
/// interface.
///
/// # Errors
/// As [`links`].
pub fn addresses_of(netns: Option<&Path>, ifname: &str) -> Result<Vec<IpNet>> {
    let link = links(netns)?.into_iter().find(|link| link.name == ifname);
    let Some(link) = link else {
        return Ok(Vec::new());
    };
    let all = addresses(netns)?;
    Ok(all
        .into_iter()
        .filter(|a| a.index == link.index)
        .map(|a| a.address)
        .collect())
}

/// The addresses in a namespace, each with the name of its interface.
///
/// # Errors
/// As [`links`].
pub fn named_addresses(netns: &Path) -> Result<Vec<(String, IpAddr)>> {
    let mut socket = Netlink::open(Some(netns))?;
    let addresses = socket.all_addresses()?;
    let links = links_on(&mut socket)?;
    let named = |address: Address| {
        let link = links.iter().find(|link| link.index == address.index)?;
        Some((link.name.clone(), address.address.addr()))
    };
    Ok(addresses.into_iter().filter_map(named).collect())
}

/// The routes in the main tables of a namespace, IPv4 first; a route with
/// several hops once for each.
///
/// # Errors
/// As [`links`].
pub fn routes(netns: Option<&Path>) -> Result<Vec<Route>> {
    let mut socket = Netlink::open(netns)?;
    let links = links_on(&mut socket)?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let replies = routes_on(&mut socket, family)?;
        let found = replies.iter().flat_map(|reply| reply.routes(&links));
        routes.extend(found.filter(|route| route.table == MAIN_TABLE));
    }
    Ok(routes)
}

/// The first name of `prefix` and a number that no interface has.
pub fn first_free_interface(links: &[Link], prefix: &str) -> String {
    let free = |name: &String| links.iter().all(|link| link.name != *name);
    // One number more than there are interfaces: one of them is free.
    (0..=links.len())
        .map(|number| format!("{prefix}{number}"))
        .find(free)
        .unwrap_or_else(|| format!("{prefix}{}", links.len()))
}

impl Netlink {
    /// The names of interfaces with a default route of IPv6 that a router has told of
    /// (RFC 4861), in the main table or any other.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn interfaces_of_routers(&mut self) -> Result<Vec<String>> {
        let links = links_on(self)?;
        let replies = routes_on(self, AddressFamily::Inet6)?;
        let routes = replies.iter().flat_map(|reply| reply.routes(&links));
        let told = routes.filter(|it| it.protocol == RTPROT_RA && it.dst.prefix_len() == 0);
        let mut names: Vec<String> = told.filter_map(|route| route.oif).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }
}

fn links_on(socket: &mut Netlink) -> Result<Vec<Link>> {
    let replies = socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(replies.iter().filter_map(Reply::link).collect())
}

fn routes_on(socket: &mut Netlink, family: AddressFamily) -> Result<Vec<Reply>> {
    Ok(dump_routes(socket, family)?)
}

fn dump_routes(
    socket: &mut Netlink,
    family: AddressFamily,
) -> std::result::Result<Vec<Reply>, NetlinkError> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    match socket.dump(&RouteNetlinkMessage::GetRoute(request)) {
        // A kernel without IPv6 has no such routes.
        Err(socket::NetlinkError::Kernel(libc::EOPNOTSUPP | libc::EAFNOSUPPORT, _)) => {
            Ok(Vec::new())
        }
        other => other,
    }
}

impl From<socket::NetlinkError> for Error {
    fn from(error: socket::NetlinkError) -> Self {
        Self::internal(format!("netlink: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_name_fills_gaps() {
        let links = |names: &[&str]| -> Vec<Link> {
            names
                .iter()
                .map(|n| Link {
                    name: (*n).to_owned(),
                    ..Link::default()
                })
                .collect()
        };
        assert_eq!(first_free_interface(&links(&["lo"]), "eth"), "eth0");
        assert_eq!(
            first_free_interface(&links(&["eth0", "eth2", "eth10"]), "eth"),
            "eth1"
        );
        assert_eq!(
            first_free_interface(&links(&["eth1", "eth0"]), "eth"),
            "eth2"
        );
        assert_eq!(first_free_interface(&[], "eth"), "eth0");
    }
}
