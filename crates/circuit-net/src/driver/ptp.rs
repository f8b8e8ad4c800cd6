//! `ptp`: a pair of veth for each container, and routes on both sides. All
//! that the container sends goes to the host.

use std::net::IpAddr;

use circuit_core::cni::{CniResult, ErrorReport, IpConfig, JsonObject, code};
use ipnet::IpNet;

use super::bridge::{enable_forwarding, mtu};
use super::configure::{configure, no_address, refused, take};
use super::managed::{Managed, dns_of};
use super::verify::look_up;
use super::veth::{self, Ends, Pair, told};
use super::{Answer, Call, Driver, Options, Unsupported, ipmasq, single, verify};
use crate::netlink::{
    AddressSpec, Beside, Link, MAIN_TABLE, Message, Netlink, NetlinkError, RouteSpec,
};
use crate::nft::masquerade;

const KEYS: [&str; 3] = ["ipMasq", "ipMasqBackend", "mtu"];
/// The place of the container's interface in a result.
const CONTAINER: usize = 1;

const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;

/// The driver.
pub(super) struct Ptp;

impl Driver for Ptp {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        Options::new(config).only(&KEYS)?;
        ipmasq::supports(config)
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let ipam = Managed::needed(call)?;
        let pair = Pair {
            mtu: mtu(&Options::new(call.config))?,
            ..Pair::default()
        };
        ipmasq::wanted(call)?;
        let leased = ipam.add()?;
        let made = veth::create(call, &pair, &[]).and_then(|ends| {
            attach(call, &ends, leased).inspect_err(|_| veth::remove(call, &ends.host))
        });
        made.inspect_err(|_| ipam.release_again())
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        single::forward(call, Managed::del)?;
        veth::detach(call)?;
        release_masquerade(call)
    }

    fn mend(&self, call: &Call<'_>) -> Answer<()> {
        let masqueraded = ipmasq::mend(call);
        mend_gateway(call)?;
        masqueraded
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        Managed::needed(call)?.check()?;
        let result = call.needs_prev()?;
        let link = verify::container_link(call, result, Some("veth"))?;
        verify::addresses_and_routes(call, link.index, result)
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        Managed::needed(call)?.status()
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        let released = single::forward(call, Managed::gc);
        let withdrawn = match call.valid()?.is_empty() {
            true => release_masquerade(call),
            false => Ok(()),
        };
        released.and(withdrawn)
    }
}

/// Everything behind the pair: what fails here is taken back by the caller.
fn attach(call: &Call<'_>, ends: &Ends, leased: CniResult) -> Answer<CniResult> {
    let netns = call.netns.map(|path| path.display().to_string());
    let mut result = leased;
    for ip in &mut result.ips {
        ip.interface = Some(CONTAINER);
        enable_forwarding(ip.address.addr().is_ipv6())?;
    }
    result.interfaces = vec![told(&ends.host, None), told(&ends.container, netns)];
    configure(call, ends.container.index, &result, &[])?;
    let mut inside = Vec::new();
    for ip in &result.ips {
        let gateway = gateway_of(ip)?;
        inside.extend(by_gateway(call.ifname, ends.container.index, ip, gateway));
    }
    take(&mut *call.container()?, &inside)?;
    lead_in(&mut *call.host()?, &ends.host, &result)?;
    if ipmasq::wanted(call)? {
        ipmasq::ensure(call, &result)?;
    }
    if let Some(dns) = dns_of(call)? {
        result.dns = dns;
    }
    Ok(result)
}

/// Gives the host's end the gateways' addresses, which every container's end has, and
/// the routes to its container. The answer is whether something of that was missing.
fn lead_in(host: &mut Netlink, end: &Link, result: &CniResult) -> Answer<bool> {
    let mut missing = false;
    let mut make = |host: &mut Netlink, message: &Message| match host.request(message) {
        Ok(_) => {
            missing = true;
            Ok(())
        }
        Err(NetlinkError::Kernel(libc::EEXIST, _)) => Ok(()),
        Err(error) => Err(error),
    };
    for ip in &result.ips {
        let gateway = gateway_of(ip)?;
        let address = AddressSpec::from(IpNet::from(gateway));
        make(host, &address.add(end.index)).map_err(|e| no_address(gateway, &end.name, &e))?;
    }
    for ip in &result.ips {
        let route = RouteSpec {
            scope: SCOPE_HOST,
            ..RouteSpec::new(IpNet::from(ip.address.addr()), None, end.index)
        };
        make(host, &route.add(Beside::Refused))
            .map_err(|e| refused(format_args!("add route {} on the host", route.dst), &e))?;
    }
    Ok(missing)
}

