//! A file of the host's that is mounted at a container's `/etc/resolv.conf` and is the
//! container's own. It is written where it is, for the mount is of this very file.
//!
//! That it is the container's own is said by whoever made the container, to its runtime.
//! Whoever is inside may yet have mounted another file there, or have put another in the
//! folder of the host's, if that can be reached from inside. So the file of the host's
//! must be the one that is seen inside, a regular one, not reached by a symbolic link,
//! and known by this one name.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use circuit_core::Result;
use circuit_core::resolver::{Bytes, Present};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, stat};

use super::{Etc, NAME, Refusal, content, errno, failed, mounted, same, strange};

/// What the host itself has: no container's, whatever is said of it.
const HOSTS: [&str; 3] = [
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/systemd/resolve/stub-resolv.conf",
];

/// The file of the host's.
pub(super) struct OwnFile {
    file: OwnedFd,
    pub(super) meta: FileStat,
}

impl OwnFile {
    /// The file at this path of the host's, which must be what the container has.
    pub(super) fn open(path: &Path, etc: &Etc) -> Result<Self, Refusal> {
        let refused = |e| Refusal::Failed(failed("read", e));
        let other = || strange(mounted(super::WHOLE));
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let inside = OpenHow::new().flags(flags).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        let inside = openat2(&etc.0, NAME, inside).map_err(refused)?;
        // The standard library would leave out O_PATH where musl is the C library.
        let file = openat(AT_FDCWD, path, flags, Mode::empty()).map_err(|_| other())?;
        let meta = fstat(&file).map_err(refused)?;
        let is_file = meta.st_mode & libc::S_IFMT == SFlag::S_IFREG.bits();
        let is_hosts = HOSTS.iter().any(|path| {
            // As whoever resolves names here finds it, through links.
            stat(*path).is_ok_and(|of_host| same(&meta, &of_host))
        });
        match !is_hosts
            && is_file
            && meta.st_nlink == 1
            && same(&meta, &fstat(&inside).map_err(refused)?)
        {
            true => Ok(Self { file, meta }),
            false => Err(other()),
        }
    }

    /// What is there.
    pub(super) fn look(&self) -> Result<Present, Refusal> {
        Ok(Present::File {
            content: Bytes(content(&self.file)?),
            mode: self.meta.st_mode & 0o7777,
            uid: self.meta.st_uid,
            gid: self.meta.st_gid,
        })
    }

    /// Has this content there; what is no file leaves none. Who reads meanwhile sees the
    /// beginning of the one and the end of the other, never an empty file.
    pub(super) fn put(&self, what: &Present) -> Result<()> {
        let text = match what {
            Present::File { content, .. } => &content.0[..],
            Present::Missing | Present::Link { .. } => &[],
        };
        let write = || -> io::Result<()> {
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let mut file: File = OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)?;
            file.write_all(text)?;
            file.set_len(text.len() as u64)
        };
        write().map_err(|e| failed("write", errno(&e)))
    }
}
