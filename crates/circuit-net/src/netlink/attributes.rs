//! The few attributes that are read out of the kernel's messages, and written
//! into those for it. The rest is passed over, so that a kernel that says more
//! than is known here does no harm.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Address, Link, Route};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_NEWROUTE: u16 = 24;

pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_INFO_KIND: u16 = 1;

pub(super) const IFA_ADDRESS: u16 = 1;
pub(super) const IFA_LOCAL: u16 = 2;
pub(super) const IFA_FLAGS: u16 = 8;

pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
pub(super) const RTA_PRIORITY: u16 = 6;
pub(super) const RTA_MULTIPATH: u16 = 9;
pub(super) const RTA_TABLE: u16 = 15;
pub(super) const RTA_VIA: u16 = 18;

pub(super) const RTN_UNICAST: u8 = 1;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;

/// The lengths of the fixed parts.
pub(super) const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
pub(super) const ROUTE_HEADER: usize = 12;
const HOP_HEADER: usize = 8;

/// One message of an answer, without its header.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its kind, such as `RTM_NEWLINK`.
    pub kind: u16,
    /// The fixed part and the attributes.
    pub payload: Vec<u8>,
}

impl Reply {
    /// The address that this tells of.
    pub(super) fn address(&self) -> Option<Address> {
        let header = self.header::<ADDRESS_HEADER>(RTM_NEWADDR)?;
        let [_, prefix, flags, scope, ..] = *header;
        let (mut local, mut address) = (None, None);
        let mut flags = u32::from(flags);
        for (kind, value) in attributes(self.payload.get(ADDRESS_HEADER..)?) {
            match kind {
                IFA_LOCAL => local = ip(value),
                IFA_ADDRESS => address = ip(value),
                IFA_FLAGS => flags = u32_of(value)?,
                _ => {}
            }
        }
        // On links between two points the other one is the peer.
        let address = IpNet::new(local.or(address)?, prefix).ok()?;
        Some(Address {
            index: u32_of(header.get(4..8)?)?,
            address,
            scope,
            tentative: flags & libc::IFA_F_TENTATIVE != 0,
            dad_failed: flags & libc::IFA_F_DADFAILED != 0,
            permanent: flags & libc::IFA_F_PERMANENT != 0,
        })
    }

    /// The route, once for each hop.
    pub(super) fn routes(&self, links: &[Link]) -> Vec<Route> {
        self.read_routes(links).unwrap_or_default()
    }

    fn read_routes(&self, links: &[Link]) -> Option<Vec<Route>> {
        let header = self.header::<ROUTE_HEADER>(RTM_NEWROUTE)?;
        let [family, prefix, _, _, table, protocol, scope, kind, ..] = *header;
        let unspecified: IpAddr = match family {
            AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let mut route = Route {
            dst: IpNet::new(unspecified, prefix).ok()?,
            gateway: None,
            oif: None,
            table: u32::from(table),
            protocol,
            scope,
            priority: 0,
            unicast: kind == RTN_UNICAST,
        };
        let mut hops = Vec::new();
        let values = self.payload.get(ROUTE_HEADER..)?;
        for (kind, value) in attributes(values) {
            match kind {
                RTA_DST => route.dst = IpNet::new(ip(value)?, prefix).ok()?,
                RTA_TABLE => route.table = u32_of(value)?,
                RTA_PRIORITY => route.priority = u32_of(value)?,
                RTA_OIF => route.oif = name_of(links, u32_of(value)?),
                RTA_MULTIPATH => hops = read_hops(value, links),
                _ => {}
            }
        }
        route.gateway = gateway(values);
        if hops.is_empty() {
            return Some(vec![route]);
        }
        let hop = |(oif, gateway)| Route {
            oif,
            gateway,
            ..route.clone()
        };
        Some(hops.into_iter().map(hop).collect())
    }

    pub(super) fn header<const N: usize>(&self, kind: u16) -> Option<&[u8; N]> {
        self.payload.first_chunk().filter(|_| self.kind == kind)
    }
}

fn read_hops(bytes: &[u8], links: &[Link]) -> Vec<(Option<String>, Option<IpAddr>)> {
    hops(bytes)
        .map(|hop| (name_of(links, hop.oif), gateway(hop.values)))
        .collect()
}

/// One hop of a route that has several.
pub(super) struct Hop<'a> {
    pub(super) oif: u32,
    pub(super) flags: u8,
    /// Its attributes.
    pub(super) values: &'a [u8],
}

