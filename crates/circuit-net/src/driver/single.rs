//! What drivers share that make one interface in the container and nothing on
//! the host: macvlan, ipvlan, vlan and dummy.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::AsFd;

use circuit_core::cni::{CniResult, ErrorReport, code};

use super::configure::{Parameter, configure, refused, take};
use super::managed::{Managed, dns_of};
use super::verify::{self, differs, look_up};
use super::veth::told;
use super::{Answer, Call, Options};
use crate::netlink::{self, Link, LinkSpec, MAIN_TABLE, Mac, Message, NetlinkError};
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

/// Parameters by which the kernel tells the neighbours of every address as
/// soon as it is in use.
pub(super) const ANNOUNCED: &[Parameter] =
    &[("ipv4", "arp_notify", "1"), ("ipv6", "ndisc_notify", "1")];

/// Where an interface's addresses come from.
pub(super) enum Addresses<'a> {
    /// Address management.
    Ipam(Managed<'a>),
    /// They are known.
    Known(CniResult),
    /// It gets none.
    None,
}

/// Makes the interface and configures it.
///
/// # Errors
/// An error object; then nothing is left.
pub(super) fn attach(
    call: &Call<'_>,
    device: &Device,
    addresses: Addresses<'_>,
    parameters: &[Parameter],
) -> Answer<CniResult> {
    let link = create(call, device)?;
    let result = address(call, &link, addresses, parameters);
    result.inspect_err(|_| {
        // The first failure is the one to tell; DEL tries again.
        if let Ok(mut socket) = call.container() {
            let _ = socket.delete_links(&[link.index]);
        }
    })
}

/// Gives the container's new interface its addresses, and sets it up.
///
/// # Errors
/// An error object; then no address is held.
pub(super) fn address(
    call: &Call<'_>,
    link: &Link,
    addresses: Addresses<'_>,
    parameters: &[Parameter],
) -> Answer<CniResult> {
    let netns = call.needs_netns()?.display().to_string();
    let interfaces = vec![told(link, Some(netns))];
    let give = |given: CniResult| {
        let mut result = CniResult {
            interfaces: interfaces.clone(),
            ..given
        };
        for ip in &mut result.ips {
            ip.interface = Some(0);
        }
        configure(call, link.index, &result, parameters).map(|()| result)
    };
    match addresses {
        Addresses::Ipam(ipam) => give(ipam.add()?).inspect_err(|_| ipam.release_again()),
        Addresses::Known(result) => give(result),
        Addresses::None => {
            set_up(call, link)?;
            Ok(CniResult {
                interfaces,
                ..CniResult::default()
            })
        }
    }
}

fn set_up(call: &Call<'_>, link: &Link) -> Answer<()> {
    let up = LinkSpec {
        up: Some(true),
        ..LinkSpec::default()
    };
    let step = (format!("set {} up", link.name), up.change(link.index));
    take(&mut *call.container()?, &[step])
}

/// The result with the name resolution of the configuration, and no other.
pub(super) fn with_own_dns(call: &Call<'_>, result: CniResult) -> Answer<CniResult> {
    Ok(CniResult {
        dns: dns_of(call)?.unwrap_or_default(),
        ..result
    })
}

/// Removes the container's interface, and gives its addresses back. Neither
/// need be there any more.
///
/// # Errors
/// An error object; what could be removed is.
pub(super) fn detach(call: &Call<'_>) -> Answer<()> {
    // The first, since giving back may need the interface: DHCP does.
    let given_back = forward(call, Managed::del);
    let removed = match call.netns {
        Some(path) if netns::is_netns(path) => remove(call),
        // It took its interfaces with it.
        _ => Ok(()),
    };
    given_back.and(removed)
}

fn remove(call: &Call<'_>) -> Answer<()> {
    let mut socket = call.container()?;
    let Some(link) = look_up(&mut socket, call.ifname)? else {
        return Ok(());
    };
    let removed = socket.delete_links(&[link.index]);
    removed.map_err(|e| refused(format_args!("remove {}", call.ifname), &e))
}

/// Has address management, if there is any, do its part.
///
/// # Errors
/// Those of the address management.
pub(super) fn forward<'a>(call: &'a Call<'a>, part: fn(&Managed<'a>) -> Answer<()>) -> Answer<()> {
    Managed::of(call)?.as_ref().map_or(Ok(()), part)
}

/// An attribute of its kind that an interface must have, for CHECK.
pub(super) struct Detail<'a> {
    pub(super) kind: u16,
    pub(super) value: &'a [u8],
    /// What it says, for error texts: `mode bridge`.
    pub(super) text: String,
}

