//! Bringing default routes into an order.

use std::net::IpAddr;
use std::path::Path;

use circuit_core::{Error, Result};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_ECHO};
use netlink_packet_route::AddressFamily;

use super::attributes::{self as wire, Reply};
use super::order::{Metrics, Move, Ranked, moves};
use super::socket::{Netlink, NetlinkError};
use super::{MAIN_TABLE, links_on, routes_on};

const RTM_DELROUTE: u16 = 25;

const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_FLOW: u16 = 11;
const RTA_CACHEINFO: u16 = 12;
const RTA_PREF: u16 = 20;
const RTA_ENCAP_TYPE: u16 = 21;
const RTA_ENCAP: u16 = 22;
const RTA_NH_ID: u16 = 30;

/// What a copy of a route has from it, beside its header.
const KEPT: [u16; 8] = [
    wire::RTA_GATEWAY,
    RTA_PREFSRC,
    RTA_METRICS,
    RTA_FLOW,
    wire::RTA_VIA,
    RTA_PREF,
    RTA_ENCAP_TYPE,
    RTA_ENCAP,
];

const RTNH_F_ONLINK: u32 = 4;
const RTM_F_CLONED: u32 = 0x200;

/// The families with the metrics that routes get which are made without one.
const FAMILIES: [(AddressFamily, Metrics); 2] = [
    (
        AddressFamily::Inet,
        Metrics {
            base: 0,
            shared: false,
        },
    ),
    (
        AddressFamily::Inet6,
        Metrics {
            base: 1024,
            shared: true,
        },
    ),
];

/// Makes the default route of the first of these interfaces that has one the
/// one that is used, in IPv4 and in IPv6; those of the others stay as
/// fall-backs in the order of their interfaces, so that the next one takes
/// over when an interface goes. Interfaces that do not exist, or have no
/// default route, are passed over.
///
/// When the best metrics of the interfaces rise from each to the next,
/// whatever they are, nothing is changed at all. Otherwise the first one's
/// routes get the metric that routes get by themselves, 0 in IPv4 and 1024 in
/// IPv6, and each next one's 100 more. A metric that a route of another
/// interface has is avoided: the first goes below it in IPv6, where the kernel
/// would use both, and the others above.
///
/// Routes of interfaces that are not listed keep their metrics, and stay
/// before or behind those that are; so do those of interfaces that are `foreign`
/// as well, in front of or behind which the others are brought. Only unicast
/// routes in the main table are moved, with all that they have (the weight of a hop excepted); an IPv6
/// route of several hops is taken apart. What somebody else renews or shares
/// stays too, and the others go around it: routes that expire (by router
/// advertisements), those with a nexthop object, and IPv4 routes of several
/// hops.
///
/// There is a default route all the while: each is added with its new metric
/// before it goes from its former place. Calls for the same namespace must not
/// overlap. It waits for the kernel, so it is nothing for a thread of a
/// runtime.
///
/// # Errors
/// An error when the namespace or the kernel cannot be asked, or the kernel
/// refuses a route that is still there; the routes of other interfaces are
/// moved all the same.
pub fn order_default_routes(netns: &Path, interfaces: &[String], foreign: &[String]) -> Result<()> {
    let unread = |error: Error| {
        let netns = netns.display();
        error.context(format!(
            "cannot order the default routes of network namespace {netns}"
        ))
    };
    let mut socket = Netlink::open(Some(netns))?;
    let links = links_on(&mut socket).map_err(unread)?;
    let named = |name: &String| links.iter().find(|link| link.name == *name);
    let indices = |names: &[String]| -> Vec<u32> {
        let found = names.iter().filter_map(named);
        found.map(|link| link.index).collect()
    };
    let (indices, foreign) = (indices(interfaces), indices(foreign));
    let name_of = |oif| links.iter().find(|link| link.index == oif);
    let mut result = Ok(());
    for (family, metrics) in FAMILIES {
        let mut routes = defaults(&mut socket, family).map_err(unread)?;
        for route in &mut routes {
            route.fixed |= foreign.contains(&route.oif);
        }
        for step in moves(&routes, &indices, metrics) {
            let done = carry_out(&mut socket, &routes, &step).map_err(|(route, error)| {
                let name = name_of(route.oif).map_or("-", |link| link.name.as_str());
                route.refused(name, netns, step.to, &error)
            });
            result = result.and(done);
        }
    }
    result
}

