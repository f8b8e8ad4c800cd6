//! The folder of leases that is shared with the stock plugin: a file for each
//! address, with its owner in it.
//!
//! What the folder holds is remembered from one operation to the next, so that
//! an operation does not cost more the more leases there are. The memory counts
//! only while the folder is provably as it was left: see [`Stamp`].

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use circuit_core::cni::{ErrorReport, ValidAttachment, code};
use nix::fcntl::{Flock, FlockArg};

use super::lease;
use super::stamp::Stamp;
use super::taken::Taken;
use crate::driver::Answer;

const LOCK: &str = "lock";
const LAST: &str = "last_reserved_ip.";

/// How often the folder may go away while its lock is waited for.
const TRIES: usize = 10;

/// What this process knows of each folder.
static KNOWN: LazyLock<Mutex<HashMap<PathBuf, Arc<Mutex<Known>>>>> = LazyLock::new(Mutex::default);

/// The content of a folder, and when it was that.
#[derive(Default)]
struct Known {
    /// Absent when the content is not known.
    stamp: Option<Stamp>,
    leases: Leases,
}

/// The leases in a folder.
#[derive(Debug, Default)]
struct Leases {
    /// By owner, as it is written.
    owners: HashMap<String, Vec<IpAddr>>,
    /// Every address that has a file.
    taken: Taken,
    /// The address given out last, by range set, as far as it was looked up.
    last: HashMap<usize, Option<IpAddr>>,
}

/// The leases of a network, under their lock.
pub(super) struct Store<'a> {
    dir: &'a Path,
    leases: &'a mut Leases,
    /// Whether anything was written: the folder's times are not those that
    /// were remembered.
    changed: bool,
    /// Whether the memory may be wrong.
    unsure: bool,
}

/// Who has a lease: a container's interface, or a container when the lease is
/// of a plugin that wrote no more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) container_id: &'a str,
    pub(super) ifname: &'a str,
}

impl Owner<'_> {
    /// As it is written in a lease.
    fn text(&self) -> String {
        format!("{}{}{}", self.id(), lease::BREAK, self.ifname)
    }

    /// As a lease that only names the container has it.
    fn id(&self) -> &str {
        self.container_id.trim()
    }
}

