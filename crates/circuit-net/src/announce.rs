//! Telling the neighbours of an interface which hardware address its
//! addresses have now.
//!
//! A container that comes back with its address on another interface is not
//! reached by those who still know the former hardware address, for as long as
//! they believe it. An announcement makes them forget it at once.

mod frames;
mod probe;

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use circuit_core::{Error, ErrorKind, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, getsockname,
    send, socket,
};
use tokio::time::{Instant, sleep_until};

use crate::netns::{in_netns, in_netns_async};
use frames::Mac;

pub use probe::{answering, answering_async};

/// When [`announce_soon`] announces: a port that is new in a bridge may not
/// forward at first, and neighbours keep an entry for a second after they
/// changed it. Each goes to every port of a bridge, so there are no more.
const ROUNDS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(1200)];

/// The IPv6 addresses of a namespace with their states.
const STATES: &str = "/proc/thread-self/net/if_inet6";

/// An address of which it is not yet known whether another has it too, and
/// one that another has.
const TENTATIVE: u8 = 0x40;
const DUPLICATE: u8 = 0x08;

/// Tells the neighbours of an interface in a namespace, once, that these
/// addresses are there: by a gratuitous ARP for each of IPv4, by an unsolicited
/// neighbour advertisement for each of IPv6.
///
/// Left out are addresses that no neighbour can know: unspecified, loopback
/// and multicast ones, and those of IPv6 that the kernel has not yet found to
/// be free. Waits for a moment (the kernel takes some 20 ms to close such a
/// socket), so it is nothing for a thread of a runtime.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) when the namespace or the interface is
/// gone, [`FailedPrecondition`](ErrorKind::FailedPrecondition) when the
/// interface is down or no Ethernet. The addresses after one that cannot be
/// announced are announced all the same.
pub fn announce(netns: &Path, ifname: &str, addresses: &[IpAddr]) -> Result<()> {
    in_netns(netns, || {
        Announcer::open(netns, ifname, addresses)?.announce(addresses)
    })
}

/// Announces as [`announce`] does, as well as can be: after a moment, and once
/// more after 1.2 s. Failures are only logged, at debug level; it ends early
/// when the namespace or the interface is gone.
///
/// The namespace is entered once, for the first time, by a thread of its own;
/// its path may be gone afterwards. Until the future ends or is dropped, an open
/// socket keeps the namespace, as a process in it would. The runtime is never
/// held up.
pub async fn announce_soon(netns: PathBuf, ifname: String, addresses: Vec<IpAddr>) {
    let start = Instant::now();
    let [first, later] = ROUNDS.map(|round| start + round);
    sleep_until(first).await;
    let (path, name, first_addresses) = (netns.clone(), ifname.clone(), addresses.clone());
    let opened = in_netns_async(netns.clone(), move || {
        let announcer = Announcer::open(&path, &name, &first_addresses)?;
        let told = announcer.announce(&first_addresses);
        Ok((ClosedElsewhere::new(announcer), told))
    });
    let failed = |error: &Error| {
        tracing::debug!(netns = %netns.display(), ifname, %error, "neighbours were not told");
    };
    let announcer = match opened.await {
        Ok((announcer, told)) => {
            if let Err(error) = told {
                failed(&error);
                if error.kind() == ErrorKind::NotFound {
                    return;
                }
            }
            announcer
        }
        Err(error) => return failed(&error),
    };
    sleep_until(later).await;
    // The kernel brings it to each port of a bridge before it returns.
    let again = tokio::task::spawn_blocking(move || announcer.announce(&addresses));
    if let Ok(Err(error)) = again.await {
        failed(&error);
    }
}

/// What announces the addresses of one interface. It stays in the namespace
/// where it was made, whoever uses it.
struct Announcer {
    /// Sends what it is given out of the interface, and receives nothing.
    socket: OwnedFd,
    /// [`STATES`], if there is something of IPv6 to announce.
    states: Option<File>,
    /// Whether the interface is a router's.
    router: bool,
    /// The interface, for error texts.
    name: String,
}