/// The hops in the value of [`RTA_MULTIPATH`].
pub(super) fn hops(mut bytes: &[u8]) -> impl Iterator<Item = Hop<'_>> {
    std::iter::from_fn(move || {
        let [l0, l1, flags, _, i0, i1, i2, i3] = *bytes.first_chunk::<HOP_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let values = bytes.get(HOP_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Hop {
            oif: u32::from_ne_bytes([i0, i1, i2, i3]),
            flags,
            values,
        })
    })
}

/// The gateway among a route's or a hop's attributes; it may be of the other
/// family than the route.
pub(super) fn gateway(values: &[u8]) -> Option<IpAddr> {
    attributes(values).find_map(|(kind, value)| match kind {
        RTA_GATEWAY => ip(value),
        RTA_VIA => ip(value.get(2..)?),
        _ => None,
    })
}

fn name_of(links: &[Link], index: u32) -> Option<String> {
    links
        .iter()
        .find(|link| link.index == index)
        .map(|link| link.name.clone())
}

/// The attributes of a message: kind and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits say how the value is written.
        Some((u16::from_ne_bytes([k0, k1]) & 0x3fff, value))
    })
}

/// Adds an attribute to a message.
pub(super) fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // What was read from an attribute is short enough for one.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

pub(super) fn u32_of(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

pub(super) fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(super) fn mac(value: &[u8]) -> Option<String> {
    let hex = || {
        value
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(":")
    };
    (!value.is_empty()).then(hex)
}

pub(super) fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value
            .first_chunk::<4>()
            .map(|bytes| Ipv4Addr::from(*bytes).into()),
        16 => value
            .first_chunk::<16>()
            .map(|bytes| Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, kind, value);
        bytes
    }

    fn links() -> Vec<Link> {
        ["a", "b"]
            .iter()
            .zip(1..)
            .map(|(name, index)| Link {
                index,
                name: (*name).to_owned(),
                ..Link::default()
            })
            .collect()
    }

    #[test]
    fn a_route_of_several_hops_comes_once_for_each() {
        let mut payload = vec![AF_INET, 16, 0, 0, 254, 4, 0, RTN_UNICAST, 0, 0, 0, 0];
        payload.extend(attribute(RTA_DST, &[10, 9, 0, 0]));
        let mut hops = Vec::new();
        for index in [1u32, 2] {
            let gateway = attribute(RTA_GATEWAY, &[10, 1, 1, u8::try_from(index).unwrap()]);
            let length = u16::try_from(HOP_HEADER + gateway.len()).unwrap();
            hops.extend(length.to_ne_bytes());
            hops.extend([0, 0]);
            hops.extend(index.to_ne_bytes());
            hops.extend(gateway);
        }
        payload.extend(attribute(RTA_MULTIPATH | 0x8000, &hops));
        let routes = Reply {
            kind: RTM_NEWROUTE,
            payload,
        }
        .routes(&links());
        let seen: Vec<_> = routes
            .iter()
            .map(|r| {
                (
                    r.dst.to_string(),
                    r.oif.clone().unwrap(),
                    r.gateway.unwrap().to_string(),
                )
            })
            .collect();
        let expected = |oif: &str, gw: &str| ("10.9.0.0/16".into(), oif.to_owned(), gw.to_owned());
        assert_eq!(seen, [expected("a", "10.1.1.1"), expected("b", "10.1.1.2")]);
    }

    #[test]
    fn an_ipv4_route_may_go_by_an_ipv6_gateway() {
        let mut payload = vec![AF_INET, 0, 0, 0, 254, 4, 0, RTN_UNICAST, 0, 0, 0, 0];
        let mut via = vec![10, 0];
        via.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        payload.extend(attribute(RTA_VIA, &via));
        payload.extend(attribute(RTA_OIF, &2u32.to_ne_bytes()));
        let routes = Reply {
            kind: RTM_NEWROUTE,
            payload,
        }
        .routes(&links());
        assert_eq!(routes[0].gateway, Some("fe80::1".parse().unwrap()));
        assert_eq!(routes[0].dst, "0.0.0.0/0".parse().unwrap());
    }

    proptest! {
        #[test]
        fn arbitrary_messages_never_panic(
            kind in proptest::sample::select(vec![RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE]),
            payload in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let reply = Reply { kind, payload };
            let _ = (reply.link(), reply.address(), reply.routes(&links()));
        }
    }
}
