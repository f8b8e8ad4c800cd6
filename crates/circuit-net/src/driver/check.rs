//! CHECK: whether the kernel still has what the previous result tells of.

use std::net::IpAddr;

use circuit_core::cni::{CniResult, ErrorReport, IpConfig, Route as Wanted, code};
use ipnet::IpNet;

use super::configure_lan::refused;
use super::{Answer, Call};
use crate::netlink::{Link, MAIN_TABLE, Route};

/// The attachment's interface, which must be what the previous result says.
///
/// # Errors
/// An error object that names the difference.
pub(super) fn interface(call: &Call<'_>, kind: Option<&str>) -> Answer<Link> {
    let prev = call.needs_prev()?;
    let netns = call.needs_netns()?.to_string_lossy();
    let name = call.ifname;
    let Some(told) = prev.interface(name, Some(&netns)) else {
        return differs(format!("prevResult has no interface {name} in {netns}"));
    };
    let found = call.container()?.link(name);
    let found = found.map_err(|e| refused(format_args!("look up {name}"), e))?;
    let Some(link) = found else {
        return differs(format!("interface {name} is gone from {netns}"));
    };
    if let Some(kind) = kind
        && !link.is(kind)
    {
        return differs(format!("interface {name} is no {kind}"));
    }
    let mac = link.mac.as_deref().unwrap_or_default();
    match &told.mac {
        Some(told) if !told.eq_ignore_ascii_case(mac) => differs(format!(
            "interface {name} has the hardware address {mac}, not {told}"
        )),
        _ => Ok(link),
    }
}

/// The addresses and routes of the previous result.
///
/// # Errors
/// An error object that names the first one that is missing.
pub(super) fn configuration(call: &Call<'_>, link: &Link) -> Answer<()> {
    let prev = call.needs_prev()?;
    let mut socket = call.container()?;
    let has = socket
        .addresses(link.index)
        .map_err(|e| refused(format_args!("ask for the addresses of {}", link.name), e))?;
    let mut routes: Vec<Route> = Vec::new();
    for ipv6 in [false, true] {
        let found = socket.routes(ipv6);
        routes.extend(found.map_err(|e| refused("ask for the routes", e))?);
    }
    for ip in own_addresses(prev, link) {
        if has.iter().all(|address| address.address != ip) {
            return differs(format!("interface {} has lost address {ip}", link.name));
        }
        // The kernel makes none for an address alone.
        let is_net = ip.prefix_len() < ip.max_prefix_len();
        let net = Wanted::new(ip.trunc(), None);
        if is_net && routes.iter().all(|route| !is(route, &net)) {
            return differs(format!("the route to {} is gone", net.dst));
        }
    }
    match prev
        .routes
        .iter()
        .find(|wanted| routes.iter().all(|route| !is(route, wanted)))
    {
        None => Ok(()),
        Some(wanted) => differs(format!("the route to {} is gone", wanted.dst)),
    }
}

fn own_addresses<'a>(prev: &'a CniResult, link: &'a Link) -> impl Iterator<Item = IpNet> + 'a {
    let other = |ip: &&IpConfig| {
        let interface = ip.interface.and_then(|index| prev.interfaces.get(index));
        interface.is_none_or(|interface| interface.name == link.name)
    };
    prev.ips.iter().filter(other).map(|ip| ip.address)
}

/// Whether a route is the one that is wanted. Which gateway a default route has
/// is not looked at: plugins order and replace them.
fn is(route: &Route, wanted: &Wanted) -> bool {
    let table = wanted
        .table
        .filter(|table| *table != 0)
        .unwrap_or(MAIN_TABLE);
    // An unspecified one is how a route straight to the interface is written.
    let named = |gateway: &IpAddr| wanted.dst.prefix_len() > 0 && !gateway.is_unspecified();
    let gateway = wanted.gw.filter(named);
    route.dst == wanted.dst.trunc()
        && route.table == table
        && gateway.is_none_or(|gateway| route.gateway == Some(gateway))
}

fn differs<T>(text: String) -> Answer<T> {
    let text = format!("{text}: attach the container again");
    Err(ErrorReport::new(code::OTHER, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_told_apart() {
        let route = |dst: &str, gateway: Option<&str>, table| Route {
            dst: dst.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            oif: None,
            table,
            protocol: 3,
            scope: 0,
            priority: 0,
            unicast: true,
        };
        let wanted = |dst: &str, gateway: Option<&str>| {
            let gateway = gateway.map(|gateway| gateway.parse().unwrap());
            Wanted::new(dst.parse().unwrap(), gateway)
        };
        let (one, two) = (Some("10.0.0.1"), Some("10.0.0.2"));
        let net = wanted("10.1.0.0/16", one);
        assert!(is(&route("10.1.0.0/16", one, 254), &net));
        assert!(!is(&route("10.1.0.0/16", two, 254), &net));
        assert!(!is(&route("10.1.0.0/16", one, 5), &net));
        assert!(is(&route("0.0.0.0/0", two, 254), &wanted("0.0.0.0/0", one)));
        let in_table = Wanted {
            table: Some(5),
            ..wanted("10.1.2.3/16", None)
        };
        assert!(is(&route("10.1.0.0/16", one, 5), &in_table));
    }
}
