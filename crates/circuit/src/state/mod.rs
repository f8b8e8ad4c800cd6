//! What is remembered about containers, on disk: one journal a containerd
//! namespace, in which the last line about a container counts.

mod journal;
mod line;

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use circuit_core::{Error, Result, attachment::ContainerRecord};

use crate::files::is_full;
use journal::Journal;
pub(crate) use journal::Ticket;

/// The records of one containerd namespace.
#[derive(Clone)]
pub struct State {
    journal: Arc<Journal>,
    path: PathBuf,
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The records, by container.
    pub records: BTreeMap<String, Arc<ContainerRecord>>,
    /// What could not be read, in words; the file that has it is kept.
    pub damage: Vec<String>,
    /// Where the journal's lines end; zero when there is none.
    end: u64,
}

impl State {
    /// Reads, or makes, the journal of `namespace` in the folder `root`. It
    /// must not be open twice.
    ///
    /// # Errors
    /// When it cannot be read or made, or is of a newer Circuit. A damaged
    /// line is no error.
    pub fn open(root: &Path, namespace: &str) -> Result<(Self, Loaded)> {
        let path = root.join(journal_of(namespace));
        let refused = |error: &dyn std::fmt::Display| {
            Error::precondition(format!(
                "cannot use the journal {}: {error}: mend it, or give another folder with \
                 --state-dir",
                path.display()
            ))
        };
        make_private(root).map_err(|e| refused(&e))?;
        let loaded = load(&path).map_err(|e| refused(&e))?;
        let records: HashMap<_, _> = loaded.records.clone().into_iter().collect();
        let journal = match Journal::create(path.clone(), records.clone()) {
            // There may be room left that was set aside.
            Err(error) if is_full(&error) && loaded.end > 0 => {
                tracing::error!(
                    "{error}: going on in the journal {} as it is, for as long as its room lasts",
                    path.display()
                );
                Journal::resume(path.clone(), records, loaded.end)
            }
            made => made,
        };
        let journal = journal.map_err(|e| refused(&e))?;
        Ok((Self { journal, path }, loaded))
    }

    /// Writes a container's record, an empty one to forget it. When this
    /// returns it survives the end of this process.
    ///
    /// # Errors
    /// When the disk refuses; the former record then still holds.
    pub(crate) fn put(&self, record: Arc<ContainerRecord>) -> Result<Ticket> {
        self.journal.put(record).map_err(|e| self.failed(&e))
    }

    /// Waits until what was written survives the end of the machine too.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn durable(&self, ticket: Ticket) -> Result<()> {
        self.journal
            .durable(ticket)
            .await
            .map_err(|e| self.failed(&e))
    }

    /// Ends the use of the journal.
    pub(crate) fn end(&self) {
        self.journal.end();
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Error {
        Error::internal(format!(
            "cannot write the journal {}: {error}",
            self.path.display()
        ))
    }
}

/// The name of a namespace's journal. That of the pools is beside it; no name of a
/// namespace ends with a hyphen.
fn journal_of(namespace: &str) -> String {
    match namespace {
        "ipam" => "ipam-.journal".to_owned(),
        other => format!("{other}.journal"),
    }
}

fn load(path: &Path) -> io::Result<Loaded> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
        Err(error) => return Err(error),
    };
    if !bytes.starts_with(line::HEADER.as_bytes()) {
        return Err(io::Error::other(
            "it is not a journal of this version of circuit",
        ));
    }
    let parsed = line::parse(&bytes);
    let mut loaded = Loaded {
        end: parsed.end,
        ..Loaded::default()
    };
    for record in parsed.records {
        if record.is_empty() {
            loaded.records.remove(&record.container);
        } else {
            loaded
                .records
                .insert(record.container.clone(), Arc::new(record));
        }
    }
    if !parsed.damaged.is_empty() {
        let kept = keep_aside(path)?;
        loaded.damage = parsed
            .damaged
            .iter()
            .map(|(number, reason)| format!("line {number} of {}: {reason}", kept.display()))
            .collect();
    }
    Ok(loaded)
}

/// Keeps a damaged journal for people, under a name that is free.
fn keep_aside(path: &Path) -> io::Result<PathBuf> {
    let mut number = 0;
    loop {
        let kept = path.with_extension(format!("damaged.{number}"));
        if !kept.try_exists()? {
            fs::copy(path, &kept)?;
            return Ok(kept);
        }
        number += 1;
    }
}

