//! What is done to a container's interface once its addresses are known.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use circuit_core::Error;
use circuit_core::cni::{CniResult, ErrorReport, Route, code};
use ipnet::IpNet;

use super::{Answer, Call};
use crate::netlink::{
    AddressSpec, Beside, Link, LinkSpec, Message, Netlink, NetlinkError, RouteSpec,
};
use crate::netns::in_netns;

/// How long it may take to find out that nobody else has an IPv6 address.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the kernel is asked for that; it takes a second or two.
const INTERVAL: Duration = Duration::from_millis(20);

/// A request and what it is to do, for when it is refused.
type Step = (Message, String);

/// What the kernel refused to do.
pub(super) fn refused(what: impl std::fmt::Display, error: NetlinkError) -> ErrorReport {
    ErrorReport::from(Error::from(error)).context(format_args!("cannot {what}"))
}

/// Gives the container's interface its addresses and routes of `result`, and
/// sets it up. With `notify`, the kernel tells the neighbours of every address
/// as soon as it is in use.
///
/// # Errors
/// An error object that names the address or the route.
pub(super) fn configure(
    call: &Call<'_>,
    link: &Link,
    result: &CniResult,
    notify: bool,
) -> Answer<()> {
    let addresses = own_addresses(link, result)?;
    let ipv6 = addresses.iter().any(|address| address.addr().is_ipv6());
    if ipv6 || notify {
        set_sysctls(call, &link.name, ipv6, notify)?;
    }
    let gateways = Gateways::of(result);
    let mut steps = up_steps(link, &addresses);
    let mut socket = call.container()?;
    if gateways.v6.is_some() {
        // Routes through an address need one that may be used.
        carry_out(&mut socket, std::mem::take(&mut steps))?;
        settle(&mut socket, link)?;
    }
    steps.extend(result.routes.iter().map(|route| {
        let gateway = route.gw.or_else(|| gateways.like(route.dst));
        let what = match gateway {
            Some(gateway) => format!("add route {} via {gateway} to {}", route.dst, link.name),
            None => format!("add route {} to {}", route.dst, link.name),
        };
        (
            route_spec(route, gateway, link.index).add(Beside::Before),
            what,
        )
    }));
    carry_out(&mut socket, steps)
}

/// Sets the container's interface up, without addresses.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn set_up(call: &Call<'_>, link: &Link) -> Answer<()> {
    carry_out(&mut *call.container()?, up_steps(link, &[]))
}

/// The addresses of `result` that are for this interface.
fn own_addresses(link: &Link, result: &CniResult) -> Answer<Vec<IpNet>> {
    let mut own = Vec::new();
    for ip in &result.ips {
        let Some(index) = ip.interface else { continue };
        let interface = result.interfaces.get(index);
        if interface.is_none_or(|interface| interface.name != link.name) {
            return Err(ErrorReport::new(
                code::OTHER,
                format!(
                    "address {} is of another interface than {}",
                    ip.address, link.name
                ),
            ));
        }
        own.push(ip.address);
    }
    Ok(own)
}

/// The first gateway of each family: that of routes that name none.
#[derive(Debug, Default)]
struct Gateways {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl Gateways {
    fn of(result: &CniResult) -> Self {
        let first = |is: fn(&IpAddr) -> bool| {
            let own = result.ips.iter().filter(|ip| ip.interface.is_some());
            own.filter_map(|ip| ip.gateway).find(is)
        };
        Self {
            v4: first(IpAddr::is_ipv4),
            v6: first(IpAddr::is_ipv6),
        }
    }