/// Runs `f` on the leases in `dir`, locked against every other process and
/// thread. Without a folder there is nothing to run it on, unless it is to be
/// made.
///
/// # Errors
/// What `f` says; code 5 when the folder cannot be used.
pub(super) fn with<T>(
    dir: &Path,
    make: bool,
    f: impl FnOnce(&mut Store<'_>) -> Answer<T>,
) -> Answer<Option<T>> {
    let cell = known(dir);
    // What a panic left is not believed: its stamp was taken away before.
    let mut known = cell.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(_lock) = lock(dir, make).map_err(|e| failed("lock", dir, &e))? else {
        forget(dir);
        return Ok(None);
    };
    let stamp = known.stamp.take();
    let current = stamp.is_some_and(|stamp| stamp.holds(dir));
    if !current {
        known.leases = Leases::read(dir).map_err(|e| failed("read", dir, &e))?;
    }
    let mut store = Store {
        dir,
        leases: &mut known.leases,
        changed: false,
        unsure: false,
    };
    let answer = f(&mut store);
    let (changed, unsure) = (store.changed, store.unsure);
    known.stamp = match stamp {
        _ if unsure => None,
        stamp if current && !changed => stamp,
        _ => Stamp::put(dir),
    };
    answer.map(Some)
}

fn known(dir: &Path) -> Arc<Mutex<Known>> {
    let mut all = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    all.entry(dir.to_owned()).or_default().clone()
}

fn forget(dir: &Path) {
    let mut all = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    all.remove(dir);
}

/// Takes the lock, as the stock plugin does. None when there is no folder and
/// none is to be made.
fn lock(dir: &Path, make: bool) -> io::Result<Option<Flock<File>>> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o750);
    for _ in 0..TRIES {
        let file = match options.open(dir.join(LOCK)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && make => {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(dir)?;
                continue;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let lock = flock(file)?;
        // The folder may have been removed while the lock was waited for.
        if lock.metadata()?.nlink() > 0 {
            return Ok(Some(lock));
        }
    }
    Err(io::Error::other("the folder is removed again and again"))
}

fn flock(mut file: File) -> io::Result<Flock<File>> {
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

impl Leases {
    fn read(dir: &Path) -> io::Result<Self> {
        let mut leases = Self::default();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(ip) = name.to_str().and_then(lease::address) else {
                continue;
            };
            match lease::read(&entry.path()) {
                Ok(Some(owner)) => leases.insert(ip, owner),
                // Somebody died between making the file and writing it: under
                // the lock nobody is about to.
                Ok(None) if fs::remove_file(entry.path()).is_ok() => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // Whatever this is, the address cannot be given out.
                Ok(None) | Err(_) => leases.taken.insert(ip),
            }
        }
        Ok(leases)
    }

    fn insert(&mut self, ip: IpAddr, owner: String) {
        self.taken.insert(ip);
        self.owners.entry(owner).or_default().push(ip);
    }

    fn remove(&mut self, ip: IpAddr, owner: &str) {
        self.taken.remove(ip);
        if let Some(ips) = self.owners.get_mut(owner) {
            ips.retain(|other| *other != ip);
            if ips.is_empty() {
                self.owners.remove(owner);
            }
        }
    }
}

impl Store<'_> {
    /// The taken addresses.
    pub(super) fn taken(&self) -> &Taken {
        &self.leases.taken
    }

    /// The addresses of an owner, and those of its container that do not say
    /// of which interface they are.
    pub(super) fn of(&self, owner: &Owner<'_>) -> Vec<IpAddr> {
        let keys = [owner.text(), owner.id().to_owned()];
        let found = keys.iter().filter_map(|key| self.leases.owners.get(key));
        found.flatten().copied().collect()
    }

    /// Who has an address, for people.
    pub(super) fn holder(&self, ip: IpAddr) -> Option<String> {
        let owner = lease::read(&self.dir.join(ip.to_string())).ok()??;
        Some(match owner.split_once(lease::BREAK) {
            Some((container, ifname)) => format!("{container} ({ifname})"),
            None => owner,
        })
    }

    /// The address given out last from a range set.
    pub(super) fn last(&mut self, set: usize) -> Option<IpAddr> {
        let path = self.dir.join(format!("{LAST}{set}"));
        *self.leases.last.entry(set).or_insert_with(|| {
            // Anything else only means to begin with the first address.
            let text = fs::read_to_string(path).ok()?;
            text.parse().ok().map(|ip: IpAddr| ip.to_canonical())
        })
    }

    /// Writes a lease. False when the address has one that was not known of.
    pub(super) fn reserve(&mut self, ip: IpAddr, owner: &Owner<'_>, set: usize) -> Answer<bool> {
        let text = owner.text();
        self.changed = true;
        match lease::write(self.dir, ip, &text) {
            Ok(()) => self.leases.insert(ip, text),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.unsure = true;
                self.leases.taken.insert(ip);
                return Ok(false);
            }
            Err(e) => {
                self.unsure = true;
                return Err(failed(&format!("write lease {ip} in"), self.dir, &e));
            }
        }
        self.leases.last.insert(set, Some(ip));
        if let Err(e) = write_last(&self.dir.join(format!("{LAST}{set}")), ip) {
            self.unsure = true;
            let _ = self.give_back(ip, owner);
            return Err(failed(&format!("write {LAST}{set} in"), self.dir, &e));
        }
        Ok(true)
    }

    /// Frees the leases of an owner; when it has none, those of its container
    /// that do not say of which interface they are.
    pub(super) fn release(&mut self, owner: &Owner<'_>) -> Answer<()> {
        let text = owner.text();
        if self.leases.owners.contains_key(&text) {
            self.release_all(&text)
        } else {
            self.release_all(owner.id())
        }
    }

    /// Frees the leases that are of no attachment among `valid`.
    pub(super) fn retain(&mut self, valid: &[ValidAttachment]) -> Answer<()> {
        let is_valid = |owner: &str| {
            let (id, ifname) = match owner.split_once(lease::BREAK) {
                Some((id, ifname)) => (id, Some(ifname)),
                None => (owner, None),
            };
            valid.iter().any(|valid| {
                valid.container_id == id && ifname.is_none_or(|ifname| ifname == valid.ifname)
            })
        };
        let owners = self.leases.owners.keys();
        let gone: Vec<String> = owners.filter(|owner| !is_valid(owner)).cloned().collect();
        let mut result = Ok(());
        for owner in gone {
            result = result.and(self.release_all(&owner));
        }
        result
    }

    /// Frees one lease of an owner.
    pub(super) fn give_back(&mut self, ip: IpAddr, owner: &Owner<'_>) -> Answer<()> {
        self.remove(ip, &owner.text())
    }

    /// Frees the leases of an owner as it is written.
    fn release_all(&mut self, owner: &str) -> Answer<()> {
        let ips = self.leases.owners.get(owner).cloned().unwrap_or_default();
        let mut result = Ok(());
        for ip in ips {
            result = result.and(self.remove(ip, owner));
        }
        result
    }

    fn remove(&mut self, ip: IpAddr, owner: &str) -> Answer<()> {
        self.changed = true;
        match fs::remove_file(self.dir.join(ip.to_string())) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                self.unsure = true;
                return Err(failed(&format!("remove lease {ip} in"), self.dir, &e));
            }
            _ => {}
        }
        self.leases.remove(ip, owner);
        Ok(())
    }
}

/// Written over what was there: whatever a crash leaves is either an address
/// or nothing that is believed.
fn write_last(path: &Path, ip: IpAddr) -> io::Result<()> {
    let text = ip.to_string();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn failed(what: &str, dir: &Path, error: &io::Error) -> ErrorReport {
    ErrorReport::new(
        code::IO_FAILURE,
        format!("cannot {what} the leases in {}: {error}", dir.display()),
    )
}
