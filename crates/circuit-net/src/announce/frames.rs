//! The frames that announce an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// The length of a hardware address.
pub(super) const MAC_LENGTH: usize = 6;

/// A hardware address.
pub(super) type Mac = [u8; MAC_LENGTH];

const BROADCAST: Mac = [0xff; MAC_LENGTH];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

const ARP_ETHERNET: u16 = 1;
const ARP_REQUEST: u16 = 1;

const ICMPV6: u8 = 58;
/// Neighbour discovery is only believed with this one, which no router passes
/// on.
const HOP_LIMIT: u8 = 255;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ROUTER: u8 = 0x80;
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const CHECKSUM: Range<usize> = 2..4;

/// Where things are in a frame.
const SENDER_IPV4: Range<usize> = 28..32;
const TARGET_IPV4: Range<usize> = 38..42;
const NEXT_HEADER: usize = 20;
const SENDER_IPV6: Range<usize> = 22..38;
const ICMP_TYPE: usize = 54;
const ND_TARGET: Range<usize> = 62..78;

/// An ARP announcement (RFC 5227): a broadcast request in which the address is
/// the sender's and the target's.
pub(super) fn arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    frame.extend(ARP_ETHERNET.to_be_bytes());
    frame.extend(ETHERTYPE_IPV4.to_be_bytes());
    // The lengths of the addresses.
    frame.extend([6, 4]);
    frame.extend(ARP_REQUEST.to_be_bytes());
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; MAC_LENGTH]);
    frame.extend(address.octets());
    frame
}

