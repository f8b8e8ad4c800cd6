//! `bridge`: a port of a bridge on the host, which may be the gateway.
//!
//! The bridge and its addresses belong to the network: attachments make them
//! when they are not there, and leave them.

mod config;
mod host;

use std::thread::sleep;
use std::time::Duration;

use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};

use super::configure::{Parameter, configure, refused};
use super::managed::{Managed, dns_of};
use super::verify::{self, differs, look_up};
use super::veth::{self, Ends, Pair, told};
use super::{Answer, Call, Driver, Unsupported, ipmasq, single};
use crate::netlink::{Link, Netlink};
use config::Config;

pub(super) use config::{DEFAULT_BRIDGE, mtu};
pub(super) use host::enable_forwarding;

/// The place of the container's interface in a result.
const CONTAINER: usize = 2;

/// How long to wait, in milliseconds, each time a new port does not carry
/// traffic yet. The kernel says so at once, or never; old ones a bit later.
const PORT_PAUSES: [u64; 9] = [0, 1, 2, 5, 10, 50, 500, 1000, 1000];

/// The driver.
pub(super) struct Bridge;

impl Driver for Bridge {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        config::supports(config)
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let config = Config::read(call)?;
        // What cannot be is told before anything is made.
        ipmasq::wanted(call)?;
        let ipam = Managed::of(call)?;
        if ipam.is_some() && !config.container_up {
            return Err(ErrorReport::new(
                code::INVALID_CONFIG,
                "ipam and disableContainerInterface exclude each other: remove one of them",
            ));
        }
        let mac = config.mac()?;
        let bridge = host::ensure(&mut *call.host()?, &config)?;
        let pair = Pair {
            mtu: config.mtu,
            mac,
            master: Some(bridge.index),
        };
        let parameters: &[Parameter] = match (ipam, config.dad) {
            (None, _) => &[],
            (Some(_), true) => &[("ipv6", "enhanced_dad", "1"), ("ipv6", "accept_dad", "1")],
            (Some(_), false) => &[("ipv6", "accept_dad", "0")],
        };
        let ends = veth::create(call, &pair, parameters)?;
        let mut leased = None;
        let port = host::set_up_new_port(&mut *call.host()?, &bridge, &ends.host, &config);
        let made = port.and_then(|()| {
            let lease = ipam.map(|ipam| ipam.add()).transpose()?;
            leased = ipam;
            attach(call, &config, bridge, &ends, lease)
        });
        made.inspect_err(|_| undo(call, &ends, leased))
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        let ipam = Managed::of(call)?;
        if let Some(ipam) = ipam.filter(Managed::gives_back_by_the_interface) {
            let released = ipam.del();
            veth::detach(call)?;
            released?;
        } else {
            veth::detach(call)?;
            // The address is free for others once nobody has it.
            ipam.map_or(Ok(()), |ipam| ipam.del())?;
        }
        match ipam {
            Some(_) => release_masquerade(call),
            None => Ok(()),
        }
    }

    fn mend(&self, call: &Call<'_>) -> Answer<()> {
        let masqueraded = ipmasq::mend(call);
        host::mend(call, &Config::read(call)?, CONTAINER)?;
        masqueraded
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let config = Config::read(call)?;
        if let Some(ipam) = Managed::of(call)? {
            ipam.check()?;
        }
        let result = call.needs_prev()?;
        let bridge = check_bridge(call, &config, result)?;
        let container = verify::container_link(call, result, Some("veth"))?;
        check_port(call, result, &bridge, &container)?;
        verify::addresses_and_routes(call, container.index, result)
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        Managed::of(call)?.map_or(Ok(()), |ipam| ipam.status())
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

/// Everything behind the lease: what fails here is taken back by the caller.
fn attach(
    call: &Call<'_>,
    config: &Config<'_>,
    bridge: Link,
    ends: &Ends,
    leased: Option<CniResult>,
) -> Answer<CniResult> {
    let netns = call.netns.map(|path| path.display().to_string());
    let routed = leased.is_some();
    let mut result = leased.unwrap_or_default();
    result.interfaces = vec![
        told(&bridge, None),
        told(&ends.host, None),
        told(&ends.container, netns),
    ];
    let gateways = host::gateways(config, &mut result, CONTAINER);
    // Once the container's end is up, the kernel is busy with it and answers
    // late: what is there already is asked before.
    let ready = host::is_gateway(&mut *call.host()?, &bridge, config, &gateways)?
        && (gateways.is_empty() || host::keeps_mac(&bridge));
    if routed && ipmasq::wanted(call)? {
        ipmasq::ensure(call, &result)?;
    }
    if ready {
        result.interfaces[0].mac = look_again(&mut *call.host()?, &bridge)?.mac;
    }
    if routed {
        let parameters = [("ipv4", "arp_notify", "1")];
        configure(call, ends.container.index, &result, &parameters)?;
    } else if config.container_up {
        veth::set_up(&mut *call.container()?, &ends.container)?;
    }
    let mut socket = call.host()?;
    if !ready {
        if let Some(vlan) = host::become_gateway(&mut socket, &bridge, config, &gateways)? {
            result.interfaces.push(told(&vlan, None));
        }
        // Its hardware address may have changed by that.
        result.interfaces[0].mac = look_again(&mut socket, &bridge)?.mac;
    }
    result.interfaces[1].mac = port_in_use(&mut socket, config, &bridge, &ends.host)?.mac;
    if let Some(dns) = dns_of(call)? {
        result.dns = dns;
    }
    Ok(result)
}

/// Takes a failed attachment back.
fn undo(call: &Call<'_>, ends: &Ends, leased: Option<Managed<'_>>) {
    veth::remove(call, &ends.host);
    let Some(ipam) = leased else { return };
    ipam.release_again();
    if let Err(error) = release_masquerade(call) {
        let (network, error) = (call.network(), error.text());
        tracing::warn!(network, error, "masquerading could not be withdrawn");
    }
}

/// An interface as it is now.
fn look_again(socket: &mut Netlink, link: &Link) -> Answer<Link> {
    let name = &link.name;
    let now = socket.link_at(link.index);
    let now = now.map_err(|e| refused(format_args!("look {name} up"), &e))?;
    now.ok_or_else(|| ErrorReport::new(code::OTHER, format!("interface {name} vanished")))
}

/// The port as it is now. It has to carry traffic, unless the container's end
/// is down on purpose.
fn port_in_use(
    socket: &mut Netlink,
    config: &Config<'_>,
    bridge: &Link,
    port: &Link,
) -> Answer<Link> {
    for pause in PORT_PAUSES {
        sleep(Duration::from_millis(pause));
        let now = look_again(socket, port)?;
        if now.running || !config.container_up {
            return Ok(now);
        }
    }
    Err(ErrorReport::new(
        code::OTHER,
        format!(
            "port {} of bridge {} carries no traffic",
            port.name, bridge.name
        ),
    ))
}

/// Ends the masquerading of the network when the bridge has no container left. Of the
/// configuration it reads no more than that takes, for the rest may be wrong by now.
fn release_masquerade(call: &Call<'_>) -> Answer<()> {
    // What ADD refuses has left nothing.
    if !ipmasq::wanted(call).unwrap_or(false) {
        return Ok(());
    }
    let bridge = config::bridge(call)?;
    ipmasq::release(call, || {
        let Some(bridge) = look_up(&mut *call.host()?, bridge)? else {
            return Ok(true);
        };
        // Other ports are the host's own, such as that of its VLAN's gateway.
        let of_container = |port: &Link| port.parent_netns.is_some();
        let found = Netlink::open(None)?.any_port(bridge.index, of_container);
        let found =
            found.map_err(|e| refused(format_args!("list the ports of {}", bridge.name), &e))?;
        Ok(!found)
    })
}

fn check_bridge(call: &Call<'_>, config: &Config<'_>, result: &CniResult) -> Answer<Link> {
    let name = config.bridge;
    let mut interfaces = result.interfaces.iter();
    let told = interfaces
        .find(|interface| interface.name == name && interface.sandbox.is_none())
        .ok_or_else(|| differs(format!("the result has no bridge {name}")))?;
    let link = look_up(&mut *call.host()?, name)?
        .filter(|link| link.is("bridge"))
        .ok_or_else(|| differs(format!("there is no bridge {name}")))?;
    // That of a bridge which is no gateway follows its ports.
    if config.gateway {
        verify::check_mac(&link, told.mac.as_deref())?;
    }
    match ((link.promiscuity != 0), config.promisc) {
        (true, false) => Err(differs(format!("bridge {name} is promiscuous"))),
        (false, true) => Err(differs(format!("bridge {name} is not promiscuous"))),
        _ => Ok(link),
    }
}

/// The other end of the container's interface has to be a port of the bridge,
/// and in the result.
fn check_port(call: &Call<'_>, result: &CniResult, bridge: &Link, container: &Link) -> Answer<()> {
    let index = container.parent.unwrap_or_default();
    let port = call.host()?.link_at(index);
    let port = port.map_err(|e| refused("look the port up", &e))?;
    let port = port
        .filter(|port| port.master == Some(bridge.index) && port.parent == Some(container.index))
        .ok_or_else(|| {
            let (ifname, bridge) = (call.ifname, &bridge.name);
            differs(format!("interface {ifname} is no port of bridge {bridge}"))
        })?;
    let mut interfaces = result.interfaces.iter();
    let told = interfaces
        .find(|interface| interface.name == port.name && interface.sandbox.is_none())
        .ok_or_else(|| differs(format!("port {} is not in the result", port.name)))?;
    verify::check_mac(&port, told.mac.as_deref())
}
