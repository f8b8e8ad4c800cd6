//! A lock that plugins inherit, so that it is held until they have ended, whatever
//! becomes of the daemon.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use circuit_core::{Error, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::time::Instant;

/// The right to run plugins on something, held as a `flock` on a file.
///
/// The lock belongs to the open file: every plugin started under it, and every
/// process that those start, has a descriptor of it. When the daemon goes first,
/// the lock is free once all of them are closed. When it has seen every plugin end,
/// dropping this value removes the file: what a plugin leaves running, such as a
/// helper of its own, holds a lock that nobody asks for any more.
#[derive(Debug)]
pub struct OperationLock(Arc<Locked>);

#[derive(Debug)]
struct Locked {
    file: File,
    path: PathBuf,
    /// How many plugins were started under it, and how many have ended.
    started: AtomicUsize,
    ended: AtomicUsize,
}

impl Locked {
    /// Whether the path still leads to the file.
    fn is_current(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        let now = self.path.metadata();
        Ok(now.is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino())))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let started = *self.started.get_mut();
        let all_ended = started > 0 && started == *self.ended.get_mut();
        if all_ended && self.is_current().unwrap_or(false) {
            // One that stays is free as soon as nobody has it open.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl OperationLock {
    /// Takes the lock, waiting at most `timeout` for whoever has it.
    ///
    /// # Errors
    /// [`DeadlineExceeded`](circuit_core::ErrorKind::DeadlineExceeded) when it
    /// is still held then, [`Internal`](circuit_core::ErrorKind::Internal) when
    /// the file cannot be made.
    pub async fn acquire(path: impl AsRef<Path>, timeout: Duration) -> Result<Self> {
        let path = path.as_ref();
        let deadline = Instant::now() + timeout;
        let mut pause = Duration::from_millis(2);
        loop {
            if let Some(lock) = Self::try_acquire(path)? {
                return Ok(lock);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(Error::deadline(format!(
                    "{} is still locked by an earlier operation{}: \
                     wait for its plugins to end, or end them",
                    path.display(),
                    holders(path)
                )));
            }
            tokio::time::sleep(pause.min(deadline - now)).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Takes the lock if nobody has it.
    ///
    /// # Errors
    /// [`Internal`](circuit_core::ErrorKind::Internal) when the file cannot be
    /// made or locked.
    pub fn try_acquire(path: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = path.as_ref();
        let failed = |e: io::Error| Error::internal(format!("cannot lock {}: {e}", path.display()));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        // A file that was removed or replaced meanwhile guards nothing.
        let locked = Locked {
            file,
            path: path.to_owned(),
            started: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
        };
        let current = locked.is_current().map_err(failed)?;
        Ok(current.then(|| Self(Arc::new(locked))))
    }

    /// Another holder of the same lock, which is free when both are dropped.
    #[must_use]
    pub fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Holds the lock for a plugin that was started with it.
    pub(super) fn started(&self) -> Started {
        self.0.started.fetch_add(1, Ordering::Relaxed);
        Started(self.share())
    }

    /// Lets processes that are started keep the lock, until what is returned is
    /// dropped.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn inherited(&self) -> io::Result<Inherited<'_>> {
        fcntl(&self.0.file, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(Inherited(&self.0.file))
    }
}

/// A plugin that was started with the lock, until it is seen to end.
pub(super) struct Started(OperationLock);

impl Started {
    /// The plugin has ended.
    pub(super) fn ended(self) {
        self.0.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A descriptor that is left open in processes that are started.
pub(super) struct Inherited<'a>(&'a File);

impl Drop for Inherited<'_> {
    fn drop(&mut self) {
        // The descriptor is open: it cannot fail.
        let _ = fcntl(self.0, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
}

/// The processes that have the file open, as words for an error text; none
/// when they cannot be told.
fn holders(path: &Path) -> String {
    let Ok(path) = path.canonicalize() else {
        return String::new();
    };
    let own = std::process::id().to_string();
    let mut pids: Vec<String> = entries(Path::new("/proc"))
        .filter_map(|process| process.file_name()?.to_str().map(str::to_owned))
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && *name != own)
        .filter(|pid| {
            entries(&Path::new("/proc").join(pid).join("fd"))
                .any(|fd| std::fs::read_link(fd).is_ok_and(|target| target == path))
        })
        .collect();
    pids.sort();
    match pids.as_slice() {
        [] => String::new(),
        pids => format!(" (processes {})", pids.join(", ")),
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}
