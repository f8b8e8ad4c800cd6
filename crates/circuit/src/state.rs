//! What is remembered about containers, on disk: one JSON file a container,
//! replaced whole and durably, so that a crash leaves the old or the new.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use circuit_core::{Error, Result, attachment::ContainerRecord};

/// The folder of container records of one containerd namespace.
#[derive(Debug, Clone)]
pub struct StateDir {
    dir: PathBuf,
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The records, by container.
    pub records: BTreeMap<String, ContainerRecord>,
    /// Files that could not be read, with the reason; they are kept.
    pub unreadable: Vec<(PathBuf, String)>,
}

impl StateDir {
    /// Opens, and makes if need be, the records of `namespace` under `root`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(root: &Path, namespace: &str) -> Result<Self> {
        let dir = root.join("containers").join(namespace);
        make_private(&dir).map_err(|error| {
            Error::precondition(format!(
                "cannot make the state folder {}: {error}: give another with --state-dir",
                dir.display()
            ))
        })?;
        Ok(Self { dir })
    }

    /// Reads every record.
    ///
    /// # Errors
    /// When the folder cannot be read; a single bad file is no error.
    pub fn load(&self) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        let entries = fs::read_dir(&self.dir).map_err(|error| self.failed("read", &error))?;
        for entry in entries {
            let path = entry.map_err(|error| self.failed("read", &error))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name.ends_with(".tmp") {
                // Left by a crash before the rename: it never counted.
                let _ = fs::remove_file(&path);
                continue;
            }
            let Some(container) = name.strip_suffix(".json") else {
                continue;
            };
            match read(&path) {
                Ok(record) if record.container == container => {
                    loaded.records.insert(container.to_owned(), record);
                }
                Ok(record) => loaded.unreadable.push((
                    path.clone(),
                    format!("it speaks of container {}", record.container),
                )),
                Err(error) => loaded.unreadable.push((path, error.to_string())),
            }
        }
        Ok(loaded)
    }

    /// Replaces a container's record; when this returns, it survives a crash.
    /// An empty record is removed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, record: &ContainerRecord) -> Result<()> {
        if record.is_empty() {
            return self.remove(&record.container);
        }
        self.write(record)
            .map_err(|error| self.failed("write", &error))
    }

    fn write(&self, record: &ContainerRecord) -> io::Result<()> {
        let path = self.path(&record.container);
        let temporary = path.with_extension("json.tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        self.sync()
    }

    fn remove(&self, container: &str) -> Result<()> {
        match fs::remove_file(self.path(container)) {
            Ok(()) => self.sync().map_err(|error| self.failed("write", &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.failed("write", &error)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Containerd's ids are letters, digits and `._-`, so they are file names.
    fn path(&self, container: &str) -> PathBuf {
        self.dir.join(format!("{container}.json"))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        Error::internal(format!(
            "cannot {what} the state folder {}: {error}",
            self.dir.display()
        ))
    }
}

fn read(path: &Path) -> anyhow::Result<ContainerRecord> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Makes a folder that only root can look into.
pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}
