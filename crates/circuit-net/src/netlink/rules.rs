//! Routing rules by the source of packets, and the routes of one interface as
//! the kernel tells them, to be moved to other tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use super::MAIN_TABLE;
use super::address::family_of;
use super::attributes::{self as wire, Reply, attributes, gateway, ip, u32_of};
use super::message::Message;
use super::socket::{Netlink, NetlinkError};

const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

const RTA_IIF: u16 = 3;
const RTA_PREFSRC: u16 = 7;
const RTA_CACHEINFO: u16 = 12;
const RTA_NH_ID: u16 = 30;

const FRA_SRC: u16 = 2;
const FRA_TABLE: u16 = 15;

/// The flags of a rule that are not the kernel's: inverted, and to look for a source.
const FIB_RULE_ASKED: u32 = 0x1_0002;

const RT_SCOPE_LINK: u8 = 253;
const RTPROT_BOOT: u8 = 3;
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u32 = 4;

/// A routing rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The source that packets must have; `None` for any.
    pub source: Option<IpNet>,
    /// The table that is looked up.
    pub table: u32,
    payload: Vec<u8>,
}

impl Rule {
    /// What adds the rule, in another namespace say: `EEXIST` when there is one like it.
    pub fn addition(&self) -> Message {
        let (header, values) = self.payload.split_at(wire::ROUTE_HEADER);
        let mut header = header.to_vec();
        // What the kernel marked is not its to be told.
        if let Some(flags) = header.last_chunk_mut() {
            *flags = (u32::from_ne_bytes(*flags) & FIB_RULE_ASKED).to_ne_bytes();
        }
        attributes(values).fold(
            Message::new(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &header),
            |message, (kind, value)| message.with(kind, value),
        )
    }

    /// What removes the rule, and none that differs from it.
    pub fn removal(&self) -> Message {
        let (header, values) = self.payload.split_at(wire::ROUTE_HEADER);
        attributes(values).fold(
            Message::new(RTM_DELRULE, 0, header),
            |message, (kind, value)| message.with(kind, value),
        )
    }
}

/// What adds a rule that sends packets from one address to a table.
pub fn add_rule(source: IpAddr, table: u32) -> Message {
    rule(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, source, table)
}

/// What removes the rule that [`add_rule`] adds.
pub fn del_rule(source: IpAddr, table: u32) -> Message {
    rule(RTM_DELRULE, 0, source, table)
}

fn rule(kind: u16, flags: u16, source: IpAddr, table: u32) -> Message {
    let (low, large) = split(table);
    let header = [
        family_of(source),
        0,
        host_prefix(source),
        0,
        low,
        RTPROT_BOOT,
        0,
        wire::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    Message::new(kind, flags, &header)
        .with_ip(FRA_SRC, source)
        .with_some(large, |message, table| message.with_u32(FRA_TABLE, table))
}

/// The rules of both families.
///
/// # Errors
/// When the kernel refuses.
pub fn rules(socket: &mut Netlink) -> Result<Vec<Rule>, NetlinkError> {
    let request = Message::new(RTM_GETRULE, 0, &[0; wire::ROUTE_HEADER]);
    Ok(socket
        .list(&request)?
        .iter()
        .filter_map(read_rule)
        .collect())
}

fn read_rule(reply: &Reply) -> Option<Rule> {
    let header: &[u8; wire::ROUTE_HEADER] = reply.payload.first_chunk()?;
    let [family, _, source_prefix, _, table, ..] = *header;
    // Rules for the routing of multicasts are listed too.
    if family != wire::AF_INET && family != wire::AF_INET6 {
        return None;
    }
    let mut rule = Rule {
        source: None,
        table: table.into(),
        payload: reply.payload.clone(),
    };
    for (kind, value) in attributes(reply.payload.get(wire::ROUTE_HEADER..)?) {
        match kind {
            FRA_SRC => rule.source = IpNet::new(ip(value)?, source_prefix).ok(),
            FRA_TABLE => rule.table = u32_of(value)?,
            _ => {}
        }
    }
    Some(rule)
}

/// A route out of one interface, with all that the kernel tells about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRoute {
    /// The destination; prefix length 0 is a default route.
    pub dst: IpNet,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// The source that packets get which have none yet.
    pub source: Option<IpAddr>,
    /// The table.
    pub table: u32,
    /// Who made it: 2 is the kernel, 3 boot, 4 static, 9 a router's advertisement.
    pub protocol: u8,
    /// The scope: 0 is global, 253 link, 254 host.
    pub scope: u8,
    /// The metric; 0 is none.
    pub priority: u32,
    header: [u8; wire::ROUTE_HEADER],
    kept: Vec<(u16, Vec<u8>)>,
}

