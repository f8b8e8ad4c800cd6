//! Another `/etc/resolv.conf` for a container that runs, and its own back.
//!
//! The daemon is root in the host's namespaces, and whoever is in the container
//! may change everything there at any time. So that nobody makes the daemon read
//! or write anything but the container's own root file system:
//!
//! - The root is that of the mount namespace of the container's first process,
//!   not the process's own, which it can set by `chroot` to any folder that it
//!   sees, such as a volume. The namespace must have been made by the runtime:
//!   one that the process has made for itself, in a user namespace of its own,
//!   is refused. It is told by its owner, which is not that of the process's pid
//!   namespace: a process never leaves the one that it was started in. Only a
//!   container that may mount can make a folder its root, and not the host's.
//! - `/etc` must be a directory of that root: no symbolic link, no mount, and not
//!   the host's.
//! - All else is relative to that open directory, and never follows
//!   `resolv.conf`: a symbolic link is replaced itself, and what it leads to is
//!   left alone. Nothing is written into a file that is there already.
//! - What is mounted there is left alone, unless whoever made the container keeps that
//!   file for it alone: see [`own_file`].
//!
//! All functions block.

mod own_file;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;

use circuit_core::resolver::{Bytes, Place, Present};
use circuit_core::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::fcntl::{openat, openat2, readlinkat, renameat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, stat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};
use own_file::OwnFile;

/// The longest text, of ours and of the container: the original is kept in the
/// record of the container.
pub const MAX_LENGTH: usize = 64 * 1024;

const NAME: &str = "resolv.conf";

/// Where the next file is written before it takes the place of the other. One
/// name only, so that a crash leaves one file at most, which the next call
/// removes.
const NEXT: &str = ".resolv.conf.circuit";

const WHOLE: &str = "the container's /etc/resolv.conf";

/// What [`restore`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// The original is there.
    Done,
    /// Somebody else has changed it since; it was left as it is.
    Changed,
}

/// What is at the `/etc/resolv.conf` of a container.
/// Writing it down before [`replace`] lets a daemon that crashes in between put
/// it back.
///
/// # Errors
/// [`NotFound`](circuit_core::ErrorKind::NotFound) when the process is gone;
/// [`FailedPrecondition`](circuit_core::ErrorKind::FailedPrecondition) when what
/// is there cannot be replaced, or must not be: something mounted there, a
/// device, a pipe, a directory, more than [`MAX_LENGTH`], no `/etc` of the
/// container's own; [`Unavailable`](circuit_core::ErrorKind::Unavailable) when
/// the kernel refuses otherwise.
pub fn read(place: &Place) -> Result<Present> {
    let there = There::open(place)?;
    Ok(there.look()?)
}

/// Puts a file with this text in the place of a container's `/etc/resolv.conf`, and
/// returns what was there before. The file belongs to the owner of `/etc`, and everybody
/// may read it; of one that is mounted there, only the content changes. When it holds
/// the text already, nothing is written: the caller keeps the original of the first
/// time.
///
/// # Errors
/// As [`read`], and [`FailedPrecondition`](circuit_core::ErrorKind::FailedPrecondition)
/// on a root file system that is read-only;
/// [`InvalidArgument`](circuit_core::ErrorKind::InvalidArgument) for a text
/// longer than [`MAX_LENGTH`]. What was there is there still.
pub fn replace(place: &Place, text: &str) -> Result<Present> {
    if text.len() > MAX_LENGTH {
        return Err(Error::invalid(format!(
            "the text for {WHOLE} has {} bytes; {MAX_LENGTH} are allowed",
            text.len()
        )));
    }
    let there = There::open(place)?;
    let before = there.look()?;
    if !before.is(text) {
        let owner = there.owner()?;
        there.put(&Present::File {
            content: Bytes(text.as_bytes().to_vec()),
            mode: 0o644,
            uid: owner.st_uid,
            gid: owner.st_gid,
        })?;
    }
    Ok(before)
}

