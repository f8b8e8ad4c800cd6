//! An interface of a container as a place to send and receive messages.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use circuit_core::{Error, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::packet::{BROADCAST, Mac, Packet, Route, frame, unframe};
use crate::netlink::{self, Link, LinkSpec, Netlink};
use crate::netns::in_netns;

/// How often it is looked whether to go on waiting, in milliseconds.
const TICK: i64 = 100;

/// How long the first answer is waited for before the question is repeated;
/// each further one twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);

const LONGEST_FRAME: usize = 64 * 1024;

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no dhcp server answers: see that one serves this network")]
    NoAnswer,
    #[error("the dhcp server refuses{0}")]
    Refused(String),
    #[error("it was stopped")]
    Stopped,
    #[error("{0}")]
    Broken(#[from] Error),
}

/// Where a message goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) mac: Mac,
    pub(super) address: Ipv4Addr,
}

impl Target {
    pub(super) const ALL: Self = Self {
        mac: BROADCAST,
        address: Ipv4Addr::BROADCAST,
    };
}

/// One interface, by sockets that stay in its namespace whoever uses them.
pub(super) struct Port {
    netlink: Netlink,
    /// `None` only when this is dropped.
    socket: Option<OwnedFd>,
    index: u32,
    name: String,
    pub(super) mac: Mac,
}

impl Port {
    /// Opens an interface, which is set up if it is down and `up` says so.
    pub(super) fn open(netns: &Path, ifname: &str, up: bool) -> Result<Self> {
        let name = format!("interface {ifname}");
        in_netns(netns, || {
            let mut netlink = Netlink::open(None)?;
            let link = netlink.link(ifname)?.ok_or_else(|| gone(&name))?;
            let mac = mac_of(&link, &name)?;
            if up && !link.up {
                netlink.set_link(link.index, &up_or_down(true))?;
            }
            Ok(Self {
                netlink,
                socket: Some(packet_socket(link.index, &name)?),
                index: link.index,
                name,
                mac,
            })
        })
    }

    /// Sets the interface down.
    pub(super) fn set_down(&mut self) -> Result<()> {
        Ok(self.netlink.set_link(self.index, &up_or_down(false))?)
    }

    /// Sends a message, whose sender has the address that it says.
    pub(super) fn send(&self, to: Target, packet: &Packet) -> Result<()> {
        let route = Route {
            from_mac: self.mac,
            to_mac: to.mac,
            from: packet.client,
            to: to.address,
        };
        let frame = frame(route, &packet.to_bytes());
        let sent = self
            .socket()
            .and_then(|socket| send(socket, &frame, MsgFlags::empty()));
        sent.map(drop).map_err(|e| self.refused(e))
    }

    /// Sends a message, again and again, until an answer to it is accepted,
    /// the time is up, or `stopped` says so.
    pub(super) fn exchange<T>(
        &self,
        to: Target,
        packet: &mut Packet,
        until: Instant,
        stopped: &dyn Fn() -> bool,
        accept: impl Fn(Mac, &Packet) -> Option<T>,
    ) -> std::result::Result<T, Failure> {
        let start = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            packet.seconds = u16::try_from(start.elapsed().as_secs()).unwrap_or(u16::MAX);
            self.send(to, packet)?;
            let again = (Instant::now() + wait).min(until);
            wait *= 2;
            while Instant::now() < again {
                if stopped() {
                    return Err(Failure::Stopped);
                }
                let Some((from, answer)) = self.receive()? else {
                    continue;
                };
                let ours = answer.transaction == packet.transaction && answer.mac == self.mac;
                if ours && let Some(accepted) = accept(from, &answer) {
                    return Ok(accepted);
                }
            }
            if Instant::now() >= until {
                return Err(Failure::NoAnswer);
            }
        }
    }

    /// The next message of a server, if one comes within a moment.
    fn receive(&self) -> Result<Option<(Mac, Packet)>> {
        let mut buffer = vec![0; LONGEST_FRAME];
        let received = self
            .socket()
            .and_then(|socket| recv(socket, &mut buffer, MsgFlags::empty()));
        match received {
            Ok(length) => Ok(unframe(buffer.get(..length).unwrap_or_default())),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(self.refused(errno)),
        }
    }

    fn socket(&self) -> nix::Result<RawFd> {
        let socket = self.socket.as_ref().ok_or(Errno::EBADF)?;
        Ok(socket.as_raw_fd())
    }

    fn refused(&self, errno: Errno) -> Error {
        refused(&self.name, errno)
    }
}

fn up_or_down(up: bool) -> LinkSpec<'static> {
    LinkSpec {
        up: Some(up),
        ..LinkSpec::default()
    }
}

impl Drop for Port {
    /// Closing a packet socket waits until no processor uses it any more, for
    /// some ten milliseconds; nobody needs to wait for that.
    fn drop(&mut self) {
        let socket = self.socket.take();
        let closing = thread::Builder::new().name("netns-close".to_owned());
        // Without a thread it is closed here.
        let _ = closing.spawn(move || drop(socket));
    }
}

/// A socket that gets the IPv4 frames of an interface of the calling thread's
/// namespace. It gets none before it is bound: to change what it gets, the
/// kernel would wait as it does for closing it.
fn packet_socket(index: u32, name: &str) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)
        .map_err(|e| Error::unavailable(format!("cannot open a packet socket: {e}")))?;
    let address = link_address(index).ok_or_else(|| gone(name))?;
    bind(socket.as_raw_fd(), &address).map_err(|e| refused(name, e))?;
    let tick = TimeVal::milliseconds(TICK);
    setsockopt(&socket, sockopt::ReceiveTimeout, &tick).map_err(|e| refused(name, e))?;
    Ok(socket)
}

/// The address of IPv4 on an interface.
#[allow(unsafe_code, reason = "nix makes such an address of a raw one only")]
fn link_address(index: u32) -> Option<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_IP as u16).to_be(),
        sll_ifindex: i32::try_from(index).ok()?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&raw) as libc::socklen_t;
    // SAFETY: the pointer leads to a whole address of that length, which is
    // copied.
    unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) }
}

fn mac_of(link: &Link, name: &str) -> Result<Mac> {
    let mac = link.mac.as_deref().unwrap_or_default();
    let mac: netlink::Mac = mac
        .parse()
        .map_err(|_| Error::precondition(format!("{name} is no ethernet: dhcp needs one")))?;
    Ok(mac.0)
}

fn gone(name: &str) -> Error {
    Error::not_found(format!("{name} does not exist: attach the container again"))
}

fn refused(name: &str, errno: Errno) -> Error {
    match errno {
        Errno::ENXIO | Errno::ENODEV => gone(name),
        Errno::ENETDOWN => Error::precondition(format!("{name} is down: set it up first")),
        errno => Error::unavailable(format!("{name} cannot be used: {errno}, try again")),
    }
}