impl LinkRoute {
    /// Whether it leads to what is on the link.
    pub fn is_to_the_link(&self) -> bool {
        self.scope == RT_SCOPE_LINK
    }

    /// What adds the route out of another interface, in another namespace say: `EEXIST`
    /// when there is one like it.
    pub fn copy_to_link(&self, index: u32) -> Message {
        let mut other = self.clone();
        for (kind, value) in &mut other.kept {
            if *kind == wire::RTA_OIF {
                *value = index.to_ne_bytes().to_vec();
            }
        }
        other.addition(NLM_F_CREATE | NLM_F_EXCL, self.table)
    }

    /// What puts the route into a table, in the place of one that is like it.
    pub fn copy_to(&self, table: u32) -> Message {
        self.addition(NLM_F_CREATE | NLM_F_REPLACE, table)
    }

    fn addition(&self, nl_flags: u16, table: u32) -> Message {
        // What the kernel marked is not its to be told.
        let flags = u32::from_ne_bytes(self.flags()) & RTNH_F_ONLINK;
        self.message(wire::RTM_NEWROUTE, nl_flags, table, flags)
    }

    /// What takes the route out of a table.
    pub fn removal_from(&self, table: u32) -> Message {
        self.message(RTM_DELROUTE, 0, table, 0)
    }

    fn flags(&self) -> [u8; 4] {
        let [.., a, b, c, d] = self.header;
        [a, b, c, d]
    }

    fn message(&self, kind: u16, nl_flags: u16, table: u32, flags: u32) -> Message {
        let mut header = self.header;
        let (low, large) = split(table);
        header[4] = low;
        header[8..].copy_from_slice(&flags.to_ne_bytes());
        let kept = self.kept.iter();
        kept.fold(
            Message::new(kind, nl_flags, &header),
            |message, (kind, value)| message.with(*kind, value),
        )
        .with_some(large, |message, table| {
            message.with_u32(wire::RTA_TABLE, table)
        })
    }

    fn read(reply: &Reply, index: u32) -> Option<Self> {
        let header: &[u8; wire::ROUTE_HEADER] = reply.payload.first_chunk()?;
        let [family, prefix, _, _, low, protocol, scope, ..] = *header;
        let values = reply.payload.get(wire::ROUTE_HEADER..)?;
        let unspecified = unspecified(family)?;
        let mut route = Self {
            dst: IpNet::new(unspecified, prefix).ok()?,
            gateway: gateway(values),
            source: None,
            table: u32::from(low),
            protocol,
            scope,
            priority: 0,
            header: *header,
            kept: Vec::new(),
        };
        let mut oif = None;
        for (kind, value) in attributes(values) {
            match kind {
                wire::RTA_TABLE => route.table = u32_of(value)?,
                // Which object stands for the hop, that is told besides.
                RTA_CACHEINFO | RTA_IIF | RTA_NH_ID => continue,
                wire::RTA_DST => route.dst = IpNet::new(ip(value)?, prefix).ok()?,
                wire::RTA_OIF => oif = u32_of(value),
                wire::RTA_PRIORITY => route.priority = u32_of(value)?,
                RTA_PREFSRC => route.source = ip(value),
                _ => {}
            }
            if kind != wire::RTA_TABLE {
                route.kept.push((kind, value.to_vec()));
            }
        }
        let cloned = u32::from_ne_bytes(route.flags()) & RTM_F_CLONED != 0;
        (!cloned && oif == Some(index)).then_some(route)
    }
}

