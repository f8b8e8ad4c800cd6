//! `portmap`: ports of the host that lead to containers, in nftables.
//!
//! Where it differs from the stock plugin: a port that another container has
//! is refused rather than taken or shared in silence, and one that the same
//! container has by another network is the other's until that leaves it; DEL finds what belongs
//! to an attachment by itself, so it needs neither `portMappings` nor the
//! namespace; and there is GC.

mod config;
mod rules;
mod store;

pub(super) use store::owners;

use std::net::IpAddr;
use std::path::Path;

use circuit_core::Error;
use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};

use self::config::{Config, targets};
use self::store::{Elements, Target};
use super::owner::Owner;
use super::{Answer, Call, Driver, Unsupported};
use crate::netlink::interface_toward;
use crate::nft::{Nft, conntrack};

/// The driver.
pub(super) struct Portmap;

impl Driver for Portmap {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        config::supports(config)
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let (prev, config) = (call.needs_prev()?, Config::parse(call.config)?);
        if config.mappings.is_empty() {
            return Ok(prev.clone());
        }
        let (owner, targets) = (Owner::of(call), find_targets(call, prev)?);
        if targets.is_empty() {
            return Ok(prev.clone());
        }
        let elements = store::wanted(&owner, &config, &targets)?;
        store::put(&owner, &elements)?;
        if config.snat
            && let Err(error) = let_loopback_through(&targets)
        {
            store::remove(&owner, &elements)?;
            return Err(error);
        }
        forget_connections(&elements);
        Ok(prev.clone())
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        let owner = Owner::of(call);
        let likely = likely(&owner, call).unwrap_or_default();
        let gone = store::remove(&owner, &likely)?;
        forget_connections(&gone);
        Ok(())
    }

    fn mend(&self, call: &Call<'_>) -> Answer<()> {
        self.add(call).map(drop)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let (prev, config) = (call.needs_prev()?, Config::parse(call.config)?);
        let targets = find_targets(call, prev)?;
        if config.mappings.is_empty() || targets.is_empty() {
            return Ok(());
        }
        let owner = Owner::of(call);
        let elements = store::wanted(&owner, &config, &targets)?;
        match store::missing(&owner, &elements)? {
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
        forget_connections(&gone);
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

/// The elements that ADD has put in, going by what DEL is told, if it is told.
fn likely(owner: &Owner, call: &Call<'_>) -> Option<Elements> {
    let config = Config::parse(call.config).ok()?;
    let targets = find_targets(call, call.prev?).ok()?;
    let known = !config.mappings.is_empty() && !targets.is_empty();
    known.then(|| store::wanted(owner, &config, &targets).ok())?
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

/// UDP clients that go on sending would reach whom they reached before.
fn forget_connections(elements: &Elements) {
    for v6 in [false, true] {
        let ports = store::udp_ports(elements, v6);
        if let Err(error) = conntrack::forget_udp(v6, &ports) {
            tracing::warn!(%error, ?ports, "udp connections to mapped ports are not forgotten");
        }
    }
}
