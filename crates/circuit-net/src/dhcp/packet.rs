//! DHCP messages (RFC 2131, 2132, 3396) and the Ethernet frames around them.

use std::net::Ipv4Addr;

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

pub(super) const BROADCAST: Mac = [0xff; 6];

/// Options that are looked at here; others are carried as they are.
pub(super) mod option {
    pub(in crate::dhcp) const MASK: u8 = 1;
    pub(in crate::dhcp) const ROUTERS: u8 = 3;
    pub(in crate::dhcp) const DNS: u8 = 6;
    pub(in crate::dhcp) const HOST_NAME: u8 = 12;
    pub(in crate::dhcp) const DOMAIN: u8 = 15;
    pub(in crate::dhcp) const STATIC_ROUTES: u8 = 33;
    pub(in crate::dhcp) const REQUESTED_ADDRESS: u8 = 50;
    pub(in crate::dhcp) const LEASE_TIME: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(in crate::dhcp) const MESSAGE_TYPE: u8 = 53;
    pub(in crate::dhcp) const SERVER: u8 = 54;
    pub(in crate::dhcp) const REQUEST_LIST: u8 = 55;
    pub(in crate::dhcp) const MESSAGE: u8 = 56;
    pub(in crate::dhcp) const MAX_SIZE: u8 = 57;
    pub(in crate::dhcp) const RENEWAL_TIME: u8 = 58;
    pub(in crate::dhcp) const REBINDING_TIME: u8 = 59;
    pub(in crate::dhcp) const VENDOR_CLASS: u8 = 60;
    pub(in crate::dhcp) const CLIENT_ID: u8 = 61;
    pub(in crate::dhcp) const USER_CLASS: u8 = 77;
    pub(in crate::dhcp) const CLASSLESS_ROUTES: u8 = 121;
    pub(in crate::dhcp) const CLASSLESS_ROUTES_OF_MICROSOFT: u8 = 249;
    pub(super) const PAD: u8 = 0;
    pub(super) const END: u8 = 255;
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Ack = 5,
    Nak = 6,
    Release = 7,
}

const FROM_CLIENT: u8 = 1;
const FROM_SERVER: u8 = 2;
const ETHERNET: u8 = 1;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const BROADCAST_FLAG: u16 = 0x8000;

/// The part before the cookie, and where things are in it.
const FIXED: usize = 236;
const CHADDR: usize = 28;
const SNAME: usize = 44;
const FILE: usize = 108;
/// What some servers and relays take to be the least.
const LEAST: usize = 300;

const ETHERNET_HEADER: usize = 14;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const ETHERTYPE_IP: [u8; 2] = [8, 0];
const UDP: u8 = 17;
const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;

/// Options in their order, each once.
pub(super) type Options = Vec<(u8, Vec<u8>)>;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) from_server: bool,
    pub(super) transaction: u32,
    /// Seconds since the client began.
    pub(super) seconds: u16,
    /// Whether the answer is to be broadcast.
    pub(super) broadcast: bool,
    /// The address that the client has.
    pub(super) client: Ipv4Addr,
    /// The address that the client gets.
    pub(super) yours: Ipv4Addr,
    pub(super) mac: Mac,
    pub(super) options: Options,
}

impl Packet {
    /// A client's message.
    pub(super) fn new(kind: Kind, transaction: u32, mac: Mac) -> Self {
        Self {
            from_server: false,
            transaction,
            seconds: 0,
            broadcast: false,
            client: Ipv4Addr::UNSPECIFIED,
            yours: Ipv4Addr::UNSPECIFIED,
            mac,
            options: vec![(option::MESSAGE_TYPE, vec![kind as u8])],
        }
    }

    /// Sets an option.
    pub(super) fn set(&mut self, code: u8, value: Vec<u8>) {
        match self.options.iter_mut().find(|(known, _)| *known == code) {
            Some((_, known)) => *known = value,
            None => self.options.push((code, value)),
        }
    }

    pub(super) fn option(&self, code: u8) -> Option<&[u8]> {
        get(&self.options, code)
    }

    pub(super) fn is(&self, kind: Kind) -> bool {
        self.option(option::MESSAGE_TYPE) == Some(&[kind as u8])
    }

