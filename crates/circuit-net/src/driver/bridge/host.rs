//! The bridge on the host: making it, and its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use circuit_core::cni::{CniResult, ErrorReport, IpConfig, Route, code};
use ipnet::IpNet;

use super::config::Config;
use crate::driver::configure::{no_address, refused, take};
use crate::driver::verify::look_up;
use crate::driver::veth::{self, Pair};
use crate::driver::{Answer, Call};
use crate::forwarding;
use crate::netlink::{
    Address, AddressSpec, Link, LinkSpec, Mac, Message, Netlink, NetlinkError, Vlans, add_vlans,
    delete_vlans, set_port,
};

const IFLA_BR_VLAN_FILTERING: u16 = 7;

/// How a hardware address came about: it was set, in the kernel's `if_arp.h`.
const NET_ADDR_SET: &str = "3";

/// The place of the container's port in a result.
const PORT: usize = 1;

/// Makes the bridge, if it is not there, and sets it up.
pub(super) fn ensure(socket: &mut Netlink, config: &Config<'_>) -> Answer<Link> {
    let name = config.bridge;
    let link = match look_up(socket, name)? {
        Some(link) => link,
        None => make(socket, config)?,
    };
    if !link.is("bridge") {
        return Err(ErrorReport::new(
            code::OTHER,
            format!("interface {name} exists and is no bridge: choose another name"),
        ));
    }
    veth::refuse_routers(&link);
    if !link.up || config.promisc {
        let up = LinkSpec {
            up: Some(true),
            promisc: config.promisc.then_some(true),
            ..LinkSpec::default()
        };
        let set = socket.set_link(link.index, &up);
        set.map_err(|e| refused(format_args!("set bridge {name} up"), &e))?;
    }
    Ok(link)
}

fn make(socket: &mut Netlink, config: &Config<'_>) -> Answer<Link> {
    let name = config.bridge;
    // Containers know a gateway's address: udev must not replace it.
    let is_gateway = config.gateway && config.addressed && config.vlan.is_none();
    let spec = LinkSpec {
        mtu: config.mtu,
        mac: is_gateway.then(Mac::random),
        ..LinkSpec::named(name)
    };
    let filtering = |m: Message| match config.vlan_filtering() {
        true => m.with(IFLA_BR_VLAN_FILTERING, &[1]),
        false => m,
    };
    match socket.create(name, spec.create("bridge", filtering)) {
        Ok(link) => Ok(link),
        // Another attachment was faster.
        Err(error) if error.errno() == Some(libc::EEXIST) => look_up(socket, name)?
            .ok_or_else(|| refused(format_args!("make bridge {name}"), &error)),
        Err(error) => Err(refused(format_args!("make bridge {name}"), &error)),
    }
}

/// Sets what a new port of the bridge has besides being one, also when another program
/// takes it out of the bridge meanwhile.
pub(super) fn set_up_new_port(
    socket: &mut Netlink,
    bridge: &Link,
    port: &Link,
    config: &Config<'_>,
) -> Answer<()> {
    let set = set_up_port(socket, bridge, port, config);
    if set.is_err() && put_back(socket, bridge, &port.name)?.is_some() {
        return set_up_port(socket, bridge, port, config);
    }
    set
}

fn set_up_port(
    socket: &mut Netlink,
    bridge: &Link,
    port: &Link,
    config: &Config<'_>,
) -> Answer<()> {
    let mut steps = Vec::new();
    let name = &port.name;
    // A new port is neither.
    if config.hairpin || config.isolated {
        let set = set_port(port.index, config.hairpin, config.isolated);
        steps.push((format!("set the flags of port {name}"), set));
    }
    take(socket, &steps)?;
    let vlans = config.vlans();
    join_vlans(socket, bridge, port, &vlans, config.keep_default_vlan)
}

