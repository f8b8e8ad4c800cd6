//! Which daemon of a host gives the addresses of pools.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use circuit_core::ipam::Holding;
use circuit_core::{Error, Result};

use super::journal::{FILE, Line, load};

/// The right to give addresses at a socket, held by one daemon at a time. Containers
/// that have some outlive it, and only its own journal knows them: no other daemon takes
/// its place meanwhile.
pub(super) struct Role {
    _note: File,
}

impl Role {
    /// Takes it for the daemon with this state folder, which is noted beside the socket.
    ///
    /// # Errors
    /// [`AlreadyExists`](circuit_core::ErrorKind::AlreadyExists) when a daemon has it,
    /// [`FailedPrecondition`](circuit_core::ErrorKind::FailedPrecondition) when containers
    /// have addresses of the one that had it last.
    pub(super) fn take(socket: &Path, state_dir: &Path) -> Result<Self> {
        let path = note_of(socket);
        let failed = |error: io::Error| {
            Error::unavailable(format!("cannot lock {}: {error}", path.display()))
        };
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let mut note = open.map_err(failed)?;
        match note.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(another(socket)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let own = state_dir.canonicalize().map_err(failed)?;
        let mut last = String::new();
        note.read_to_string(&mut last).map_err(failed)?;
        if Path::new(&last) != own {
            if !last.is_empty() && in_use(Path::new(&last)) {
                return Err(Error::precondition(format!(
                    "containers have addresses that the circuit server with --state-dir {last} \
                     gave at {}: start that one, or remove {} when it is gone for good",
                    socket.display(),
                    path.display()
                )));
            }
            let written = note
                .rewind()
                .and_then(|()| note.set_len(0))
                .and_then(|()| note.write_all(own.as_os_str().as_encoded_bytes()));
            written.map_err(failed)?;
        }
        Ok(Self { _note: note })
    }
}

pub(super) fn another(socket: &Path) -> Error {
    Error::already_exists(format!(
        "another circuit server gives out addresses at {}",
        socket.display()
    ))
}

fn note_of(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".keeper");
    name.into()
}

/// Whether a daemon's journal says that somebody has addresses of it; one that cannot be
/// read may.
fn in_use(state_dir: &Path) -> bool {
    let Ok(loaded) = load(&state_dir.join(FILE)) else {
        return true;
    };
    let mut pools = BTreeMap::<String, Holding>::new();
    for line in loaded.lines {
        if let Line::Change { pool, entry } = line {
            pools.entry(pool).or_default().apply(&entry);
        }
    }
    pools.values().any(|holding| !holding.used().is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use circuit_core::ErrorKind;
    use circuit_core::ipam::{Entry, Use, User};
    use circuit_testing::{PATIENCE, wait_for};

    use super::super::journal::Journal;
    use super::*;

    #[test]
    fn another_daemon_takes_the_role_only_when_nobody_has_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = dir.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            folder
        };
        let (one, two) = (folder("one"), folder("two"));
        let socket = dir.path().join("ipam.sock");
        let change = |entry| Line::Change {
            pool: "lan".to_owned(),
            entry,
        };
        let address = [10, 0, 0, 2].into();
        let user = User {
            container: "default-web".to_owned(),
            ifname: "eth0".to_owned(),
        };
        let by = Use {
            user,
            network: "lan".to_owned(),
        };
        let journal = Journal::create(&one.join(FILE), &[]).unwrap();
        journal
            .append(&[change(Entry::Use { address, by })])
            .unwrap();

        let first = Role::take(&socket, &one).unwrap();
        let another = Role::take(&socket, &two).err().unwrap();
        assert_eq!(another.kind(), ErrorKind::AlreadyExists);
        // Programs that other tests start have the lock, too, until they are another.
        let take = |state_dir: &Path| {
            wait_for("the lock is free", PATIENCE, || {
                let taken = Role::take(&socket, state_dir);
                let busy = |e: &Error| e.kind() == ErrorKind::AlreadyExists;
                (!taken.as_ref().err().is_some_and(busy)).then_some(taken)
            })
        };
        let refused = |state_dir: &Path| take(state_dir).err().unwrap();
        drop(first);
        let error = refused(&two);
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.message().contains(one.to_str().unwrap()), "{error}");
        drop(take(&one).unwrap());
        journal.append(&[change(Entry::Free { address })]).unwrap();
        drop(take(&two).unwrap());
        // Nobody has addresses of the second.
        drop(take(&one).unwrap());
        drop(take(&two).unwrap());
        // Of what is no journal nothing is known; one that is gone has nothing.
        drop(take(&one).unwrap());
        std::fs::write(one.join(FILE), "something else\n").unwrap();
        assert_eq!(refused(&two).kind(), ErrorKind::FailedPrecondition);
        std::fs::remove_dir_all(&one).unwrap();
        drop(take(&two).unwrap());
    }
}
