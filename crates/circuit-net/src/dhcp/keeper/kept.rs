//! Leases that are kept, and the namespaces that they are kept for.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use circuit_core::{Error, Result};

use super::super::lease::{Grant, Lease, Need};
use crate::netlink::Netlink;
use crate::netns::{NetnsId, identity};

/// An open namespace.
pub(super) struct Namespace {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) id: NetnsId,
}

impl Namespace {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let id = identity(path)?;
        let failed = |e| {
            let path = path.display();
            Error::precondition(format!("cannot open network namespace {path}: {e}"))
        };
        let file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if (meta.dev(), meta.ino()) != (id.dev, id.inode) {
            let path = path.display();
            return Err(Error::unavailable(format!(
                "network namespace {path} is changing, try again"
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            id,
        })
    }

    /// The namespace of a lease that was on disk, if it is still there.
    pub(super) fn of(lease: &Lease) -> Result<Self> {
        let netns = Self::open(&lease.netns)?;
        if (netns.id.dev, netns.id.inode) == (lease.dev, lease.inode) {
            return Ok(netns);
        }
        let path = lease.netns.display();
        Err(Error::not_found(format!(
            "{path} is another network namespace now"
        )))
    }
}

/// A lease that is kept.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) lease: Arc<Lease>,
    /// Keeps the namespace, so that the lease can be given back from there
    /// when the container has ended.
    pub(super) netns: Arc<File>,
    /// Its age when it was taken up, and when that was: clocks are set.
    pub(super) age: Duration,
    pub(super) at: Instant,
    pub(super) due: Instant,
}

impl Kept {
    pub(super) fn new(lease: Lease, netns: Arc<File>, age: Duration) -> Self {
        let at = Instant::now();
        let due = match lease.grant.need(age) {
            Need::Nothing(rest) => at + rest,
            _ => at,
        };
        Self {
            lease: lease.into(),
            netns,
            age,
            at,
            due,
        }
    }

    pub(super) fn need(&self) -> Need {
        self.lease.grant.need(self.age + self.at.elapsed())
    }

    /// A path that leads to the namespace as long as this is kept.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.netns.as_raw_fd()).into()
    }

    /// Whether the lease is one of an interface that is there.
    pub(super) fn serves(&self, netns: &Namespace) -> bool {
        let lease = &self.lease;
        let there = || {
            let mut socket = Netlink::open(Some(&self.path())).ok()?;
            socket.link(&lease.holder.ifname).ok()?
        };
        (lease.dev, lease.inode) == (netns.id.dev, netns.id.inode)
            && self.need() != Need::Expired
            && there().is_some()
    }

    /// The same lease, granted anew.
    pub(super) fn renewed(&self, grant: Grant) -> Self {
        let lease = Lease {
            grant,
            ..Lease::clone(&self.lease)
        };
        Self::new(lease, Arc::clone(&self.netns), Duration::ZERO)
    }
}
