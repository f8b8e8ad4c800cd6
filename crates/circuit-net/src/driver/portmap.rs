//! `portmap`: ports of the host that lead to containers, in nftables.
//!
//! Where it differs from the stock plugin: a port that another container has
//! is refused rather than taken or shared in silence, and one that the same
//! container has by another network is the other's until that leaves it; DEL finds what belongs
//! to an attachment by itself, so it needs neither `portMappings` nor the
//! namespace; and there is GC.

mod config;
mod listeners;
mod rules;
mod store;

pub use listeners::{is_left_to_daemon, leave_to_daemon};
pub(super) use store::owners;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;

use circuit_core::Error;
use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};

use self::config::{Config, targets};
use self::store::{Elements, Target, UdpPort};
use super::owner::Owner;
use super::{Answer, Call, Driver, Unsupported};
use crate::netlink::interface_toward;
use crate::nft::Nft;
use crate::nft::conntrack::{self, Connection};

/// The driver.
pub(super) struct Portmap;

impl Driver for Portmap {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        config::supports(config)
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let prev = call.needs_prev()?;
        let Some(wish) = Wish::of(call)? else {
            return Ok(prev.clone());
        };
        let added = store::put(&wish.owner, &wish.elements)?;
        if let Err(error) = wish.let_loopback_through() {
            store::remove(&wish.owner, &wish.elements)?;
            return Err(error);
        }
        forget_connections_past(call, &added);
        Ok(prev.clone())
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        let owner = Owner::of(call);
        let likely = likely(call).unwrap_or_default();
        let gone = store::remove(&owner, &likely)?;
        forget_connections_by(&gone);
        Ok(())
    }

    fn mend(&self, call: &Call<'_>) -> Answer<()> {
        let Some(wish) = Wish::of(call)? else {
            return Ok(());
        };
        if store::missing(&wish.owner, &wish.elements)?.is_some() {
            let added = store::put(&wish.owner, &wish.elements)?;
            forget_connections_past(call, &added);
        }
        wish.let_loopback_through()
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let Some(wish) = Wish::of(call)? else {
            return Ok(());
        };
        match store::missing(&wish.owner, &wish.elements)? {
            None => Ok(()),
            Some(what) => Err(ErrorReport::new(
                code::OTHER,
                format!("{what} is missing in nftables or leads elsewhere: connect anew"),
            )),
        }
    }

    fn status(&self, _call: &Call<'_>) -> Answer<()> {
        store::works().map_err(|report| ErrorReport {
            code: code::NOT_AVAILABLE,
            ..report
        })
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        let network = call.network();
        let valid = call
            .valid()?
            .iter()
            .map(|it| Owner::new(network, &it.container_id, &it.ifname))
            .collect();
        let gone = store::keep_only(network, &valid)?;
        forget_connections_by(&gone);
        Ok(())
    }
}

/// Keeps what listens on the host's 127.0.0.1 out of the reach of containers, as ADD does,
/// for whoever lets the stock plugin publish ports.
///
/// # Errors
/// When the ruleset cannot be read or changed.
pub fn guard_loopback() -> circuit_core::Result<()> {
    let made = Nft::open(None).and_then(|mut nft| nft.establish(&rules::part()));
    made.map_err(|e| Error::unavailable(format!("the firewall rule for that is not made: {e}")))
}

/// What an attachment is to have.
struct Wish {
    owner: Owner,
    targets: Vec<Target>,
    elements: Elements,
    snat: bool,
}

impl Wish {
    /// None when there is nothing to publish.
    fn of(call: &Call<'_>) -> Answer<Option<Self>> {
        let (prev, config) = (call.needs_prev()?, Config::parse(call.config)?);
        if config.mappings.is_empty() {
            return Ok(None);
        }
        let (owner, targets) = (Owner::of(call), find_targets(call, prev)?);
        if targets.is_empty() {
            return Ok(None);
        }
        let elements = store::wanted(&owner, &config, &targets)?;
        Ok(Some(Self {
            owner,
            targets,
            elements,
            snat: config.snat,
        }))
    }

