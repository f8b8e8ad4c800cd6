//! What has passed interfaces.

use std::path::Path;

use circuit_core::Result;
use circuit_core::overview::Traffic;

use super::attributes::{IFLA_IFNAME, LINK_HEADER, attributes, text};
use super::link::{RTM_GETLINK, header};

use super::{Message, Netlink};

/// `struct rtnl_link_stats64`: received and sent packets, then bytes of each.
const IFLA_STATS64: u16 = 23;

/// What has passed each interface of a namespace since it was made, by its name.
///
/// # Errors
/// When the namespace or the kernel cannot be asked.
pub fn traffic(netns: &Path) -> Result<Vec<(String, Traffic)>> {
    let mut socket = Netlink::open(Some(netns))?;
    let all = Message::new(RTM_GETLINK, 0, &header(libc::AF_UNSPEC, 0));
    let replies = socket.list(&all).map_err(|error| {
        let error = circuit_core::Error::from(error);
        error.context("cannot read what has passed interfaces")
    })?;
    let read = |payload: &[u8]| {
        let (mut name, mut passed) = (None, None);
        for (kind, value) in attributes(payload.get(LINK_HEADER..)?) {
            match kind {
                IFLA_IFNAME => name = Some(text(value)),
                IFLA_STATS64 => passed = read_counters(value),
                _ => {}
            }
        }
        Some((name?, passed?))
    };
    Ok(replies
        .iter()
        .filter_map(|reply| read(&reply.payload))
        .collect())
}

fn read_counters(value: &[u8]) -> Option<Traffic> {
    let number = |at: usize| {
        let bytes = value.get(at * 8..at * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    Some(Traffic {
        received: number(2)?,
        sent: number(3)?,
    })
}
