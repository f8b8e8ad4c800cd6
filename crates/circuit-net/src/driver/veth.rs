//! Pairs of veth: one end on the host, the other in the container.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::AsFd;

use circuit_core::cni::{ErrorReport, Interface, code};

use super::configure::{Parameter, refused, try_set_all};
use super::verify::look_up;
use super::{Answer, Call, sysctl};
use crate::netlink::{Link, LinkSpec, Mac, Netlink, NetlinkError};
use crate::netns;

/// How many random names are tried.
const TRIES: usize = 10;

/// What a pair is to be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pair {
    /// The MTU of both ends.
    pub(super) mtu: Option<u32>,
    /// The hardware address of the container's end.
    pub(super) mac: Option<Mac>,
    /// The index of the bridge that the host's end is to be in.
    pub(super) master: Option<u32>,
}

/// Both ends.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) host: Link,
    pub(super) container: Link,
}

/// Makes a pair, the container's end straight in its namespace and down, the
/// host's end up, and sets `parameters` of the former.
///
/// # Errors
/// When the container has an interface of that name, or the kernel refuses.
pub(super) fn create(call: &Call<'_>, pair: &Pair, parameters: &[Parameter]) -> Answer<Ends> {
    let path = call.needs_netns()?;
    let netns = netns::open(path)?;
    let host = make(&mut *call.host()?, pair, call.ifname, Some(&netns), false)?;
    let ifname = call.ifname;
    let entered = call.enter(&netns, || try_set_all(ifname, parameters));
    let found = entered.and_then(|()| other_end(call, &host));
    let container = found.inspect_err(|_| remove(call, &host))?;
    Ok(Ends { host, container })
}

/// Makes a pair both ends of which are on the host and up, one of them with
/// this name.
///
/// # Errors
/// As [`create`].
pub(super) fn create_on_host(host: &mut Netlink, pair: &Pair, name: &str) -> Answer<Link> {
    make(host, pair, name, None, true)
}

fn make(
    socket: &mut Netlink,
    pair: &Pair,
    ifname: &str,
    netns: Option<&File>,
    up: bool,
) -> Answer<Link> {
    // On the host udev replaces addresses of the kernel's choice, when results and
    // neighbours know them already; in a container there is none.
    let inner = LinkSpec {
        mtu: pair.mtu,
        mac: pair.mac.or_else(|| netns.is_none().then(Mac::random)),
        netns: netns.map(AsFd::as_fd),
        up: up.then_some(true),
        ..LinkSpec::named(ifname)
    };
    for _ in 0..TRIES {
        let name = random_name();
        let outer = LinkSpec {
            mtu: pair.mtu,
            mac: Some(Mac::random()),
            master: pair.master,
            tx_queue: Some(0),
            up: Some(true),
            ..LinkSpec::named(&name)
        };
        match socket.create(&name, outer.create_veth(&inner)) {
            Ok(link) => {
                refuse_routers(&link);
                return Ok(link);
            }
            Err(NetlinkError::Kernel(libc::EEXIST, _)) => {
                if look_up(socket, &name)?.is_none() {
                    return Err(exists(ifname));
                }
            }
            Err(error) => return Err(refused(format_args!("make {ifname}"), &error)),
        }
    }
    Err(ErrorReport::new(
        code::TRY_AGAIN_LATER,
        "every random name of an interface was taken, try again",
    ))
}

/// Sets an interface up.
pub(super) fn set_up(socket: &mut Netlink, link: &Link) -> Answer<()> {
    let up = LinkSpec {
        up: Some(true),
        ..LinkSpec::default()
    };
    let set = socket.set_link(link.index, &up);
    set.map_err(|e| refused(format_args!("set {} up", link.name), &e))
}

/// Lets routers on an interface of the host make no routes.
pub(super) fn refuse_routers(link: &Link) {
    // Looking a parameter up costs more the more namespaces there are.
    if link.accept_ra != Some(false) {
        sysctl::try_set(&format!("net/ipv6/conf/{}/accept_ra", link.name), "0");
    }
}

fn exists(ifname: &str) -> ErrorReport {
    ErrorReport::new(
        code::OTHER,
        format!("interface {ifname} exists already: choose another name, or remove it"),
    )
}

/// The container's end, by what the host's end says of it.
fn other_end(call: &Call<'_>, host: &Link) -> Answer<Link> {
    let index = host.parent.unwrap_or_default();
    let found = call.container()?.link_at(index);
    let found = found.map_err(|e| refused(format_args!("look {} up", call.ifname), &e))?;
    found
        .filter(|link| link.name == call.ifname)
        .ok_or_else(|| {
            ErrorReport::new(
                code::OTHER,
                format!("interface {} vanished while it was set up", call.ifname),
            )
        })
}

/// Removes a pair that belongs to a failed ADD.
pub(super) fn remove(call: &Call<'_>, host: &Link) {
    let removed = call
        .host()
        .map(|mut socket| socket.delete_links(&[host.index]));
    if !matches!(removed, Ok(Ok(()))) {
        tracing::warn!(
            interface = host.name,
            container = call.container_id,
            "the interface of a failed attachment could not be removed"
        );
    }
}

/// Removes the container's interface; or, when its namespace cannot be found
/// any more, what is left of it on the host. No error when there is nothing.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn detach(call: &Call<'_>) -> Answer<()> {
    match call.netns {
        Some(path) if netns::is_netns(path) => {
            let mut container = call.container()?;
            let Some(link) = look_up(&mut container, call.ifname)? else {
                return Ok(());
            };
            delete(&mut container, &link)
        }
        _ => {
            let mut host = call.host()?;
            match left_behind(call, &mut host)? {
                Some(link) => delete(&mut host, &link),
                None => Ok(()),
            }
        }
    }
}

fn delete(socket: &mut Netlink, link: &Link) -> Answer<()> {
    let deleted = socket.delete_links(&[link.index]);
    deleted.map_err(|e| refused(format_args!("remove {}", link.name), &e))
}

/// The host's end of a pair whose container's end cannot be reached, by the
/// name and hardware address that the result of ADD tells. The kernel removes
/// it with the namespace, so that it is seldom there.
fn left_behind(call: &Call<'_>, host: &mut Netlink) -> Answer<Option<Link>> {
    let outside = |interface: &&Interface| interface.sandbox.is_none();
    let told = call.prev.into_iter().flat_map(|prev| &prev.interfaces);
    for interface in told.filter(outside) {
        let Some(link) = look_up(host, &interface.name)? else {
            continue;
        };
        // Whose other end is not on the host, but in some namespace.
        if link.is_half() && interface.mac.is_some() && link.mac == interface.mac {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// A name as the stock plugins give it.
fn random_name() -> String {
    // The state is random, and another each time.
    let number = RandomState::new().build_hasher().finish();
    format!("veth{:08x}", number >> 32)
}

/// What a result says of an interface.
pub(super) fn told(link: &Link, sandbox: Option<String>) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: link.mac.clone(),
        sandbox,
        ..Interface::default()
    }
}
