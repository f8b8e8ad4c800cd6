//! `loopback`: the interface `lo` of a container is up.

use circuit_core::cni::{CniResult, ErrorReport, Interface, IpConfig, JsonObject, code};
use ipnet::IpNet;

use super::configure::refused;
use super::verify::{differs, look_up};
use super::{Answer, Call, Driver, Options, Unsupported};
use crate::netlink::{Link, LinkSpec, Netlink};
use crate::netns::is_netns;

/// The only interface that it is about, whatever the call names.
const LO: &str = "lo";

/// The driver.
pub(super) struct Loopback;

impl Driver for Loopback {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        Options::new(config).only(&[])
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let mut container = call.container()?;
        let lo = lo(&mut container)?;
        set(&mut container, &lo, true)?;
        let addresses = loopback_addresses(&mut container, &lo)?;
        // Who comes behind others has nothing to add to their result.
        Ok(call
            .prev
            .cloned()
            .unwrap_or_else(|| result(call, &addresses)))
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        if !call.netns.is_some_and(is_netns) {
            return Ok(());
        }
        let mut container = call.container()?;
        let lo = lo(&mut container)?;
        set(&mut container, &lo, false)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        match lo(&mut *call.container()?)?.up {
            true => Ok(()),
            false => Err(differs("interface lo is down")),
        }
    }
}

fn lo(container: &mut Netlink) -> Answer<Link> {
    look_up(container, LO)?.ok_or_else(|| differs("the container has no interface lo"))
}

fn set(container: &mut Netlink, lo: &Link, up: bool) -> Answer<()> {
    let spec = LinkSpec {
        up: Some(up),
        ..LinkSpec::default()
    };
    let way = if up { "up" } else { "down" };
    let set = container.set_link(lo.index, &spec);
    set.map_err(|e| refused(format_args!("set lo {way}"), &e))
}

/// The first address of each family. All have to be of this host.
fn loopback_addresses(container: &mut Netlink, lo: &Link) -> Answer<Vec<IpNet>> {
    let all = container
        .addresses(lo.index)
        .map_err(|e| refused("list the addresses of lo", &e))?;
    let all = all.iter().map(|address| address.address);
    if let Some(other) = all.clone().find(|net| !net.addr().is_loopback()) {
        return Err(ErrorReport::new(
            code::OTHER,
            format!("interface lo has address {other}, which is not a loopback address"),
        ));
    }
    let first = |ipv6| all.clone().find(|net| net.addr().is_ipv6() == ipv6);
    Ok([first(false), first(true)].into_iter().flatten().collect())
}

fn result(call: &Call<'_>, addresses: &[IpNet]) -> CniResult {
    let netns = call.netns.map(|path| path.display().to_string());
    let ip = |address: &IpNet| IpConfig {
        address: *address,
        gateway: None,
        interface: Some(0),
    };
    CniResult {
        interfaces: vec![Interface {
            name: LO.to_owned(),
            mac: Some("00:00:00:00:00:00".to_owned()),
            sandbox: netns,
            ..Interface::default()
        }],
        ips: addresses.iter().map(ip).collect(),
        ..CniResult::default()
    }
}
