//! `host-local`: addresses out of ranges, with leases in files. The files and
//! their lock are the stock plugin's, so both may give out addresses of the
//! same ranges at the same time.

mod allocator;
pub(super) mod config;
mod lease;
pub(super) mod range;
mod resolv_conf;
mod stamp;
mod store;
mod taken;

#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;

use circuit_core::cni::{AnyCase as _, CniResult, Dns, ErrorReport, IpConfig, JsonObject, code};
use circuit_core::datapath::Held;
use ipnet::IpNet;
use nix::unistd::{AccessFlags, access};
use serde_json::Value;

use crate::driver::{Answer, Call, Driver, Options, Unsupported};
use config::Settings;
pub(super) use lease::address;
use range::{Range, RangeSet};
use store::{Owner, Store};

/// The driver of `host-local`.
#[derive(Debug)]
pub(crate) struct HostLocal;

impl Driver for HostLocal {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        super::only(config, &config::KEYS)?;
        let known = |sets: Option<&Value>, path: &str| {
            let sets = sets.and_then(Value::as_array).into_iter().flatten();
            sets.filter_map(Value::as_array)
                .flatten()
                .filter_map(Value::as_object)
                .try_for_each(|range| Options::at(range, path).only(&Range::KEYS))
        };
        let ipam = config.find("ipam");
        known(ipam.and_then(|ipam| ipam.find("ranges")), "ipam.ranges")?;
        let runtime = config.find("runtimeConfig");
        known(
            runtime.and_then(|runtime| runtime.find("ipRanges")),
            "runtimeConfig.ipRanges",
        )
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let settings = Settings::parse(call)?;
        let dns = match &settings.resolv_conf {
            Some(path) => resolv_conf::read(path)?,
            None => Dns::default(),
        };
        let dir = config::directory(call)?;
        let ips = store::with(&dir, true, |store| allocate(store, &settings, &owner(call)))?;
        Ok(CniResult {
            // The folder is made when there is none.
            ips: ips.unwrap_or_default(),
            routes: settings.routes,
            dns,
            ..CniResult::default()
        })
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        let dir = config::directory(call)?;
        store::with(&dir, false, |store| store.release(&owner(call))).map(drop)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let dir = config::directory(call)?;
        let has = store::with(&dir, false, |store| Ok(!store.of(&owner(call)).is_empty()))?;
        if has == Some(true) {
            return Ok(());
        }
        Err(ErrorReport::new(
            code::OTHER,
            format!(
                "container {} has no address of network {} in {}: attach it again",
                call.container_id,
                call.network(),
                dir.display()
            ),
        ))
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        let unavailable = |report: ErrorReport| ErrorReport {
            code: code::NOT_AVAILABLE,
            ..report
        };
        status(call).map_err(unavailable)
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        let valid = call.valid()?;
        let dir = config::directory(call)?;
        store::with(&dir, false, |store| store.retain(&valid)).map(drop)
    }
}

/// The leases in the folder of a network.
pub(super) fn leases(call: &Call<'_>) -> Answer<Vec<Held>> {
    let dir = config::directory(call)?;
    let failed = |e| ErrorReport::new(code::IO_FAILURE, format!("read {}: {e}", dir.display()));
    let files = match std::fs::read_dir(&dir) {
        Ok(files) => files,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut leases = Vec::new();
    for file in files {
        let file = file.map_err(failed)?;
        let Some(address) = file.file_name().to_str().and_then(address) else {
            continue;
        };
        // Without an owner it is being written, or is what is left of that.
        let Ok(Some(owner)) = lease::read(&file.path()) else {
            continue;
        };
        let (id, interface) = owner.split_once(lease::BREAK).unwrap_or((&owner, ""));
        leases.push(Held {
            cni_id: id.to_owned(),
            interface: interface.to_owned(),
            address: Some(address),
        });
    }
    Ok(leases)
}

fn owner<'a>(call: &Call<'a>) -> Owner<'a> {
    Owner {
        container_id: call.container_id,
        ifname: call.ifname,
    }
}

/// An address out of each range set, or none at all.
fn allocate(
    store: &mut Store<'_>,
    settings: &Settings,
    owner: &Owner<'_>,
) -> Answer<Vec<IpConfig>> {
    let mut given = Vec::new();
    let result = allocate_each(store, settings, owner, &mut given);
    if result.is_err() {
        for ip in &given {
            // The first failure is the one to tell; what stays is freed by DEL.
            let _ = store.give_back(ip.address.addr(), owner);
        }
    }
    result.map(|()| given)
}

