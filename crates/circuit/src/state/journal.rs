//! The file behind the records: an append-only journal, synced by one thread
//! for everybody who waits, and rewritten when it has grown.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use circuit_core::{Error, attachment::ContainerRecord};
use tokio::sync::watch;

use super::line::{HEADER, encode};
use crate::logging::DependencyLog;

/// Zeros are written ahead in pieces of this size: syncing what is written over
/// them takes a third of the time that a growing file takes.
const PIECE: u64 = 1 << 20;

/// After a sync the thread looks by itself for what is written within this time: most
/// often a result, which follows its intent and need not wake anybody.
const LINGER: Duration = Duration::from_millis(2);

/// A disk that refuses is tried again after this time.
const AGAIN: Duration = Duration::from_millis(500);

/// Where something stands in the order of everything that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Ticket(u64);

/// How far the disk has everything.
#[derive(Debug, Clone, Default)]
struct Synced {
    through: Ticket,
    /// What went wrong with what came after, up to the given ticket.
    failed: Option<(Ticket, String)>,
    ended: bool,
}

pub(super) struct Journal {
    path: PathBuf,
    log: Mutex<Log>,
    more: Condvar,
    synced: watch::Sender<Synced>,
}

struct Log {
    file: Arc<File>,
    /// Where the next line goes.
    position: u64,
    /// Up to where zeros are written.
    capacity: u64,
    written: Ticket,
    live: HashMap<String, Arc<ContainerRecord>>,
    /// Lines written since a rewrite began, which it must have too.
    since: Option<Vec<u8>>,
    /// The thread that syncs has nothing to do until it is woken.
    asleep: bool,
    ended: bool,
}

impl Journal {
    /// Makes a journal of these records at `path`, in the place of the one that
    /// is there, and starts the thread that syncs it.
    pub(super) fn create(
        path: PathBuf,
        records: HashMap<String, Arc<ContainerRecord>>,
    ) -> io::Result<Arc<Self>> {
        let (file, position, capacity) = write_whole(&path, records.values())?;
        fs::rename(temporary(&path), &path)?;
        sync_folder(&path)?;
        Self::start(path, records, (file, position, capacity))
    }

    /// Goes on in the journal that is there, whose lines end at `position`: for a
    /// disk without room for another.
    pub(super) fn resume(
        path: PathBuf,
        records: HashMap<String, Arc<ContainerRecord>>,
        position: u64,
    ) -> io::Result<Arc<Self>> {
        let file = OpenOptions::new().write(true).open(&path)?;
        let capacity = file.metadata()?.len();
        Self::start(path, records, (file, position, capacity))
    }