/// Does one step: all the copies, then the originals of those that are there.
fn carry_out<'a>(
    socket: &mut Netlink,
    routes: &'a [DefaultRoute],
    step: &Move,
) -> std::result::Result<(), (&'a DefaultRoute, NetlinkError)> {
    let mut result = Ok(());
    let mut copied: Vec<&DefaultRoute> = Vec::new();
    let mut originals: Vec<&DefaultRoute> = step
        .routes
        .iter()
        .filter_map(|place| routes.get(*place))
        .collect();
    let flags = match step.front {
        true => {
            originals.reverse();
            NLM_F_CREATE
        }
        false => NLM_F_CREATE | NLM_F_APPEND,
    };
    for route in originals {
        let copy = route.message(wire::RTM_NEWROUTE, step.to);
        match socket.change(&copy, flags) {
            Ok(_) | Err(NetlinkError::Kernel(libc::EEXIST, _)) => copied.push(route),
            Err(_) if is_gone(socket, route) => {}
            Err(error) => result = result.and(Err((route, error))),
        }
    }
    // A deletion that names no gateway takes routes that have one too.
    copied.sort_by_key(|route| route.gateway.is_none());
    for route in copied {
        let original = route.message(RTM_DELROUTE, route.metric);
        let removed = socket.change(&original, NLM_F_ECHO);
        match removed.and_then(|it| correct(socket, route, &it, step.to)) {
            Ok(()) | Err(NetlinkError::Kernel(libc::ESRCH, _)) => {}
            Err(_) if is_gone(socket, route) => {}
            Err(error) => result = result.and(Err((route, error))),
        }
    }
    result
}

/// Gives the copy of a hop what the original had of its own: of the hops that
/// IPv6 shows as one route, only the first one's attributes are told, until a
/// hop is removed.
fn correct(
    socket: &mut Netlink,
    route: &DefaultRoute,
    removed: &[Reply],
    to: u32,
) -> std::result::Result<(), NetlinkError> {
    let mut removed = removed.iter().flat_map(DefaultRoute::read);
    let same = |own: &DefaultRoute| own.header == route.header && own.kept == route.kept;
    let Some(own) = removed.find(|own| route.hop && own.is(route) && !same(own)) else {
        return Ok(());
    };
    socket.change(&route.message(RTM_DELROUTE, to), 0)?;
    let flags = NLM_F_CREATE | NLM_F_APPEND;
    let made = socket.change(&own.message(wire::RTM_NEWROUTE, to), flags);
    if made.is_err() {
        // Better this one than none.
        socket.change(&route.message(wire::RTM_NEWROUTE, to), flags)?;
    }
    made.map(drop)
}

/// Whether a route went meanwhile, as it does with its interface.
fn is_gone(socket: &mut Netlink, route: &DefaultRoute) -> bool {
    let family = AddressFamily::from(route.family());
    defaults(socket, family).is_ok_and(|now| !now.iter().any(|other| other.is(route)))
}

/// The unicast default routes in the main table, in the kernel's order.
fn defaults(socket: &mut Netlink, family: AddressFamily) -> Result<Vec<DefaultRoute>> {
    let replies = routes_on(socket, family)?;
    Ok(replies.iter().flat_map(DefaultRoute::read).collect())
}

/// One hop of a default route.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DefaultRoute {
    /// The header, without what is the kernel's to say.
    header: [u8; wire::ROUTE_HEADER],
    /// The attributes that a copy has too.
    kept: Vec<(u16, Vec<u8>)>,
    gateway: Option<IpAddr>,
    oif: u32,
    metric: u32,
    /// Whether the route has other hops.
    hop: bool,
    fixed: bool,
}

impl Ranked for DefaultRoute {
    fn oif(&self) -> u32 {
        self.oif
    }

    fn metric(&self) -> u32 {
        self.metric
    }

    fn fixed(&self) -> bool {
        self.fixed
    }
}

impl DefaultRoute {
    /// The hops of a route; none when it is another than a default route.
    fn read(reply: &Reply) -> Vec<Self> {
        Self::read_hops(reply).unwrap_or_default()
    }