/// Makes a folder that only root can look into. Those that it is in may have files for
/// others too.
pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    dir.parent().map_or(Ok(()), make_open)?;
    make_folder(dir, 0o700)
}

/// Makes a folder whose files have modes of their own.
pub(crate) fn make_open(dir: &Path) -> io::Result<()> {
    make_folder(dir, 0o755)
}

fn make_folder(dir: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(mode).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_private_folder_is_in_stays_open_to_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (run, private) = (dir.path().join("run"), dir.path().join("run/pins"));
        make_private(&private).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&run), mode(&private)), (0o755, 0o700));
    }

    fn record(container: &str, networks: usize) -> Arc<ContainerRecord> {
        let mut record = ContainerRecord::new(container);
        record.requested = (0..networks)
            .map(|n| circuit_core::request::Requested::named(format!("network-{n}")))
            .collect();
        Arc::new(record)
    }

    fn reopen(root: &Path) -> BTreeMap<String, Arc<ContainerRecord>> {
        let (state, loaded) = State::open(root, "ns").unwrap();
        state.end();
        assert!(loaded.damage.is_empty(), "{:?}", loaded.damage);
        loaded.records
    }

    #[tokio::test]
    async fn the_last_word_counts_and_an_empty_one_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let (state, loaded) = State::open(dir.path(), "ns").unwrap();
        assert!(loaded.records.is_empty());
        state.put(record("a", 1)).unwrap();
        state.put(record("b", 1)).unwrap();
        state.put(record("a", 2)).unwrap();
        let last = state.put(record("b", 0)).unwrap();
        state.durable(last).await.unwrap();
        let records = reopen(dir.path());
        assert_eq!(records.len(), 1);
        assert_eq!(records["a"], record("a", 2));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn it_is_rewritten_while_many_write() {
        let dir = tempfile::tempdir().unwrap();
        let (state, _) = State::open(dir.path(), "ns").unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let state = state.clone();
            writers.spawn(async move {
                for round in 1..=60 {
                    let name = format!("c{writer}-{}", round % 5);
                    let ticket = state.put(record(&name, round * 10)).unwrap();
                    if round % 7 == 0 {
                        state.durable(ticket).await.unwrap();
                    }
                }
                let ticket = state.put(record(&format!("c{writer}-0"), 0)).unwrap();
                state.durable(ticket).await.unwrap();
            });
        }
        writers.join_all().await;
        let path = dir.path().join("ns.journal");
        assert!(
            path.metadata().unwrap().len() < 4 << 20,
            "it grows for ever"
        );
        let records = reopen(dir.path());
        assert_eq!(records.len(), 8 * 4);
        for writer in 0..8 {
            for (name, round) in [(1, 56), (2, 57), (3, 58), (4, 59)] {
                let name = format!("c{writer}-{name}");
                assert_eq!(records[&name], record(&name, round * 10));
            }
        }
    }

    #[tokio::test]
    async fn what_was_not_synced_survives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let (state, _) = State::open(dir.path(), "ns").unwrap();
        state.put(record("a", 3)).unwrap();
        // As a process that is killed leaves it: nobody waits, nothing is closed.
        assert_eq!(reopen(dir.path())["a"], record("a", 3));
    }

    #[tokio::test]
    async fn a_damaged_journal_is_kept_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let (state, _) = State::open(dir.path(), "ns").unwrap();
        for name in ["a", "b"] {
            let ticket = state.put(record(name, 1)).unwrap();
            state.durable(ticket).await.unwrap();
        }
        let path = dir.path().join("ns.journal");
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(3).position(|w| w == b"\"a\"").unwrap();
        bytes[at + 1] = b'x';
        fs::write(&path, &bytes).unwrap();
        let (_, loaded) = State::open(dir.path(), "ns").unwrap();
        assert_eq!(loaded.records.len(), 1);
        assert!(loaded.damage[0].contains("ns.damaged.0"), "{loaded:?}");
        assert_eq!(fs::read(dir.path().join("ns.damaged.0")).unwrap(), bytes);
    }

    #[test]
    fn a_foreign_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ns.journal");
        fs::write(&path, "circuit-journal 2\n").unwrap();
        let error = State::open(dir.path(), "ns").err().unwrap();
        assert!(error.message().contains("this version"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"circuit-journal 2\n");
    }
}
