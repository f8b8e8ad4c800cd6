//! Names of addresses (RFC 1035, section 3.5; RFC 3596, section 2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What a name below `in-addr.arpa` or `ip6.arpa` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// An address.
    Address(IpAddr),
    /// All addresses of a prefix.
    Above(IpNet),
}

impl Place {
    /// Reads a name's labels.
    pub(super) fn read(labels: &[&str]) -> Option<Self> {
        match labels {
            [digits @ .., "in-addr", "arpa"] => v4(digits),
            [digits @ .., "ip6", "arpa"] => v6(digits),
            _ => None,
        }
    }
}

fn v4(digits: &[&str]) -> Option<Place> {
    let mut octets = [0_u8; 4];
    if digits.is_empty() || digits.len() > octets.len() {
        return None;
    }
    for (octet, digit) in octets.iter_mut().zip(digits.iter().rev()) {
        *octet = digit.parse().ok()?;
        // One name for each address: no signs and no zeros before it.
        if octet.to_string() != **digit {
            return None;
        }
    }
    Some(place(Ipv4Addr::from(octets).into(), 8 * digits.len(), 32))
}

fn v6(digits: &[&str]) -> Option<Place> {
    let mut bits = 0_u128;
    if digits.is_empty() || digits.len() > 32 {
        return None;
    }
    for (at, digit) in digits.iter().rev().enumerate() {
        let [byte] = digit.as_bytes() else {
            return None;
        };
        let nibble = char::from(*byte).to_digit(16)?;
        bits |= u128::from(nibble) << (124 - 4 * at);
    }
    Some(place(Ipv6Addr::from(bits).into(), 4 * digits.len(), 128))
}

fn place(address: IpAddr, length: usize, longest: usize) -> Place {
    let prefix = u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(address, length).ok());
    match prefix {
        Some(prefix) if length < longest => Place::Above(prefix),
        _ => Place::Address(address),
    }
}

/// The zone with an address that lies wholly in its subnet: names are cut at whole
/// octets, those of IPv6 at half ones.
pub(super) fn apex(subnet: IpNet, address: IpAddr) -> String {
    let step = match address {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 4,
    };
    let length = subnet.prefix_len().div_ceil(step).max(1) * step;
    match IpNet::new(address, length) {
        Ok(prefix) => name(prefix),
        Err(_) => name(address.into()),
    }
}

/// The name of a prefix that ends at a whole octet, or half one.
pub(super) fn name(prefix: IpNet) -> String {
    let length = usize::from(prefix.prefix_len());
    match prefix.addr() {
        IpAddr::V4(address) => {
            let kept = address.octets().into_iter().take(length / 8);
            let mut digits: Vec<String> = kept.map(|octet| octet.to_string()).collect();
            digits.reverse();
            format!("{}.in-addr.arpa", digits.join("."))
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            let nibbles = (0..length / 4).map(|at| (bits >> (124 - 4 * at)) & 15);
            let mut digits: Vec<String> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
            digits.reverse();
            format!("{}.ip6.arpa", digits.join("."))
        }
    }
}
