//! Comparing an attachment with the result of its ADD.

use circuit_core::cni::{CniResult, ErrorReport, code};
use ipnet::IpNet;

use super::configure::refused;
use super::{Answer, Call};
use crate::netlink::{Link, MAIN_TABLE, Netlink, Route};

/// A difference that CHECK finds.
pub(super) fn differs(text: impl Into<String>) -> ErrorReport {
    ErrorReport::new(code::OTHER, text)
}

/// The container's interface, which has to be as in the result, and of this
/// kind if one is named.
///
/// # Errors
/// What differs.
pub(super) fn container_link(
    call: &Call<'_>,
    result: &CniResult,
    kind: Option<&str>,
) -> Answer<Link> {
    let (ifname, netns) = (call.ifname, call.needs_netns()?);
    let told = result.interface(ifname, netns.to_str()).ok_or_else(|| {
        differs(format!(
            "the result has no interface {ifname} in {}",
            netns.display()
        ))
    })?;
    let link = look_up(&mut *call.container()?, ifname)?
        .ok_or_else(|| differs(format!("interface {ifname} is not in the container")))?;
    if let Some(kind) = kind
        && !link.is(kind)
    {
        return Err(differs(format!("interface {ifname} is not of kind {kind}")));
    }
    check_mac(&link, told.mac.as_deref())?;
    Ok(link)
}

/// The interface has to have the hardware address, if the result tells one.
///
/// # Errors
/// That it does not.
pub(super) fn check_mac(link: &Link, told: Option<&str>) -> Answer<()> {
    match (told, link.mac.as_deref()) {
        (Some(told), now) if now.is_none_or(|now| !now.eq_ignore_ascii_case(told)) => {
            let (name, now) = (&link.name, now.unwrap_or("none"));
            Err(differs(format!(
                "interface {name} has hardware address {now}, not {told}"
            )))
        }
        _ => Ok(()),
    }
}

/// The container's interface has to have every address of the result, the
/// main table the networks of these, and the tables the routes.
///
/// # Errors
/// The first that is missing.
pub(super) fn addresses_and_routes(call: &Call<'_>, index: u32, result: &CniResult) -> Answer<()> {
    let mut container = call.container()?;
    let addresses = container
        .addresses(index)
        .map_err(|e| refused(format_args!("list the addresses of {}", call.ifname), &e))?;
    let tables = Tables::read(&mut container, result)?;
    for ip in &result.ips {
        if !addresses.iter().any(|found| found.address == ip.address) {
            return Err(differs(format!(
                "interface {} has no address {}",
                call.ifname, ip.address
            )));
        }
        // An address alone comes without a route in the main table.
        let is_net = ip.address.prefix_len() < ip.address.max_prefix_len();
        if is_net && !tables.of(&ip.address).any(|r| r.table == MAIN_TABLE) {
            return Err(differs(format!(
                "there is no route to {}",
                ip.address.trunc()
            )));
        }
    }
    for told in &result.routes {
        let table = told.table.filter(|t| *t != 0).unwrap_or(MAIN_TABLE);
        let is_default = told.dst.prefix_len() == 0;
        // An unspecified one is how a route straight to the interface is written.
        let gateway = told.gw.filter(|gw| !gw.is_unspecified());
        let found = tables.of(&told.dst).any(|route| {
            // Default routes may be put in order later, by other metrics.
            let by = is_default || gateway.is_none_or(|gw| route.gateway == Some(gw));
            route.table == table && by
        });
        if !found {
            let via = told.gw.map(|gw| format!(" via {gw}")).unwrap_or_default();
            return Err(differs(format!("there is no route to {}{via}", told.dst)));
        }
    }
    Ok(())
}

/// The interface of that name, if there is one.
///
/// # Errors
/// When the kernel cannot be asked.
pub(super) fn look_up(socket: &mut Netlink, name: &str) -> Answer<Option<Link>> {
    socket
        .link(name)
        .map_err(|e| refused(format_args!("look {name} up"), &e))
}

/// The routes of the families that a result is about.
struct Tables(Vec<Route>);

impl Tables {
    fn read(socket: &mut Netlink, result: &CniResult) -> Answer<Self> {
        let mut routes = Vec::new();
        let addresses = result.ips.iter().map(|ip| ip.address);
        let all: Vec<IpNet> = addresses
            .chain(result.routes.iter().map(|route| route.dst))
            .collect();
        for ipv6 in [false, true] {
            if all.iter().any(|net| net.addr().is_ipv6() == ipv6) {
                let found = socket.routes(ipv6);
                routes.extend(found.map_err(|e| refused("list the routes", &e))?);
            }
        }
        Ok(Self(routes))
    }

    fn of(&self, dst: &IpNet) -> impl Iterator<Item = &Route> {
        let dst = dst.trunc();
        self.0.iter().filter(move |route| route.dst == dst)
    }
}
