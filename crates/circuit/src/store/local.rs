//! Networks as files of one folder: `<name>.json`, with the bytes that were
//! given to `create`.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use circuit_core::cni::{ConfigList, MAX_CONFIG_BYTES};
use circuit_core::service::{NetworkListing, Problem, StoredNetwork};
use circuit_core::{Error, Result};

use super::{Store, Turn, check_name};
use crate::attachments::NetworkSource;
use crate::text;

/// The end of a network's file.
const SUFFIX: &str = ".json";
/// The end of a file that is being written; no network's file ends so.
const UNFINISHED: &str = ".tmp";

/// How long another process may take over its turn: it may ask plugins.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether the turn has come.
const PAUSE: Duration = Duration::from_millis(5);

/// The networks in a folder.
pub struct LocalStore {
    dir: PathBuf,
    read: Mutex<HashMap<String, Known>>,
    written: AtomicU64,
}

/// A file as it was read, and what tells whether it has changed since.
#[derive(Clone)]
struct Known {
    stamp: Stamp,
    data: Arc<[u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &fs::Metadata) -> Self {
        Self {
            inode: file.ino(),
            length: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

impl LocalStore {
    /// Opens the datastore of that URL; its folder is made when it is not there.
    ///
    /// # Errors
    /// When the URL is of no known kind, or the folder cannot be made or read.
    pub fn open(url: &str) -> Result<Self> {
        Self::in_folder(super::directory(url)?)
    }

    /// Opens that folder; it is made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn in_folder(dir: PathBuf) -> Result<Self> {
        let fail = |e: io::Error| {
            let reason = text::io_error(&e);
            Error::unavailable(format!(
                "cannot use the datastore {}: {reason}",
                dir.display()
            ))
        };
        if let Some(parent) = dir.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(fail)?;
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(fail)?;
        remove_unfinished(&dir).map_err(fail)?;
        Ok(Self {
            dir,
            read: Mutex::default(),
            written: AtomicU64::new(0),
        })
    }

    /// The error about a name that nothing has, with the one that was meant.
    fn unknown(&self, name: &str) -> Error {
        let files = self.files().unwrap_or_default();
        let names = files.iter().filter_map(|file| file.strip_suffix(SUFFIX));
        let remedy = match nearest(name, names.clone()) {
            Some(near) => format!("did you mean {near}?"),
            None if names.count() == 0 => {
                "there is none yet, create one with `circuit network create`".to_owned()
            }
            None => "`circuit network ls` shows those that do".to_owned(),
        };
        Error::not_found(format!("network {name} does not exist; {remedy}"))
    }

    fn broken(&self, error: &io::Error) -> Error {
        let (dir, reason) = (self.dir.display(), text::io_error(error));
        Error::unavailable(format!("cannot read the datastore {dir}: {reason}"))
    }

    /// A network that can be used, and what is doubtful about it.
    fn usable(&self, name: &str) -> Result<(StoredNetwork, Option<String>), Unusable> {
        check_name(name).map_err(|e| Unusable::Because(e.message().to_owned()))?;
        let data = self.load(name).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Unusable::Gone,
            _ => Unusable::Because(text::io_error(&e)),
        })?;
        let list = ConfigList::parse(&data).map_err(|e| Unusable::Because(e.to_string()))?;
        let doubt = (list.name != name).then(|| {
            format!(
                "it calls itself {:?}, the name that counts is {name:?}; make it that",
                list.name
            )
        });
        Ok((
            StoredNetwork {
                name: name.to_owned(),
                data: data.to_vec(),
            },
            doubt,
        ))
    }
}

