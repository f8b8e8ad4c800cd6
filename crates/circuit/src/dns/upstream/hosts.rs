//! The servers that the host itself asks, as they are now.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

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
    /// It could not be read the last time: what it said before is kept meanwhile.
    failed: bool,
    named: Vec<Named>,
    last: Option<Vec<SocketAddr>>,
}

/// A server as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    ip: IpAddr,
    /// The interface behind which it is, whose number changes whenever it is made anew.
    zone: Option<String>,
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
                if file != seen.file || seen.failed || seen.last.is_none() {
                    seen.read(path, file);
                }
                seen.named.iter().filter_map(Named::address).collect()
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

impl Seen {
    fn read(&mut self, path: &Path, file: Option<(u64, u64, i64, i64, u64)>) {
        match read(path) {
            Ok(named) => (self.file, self.named, self.failed) = (file, named, false),
            Err(error) => {
                if !self.failed {
                    tracing::warn!(
                        path = %path.display(),
                        %error,
                        "cannot read which dns servers there are"
                    );
                }
                self.failed = true;
            }
        }
    }
}

/// Tells a file from what is in its place later.
fn identity(path: &Path) -> Option<(u64, u64, i64, i64, u64)> {
    let about = fs::metadata(path).ok()?;
    let (seconds, nanoseconds) = (about.mtime(), about.mtime_nsec());
    Some((about.dev(), about.ino(), seconds, nanoseconds, about.size()))
}

fn read(path: &Path) -> io::Result<Vec<Named>> {
    match fs::read(path) {
        // One odd byte, in a remark perhaps, must not take all servers away.
        Ok(bytes) => Ok(nameservers(&String::from_utf8_lossy(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(nameservers("")),
        Err(error) => Err(error),
    }
}

/// The servers in a text such as that of `/etc/resolv.conf`; where none is named, or
/// there is no file, the host's own is meant (resolv.conf(5)).
fn nameservers(text: &str) -> Vec<Named> {
    let mut found = Vec::new();
    let mut is_named = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        is_named = true;
        match words.next().and_then(Named::read) {
            Some(named) if found.contains(&named) => {}
            Some(named) => found.push(named),
            None => tracing::warn!("cannot read {line:?} among the host's dns servers"),
        }
    }
    if !is_named {
        found.extend(Named::read("127.0.0.1"));
    }
    found.truncate(MOST);
    found
}

impl Named {
    fn read(text: &str) -> Option<Self> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone.to_owned())),
            None => (text, None),
        };
        let ip = address.parse().ok()?;
        let fits = zone.is_none() || matches!(ip, IpAddr::V6(_));
        fits.then_some(Self { ip, zone })
    }

    /// Where it is; none while its interface is not there.
    fn address(&self) -> Option<SocketAddr> {
        match (self.ip, self.zone.as_deref()) {
            (IpAddr::V6(ip), Some(zone)) => {
                let index = zone.parse().ok();
                let index = index.or_else(|| nix::net::if_::if_nametoindex(zone).ok())?;
                Some(SocketAddrV6::new(ip, 53, 0, index).into())
            }
            (ip, _) => Some((ip, 53).into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<SocketAddr> {
        let named = nameservers(text);
        named.iter().filter_map(Named::address).collect()
    }

    #[test]
    fn servers_are_read_as_resolvers_read_them() {
        let text = "# nameserver 9.9.9.9\nsearch lan\nnameserver 10.0.0.1\n nameserver\tfe80::1%1 \n\
                    nameserver 10.0.0.1\nnameserver nonsense\nnameserverx 1.2.3.4\n\
                    nameserver 2001:db8::1\noptions ndots:2";
        let expected: Vec<SocketAddr> = ["10.0.0.1:53", "[fe80::1%1]:53", "[2001:db8::1]:53"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(addresses(text), expected);
        // The host's own is meant where none is named.
        let own: SocketAddr = "127.0.0.1:53".parse().unwrap();
        assert_eq!(addresses("search lan\n"), [own]);
        assert_eq!(addresses(""), [own]);
        assert_eq!(addresses("nameserver nonsense\n"), []);
    }

    #[test]
    fn a_server_behind_an_interface_is_there_when_that_is() {
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.0.0.1\nnameserver fe80::1%gone0\n").unwrap();
        let hosts = Hosts::new(Servers::OfHost(path), Vec::new());
        let first: SocketAddr = "10.0.0.1:53".parse().unwrap();
        assert_eq!(hosts.changed(), Some(vec![first]));
        let mut seen = hosts.seen.lock().unwrap();
        assert_eq!(seen.named[1].zone.as_deref(), Some("gone0"));
        // The file stays as it is, and the interface comes.
        seen.named[1].zone = Some("lo".into());
        drop(seen);
        assert_eq!(hosts.changed(), None, "looked at a moment ago");
        hosts.seen.lock().unwrap().looked = None;
        let there = SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, index);
        assert_eq!(hosts.changed(), Some(vec![first, there.into()]));
        hosts.seen.lock().unwrap().looked = None;
        assert_eq!(hosts.changed(), None, "the same as before");
    }

    #[test]
    fn bytes_that_are_no_text_take_no_server_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, b"# caf\xe9\nnameserver 10.0.0.1\n").unwrap();
        let hosts = Hosts::new(Servers::OfHost(path), Vec::new());
        assert_eq!(hosts.changed(), Some(vec!["10.0.0.1:53".parse().unwrap()]));
    }

    #[test]
    fn a_file_that_cannot_be_read_takes_no_server_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let later = |hosts: &Hosts| hosts.seen.lock().unwrap().looked = None;
        let at = |text: &str| Some(vec![text.parse::<SocketAddr>().unwrap()]);
        fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        let hosts = Hosts::new(Servers::OfHost(path.clone()), Vec::new());
        assert_eq!(hosts.changed(), at("10.0.0.1:53"));
        // Nobody can read a folder.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        later(&hosts);
        assert_eq!(hosts.changed(), None);
        // The next look is not kept from reading by what this one has seen.
        assert_ne!(hosts.seen.lock().unwrap().file, identity(&path));
        let new = Hosts::new(Servers::OfHost(path.clone()), Vec::new());
        assert_eq!(new.changed(), Some(vec![]));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "nameserver 10.0.0.2\n").unwrap();
        for hosts in [&hosts, &new] {
            later(hosts);
            assert_eq!(hosts.changed(), at("10.0.0.2:53"));
        }
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
        // That of the host is ours.
        assert_eq!(hosts.changed(), Some(vec![]));
    }
}
