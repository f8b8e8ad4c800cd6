//! Forgetting connections. UDP has none to speak of, so what a client goes on
//! sending stays with the container that it once reached, until the kernel is
//! told to forget it.

use std::net::{IpAddr, SocketAddr};

use super::pool::Pooled;
use super::read::attribute;
use crate::netlink::{Message, NetlinkError, Reply};

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// In a filter: the protocol counts.
const BY_PROTOCOL: u32 = 1 << 3;

const UDP: u8 = libc::IPPROTO_UDP as u8;

/// A UDP connection, as whoever began it sees it and as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Where its first packet was sent.
    pub sent_to: SocketAddr,
    /// Where that was led, and answers come from.
    pub led_to: SocketAddr,
}

/// Forgets the UDP connections of a family that are stale; returns how many there were.
///
/// # Errors
/// When the kernel refuses.
pub fn forget_udp(v6: bool, is_stale: impl Fn(&Connection) -> bool) -> super::Result<usize> {
    let mut netlink = Pooled::open(None).map_err(super::NftError::Open)?;
    let there = netlink.list(&udp_of(v6))?;
    let deletions: Vec<Message> = there
        .iter()
        .filter_map(|reply| deletion(reply, &is_stale))
        .collect();
    let mut forgotten = 0;
    for answer in netlink.pipeline(&deletions)? {
        match answer {
            Ok(_) => forgotten += 1,
            // It ended by itself.
            Err(NetlinkError::Kernel(libc::ENOENT, _)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(forgotten)
}

/// Asks for the UDP connections; kernels before 5.8 tell of the others too.
fn udp_of(v6: bool) -> Message {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    Message::new(GET, 0, &[u8::try_from(family).unwrap_or(0), 0, 0, 0])
        .with_nest(CTA_TUPLE_ORIG, &[], |tuple| {
            tuple.with_nest(CTA_TUPLE_PROTO, &[], |proto| {
                proto.with(CTA_PROTO_NUM, &[UDP])
            })
        })
        .with_nest(CTA_FILTER, &[], |filter| {
            filter.with_u32(1, BY_PROTOCOL).with_u32(2, 0)
        })
}

/// What makes the kernel forget a connection, if it is a stale one of UDP.
fn deletion(reply: &Reply, is_stale: impl Fn(&Connection) -> bool) -> Option<Message> {
    let (head, values) = reply.payload.split_first_chunk::<4>()?;
    let tuple = attribute(values, CTA_TUPLE_ORIG).filter(|_| reply.kind == NEW)?;
    let proto = attribute(tuple, CTA_TUPLE_PROTO)?;
    if attribute(proto, CTA_PROTO_NUM)? != [UDP] {
        return None;
    }
    let answer = attribute(values, CTA_TUPLE_REPLY)?;
    let connection = Connection {
        sent_to: end(tuple, [CTA_IP_V4_DST, CTA_IP_V6_DST], CTA_PROTO_DST_PORT)?,
        led_to: end(answer, [CTA_IP_V4_SRC, CTA_IP_V6_SRC], CTA_PROTO_SRC_PORT)?,
    };
    if !is_stale(&connection) {
        return None;
    }
    let message = Message::new(DELETE, 0, head)
        .with_nest(CTA_TUPLE_ORIG, &[], |copy| copy.with_raw(tuple))
        .with_some(attribute(values, CTA_ZONE), |message, zone| {
            message.with(CTA_ZONE, zone)
        });
    Some(message)
}

/// One end of a tuple.
fn end(tuple: &[u8], [v4, v6]: [u16; 2], port: u16) -> Option<SocketAddr> {
    let ip = attribute(tuple, CTA_TUPLE_IP)?;
    let ip = match (attribute(ip, v4), attribute(ip, v6)) {
        (Some(ip), _) => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        (None, ip) => IpAddr::from(<[u8; 16]>::try_from(ip?).ok()?),
    };
    let port = attribute(attribute(tuple, CTA_TUPLE_PROTO)?, port)?;
    Some((ip, u16::from_be_bytes(port.try_into().ok()?)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(message: Message, kind: u16, protocol: u8, ends: [&str; 2]) -> Message {
        let [from, to] = ends.map(|end| end.parse::<SocketAddr>().unwrap());
        message.with_nest(kind, &[], |tuple| {
            tuple
                .with_nest(CTA_TUPLE_IP, &[], |ip| match from.is_ipv4() {
                    true => ip
                        .with_ip(CTA_IP_V4_SRC, from.ip())
                        .with_ip(CTA_IP_V4_DST, to.ip()),
                    false => ip
                        .with_ip(CTA_IP_V6_SRC, from.ip())
                        .with_ip(CTA_IP_V6_DST, to.ip()),
                })
                .with_nest(CTA_TUPLE_PROTO, &[], |proto| {
                    proto
                        .with(CTA_PROTO_NUM, &[protocol])
                        .with(CTA_PROTO_SRC_PORT, &from.port().to_be_bytes())
                        .with(CTA_PROTO_DST_PORT, &to.port().to_be_bytes())
                })
        })
    }

    fn connection(protocol: u8, client: &str, sent_to: &str, led_to: &str) -> Reply {
        let message = Message::new(NEW, 0, &[2, 0, 0, 0]);
        let message = tuple(message, CTA_TUPLE_ORIG, protocol, [client, sent_to]);
        let message = tuple(message, CTA_TUPLE_REPLY, protocol, [led_to, client]);
        Reply {
            kind: NEW,
            payload: message.body().to_vec(),
        }
    }

    #[test]
    fn only_stale_connections_of_udp_are_forgotten() {
        let is_told = |protocol, [client, sent_to, led_to]: [&str; 3]| {
            let expected = Connection {
                sent_to: sent_to.parse().unwrap(),
                led_to: led_to.parse().unwrap(),
            };
            let mut reply = connection(protocol, client, sent_to, led_to);
            let told = deletion(&reply, |it| *it == expected).is_some();
            assert!(deletion(&reply, |_| false).is_none());
            reply.kind = GET;
            assert!(deletion(&reply, |_| true).is_none());
            told
        };
        let v4 = ["192.0.2.2:5000", "192.0.2.1:53", "10.0.0.2:5353"];
        let v6 = ["[fd00::5]:5000", "[fd00::1]:53", "[fd01::2]:5353"];
        assert!(is_told(UDP, v4) && is_told(UDP, v6));
        assert!(!is_told(6, v4));
    }
}
