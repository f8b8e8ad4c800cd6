//! Threads for work that goes into namespaces and comes back.
//!
//! They serve nothing else: no thread of an async runtime is among them. One
//! that cannot come back ends, and another takes its place.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use circuit_core::{Error, Result};
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::enter::{Place, enter};

/// A thread without work ends after this time.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    /// The namespace to which a worker comes back; `None` on other threads.
    static HOME: RefCell<Option<Arc<File>>> = const { RefCell::new(None) };
}

/// Threads that may enter namespaces, as many as there is work at a time. Their
/// home is the namespace of the thread that gave the work.
#[derive(Clone, Default)]
pub struct Workers {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads there are, and those of them that wait for work.
    threads: usize,
    idle: usize,
    /// Those that have answered and are about to look for more.
    coming: usize,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Workers")
    }
}

impl Workers {
    /// Has a worker do something, and waits for it without keeping the runtime
    /// from anything else. It goes on to its end when nobody waits any more.
    ///
    /// # Errors
    /// When there is no thread for it, or the work panics.
    pub async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.give(Box::new(move || {
            let done = f();
            // Before the answer: the next piece of work may follow from it.
            shared.lock().coming += 1;
            // Nobody may be waiting any more.
            let _ = answer.send(done);
        }))?;
        answered
            .await
            .map_err(|_| Error::internal("work in a network namespace hit a defect"))
    }

    fn give(&self, job: Job) -> Result<()> {
        let mut queue = self.shared.lock();
        queue.jobs.push_back(job);
        if queue.jobs.len() <= queue.coming {
            // Waking another would cost more than the rest of its way.
            return Ok(());
        }
        if queue.jobs.len() <= queue.coming + queue.idle {
            drop(queue);
            self.shared.more.notify_one();
            return Ok(());
        }
        queue.threads += 1;
        drop(queue);
        let shared = Arc::clone(&self.shared);
        let spawned = thread::Builder::new()
            .name("netns-worker".to_owned())
            .spawn(move || shared.work());
        let Err(error) = spawned else { return Ok(()) };
        let mut queue = self.shared.lock();
        queue.threads -= 1;
        if queue.threads > 0 {
            // Whoever is at work takes it next.
            return Ok(());
        }
        queue.jobs.clear();
        Err(Error::unavailable(format!(
            "cannot start a thread for network namespaces: {error}"
        )))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let_this_thread_visit();
        let mut next = self.next(self.lock());
        while let Some(job) = next {
            // What a panic may have left half done is the job's own; where the
            // thread is then, nobody knows.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                break;
            }
            let mut queue = self.lock();
            queue.coming -= 1;
            next = self.next(queue);
        }
        self.lock().threads -= 1;
    }

    fn next(&self, mut queue: MutexGuard<'_, Queue>) -> Option<Job> {
        if let Some(job) = queue.jobs.pop_front() {
            return Some(job);
        }
        queue.idle += 1;
        let empty = |queue: &mut Queue| queue.jobs.is_empty();
        let (mut queue, _) = self
            .more
            .wait_timeout_while(queue, IDLE, empty)
            .unwrap_or_else(PoisonError::into_inner);
        queue.idle -= 1;
        queue.jobs.pop_front()
    }
}

/// Lets the calling thread go into namespaces by itself, as a worker does: for
/// a thread that serves one operation and then ends with its process.
pub(crate) fn let_this_thread_visit() {
    // Without it, visits are left to threads of their own.
    HOME.set(File::open("/proc/thread-self/ns/net").ok().map(Arc::new));
}

/// Runs `f` inside a namespace on this thread, if it is a worker, and comes
/// back; gives `f` back on any other thread.
pub(super) fn visit<T, F: FnOnce() -> Result<T>>(place: Place<'_>, f: F) -> Result<Result<T>, F> {
    let Some(home) = HOME.with_borrow(Clone::clone) else {
        return Err(f);
    };
    if let Err(error) = enter(place) {
        return Ok(Err(error));
    }
    let done = catch_unwind(AssertUnwindSafe(f));
    if let Err(error) = setns(&*home, CloneFlags::CLONE_NEWNET) {
        // Nothing more may be done on this thread; it ends.
        resume_unwind(Box::new(format!(
            "cannot leave {}: {error}",
            place.path.display()
        )));
    }
    Ok(done.unwrap_or_else(|payload| resume_unwind(payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn work_is_done_side_by_side_and_outlives_its_asker() {
        let workers = Workers::default();
        let (tell, told) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let its = workers.clone();
        let slow = tokio::spawn(async move {
            let work = move || {
                let _ = wait.recv();
                let _ = tell.send("done");
            };
            its.run(work).await
        });
        // Until it has its own worker, there is nothing to outlive.
        while workers.shared.lock().threads == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(workers.run(|| 7).await.unwrap(), 7);
        slow.abort();
        go.send(()).unwrap();
        let told = tokio::task::spawn_blocking(move || told.recv_timeout(Duration::from_secs(10)));
        assert_eq!(told.await.unwrap().unwrap(), "done");
    }

    #[tokio::test]
    async fn a_defect_is_an_error_and_others_go_on() {
        let workers = Workers::default();
        let failed = workers
            .run(|| -> u32 { resume_unwind(Box::new("oops")) })
            .await;
        assert!(failed.unwrap_err().message().contains("defect"));
        for n in 0..20 {
            assert_eq!(workers.run(move || n).await.unwrap(), n);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn work_that_follows_from_an_answer_needs_no_other_thread() {
        let workers = Workers::default();
        let here = || thread::current().id();
        let first = workers.run(here).await.unwrap();
        for _ in 0..200 {
            assert_eq!(workers.run(here).await.unwrap(), first);
        }
        // Nothing is forgotten when many ask.
        let mut askers = tokio::task::JoinSet::new();
        for asker in 0..16 {
            let workers = workers.clone();
            askers.spawn(async move {
                for n in 0..200 {
                    assert_eq!(workers.run(move || n * asker).await.unwrap(), n * asker);
                }
            });
        }
        let all = tokio::time::timeout(Duration::from_secs(60), askers.join_all());
        all.await.unwrap();
    }
}