/// Puts a new port into VLANs, instead of into the one that the bridge puts
/// new ports into.
fn join_vlans(
    socket: &mut Netlink,
    bridge: &Link,
    port: &Link,
    vlans: &[Vlans],
    keep_default: bool,
) -> Answer<()> {
    if vlans.is_empty() {
        return Ok(());
    }
    let what = format!("set the vlans of port {}", port.name);
    if let Some(vid) = bridge.default_pvid().filter(|_| !keep_default) {
        let message = delete_vlans(port.index, &[Vlans::tagged(vid)]);
        match socket.request(&message) {
            Ok(_) | Err(NetlinkError::Kernel(libc::ENOENT, _)) => {}
            Err(error) => return Err(refused(what, &error)),
        }
    }
    let add = |vlans: &Vlans| (what.clone(), add_vlans(port.index, &[*vlans]));
    let steps: Vec<(String, Message)> = vlans.iter().map(add).collect();
    take(socket, &steps)
}

/// Says which interface the addresses are for, works out the gateways that are
/// not named, and adds the default routes. The answer is the addresses that
/// the host is to have.
pub(super) fn gateways(config: &Config<'_>, result: &mut CniResult, index: usize) -> Vec<IpNet> {
    let mut wanted = Vec::new();
    for ip in &mut result.ips {
        ip.interface = Some(index);
        if config.gateway && ip.gateway.is_none() {
            ip.gateway = first_address(&ip.address);
        }
        if config.default_gateway {
            add_default(&mut result.routes, ip);
        }
        let own = ip.gateway.filter(|_| config.gateway);
        wanted.extend(own.and_then(|ip_| IpNet::new(ip_, ip.address.prefix_len()).ok()));
    }
    wanted
}