    fn start(
        path: PathBuf,
        records: HashMap<String, Arc<ContainerRecord>>,
        (file, position, capacity): (File, u64, u64),
    ) -> io::Result<Arc<Self>> {
        let log = Log {
            file: Arc::new(file),
            position,
            capacity,
            written: Ticket::default(),
            live: records,
            since: None,
            asleep: false,
            ended: false,
        };
        let journal = Arc::new(Self {
            path,
            log: Mutex::new(log),
            more: Condvar::new(),
            synced: watch::Sender::default(),
        });
        let syncing = Arc::clone(&journal);
        std::thread::Builder::new()
            .name("state-sync".to_owned())
            .spawn(move || syncing.sync_on())?;
        Ok(journal)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record. When this returns it survives the end of this process,
    /// however that comes; [`durable`](Self::durable) says when it survives the
    /// end of the machine.
    pub(super) fn put(&self, record: Arc<ContainerRecord>) -> io::Result<Ticket> {
        let line = encode(&record)?;
        let mut log = self.log();
        // A failure leaves a torn line, which the next one is written over.
        log.file.write_all_at(&line, log.position)?;
        log.position += line.len() as u64;
        if let Some(since) = &mut log.since {
            since.extend(&line);
        }
        if record.is_empty() {
            log.live.remove(&record.container);
        } else {
            log.live.insert(record.container.clone(), record);
        }
        log.written.0 += 1;
        let (ticket, asleep) = (log.written, log.asleep);
        drop(log);
        if asleep {
            self.more.notify_one();
        }
        Ok(ticket)
    }

    /// Waits until a record is on disk.
    pub(super) async fn durable(&self, ticket: Ticket) -> Result<(), String> {
        let mut synced = self.synced.subscribe();
        if synced.borrow().through < ticket {
            self.more.notify_one();
        }
        let known = synced
            .wait_for(|synced| {
                let failed = synced.failed.as_ref().is_some_and(|(to, _)| *to >= ticket);
                synced.through >= ticket || failed || synced.ended
            })
            .await
            .map_err(|_| "the journal is closed".to_owned())?;
        if known.through >= ticket {
            return Ok(());
        }
        match &known.failed {
            Some((to, reason)) if *to >= ticket => Err(reason.clone()),
            _ => Err("the journal is closed".to_owned()),
        }
    }

    /// Has the thread end once everything is on disk.
    pub(super) fn end(&self) {
        self.log().ended = true;
        self.more.notify_one();
    }

    /// Waits until something is to be synced, or the end.
    fn more_to_sync(&self) -> MutexGuard<'_, Log> {
        let mut log = self.log();
        while log.written == self.synced.borrow().through && !log.ended {
            if log.asleep {
                log = self.more.wait(log).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (after, waited) = self
                .more
                .wait_timeout(log, LINGER)
                .unwrap_or_else(PoisonError::into_inner);
            log = after;
            log.asleep = waited.timed_out();
        }
        log.asleep = false;
        log
    }

    /// What the thread does: syncs for everybody who has written meanwhile,
    /// and rewrites the journal when it has outgrown its zeros.
    fn sync_on(&self) {
        let outage = DependencyLog::new("the journal");
        loop {
            let (file, to, grown) = {
                let log = self.more_to_sync();
                if log.written == self.synced.borrow().through {
                    break;
                }
                (
                    Arc::clone(&log.file),
                    log.written,
                    log.position >= log.capacity,
                )
            };
            let (to, synced) = if grown {
                self.rewrite()
            } else {
                (to, file.sync_data())
            };
            self.tell(to, synced, &outage);
        }
        self.synced.send_modify(|synced| synced.ended = true);
    }

    fn tell(&self, to: Ticket, result: io::Result<()>, outage: &DependencyLog) {
        match result {
            Ok(()) => {
                outage.recovered();
                self.synced.send_modify(|synced| {
                    synced.through = to;
                    synced.failed = None;
                });
            }
            Err(error) => {
                outage.failed(&Error::internal(format!(
                    "cannot sync {}: {error}",
                    self.path.display()
                )));
                self.synced
                    .send_modify(|synced| synced.failed = Some((to, error.to_string())));
                // What the kernel did not get onto the disk it calls clean from
                // now on: only writing everything anew can be believed.
                self.log().capacity = 0;
                std::thread::sleep(AGAIN);
            }
        }
    }

    /// Writes what counts into a new file beside, puts it in the place of the
    /// old one, and syncs. Writers are kept waiting only for the exchange.
    fn rewrite(&self) -> (Ticket, io::Result<()>) {
        let (records, to) = {
            let mut log = self.log();
            log.since = Some(Vec::new());
            let records: Vec<_> = log.live.values().cloned().collect();
            (records, log.written)
        };
        let written = write_whole(&self.path, records.iter());
        let mut log = self.log();
        let since = log.since.take().unwrap_or_default();
        let exchanged = written.and_then(|(file, position, capacity)| {
            file.write_all_at(&since, position)?;
            fs::rename(temporary(&self.path), &self.path)?;
            Ok((Arc::new(file), position + since.len() as u64, capacity))
        });
        match exchanged {
            Ok((file, position, capacity)) => {
                (log.position, log.capacity) = (position, capacity);
                log.file = Arc::clone(&file);
                let to = log.written;
                drop(log);
                (to, file.sync_data().and_then(|()| sync_folder(&self.path)))
            }
            Err(error) => {
                // The old journal goes on, and is rewritten when it has doubled.
                let file = Arc::clone(&log.file);
                log.capacity = (log.position * 2).max(PIECE);
                drop(log);
                tracing::warn!(%error, "cannot rewrite the journal {}", self.path.display());
                (to, file.sync_all())
            }
        }
    }
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

/// Writes a journal beside `path`, synced, with zeros ahead; returns where its
/// lines and its zeros end. When that fails, nothing of it takes up room.
fn write_whole<'a>(
    path: &Path,
    records: impl Iterator<Item = &'a Arc<ContainerRecord>>,
) -> io::Result<(File, u64, u64)> {
    let mut bytes = HEADER.as_bytes().to_vec();
    for record in records {
        bytes.extend(encode(record)?);
    }
    let position = bytes.len() as u64;
    let capacity = (position * 3).next_multiple_of(PIECE);
    bytes.resize(usize::try_from(capacity).unwrap_or(bytes.len()), 0);
    let written = write_synced(&temporary(path), &bytes);
    if written.is_err() {
        let _ = fs::remove_file(temporary(path));
    }
    Ok((written?, position, capacity))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_synced_though_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path().join("ns.journal"), HashMap::new()).unwrap();
        let mut synced = journal.synced.subscribe();
        // At once, while the thread looks by itself, and when it has to be woken.
        for pause in [Duration::ZERO, LINGER / 2, LINGER * 20] {
            tokio::time::sleep(pause).await;
            let ticket = journal.put(Arc::new(ContainerRecord::new("a"))).unwrap();
            let through = synced.wait_for(|synced| synced.through >= ticket);
            tokio::time::timeout(Duration::from_secs(10), through)
                .await
                .unwrap_or_else(|_| panic!("not synced, written after {pause:?}"))
                .unwrap();
        }
        journal.end();
    }
}