impl Store for LocalStore {
    fn get(&self, name: &str) -> Result<StoredNetwork> {
        check_name(name)?;
        match self.load(name) {
            Ok(data) => Ok(StoredNetwork {
                name: name.to_owned(),
                data: data.to_vec(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(self.unknown(name)),
            Err(e) => {
                let path = self.path(name);
                let reason = text::io_error(&e);
                Err(Error::unavailable(format!(
                    "cannot read {}: {reason}",
                    path.display()
                )))
            }
        }
    }

    fn list(&self) -> Result<NetworkListing> {
        let mut listing = NetworkListing::default();
        let mut present = Vec::new();
        for file in self.files().map_err(|e| self.broken(&e))? {
            let Some(name) = file.strip_suffix(SUFFIX) else {
                continue;
            };
            let path = self.dir.join(&file);
            match self.usable(name) {
                Ok((network, doubt)) => {
                    present.push(network.name.clone());
                    listing
                        .problems
                        .extend(doubt.map(|doubt| problem(name, &path, &doubt)));
                    listing.networks.push(network);
                }
                Err(Unusable::Gone) => {}
                Err(Unusable::Because(reason)) => {
                    listing.problems.push(problem(name, &path, &reason));
                }
            }
        }
        self.cache().retain(|name, _| present.contains(name));
        Ok(listing)
    }

    fn turn(&self) -> Result<Turn> {
        let folder = File::open(&self.dir).map_err(|e| self.broken(&e))?;
        let deadline = Instant::now() + PATIENCE;
        let locked = loop {
            match folder.try_lock() {
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(PAUSE);
                }
                locked => break locked,
            }
        };
        match locked {
            Ok(()) => Ok(Turn {
                _folder: Some(folder),
                ..Turn::default()
            }),
            Err(TryLockError::WouldBlock) => Err(Error::unavailable(format!(
                "another server has been changing the networks in {} for {} s: see what keeps it, \
                 then try again",
                self.dir.display(),
                PATIENCE.as_secs()
            ))),
            // Not every file system locks folders; changes must go on there too.
            Err(TryLockError::Error(error)) => {
                let dir = self.dir.display();
                tracing::debug!(%error, "cannot lock the datastore {dir}");
                Ok(Turn::default())
            }
        }
    }

    fn write(&self, name: &str, data: &[u8], replace: bool, _: &Turn) -> Result<bool> {
        check_name(name)?;
        match self.put(name, data, replace) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(already_there(name)),
            Err(e) => {
                let path = self.path(name);
                let reason = text::io_error(&e);
                Err(Error::unavailable(format!(
                    "cannot write {}: {reason}",
                    path.display()
                )))
            }
        }
    }

    fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let path = self.path(name);
        self.cache().remove(name);
        match fs::remove_file(&path).and_then(|()| sync_dir(&self.dir)) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(self.unknown(name)),
            Err(e) => {
                let reason = text::io_error(&e);
                Err(Error::unavailable(format!(
                    "cannot remove {}: {reason}",
                    path.display()
                )))
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        check_name(name).is_ok() && fs::symlink_metadata(self.path(name)).is_ok()
    }
}

/// Why a file is no network.
enum Unusable {
    /// It was removed meanwhile.
    Gone,
    Because(String),
}

#[async_trait]
impl NetworkSource for LocalStore {
    async fn network(&self, name: &str) -> Result<StoredNetwork> {
        self.get(name)
    }

