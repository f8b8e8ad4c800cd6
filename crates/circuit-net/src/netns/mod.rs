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

/// The identity of the network namespace at a path; `None` when there is none any
/// more, as after an unmount.
///
/// # Errors
/// When that cannot be told, such as without a descriptor that is free: it may well
/// be there.
pub fn pinned(path: impl AsRef<Path>) -> Result<Option<NetnsId>> {
    let path = path.as_ref();
    match open_any(path) {
        Ok(Some(file)) => id_of(&file, path).map(Some),
        Ok(None) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::unavailable(unopened(path, &error))),
    }
}

/// Whether a network namespace is at the path.
pub fn is_netns(path: impl AsRef<Path>) -> bool {
    open(path.as_ref()).is_ok()
}

/// Opens a network namespace, and nothing else.
pub(crate) fn open(path: &Path) -> Result<File> {
    match open_any(path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(Error::precondition(unopened(
            path,
            &"it is not a network namespace",
        ))),
        // The link of a process that has ended, but was not waited for, leads nowhere.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::not_found(unopened(path, &error)))
        }
        Err(error) => Err(Error::precondition(unopened(path, &error))),
    }
}

fn unopened(path: &Path, what: &dyn std::fmt::Display) -> String {
    format!("cannot open network namespace {}: {what}", path.display())
}

/// Opens a network namespace; `None` when something else is there.
fn open_any(path: &Path) -> std::io::Result<Option<File>> {
    // Opening a pipe or a device could wait, so look before opening.
    if statfs(path)?.filesystem_type() != NSFS_MAGIC {
        return Ok(None);
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    Ok(is_netns_fd(&file).then_some(file))
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
