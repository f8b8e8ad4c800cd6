//! Giving an interface of a container its addresses and routes.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use circuit_core::cni::{CniResult, ErrorReport, Route, code};

use super::{Answer, Call, sysctl};
use crate::netlink::{AddressSpec, Beside, LinkSpec, Message, Netlink, NetlinkError, RouteSpec};
use crate::netns::in_netns;

/// How long an IPv6 address may be looked for elsewhere before it is used.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// How long to wait at most before looking again.
const SETTLE_PAUSE: Duration = Duration::from_millis(50);

/// A parameter of an interface: `ipv4` or `ipv6`, its name and its value.
pub(super) type Parameter = (&'static str, &'static str, &'static str);

/// Sets the interface of that index and name up in the container, with the
/// addresses and the routes of the result, once its addresses may be used.
/// `parameters` are set first, where the kernel has them.
///
/// # Errors
/// The first change that the kernel refuses. Those made go with the interface.
pub(super) fn configure(
    call: &Call<'_>,
    index: u32,
    result: &CniResult,
    parameters: &[Parameter],
) -> Answer<()> {
    for ip in &result.ips {
        check_interface(call, result, ip.interface)?;
    }
    let ipv6 = result
        .ips
        .iter()
        .any(|ip| ip.interface.is_some() && ip.address.addr().is_ipv6());
    // Looking a parameter up by its file costs more the more namespaces there
    // are.
    let by_netlink = |(family, name, value): &Parameter| {
        (*family == "ipv4" && *name == "arp_notify").then_some(*value == "1")
    };
    let (quick, slow): (Vec<Parameter>, Vec<Parameter>) =
        parameters.iter().partition(|it| by_netlink(it).is_some());
    set_parameters(call, ipv6, &slow)?;
    let mut steps: Vec<_> = quick
        .iter()
        .map(|it| notify_step(call, index, by_netlink(it)))
        .collect();
    steps.extend(address_steps(call, index, result));
    steps.extend(route_steps(call, index, result));
    let mut container = call.container()?;
    take(&mut container, &steps)?;
    let gateway = result.ips.iter().filter_map(|ip| ip.gateway);
    if gateway.clone().any(|ip| ip.is_ipv6()) {
        settle(&mut container, call.ifname, index)?;
    }
    Ok(())
}

/// An error about something that the kernel refuses.
pub(super) fn refused(what: impl std::fmt::Display, error: &NetlinkError) -> ErrorReport {
    ErrorReport::new(code::OTHER, format!("cannot {what}: {error}"))
}

/// An error about an address that cannot be added. The kernel has a word for IPv6
/// that is switched off, not for what to do.
pub(super) fn no_address(address: IpAddr, name: &str, error: &NetlinkError) -> ErrorReport {
    let what = format!("add address {address} to {name}");
    if address.is_ipv4() || error.errno() != Some(libc::EACCES) {
        return refused(what, error);
    }
    ErrorReport::new(
        code::OTHER,
        format!(
            "cannot {what}: IPv6 is switched off there: sysctl -w net.ipv6.conf.all.disable_ipv6=0 \
             net.ipv6.conf.default.disable_ipv6=0 allows it, or give the network IPv4 subnets only"
        ),
    )
}

/// Carries changes out at once, each with what it is, for error texts:
/// "cannot …".
///
/// # Errors
/// The first that the kernel refuses.
pub(super) fn take(socket: &mut Netlink, steps: &[(String, Message)]) -> Answer<()> {
    let messages: Vec<Message> = steps.iter().map(|(_, message)| message.clone()).collect();
    let answers = socket
        .pipeline(&messages)
        .map_err(|error| refused("use netlink", &error))?;
    for (answer, (what, _)) in answers.into_iter().zip(steps) {
        answer.map_err(|error| refused(what, &error))?;
    }
    Ok(())
}

fn check_interface(call: &Call<'_>, result: &CniResult, index: Option<usize>) -> Answer<()> {
    let named = |index: usize| {
        let interface = result.interfaces.get(index);
        interface.is_some_and(|interface| interface.name == call.ifname)
    };
    match index {
        Some(index) if !named(index) => Err(ErrorReport::new(
            code::OTHER,
            format!(
                "an address is for interface {index}, which is not {}",
                call.ifname
            ),
        )),
        _ => Ok(()),
    }
}

fn set_parameters(call: &Call<'_>, ipv6: bool, parameters: &[Parameter]) -> Answer<()> {
    if !ipv6 && parameters.is_empty() {
        return Ok(());
    }
    let ifname = call.ifname;
    let set = || {
        try_set_all(ifname, parameters);
        if ipv6 { enable_ipv6(ifname) } else { Ok(()) }
    };
    in_netns(call.needs_netns()?, || Ok(set()))?
}

/// Sets parameters of an interface in the namespace of this thread, where the
/// kernel has them.
pub(super) fn try_set_all(ifname: &str, parameters: &[Parameter]) {
    for (family, name, value) in parameters {
        sysctl::try_set(&format!("net/{family}/conf/{ifname}/{name}"), value);
    }
}

/// Lets the interface have IPv6 addresses, and keep them when it is set down.
fn enable_ipv6(ifname: &str) -> Answer<()> {
    let refused = |key: &str, error: &std::io::Error| {
        let text = format!("cannot set {key} in the container's namespace: {error}");
        ErrorReport::new(code::OTHER, text)
    };
    for name in ["lo", ifname] {
        let key = format!("net/ipv6/conf/{name}/disable_ipv6");
        match sysctl::get(&key) {
            Ok(value) if value == "0" => {}
            Ok(_) => sysctl::set(&key, "0").map_err(|e| refused(&key, &e))?,
            Err(error) => tracing::debug!(key, %error, "a kernel parameter cannot be read"),
        }
    }
    let key = format!("net/ipv6/conf/{ifname}/keep_addr_on_down");
    sysctl::set(&key, "1").map_err(|e| refused(&key, &e))
}

fn notify_step(call: &Call<'_>, index: u32, arp_notify: Option<bool>) -> (String, Message) {
    let spec = LinkSpec {
        arp_notify,
        ..LinkSpec::default()
    };
    let what = format!("set arp_notify of {}", call.ifname);
    (what, spec.change(index))
}

fn address_steps(call: &Call<'_>, index: u32, result: &CniResult) -> Vec<(String, Message)> {
    let ifname = call.ifname;
    let ours = result.ips.iter().filter(|ip| ip.interface.is_some());
    let mut steps: Vec<(String, Message)> = ours
        .map(|ip| {
            let what = format!("add address {} to {ifname}", ip.address);
            (what, AddressSpec::from(ip.address).add(index))
        })
        .collect();
    let up = LinkSpec {
        up: Some(true),
        ..LinkSpec::default()
    };
    steps.push((format!("set {ifname} up"), up.change(index)));
    steps
}

fn route_steps(call: &Call<'_>, index: u32, result: &CniResult) -> Vec<(String, Message)> {
    let step = |route: &Route| {
        let spec = route_spec(route, index, result);
        let via = spec.gateway.map(|ip| format!(" via {ip}"));
        let via = via.unwrap_or_default();
        let what = format!("add route {}{via} dev {}", route.dst, call.ifname);
        (what, spec.add(Beside::Before))
    };
    result.routes.iter().map(step).collect()
}

/// A route without a gateway goes by the first one of its family.
fn route_spec(route: &Route, index: u32, result: &CniResult) -> RouteSpec {
    let ipv6 = route.dst.addr().is_ipv6();
    let usual = || {
        let ours = result.ips.iter().filter(|ip| ip.interface.is_some());
        ours.filter_map(|ip| ip.gateway)
            .find(|gateway| gateway.is_ipv6() == ipv6)
    };
    RouteSpec {
        table: route.table,
        priority: route.priority.unwrap_or_default(),
        scope: route
            .scope
            .and_then(|scope| u8::try_from(scope).ok())
            .unwrap_or_default(),
        ..RouteSpec::new(route.dst, route.gw.or_else(usual), index)
    }
}

/// Waits until no IPv6 address of an interface is looked for elsewhere. One
/// that is not to be looked for is free at once.
///
/// # Errors
/// When somebody else has an address, or it takes too long.
pub(super) fn settle(socket: &mut Netlink, ifname: &str, index: u32) -> Answer<()> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let mut pause = Duration::from_millis(1);
    loop {
        let addresses = socket
            .addresses_by(index, true)
            .map_err(|e| refused(format_args!("list the addresses of {ifname}"), &e))?;
        if let Some(failed) = addresses.iter().find(|address| address.dad_failed) {
            return Err(ErrorReport::new(
                code::OTHER,
                format!("somebody else has address {} of {ifname}", failed.address),
            ));
        }
        let Some(address) = addresses.iter().find(|address| address.tentative) else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            let running = socket.link_at(index).ok().flatten();
            // Nobody can be asked on a link that carries nothing.
            return match running.is_some_and(|link| link.running) {
                false => Ok(()),
                true => Err(ErrorReport::new(
                    code::OTHER,
                    format!(
                        "address {} of {ifname} is still tentative after {} s",
                        address.address,
                        SETTLE_LIMIT.as_secs()
                    ),
                )),
            };
        }
        sleep(pause);
        pause = SETTLE_PAUSE.min(pause * 2);
    }
}
