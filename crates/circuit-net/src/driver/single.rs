//! What drivers share that make one interface in the container and nothing on
//! the host: macvlan, ipvlan, vlan and dummy.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::AsFd;

use circuit_core::ErrorKind;
use circuit_core::cni::{CniResult, ErrorReport, Interface, code};

use super::configure_lan::{configure, refused, set_up};
use super::ipam::ask;
use super::{Answer, Call, Options};
use crate::netlink::{self, Link, LinkSpec, MAIN_TABLE, Mac, Message, NetlinkError, delete_link};
use crate::netns;

/// An interface that is to be made.
#[derive(Debug, Default)]
pub(super) struct Device {
    /// What the kernel calls its kind.
    pub(super) kind: &'static str,
    /// The index of the interface that it lies on.
    pub(super) parent: Option<u32>,
    /// Whether that one is in the container.
    pub(super) in_container: bool,
    pub(super) mtu: Option<u32>,
    pub(super) mac: Option<Mac>,
    /// Attributes of the kind.
    pub(super) data: Vec<(u16, Vec<u8>)>,
}

/// Where an interface's addresses come from.
#[derive(Debug)]
pub(super) enum Addresses<'a> {
    /// Address management of this type.
    Ipam(&'a str),
    /// They are known.
    Known(CniResult),
    /// It gets none.
    None,
}

/// Makes the interface and configures it. The result has no name resolution
/// but that of the address management.
///
/// # Errors
/// An error object; then nothing is left.
pub(super) fn attach(
    call: &Call<'_>,
    device: &Device,
    addresses: Addresses<'_>,
    notify: bool,
) -> Answer<CniResult> {
    let link = create(call, device)?;
    let interface = Interface {
        name: link.name.clone(),
        mac: link.mac.clone(),
        sandbox: Some(call.needs_netns()?.to_string_lossy().into_owned()),
        ..Interface::default()
    };
    let result = address(call, &link, interface, addresses, notify);
    if result.is_err()
        && let Ok(mut socket) = call.container()
    {
        // The first failure is the one to tell; DEL tries again.
        let _ = socket.delete_links(&[link.index]);
    }
    result
}

/// Gives the container's new interface its addresses, and sets it up.
///
/// # Errors
/// An error object; then no address is held.
pub(super) fn address(
    call: &Call<'_>,
    link: &Link,
    interface: Interface,
    addresses: Addresses<'_>,
    notify: bool,
) -> Answer<CniResult> {
    let (result, kind) = match addresses {
        Addresses::Ipam(kind) => (ask::add(call, kind)?, Some(kind)),
        Addresses::Known(result) => (result, None),
        Addresses::None => {
            set_up(call, link)?;
            return Ok(CniResult {
                interfaces: vec![interface],
                ..CniResult::default()
            });
        }
    };
    let mut result = CniResult {
        interfaces: vec![interface],
        ..result
    };
    for ip in &mut result.ips {
        ip.interface = Some(0);
    }
    match (configure(call, link, &result, notify), kind) {
        (Ok(()), _) => Ok(result),
        (Err(error), None) => Err(error),
        (Err(error), Some(kind)) => {
            ask::give_back(call, kind);
            Err(error)
        }
    }
}

/// Removes the container's interface, and gives its addresses back. Neither
/// need be there any more.
///
/// # Errors
/// An error object; what could be removed is.
pub(super) fn detach(call: &Call<'_>) -> Answer<()> {
    // The first, since giving back may need the interface: DHCP does.
    let given_back = ask::forward(call);
    let removed = match container(call)? {
        true => remove(call),
        false => Ok(()),
    };
    given_back.and(removed)
}

fn remove(call: &Call<'_>) -> Answer<()> {
    let failed = |e| refused(format_args!("remove interface {}", call.ifname), e);
    let mut socket = call.container()?;
    match socket.link(call.ifname).map_err(failed)? {
        Some(link) => match socket.request(&delete_link(link.index)) {
            Err(NetlinkError::Kernel(libc::ENODEV)) => Ok(()),
            other => other.map(drop).map_err(failed),
        },
        None => Ok(()),
    }
}

/// Whether the container still has its namespace.
///
/// # Errors
/// When something else is at its path.
pub(super) fn container(call: &Call<'_>) -> Answer<bool> {
    let Some(path) = call.netns else {
        return Ok(false);
    };
    match netns::identity(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        // What a pin was is left as a plain file when it is undone.
        Err(_) if path.metadata().is_ok_and(|data| data.is_file()) && !netns::is_netns(path) => {
            Ok(false)
        }
        Err(e) => Err(ErrorReport::from(e)),
    }
}

/// The interface that the container's is to lie on: the named one, else the one
/// of the default route.
///
/// # Errors
/// Code 7 when there is none.
pub(super) fn master(call: &Call<'_>, name: Option<&str>, in_container: bool) -> Answer<Link> {
    let by_route;
    let name = match name {
        Some(name) => name,
        None => {
            by_route = default_interface(call, in_container)?;
            &by_route
        }
    };
    let found = match in_container {
        true => call.container()?.link(name),
        false => call.host()?.link(name),
    };
    let found = found.map_err(|e| refused(format_args!("look up master {name}"), e))?;
    found.ok_or_else(|| {
        let place = if in_container { "container" } else { "host" };
        ErrorReport::new(
            code::INVALID_CONFIG,
            format!("master {name} is no interface of the {place}"),
        )
    })
}