/// Adds a default route of the address' family, unless one by a gateway is
/// there.
fn add_default(routes: &mut Vec<Route>, ip: &IpConfig) {
    let everywhere = match ip.address {
        IpNet::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpNet::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let everywhere = IpNet::from(everywhere);
    let dst = IpNet::new(everywhere.addr(), 0).unwrap_or(everywhere);
    if !routes
        .iter()
        .any(|route| route.gw.is_some() && route.dst == dst)
    {
        routes.push(Route::new(dst, ip.gateway));
    }
}

/// The address behind the network's own.
fn first_address(net: &IpNet) -> Option<IpAddr> {
    match net.network() {
        IpAddr::V4(ip) => u32::from(ip)
            .checked_add(1)
            .map(|n| Ipv4Addr::from(n).into()),
        IpAddr::V6(ip) => u128::from(ip)
            .checked_add(1)
            .map(|n| Ipv6Addr::from(n).into()),
    }
}

/// Whether the bridge is all that [`become_gateway`] would make it.
pub(super) fn is_gateway(
    socket: &mut Netlink,
    bridge: &Link,
    config: &Config<'_>,
    addresses: &[IpNet],
) -> Answer<bool> {
    if addresses.is_empty() {
        return Ok(config.vlan.is_none());
    }
    if config.vlan.is_some() {
        return Ok(false);
    }
    for ipv6 in [false, true] {
        let mut wanted = addresses.iter().filter(|net| net.addr().is_ipv6() == ipv6);
        if wanted.clone().next().is_none() {
            continue;
        }
        let there = socket
            .addresses_by(bridge.index, ipv6)
            .map_err(|e| refused(format_args!("list the addresses of {}", bridge.name), &e))?;
        let has = |wanted: &IpNet| there.iter().any(|address| address.address == *wanted);
        let forwards = socket
            .forwards(ipv6)
            .map_err(|e| refused("ask whether the host forwards", &e))?;
        if !wanted.all(has) || !forwards {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives the bridge, or its interface in the VLAN, the gateways' addresses,
/// and lets the host forward. The answer is that interface, if there is one.
pub(super) fn become_gateway(
    socket: &mut Netlink,
    bridge: &Link,
    config: &Config<'_>,
    addresses: &[IpNet],
) -> Answer<Option<Link>> {
    let vlan = match config.vlan {
        Some(vid) if !addresses.is_empty() => Some(vlan_interface(socket, bridge, config, vid)?),
        _ => None,
    };
    let owner = vlan.as_ref().unwrap_or(bridge);
    for address in addresses {
        ensure_address(socket, owner, *address, config.force_address)?;
    }
    for ipv6 in [false, true] {
        if addresses.iter().any(|net| net.addr().is_ipv6() == ipv6) {
            enable_forwarding(ipv6)?;
        }
    }
    Ok(vlan)
}

/// Sets the bridge up again, takes the container's port back into it, and gives it the
/// addresses back that an attachment needs of it. One that is gone is left to whoever
/// attaches anew: its ports are gone too.
pub(super) fn mend(call: &Call<'_>, config: &Config<'_>, index: usize) -> Answer<()> {
    let Some(mut result) = call.prev.cloned() else {
        return Ok(());
    };
    let mut socket = call.host()?;
    let bridge = look_up(&mut socket, config.bridge)?;
    let Some(bridge) = bridge.filter(|link| link.is("bridge")) else {
        return Ok(());
    };
    if !bridge.up {
        ensure(&mut socket, config)?;
        tracing::warn!("bridge {} was down: it is up again", bridge.name);
    }
    mend_port(&mut socket, &bridge, config, &result)?;
    let addresses = gateways(config, &mut result, index);
    if addresses.is_empty() || is_gateway(&mut socket, &bridge, config, &addresses)? {
        return Ok(());
    }
    become_gateway(&mut socket, &bridge, config, &addresses)?;
    // Whether those of a VLAN's interface were there was not asked.
    if config.vlan.is_none() {
        let name = &bridge.name;
        tracing::warn!(
            "bridge {name} was no gateway any more: its addresses and forwarding are set again"
        );
    }
    Ok(())
}

/// Takes a port back that somebody took out of the bridge, and sets it up. One that is
/// in another bridge was put there on purpose.
fn mend_port(
    socket: &mut Netlink,
    bridge: &Link,
    config: &Config<'_>,
    result: &CniResult,
) -> Answer<()> {
    let told = result.interfaces.get(PORT);
    let Some(told) = told.filter(|told| told.sandbox.is_none()) else {
        return Ok(());
    };
    match put_back(socket, bridge, &told.name)? {
        Some(port) => set_up_port(socket, bridge, &port, config),
        None => Ok(()),
    }
}

/// Puts the host's end of a pair into the bridge and sets it up; none when it is there,
/// or in another one.
fn put_back(socket: &mut Netlink, bridge: &Link, name: &str) -> Answer<Option<Link>> {
    let port = look_up(socket, name)?.filter(|port| port.is_half());
    let Some(port) = port.filter(|port| port.is_loose(bridge)) else {
        return Ok(None);
    };
    let back = LinkSpec {
        master: Some(bridge.index),
        up: Some(true),
        ..LinkSpec::default()
    };
    let set = socket.set_link(port.index, &back);
    let bridge = &bridge.name;
    set.map_err(|e| refused(format_args!("put {name} into bridge {bridge}"), &e))?;
    tracing::warn!("{name} was no port of bridge {bridge} any more, or down: it is back");
    Ok(Some(port))
}

/// Lets the host forward.
pub(in crate::driver) fn enable_forwarding(ipv6: bool) -> Answer<()> {
    forwarding::enable(ipv6).map_err(|e| ErrorReport::new(code::OTHER, e.message()))
}

/// The host's own interface in a VLAN of the bridge: one end of a pair whose
/// other end is a port.
fn vlan_interface(
    socket: &mut Netlink,
    bridge: &Link,
    config: &Config<'_>,
    vid: u16,
) -> Answer<Link> {
    let name = format!("{}.{vid}", bridge.name);
    if let Some(link) = look_up(socket, &name)? {
        return Ok(link);
    }
    let pair = Pair {
        mtu: bridge.mtu,
        master: Some(bridge.index),
        mac: None,
    };
    let port = veth::create_on_host(socket, &pair, &name)?;
    let joined = join_vlans(
        socket,
        bridge,
        &port,
        &[Vlans::native(vid)],
        config.keep_default_vlan,
    );
    if let Err(error) = joined {
        // Half of it would be taken for the whole by the next attachment.
        let _ = socket.delete_links(&[port.index]);
        return Err(error);
    }
    look_up(socket, &name)?
        .ok_or_else(|| ErrorReport::new(code::OTHER, format!("interface {name} vanished")))
}

/// Gives an interface an address, beside or instead of others, and makes its
/// hardware address its own, which would follow its ports' otherwise.
fn ensure_address(socket: &mut Netlink, link: &Link, wanted: IpNet, force: bool) -> Answer<()> {
    let name = &link.name;
    let there = socket
        .addresses(link.index)
        .map_err(|e| refused(format_args!("list the addresses of {name}"), &e))?;
    if !there.iter().any(|address| address.address == wanted) {
        make_room(socket, link, &there, wanted, force)?;
        let added = socket.add_address(link.index, &wanted.into());
        added.map_err(|e| no_address(wanted.addr(), name, &e))?;
    }
    let own = LinkSpec {
        mac: Some(lasting_mac(link)),
        ..LinkSpec::default()
    };
    let set = socket.set_link(link.index, &own);
    set.map_err(|e| refused(format_args!("set the hardware address of {name}"), &e))
}

/// Removes the addresses that one cannot be beside.
fn make_room(
    socket: &mut Netlink,
    link: &Link,
    there: &[Address],
    wanted: IpNet,
    force: bool,
) -> Answer<()> {
    let name = &link.name;
    let there = there.iter().map(|address| address.address);
    let mut steps = Vec::new();
    for old in there.filter(|old| old.addr().is_ipv4() == wanted.addr().is_ipv4()) {
        let overlap = old.contains(&wanted.addr()) || wanted.contains(&old.addr());
        if !overlap && old.addr().is_ipv6() {
            continue;
        }
        if !force {
            return Err(ErrorReport::new(
                code::OTHER,
                format!(
                    "{name} has address {old} and cannot have {wanted}: remove it, or set forceAddress"
                ),
            ));
        }
        let remove = AddressSpec::from(old).remove(link.index);
        steps.push((format!("remove address {old} from {name}"), remove));
    }
    take(socket, &steps)
}

/// The hardware address that an interface has. A bridge loses what it has of its ports
/// with the last of them: it gets a new one, as nobody can know the old one any more.
fn lasting_mac(link: &Link) -> Mac {
    let mac = link.mac.as_deref().and_then(|mac| mac.parse().ok());
    mac.filter(|mac: &Mac| mac.0 != [0; 6])
        .unwrap_or_else(Mac::random)
}

/// Whether a bridge keeps its hardware address whatever ports come and go, as one that
/// was set does. Where that is not told, it counts as kept.
pub(super) fn keeps_mac(bridge: &Link) -> bool {
    let path = format!("/sys/class/net/{}/addr_assign_type", bridge.name);
    let kind = std::fs::read_to_string(path);
    kind.map_or(true, |kind| kind.trim_end() == NET_ADDR_SET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_without_a_hardware_address_gets_one() {
        let of = |mac: &str| {
            lasting_mac(&Link {
                mac: Some(mac.to_owned()),
                ..Link::default()
            })
        };
        assert_eq!(of("02:00:00:00:00:01"), Mac([2, 0, 0, 0, 0, 1]));
        let drawn = of("00:00:00:00:00:00");
        assert_ne!(drawn, Mac([0; 6]));
        assert_eq!(drawn.0[0] & 3, 2, "locally administered, of one interface");
    }

    #[test]
    fn the_gateway_is_the_first_address() {
        let first = |net: &str| first_address(&net.parse().unwrap()).map(|ip| ip.to_string());
        assert_eq!(first("10.1.2.3/16").as_deref(), Some("10.1.0.1"));
        assert_eq!(first("fd00::5/64").as_deref(), Some("fd00::1"));
        assert_eq!(first("255.255.255.255/32"), None);
    }

    #[test]
    fn a_default_route_by_a_gateway_is_not_added_again() {
        let ip = |text: &str| IpConfig {
            address: text.parse().unwrap(),
            gateway: Some("10.1.0.1".parse().unwrap()),
            interface: None,
        };
        let dst = "0.0.0.0/0".parse().unwrap();
        let mut routes = vec![Route::new(dst, None)];
        for _ in 0..2 {
            add_default(&mut routes, &ip("10.1.0.2/16"));
            assert_eq!(routes.len(), 2);
        }
        add_default(&mut routes, &ip("fd00::2/64"));
        assert_eq!(routes[2].dst, "::/0".parse().unwrap());
    }
}
