//! Hearing of what is taken from the host's interfaces, and that it forwards no more.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use circuit_core::{Error, Result};
use socket2::SockFilter;

use crate::netlink::{Netlink, NetlinkError};

/// The notifications about interfaces, and about addresses and parameters of either
/// family (`RTNLGRP_*` of rtnetlink(7)).
const GROUPS: [u32; 5] = [1, 5, 9, 24, 25];
/// Other programs change several things one after the other, and what ends is gone a
/// little later.
const SETTLE: Duration = Duration::from_millis(300);

/// Of an interface's flags.
const UP: u32 = 1;
const AF_BRIDGE: u32 = 7;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELADDR: u16 = 21;
const RTM_NEWNETCONF: u16 = 80;
const NETCONFA_FORWARDING: u16 = 2;
/// Where the index is behind a message's header, of interfaces and of addresses.
const INDEX: std::ops::Range<usize> = 4..8;

/// What was told.
#[derive(Default)]
struct Told {
    /// Interfaces that something was taken from.
    interfaces: HashSet<u32>,
    forwards_no_more: bool,
}

/// A subscription to what is taken from bridges and pairs of the calling thread's
/// namespace: ports that leave a bridge, interfaces that are set down, addresses that
/// are removed; and to an end of forwarding. What is made, and what goes with its
/// interface, is not told; nearly all of that stays in the kernel, so that attaching
/// costs no more.
pub struct Watch {
    netlink: Netlink,
}

impl Watch {
    /// Subscribes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> Result<Self> {
        let netlink = Netlink::open(None)?;
        let refused = |e: std::io::Error| {
            Error::unavailable(format!("cannot watch the host's interfaces: {e}"))
        };
        netlink.filter(&filter()).map_err(refused)?;
        for group in GROUPS {
            netlink.subscribe(group).map_err(refused)?;
        }
        Ok(Self { netlink })
    }

    /// Waits until something was taken from an interface that is still there, or the
    /// host forwards no more, at most for `timeout` and the moment in which that
    /// settles; false when nothing was.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let Some(mut told) = self.told(timeout)? else {
            return Ok(true);
        };
        if told.interfaces.is_empty() && !told.forwards_no_more {
            return Ok(false);
        }
        let end = Instant::now() + SETTLE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(told.forwards_no_more || any_is_there(told.interfaces)?);
            }
            let Some(more) = self.told(left)? else {
                return Ok(true);
            };
            told.interfaces.extend(more.interfaces);
            told.forwards_no_more |= more.forwards_no_more;
        }
    }

    /// What comes within this time; `None` when some of it is lost.
    fn told(&mut self, timeout: Duration) -> Result<Option<Told>> {
        let replies = match self.netlink.notifications(timeout) {
            Ok(replies) => replies.unwrap_or_default(),
            Err(NetlinkError::Lost) => return Ok(None),
            Err(error) => return Err(super::refused(error)),
        };
        let mut told = Told::default();
        for reply in replies {
            if reply.kind == RTM_NEWNETCONF {
                told.forwards_no_more = true;
            } else if let Some(index) = reply.payload.get(INDEX) {
                let index = index.try_into().map(u32::from_ne_bytes);
                told.interfaces.extend(index);
            }
        }
        Ok(Some(told))
    }
}

/// Whether one of these is a bridge, or one end of a pair.
fn any_is_there(concerned: HashSet<u32>) -> Result<bool> {
    // A subscribed socket is told of other things than answers.
    let mut asking = Netlink::open(None)?;
    for index in concerned {
        let link = asking.link_at(index).map_err(super::refused)?;
        if link.is_some_and(|link| link.is("bridge") || link.is("veth")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lets through `RTM_DELADDR`, `RTM_DELLINK` of bridges, by which one tells of a port
/// that left, `RTM_NEWLINK` of an interface that is set down, and `RTM_NEWNETCONF` of a
/// host that forwards no more. The kernel runs it before it wakes anybody.
fn filter() -> [SockFilter; 20] {
    // Where things are behind the start of a message, whose header has 16 bytes.
    const KIND: u32 = 4;
    const FAMILY: u32 = 16;
    const FLAGS: u32 = 24;
    const CHANGED: u32 = 28;
    // The values of the first two attributes, and the head of the second one.
    const OF: u32 = 24;
    const SECOND: u32 = 28;
    const FORWARDS: u32 = 32;
    let load = |size: u32, at| SockFilter::new(code(libc::BPF_LD | libc::BPF_ABS | size), 0, 0, at);
    let jump = |how: u32, value, yes, no| {
        SockFilter::new(code(libc::BPF_JMP | libc::BPF_K | how), yes, no, value)
    };
    let give = |length| SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, length);
    // It loads numbers as the network writes them, which the kernel does not here.
    let [length, second] = [8, NETCONFA_FORWARDING].map(|it: u16| u32::from(it.to_be()));
    let forwarding = (length << 16) | second;
    let kind = |kind: u16| u32::from(kind.to_be());
    [
        load(libc::BPF_H, KIND),
        jump(libc::BPF_JEQ, kind(RTM_DELADDR), 17, 0),
        jump(libc::BPF_JEQ, kind(RTM_DELLINK), 0, 2),
        load(libc::BPF_B, FAMILY),
        jump(libc::BPF_JEQ, AF_BRIDGE, 14, 13),
        jump(libc::BPF_JEQ, kind(RTM_NEWNETCONF), 0, 6),
        load(libc::BPF_W, OF),
        // Of all interfaces, which is to say of the host.
        jump(libc::BPF_JEQ, u32::MAX, 0, 10),
        load(libc::BPF_W, SECOND),
        jump(libc::BPF_JEQ, forwarding, 0, 8),
        load(libc::BPF_W, FORWARDS),
        jump(libc::BPF_JEQ, 0, 7, 6),
        jump(libc::BPF_JEQ, kind(RTM_NEWLINK), 0, 5),
        load(libc::BPF_W, CHANGED),
        // Of a new one it says that all has.
        jump(libc::BPF_JEQ, u32::MAX, 3, 0),
        jump(libc::BPF_JSET, UP.to_be(), 0, 2),
        load(libc::BPF_W, FLAGS),
        jump(libc::BPF_JSET, UP.to_be(), 0, 1),
        give(0),
        give(u32::MAX),
    ]
}

fn code(code: u32) -> u16 {
    u16::try_from(code).unwrap_or_default()
}