    /// The server's identity.
    pub(super) fn server(&self) -> Option<Ipv4Addr> {
        address(self.option(option::SERVER)?)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes[0] = if self.from_server {
            FROM_SERVER
        } else {
            FROM_CLIENT
        };
        (bytes[1], bytes[2]) = (ETHERNET, 6);
        bytes[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.seconds.to_be_bytes());
        let flags = if self.broadcast { BROADCAST_FLAG } else { 0 };
        bytes[10..12].copy_from_slice(&flags.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.client.octets());
        bytes[16..20].copy_from_slice(&self.yours.octets());
        bytes[CHADDR..CHADDR + 6].copy_from_slice(&self.mac);
        bytes.extend(COOKIE);
        for (code, value) in &self.options {
            // A long one is written in pieces, which are read as one.
            for piece in value.chunks(255) {
                bytes.push(*code);
                bytes.push(piece.len() as u8);
                bytes.extend(piece);
            }
        }
        bytes.push(option::END);
        bytes.resize(bytes.len().max(LEAST), option::PAD);
        bytes
    }

    /// Reads a message; `None` when it is none, or not for Ethernet.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; FIXED] = bytes.first_chunk()?;
        let rest = bytes[FIXED..].strip_prefix(&COOKIE)?;
        if (header[1], header[2]) != (ETHERNET, 6) {
            return None;
        }
        let word = |at: usize| Some(u32::from_be_bytes(*header[at..].first_chunk()?));
        let mut options = Options::new();
        read_options(rest, &mut options);
        let overload = get(&options, option::OVERLOAD).and_then(|value| value.first().copied());
        let overload = overload.unwrap_or_default();
        if overload & 1 != 0 {
            read_options(&header[FILE..], &mut options);
        }
        if overload & 2 != 0 {
            read_options(&header[SNAME..FILE], &mut options);
        }
        Some(Self {
            from_server: header[0] == FROM_SERVER,
            transaction: word(4)?,
            seconds: u16::from_be_bytes([header[8], header[9]]),
            broadcast: u16::from_be_bytes([header[10], header[11]]) & BROADCAST_FLAG != 0,
            client: word(12)?.into(),
            yours: word(16)?.into(),
            mac: *header[CHADDR..].first_chunk()?,
            options,
        })
    }
}

/// The value of an option.
pub(super) fn get(options: &[(u8, Vec<u8>)], code: u8) -> Option<&[u8]> {
    options
        .iter()
        .find(|(known, _)| *known == code)
        .map(|(_, value)| value.as_slice())
}

/// The address that begins a value.
pub(super) fn address(value: &[u8]) -> Option<Ipv4Addr> {
    value.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes))
}

/// Reads options up to the end; what is cut short is left out.
fn read_options(mut bytes: &[u8], options: &mut Options) {
    loop {
        match bytes {
            [option::PAD, rest @ ..] => bytes = rest,
            [option::END, ..] | [] | [_] => return,
            [code, length, rest @ ..] => {
                let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else {
                    return;
                };
                match options.iter_mut().find(|(known, _)| known == code) {
                    Some((_, known)) => known.extend(value),
                    None => options.push((*code, value.to_vec())),
                }
                bytes = rest;
            }
        }
    }
}

/// Where a frame goes from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) from_mac: Mac,
    pub(super) to_mac: Mac,
    pub(super) from: Ipv4Addr,
    pub(super) to: Ipv4Addr,
}

/// The frame of a client's message.
pub(super) fn frame(route: Route, message: &[u8]) -> Vec<u8> {
    framed(route, (CLIENT_PORT, SERVER_PORT), message)
}

