//! Network namespaces: telling them apart, keeping them alive, entering them.

mod enter;
mod interfaces;
mod lasting;
mod pin;
mod stand_in;
mod workers;

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use circuit_core::{Error, Result};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs, statfs};

pub use enter::{in_netns, in_netns_async};
pub use interfaces::interface_names;
pub use lasting::pins_last;
pub use pin::{Pin, list_pins, pin, pin_fd, unpin};
pub use stand_in::stand_in;
pub use workers::Workers;

pub(crate) use enter::{Place, in_place};
pub(crate) use workers::let_this_thread_visit;

/// What tells one network namespace from another, as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    /// The device.
    pub dev: u64,
    /// The inode.
    pub inode: u64,
}

/// The identity of the namespace at a path, such as `/proc/PID/ns/net` or a
/// pin.
///
/// # Errors
/// [`NotFound`](circuit_core::ErrorKind::NotFound) when nothing is there,
/// [`FailedPrecondition`](circuit_core::ErrorKind::FailedPrecondition) when it
/// is no network namespace.
pub fn identity(path: impl AsRef<Path>) -> Result<NetnsId> {
    id_of(&open(path.as_ref())?, path.as_ref())
}

/// The identity of the namespace that the calling thread is in: the host's,
/// as no thread of the daemon's runtime ever enters another.
///
/// # Errors
/// As [`identity`].
pub fn host_identity() -> Result<NetnsId> {
    identity("/proc/thread-self/ns/net")
}

/// Whether a network namespace is at the path.
pub fn is_netns(path: impl AsRef<Path>) -> bool {
    open(path.as_ref()).is_ok()
}

/// Opens a network namespace, and nothing else.
pub(crate) fn open(path: &Path) -> Result<File> {
    let text = |what: &dyn std::fmt::Display| {
        format!("cannot open network namespace {}: {what}", path.display())
    };
    let failed = |error: std::io::Error| match error.kind() {
        // The link of a process that has ended, but was not waited for, leads nowhere.
        std::io::ErrorKind::NotFound => Error::not_found(text(&error)),
        _ => Error::precondition(text(&error)),
    };
    // Opening a pipe or a device could wait, so look before opening.
    let kind = statfs(path).map_err(|e| failed(e.into()))?;
    if kind.filesystem_type() != NSFS_MAGIC {
        return Err(Error::precondition(text(&"it is not a namespace")));
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    if !is_netns_fd(&file) {
        return Err(Error::precondition(text(&"it is not a network namespace")));
    }
    Ok(file)
}

#[allow(unsafe_code)]
fn is_netns_fd(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let on_nsfs = fstatfs(fd).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC);
    // SAFETY: the descriptor is open as long as it is borrowed, and this
    // request has no argument.
    on_nsfs && unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) } == libc::CLONE_NEWNET
}

fn id_of(file: &File, path: &Path) -> Result<NetnsId> {
    let meta = file
        .metadata()
        .map_err(|e| Error::internal(format!("cannot stat {}: {e}", path.display())))?;
    Ok(NetnsId {
        dev: meta.dev(),
        inode: meta.ino(),
    })
}
