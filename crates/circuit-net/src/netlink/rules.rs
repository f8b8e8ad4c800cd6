//! Routing rules by the source of packets, and the routes of one interface as
//! the kernel tells them, to be moved to other tables.

use std::net::IpAddr;

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

const FRA_SRC: u16 = 2;
const FRA_TABLE: u16 = 15;

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

/// A route of the main table out of one interface, with all that the kernel
/// tells about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRoute {
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// The source that packets get which have none yet.
    pub source: Option<IpAddr>,
    header: [u8; wire::ROUTE_HEADER],
    kept: Vec<(u16, Vec<u8>)>,
}

impl LinkRoute {
    /// What puts the route into a table, in the place of one that is like it.
    pub fn copy_to(&self, table: u32) -> Message {
        // What the kernel marked is not its to be told.
        let flags = u32::from_ne_bytes(self.flags()) & RTNH_F_ONLINK;
        self.message(
            wire::RTM_NEWROUTE,
            NLM_F_CREATE | NLM_F_REPLACE,
            table,
            flags,
        )
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
        let mut route = Self {
            gateway: gateway(reply.payload.get(wire::ROUTE_HEADER..)?),
            source: None,
            header: *header,
            kept: Vec::new(),
        };
        let [family, _, _, _, low, ..] = *header;
        let (mut table, mut oif) = (u32::from(low), None);
        for (kind, value) in attributes(reply.payload.get(wire::ROUTE_HEADER..)?) {
            match kind {
                wire::RTA_TABLE => table = u32_of(value)?,
                RTA_CACHEINFO | RTA_IIF => continue,
                wire::RTA_OIF => oif = u32_of(value),
                RTA_PREFSRC => route.source = ip(value),
                _ => {}
            }
            if kind != wire::RTA_TABLE {
                route.kept.push((kind, value.to_vec()));
            }
        }
        let known = family == wire::AF_INET || family == wire::AF_INET6;
        let cloned = u32::from_ne_bytes(route.flags()) & RTM_F_CLONED != 0;
        (known && !cloned && table == MAIN_TABLE && oif == Some(index)).then_some(route)
    }
}

/// The routes of the main table out of an interface, of both families.
///
/// # Errors
/// When the kernel refuses.
pub fn link_routes(socket: &mut Netlink, index: u32) -> Result<Vec<LinkRoute>, NetlinkError> {
    let request = Message::new(RTM_GETROUTE, 0, &[0; wire::ROUTE_HEADER]);
    let replies = socket.list(&request)?;
    let routes = replies.iter();
    Ok(routes
        .filter_map(|reply| LinkRoute::read(reply, index))
        .collect())
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
    fn only_routes_of_the_main_table_and_the_interface_count() {
        let read = |table, index| {
            let gateway = "10.1.0.1".parse().ok();
            let route = RouteSpec {
                table: Some(table),
                ..RouteSpec::new("0.0.0.0/0".parse().unwrap(), gateway, index)
            };
            LinkRoute::read(&as_reply(route.add(Beside::Refused)), 7)
        };
        assert_eq!(read(254, 7).unwrap().gateway, "10.1.0.1".parse().ok());
        assert_eq!(
            (read(100, 7), read(254, 8), read(1000, 7)),
            (None, None, None)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_messages_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..99)) {
            let reply = Reply { kind: RTM_NEWRULE, payload };
            let _ = LinkRoute::read(&reply, 1).map(|route| route.copy_to(1000));
            let _ = read_rule(&reply).map(|rule| rule.removal());
        }
    }
}