fn framed(route: Route, (from, to): (u16, u16), message: &[u8]) -> Vec<u8> {
    // A message has no more than what fits into one frame, or is not sent.
    let udp_length = u16::try_from(UDP_HEADER + message.len()).unwrap_or(u16::MAX);
    let ip_length = udp_length.saturating_add(IP_HEADER as u16);
    let mut ip = vec![0x45, 0];
    ip.extend(ip_length.to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    ip.extend(route.from.octets());
    ip.extend(route.to.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut udp = Vec::with_capacity(usize::from(udp_length));
    udp.extend(from.to_be_bytes());
    udp.extend(to.to_be_bytes());
    udp.extend(udp_length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(message);
    let mut pseudo = [route.from.octets(), route.to.octets()].concat();
    pseudo.extend([0, UDP]);
    pseudo.extend(udp_length.to_be_bytes());
    pseudo.extend(&udp);
    // Zero says that there is none.
    let sum = match checksum(&pseudo) {
        0 => u16::MAX,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    [&route.to_mac[..], &route.from_mac, &ETHERTYPE_IP, &ip, &udp].concat()
}

/// Reads a server's message out of a frame, with the address of the Ethernet
/// that it came from. The sum of UDP is not looked at: it is not filled in
/// where a frame never left the machine.
pub(super) fn unframe(frame: &[u8]) -> Option<(Mac, Packet)> {
    let from: &Mac = frame.get(6..12)?.first_chunk()?;
    if frame.get(12..ETHERNET_HEADER)? != ETHERTYPE_IP {
        return None;
    }
    let ip = frame.get(ETHERNET_HEADER..)?;
    let first = *ip.first()?;
    let header = usize::from(first & 0xf) * 4;
    // No fragments, the offset or the mark that more follow.
    let fragment = u16::from_be_bytes(*ip.get(6..8)?.first_chunk()?) & 0x3fff != 0;
    if first >> 4 != 4 || header < IP_HEADER || fragment || *ip.get(9)? != UDP {
        return None;
    }
    let udp = ip.get(header..)?;
    let number = |at: usize| Some(u16::from_be_bytes(*udp.get(at..)?.first_chunk()?));
    if number(2)? != CLIENT_PORT {
        return None;
    }
    let message = udp.get(UDP_HEADER..usize::from(number(4)?))?;
    let packet = Packet::read(message)?;
    packet.from_server.then_some((*from, packet))
}

/// The sum of the Internet's headers.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROUTE: Route = Route {
        from_mac: [2, 0, 0, 0, 0, 1],
        to_mac: BROADCAST,
        from: Ipv4Addr::UNSPECIFIED,
        to: Ipv4Addr::BROADCAST,
    };

    #[test]
    fn options_may_be_in_other_fields_and_in_pieces() {
        let mut packet = Packet::new(Kind::Ack, 7, [2; 6]);
        packet.set(option::OVERLOAD, vec![3]);
        packet.set(224, vec![1; 300]);
        let mut bytes = packet.to_bytes();
        bytes[FILE..FILE + 4].copy_from_slice(&[option::ROUTERS, 1, 9, option::END]);
        bytes[SNAME..SNAME + 3].copy_from_slice(&[option::ROUTERS, 1, 8]);
        let read = Packet::read(&bytes).unwrap();
        assert_eq!(read.option(option::ROUTERS), Some(&[9, 8][..]));
        assert_eq!(read.option(224), Some(&[1; 300][..]));
    }

    #[test]
    fn only_answers_of_servers_are_read() {
        let mut packet = Packet::new(Kind::Offer, 7, [2; 6]);
        let ports = (SERVER_PORT, CLIENT_PORT);
        assert_eq!(unframe(&framed(ROUTE, ports, &packet.to_bytes())), None);
        packet.from_server = true;
        let frame_of = |ports| framed(ROUTE, ports, &packet.to_bytes());
        assert_eq!(
            unframe(&frame_of(ports)),
            Some((ROUTE.from_mac, packet.clone()))
        );
        assert_eq!(unframe(&frame_of((CLIENT_PORT, SERVER_PORT))), None);
        // The sum over a header with its sum is zero.
        let frame = frame_of(ports);
        assert_eq!(
            checksum(&frame[ETHERNET_HEADER..ETHERNET_HEADER + IP_HEADER]),
            0
        );
    }

    proptest! {
        #[test]
        fn packets_are_read_as_they_are_written(
            transaction in any::<u32>(), seconds in any::<u16>(), broadcast in any::<bool>(),
            client in any::<[u8; 4]>(), mac in any::<Mac>(),
            options in proptest::collection::btree_map(
                2..52u8, proptest::collection::vec(any::<u8>(), 1..400), 0..5),
        ) {
            let mut packet = Packet::new(Kind::Discover, transaction, mac);
            (packet.seconds, packet.broadcast, packet.client) = (seconds, broadcast, client.into());
            packet.options.extend(options);
            prop_assert_eq!(Packet::read(&packet.to_bytes()), Some(packet));
        }

        #[test]
        fn arbitrary_frames_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400), damage in any::<bool>(),
        ) {
            let _ = (unframe(&bytes), Packet::read(&bytes));
            let mut packet = Packet::new(Kind::Ack, 7, [2; 6]);
            packet.from_server = true;
            let mut frame = framed(ROUTE, (SERVER_PORT, CLIENT_PORT), &packet.to_bytes());
            if damage && let Some(last) = bytes.pop() {
                let at = usize::from(last) % frame.len();
                frame[at] = frame[at].wrapping_add(1);
                frame.truncate(frame.len() - at);
            }
            let _ = unframe(&frame);
        }
    }
}