/// An unsolicited neighbour advertisement (RFC 4861, 7.2.6) to all nodes.
pub(super) fn neighbour_advertisement(mac: Mac, address: Ipv6Addr, router: bool) -> Vec<u8> {
    let message = advertisement(mac, address, router);
    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    // The version; no traffic class, no flow.
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length(&message).to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// An ARP probe (RFC 5227): a request for an address by somebody who has none.
pub(super) fn arp_probe(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = arp(mac, address);
    frame[SENDER_IPV4].fill(0);
    frame
}

/// A neighbour solicitation (RFC 4861, 7.2.2) by somebody who has no address,
/// as when duplicates are looked for.
pub(super) fn neighbour_solicitation(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = address.octets();
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    group[13..].copy_from_slice(&[a, b, c]);
    let group = Ipv6Addr::from(group);
    let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address.octets());
    let checksum = checksum(Ipv6Addr::UNSPECIFIED, group, &message);
    message[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = ethernet([0x33, 0x33, 0xff, a, b, c], mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length(&message).to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(Ipv6Addr::UNSPECIFIED.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

/// The address that the sender of a frame, who does not have the hardware
/// address `own`, says it has, or is about to take.
pub(super) fn owner_of(frame: &[u8], own: Mac) -> Option<IpAddr> {
    let source: Mac = frame.get(6..12)?.try_into().ok()?;
    if source == own {
        return None;
    }
    let ethertype = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    match ethertype {
        ETHERTYPE_ARP => {
            let sender: [u8; 4] = frame.get(SENDER_IPV4)?.try_into().ok()?;
            let target: [u8; 4] = frame.get(TARGET_IPV4)?.try_into().ok()?;
            let probing = sender == [0; 4];
            Some(IpAddr::from(if probing { target } else { sender }))
        }
        ETHERTYPE_IPV6 if *frame.get(NEXT_HEADER)? == ICMPV6 => {
            let target: [u8; 16] = frame.get(ND_TARGET)?.try_into().ok()?;
            let asker = frame.get(SENDER_IPV6)?;
            match *frame.get(ICMP_TYPE)? {
                NEIGHBOUR_ADVERTISEMENT => Some(IpAddr::from(target)),
                NEIGHBOUR_SOLICITATION if asker.iter().all(|octet| *octet == 0) => {
                    Some(IpAddr::from(target))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn ethernet(destination: Mac, source: Mac, ethertype: u16) -> Vec<u8> {
    let mut header = Vec::with_capacity(86);
    header.extend(destination);
    header.extend(source);
    header.extend(ethertype.to_be_bytes());
    header
}

fn advertisement(mac: Mac, address: Ipv6Addr, router: bool) -> Vec<u8> {
    let flags = if router { ROUTER | OVERRIDE } else { OVERRIDE };
    // The checksum counts as zero until it is known.
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0];
    message.extend([flags, 0, 0, 0]);
    message.extend(address.octets());
    // One unit of eight octets.
    message.extend([TARGET_LINK_LAYER_ADDRESS, 1]);
    message.extend(mac);
    let checksum = checksum(address, ALL_NODES, &message);
    message[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// The checksum of an ICMPv6 message (RFC 4443, 2.3), with its pseudo-header.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let mut covered = Vec::new();
    covered.extend(source.octets());
    covered.extend(destination.octets());
    covered.extend(u32::from(length(message)).to_be_bytes());
    covered.extend([0, 0, 0, ICMPV6]);
    covered.extend(message);
    let sum: u32 = covered
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// The length of a message, which has a few dozen octets.
fn length(message: &[u8]) -> u16 {
    u16::try_from(message.len()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn an_arp_announcement() {
        let expected = [
            "ffffffffffff",
            "021122334455",
            "0806",
            "0001080006040001",
            "021122334455",
            "0a580007",
            "000000000000",
            "0a580007",
        ];
        let frame = arp(MAC, Ipv4Addr::new(10, 88, 0, 7));
        assert_eq!(hex(&frame), expected.concat());
    }

    #[test]
    fn a_neighbour_advertisement() {
        let expected = [
            "333300000001",
            "021122334455",
            "86dd",
            "6000000000203aff",
            "fd000007000000000000000000000009",
            "ff020000000000000000000000000001",
            "8800f3e420000000",
            "fd000007000000000000000000000009",
            "0201021122334455",
        ];
        let address = "fd00:7::9".parse().unwrap();
        let frame = neighbour_advertisement(MAC, address, false);
        assert_eq!(hex(&frame), expected.concat());
        let frame = neighbour_advertisement(MAC, address, true);
        assert_eq!(frame[58], 0xa0, "a router's says so");
    }

    #[test]
    fn probes_and_who_answers_them() {
        let address = Ipv4Addr::new(10, 88, 0, 7);
        let probe = arp_probe(MAC, address);
        assert_eq!(hex(&probe[28..32]), "00000000");
        assert_eq!(hex(&probe[38..42]), "0a580007");
        let other = [2; 6];
        assert_eq!(owner_of(&probe, MAC), None, "it is one's own");
        assert_eq!(owner_of(&probe, other), Some(address.into()));
        assert_eq!(owner_of(&arp(MAC, address), other), Some(address.into()));
        let address: Ipv6Addr = "fd00:7::9".parse().unwrap();
        let probe = neighbour_solicitation(MAC, address);
        let expected = [
            "3333ff000009",
            "021122334455",
            "86dd",
            "6000000000183aff",
            "00000000000000000000000000000000",
            "ff0200000000000000000001ff000009",
        ];
        assert_eq!(hex(&probe[..54]), expected.concat());
        assert_eq!(owner_of(&probe, other), Some(address.into()));
        let answer = neighbour_advertisement(MAC, address, false);
        assert_eq!(owner_of(&answer, other), Some(address.into()));
        for length in 0..answer.len() {
            let _ = owner_of(&answer[..length], other);
        }
    }

    #[test]
    fn checksums_carry_and_take_odd_lengths() {
        let all = Ipv6Addr::from([0xff; 16]);
        assert_eq!(checksum(all, all, &[0xff; 32]), !(32 + 58));
        let none = Ipv6Addr::UNSPECIFIED;
        assert_eq!(
            checksum(none, none, &[0x12, 0x34, 0x56]),
            !(0x1234 + 0x5600 + 3 + 58)
        );
        // A sum of 0x1ffff carries again when it is folded.
        assert_eq!(checksum(none, none, &[0xff, 0xff, 0xff, 0xc2]), !1);
    }
}
