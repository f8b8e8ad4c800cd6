//! Pins: bind mounts that keep a namespace alive when its last process is
//! gone.

use std::fs::{File, OpenOptions, create_dir_all, read_dir, remove_file};
use std::io::ErrorKind as IoKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use circuit_core::{Error, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{NetnsId, id_of, identity, is_netns, is_netns_fd, open};

/// Stacked mounts that [`unpin`] takes off before it gives up.
const MAX_STACK: usize = 64;

/// A file in a folder of pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The file.
    pub path: PathBuf,
    /// The namespace that it keeps; `None` for a file that keeps none, such as
    /// those that outlive a reboot.
    pub id: Option<NetnsId>,
}

/// Pins the namespace at `source`, such as `/proc/PID/ns/net`, at `target`.
/// Doing it twice is no error.
///
/// # Errors
/// [`NotFound`](circuit_core::ErrorKind::NotFound) when the source is gone,
/// [`AlreadyExists`](circuit_core::ErrorKind::AlreadyExists) when the target
/// keeps another namespace.
pub fn pin(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<NetnsId> {
    pin_file(&open(source.as_ref())?, target.as_ref())
}

/// Pins an open namespace at `target`, as [`pin`] does.
///
/// # Errors
/// As [`pin`].
pub fn pin_fd(source: &OwnedFd, target: impl AsRef<Path>) -> Result<NetnsId> {
    let target = target.as_ref();
    if !is_netns_fd(source) {
        return Err(Error::precondition(format!(
            "cannot pin at {}: the descriptor is not a network namespace",
            target.display()
        )));
    }
    let source = source
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| failed(target, &e))?;
    pin_file(&File::from(source), target)
}

/// Pins what is open, so that a task that ends meanwhile, and another that
/// gets its number, change nothing.
fn pin_file(source: &File, target: &Path) -> Result<NetnsId> {
    let id = id_of(source, target)?;
    if let Some(parent) = target.parent() {
        create_dir_all(parent).map_err(|e| failed(target, &e))?;
    }
    if let Ok(kept) = identity(target) {
        if kept == id {
            return Ok(id);
        }
        return Err(Error::already_exists(format!(
            "{} keeps another network namespace: unpin it first",
            target.display()
        )));
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o444)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(target)
        .map_err(|e| failed(target, &e))?;
    let through = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount(
        Some(through.as_str()),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|e| failed(target, &e))?;
    Ok(id)
}

/// Takes a pin away, stacked ones too. One that is gone is no error; a file
/// that never was a pin is left alone.
///
/// # Errors
/// [`FailedPrecondition`](circuit_core::ErrorKind::FailedPrecondition) when
/// something else is there, [`Internal`](circuit_core::ErrorKind::Internal)
/// when the kernel refuses.
pub fn unpin(target: impl AsRef<Path>) -> Result<()> {
    let target = target.as_ref();
    let refused = |e: &dyn std::fmt::Display| {
        Error::internal(format!("cannot unpin {}: {e}", target.display()))
    };
    for _ in 0..MAX_STACK {
        if !is_netns(target) {
            break;
        }
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Another unpin was faster.
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(e) => return Err(refused(&e)),
        }
    }
    let meta = match target.symlink_metadata() {
        Ok(meta) => meta,
        Err(e) if e.kind() == IoKind::NotFound => return Ok(()),
        Err(e) => return Err(refused(&e)),
    };
    if !meta.is_file() || meta.len() != 0 || is_netns(target) {
        return Err(Error::precondition(format!(
            "cannot unpin {}: it is not a pin",
            target.display()
        )));
    }
    match remove_file(target) {
        Err(e) if e.kind() != IoKind::NotFound => Err(refused(&e)),
        _ => Ok(()),
    }
}

/// The pins in a folder, sorted; a folder that is not there has none.
///
/// # Errors
/// [`Internal`](circuit_core::ErrorKind::Internal) when it cannot be read.
pub fn list_pins(dir: impl AsRef<Path>) -> Result<Vec<Pin>> {
    let dir = dir.as_ref();
    let unreadable = |e| Error::internal(format!("cannot list pins in {}: {e}", dir.display()));
    let entries = match read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == IoKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(e)),
    };
    let mut pins = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        let id = identity(&path).ok();
        if id.is_some()
            || path
                .symlink_metadata()
                .is_ok_and(|m| m.is_file() && m.len() == 0)
        {
            pins.push(Pin { path, id });
        }
    }
    pins.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(pins)
}

fn failed(target: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::internal(format!(
        "cannot pin a network namespace at {}: {error}",
        target.display()
    ))
}