/// Puts back what was at a container's `/etc/resolv.conf`, provided that it still holds
/// our text. Doing it twice is no error.
/// Who changes it at the very moment loses the change.
///
/// # Errors
/// As [`read`] when the process is gone or the kernel refuses, and as [`replace`]
/// on a root file system that is read-only. What [`read`] would not accept is no
/// error here: it is [`Restored::Changed`].
pub fn restore(place: &Place, original: &Present, ours: &str) -> Result<Restored> {
    let found = There::open(place).and_then(|there| Ok((there.look()?, there)));
    let (now, there) = match found {
        Ok(found) => found,
        Err(Refusal::Strange(_)) => return Ok(Restored::Changed),
        Err(Refusal::Failed(e)) => return Err(e),
    };
    if now == *original {
        return Ok(Restored::Done);
    }
    if !now.is(ours) {
        return Ok(Restored::Changed);
    }
    there.put(original)?;
    Ok(Restored::Done)
}

/// Why a look has no answer.
enum Refusal {
    /// What is there is nothing to replace or to put back: after a [`replace`],
    /// somebody has changed it.
    Strange(Error),
    /// Nobody knows what is there.
    Failed(Error),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Strange(e) | Refusal::Failed(e) => e,
        }
    }
}

fn strange(text: impl Into<String>) -> Refusal {
    Refusal::Strange(Error::precondition(text))
}

/// The error of a call that the kernel refused.
fn failed(doing: &str, errno: Errno) -> Error {
    match errno {
        Errno::EROFS => Error::precondition(format!(
            "cannot {doing} {WHOLE}: the root file system is read-only; \
             run the container with one that is not, or leave out the label"
        )),
        Errno::EBUSY => Error::precondition(mounted(WHOLE)),
        Errno::EPERM | Errno::EACCES => Error::precondition(format!(
            "cannot {doing} {WHOLE}: {errno}; see whether it or /etc is immutable"
        )),
        // Only a folder with something in it cannot be removed.
        Errno::ENOTEMPTY | Errno::EEXIST => Error::precondition(format!(
            "cannot {doing} {WHOLE}: {NEXT} beside it is in the way; remove it"
        )),
        _ => Error::unavailable(format!("cannot {doing} {WHOLE}: {errno}; try again")),
    }
}

fn mounted(what: &str) -> String {
    format!("{what} is mounted from elsewhere; leave the mount out, or the label")
}

/// Opens a name of a directory, and what it leads to only if that is no link and
/// no mount.
fn open_beneath(dir: impl AsFd, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    openat2(dir, name, how)
}

fn same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Where the file is.
enum There {
    /// In the container's `/etc`.
    Inside(Etc),
    /// On the host, mounted there.
    Mounted(OwnFile),
}

impl There {
    fn open(place: &Place) -> Result<Self, Refusal> {
        let etc = Etc::open(place.pid)?;
        match &place.own_file {
            Some(path) if etc.is_mounted_on() => OwnFile::open(path, &etc).map(Self::Mounted),
            _ => Ok(Self::Inside(etc)),
        }
    }

    fn look(&self) -> Result<Present, Refusal> {
        match self {
            Self::Inside(etc) => etc.look(),
            Self::Mounted(file) => file.look(),
        }
    }

    fn put(&self, what: &Present) -> Result<()> {
        match self {
            Self::Inside(etc) => etc.put(what),
            Self::Mounted(file) => file.put(what),
        }
    }

    /// Whose a new file is.
    fn owner(&self) -> Result<FileStat> {
        match self {
            Self::Inside(etc) => fstat(&etc.0).map_err(|e| failed("look at", e)),
            Self::Mounted(file) => Ok(file.meta),
        }
    }
}

/// The container's `/etc`.
struct Etc(OwnedFd);

impl Etc {
    fn open(pid: u32) -> Result<Self, Refusal> {
        let root = root_of(pid)?;
        refuse_host(&root, "/")?;
        let dir = open_beneath(&root, "etc", OFlag::O_DIRECTORY).map_err(|e| match e {
            Errno::ENOENT => strange(
                "the container's /etc does not exist; make it in the image, or leave out the label",
            ),
            Errno::EXDEV => strange(mounted("the container's /etc")),
            Errno::ELOOP | Errno::ENOTDIR => strange(
                "the container's /etc is a symbolic link, or no directory; make it a directory, \
                 or leave out the label",
            ),
            Errno::ENOSYS => Refusal::Failed(Error::precondition(format!(
                "cannot open {WHOLE}: the kernel has no openat2; it needs Linux 5.6 or newer"
            ))),
            e => Refusal::Failed(failed("open", e)),
        })?;
        refuse_host(&dir, "/etc")?;
        Ok(Self(dir))
    }