/// CHECK: the interface is of its kind and has the detail, and the addresses
/// and routes are there.
///
/// # Errors
/// An error object that names the difference.
pub(super) fn check(call: &Call<'_>, kind: &str, detail: Option<Detail<'_>>) -> Answer<Link> {
    let result = call.needs_prev()?;
    let link = verify::container_link(call, result, Some(kind))?;
    let is_other = |detail: &Detail<'_>| link.detail(detail.kind) != Some(detail.value);
    if let Some(detail) = detail.filter(is_other) {
        return Err(differs(format!(
            "interface {} has not {}",
            call.ifname, detail.text
        )));
    }
    verify::addresses_and_routes(call, link.index, result)?;
    Ok(link)
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
        true => look_up(&mut *call.container()?, name),
        false => look_up(&mut *call.host()?, name),
    }?;
    found.ok_or_else(|| {
        let place = if in_container { "container" } else { "host" };
        ErrorReport::new(
            code::INVALID_CONFIG,
            format!("master {name} is no interface of the {place}"),
        )
    })
}

/// The interface of the best default route, of IPv4 first.
pub(super) fn default_interface(call: &Call<'_>, in_container: bool) -> Answer<String> {
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
    forward(call, Managed::status)?;
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

/// Makes the interface, down.
fn create(call: &Call<'_>, device: &Device) -> Answer<Link> {
    let ifname = call.ifname;
    if look_up(&mut *call.container()?, ifname)?.is_some() {
        return Err(ErrorReport::new(
            code::OTHER,
            format!("the container has an interface {ifname} already: name it otherwise"),
        ));
    }
    if device.in_container || device.parent.is_none() {
        let request = message(device, ifname, None);
        let made = call.container()?.create(ifname, request);
        return made.map_err(|e| no_device(device.kind, &e));
    }
    let netns = netns::open(call.needs_netns()?)?;
    let make = |name: &str| {
        call.host()
            .map(|mut host| host.request(&message(device, name, Some(&netns))))
    };
    match make(ifname)? {
        Ok(_) => made(call, ifname),
        // Kernels before 6.15 look for the name on the host.
        Err(NetlinkError::Kernel(libc::EEXIST, _)) => {
            let name = temporary_name();
            make(&name)?.map_err(|e| no_device(device.kind, &e))?;
            rename(call, made(call, &name)?)
        }
        Err(error) => Err(no_device(device.kind, &error)),
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

fn made(call: &Call<'_>, name: &str) -> Answer<Link> {
    look_up(&mut *call.container()?, name)?
        .ok_or_else(|| ErrorReport::new(code::OTHER, format!("interface {name} is gone")))
}

fn rename(call: &Call<'_>, link: Link) -> Answer<Link> {
    let mut socket = call.container()?;
    let renamed = socket.set_link(link.index, &LinkSpec::named(call.ifname));
    if let Err(error) = renamed {
        let _ = socket.delete_links(&[link.index]);
        let what = format!("name the container's interface {}", call.ifname);
        return Err(refused(what, &error));
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

/// What the kernel says of a kind of interface that it does not know.
const NO_SUCH_KIND: &str = "Unknown device type";

fn no_device(kind: &str, error: &NetlinkError) -> ErrorReport {
    match error.errno() {
        // Of a kind that it has, it says what it does not do.
        Some(libc::EOPNOTSUPP) if error.said().is_none_or(|said| said == NO_SUCH_KIND) => {
            let module = if kind == "vlan" { "8021q" } else { kind };
            let text = format!("the kernel has no {kind} interfaces: load its module {module}");
            ErrorReport::new(code::OTHER, text)
        }
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
        let error = no_device("ipvlan", &NetlinkError::kernel(libc::EOPNOTSUPP));
        assert!(error.msg.contains("no ipvlan interfaces"), "{}", error.msg);
        let said = |said| no_device("vlan", &NetlinkError::said_with(libc::EOPNOTSUPP, said)).msg;
        let unknown = said(NO_SUCH_KIND);
        assert!(unknown.ends_with("load its module 8021q"), "{unknown}");
        let other = said("VLANs not supported on device");
        assert!(other.contains("VLANs not supported on device"), "{other}");
        assert!(!other.contains("module"), "{other}");
    }

    /// Kinds that a kernel for tests may lack: what it would be sent.
    #[test]
    fn the_kinds_attributes_are_sent() {
        let device = Device {
            kind: "vlan",
            parent: Some(7),
            mtu: Some(1400),
            data: vec![(1, 9u16.to_ne_bytes().to_vec())],
            ..Device::default()
        };
        let text = format!("{:?}", message(&device, "eth0", None));
        let wanted = LinkSpec {
            parent: Some(7),
            mtu: Some(1400),
            ..LinkSpec::named("eth0")
        };
        let wanted = wanted.create("vlan", |m| m.with(1, &9u16.to_ne_bytes()));
        assert_eq!(text, format!("{wanted:?}"));
    }
}
