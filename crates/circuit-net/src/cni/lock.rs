//! A lock that plugins inherit, so that it is held until the last of their
//! processes has ended, whatever becomes of the daemon.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use circuit_core::{Error, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::time::Instant;

/// The right to run plugins on something, held as a `flock` on a file.
///
/// The lock belongs to the open file: every plugin started under it, and every
/// process that those start, has a descriptor of it. Dropping this value closes
/// the daemon's descriptor; the lock itself is free when the plugins' are
/// closed too.
#[derive(Debug)]
pub struct OperationLock {
    file: File,
    path: PathBuf,
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
        let ours = file.metadata().map_err(failed)?;
        let current = path
            .metadata()
            .is_ok_and(|m| (m.dev(), m.ino()) == (ours.dev(), ours.ino()));
        Ok(current.then(|| Self {
            file,
            path: path.to_owned(),
        }))
    }

    /// Another holder of the same lock, which is free when both are dropped.
    ///
    /// # Errors
    /// [`Internal`](circuit_core::ErrorKind::Internal) when there are no
    /// descriptors left.
    pub fn share(&self) -> Result<Self> {
        let file = self.file.try_clone();
        Ok(Self {
            file: file.map_err(|e| {
                Error::internal(format!("cannot share lock {}: {e}", self.path.display()))
            })?,
            path: self.path.clone(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets processes that are started keep the lock, until what is returned is
    /// dropped.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn inherited(&self) -> io::Result<Inherited<'_>> {
        fcntl(&self.file, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(Inherited(&self.file))
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
