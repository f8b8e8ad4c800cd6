//! Whether a network's subnets would take something away from the host.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use crate::netlink::{Netlink, NetlinkError, Route};

/// Something of the host's that a subnet covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clash {
    /// A route.
    Route {
        /// Where it leads.
        dst: IpNet,
        /// By which interface, if any.
        oif: Option<String>,
    },
    /// A name server of the host's.
    Resolver(IpAddr),
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route {
                dst,
                oif: Some(oif),
            } => write!(f, "route {dst} dev {oif}"),
            Self::Route { dst, oif: None } => write!(f, "route {dst}"),
            Self::Resolver(address) => write!(f, "resolver {address} from /etc/resolv.conf"),
        }
    }
}

/// Whether the calling thread's namespace has an interface of that name, as far as can
/// be told: without a descriptor that is free, it is taken to be there.
pub fn has_interface(name: &str) -> bool {
    let found = nix::net::if_::if_nametoindex(name);
    !matches!(found, Err(Errno::ENODEV | Errno::ENXIO))
}

/// Removes a bridge that nothing is on any more: without ports, and without addresses
/// beyond `subnets`. True when it was there and is gone.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_idle_bridge(name: &str, subnets: &[IpNet]) -> circuit_core::Result<bool> {
    let refused = |error: NetlinkError| {
        circuit_core::Error::internal(format!("cannot remove bridge {name}: {error}"))
    };
    let mut host = Netlink::open(None)?;
    let Some(bridge) = host.link(name).map_err(refused)? else {
        return Ok(false);
    };
    if !bridge.is("bridge") {
        return Ok(false);
    }
    let addresses = host.addresses(bridge.index).map_err(refused)?;
    let is_ours = |ip: IpAddr| {
        let by_itself = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        by_itself || subnets.iter().any(|subnet| subnet.contains(&ip))
    };
    let used = Netlink::open(None)?.any_port(bridge.index, |_| true);
    if used.map_err(refused)? || !addresses.iter().all(|a| is_ours(a.address.addr())) {
        return Ok(false);
    }
    host.delete_links(&[bridge.index]).map_err(refused)?;
    Ok(true)
}

/// The name servers in the text of a `resolv.conf`.
pub fn resolvers(resolv_conf: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // An address may carry the interface on which it is valid.
        let address = words
            .next()
            .and_then(|word| word.split('%').next()?.parse().ok());
        if let Some(address) = address.filter(|address| !found.contains(address)) {
            found.push(address);
        }
    }
    found
}

/// What of the host's clashes with the subnets: routes that lead into one of
/// them or cover it, and resolvers inside one. Default routes cover
/// everything and so say nothing; routes out of the interfaces in `own` are
/// the network's.
pub fn overlaps(
    subnets: &[IpNet],
    routes: &[Route],
    resolvers: &[IpAddr],
    own: &[&str],
) -> Vec<Clash> {
    let is_own = |route: &Route| route.oif.as_deref().is_some_and(|oif| own.contains(&oif));
    let mut clashes = Vec::new();
    let mut add = |clash: Clash| {
        if !clashes.contains(&clash) {
            clashes.push(clash);
        }
    };
    for route in routes {
        if route.dst.prefix_len() == 0 || is_own(route) {
            continue;
        }
        if subnets.iter().any(|subnet| overlap(subnet, &route.dst)) {
            add(Clash::Route {
                dst: route.dst,
                oif: route.oif.clone(),
            });
        }
    }
    for resolver in resolvers {
        if subnets.iter().any(|subnet| subnet.contains(resolver)) {
            add(Clash::Resolver(*resolver));
        }
    }
    clashes
}

/// Networks nest or are apart: they overlap when one has the other's start.
fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(dst: &str, oif: &str) -> Route {
        Route {
            dst: dst.parse().unwrap(),
            gateway: None,
            oif: Some(oif.to_owned()),
            table: 254,
            protocol: 2,
            scope: 0,
            priority: 0,
            unicast: true,
        }
    }

    fn clashes(subnet: &str, own: &[&str]) -> Vec<String> {
        let routes = [
            route("0.0.0.0/0", "eth0"),
            route("::/0", "eth0"),
            route("10.255.0.0/16", "eth0"),
            route("10.88.0.0/16", "ctr0"),
            route("fd00:1::/64", "eth0"),
        ];
        let resolvers = [
            "10.255.1.1".parse().unwrap(),
            "192.168.7.7".parse().unwrap(),
        ];
        overlaps(&[subnet.parse().unwrap()], &routes, &resolvers, own)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn clashes_are_named() {
        assert_eq!(
            clashes("10.255.0.0/20", &[]),
            [
                "route 10.255.0.0/16 dev eth0",
                "resolver 10.255.1.1 from /etc/resolv.conf"
            ]
        );
        assert_eq!(
            clashes("10.0.0.0/8", &["ctr0"]),
            [
                "route 10.255.0.0/16 dev eth0",
                "resolver 10.255.1.1 from /etc/resolv.conf"
            ]
        );
        assert_eq!(
            clashes("10.255.3.0/24", &[]),
            ["route 10.255.0.0/16 dev eth0"]
        );
        assert_eq!(
            clashes("192.168.0.0/16", &[]),
            ["resolver 192.168.7.7 from /etc/resolv.conf"]
        );
        assert_eq!(clashes("fd00:1::/80", &[]), ["route fd00:1::/64 dev eth0"]);
    }

    #[test]
    fn the_networks_own_routes_and_default_routes_are_no_clash() {
        assert_eq!(
            clashes("10.88.0.0/16", &[]),
            ["route 10.88.0.0/16 dev ctr0"]
        );
        assert!(clashes("10.88.0.0/16", &["ctr0"]).is_empty());
        assert!(clashes("172.16.0.0/12", &[]).is_empty());
        assert!(clashes("fd00:2::/64", &[]).is_empty());
    }

    #[test]
    fn resolvers_are_read_out_of_a_resolv_conf() {
        let text = "# nameserver 1.1.1.1\nsearch x\n nameserver\t10.0.0.1 # here\nnameserver\n\
                    nameserver fe80::1%eth0\nnameserver nonsense\nnameserver 10.0.0.1\nnameservers 9.9.9.9";
        let texts: Vec<_> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.1", "fe80::1"]);
    }

    proptest! {
        #[test]
        fn overlap_means_a_shared_address(
            a in any::<[u8; 4]>(), p in 1..=32u8, b in any::<[u8; 4]>(), q in 1..=32u8,
            near in any::<bool>(),
        ) {
            // Random networks seldom meet: bring half of them together.
            let b = if near { [a[0], a[1], b[2], b[3]] } else { b };
            let a = IpNet::new(a.into(), p).unwrap();
            let b = IpNet::new(b.into(), q).unwrap();
            let low = a.network().max(b.network());
            let high = a.broadcast().min(b.broadcast());
            prop_assert_eq!(overlap(&a, &b), low <= high);
            prop_assert_eq!(overlap(&a, &b), overlap(&b, &a));
        }

        #[test]
        fn arbitrary_resolv_confs_never_panic(text in ".{0,200}") {
            let _ = resolvers(&text);
        }
    }
}
