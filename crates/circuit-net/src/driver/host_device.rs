//! `host-device`: one of the host's interfaces, moved into the container and
//! back again.
//!
//! While it is in the container, its alias is the name that it had on the host. That is
//! what the stock plugin goes by at DEL; this one has a note of its own, too.

mod find;
mod of_host;
mod origin;

use std::os::fd::AsFd;
use std::path::Path;

use circuit_core::cni::{CniResult, ErrorReport, Interface, JsonObject, code};

use super::configure::refused;
use super::managed::Managed;
use super::single::{self, Addresses};
use super::verify::{self, look_up};
use super::veth::told;
use super::{Answer, Call, Driver, Options, Unsupported};
use crate::netlink::{Link, LinkSpec};
use crate::netns;
use find::Named;
use of_host::OfHost;

const KEYS: [&str; 5] = ["device", "hwaddr", "kernelpath", "pciBusID", WITH_NETWORK];
/// The container is to have the device's addresses and routes too.
const WITH_NETWORK: &str = "useInterfaceNetwork";

/// The namespace of the calling thread, which is the host's.
const HOST: &str = "/proc/thread-self/ns/net";

/// The driver of `host-device`.
#[derive(Debug)]
pub(crate) struct HostDevice;

impl Driver for HostDevice {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        Options::new(config).only(&KEYS)
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let named = Named::read(call)?;
        let with_network = Options::new(call.config).flag(WITH_NETWORK)?;
        if named.is_userspace()? {
            return match with_network {
                true => Err(ErrorReport::new(
                    code::INVALID_CONFIG,
                    format!(
                        "{WITH_NETWORK} is for devices with an interface, which one that is \
                         left to a program has not: remove the key"
                    ),
                )),
                false => add_userspace(call),
            };
        }
        let device = named.find(call)?;
        let of_host = match with_network {
            true => Some(OfHost::read(&mut *call.host()?, &device)?),
            false => None,
        };
        let link = move_in(call, &device, of_host.as_ref())?;
        equip(call, &link, of_host.as_ref())
            .inspect_err(|_| restore(call, &device, of_host.as_ref()))
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        let given_back = single::forward(call, Managed::del);
        // What has the attachment's name is another's then.
        let no_interface = || Named::read(call).and_then(|named| named.is_userspace());
        let moved = match call.netns {
            Some(path) if netns::is_netns(path) && !no_interface().unwrap_or(false) => {
                move_out(call)
            }
            // The kernel gave hardware back to the host.
            _ => Ok(()),
        };
        given_back.and(moved.and_then(|()| origin::forget(call)))
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        single::forward(call, Managed::check)?;
        let result = call.needs_prev()?;
        if Named::read(call)?.is_userspace()? {
            return Ok(());
        }
        let link = verify::container_link(call, result, None)?;
        verify::addresses_and_routes(call, link.index, result)
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        single::forward(call, Managed::status)
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        single::forward(call, Managed::gc)
    }
}

fn sandbox(call: &Call<'_>) -> Answer<String> {
    Ok(call.needs_netns()?.display().to_string())
}

/// Gives the device what the host had on it, and addresses of its own.
fn equip(call: &Call<'_>, link: &Link, of_host: Option<&OfHost>) -> Answer<CniResult> {
    if let Some(of_host) = of_host {
        of_host.give(&mut *call.container()?, &link.name, link.index)?;
    }
    let mut result = match Managed::of(call)? {
        None => CniResult {
            interfaces: vec![told(link, Some(sandbox(call)?))],
            ..CniResult::default()
        },
        Some(ipam) => {
            // With the host's, it may do without any.
            let leased = match of_host {
                Some(_) => ipam.lease(),
                None => ipam.add(),
            };
            single::address(call, link, Addresses::Known(leased?), &[])
                .and_then(|result| single::with_own_dns(call, result))
                .inspect_err(|_| ipam.release_again())?
        }
    };
    if let Some(of_host) = of_host {
        of_host.tell(&mut result);
    }
    Ok(result)
}

/// A device without an interface only gets addresses, for the program that
/// drives it to know.
fn add_userspace(call: &Call<'_>) -> Answer<CniResult> {
    let interface = Interface {
        name: call.ifname.to_owned(),
        sandbox: Some(sandbox(call)?),
        ..Interface::default()
    };
    let Some(ipam) = Managed::of(call)? else {
        return Ok(CniResult {
            interfaces: vec![interface],
            ..CniResult::default()
        });
    };
    let mut result = ipam.add()?;
    result.interfaces = vec![interface];
    for ip in &mut result.ips {
        ip.interface = Some(0);
    }
    single::with_own_dns(call, result)
}