    async fn networks(&self) -> Result<Vec<StoredNetwork>> {
        Ok(self.list()?.networks)
    }
}

impl LocalStore {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{SUFFIX}"))
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of the files that could be networks, sorted.
    fn files(&self) -> io::Result<Vec<String>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let file = entry?.file_name().to_string_lossy().into_owned();
            if file.ends_with(SUFFIX) && !file.starts_with('.') {
                files.push(file);
            }
        }
        // By name, not by file: "a-b" comes after "a", though '-' is before '.'.
        files.sort_by(|a, b| a.trim_end_matches(SUFFIX).cmp(b.trim_end_matches(SUFFIX)));
        Ok(files)
    }

    /// The bytes of a network's file, from memory when it has not changed.
    fn load(&self, name: &str) -> io::Result<Arc<[u8]>> {
        let path = self.path(name);
        let found = fs::metadata(&path)?;
        let stamp = Stamp::of(&found);
        if let Some(read) = self.cache().get(name).filter(|read| read.stamp == stamp) {
            return Ok(read.data.clone());
        }
        if !found.is_file() {
            return Err(io::Error::other("it is no plain file; move it away"));
        }
        // A pipe put there a moment ago must not hold up the daemon.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nonblocking())
            .open(&path)?;
        let stamp = Stamp::of(&file.metadata()?);
        let mut data = Vec::new();
        file.take(MAX_CONFIG_BYTES as u64 + 1)
            .read_to_end(&mut data)?;
        if data.len() > MAX_CONFIG_BYTES {
            return Err(io::Error::other(format!(
                "it is larger than {MAX_CONFIG_BYTES} bytes"
            )));
        }
        let read = Known {
            stamp,
            data: data.into(),
        };
        let data = read.data.clone();
        self.cache().insert(name.to_owned(), read);
        Ok(data)
    }

    fn put(&self, name: &str, data: &[u8], replace: bool) -> io::Result<()> {
        let path = self.path(name);
        if !replace && fs::symlink_metadata(&path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.dir.join(format!(".{name}.{number}{UNFINISHED}"));
        let result = write_durably(&unfinished, data).and_then(|()| {
            if replace {
                fs::rename(&unfinished, &path)
            } else {
                // Unlike a rename, a link never takes another's place.
                fs::hard_link(&unfinished, &path)
            }
        });
        let removed = fs::remove_file(&unfinished);
        result?;
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        self.cache().remove(name);
        sync_dir(&self.dir)
    }
}