/// The interface of the best default route, of IPv4 first.
fn default_interface(call: &Call<'_>, in_container: bool) -> Answer<String> {
    let netns = in_container.then(|| call.needs_netns()).transpose()?;
    let routes = netlink::routes(netns).map_err(ErrorReport::from)?;
    let default = routes
        .into_iter()
        .filter(|route| route.dst.prefix_len() == 0 && route.table == MAIN_TABLE)
        .find_map(|route| route.oif);
    default.ok_or_else(|| {
        ErrorReport::new(
            code::INVALID_CONFIG,
            "master is missing, and no default route tells of one: name an interface",
        )
    })
}

/// The MTU of a configuration, at most that of the master; none when it is
/// left to the kernel.
///
/// # Errors
/// Code 7 when it is more.
pub(super) fn mtu(options: &Options<'_>, master: &Link) -> Answer<Option<u32>> {
    let mtu: Option<u32> = options.number("mtu")?;
    let most = master.mtu.unwrap_or(u32::MAX);
    match mtu.filter(|mtu| *mtu != 0) {
        Some(mtu) if mtu > most => Err(ErrorReport::new(
            code::INVALID_CONFIG,
            format!(
                "mtu {mtu} is more than the {most} of master {}",
                master.name
            ),
        )),
        mtu => Ok(mtu),
    }
}

/// STATUS: the address management can serve, and the master is there.
///
/// # Errors
/// Code 50, or that of the address management.
pub(super) fn status(call: &Call<'_>, master_name: Option<&str>, in_container: bool) -> Answer<()> {
    ask::forward(call)?;
    // Which container is not known yet.
    if in_container {
        return Ok(());
    }
    let found = master(call, master_name, false).map(drop);
    found.map_err(|report| ErrorReport {
        code: code::NOT_AVAILABLE,
        ..report
    })
}

/// The type of address management, which must be there.
///
/// # Errors
/// Code 7 when it is not.
pub(super) fn needs_ipam<'a>(call: &Call<'a>) -> Answer<&'a str> {
    ask::kind(call.config).ok_or_else(|| {
        ErrorReport::new(
            code::INVALID_CONFIG,
            format!("{} needs addresses: add ipam", call.kind()),
        )
    })
}

/// Makes the interface, down.
fn create(call: &Call<'_>, device: &Device) -> Answer<Link> {
    let ifname = call.ifname;
    let found = call.container()?.link(ifname);
    if found.map_err(|e| no_device(device.kind, e))?.is_some() {
        return Err(ErrorReport::new(
            code::OTHER,
            format!("the container has an interface {ifname} already: name it otherwise"),
        ));
    }
    if device.in_container || device.parent.is_none() {
        let request = message(device, ifname, None);
        let mut socket = call.container()?;
        let made = socket.create(ifname, request);
        return made.map_err(|e| no_device(device.kind, e));
    }
    let netns = File::open(call.needs_netns()?).map_err(|e| {
        ErrorReport::new(
            code::INVALID_ENVIRONMENT,
            format!("CNI_NETNS cannot be opened: {e}"),
        )
    })?;
    let made = call.host()?.request(&message(device, ifname, Some(&netns)));
    match made {
        Ok(_) => look_up(call, ifname),
        // Kernels before 6.15 look for the name on the host.
        Err(NetlinkError::Kernel(libc::EEXIST)) => {
            let name = temporary_name();
            let made = call.host()?.request(&message(device, &name, Some(&netns)));
            made.map_err(|e| no_device(device.kind, e))?;
            let link = look_up(call, &name)?;
            rename(call, link)
        }
        Err(error) => Err(no_device(device.kind, error)),
    }
}

fn message(device: &Device, name: &str, netns: Option<&File>) -> Message {
    let spec = LinkSpec {
        parent: device.parent,
        mtu: device.mtu,
        mac: device.mac,
        netns: netns.map(AsFd::as_fd),
        ..LinkSpec::named(name)
    };
    spec.create(device.kind, |message| {
        let add = |message: Message, (kind, value): &(u16, Vec<u8>)| message.with(*kind, value);
        device.data.iter().fold(message, add)
    })
}

fn look_up(call: &Call<'_>, name: &str) -> Answer<Link> {
    let found = call.container()?.link(name);
    let found = found.map_err(|e| refused(format_args!("look up {name}"), e))?;
    found.ok_or_else(|| ErrorReport::new(code::OTHER, format!("interface {name} is gone")))
}

fn rename(call: &Call<'_>, link: Link) -> Answer<Link> {
    let mut socket = call.container()?;
    let renamed = socket.set_link(link.index, &LinkSpec::named(call.ifname));
    if let Err(error) = renamed {
        let _ = socket.delete_links(&[link.index]);
        let what = format!("name the container's interface {}", call.ifname);
        return Err(refused(what, error));
    }
    Ok(Link {
        name: call.ifname.to_owned(),
        ..link
    })
}

/// A name that no interface has.
fn temporary_name() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("cni{:010x}", random & 0xff_ffff_ffff)
}

fn no_device(kind: &str, error: NetlinkError) -> ErrorReport {
    match error.errno() {
        Some(libc::EOPNOTSUPP) => ErrorReport::new(
            code::OTHER,
            format!("the kernel has no {kind} interfaces: load its module {kind}"),
        ),
        Some(libc::EBUSY) => refused(
            format_args!("make a {kind} interface, as the master is in use otherwise"),
            error,
        ),
        _ => refused(format_args!("make a {kind} interface"), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_fit_and_differ() {
        let (one, two) = (temporary_name(), temporary_name());
        assert!(one != two && one.len() < libc::IFNAMSIZ);
    }

    #[test]
    fn the_missing_kind_is_named() {
        let error = no_device("ipvlan", NetlinkError::Kernel(libc::EOPNOTSUPP));
        assert!(error.msg.contains("no ipvlan interfaces"), "{}", error.msg);
    }
}
