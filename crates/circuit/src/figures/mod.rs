//! What this node has done, in numbers: atomics only, so that counting costs
//! nothing. How they are told is the business of [`metrics`](crate::metrics).

mod histogram;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use circuit_core::attachment::{Attachment, Sandbox};
use circuit_core::{Error, ErrorKind};

pub use histogram::{BOUNDS, Histogram, Times};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many until now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The names of outcomes, in the order of [`place`].
pub const OUTCOMES: [&str; 9] = [
    "success",
    "unchanged",
    "not_found",
    "already_exists",
    "invalid_argument",
    "failed_precondition",
    "unavailable",
    "deadline_exceeded",
    "internal",
];

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was so already.
    Unchanged,
    /// It was not done, because of an error of this kind.
    Failed(ErrorKind),
}

impl<T> From<&Result<T, Error>> for Outcome {
    fn from(result: &Result<T, Error>) -> Self {
        result
            .as_ref()
            .map_or_else(|error| Self::Failed(error.kind()), |_| Self::Success)
    }
}

/// The place of an outcome in [`OUTCOMES`].
fn place(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Success => 0,
        Outcome::Unchanged => 1,
        Outcome::Failed(ErrorKind::NotFound) => 2,
        Outcome::Failed(ErrorKind::AlreadyExists) => 3,
        Outcome::Failed(ErrorKind::InvalidArgument) => 4,
        Outcome::Failed(ErrorKind::FailedPrecondition) => 5,
        Outcome::Failed(ErrorKind::Unavailable) => 6,
        Outcome::Failed(ErrorKind::DeadlineExceeded) => 7,
        Outcome::Failed(ErrorKind::Internal) => 8,
    }
}

/// One kind of work: how often it was done, for which cause and with which
/// outcome, and how long it took when it went well.
#[derive(Debug)]
pub struct Work<const N: usize> {
    causes: [&'static str; N],
    counts: [[Counter; OUTCOMES.len()]; N],
    times: [Histogram; N],
}

impl<const N: usize> Work<N> {
    fn new(causes: [&'static str; N]) -> Self {
        Self {
            causes,
            counts: std::array::from_fn(|_| std::array::from_fn(|_| Counter::default())),
            times: std::array::from_fn(|_| Histogram::default()),
        }
    }

    fn done(&self, cause: usize, outcome: Outcome, took: Duration) {
        self.counts[cause][place(outcome)].add();
        if outcome == Outcome::Success {
            self.times[cause].observe(took);
        }
    }

    /// How often, by cause and outcome.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        let causes = self.causes.iter().zip(&self.counts);
        causes.flat_map(|(cause, counts)| {
            let outcomes = OUTCOMES.iter().zip(counts);
            outcomes.map(|(outcome, count)| (*cause, *outcome, count.get()))
        })
    }

    /// How long what went well took, by cause.
    pub fn times(&self) -> impl Iterator<Item = (&'static str, &Histogram)> + '_ {
        self.causes.iter().copied().zip(&self.times)
    }
}

/// Why a container was connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connect {
    /// Somebody asked for it just now.
    Request,
    /// Its labels ask for it.
    Label,
    /// Somebody asked for it earlier: its task was started again, or the
    /// attachment was lost.
    Restore,
}

/// Why a container was disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnect {
    /// Somebody asked for it, or the network is deleted.
    Request,
    /// Its task has ended.
    Exit,
    /// Its labels do not ask for it any more, or the attachment was not whole.
    Change,
}

impl Disconnect {
    /// Why an attachment is taken away by itself: of the task that is alive in this
    /// sandbox, or of one that has ended.
    pub fn of(attachment: &Attachment, alive: Option<Sandbox>) -> Self {
        match alive {
            Some(alive) if attachment.sandbox == alive => Self::Change,
            _ => Self::Exit,
        }
    }
}

/// Why a task was started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Its restart policy says so.
    Policy,
    /// Somebody asked for it.
    Request,
    /// The daemon was ended in the middle of starting it.
    Recovery,
}

/// What a reconciler finds that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// A network that a container should be on.
    Attach,
    /// An attachment that should not be.
    Detach,
    /// Firewall rules that another program took away.
    Firewall,
}

/// The names of differences.
pub const DIFFERENCES: [&str; 3] = ["attach", "detach", "firewall"];

/// What has made a reconciler look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Found {
    /// An event of the runtime.
    Event,
    /// Nothing had told of it: a full pass, or a look after a failure.
    #[default]
    Pass,
}

/// The names of what has made it look.
pub const FOUND: [&str; 2] = ["event", "pass"];

impl Found {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        FOUND[self as usize]
    }
}

