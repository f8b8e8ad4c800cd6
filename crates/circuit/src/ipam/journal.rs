//! What a node holds, on disk: one file of changes.
//!
//! A line survives the end of this process as soon as it is written. Lines that
//! give something up are also synced before they take effect. The others need
//! not be: what a loss of power takes from them are addresses of containers
//! that it has ended, and ones that the ledger still counts as this node's.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use circuit_core::ipam::{Agent, Entry, Moved};
use serde::{Deserialize, Serialize};

/// Its name in the state folder.
pub(super) const FILE: &str = "ipam.journal";

const HEADER: &str = "circuit-ipam 1\n";

/// A file that has grown by this much is written anew.
const GROWN: u64 = 1 << 20;

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line {
    /// A change of what is held of a pool.
    Change {
        pool: String,
        #[serde(flatten)]
        entry: Entry,
    },
    /// The ledger's epoch and count.
    Known { epoch: String, count: u64 },
    /// When the ledger last confirmed what is held, by the clock of a boot; written in
    /// this place, and no word for a copy.
    Confirmed { boot: String, at: u64 },
    /// The node came from another place: until when what is held is doubted, by the clock
    /// of a boot as above, and what was in stock. Without a boot the ledger has not answered
    /// there yet.
    Moved {
        boot: Option<String>,
        until: u64,
        stock: Vec<(String, IpAddr)>,
    },
}

/// The file.
pub(super) struct Journal {
    path: PathBuf,
    file: Mutex<Open>,
}

struct Open {
    file: Arc<File>,
    written: u64,
    base: u64,
}

/// What a start finds.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) lines: Vec<Line>,
    /// How many lines cannot be read although they were written to their end.
    pub(super) damaged: usize,
    /// Where the last whole line ends; zero when there is no journal.
    end: u64,
}

/// Reads a journal; one that is not there is empty.
pub(super) fn load(path: &Path) -> io::Result<Loaded> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
        Err(error) => return Err(error),
    };
    if !text.starts_with(HEADER.as_bytes()) {
        return Err(io::Error::other("it is of another version of circuit"));
    }
    let whole = text.iter().rposition(|byte| *byte == b'\n');
    let mut loaded = Loaded {
        end: whole.map_or(0, |at| at as u64 + 1),
        ..Loaded::default()
    };
    for line in text[HEADER.len()..].split_inclusive(|byte| *byte == b'\n') {
        let ended = line.strip_suffix(b"\n");
        if ended == Some(b"") {
            continue;
        }
        match decode(ended.unwrap_or(line)) {
            Some(line) => loaded.lines.push(line),
            None if ended.is_some() => loaded.damaged += 1,
            // What a crash cut short.
            None => {}
        }
    }
    Ok(loaded)
}

fn decode(line: &[u8]) -> Option<Line> {
    let (sum, json) = line.split_at_checked(9)?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?.trim_end(), 16).ok()?;
    (sum == crc32fast::hash(json))
        .then(|| serde_json::from_slice(json).ok())
        .flatten()
}

fn encode(lines: &[Line]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in lines {
        let json = serde_json::to_vec(line)?;
        write!(bytes, "{:08x} ", crc32fast::hash(&json))?;
        bytes.extend(json);
        bytes.push(b'\n');
    }
    Ok(bytes)
}

impl Journal {
    /// Writes a journal of these lines in the place of the one that is there.
    pub(super) fn create(path: &Path, lines: &[Line]) -> io::Result<Self> {
        let open = write_whole(path, lines)?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(open),
        })
    }

    /// Goes on in the journal that was loaded: for a disk without room for another.
    pub(super) fn resume(path: &Path, loaded: &Loaded) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).open(path)?;
        file.set_len(loaded.end)?;
        let open = Open {
            file: Arc::new(file),
            written: loaded.end,
            base: loaded.end,
        };
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(open),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends lines.
    pub(super) fn append(&self, lines: &[Line]) -> io::Result<()> {
        let bytes = encode(lines)?;
        let mut open = self.open();
        let mut file: &File = &open.file;
        if let Err(error) = file.write_all(&bytes) {
            // A torn line would spoil the next one.
            file.set_len(open.written)?;
            return Err(error);
        }
        open.written += bytes.len() as u64;
        Ok(())
    }

    /// Waits until everything is on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        let file = Arc::clone(&self.open().file);
        file.sync_data()
    }

    /// Whether it has outgrown what it says.
    pub(super) fn has_grown(&self) -> bool {
        let open = self.open();
        open.written > open.base.saturating_mul(2).saturating_add(GROWN)
    }

    /// Writes it anew. Nobody may append meanwhile.
    pub(super) fn rewrite(&self, lines: &[Line]) -> io::Result<()> {
        let new = write_whole(&self.path, lines)?;
        *self.open() = new;
        Ok(())
    }
}

