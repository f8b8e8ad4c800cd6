//! Reading interfaces, addresses and routes from the kernel, and the few
//! changes that plugins leave to be made.

mod attributes;
mod batch;
mod create;
mod defaults;
mod message;
mod notify;
mod order;
mod socket;
mod toward;

use std::net::IpAddr;
use std::path::Path;

use circuit_core::{Error, Result};
use ipnet::IpNet;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

pub use attributes::{Reply, attributes};
pub(crate) use batch::BatchError;
pub use message::Message;
pub use socket::{Netlink, NetlinkError};
pub use toward::interface_toward;

pub(crate) use create::add_bridge;
pub use defaults::order_default_routes;

/// The main routing table.
pub const MAIN_TABLE: u32 = 254;

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The index, unique in the namespace.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The hardware address in hexadecimal, if the kind has one.
    pub mac: Option<String>,
    /// Whether it is set up.
    pub up: bool,
    /// The MTU.
    pub mtu: Option<u32>,
    /// The driver's kind, such as `veth` or `bridge`.
    pub kind: Option<String>,
    /// The index of the bridge or bond that it is in.
    pub master: Option<u32>,
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The index of the interface.
    pub index: u32,
    /// The address with its prefix length.
    pub address: IpNet,
    /// The scope: 0 is global, 253 link, 254 host.
    pub scope: u8,
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

fn links_on(socket: &mut Netlink) -> Result<Vec<Link>> {
    let replies = socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(replies.iter().filter_map(Reply::link).collect())
}

fn routes_on(socket: &mut Netlink, family: AddressFamily) -> Result<Vec<Reply>> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    match socket.dump(&RouteNetlinkMessage::GetRoute(request)) {
        // A kernel without IPv6 has no such routes.
        Err(socket::NetlinkError::Kernel(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => Ok(Vec::new()),
        other => Ok(other?),
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