    fn read_hops(reply: &Reply) -> Option<Vec<Self>> {
        let header: [u8; wire::ROUTE_HEADER] = *reply.payload.first_chunk()?;
        let [family, dst, src, tos, table, _, _, kind, f0, f1, f2, f3] = header;
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        let plain = [dst, src, tos] == [0; 3]
            && kind == wire::RTN_UNICAST
            && flags & RTM_F_CLONED == 0
            && [wire::RTM_NEWROUTE, RTM_DELROUTE].contains(&reply.kind);
        if !plain {
            return None;
        }
        let mut route = Self {
            header,
            kept: Vec::new(),
            gateway: None,
            oif: 0,
            metric: 0,
            hop: false,
            fixed: false,
        };
        let (mut table, mut several) = (u32::from(table), None);
        let values = reply.payload.get(wire::ROUTE_HEADER..)?;
        for (kind, value) in wire::attributes(values) {
            match kind {
                wire::RTA_TABLE => table = wire::u32_of(value)?,
                wire::RTA_OIF => route.oif = wire::u32_of(value)?,
                wire::RTA_PRIORITY => route.metric = wire::u32_of(value)?,
                wire::RTA_MULTIPATH => several = Some(value),
                RTA_NH_ID => route.fixed = true,
                RTA_CACHEINFO => route.fixed |= expires(value),
                _ => {}
            }
        }
        if table != MAIN_TABLE {
            return None;
        }
        let Some(several) = several else {
            let oif = route.oif;
            return Some(vec![route.with_hop(values, oif, flags)]);
        };
        // Only IPv6 makes one of several that were made apart.
        route.fixed |= family != wire::AF_INET6;
        route.hop = true;
        route.keep(values);
        let hop = |hop: wire::Hop<'_>| {
            let flags = u32::from(hop.flags);
            route.clone().with_hop(hop.values, hop.oif, flags)
        };
        Some(wire::hops(several).map(hop).collect())
    }

    /// The route by this hop, which has these attributes and flags.
    fn with_hop(mut self, values: &[u8], oif: u32, flags: u32) -> Self {
        self.keep(values);
        self.oif = oif;
        self.gateway = wire::gateway(values);
        let flags = (flags & RTNH_F_ONLINK).to_ne_bytes();
        let [h0, h1, h2, h3, h4, h5, h6, h7, ..] = self.header;
        let [f0, f1, f2, f3] = flags;
        self.header = [h0, h1, h2, h3, h4, h5, h6, h7, f0, f1, f2, f3];
        self
    }

    fn keep(&mut self, values: &[u8]) {
        let kept = wire::attributes(values).filter(|(kind, _)| KEPT.contains(kind));
        self.kept
            .extend(kept.map(|(kind, value)| (kind, value.to_vec())));
        self.kept.sort_by_key(|(kind, _)| *kind);
    }

    /// A message about the route with this metric.
    fn message(&self, kind: u16, metric: u32) -> Reply {
        let mut header = self.header;
        let [family, _, _, _, _, protocol, ..] = &mut header;
        // The first hop's protocol is shown for all of them.
        if kind == RTM_DELROUTE && *family == wire::AF_INET6 {
            *protocol = 0;
        }
        let mut payload = header.to_vec();
        let own = [
            (wire::RTA_OIF, self.oif.to_ne_bytes()),
            (wire::RTA_PRIORITY, metric.to_ne_bytes()),
        ];
        for (kind, value) in &own {
            wire::put(&mut payload, *kind, value);
        }
        for (kind, value) in &self.kept {
            wire::put(&mut payload, *kind, value);
        }
        Reply { kind, payload }
    }

    fn refused(&self, ifname: &str, netns: &Path, to: u32, error: &NetlinkError) -> Error {
        let dst = match self.family() {
            wire::AF_INET => "0.0.0.0/0",
            _ => "::/0",
        };
        let via = self.gateway.map(|ip| format!(" via {ip}"));
        Error::unavailable(format!(
            "cannot change the metric of route {dst}{} dev {ifname} in network namespace {} \
             from {} to {to}: {error}, try again or change it by hand",
            via.unwrap_or_default(),
            netns.display(),
            self.metric,
        ))
    }

    /// Whether it is the same way with the same metric.
    fn is(&self, other: &Self) -> bool {
        let way = |it: &Self| (it.family(), it.oif, it.gateway, it.metric);
        way(self) == way(other)
    }

    fn family(&self) -> u8 {
        let [family, ..] = self.header;
        family
    }
}

/// Whether a route, of which this is the cache's information, goes by itself.
fn expires(cache: &[u8]) -> bool {
    cache
        .get(8..)
        .and_then(wire::u32_of)
        .is_some_and(|time| time != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_routes_never_panic(
            six in any::<bool>(),
            attributes in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let family = if six { wire::AF_INET6 } else { wire::AF_INET };
            let mut payload = vec![family, 0, 0, 0, 254, 3, 0, wire::RTN_UNICAST, 0, 0, 0, 0];
            payload.extend(attributes);
            let read = DefaultRoute::read(&Reply { kind: wire::RTM_NEWROUTE, payload });
            // What it writes is what it reads.
            for route in read.iter().filter(|route| !route.fixed) {
                let again = DefaultRoute::read(&route.message(wire::RTM_NEWROUTE, route.metric));
                prop_assert_eq!(&again, std::slice::from_ref(route));
            }
        }
    }
}
