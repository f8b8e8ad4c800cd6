//! Leases on disk, one file each.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use circuit_core::{Error, Result};
use sha2::{Digest, Sha256};

use super::lease::{Holder, Lease};

/// The folder of leases.
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens a folder, which is made when it is not there.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let store = Self {
            dir: dir.to_owned(),
        };
        let make = |dir, mode| DirBuilder::new().recursive(true).mode(mode).create(dir);
        // Only what is in it is nobody's business.
        let made = dir.parent().map_or(Ok(()), |parent| make(parent, 0o755));
        made.and_then(|()| make(dir, 0o700))
            .map_err(|e| store.failed("make", &e))?;
        Ok(store)
    }

    /// Every lease that can be read; others are logged.
    pub(super) fn load(&self) -> Result<Vec<Lease>> {
        let entries = fs::read_dir(&self.dir).map_err(|e| self.failed("read", &e))?;
        let mut leases = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| self.failed("read", &e))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let lease = fs::read(&path)
                .map_err(|e| e.to_string())
                .and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string()));
            match lease {
                Ok(lease) => leases.push(lease),
                Err(error) => {
                    tracing::warn!(path = %path.display(), error, "lease cannot be read");
                }
            }
        }
        Ok(leases)
    }

    /// Writes a lease; when this returns, it is there after a crash.
    pub(super) fn save(&self, lease: &Lease) -> Result<()> {
        let write = || {
            let path = self.path(&lease.holder);
            let temporary = path.with_extension("json.tmp");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(lease)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            self.sync()
        };
        write().map_err(|e| self.failed("write", &e))
    }

    /// Removes a lease; one that is not there is no error.
    pub(super) fn remove(&self, holder: &Holder) -> Result<()> {
        match fs::remove_file(self.path(holder)) {
            Ok(()) => self.sync().map_err(|e| self.failed("write", &e)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(self.failed("write", &e)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Names come from whoever speaks to the socket, so they are no file names.
    fn path(&self, holder: &Holder) -> PathBuf {
        let mut hash = Sha256::new();
        for name in [&holder.container_id, &holder.network, &holder.ifname] {
            hash.update((name.len() as u64).to_be_bytes());
            hash.update(name);
        }
        let hash = hash.finalize();
        let digits: String = hash.iter().take(16).map(|b| format!("{b:02x}")).collect();
        self.dir.join(format!("{digits}.json"))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        let dir = self.dir.display();
        Error::internal(format!("cannot {what} the folder of leases {dir}: {error}"))
    }
}
