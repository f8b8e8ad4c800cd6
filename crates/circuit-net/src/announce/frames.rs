//! The frames that announce an address.

use std::net::{Ipv4Addr, Ipv6Addr};

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
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ROUTER: u8 = 0x80;
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const CHECKSUM: std::ops::Range<usize> = 2..4;

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
