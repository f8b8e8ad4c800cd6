//! Asking a wire who has an address, before it is given to a container.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use circuit_core::{Error, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::frames::{self, Mac};
use super::{find, mac_of, refused};

/// When a probe is sent.
const ROUNDS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(150),
    Duration::from_millis(300),
];
/// How long answers are waited for.
const LISTEN: Duration = Duration::from_millis(600);
const TICK_MS: i64 = 20;
/// Room for the frames that come in while others are read.
const BUFFER: usize = 1 << 20;

/// Those of the addresses that somebody on the wire of an interface has, who is
/// not the interface itself: by ARP probes (RFC 5227) and neighbour
/// solicitations (RFC 4861), three times within 0.3 s. The interface is one of
/// the calling thread's namespace. Waits for 0.6 s, so it is nothing for
/// a thread of a runtime.
///
/// What lives behind a macvlan interface of the same parent does not hear it.
///
/// # Errors
/// [`NotFound`](circuit_core::ErrorKind::NotFound) when there is no such
/// interface, [`FailedPrecondition`](circuit_core::ErrorKind::FailedPrecondition)
/// when it is down, [`InvalidArgument`](circuit_core::ErrorKind::InvalidArgument) when it
/// is no Ethernet, and so can never be asked. An error too when not a single question for
/// one of the addresses got out.
pub fn answering(ifname: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>> {
    let name = format!("interface {ifname}");
    let link = find(ifname, &name)?;
    let mac = mac_of(&link, &name).map_err(|error| Error::invalid(error.message()))?;
    let mac = mac.ok_or_else(|| super::gone(&name))?;
    let opened = open().and_then(|socket| bind(socket.as_raw_fd(), &link).map(|()| socket));
    let socket = opened.map_err(|errno| refused(&name, errno))?;
    let mut wanted: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    let (mut there, mut unasked) = (Vec::new(), wanted.clone());
    let start = Instant::now();
    let mut rounds = ROUNDS.iter();
    let mut round = rounds.next();
    while start.elapsed() < LISTEN && !wanted.is_empty() {
        if round.is_some_and(|round| start.elapsed() >= *round) {
            round = rounds.next();
            ask(&socket, mac, &wanted, &mut unasked).map_err(|errno| refused(&name, errno))?;
        }
        if let Some(ip) = hear(&socket, mac).map_err(|errno| refused(&name, errno))?
            && wanted.remove(&ip)
        {
            there.push(ip);
        }
    }
    if unasked.intersection(&wanted).next().is_some() {
        return Err(refused(&name, Errno::ENOBUFS));
    }
    Ok(there)
}

fn open() -> nix::Result<OwnedFd> {
    let (flags, all) = (SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, all)?;
    setsockopt(
        &socket,
        sockopt::ReceiveTimeout,
        &TimeVal::milliseconds(TICK_MS),
    )?;
    setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
    Ok(socket)
}

/// Asks for these, and takes those out of `unasked` whose question got out.
fn ask(
    socket: &OwnedFd,
    mac: Mac,
    wanted: &BTreeSet<IpAddr>,
    unasked: &mut BTreeSet<IpAddr>,
) -> nix::Result<()> {
    for ip in wanted {
        let frame = match *ip {
            IpAddr::V4(ip) => frames::arp_probe(mac, ip),
            IpAddr::V6(ip) => frames::neighbour_solicitation(mac, ip),
        };
        match send(socket.as_raw_fd(), &frame, MsgFlags::empty()) {
            Ok(_) => {
                unasked.remove(ip);
            }
            // The next round may have room.
            Err(Errno::ENOBUFS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The address that the next frame of another says it has.
fn hear(socket: &OwnedFd, mac: Mac) -> nix::Result<Option<IpAddr>> {
    let mut buffer = [0; 128];
    match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        Ok(length) => Ok(frames::owner_of(&buffer[..length.min(buffer.len())], mac)),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// As [`answering`], on a thread of its own.
///
/// # Errors
/// As [`answering`], and when no thread can be had.
pub async fn answering_async(ifname: String, addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>> {
    tokio::task::spawn_blocking(move || answering(&ifname, &addresses))
        .await
        .map_err(|error| Error::internal(format!("asking the wire failed: {error}")))?
}
