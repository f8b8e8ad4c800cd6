//! The log: text for people or JSON for programs, and never a flood.

use std::fmt::Display;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::traces::{self, Export};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts the log on standard error, and traces where somebody takes them. The
/// variable `RUST_LOG` overrules `debug`; traces are of no concern to it.
///
/// # Errors
/// When `RUST_LOG` cannot be understood, or a log was started before.
pub fn init(format: LogFormat, debug: bool, export: Option<Export>) -> Result<(), String> {
    let filter = filter(std::env::var("RUST_LOG").ok().as_deref(), debug)?;
    let started = match export {
        None => tracing_subscriber::registry()
            .with(filter)
            .with(lines(format))
            .try_init(),
        Some(export) => tracing_subscriber::registry()
            .with(export)
            .with(lines(format).with_filter(filter))
            .try_init(),
    };
    started.map_err(|e| format!("cannot start the log: {e}"))
}

/// Lines on standard error.
fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        // A log that nobody can read must not end the daemon.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => lines.with_target(false).with_ansi(colourful()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

fn filter(rust_log: Option<&str>, debug: bool) -> Result<EnvFilter, String> {
    let directives = match rust_log {
        Some(directives) if !directives.trim().is_empty() => directives,
        _ if debug => "info,circuit=debug,circuit_core=debug,circuit_net=debug",
        _ => "info",
    };
    // Lines of the log do not repeat what traces tell.
    EnvFilter::try_new(format!("{directives},{}=off", traces::TARGET))
        .map_err(|e| format!("RUST_LOG={directives:?}: {e}; give a level such as debug"))
}

fn colourful() -> bool {
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !forbidden
}

/// What to tell about a failure that may be a repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repetition {
    /// How many failures were passed over in silence since the last line.
    pub suppressed: u64,
    /// How long it has been failing.
    pub failing_for: Duration,
}

/// Decides which of many failures are worth a line: the first, then one at
/// growing intervals. A dependency that comes and goes is one that fails.
#[derive(Debug)]
pub struct RepeatLimiter {
    interval: Duration,
    silent_until: Option<Instant>,
    suppressed: u64,
    since: Option<Instant>,
    recovered: Option<Instant>,
    announced: bool,
}

impl Default for RepeatLimiter {
    fn default() -> Self {
        Self {
            interval: Self::FIRST,
            silent_until: None,
            suppressed: 0,
            since: None,
            recovered: None,
            announced: false,
        }
    }
}

impl RepeatLimiter {
    /// The interval after the first line.
    pub const FIRST: Duration = Duration::from_secs(10);
    /// The longest interval.
    pub const LAST: Duration = Duration::from_secs(600);

    /// Takes note of a failure; `Some` when it is worth a line.
    pub fn failed(&mut self, now: Instant) -> Option<Repetition> {
        let healthy_for = self
            .recovered
            .take()
            .map(|at| now.saturating_duration_since(at));
        if healthy_for.is_some_and(|time| time >= self.interval) {
            *self = Self::default();
        }
        let since = *self.since.get_or_insert(now);
        if self.silent_until.is_some_and(|until| now < until) {
            self.suppressed += 1;
            return None;
        }
        self.silent_until = Some(now + self.interval);
        self.interval = (self.interval * 2).min(Self::LAST);
        self.announced = true;
        let suppressed = std::mem::take(&mut self.suppressed);
        Some(Repetition {
            suppressed,
            failing_for: now.saturating_duration_since(since),
        })
    }

    /// Takes note of a success; `Some` with the time it failed when that was
    /// told and its end is worth a line.
    pub fn recovered(&mut self, now: Instant) -> Option<Duration> {
        let since = self.since.take()?;
        self.recovered = Some(now);
        let announced = std::mem::take(&mut self.announced);
        announced.then(|| now.saturating_duration_since(since))
    }
}

/// Logs the health of one thing the daemon depends on, without repetition.
#[derive(Debug)]
pub struct DependencyLog {
    name: String,
    limiter: Mutex<RepeatLimiter>,
}