    fn let_loopback_through(&self) -> Answer<()> {
        match self.snat {
            true => let_loopback_through(&self.targets),
            false => Ok(()),
        }
    }
}

/// The elements that ADD has put in, going by what DEL is told, if it is told.
fn likely(call: &Call<'_>) -> Option<Elements> {
    Wish::of(call).ok()?.map(|wish| wish.elements)
}

fn find_targets(call: &Call<'_>, prev: &CniResult) -> Answer<Vec<Target>> {
    let mut host = call.host()?;
    let find = |address: IpAddr| {
        let interface = interface_toward(&mut host, address).map_err(|e| {
            ErrorReport::new(
                code::IO_FAILURE,
                format!("cannot find the route to {address}: {e}"),
            )
        })?;
        Ok(Target { address, interface })
    };
    targets(prev, call.ifname).into_iter().map(find).collect()
}

/// Lets packets from 127.0.0.1 through the interface that leads to the
/// container.
fn let_loopback_through(targets: &[Target]) -> Answer<()> {
    let v4 = targets.iter().find(|target| target.address.is_ipv4());
    let Some(interface) = v4.and_then(|target| target.interface.as_deref()) else {
        return Ok(());
    };
    let path = Path::new("/proc/sys/net/ipv4/conf")
        .join(interface)
        .join("route_localnet");
    if std::fs::read(&path).is_ok_and(|value| value.starts_with(b"1")) {
        return Ok(());
    }
    std::fs::write(&path, "1").map_err(|e| {
        ErrorReport::new(
            code::IO_FAILURE,
            format!("cannot set {}: {e}", path.display()),
        )
    })
}

/// UDP clients that go on sending would reach whom they reached before the ports were
/// published. What leads where it should stays, as does what goes to a port of the same
/// number elsewhere.
fn forget_connections_past(call: &Call<'_>, added: &Elements) {
    let mut of_host: Option<HashSet<IpAddr>> = None;
    for v6 in [false, true] {
        let ports = store::udp_ports(added, v6);
        if of_host.is_none() && ports.iter().any(|it| it.address.is_none()) {
            of_host = addresses_of_host(call);
        }
        let is_here = |ip: IpAddr| of_host.as_ref().is_none_or(|all| all.contains(&ip));
        forget_connections(v6, ports, |port, it| {
            let ip = it.sent_to.ip();
            port.address.map_or_else(|| is_here(ip), |at| at == ip) && it.led_to != port.to
        });
    }
}

/// UDP clients that go on sending would reach whom they reached by ports that are gone.
fn forget_connections_by(gone: &Elements) {
    for v6 in [false, true] {
        let ports = store::udp_ports(gone, v6);
        forget_connections(v6, ports, |port, it| it.led_to == port.to);
    }
}

fn forget_connections(
    v6: bool,
    ports: Vec<UdpPort>,
    is_stale: impl Fn(&UdpPort, &Connection) -> bool,
) {
    if ports.is_empty() {
        return;
    }
    let mut by_number: HashMap<u16, Vec<UdpPort>> = HashMap::new();
    for port in ports {
        by_number.entry(port.port).or_default().push(port);
    }
    let is_stale = |connection: &Connection| {
        let ports = by_number.get(&connection.sent_to.port());
        ports.is_some_and(|all| all.iter().any(|port| is_stale(port, connection)))
    };
    if let Err(error) = conntrack::forget_udp(v6, is_stale) {
        let ports = by_number.keys();
        tracing::warn!(%error, ?ports, "udp connections to mapped ports are not forgotten");
    }
}

/// None when they cannot be told.
fn addresses_of_host(call: &Call<'_>) -> Option<HashSet<IpAddr>> {
    let all = call.host().ok()?.all_addresses().ok()?;
    Some(all.iter().map(|it| it.address.addr()).collect())
}
