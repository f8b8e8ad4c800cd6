//! What the configuration, the runtime and `CNI_ARGS` ask for.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use circuit_core::cni::{ErrorReport, Route, code};
use ipnet::IpNet;
use serde_json::Value;

use super::super::{canonical, invalid, network, object, routes, section, texts};
use super::range::{Range, RangeSet};
use crate::driver::{Answer, Call, Options, args};

/// Where leases are when nothing else is said.
const DATA_DIR: &str = "/var/lib/cni/networks";

/// The keys of the `ipam` part.
pub(super) const KEYS: [&str; 9] = [
    "type",
    "ranges",
    "routes",
    "resolvConf",
    "dataDir",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
];

/// All that an ADD needs to know.
#[derive(Debug)]
pub(super) struct Settings {
    /// One address is given out of each.
    pub(super) ranges: Vec<RangeSet>,
    pub(super) routes: Vec<Route>,
    pub(super) resolv_conf: Option<PathBuf>,
    /// Addresses that were asked for.
    pub(super) requested: Vec<IpAddr>,
}

/// The folder of a network's leases.
pub(in crate::driver::ipam) fn directory(call: &Call<'_>) -> Answer<PathBuf> {
    let options = Options::at(section(call.config)?, "ipam");
    let dir = options.text("dataDir")?.unwrap_or(DATA_DIR);
    Ok(Path::new(dir).join(network(call)?))
}

impl Settings {
    pub(super) fn parse(call: &Call<'_>) -> Answer<Self> {
        let options = Options::at(section(call.config)?, "ipam");
        Ok(Self {
            ranges: range_sets(call, &options)?,
            routes: routes(&options)?,
            resolv_conf: options.text("resolvConf")?.map(PathBuf::from),
            requested: requested(call, "host-local")?,
        })
    }
}

/// The range sets that the runtime asks for, then the range on top, then those
/// of `ranges`: the number of each is part of the name of what remembers its
/// last address.
pub(in crate::driver::ipam) fn range_sets(
    call: &Call<'_>,
    options: &Options<'_>,
) -> Answer<Vec<RangeSet>> {
    let mut sets = match call.runtime_config("ipRanges") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(sets)) => parse_sets(sets, "runtimeConfig.ipRanges")?,
        Some(other) => {
            return Err(ErrorReport::new(
                code::DECODING_FAILURE,
                format!("runtimeConfig.ipRanges is {other}, not an array"),
            ));
        }
    };
    if options.text("subnet")?.is_some() {
        let range = Range::parse(section(call.config)?, "ipam")?;
        sets.push(RangeSet::new(vec![range], "ipam")?);
    }
    sets.extend(parse_sets(options.array("ranges")?, "ipam.ranges")?);
    if sets.is_empty() {
        return Err(invalid(
            "ipam has no ranges: add \"ranges\": [[{\"subnet\": \"10.88.0.0/16\"}]]",
        ));
    }
    for (n, set) in sets.iter().enumerate() {
        if let Some(other) = sets[..n].iter().position(|other| other.overlaps(set)) {
            return Err(invalid(format!(
                "ipam: range set {other} ({}) overlaps with {n} ({set})",
                sets[other]
            )));
        }
    }
    Ok(sets)
}

fn parse_sets(sets: &[Value], path: &str) -> Answer<Vec<RangeSet>> {
    let parse = |(n, set): (usize, &Value)| {
        let path = format!("{path}[{n}]");
        let Value::Array(ranges) = set else {
            return Err(ErrorReport::new(
                code::DECODING_FAILURE,
                format!("{path} is {set}, not an array of ranges"),
            ));
        };
        let range = |(n, range)| {
            let path = format!("{path}[{n}]");
            Range::parse(object(range, &path)?, &path)
        };
        let ranges: Answer<Vec<_>> = ranges.iter().enumerate().map(range).collect();
        RangeSet::new(ranges?, &path)
    };
    sets.iter().enumerate().map(parse).collect()
}

/// The addresses asked for in `CNI_ARGS`, in `args.cni.ips` and in
/// `runtimeConfig.ips`; a prefix length may be there and says nothing.
pub(in crate::driver::ipam) fn requested(call: &Call<'_>, plugin: &str) -> Answer<Vec<IpAddr>> {
    args::only(call, plugin, &["IP"])?;
    let mut ips = Vec::new();
    let mut asked = vec![("CNI_ARGS IP", call.arg("IP").into_iter().collect())];
    for (name, value) in [
        ("args.cni.ips", call.cni_arg("ips")),
        ("runtimeConfig.ips", call.runtime_config("ips")),
    ] {
        asked.push((name, texts(value, name)?));
    }
    for (name, texts) in asked {
        for text in texts.into_iter().filter(|text| !text.is_empty()) {
            let ip = address(text)
                .ok_or_else(|| invalid(format!("{name}: {text:?} is not an address")))?;
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
    }
    Ok(ips)
}

fn address(text: &str) -> Option<IpAddr> {
    let ip = match text.contains('/') {
        true => text.parse::<IpNet>().ok()?.addr(),
        false => text.parse().ok()?,
    };
    Some(canonical(ip))
}
