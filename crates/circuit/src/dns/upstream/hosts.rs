//! The servers that the host itself asks, as they are now.

use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Servers;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Nobody has more servers; the rest is passed over.
const MOST: usize = 16;

/// Which servers there are.
#[derive(Debug)]
pub(super) struct Hosts {
    servers: Servers,
    own: Vec<SocketAddr>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    looked: Option<Instant>,
    file: Option<(u64, u64, i64, i64, u64)>,
    last: Option<Vec<SocketAddr>>,
}

impl Hosts {
    pub(super) fn new(servers: Servers, own: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            own,
            seen: Mutex::default(),
        }
    }

    /// The servers, when they are others than the last time.
    pub(super) fn changed(&self) -> Option<Vec<SocketAddr>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if seen.looked.is_some_and(|at| now.duration_since(at) < LOOK) {
            return None;
        }
        seen.looked = Some(now);
        let mut addresses = match &self.servers {
            Servers::These(these) if seen.last.is_none() => these.clone(),
            Servers::These(_) => return None,
            Servers::OfHost(path) => {
                let file = identity(path);
                if file == seen.file && seen.last.is_some() {
                    return None;
                }
                seen.file = file;
                read(path)
            }
        };
        addresses.retain(|address| !self.is_own(address));
        if seen.last.as_ref() == Some(&addresses) {
            return None;
        }
        seen.last = Some(addresses.clone());
        Some(addresses)
    }

    fn is_own(&self, address: &SocketAddr) -> bool {
        let same = |own: &SocketAddr| {
            own.port() == address.port()
                && (own.ip() == address.ip()
                    || own.ip().is_unspecified() && address.ip().is_loopback())
        };
        self.own.iter().any(same)
    }
}

/// Tells a file from what is in its place later.
fn identity(path: &Path) -> Option<(u64, u64, i64, i64, u64)> {
    let about = fs::metadata(path).ok()?;
    let (seconds, nanoseconds) = (about.mtime(), about.mtime_nsec());
    Some((about.dev(), about.ino(), seconds, nanoseconds, about.size()))
}

fn read(path: &Path) -> Vec<SocketAddr> {
    match fs::read_to_string(path) {
        Ok(text) => nameservers(&text),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read which dns servers there are");
            Vec::new()
        }
    }
}

/// The servers in a text such as that of `/etc/resolv.conf`.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        match words.next().and_then(server) {
            Some(address) if found.contains(&address) => {}
            Some(address) => found.push(address),
            None => tracing::warn!("cannot read {line:?} among the host's dns servers"),
        }
    }
    found.truncate(MOST);
    found
}

fn server(text: &str) -> Option<SocketAddr> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    match (address.parse().ok()?, zone) {
        (IpAddr::V6(ip), Some(zone)) => {
            let index = zone.parse().ok();
            let index = index.or_else(|| nix::net::if_::if_nametoindex(zone).ok())?;
            Some(SocketAddrV6::new(ip, 53, 0, index).into())
        }
        (IpAddr::V4(_), Some(_)) => None,
        (ip, None) => Some((ip, 53).into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_resolvers_read_them() {
        let text = "# nameserver 9.9.9.9\nsearch lan\nnameserver 10.0.0.1\n nameserver\tfe80::1%1 \n\
                    nameserver 10.0.0.1\nnameserver nonsense\nnameserverx 1.2.3.4\n\
                    nameserver 2001:db8::1\noptions ndots:2";
        let expected: Vec<SocketAddr> = ["10.0.0.1:53", "[fe80::1%1]:53", "[2001:db8::1]:53"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(nameservers(text), expected);
    }

    #[test]
    fn a_changed_file_is_noticed_and_our_own_address_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.0.0.1\nnameserver 127.0.0.1\n").unwrap();
        let own = vec!["0.0.0.0:53".parse().unwrap()];
        let hosts = Hosts::new(Servers::OfHost(path.clone()), own);
        let later = || hosts.seen.lock().unwrap().looked = None;
        let one: Vec<SocketAddr> = vec!["10.0.0.1:53".parse().unwrap()];
        assert_eq!(hosts.changed(), Some(one));
        assert_eq!(hosts.changed(), None);
        // A new file in its place, as programs write it.
        let new = dir.path().join("new");
        fs::write(&new, "nameserver 10.0.0.2\n").unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(hosts.changed(), None, "looked at a moment ago");
        later();
        assert_eq!(hosts.changed(), Some(vec!["10.0.0.2:53".parse().unwrap()]));
        fs::remove_file(&path).unwrap();
        later();
        assert_eq!(hosts.changed(), Some(vec![]));
    }
}
