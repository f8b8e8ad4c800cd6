//! Which addresses a pool has.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Addresses are numbered within blocks of this many bits, so that a script,
/// whose numbers are floating point, reckons with them exactly. Of a span that
/// goes on beyond its first block only that one is given out by itself; single
/// addresses of all of it can be asked for.
const NUMBER_BITS: u32 = 48;

/// Addresses one after the other, both ends included, of one subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The subnet, which says the prefix length.
    pub subnet: IpNet,
    /// The first address.
    pub first: IpAddr,
    /// The last address.
    pub last: IpAddr,
    /// The subnet's gateway.
    pub gateway: IpAddr,
}

/// Spans of one family, out of which an attachment gets one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressSet {
    /// They neither overlap nor are empty.
    pub spans: Vec<Span>,
}

/// The digits of an address, of the same number for each family, so that they
/// sort as the addresses do.
pub fn key(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{:08x}", ip.to_bits()),
        IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
    }
}

/// The address of these digits.
pub fn from_key(key: &str) -> Option<IpAddr> {
    if !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match key.len() {
        8 => Some(Ipv4Addr::from_bits(u32::from_str_radix(key, 16).ok()?).into()),
        32 => Some(Ipv6Addr::from_bits(u128::from_str_radix(key, 16).ok()?).into()),
        _ => None,
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

impl Span {
    /// Whether an address is among them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&ip)
    }

    /// The address that is given out last by itself.
    pub fn last_numbered(&self) -> IpAddr {
        let block = (1_u128 << NUMBER_BITS) - 1;
        let end = number(self.first) | block;
        self.last.min(address(end, self.first))
    }

    /// What is left without the addresses from `from` to `to`.
    pub fn without(self, from: IpAddr, to: IpAddr) -> Vec<Self> {
        if from.is_ipv4() != self.first.is_ipv4() || to < self.first || from > self.last {
            return vec![self];
        }
        let mut left = Vec::new();
        if from > self.first {
            let last = address(number(from) - 1, from);
            left.push(Self {
                last,
                ..self.clone()
            });
        }
        if to < self.last {
            let first = address(number(to) + 1, to);
            left.push(Self { first, ..self });
        }
        left
    }

    /// How many addresses are given out by themselves.
    fn size(&self) -> u64 {
        let count = number(self.last_numbered()) - number(self.first);
        u64::try_from(count).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Every address that is given out by itself, from the first on.
    pub(super) fn numbered(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let like = self.first;
        (number(self.first)..=number(self.last_numbered())).map(move |n| address(n, like))
    }
}

impl AddressSet {
    /// The span that has an address.
    pub fn span_of(&self, ip: IpAddr) -> Option<&Span> {
        self.spans.iter().find(|span| span.contains(ip))
    }

    /// How many addresses are given out by themselves.
    pub fn size(&self) -> u64 {
        self.spans
            .iter()
            .fold(0, |sum, span| sum.saturating_add(span.size()))
    }

    /// How many addresses a node takes at a time: of a small pool few, so that
    /// several nodes can live on it, of a large one enough for a while.
    pub fn batch(&self) -> usize {
        usize::try_from(self.size() / 32).map_or(16, |part| part.clamp(1, 16))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Display for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, span) in self.spans.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{span}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(subnet: &str, first: &str, last: &str) -> Span {
        Span {
            subnet: subnet.parse().unwrap(),
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
            gateway: first.parse().unwrap(),
        }
    }

    #[test]
    fn a_hole_makes_two() {
        let whole = span("10.0.0.0/24", "10.0.0.1", "10.0.0.9");
        let ip = |text: &str| text.parse().unwrap();
        let left = |from, to| {
            let spans = whole.clone().without(ip(from), ip(to));
            AddressSet { spans }.to_string()
        };
        assert_eq!(
            left("10.0.0.3", "10.0.0.4"),
            "10.0.0.1-10.0.0.2,10.0.0.5-10.0.0.9"
        );
        assert_eq!(left("10.0.0.0", "10.0.0.4"), "10.0.0.5-10.0.0.9");
        assert_eq!(left("10.0.0.9", "10.0.1.4"), "10.0.0.1-10.0.0.8");
        assert_eq!(left("10.0.0.0", "10.0.1.4"), "");
        assert_eq!(left("fd00::", "fd00::9"), "10.0.0.1-10.0.0.9");
        assert_eq!(left("10.0.0.10", "10.0.0.12"), "10.0.0.1-10.0.0.9");
    }

    #[test]
    fn batches_suit_the_pool() {
        let batch = |subnet, first, last| {
            let spans = vec![span(subnet, first, last)];
            AddressSet { spans }.batch()
        };
        assert_eq!(batch("10.0.0.0/28", "10.0.0.2", "10.0.0.14"), 1);
        assert_eq!(batch("10.0.0.0/24", "10.0.0.2", "10.0.0.254"), 7);
        assert_eq!(batch("10.0.0.0/16", "10.0.0.2", "10.0.255.254"), 16);
        assert_eq!(
            batch("fd00::/64", "fd00::2", "fd00::ffff:ffff:ffff:ffff"),
            16
        );
        let wide = span("fd00::/64", "fd00::2", "fd00::ffff:ffff:ffff:ffff");
        assert_eq!(wide.last_numbered().to_string(), "fd00::ffff:ffff:ffff");
    }

    proptest! {
        #[test]
        fn keys_are_read_back_and_sort(a: u128, b: u128, c: u32, d: u32) {
            for (a, b) in [
                (IpAddr::V6(a.into()), IpAddr::V6(b.into())),
                (IpAddr::V4(c.into()), IpAddr::V4(d.into())),
            ] {
                prop_assert_eq!(from_key(&key(a)), Some(a));
                prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            }
        }

        #[test]
        fn other_keys_are_none(text in ".{0,33}") {
            if let Some(ip) = from_key(&text) {
                prop_assert_eq!(key(ip), text.to_lowercase());
            }
        }
    }
}
