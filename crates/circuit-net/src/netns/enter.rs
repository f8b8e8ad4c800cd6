//! Doing something inside a network namespace.
//!
//! A thread made for the purpose enters the namespace and ends with the work, or
//! one of the [`Workers`](super::Workers) enters and comes back. No thread that
//! serves anything else ever changes its namespace, so nothing that goes wrong
//! can leave one in the wrong place.

use std::any::Any;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;

use circuit_core::{Error, Result};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::oneshot;

const THREAD_NAME: &str = "netns";

/// A namespace, by its path and, where it is open already, by its file.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(super) path: &'a Path,
    file: Option<&'a File>,
}

impl<'a> Place<'a> {
    /// The namespace at a path.
    pub(crate) fn at(path: &'a Path) -> Self {
        Self { path, file: None }
    }

    /// A namespace that is open; the path is for error texts.
    pub(crate) fn open(file: &'a File, path: &'a Path) -> Self {
        let file = Some(file);
        Self { path, file }
    }
}

/// Runs `f` inside the namespace at `path`, and waits for it.
///
/// # Errors
/// What `f` returns; an error too when the namespace cannot be entered or `f`
/// panics.
pub fn in_netns<T, F>(path: impl AsRef<Path>, f: F) -> Result<T>
where
    T: Send,
    F: FnOnce() -> Result<T> + Send,
{
    in_place(Place::at(path.as_ref()), f)
}

/// As [`in_netns`], for a namespace that may be open already.
pub(crate) fn in_place<T, F>(place: Place<'_>, f: F) -> Result<T>
where
    T: Send,
    F: FnOnce() -> Result<T> + Send,
{
    match super::workers::visit(place, f) {
        Ok(done) => done,
        Err(f) => on_own_thread(place.path, || guarded(place.path, || enter(place), f)),
    }
}

/// Runs `f` inside a new namespace, which ends with it unless `f` keeps it,
/// and waits for it; `path` is where it is to be, for error texts.
pub(super) fn in_new_netns<T, F>(path: &Path, f: F) -> Result<T>
where
    T: Send,
    F: FnOnce() -> Result<T> + Send,
{
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| {
            Error::unavailable(format!(
                "cannot make network namespace {}: {e}, try again",
                path.display()
            ))
        })
    };
    on_own_thread(path, || guarded(path, make, f))
}

fn on_own_thread<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn_scoped(scope, work)
            .map_err(|e| no_thread(path, &e))?;
        worker
            .join()
            .unwrap_or_else(|payload| Err(panicked(path, payload.as_ref())))
    })
}

/// Runs `f` inside the namespace at `path` without keeping the runtime from
/// anything else. When the future is dropped, `f` still runs to its end.
///
/// # Errors
/// As [`in_netns`].
pub async fn in_netns_async<T, F>(path: impl Into<PathBuf>, f: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let path = path.into();
    let (answer, answered) = oneshot::channel();
    let entered = path.clone();
    thread::Builder::new()
        .name(THREAD_NAME.to_owned())
        .spawn(move || {
            // Nobody may be waiting any more.
            let _ = answer.send(guarded(&entered, || enter(Place::at(&entered)), f));
        })
        .map_err(|e| no_thread(&path, &e))?;
    answered.await.unwrap_or_else(|_| {
        Err(Error::internal(format!(
            "work in network namespace {} was lost",
            path.display()
        )))
    })
}

/// Moves the calling thread for good, and runs `f`.
fn guarded<T>(
    path: &Path,
    moved: impl FnOnce() -> Result<()>,
    f: impl FnOnce() -> Result<T>,
) -> Result<T> {
    // The closure is consumed and its thread ends: nobody sees what a panic
    // may have left half done in it.
    catch_unwind(AssertUnwindSafe(|| {
        moved()?;
        f()
    }))
    .unwrap_or_else(|payload| Err(panicked(path, payload.as_ref())))
}

pub(super) fn enter(place: Place<'_>) -> Result<()> {
    let entered = match place.file {
        Some(file) => setns(file, CloneFlags::CLONE_NEWNET),
        None => setns(super::open(place.path)?, CloneFlags::CLONE_NEWNET),
    };
    entered.map_err(|e| {
        Error::precondition(format!(
            "cannot enter network namespace {}: {e}",
            place.path.display()
        ))
    })
}

fn no_thread(path: &Path, error: &std::io::Error) -> Error {
    Error::unavailable(format!(
        "cannot start a thread for network namespace {}: {error}",
        path.display()
    ))
}

fn panicked(path: &Path, payload: &(dyn Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given");
    Error::internal(format!(
        "work in network namespace {} panicked: {text}",
        path.display()
    ))
}