fn allocate_each(
    store: &mut Store<'_>,
    settings: &Settings,
    owner: &Owner<'_>,
    given: &mut Vec<IpConfig>,
) -> Answer<()> {
    let mut requested = settings.requested.clone();
    for (n, set) in settings.ranges.iter().enumerate() {
        let wish = requested.iter().position(|ip| set.range_of(*ip).is_some());
        let wish = wish.map(|place| requested.remove(place));
        let (ip, range) = match wish {
            Some(ip) => take(store, (n, set), ip, owner),
            None => take_next(store, (n, set), owner),
        }
        .map_err(|e| e.context(format!("failed to allocate for range {n}")))?;
        given.push(IpConfig {
            address: with_prefix(ip, range),
            gateway: Some(range.gateway),
            interface: None,
        });
    }
    if requested.is_empty() {
        return Ok(());
    }
    let left: Vec<String> = requested.iter().map(ToString::to_string).collect();
    Err(ErrorReport::new(
        code::OTHER,
        format!(
            "requested addresses {} are in no range set, or in one that gives another already",
            left.join(", ")
        ),
    ))
}

fn with_prefix(ip: IpAddr, range: &Range) -> IpNet {
    // An address of the subnet takes the subnet's prefix length.
    IpNet::new(ip, range.subnet.prefix_len()).unwrap_or_else(|_| ip.into())
}

/// Takes a requested address.
fn take<'s>(
    store: &mut Store<'_>,
    (n, set): (usize, &'s RangeSet),
    ip: IpAddr,
    owner: &Owner<'_>,
) -> Answer<(IpAddr, &'s Range)> {
    let refuse = |text| Err(ErrorReport::new(code::OTHER, text));
    let Some(range) = set.range_of(ip) else {
        return refuse(format!("requested address {ip} is not in range set {set}"));
    };
    if ip == range.gateway {
        return refuse(format!("requested address {ip} is the gateway's"));
    }
    if store.taken().contains(ip) || !store.reserve(ip, owner, n)? {
        let holder = store.holder(ip);
        let holder = holder.map_or_else(String::new, |holder| format!(": {holder} has it"));
        return refuse(format!(
            "requested IP address {ip} is not available in range set {set}{holder}"
        ));
    }
    Ok((ip, range))
}

/// Takes the next free address.
fn take_next<'s>(
    store: &mut Store<'_>,
    (n, set): (usize, &'s RangeSet),
    owner: &Owner<'_>,
) -> Answer<(IpAddr, &'s Range)> {
    let mut has = store.of(owner).into_iter();
    if let Some(ip) = has.find(|ip| set.range_of(*ip).is_some()) {
        return Err(ErrorReport::new(
            code::OTHER,
            format!(
                "{ip} has been allocated to {} already: detach it first",
                owner.container_id
            ),
        ));
    }
    let last = store.last(n);
    loop {
        let Some((ip, range)) = allocator::next(set, last, store.taken()) else {
            return Err(exhausted(set));
        };
        if store.reserve(ip, owner, n)? {
            return Ok((ip, range));
        }
    }
}

fn exhausted(set: &RangeSet) -> ErrorReport {
    ErrorReport::new(
        code::OTHER,
        format!("no IP addresses available in range set {set}: detach something, or widen it"),
    )
}

fn status(call: &Call<'_>) -> Answer<()> {
    let settings = Settings::parse(call)?;
    let dir = config::directory(call)?;
    let free = |store: &mut Store<'_>| {
        let full = |set: &&RangeSet| allocator::next(set, None, store.taken()).is_none();
        match settings.ranges.iter().find(full) {
            Some(set) => Err(exhausted(set)),
            None => Ok(()),
        }
    };
    writable(&dir)?;
    store::with(&dir, false, free).map(drop)
}

/// Whether leases could be written in `dir`, made if need be.
fn writable(dir: &Path) -> Answer<()> {
    let existing = dir.ancestors().find(|dir| dir.exists());
    let existing = existing.unwrap_or(Path::new("/"));
    access(existing, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|e| {
        ErrorReport::new(
            code::IO_FAILURE,
            format!("cannot write leases in {}: {e}", dir.display()),
        )
    })
}