    /// Whether something is mounted at the file.
    fn is_mounted_on(&self) -> bool {
        matches!(
            open_beneath(&self.0, NAME, OFlag::empty()),
            Err(Errno::EXDEV)
        )
    }

    /// What is there, without following it or waiting for it.
    fn look(&self) -> Result<Present, Refusal> {
        let refused = |e| Refusal::Failed(failed("read", e));
        let found = match open_beneath(&self.0, NAME, OFlag::empty()) {
            Ok(found) => found,
            Err(Errno::ENOENT) => return Ok(Present::Missing),
            Err(Errno::EXDEV) => return Err(strange(mounted(WHOLE))),
            Err(e) => return Err(refused(e)),
        };
        let meta = fstat(&found).map_err(refused)?;
        match SFlag::from_bits_truncate(meta.st_mode & libc::S_IFMT) {
            SFlag::S_IFREG => Ok(Present::File {
                content: Bytes(content(&found)?),
                mode: meta.st_mode & 0o7777,
                uid: meta.st_uid,
                gid: meta.st_gid,
            }),
            SFlag::S_IFLNK => Ok(Present::Link {
                target: Bytes(readlinkat(&found, "").map_err(refused)?.into_vec()),
            }),
            other => Err(strange(format!(
                "{WHOLE} is {}; make it a file, or leave out the label",
                kind(other)
            ))),
        }
    }

    /// Has this there instead of what is there.
    fn put(&self, what: &Present) -> Result<()> {
        let put = match what {
            Present::Missing => match unlinkat(&self.0, NAME, UnlinkatFlags::NoRemoveDir) {
                Err(Errno::ENOENT) => Ok(()),
                done => done,
            },
            Present::File { .. } | Present::Link { .. } => self
                .remove_next()
                .and_then(|()| self.make_next(what))
                .and_then(|()| renameat(&self.0, NEXT, &self.0, NAME))
                // The first failure is the one to tell.
                .inspect_err(|_| self.remove_next().unwrap_or_default()),
        };
        put.map_err(|e| failed("write", e))
    }

    fn make_next(&self, what: &Present) -> nix::Result<()> {
        match what {
            Present::Missing => Ok(()),
            Present::File {
                content,
                mode,
                uid,
                gid,
            } => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
                let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut file = File::from(openat(&self.0, NEXT, flags, Mode::S_IRUSR)?);
                file.write_all(&content.0).map_err(|e| errno(&e))?;
                fchown(&file, Some((*uid).into()), Some((*gid).into()))?;
                // After the owner, whose change takes the set-id bits away.
                fchmod(&file, Mode::from_bits_truncate(*mode))
            }
            Present::Link { target } => {
                let owner = fstat(&self.0)?;
                symlinkat(OsStr::from_bytes(&target.0), &self.0, NEXT)?;
                let (uid, gid) = (Uid::from(owner.st_uid), Gid::from(owner.st_gid));
                let itself = AtFlags::AT_SYMLINK_NOFOLLOW;
                fchownat(&self.0, NEXT, Some(uid), Some(gid), itself)
            }
        }
    }

    fn remove_next(&self) -> nix::Result<()> {
        match unlinkat(&self.0, NEXT, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => unlinkat(&self.0, NEXT, UnlinkatFlags::RemoveDir),
            Err(Errno::ENOENT) => Ok(()),
            done => done,
        }
    }
}

/// Refuses a directory of the container's that is this one of the host's, as in
/// a container with the host's root.
fn refuse_host(dir: &OwnedFd, host: &str) -> Result<(), Refusal> {
    let ours = stat(host).map_err(|e| Refusal::Failed(failed("read", e)))?;
    let its = fstat(dir).map_err(|e| Refusal::Failed(failed("read", e)))?;
    if same(&ours, &its) {
        return Err(strange(format!(
            "{WHOLE} is the host's own: the container's {host} is the host's; leave out the label"
        )));
    }
    Ok(())
}

/// The content of a regular file that is open as a path only. Opening it by its
/// name again could open a device that took its place, and have an effect.
fn content(file: &OwnedFd) -> Result<Vec<u8>, Refusal> {
    let refused = |e: io::Error| Refusal::Failed(failed("read", errno(&e)));
    let opened = OpenOptions::new()
        .read(true)
        // Somebody with a lease on it would be waited for.
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(refused)?;
    let mut content = Vec::new();
    opened
        .take(MAX_LENGTH as u64 + 1)
        .read_to_end(&mut content)
        .map_err(refused)?;
    if content.len() > MAX_LENGTH {
        return Err(strange(format!(
            "{WHOLE} has more than {MAX_LENGTH} bytes; make it shorter, or leave out the label"
        )));
    }
    Ok(content)
}

