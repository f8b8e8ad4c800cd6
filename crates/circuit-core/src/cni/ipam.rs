//! What can be said about a plugin's `ipam` part before the plugin runs.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{AnyCase as _, JsonObject, json_kind};
use crate::{Error, Result};

/// A plugin's `ipam` object.
#[derive(Debug, Clone, Copy)]
pub struct IpamConfig<'a> {
    raw: &'a JsonObject,
}

impl<'a> IpamConfig<'a> {
    /// The object under a plugin's `ipam`.
    pub fn new(raw: &'a JsonObject) -> Self {
        Self { raw }
    }

    /// The type: the name of the executable that gives out addresses.
    pub fn kind(&self) -> Option<&'a str> {
        self.raw.find("type")?.as_str()
    }

    /// The object itself.
    pub fn raw(&self) -> &'a JsonObject {
        self.raw
    }

    /// Every subnet that can be read, as networks.
    pub fn subnets(&self) -> Vec<IpNet> {
        let ranges = self
            .ranges()
            .into_iter()
            .filter_map(|(_, range)| range.find("subnet"));
        let addresses = self
            .addresses()
            .into_iter()
            .filter_map(|(_, entry)| entry.find("address"));
        ranges
            .chain(addresses)
            .filter_map(|value| value.as_str()?.parse::<IpNet>().ok())
            .map(|net| net.trunc())
            .collect()
    }

    /// Checks the fields of the stock types; other types have rules of their
    /// own, which only they know.
    pub(super) fn validate(&self) -> Result<()> {
        match self.raw.find("type") {
            None | Some(Value::Null) => {
                return Err(Error::invalid(
                    "ipam has no \"type\": name the executable that gives out addresses",
                ));
            }
            Some(Value::String(kind)) if kind.contains('/') => {
                return Err(Error::invalid(format!(
                    "ipam.type {kind:?} is not a plain file name"
                )));
            }
            Some(Value::String(_)) => {}
            Some(other) => {
                return Err(Error::invalid(format!(
                    "ipam.type is {}, not a string",
                    json_kind(other)
                )));
            }
        }
        match self.kind() {
            Some("host-local" | "circuit") => self.validate_ranges(),
            Some("static") => self.validate_addresses(),
            _ => Ok(()),
        }
    }

    /// The ranges with the names of their fields: the one on top, then those
    /// of `ranges`.
    fn ranges(&self) -> Vec<(String, &'a JsonObject)> {
        let mut ranges = Vec::new();
        if self.raw.find("subnet").is_some() {
            ranges.push(("ipam".to_owned(), self.raw));
        }
        let sets = self.raw.find("ranges").and_then(Value::as_array);
        for (i, set) in sets.into_iter().flatten().enumerate() {
            for (j, range) in set.as_array().into_iter().flatten().enumerate() {
                if let Some(range) = range.as_object() {
                    ranges.push((format!("ipam.ranges[{i}][{j}]"), range));
                }
            }
        }
        ranges
    }

    fn addresses(&self) -> Vec<(String, &'a JsonObject)> {
        let entries = self.raw.find("addresses").and_then(Value::as_array);
        let named = |(i, entry): (usize, &'a Value)| {
            entry
                .as_object()
                .map(|entry| (format!("ipam.addresses[{i}]"), entry))
        };
        entries
            .into_iter()
            .flatten()
            .enumerate()
            .filter_map(named)
            .collect()
    }

    fn validate_ranges(&self) -> Result<()> {
        self.validate_range_sets()?;
        let ranges = self.ranges();
        if ranges.is_empty() {
            return Err(Error::invalid(
                "ipam has no subnet: add \"ranges\": [[{\"subnet\": \"10.88.0.0/16\"}]]",
            ));
        }
        ranges
            .iter()
            .try_for_each(|(place, range)| validate_range(place, range))
    }

    fn validate_range_sets(&self) -> Result<()> {
        let sets = match self.raw.find("ranges") {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Array(sets)) => sets,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "ipam.ranges is {}, not an array of arrays",
                    json_kind(other)
                )));
            }
        };
        for (i, set) in sets.iter().enumerate() {
            let Some(set) = set.as_array().filter(|set| !set.is_empty()) else {
                return Err(Error::invalid(format!(
                    "ipam.ranges[{i}] is not a non-empty array of ranges"
                )));
            };
            if let Some(j) = set.iter().position(|range| !range.is_object()) {
                return Err(Error::invalid(format!(
                    "ipam.ranges[{i}][{j}] is not an object"
                )));
            }
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<()> {
        for (place, entry) in self.addresses() {
            let Some(text) = string_field(&place, entry, "address")? else {
                continue;
            };
            let field = format!("{place}.address");
            parse_subnet(&field, text)?;
            if let Some(text) = string_field(&place, entry, "gateway")? {
                parse_address(&format!("{place}.gateway"), text)?;
            }
        }
        Ok(())
    }
}

fn validate_range(place: &str, range: &JsonObject) -> Result<()> {
    let Some(text) = string_field(place, range, "subnet")? else {
        return Err(Error::invalid(format!(
            "{place}.subnet is missing: give a subnet"
        )));
    };
    let subnet = parse_subnet(&format!("{place}.subnet"), text)?;
    if subnet != subnet.trunc() {
        return Err(Error::invalid(format!(
            "{place}.subnet {subnet} is an address in a subnet: write {}",
            subnet.trunc()
        )));
    }
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return Err(Error::invalid(format!(
            "{place}.subnet {subnet} is too small to give out addresses, use at most /{}",
            subnet.max_prefix_len() - 2
        )));
    }
    let start = address_in(place, range, "rangeStart", subnet)?;
    let end = address_in(place, range, "rangeEnd", subnet)?;
    // Containers may have a gateway beyond their subnet, if a route leads there.
    if let Some(text) = string_field(place, range, "gateway")? {
        parse_address(&format!("{place}.gateway"), text)?;
    }
    match (start, end) {
        (Some(start), Some(end)) if start > end => Err(Error::invalid(format!(
            "{place}.rangeStart {start} is after rangeEnd {end}: exchange them"
        ))),
        _ => Ok(()),
    }
}

fn address_in(place: &str, range: &JsonObject, key: &str, subnet: IpNet) -> Result<Option<IpAddr>> {
    let Some(text) = string_field(place, range, key)? else {
        return Ok(None);
    };
    let field = format!("{place}.{key}");
    let address = parse_address(&field, text)?;
    if !subnet.contains(&address) {
        return Err(Error::invalid(format!(
            "{field} {address} is not in subnet {subnet}"
        )));
    }
    Ok(Some(address))
}

/// The text under a key; an empty one counts as absent, as with the stock
/// plugins.
fn string_field<'a>(place: &str, object: &'a JsonObject, key: &str) -> Result<Option<&'a str>> {
    match object.find(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(other) => Err(Error::invalid(format!(
            "{place}.{key} is {}, not a string",
            json_kind(other)
        ))),
    }
}

fn parse_subnet(field: &str, text: &str) -> Result<IpNet> {
    text.parse().map_err(|_| {
        Error::invalid(format!(
            "{field} {text:?} is not an address with a prefix length, such as 10.88.0.0/16"
        ))
    })
}

fn parse_address(field: &str, text: &str) -> Result<IpAddr> {
    text.parse()
        .map_err(|_| Error::invalid(format!("{field} {text:?} is not an address")))
}