fn write_durably(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(data)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes what a crash left half written.
fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(UNFINISHED) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn nonblocking() -> i32 {
    nix::fcntl::OFlag::O_NONBLOCK.bits()
}

fn problem(name: &str, path: &Path, reason: &str) -> Problem {
    let network = if check_name(name).is_ok() {
        name.to_owned()
    } else {
        String::new()
    };
    let message = format!("{}: {reason}", path.display());
    Problem {
        container: String::new(),
        network,
        message,
    }
}

pub(super) fn already_there(name: &str) -> Error {
    Error::already_exists(format!(
        "network {name} already exists; delete it first, or give --force to replace it"
    ))
}

/// The name that was most likely meant.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    names
        .map(|near| (strsim::damerau_levenshtein(name, near), near))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, near)| near)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use circuit_core::ErrorKind;

    use super::*;

    fn config(name: &str) -> Vec<u8> {
        format!("{{\"cniVersion\":\"1.0.0\",\n \"name\":\"{name}\",\"type\":\"bridge\"}}\n").into()
    }

    fn store() -> (tempfile::TempDir, LocalStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::in_folder(dir.path().join("new/store")).unwrap();
        (dir, store)
    }

    fn put(store: &LocalStore, name: &str, data: &[u8], replace: bool) -> Result<()> {
        let written = store.write(name, data, replace, &Turn::default());
        written.map(|written| assert!(written))
    }

    fn names(listing: &NetworkListing) -> Vec<&str> {
        listing
            .networks
            .iter()
            .map(|network| network.name.as_str())
            .collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, store) = store();
        for name in ["b", "a", "a-b"] {
            put(&store, name, &config(name), false).unwrap();
        }
        assert_eq!(store.get("a").unwrap().data, config("a"));
        let listing = store.list().unwrap();
        assert_eq!(names(&listing), ["a", "a-b", "b"]);
        assert_eq!(listing.problems, []);
        let again = LocalStore::in_folder(store.dir.clone()).unwrap();
        assert_eq!(again.list().unwrap(), listing);
    }

    #[test]
    fn only_the_owner_reads_it_and_nothing_else_is_left() {
        let (_dir, store) = store();
        put(&store, "a", &config("a"), false).unwrap();
        put(&store, "a", &config("a"), true).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.dir), 0o700);
        assert_eq!(mode(&store.path("a")), 0o600);
        assert_eq!(fs::read_dir(&store.dir).unwrap().count(), 1);
    }

    #[test]
    fn a_name_is_taken_until_it_is_removed_or_replaced() {
        let (_dir, store) = store();
        put(&store, "a", b"1", false).unwrap();
        let error = put(&store, "a", b"2", false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(store.get("a").unwrap().data, b"1");
        put(&store, "a", b"2", true).unwrap();
        assert_eq!(store.get("a").unwrap().data, b"2");
        store.remove("a").unwrap();
        assert_eq!(store.get("a").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(store.remove("a").unwrap_err().kind(), ErrorKind::NotFound);
        put(&store, "a", b"3", false).unwrap();
    }

    #[test]
    fn a_bad_file_spoils_only_itself() {
        let (_dir, store) = store();
        put(&store, "good", &config("good"), false).unwrap();
        let dir = &store.dir;
        fs::write(dir.join("broken.json"), "{").unwrap();
        fs::write(dir.join("bad name.json"), config("x")).unwrap();
        fs::write(dir.join("huge.json"), " ".repeat(MAX_CONFIG_BYTES + 1)).unwrap();
        fs::write(dir.join("other.json"), config("another")).unwrap();
        fs::create_dir(dir.join("dir.json")).unwrap();
        nix::unistd::mkfifo(&dir.join("pipe.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(dir.join(".hidden.json"), "{").unwrap();
        fs::write(dir.join("notes.txt"), "{").unwrap();
        fs::create_dir(dir.join("state")).unwrap();

        let listing = store.list().unwrap();
        assert_eq!(names(&listing), ["good", "other"]);
        let about: Vec<_> = listing
            .problems
            .iter()
            .map(|p| p.network.as_str())
            .collect();
        assert_eq!(about, ["", "broken", "dir", "huge", "other", "pipe"]);
        for problem in &listing.problems {
            assert!(
                problem.message.starts_with(&*dir.to_string_lossy()),
                "{}",
                problem.message
            );
        }
        // It can still be looked at and removed.
        assert_eq!(store.get("broken").unwrap().data, b"{");
        store.remove("broken").unwrap();
        assert!(store.get("pipe").is_err());
    }

    #[test]
    fn changes_by_hand_are_noticed() {
        let (_dir, store) = store();
        put(&store, "a", b"one", false).unwrap();
        assert_eq!(store.get("a").unwrap().data, b"one");
        fs::write(store.path("a"), "two").unwrap();
        assert_eq!(store.get("a").unwrap().data, b"two");
        fs::remove_file(store.path("a")).unwrap();
        assert!(store.get("a").is_err());
    }

    #[test]
    fn what_a_crash_left_is_removed() {
        let (_dir, store) = store();
        let left = store.dir.join(".a.0.tmp");
        fs::write(&left, "ha").unwrap();
        LocalStore::in_folder(store.dir.clone()).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn names_that_escape_are_refused_everywhere() {
        let (_dir, store) = store();
        for name in ["../a", "a/b", "", ".", "a\0"] {
            for error in [
                store.get(name).map(drop),
                put(&store, name, b"", true),
                store.remove(name),
            ] {
                assert_eq!(
                    error.unwrap_err().kind(),
                    ErrorKind::InvalidArgument,
                    "{name:?}"
                );
            }
            assert!(!store.has(name));
        }
    }

    #[test]
    fn the_nearest_name_is_offered() {
        let (_dir, store) = store();
        let message = |name: &str| store.get(name).unwrap_err().message().to_owned();
        assert!(message("ctr0").contains("there is none yet"));
        for name in ["ctr0", "production"] {
            put(&store, name, b"", false).unwrap();
        }
        assert_eq!(
            message("crt0"),
            "network crt0 does not exist; did you mean ctr0?"
        );
        assert!(message("prodution").ends_with("did you mean production?"));
        assert!(message("zzz").contains("circuit network ls"));
    }
}