impl Announcer {
    /// An announcer of such addresses for an interface of the namespace that
    /// the calling thread is in, which `netns` only names.
    fn open(netns: &Path, ifname: &str, addresses: &[IpAddr]) -> Result<Self> {
        let name = format!(
            "interface {ifname} of network namespace {}",
            netns.display()
        );
        let link = find(ifname, &name)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)
            .map_err(|e| Error::unavailable(format!("cannot open a packet socket: {e}")))?;
        bind(socket.as_raw_fd(), &link).map_err(|e| refused(&name, e))?;
        let ipv6 = addresses.iter().any(IpAddr::is_ipv6);
        let forwarding = format!("/proc/sys/net/ipv6/conf/{ifname}/forwarding");
        Ok(Self {
            socket,
            states: ipv6.then(|| File::open(STATES).ok()).flatten(),
            router: ipv6 && fs::read_to_string(forwarding).is_ok_and(|text| text.trim() != "0"),
            name,
        })
    }

    /// Announces what can be, and returns the first failure. Does not wait.
    fn announce(&self, addresses: &[IpAddr]) -> Result<()> {
        let mac = self.mac()?;
        let unsettled = self.unsettled();
        let mut result = Ok(());
        for address in addresses {
            let frame = match *address {
                ip if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() => continue,
                IpAddr::V4(ip) => frames::arp(mac, ip),
                // Neighbours, or this interface itself when a bridge sends the
                // frame back, would take it for another's.
                IpAddr::V6(ip) if unsettled.contains(&ip) => {
                    tracing::debug!(%ip, interface = self.name, "address is not yet announced");
                    continue;
                }
                IpAddr::V6(ip) => frames::neighbour_advertisement(mac, ip, self.router),
            };
            let sent = send(self.socket.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT)
                .map_err(|e| refused(&self.name, e).context(format!("cannot announce {address}")));
            result = result.and(sent.map(drop));
        }
        result
    }

    /// The hardware address as it is now.
    fn mac(&self) -> Result<Mac> {
        let own: SockaddrStorage =
            getsockname(self.socket.as_raw_fd()).map_err(|e| refused(&self.name, e))?;
        let link = own.as_link_addr();
        let mac = link.and_then(|link| mac_of(link, &self.name).transpose());
        mac.unwrap_or_else(|| Err(gone(&self.name)))
    }

    /// The IPv6 addresses that may turn out to be another's.
    fn unsettled(&self) -> Vec<Ipv6Addr> {
        let mut text = String::new();
        let read = self.states.as_ref().map(|mut states| {
            states.rewind()?;
            states.read_to_string(&mut text)
        });
        if let Some(Err(error)) = read {
            tracing::debug!(%error, "cannot read {STATES}");
        }
        text.lines().filter_map(unsettled_in).collect()
    }
}

/// The address in a line of [`STATES`], if it is unsettled.
fn unsettled_in(line: &str) -> Option<Ipv6Addr> {
    let mut words = line.split_whitespace();
    let address = u128::from_str_radix(words.next()?, 16).ok()?;
    // After the interface's index, the prefix length and the scope.
    let flags = u8::from_str_radix(words.nth(3)?, 16).ok()?;
    (flags & (TENTATIVE | DUPLICATE) != 0).then(|| address.into())
}

/// The interface of that name in the calling thread's namespace.
fn find(ifname: &str, name: &str) -> Result<LinkAddr> {
    let all =
        getifaddrs().map_err(|e| Error::unavailable(format!("cannot look for {name}: {e}")))?;
    let link = all
        .filter(|found| found.interface_name == ifname)
        .find_map(|found| found.address?.as_link_addr().copied());
    link.ok_or_else(|| gone(name))
}

/// The hardware address in a link address; none when the interface is gone.
fn mac_of(link: &LinkAddr, name: &str) -> Result<Option<Mac>> {
    match (link.halen(), link.hatype()) {
        (0, 0) => Ok(None),
        (frames::MAC_LENGTH, libc::ARPHRD_ETHER) => Ok(link.addr()),
        _ => Err(Error::precondition(format!(
            "{name} is no ethernet: it has no neighbours to be told"
        ))),
    }
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

/// An [`Announcer`] that a runtime may drop: closing a packet socket waits
/// until no processor uses it any more, which takes the kernel tens of
/// milliseconds, so a thread of its own does that.
struct ClosedElsewhere(Option<Announcer>);

impl ClosedElsewhere {
    fn new(announcer: Announcer) -> Self {
        Self(Some(announcer))
    }

    fn announce(&self, addresses: &[IpAddr]) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |it| it.announce(addresses))
    }
}

impl Drop for ClosedElsewhere {
    fn drop(&mut self) {
        let announcer = self.0.take();
        // Without a thread it is closed here.
        let _ = thread::Builder::new()
            .name("netns-close".to_owned())
            .spawn(move || drop(announcer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_may_be_anothers_are_found() {
        let line = |flags| format!("fd000007000000000000000000000001 02 40 00 {flags}     eth0");
        let address: Ipv6Addr = "fd00:7::1".parse().unwrap();
        for (flags, unsettled) in [("40", true), ("c8", true), ("08", true), ("80", false)] {
            let found = unsettled_in(&line(flags));
            assert_eq!(found, unsettled.then_some(address), "{flags}");
        }
        for nonsense in [
            "",
            "x",
            "fd00 02 40 00",
            "fd00 02 40 00 1ff eth0",
            "- - - - -",
        ] {
            assert_eq!(unsettled_in(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn refusals_tell_whether_to_go_on() {
        let kind = |errno| refused("interface eth0", errno).kind();
        assert_eq!(kind(Errno::ENXIO), ErrorKind::NotFound);
        assert_eq!(kind(Errno::ENETDOWN), ErrorKind::FailedPrecondition);
        assert_eq!(kind(Errno::ENOBUFS), ErrorKind::Unavailable);
    }
}