fn unspecified(family: u8) -> Option<IpAddr> {
    match family {
        wire::AF_INET => Some(Ipv4Addr::UNSPECIFIED.into()),
        wire::AF_INET6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

/// The routes of all tables out of an interface, of both families.
///
/// # Errors
/// When the kernel refuses.
pub fn all_link_routes(socket: &mut Netlink, index: u32) -> Result<Vec<LinkRoute>, NetlinkError> {
    let request = Message::new(RTM_GETROUTE, 0, &[0; wire::ROUTE_HEADER]);
    let replies = socket.list(&request)?;
    let routes = replies.iter();
    Ok(routes
        .filter_map(|reply| LinkRoute::read(reply, index))
        .collect())
}

/// The routes of the main table out of an interface, of both families.
///
/// # Errors
/// When the kernel refuses.
pub fn link_routes(socket: &mut Netlink, index: u32) -> Result<Vec<LinkRoute>, NetlinkError> {
    let mut routes = all_link_routes(socket, index)?;
    routes.retain(|route| route.table == MAIN_TABLE);
    Ok(routes)
}

/// A table's number for the header, and for an attribute when it is too large.
fn split(table: u32) -> (u8, Option<u32>) {
    match u8::try_from(table) {
        Ok(low) => (low, None),
        Err(_) => (0, Some(table)),
    }
}

fn host_prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Beside, RouteSpec};
    use super::*;
    use proptest::prelude::*;

    fn as_reply(message: Message) -> Reply {
        Reply {
            kind: message.kind,
            payload: message.body,
        }
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        for (source, table) in [("10.1.0.2", 100), ("fd00::2", 4711), ("10.1.0.3", 255)] {
            let source: IpAddr = source.parse().unwrap();
            let rule = read_rule(&as_reply(add_rule(source, table))).unwrap();
            assert_eq!(rule.table, table);
            assert_eq!(rule.source, Some(source.into()));
        }
    }

    #[test]
    fn only_routes_of_the_interface_count() {
        let read = |table, index| {
            let gateway = "10.1.0.1".parse().ok();
            let route = RouteSpec {
                table: Some(table),
                ..RouteSpec::new("0.0.0.0/0".parse().unwrap(), gateway, index)
            };
            LinkRoute::read(&as_reply(route.add(Beside::Refused)), 7)
        };
        assert_eq!(read(254, 7).unwrap().gateway, "10.1.0.1".parse().ok());
        assert_eq!(read(254, 8), None);
        assert_eq!(read(100, 7).unwrap().table, 100);
        assert_eq!(read(1000, 7).unwrap().table, 1000);
    }

    #[test]
    fn a_route_is_copied_to_another_interface_with_all_it_has() {
        let of = |index| {
            let route = RouteSpec {
                table: Some(1000),
                mtu: Some(1300),
                priority: 7,
                ..RouteSpec::new(
                    "10.2.0.0/16".parse().unwrap(),
                    "10.1.0.1".parse().ok(),
                    index,
                )
            };
            LinkRoute::read(&as_reply(route.add(Beside::Refused)), index).unwrap()
        };
        let copy = LinkRoute::read(&as_reply(of(7).copy_to_link(9)), 9).unwrap();
        assert_eq!((copy.table, copy.priority), (1000, 7));
        assert_eq!(copy.dst, "10.2.0.0/16".parse().unwrap());
        assert_eq!(copy.kept, of(9).kept);
    }

    proptest! {
        #[test]
        fn arbitrary_messages_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..99)) {
            let reply = Reply { kind: RTM_NEWRULE, payload };
            let _ = LinkRoute::read(&reply, 1).map(|route| (route.copy_to(1000), route.copy_to_link(2)));
            let _ = read_rule(&reply).map(|rule| (rule.removal(), rule.addition()));
        }
    }
}