/// All that is counted of a node's containers.
#[derive(Debug)]
pub struct Figures {
    connects: Work<3>,
    disconnects: Work<3>,
    restarts: Work<3>,
    found: [[Counter; FOUND.len()]; DIFFERENCES.len()],
    mended: [Counter; DIFFERENCES.len()],
    /// Looks at containers that left nothing to be done.
    pub looks: Counter,
    /// Looks that failed and are repeated.
    pub failed_looks: Counter,
    /// Passes over all containers.
    pub passes: Counter,
    /// Events of the runtime that were taken.
    pub events: Counter,
    /// From an event until the look that it asked for has ended.
    pub event_lag: Histogram,
    runtime_up: AtomicBool,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            connects: Work::new(["request", "label", "restore"]),
            disconnects: Work::new(["request", "exit", "change"]),
            restarts: Work::new(["policy", "request", "recovery"]),
            found: Default::default(),
            mended: Default::default(),
            looks: Counter::default(),
            failed_looks: Counter::default(),
            passes: Counter::default(),
            events: Counter::default(),
            event_lag: Histogram::default(),
            runtime_up: AtomicBool::new(false),
        }
    }
}

impl Figures {
    /// A container was connected, or was not.
    pub fn connected(&self, cause: Connect, outcome: impl Into<Outcome>, took: Duration) {
        self.connects.done(cause as usize, outcome.into(), took);
    }

    /// A container was disconnected, or was not.
    pub fn disconnected(&self, cause: Disconnect, outcome: impl Into<Outcome>, took: Duration) {
        self.disconnects.done(cause as usize, outcome.into(), took);
    }

    /// A task was started again, or was not.
    pub fn restarted(&self, cause: Restart, outcome: impl Into<Outcome>, took: Duration) {
        self.restarts.done(cause as usize, outcome.into(), took);
    }

    /// A difference was found.
    pub fn found(&self, what: Difference, by: Found) {
        self.found[what as usize][by as usize].add();
    }

    /// A difference is no more.
    pub fn mended(&self, what: Difference) {
        self.mended[what as usize].add();
    }

    /// The runtime answers, or does not.
    pub fn set_runtime_up(&self, up: bool) {
        self.runtime_up.store(up, Ordering::Relaxed);
    }

    /// Whether the runtime answered when it was last heard of.
    pub fn is_runtime_up(&self) -> bool {
        self.runtime_up.load(Ordering::Relaxed)
    }

    /// Connects.
    pub fn connects(&self) -> &Work<3> {
        &self.connects
    }

    /// Disconnects.
    pub fn disconnects(&self) -> &Work<3> {
        &self.disconnects
    }

    /// Restarts of tasks.
    pub fn restarts(&self) -> &Work<3> {
        &self.restarts
    }

    /// Differences that were found, by what they were and what made it look.
    pub fn differences(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        DIFFERENCES.iter().zip(&self.found).flat_map(|(what, by)| {
            let by = FOUND.iter().zip(by);
            by.map(|(by, count)| (*what, *by, count.get()))
        })
    }

    /// Differences that were mended, by what they were.
    pub fn mendings(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let mended = self.mended.iter().map(Counter::get);
        DIFFERENCES.iter().copied().zip(mended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_by_cause_and_outcome() {
        let figures = Figures::default();
        let took = Duration::from_millis(3);
        figures.connected(Connect::Label, Outcome::Success, took);
        figures.connected(Connect::Label, &Ok::<_, Error>(()), took);
        figures.connected(Connect::Request, &Err::<(), _>(Error::deadline("x")), took);
        figures.connected(Connect::Request, Outcome::Unchanged, took);
        let counted: Vec<_> = figures.connects().counts().filter(|c| c.2 > 0).collect();
        let wanted = [
            ("request", "unchanged", 1),
            ("request", "deadline_exceeded", 1),
            ("label", "success", 2),
        ];
        assert_eq!(counted, wanted);
        // The time of what failed says nothing of the time that it takes.
        let times: Vec<_> = figures.connects().times().collect();
        assert_eq!(times[0].1.read().count, 0);
        assert_eq!(times[1].1.read().count, 2);
    }

    #[test]
    fn each_outcome_has_its_name() {
        let kinds = [
            (ErrorKind::NotFound, "not_found"),
            (ErrorKind::AlreadyExists, "already_exists"),
            (ErrorKind::InvalidArgument, "invalid_argument"),
            (ErrorKind::FailedPrecondition, "failed_precondition"),
            (ErrorKind::Unavailable, "unavailable"),
            (ErrorKind::DeadlineExceeded, "deadline_exceeded"),
            (ErrorKind::Internal, "internal"),
        ];
        for (kind, name) in kinds {
            assert_eq!(OUTCOMES[place(Outcome::Failed(kind))], name);
        }
    }

    #[test]
    fn differences_are_found_and_mended() {
        let figures = Figures::default();
        figures.found(Difference::Detach, Found::Event);
        figures.found(Difference::Firewall, Found::Pass);
        figures.mended(Difference::Firewall);
        let found: Vec<_> = figures.differences().filter(|d| d.2 > 0).collect();
        assert_eq!(found, [("detach", "event", 1), ("firewall", "pass", 1)]);
        let mended: Vec<_> = figures.mendings().filter(|m| m.1 > 0).collect();
        assert_eq!(mended, [("firewall", 1)]);
    }
}