fn kind(kind: SFlag) -> &'static str {
    match kind {
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFIFO => "a pipe",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFCHR | SFlag::S_IFBLK => "a device",
        _ => "no file",
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The root of the mount namespace that the runtime made for the container.
fn root_of(pid: u32) -> Result<OwnedFd, Refusal> {
    let refused = |e| {
        Refusal::Failed(match e {
            Errno::ENOENT | Errno::ESRCH => Error::not_found(format!(
                "process {pid} is gone, and {WHOLE} with it; start the container again"
            )),
            e => Error::unavailable(format!("cannot look at process {pid}: {e}; try again")),
        })
    };
    let open = |at: BorrowedFd<'_>, path: &str, flags| {
        openat(at, path, flags | OFlag::O_CLOEXEC, Mode::empty()).map_err(refused)
    };
    // Opened once, so that all is of one process though its number be taken again.
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let process = open(AT_FDCWD, &format!("/proc/{pid}"), directory)?;
    let mounts = open(process.as_fd(), "ns/mnt", OFlag::O_RDONLY)?;
    let pids = open(process.as_fd(), "ns/pid", OFlag::O_RDONLY)?;
    let owner = |of| owner_of(of).and_then(fstat).map_err(refused);
    if !same(&owner(&mounts)?, &owner(&pids)?) {
        return Err(strange(format!(
            "process {pid} has mounts of its own making, which hide {WHOLE}; leave out the label"
        )));
    }
    root_of_namespace(&mounts).map_err(|e| {
        let text = format!("cannot see the mounts of process {pid}: {e}; try again");
        Refusal::Failed(Error::unavailable(text))
    })
}

/// The user namespace that a namespace was made in.
#[allow(unsafe_code)]
fn owner_of(namespace: &OwnedFd) -> nix::Result<OwnedFd> {
    // SAFETY: the descriptor is open as long as it is borrowed, and this
    // request has no argument.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_USERNS) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just opened it, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The root of a mount namespace, which only those inside have a name for. The
/// thread that goes there opens it and ends.
fn root_of_namespace(mounts: &OwnedFd) -> io::Result<OwnedFd> {
    let open = || -> io::Result<OwnedFd> {
        // All threads share their root and working directory, which a thread must
        // not that changes its mount namespace.
        unshare(CloneFlags::CLONE_FS)?;
        setns(mounts, CloneFlags::CLONE_NEWNS)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(openat(AT_FDCWD, "/", flags, Mode::empty())?)
    };
    thread::scope(|scope| {
        thread::Builder::new()
            .name("mntns".to_owned())
            .spawn_scoped(scope, open)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_original_survives_json_to_the_byte() {
        let file = |content: &[u8]| Present::File {
            content: Bytes(content.to_vec()),
            mode: 0o4640,
            uid: 7,
            gid: u32::MAX - 1,
        };
        let link = Present::Link {
            target: Bytes(b"\xff/x".to_vec()),
        };
        let all: Vec<u8> = (0..=255).collect();
        for original in [
            Present::Missing,
            file(b""),
            file("nameserver 1.1.1.1\n\0\u{e9}".as_bytes()),
            file(&all),
            link,
        ] {
            let line = serde_json::to_string(&original).unwrap();
            assert!(!line.contains('\n'), "a journal has one a line: {line}");
            assert_eq!(
                serde_json::from_str::<Present>(&line).unwrap(),
                original,
                "{line}"
            );
        }
        assert_eq!(
            serde_json::to_value(file(b"a\n")).unwrap(),
            json!({"file": {"content": "a\n", "mode": 0o4640, "uid": 7, "gid": 4_294_967_294_u32}})
        );
    }

    #[test]
    fn only_a_file_with_the_very_text_is_ours() {
        let file = Present::File {
            content: Bytes(b"a\n".to_vec()),
            mode: 0o600,
            uid: 1,
            gid: 1,
        };
        assert!(file.is("a\n") && !file.is("a") && !file.is(""));
        assert!(!Present::Missing.is(""));
        let target = Bytes(b"a".to_vec());
        assert!(!Present::Link { target }.is("a"));
    }
}