/// Has the host's end lead to its container again. One that is gone is left to whoever
/// attaches anew.
fn mend_gateway(call: &Call<'_>) -> Answer<()> {
    let Some(result) = call.prev else {
        return Ok(());
    };
    let told = result.interfaces.first();
    let Some(told) = told.filter(|told| told.sandbox.is_none()) else {
        return Ok(());
    };
    let mut host = call.host()?;
    let end = look_up(&mut host, &told.name)?;
    let Some(end) = end.filter(|end| end.is_half()) else {
        return Ok(());
    };
    if !end.up {
        veth::set_up(&mut host, &end)?;
    }
    let mut forwards = true;
    for ip in &result.ips {
        let ipv6 = ip.address.addr().is_ipv6();
        let asked = host.forwards(ipv6);
        if !asked.map_err(|e| refused("ask whether the host forwards", &e))? {
            forwards = false;
            enable_forwarding(ipv6)?;
        }
    }
    if lead_in(&mut host, &end, result)? || !end.up || !forwards {
        let (name, network) = (&end.name, call.network());
        tracing::warn!("{name} of network {network} led to its container no more: it does again");
    }
    Ok(())
}

fn gateway_of(ip: &IpConfig) -> Answer<IpAddr> {
    ip.gateway.ok_or_else(|| {
        ErrorReport::new(
            code::OTHER,
            format!("address {} has no gateway: add one to ipam", ip.address),
        )
    })
}

/// Replaces the route to the address' network that came with the address by
/// one that leads to the gateway.
fn by_gateway(ifname: &str, index: u32, ip: &IpConfig, gateway: IpAddr) -> [(String, Message); 3] {
    let network = ip.address.trunc();
    let direct = RouteSpec::new(network, None, index);
    let to_gateway = RouteSpec {
        scope: SCOPE_LINK,
        src: Some(ip.address.addr()),
        ..RouteSpec::new(IpNet::from(gateway), None, index)
    };
    let to_network = RouteSpec {
        src: Some(ip.address.addr()),
        ..RouteSpec::new(network, Some(gateway), index)
    };
    [
        (
            format!("remove route {network} dev {ifname}"),
            direct.remove(),
        ),
        (
            format!("add route {gateway} dev {ifname}"),
            to_gateway.add(Beside::Refused),
        ),
        (
            format!("add route {network} via {gateway} dev {ifname}"),
            to_network.add(Beside::Refused),
        ),
    ]
}

/// Ends the masquerading of the network when no container has a route left.
fn release_masquerade(call: &Call<'_>) -> Answer<()> {
    // What ADD refuses has left nothing.
    if !ipmasq::wanted(call).unwrap_or(false) {
        return Ok(());
    }
    // Those of every container, whatever the configuration is by now.
    let subnets = masquerade::subnets(call.network())?;
    ipmasq::release(call, || {
        let mut host = call.host()?;
        for ipv6 in [false, true] {
            let mut ours = subnets.iter().filter(|net| net.addr().is_ipv6() == ipv6);
            if ours.clone().next().is_some() && leads_to_containers(&mut host, ipv6, &mut ours)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Whether the host has a route to a single address in one of the subnets.
fn leads_to_containers<'a>(
    host: &mut Netlink,
    ipv6: bool,
    subnets: &mut (impl Iterator<Item = &'a IpNet> + Clone),
) -> Answer<bool> {
    let routes = host
        .routes(ipv6)
        .map_err(|e| refused("list the routes of the host", &e))?;
    let single = routes.iter().filter(|route| {
        route.table == MAIN_TABLE && route.dst.prefix_len() == route.dst.max_prefix_len()
    });
    // Those to gateways are of the kernel's making (2).
    let mut single = single.filter(|route| route.protocol != 2);
    Ok(single.any(|route| subnets.clone().any(|net| net.contains(&route.dst))))
}