/// Takes up what is written.
pub(super) fn take_up(agent: &mut Agent, lines: &[Line], place: &str) {
    let mut moved = Moved::default();
    for line in lines {
        match line {
            Line::Change { pool, entry } => agent.apply(pool, entry),
            Line::Known { epoch, count } => {
                if agent.hello.epoch != *epoch {
                    agent.set_confirmed(None);
                }
                agent.hello.epoch.clone_from(epoch);
                agent.hello.count = *count;
            }
            // After a reboot nobody knows how long it took.
            Line::Confirmed { boot, at } if boot == place => {
                agent.set_confirmed(Some(*at));
                moved.unheard = false;
            }
            Line::Confirmed { .. } => moved.unheard = true,
            Line::Moved { boot, until, stock } => {
                let here = boot.as_deref() == Some(place);
                moved = Moved {
                    unheard: !here,
                    until: if here { *until } else { 0 },
                    stock: stock.clone(),
                };
            }
        }
    }
    agent.set_moved(moved);
}

/// All that is to be written of it.
pub(super) fn whole(agent: &Agent, place: &str) -> Vec<Line> {
    let mut lines = known(agent, place);
    for (name, pool) in agent.pools() {
        let entries = pool.holding.entries().into_iter();
        lines.extend(entries.map(|entry| Line::Change {
            pool: name.clone(),
            entry,
        }));
    }
    lines
}

/// What is known of the ledger, and of this node's place.
pub(super) fn known(agent: &Agent, place: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    if !agent.hello.epoch.is_empty() {
        lines.push(Line::Known {
            epoch: agent.hello.epoch.clone(),
            count: agent.hello.count,
        });
    }
    if let Some(at) = agent.confirmed() {
        lines.push(Line::Confirmed {
            boot: place.to_owned(),
            at,
        });
    }
    let moved = agent.moved();
    if *moved != Moved::default() {
        lines.push(Line::Moved {
            boot: (!moved.unheard).then(|| place.to_owned()),
            until: moved.until,
            stock: moved.stock.clone(),
        });
    }
    lines
}

fn write_whole(path: &Path, lines: &[Line]) -> io::Result<Open> {
    let temporary = path.with_extension("tmp");
    let mut bytes = HEADER.as_bytes().to_vec();
    bytes.extend(encode(lines)?);
    let written = write_synced(&temporary, &bytes);
    if written.is_err() {
        // What is left of it would take up room.
        let _ = fs::remove_file(&temporary);
    }
    let file = written?;
    fs::rename(&temporary, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(Open {
        file: Arc::new(file),
        written: bytes.len() as u64,
        base: bytes.len() as u64,
    })
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn change(last: u8) -> Line {
        Line::Change {
            pool: "lan".into(),
            entry: Entry::Free {
                address: [10, 0, 0, last].into(),
            },
        }
    }

    #[test]
    fn lines_are_read_back_and_a_torn_one_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipam.journal");
        assert!(load(&path).unwrap().lines.is_empty());
        let journal = Journal::create(&path, &[change(1)]).unwrap();
        let known = Line::Known {
            epoch: "e".into(),
            count: 7,
        };
        journal.append(&[change(2), known.clone()]).unwrap();
        journal.sync().unwrap();
        assert_eq!(load(&path).unwrap().lines, [change(1), change(2), known]);
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() - 4]).unwrap();
        let loaded = load(&path).unwrap();
        assert_eq!(loaded.lines, [change(1), change(2)]);
        assert_eq!(loaded.damaged, 0);
        let mut broken = text.clone();
        broken[HEADER.len() + 12] ^= 1;
        fs::write(&path, &broken).unwrap();
        assert_eq!(load(&path).unwrap().damaged, 1);
        journal.rewrite(&[change(9)]).unwrap();
        assert_eq!(load(&path).unwrap().lines, [change(9)]);
        assert!(!journal.has_grown());
        fs::write(&path, "something else\n").unwrap();
        assert!(load(&path).is_err());
    }

    #[test]
    fn one_that_is_there_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipam.journal");
        Journal::create(&path, &[change(1)]).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"00000000 {\"torn"].concat()).unwrap();
        let journal = Journal::resume(&path, &load(&path).unwrap()).unwrap();
        journal.append(&[change(2)]).unwrap();
        let loaded = load(&path).unwrap();
        assert_eq!(loaded.lines, [change(1), change(2)]);
        assert_eq!(loaded.damaged, 0);
        assert!(!journal.has_grown());
    }
}