impl DependencyLog {
    /// A log about the dependency of that name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            limiter: Mutex::default(),
        }
    }

    /// Says that it failed, unless that was said a short while ago.
    pub fn failed(&self, error: &dyn Display) {
        match self.limiter().failed(Instant::now()) {
            None => {}
            Some(Repetition { suppressed: 0, .. }) => {
                tracing::warn!(dependency = %self.name, "{} fails: {error}", self.name);
            }
            Some(Repetition {
                suppressed,
                failing_for,
            }) => tracing::warn!(
                dependency = %self.name,
                suppressed,
                "{} still fails after {} s: {error}",
                self.name,
                failing_for.as_secs(),
            ),
        }
    }

    /// Says that it is well again, once.
    pub fn recovered(&self) {
        if let Some(time) = self.limiter().recovered(Instant::now()) {
            let seconds = time.as_secs();
            tracing::info!(dependency = %self.name, "{} is back after {seconds} s", self.name);
        }
    }

    fn limiter(&self) -> std::sync::MutexGuard<'_, RepeatLimiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn lines_come_at_growing_intervals() {
        let start = Instant::now();
        let mut limiter = RepeatLimiter::default();
        let told: Vec<(u64, u64)> = (0..3000_u64)
            .filter_map(|second| {
                let at = start + SECOND * u32::try_from(second).unwrap();
                limiter
                    .failed(at)
                    .map(|repetition| (second, repetition.suppressed))
            })
            .collect();
        let want = [
            (0, 0),
            (10, 9),
            (30, 19),
            (70, 39),
            (150, 79),
            (310, 159),
            (630, 319),
            (1230, 599),
            (1830, 599),
            (2430, 599),
        ];
        assert_eq!(told, want);
    }

    #[test]
    fn recovery_is_told_once() {
        let start = Instant::now();
        let mut limiter = RepeatLimiter::default();
        assert_eq!(limiter.recovered(start), None);
        assert!(limiter.failed(start).is_some());
        assert_eq!(limiter.recovered(start + SECOND * 7), Some(SECOND * 7));
        assert_eq!(limiter.recovered(start + SECOND * 8), None);
    }

    #[test]
    fn after_a_healthy_while_it_starts_anew() {
        let start = Instant::now();
        let mut limiter = RepeatLimiter::default();
        limiter.failed(start);
        limiter.failed(start + SECOND * 10);
        limiter.recovered(start + SECOND * 11);
        let later = start + SECOND * 100;
        let anew = Repetition {
            suppressed: 0,
            failing_for: Duration::ZERO,
        };
        assert_eq!(limiter.failed(later), Some(anew));
        assert_eq!(limiter.failed(later + SECOND * 9), None);
        assert!(limiter.failed(later + SECOND * 10).is_some());
    }

    #[test]
    fn coming_and_going_is_no_flood() {
        let start = Instant::now();
        let mut limiter = RepeatLimiter::default();
        let mut lines = 0;
        for tick in 0..10_000_u32 {
            let at = start + Duration::from_millis(20) * tick;
            lines += u32::from(limiter.failed(at).is_some());
            lines += u32::from(limiter.recovered(at + Duration::from_millis(10)).is_some());
        }
        // 200 seconds: at 0, 10, 30, 70 and 150, twice each.
        assert_eq!(lines, 10);
    }

    #[test]
    fn the_filter_follows_the_variable_then_the_flag() {
        let off = format!("{}=off", traces::TARGET);
        let usual = filter(None, false).unwrap().to_string();
        assert_eq!(usual, format!("{off},info"));
        assert!(
            filter(Some(""), true)
                .unwrap()
                .to_string()
                .contains("circuit=debug")
        );
        let asked = filter(Some("warn"), true).unwrap().to_string();
        assert_eq!(asked, format!("{off},warn"));
        assert!(
            filter(Some("a=b=c"), true)
                .unwrap_err()
                .starts_with("RUST_LOG=\"a=b=c\": ")
        );
    }

    #[test]
    fn without_a_collector_there_are_no_spans() {
        for debug in [false, true] {
            let log = tracing_subscriber::registry()
                .with(filter(None, debug).unwrap())
                .with(lines(LogFormat::Text));
            let _guard = tracing::subscriber::set_default(log);
            assert!(traces::span!("connect", container = "web").is_disabled());
            assert!(!tracing::info_span!("of somebody else").is_disabled());
        }
    }
}
