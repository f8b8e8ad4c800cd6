//! Forgetting connections. UDP has none to speak of, so what a client goes on
//! sending stays with the container that it once reached, until the kernel is
//! told to forget it.

use super::pool::Pooled;
use super::read::attribute;
use crate::netlink::{Message, NetlinkError, Reply};

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;

/// In a filter: the protocol counts.
const BY_PROTOCOL: u32 = 1 << 3;

const UDP: u8 = libc::IPPROTO_UDP as u8;

/// Forgets the UDP connections whose first packet went to one of the ports of
/// any host; returns how many there were.
///
/// # Errors
/// When the kernel refuses.
pub fn forget_udp(v6: bool, ports: &[u16]) -> super::Result<usize> {
    if ports.is_empty() {
        return Ok(0);
    }
    let mut netlink = Pooled::open(None).map_err(super::NftError::Open)?;
    let there = netlink.list(&udp_of(v6))?;
    let deletions: Vec<Message> = there
        .iter()
        .filter_map(|reply| deletion(reply, ports))
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

/// What makes the kernel forget a connection, if it is one to these ports.
fn deletion(reply: &Reply, ports: &[u16]) -> Option<Message> {
    let (head, values) = reply.payload.split_first_chunk::<4>()?;
    let tuple = attribute(values, CTA_TUPLE_ORIG).filter(|_| reply.kind == NEW)?;
    let proto = attribute(tuple, CTA_TUPLE_PROTO)?;
    let port = u16::from_be_bytes(*attribute(proto, CTA_PROTO_DST_PORT)?.first_chunk()?);
    if attribute(proto, CTA_PROTO_NUM)? != [UDP] || !ports.contains(&port) {
        return None;
    }
    let message = Message::new(DELETE, 0, head)
        .with_nest(CTA_TUPLE_ORIG, &[], |copy| copy.with_raw(tuple))
        .with_some(attribute(values, CTA_ZONE), |message, zone| {
            message.with(CTA_ZONE, zone)
        });
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(protocol: u8, port: u16) -> Reply {
        let message = Message::new(NEW, 0, &[2, 0, 0, 0]).with_nest(CTA_TUPLE_ORIG, &[], |t| {
            t.with_nest(CTA_TUPLE_PROTO, &[], |p| {
                p.with(CTA_PROTO_NUM, &[protocol])
                    .with(CTA_PROTO_DST_PORT, &port.to_be_bytes())
            })
        });
        Reply {
            kind: NEW,
            payload: message.body().to_vec(),
        }
    }

    #[test]
    fn only_udp_to_the_ports_is_forgotten() {
        assert!(deletion(&connection(UDP, 53), &[52, 53]).is_some());
        assert!(deletion(&connection(UDP, 54), &[52, 53]).is_none());
        assert!(deletion(&connection(6, 53), &[53]).is_none());
        let mut other = connection(UDP, 53);
        other.kind = GET;
        assert!(deletion(&other, &[53]).is_none());
    }
}
