//! Adding, removing and listing routes.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;

use super::address::family_of;
use super::attributes::{self as wire, RTM_NEWROUTE, Reply};
use super::message::Message;
use super::socket::{Netlink, NetlinkError};
use super::{MAIN_TABLE, Route};

const RTM_DELROUTE: u16 = 25;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RTNH_F_ONLINK: u32 = 4;
/// Made while things are set up, which is what tools say that name nothing.
const RTPROT_BOOT: u8 = 3;
/// Of any scope, on removal.
const RT_SCOPE_NOWHERE: u8 = 255;

/// A route that is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteSpec {
    /// The destination; prefix length 0 is a default route.
    pub dst: IpNet,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// The index of the outgoing interface.
    pub oif: Option<u32>,
    /// The source address to prefer.
    pub src: Option<IpAddr>,
    /// The table; the main one when there is none, or 0.
    pub table: Option<u32>,
    /// The scope: 0 is global, 253 link, 254 host.
    pub scope: u8,
    /// The metric; 0 leaves it to the kernel.
    pub priority: u32,
    /// Who made it; 3 (boot) is usual.
    pub protocol: u8,
    /// The gateway is on the link even if no address says so.
    pub onlink: bool,
    /// The MTU.
    pub mtu: Option<u32>,
    /// The advertised segment size.
    pub advmss: Option<u32>,
}

/// What becomes of a route to the same destination that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// The new one is refused with `EEXIST`.
    Refused,
    /// It is replaced.
    Replaced,
    /// The new one is preferred (IPv4), or shares the traffic (IPv6); the very
    /// same one is refused with `EEXIST`.
    Before,
    /// The old one is preferred (IPv4), or shares the traffic (IPv6).
    Behind,
}

impl RouteSpec {
    /// A route to `dst` out of the interface of that index.
    pub fn new(dst: IpNet, gateway: Option<IpAddr>, oif: u32) -> Self {
        Self {
            dst,
            gateway,
            oif: Some(oif),
            src: None,
            table: None,
            scope: 0,
            priority: 0,
            protocol: RTPROT_BOOT,
            onlink: false,
            mtu: None,
            advmss: None,
        }
    }

    /// The request that adds it.
    pub fn add(&self, beside: Beside) -> Message {
        let flags = match beside {
            Beside::Refused => NLM_F_CREATE | NLM_F_EXCL,
            Beside::Replaced => NLM_F_CREATE | NLM_F_REPLACE,
            Beside::Before => NLM_F_CREATE,
            Beside::Behind => NLM_F_CREATE | NLM_F_APPEND,
        };
        self.message(RTM_NEWROUTE, flags, self.scope, self.protocol)
    }

    /// The request that removes the first route to that destination that has
    /// what is said here, of any scope and protocol: `ESRCH` when there is
    /// none.
    pub fn remove(&self) -> Message {
        self.message(RTM_DELROUTE, 0, RT_SCOPE_NOWHERE, 0)
    }

    fn message(&self, kind: u16, flags: u16, scope: u8, protocol: u8) -> Message {
        let table = self.table.filter(|table| *table != 0).unwrap_or(MAIN_TABLE);
        let short = u8::try_from(table).unwrap_or_default();
        let family = family_of(self.dst.addr());
        let kind_of_route = match kind {
            RTM_NEWROUTE => wire::RTN_UNICAST,
            // Any.
            _ => 0,
        };
        let prefix = self.dst.prefix_len();
        let mut header = [0; wire::ROUTE_HEADER];
        header[..8].copy_from_slice(&[family, prefix, 0, 0, short, protocol, scope, kind_of_route]);
        let onlink = if self.onlink { RTNH_F_ONLINK } else { 0 };
        header[8..].copy_from_slice(&onlink.to_ne_bytes());
        let some = |value: u32| (value != 0).then_some(value);
        Message::new(kind, flags, &header)
            .with_ip(wire::RTA_DST, self.dst.addr())
            .with_some(self.gateway, |m, ip| self.via(m, ip))
            .with_some(self.oif, |m, index| m.with_u32(wire::RTA_OIF, index))
            .with_some(self.src, |m, ip| m.with_ip(RTA_PREFSRC, ip))
            .with_some(some(self.priority), |m, metric| {
                m.with_u32(wire::RTA_PRIORITY, metric)
            })
            .with_some((short == 0).then_some(table), |m, table| {
                m.with_u32(wire::RTA_TABLE, table)
            })
            .with_some(self.mtu.or(self.advmss), |m, _| {
                m.with_nest(RTA_METRICS, &[], |m| {
                    m.with_some(self.mtu, |m, mtu| m.with_u32(RTAX_MTU, mtu))
                        .with_some(self.advmss, |m, mss| m.with_u32(RTAX_ADVMSS, mss))
                })
            })
    }

    /// A gateway of the other family is written differently.
    fn via(&self, message: Message, ip: IpAddr) -> Message {
        if ip.is_ipv4() == self.dst.addr().is_ipv4() {
            return message.with_ip(wire::RTA_GATEWAY, ip);
        }
        let family = u16::from(family_of(ip)).to_ne_bytes();
        let value = match ip {
            IpAddr::V4(ip) => [&family[..], &ip.octets()].concat(),
            IpAddr::V6(ip) => [&family[..], &ip.octets()].concat(),
        };
        message.with(wire::RTA_VIA, &value)
    }
}

impl Netlink {
    /// The routes of one family in all tables, without the names of their
    /// interfaces; one with several hops once for each.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn routes(&mut self, ipv6: bool) -> Result<Vec<Route>, NetlinkError> {
        let family = match ipv6 {
            true => AddressFamily::Inet6,
            false => AddressFamily::Inet,
        };
        let replies = super::dump_routes(self, family)?;
        Ok(replies
            .iter()
            .flat_map(|reply: &Reply| reply.routes(&[]))
            .collect())
    }

    /// Adds a route.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_route(&mut self, route: &RouteSpec, beside: Beside) -> Result<(), NetlinkError> {
        self.request(&route.add(beside)).map(drop)
    }

    /// Removes a route, if it is there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_route(&mut self, route: &RouteSpec) -> Result<(), NetlinkError> {
        self.carry_out(&[route.remove()], &[libc::ESRCH, libc::ENODEV])
    }
}
