//! `ptp`: a pair of veth for each container, and routes on both sides. All
//! that the container sends goes to the host.

use std::net::IpAddr;

use circuit_core::cni::{CniResult, ErrorReport, IpConfig, JsonObject, code};
use ipnet::IpNet;

use super::bridge::{enable_forwarding, mtu};
use super::configure::{configure, no_address, refused, take};
use super::managed::{Managed, dns_of};
use super::veth::{self, Ends, Pair, told};
use super::{Answer, Call, Driver, Options, Unsupported, ipmasq, verify};
use crate::netlink::{Beside, MAIN_TABLE, Message, Netlink, RouteSpec};

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
        Managed::needed(call)?.del()?;
        veth::detach(call)?;
        release_masquerade(call)
    }

    fn mend(&self, call: &Call<'_>) -> Answer<()> {
        ipmasq::mend(call)
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
        Managed::needed(call)?.gc()?;
        match call.valid()?.is_empty() {
            true => release_masquerade(call),
            false => Ok(()),
        }
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
    let mut outside = Vec::new();
    for ip in &result.ips {
        let gateway = gateway_of(ip)?;
        inside.extend(by_gateway(call.ifname, ends.container.index, ip, gateway));
        outside.push(gateway);
    }
    take(&mut *call.container()?, &inside)?;
    // Each container's end on the host has the same.
    let mut host = call.host()?;
    for gateway in outside {
        let added = host.add_address(ends.host.index, &IpNet::from(gateway).into());
        added.map_err(|e| no_address(gateway, &ends.host.name, &e))?;
    }
    for ip in &result.ips {
        let route = RouteSpec {
            scope: SCOPE_HOST,
            ..RouteSpec::new(IpNet::from(ip.address.addr()), None, ends.host.index)
        };
        let added = host.carry_out(&[route.add(Beside::Refused)], &[libc::EEXIST]);
        added.map_err(|e| refused(format_args!("add route {} on the host", route.dst), &e))?;
    }
    drop(host);
    if ipmasq::wanted(call)? {
        ipmasq::ensure(call, &result)?;
    }
    if let Some(dns) = dns_of(call)? {
        result.dns = dns;
    }
    Ok(result)
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
    let subnets = ipmasq::subnets(call, call.prev);
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
