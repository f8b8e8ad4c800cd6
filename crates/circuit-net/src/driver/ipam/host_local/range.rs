//! Ranges of addresses, and sets of them.

use std::fmt;
use std::net::IpAddr;

use circuit_core::cni::JsonObject;
use ipnet::IpNet;

use super::super::{canonical, invalid};
use crate::driver::{Answer, Options};

/// Addresses one after the other in a subnet, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::driver::ipam) struct Range {
    pub(in crate::driver::ipam) subnet: IpNet,
    pub(in crate::driver::ipam) start: IpAddr,
    pub(in crate::driver::ipam) end: IpAddr,
    /// Never given out, inside the range or not.
    pub(in crate::driver::ipam) gateway: IpAddr,
}

/// Ranges of one family, out of which an attachment gets one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::driver::ipam) struct RangeSet(Vec<Range>);

/// An address as a number.
pub(in crate::driver::ipam) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The address of the family of `like` that has this number.
pub(in crate::driver::ipam) fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        // Numbers come from addresses of this family.
        IpAddr::V4(_) => IpAddr::V4((number as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

impl Range {
    /// The keys of a range.
    pub(in crate::driver::ipam) const KEYS: [&'static str; 4] =
        ["subnet", "rangeStart", "rangeEnd", "gateway"];

    /// Reads a range, with the stock plugin's defaults.
    pub(in crate::driver::ipam) fn parse(object: &JsonObject, path: &str) -> Answer<Self> {
        let options = Options::at(object, path);
        let subnet: Option<IpNet> = options.parsed(
            "subnet",
            "a subnet with a prefix length, such as 10.88.0.0/16",
        )?;
        let subnet = subnet.ok_or_else(|| invalid(format!("{path}.subnet is missing")))?;
        check_subnet(subnet, path)?;
        let like = subnet.addr();
        let first = address(number(like) + 1, like);
        let last = match subnet {
            // The very last one is for broadcasts.
            IpNet::V4(_) => address(number(subnet.broadcast()) - 1, like),
            IpNet::V6(_) => subnet.broadcast(),
        };
        let read = |key| {
            let ip: Option<IpAddr> = options.parsed(key, "an address")?;
            Ok::<_, circuit_core::cni::ErrorReport>(ip.map(canonical))
        };
        let inside = |key| match read(key)? {
            Some(ip) if !subnet.contains(&ip) => {
                Err(invalid(format!("{path}.{key} {ip} is not in {subnet}")))
            }
            ip => Ok(ip),
        };
        let range = Self {
            subnet,
            start: inside("rangeStart")?.unwrap_or(first),
            end: inside("rangeEnd")?.unwrap_or(last),
            gateway: read("gateway")?.unwrap_or(first),
        };
        if range.start > range.end {
            return Err(invalid(format!(
                "{path}: the range starts at {}, after its end {}",
                range.start, range.end
            )));
        }
        Ok(range)
    }

    pub(in crate::driver::ipam) fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.start.is_ipv4() && (self.start..=self.end).contains(&ip)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || other.contains(self.start)
    }
}

fn check_subnet(subnet: IpNet, path: &str) -> Answer<()> {
    let most = subnet.max_prefix_len() - 2;
    if subnet.prefix_len() > most {
        return Err(invalid(format!(
            "{path}.subnet {subnet} is too small to give out addresses, use at most /{most}"
        )));
    }
    if subnet.addr() != subnet.network() {
        return Err(invalid(format!(
            "{path}.subnet {subnet} has host bits set: the network is {}",
            subnet.trunc()
        )));
    }
    if canonical(subnet.addr()).is_ipv4() != subnet.addr().is_ipv4() {
        return Err(invalid(format!(
            "{path}.subnet {subnet} is ipv4 written as ipv6: write it as ipv4"
        )));
    }
    Ok(())
}

impl RangeSet {
    /// A set of ranges that fit together; `path` is its name for errors.
    pub(in crate::driver::ipam) fn new(ranges: Vec<Range>, path: &str) -> Answer<Self> {
        let Some(first) = ranges.first() else {
            return Err(invalid(format!("{path} has no range")));
        };
        if ranges
            .iter()
            .any(|r| r.start.is_ipv4() != first.start.is_ipv4())
        {
            return Err(invalid(format!(
                "{path} mixes ipv4 and ipv6: give each a range set of its own"
            )));
        }
        for (n, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges[..n].iter().find(|other| range.overlaps(other)) {
                return Err(invalid(format!("{path}: {other} and {range} overlap")));
            }
        }
        Ok(Self(ranges))
    }

    /// The ranges, at least one.
    pub(in crate::driver::ipam) fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// The range that has an address.
    pub(in crate::driver::ipam) fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    pub(in crate::driver::ipam) fn overlaps(&self, other: &Self) -> bool {
        let hit = |range: &Range| other.0.iter().any(|other| range.overlaps(other));
        self.0.iter().any(hit)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn range(value: &Value) -> Answer<Range> {
        Range::parse(value.as_object().unwrap(), "range")
    }

    #[test]
    fn what_is_not_said_is_filled_in() {
        let text = |value| {
            let range = range(&value).unwrap();
            format!("{range} {}", range.gateway)
        };
        assert_eq!(
            text(json!({"subnet": "10.1.2.0/24"})),
            "10.1.2.1-10.1.2.254 10.1.2.1"
        );
        assert_eq!(
            text(json!({"subnet": "fd00:1::/64", "gateway": ""})),
            "fd00:1::1-fd00:1::ffff:ffff:ffff:ffff fd00:1::1"
        );
        assert_eq!(
            text(json!({"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9",
                        "rangeEnd": "::ffff:10.1.2.20", "gateway": "10.9.9.9"})),
            "10.1.2.9-10.1.2.20 10.9.9.9"
        );
        assert_eq!(
            text(json!({"subnet": "0.0.0.0/0"})),
            "0.0.0.1-255.255.255.254 0.0.0.1"
        );
    }

    #[test]
    fn ranges_that_cannot_be_are_refused() {
        for (value, text) in [
            (json!({}), "subnet is missing"),
            (json!({"subnet": "10.0.0.0"}), "is not a subnet"),
            (json!({"subnet": "10.0.0.0/31"}), "too small"),
            (json!({"subnet": "fd00::/127"}), "at most /126"),
            (json!({"subnet": "10.0.0.1/24"}), "host bits"),
            (json!({"subnet": "::ffff:10.0.0.0/120"}), "written as ipv6"),
            (
                json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}),
                "range.rangeStart 10.0.1.1 is not in 10.0.0.0/24",
            ),
            (
                json!({"subnet": "10.0.0.0/24", "rangeEnd": "fd00::1"}),
                "rangeEnd fd00::1 is not in",
            ),
            (
                json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}),
                "after its end",
            ),
            (
                json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.255"}),
                "after its end",
            ),
            (
                json!({"subnet": "10.0.0.0/24", "gateway": "x"}),
                "is not an address",
            ),
        ] {
            let error = range(&value).unwrap_err();
            assert!(error.msg.contains(text), "{value}: {}", error.msg);
        }
    }

    #[test]
    fn ranges_of_a_set_fit_together() {
        let of = |subnets: &[&str]| {
            let ranges = subnets
                .iter()
                .map(|s| range(&json!({"subnet": s})).unwrap());
            RangeSet::new(ranges.collect(), "set")
        };
        let set = of(&["10.0.0.0/24", "10.0.1.0/24"]).unwrap();
        assert_eq!(set.to_string(), "10.0.0.1-10.0.0.254,10.0.1.1-10.0.1.254");
        assert!(set.range_of("10.0.1.7".parse().unwrap()).is_some());
        assert!(set.range_of("10.0.1.255".parse().unwrap()).is_none());
        assert!(set.overlaps(&of(&["10.0.0.0/16"]).unwrap()));
        assert!(of(&["10.0.0.0/16"]).unwrap().overlaps(&set));
        assert!(!set.overlaps(&of(&["10.1.0.0/16"]).unwrap()));
        assert!(!set.overlaps(&of(&["fd00::/16"]).unwrap()));
        let error = |subnets: &[&str]| of(subnets).unwrap_err().msg;
        assert!(error(&[]).contains("no range"));
        assert!(error(&["10.0.0.0/24", "fd00::/64"]).contains("mixes"));
        assert!(error(&["10.0.0.0/24", "10.0.0.0/16"]).contains("overlap"));
    }
}