    fn like(&self, dst: IpNet) -> Option<IpAddr> {
        match dst {
            IpNet::V4(_) => self.v4,
            IpNet::V6(_) => self.v6,
        }
    }
}

/// Before it is up, so that the kernel announces the addresses when it is.
fn up_steps(link: &Link, addresses: &[IpNet]) -> Vec<Step> {
    let name = &link.name;
    let mut steps: Vec<Step> = addresses
        .iter()
        .map(|address| {
            let request = AddressSpec::from(*address).add(link.index);
            (request, format!("add address {address} to {name}"))
        })
        .collect();
    let up = LinkSpec {
        up: Some(true),
        ..LinkSpec::default()
    };
    steps.push((up.change(link.index), format!("set {name} up")));
    steps
}

fn route_spec(route: &Route, gateway: Option<IpAddr>, index: u32) -> RouteSpec {
    RouteSpec {
        table: route.table,
        // The kernel's scopes are bytes; others mean the same as none.
        scope: route
            .scope
            .and_then(|scope| u8::try_from(scope).ok())
            .unwrap_or(0),
        priority: route.priority.unwrap_or(0),
        mtu: route.mtu,
        advmss: route.advmss,
        ..RouteSpec::new(route.dst, gateway, index)
    }
}

/// Sends requests at once, and tells the first one that is refused.
fn carry_out(socket: &mut Netlink, steps: Vec<Step>) -> Answer<()> {
    let (messages, texts): (Vec<Message>, Vec<String>) = steps.into_iter().unzip();
    let answers = socket
        .pipeline(&messages)
        .map_err(|e| refused("configure the interface", e))?;
    for (answer, what) in answers.into_iter().zip(texts) {
        answer.map_err(|e| refused(what, e))?;
    }
    Ok(())
}

/// Waits until it is known that nobody else has the IPv6 addresses, if the
/// interface carries traffic at all.
fn settle(socket: &mut Netlink, link: &Link) -> Answer<()> {
    let ask = |e| refused(format_args!("ask for the addresses of {}", link.name), e);
    let start = Instant::now();
    loop {
        let addresses = socket.addresses(link.index).map_err(ask)?;
        if let Some(failed) = addresses.iter().find(|address| address.dad_failed) {
            return Err(ErrorReport::new(
                code::OTHER,
                format!(
                    "address {} of {} is another's already",
                    failed.address, link.name
                ),
            ));
        }
        if addresses.iter().all(|address| !address.tentative) {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            let now = socket.link_at(link.index).map_err(ask)?;
            if now.is_none_or(|now| !now.running) {
                return Ok(());
            }
            return Err(ErrorReport::new(
                code::OTHER,
                format!(
                    "ipv6 addresses of {} are still tentative after {} s",
                    link.name,
                    PATIENCE.as_secs()
                ),
            ));
        }
        sleep(INTERVAL);
    }
}

fn set_sysctls(call: &Call<'_>, ifname: &str, ipv6: bool, notify: bool) -> Answer<()> {
    in_netns(call.needs_netns()?, || {
        if notify {
            // A kernel without IPv6 has but one of them.
            let _ = write(4, ifname, "arp_notify", "1");
            let _ = write(6, ifname, "ndisc_notify", "1");
        }
        if ipv6 {
            for name in ["lo", ifname] {
                enable_ipv6(name).map_err(|e| {
                    Error::internal(format!("cannot enable ipv6 on interface {name}: {e}"))
                })?;
            }
            write(6, ifname, "keep_addr_on_down", "1").map_err(|e| {
                Error::internal(format!("cannot set keep_addr_on_down of {ifname}: {e}"))
            })?;
        }
        Ok(())
    })
    .map_err(ErrorReport::from)
}

fn enable_ipv6(ifname: &str) -> io::Result<()> {
    match fs::read_to_string(sysctl(6, ifname, "disable_ipv6")) {
        Ok(value) if value.trim() != "0" => write(6, ifname, "disable_ipv6", "0"),
        // It is enabled, or there is none: then the address is refused.
        _ => Ok(()),
    }
}

fn write(family: u8, ifname: &str, key: &str, value: &str) -> io::Result<()> {
    fs::write(sysctl(family, ifname, key), value)
}

/// Of the calling thread's namespace. An interface's name has no slash.
fn sysctl(family: u8, ifname: &str, key: &str) -> String {
    format!("/proc/sys/net/ipv{family}/conf/{ifname}/{key}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use circuit_core::cni::{Interface, IpConfig};

    fn ip(address: &str, gateway: Option<&str>, interface: Option<usize>) -> IpConfig {
        IpConfig {
            address: address.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            interface,
        }
    }

    fn result(ips: Vec<IpConfig>) -> CniResult {
        let eth0 = Interface {
            name: "eth0".to_owned(),
            ..Interface::default()
        };
        CniResult {
            interfaces: vec![eth0],
            ips,
            ..CniResult::default()
        }
    }

    #[test]
    fn addresses_are_those_of_the_interface() {
        let link = Link {
            name: "eth0".to_owned(),
            ..Link::default()
        };
        let of = |ips| own_addresses(&link, &result(ips));
        let two = vec![
            ip("10.0.0.2/24", None, Some(0)),
            ip("10.0.0.3/24", None, None),
        ];
        assert_eq!(of(two).unwrap(), ["10.0.0.2/24".parse().unwrap()]);
        let error = of(vec![ip("10.0.0.2/24", None, Some(1))]).unwrap_err();
        assert!(
            error.msg.contains("10.0.0.2/24 is of another"),
            "{}",
            error.msg
        );
    }

    #[test]
    fn the_first_gateway_of_a_family_counts() {
        let gateways = Gateways::of(&result(vec![
            ip("10.9.0.2/24", Some("10.9.0.1"), None),
            ip("10.0.0.2/24", None, Some(0)),
            ip("10.1.0.2/24", Some("10.1.0.1"), Some(0)),
            ip("10.2.0.2/24", Some("10.2.0.1"), Some(0)),
            ip("fd00::2/64", Some("fd00::1"), Some(0)),
        ]));
        let like = |dst: &str| gateways.like(dst.parse().unwrap()).unwrap().to_string();
        assert_eq!(like("0.0.0.0/0"), "10.1.0.1");
        assert_eq!(like("::/0"), "fd00::1");
    }
}