/// Moves the device, gives it the attachment's name and sets it up, by one
/// request: nobody sees it under its new name on the host.
fn move_in(call: &Call<'_>, device: &Link, of_host: Option<&OfHost>) -> Answer<Link> {
    let ifname = call.ifname;
    if look_up(&mut *call.container()?, ifname)?.is_some() {
        return Err(ErrorReport::new(
            code::OTHER,
            format!("the container has an interface {ifname} already: name it otherwise"),
        ));
    }
    let netns = netns::open(call.needs_netns()?)?;
    origin::note(call, device)?;
    let spec = LinkSpec {
        netns: Some(netns.as_fd()),
        alias: Some(&device.name),
        up: Some(true),
        ..LinkSpec::named(ifname)
    };
    let moved = call.host()?.set_link(device.index, &spec);
    let found = moved
        .map_err(|e| {
            refused(
                format_args!("move device {} to the container", device.name),
                &e,
            )
        })
        .and_then(|()| look_up(&mut *call.container()?, ifname))
        .and_then(|link| {
            let gone = || ErrorReport::new(code::OTHER, format!("device {} is gone", device.name));
            link.ok_or_else(gone)
        });
    found.inspect_err(|_| restore(call, device, of_host))
}

/// Brings the device back after a failure, with what the host had on it, as well as can
/// be: what failed is the one to tell.
fn restore(call: &Call<'_>, device: &Link, of_host: Option<&OfHost>) {
    let restored = try_restore(call, device, of_host);
    if let Err(error) = restored.and_then(|()| origin::forget(call)) {
        tracing::warn!(
            device = device.name,
            container = call.container_id,
            error = error.text(),
            "the device of a failed attachment could not be moved back"
        );
    }
}

fn try_restore(call: &Call<'_>, device: &Link, of_host: Option<&OfHost>) -> Answer<()> {
    let rules_gone = match of_host {
        Some(of_host) => of_host.remove_rules(&mut *call.container()?),
        None => Ok(()),
    };
    if look_up(&mut *call.host()?, &device.name)?.is_none() {
        // Moving and naming are two steps to the kernel.
        let mut inside = look_up(&mut *call.container()?, call.ifname)?;
        if inside.is_none() {
            inside = look_up(&mut *call.container()?, &device.name)?;
        }
        if let Some(inside) = inside.filter(|it| it.kind == device.kind) {
            to_host(call, &inside, &device.name)?;
        }
    }
    let mut host = call.host()?;
    let Some(now) = look_up(&mut host, &device.name)? else {
        return rules_gone;
    };
    if device.up {
        let up = LinkSpec {
            up: Some(true),
            ..LinkSpec::default()
        };
        let set = host.set_link(now.index, &up);
        set.map_err(|e| refused(format_args!("set {} up", device.name), &e))?;
    }
    if let Some(of_host) = of_host {
        of_host.give(&mut host, &device.name, now.index)?;
    }
    rules_gone
}

/// Gives the device back under the name that it had. It is down then, as
/// nobody knows what it was.
fn move_out(call: &Call<'_>) -> Answer<()> {
    let Some(link) = look_up(&mut *call.container()?, call.ifname)? else {
        return Ok(());
    };
    let name = origin::name_on_host(call, &link)?;
    if Options::new(call.config).flag(WITH_NETWORK)? {
        // What was given is known by what is there.
        let mut socket = call.container()?;
        OfHost::read(&mut socket, &link)?.remove_rules(&mut socket)?;
    }
    to_host(call, &link, name)
}

fn to_host(call: &Call<'_>, link: &Link, name: &str) -> Answer<()> {
    if look_up(&mut *call.host()?, name)?.is_some() {
        return Err(ErrorReport::new(
            code::OTHER,
            format!(
                "device {name} cannot be moved back: the host has another interface of \
                 that name, rename that"
            ),
        ));
    }
    let host = netns::open(Path::new(HOST))?;
    let spec = LinkSpec {
        netns: Some(host.as_fd()),
        alias: Some(""),
        ..LinkSpec::named(name)
    };
    let moved = call.container()?.set_link(link.index, &spec);
    moved.map_err(|e| refused(format_args!("move device {name} back to the host"), &e))
}
