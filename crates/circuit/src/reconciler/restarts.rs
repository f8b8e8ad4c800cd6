//! Tasks started again by the restart policy.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use circuit_core::{
    Result,
    attachment::ContainerRecord,
    event::Kind,
    labels::{
        CONTAINERD_RESTART_LABEL, Labels, RESTART_LABEL, RESTART_LOG_LABEL, STOP_SIGNAL_LABEL,
    },
    restart::{Decision, LastRun, Policy, decide},
};

use super::{Next, Reconciler};
use crate::attachments::Seen;
use crate::events::Happening;
use crate::figures::Restart;
use crate::traces::{span, traced};

/// How the line about a failed restart begins.
const CANNOT_RESTART: &str = "cannot restart";

/// The label that asks for restarts by Circuit; a container that containerd's
/// own monitor restarts is not ours.
pub(super) fn policy_label(seen: &Seen) -> Option<&str> {
    let labels = &seen.container.labels;
    if labels.contains_key(CONTAINERD_RESTART_LABEL) {
        return None;
    }
    labels.get(RESTART_LABEL).map(String::as_str)
}

/// Where the output of a restarted task goes.
///
/// # Errors
/// With what is wrong, when the label is no address of a file: a shim takes a
/// bare path for a pipe that somebody reads, and waits for that reader.
pub(super) fn log_of(seen: &Seen) -> Result<Option<&str>, String> {
    let Some(log) = seen
        .container
        .labels
        .get(RESTART_LOG_LABEL)
        .map(|log| log.trim())
    else {
        return Ok(None);
    };
    let path = log
        .strip_prefix("file://")
        .filter(|path| path.starts_with('/'));
    let plain = |path: &str| path.len() > 1 && !path.ends_with('/') && !path.contains("/../");
    if path.is_some_and(plain) {
        return Ok(Some(log));
    }
    Err(format!(
        "label {RESTART_LOG_LABEL}: {log:?} is no file's address, so the output is not kept: write \
         one like file:///var/log/{}.log",
        seen.container.id
    ))
}

/// The first of the signals that have no names of their own, as C libraries count.
const SIGRTMIN: u32 = 34;
const SIGRTMAX: u32 = 64;

/// The signal that asks the container to end: its own, or SIGTERM.
pub(super) fn stop_signal(seen: &Seen) -> u32 {
    let label = seen.container.labels.get(STOP_SIGNAL_LABEL);
    label
        .and_then(|label| signal_of(label))
        .unwrap_or(Signal::SIGTERM as u32)
}

/// The number of a signal that is written `SIGQUIT`, `quit`, `3` or `SIGRTMIN+3`.
fn signal_of(text: &str) -> Option<u32> {
    let text = text.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        SIGRTMIN.checked_add(steps(offset, '+')?)
    } else if let Some(offset) = name.strip_prefix("RTMAX") {
        SIGRTMAX.checked_sub(steps(offset, '-')?)
    } else {
        let named: Signal = format!("SIG{name}").parse().ok()?;
        return Some(named as u32);
    };
    number.filter(|number| (SIGRTMIN..=SIGRTMAX).contains(number))
}

fn steps(offset: &str, sign: char) -> Option<u32> {
    if offset.is_empty() {
        return Some(0);
    }
    offset.strip_prefix(sign)?.parse().ok()
}

impl Reconciler {
    /// Starts a container that is not running, if its policy says so now.
    pub(super) async fn restart_if_due(
        &self,
        record: &mut ContainerRecord,
        seen: &Seen,
        labels: &Labels,
    ) -> Result<Next> {
        let id = &seen.container.id;
        if seen.container.labels.contains_key(CONTAINERD_RESTART_LABEL) {
            if seen.container.labels.contains_key(RESTART_LABEL) {
                self.say_once(id, format!(
                    "container {id} has the label {CONTAINERD_RESTART_LABEL}: its restarts are left to containerd"
                ));
            }
            return Ok(Next::Rest);
        }
        let Some(label) = policy_label(seen) else {
            return Ok(Next::Rest);
        };
        let policy = match Policy::parse(label) {
            Ok(policy) => policy,
            Err(error) => {
                self.say_once(
                    id,
                    format!("container {id}: label {RESTART_LABEL}: {error}"),
                );
                return Ok(Next::Rest);
            }
        };
        // As `circuit container stop` is, so are those of others.
        if seen.container.is_stopped_elsewhere() {
            return Ok(Next::Rest);
        }
        let last = self.last_run(seen, record);
        let streak = self.watch(id, |watched| watched.streak);
        match decide(policy, &record.restart, last, streak) {
            Decision::Stay => Ok(Next::Rest),
            Decision::GiveUp => {
                let attempts = record.restart.failures;
                self.say_once(id, format!(
                    "container {id} failed again after {attempts} restarts: its policy {policy} gives up"
                ));
                Ok(Next::Rest)
            }
            Decision::StartIn(delay) if !delay.is_zero() => Ok(Next::After(delay)),
            Decision::StartIn(_) => self.start_again(record, seen, labels, last).await,
        }
    }

    async fn start_again(
        &self,
        record: &mut ContainerRecord,
        seen: &Seen,
        labels: &Labels,
        last: LastRun,
    ) -> Result<Next> {
        let id = &seen.container.id;
        if matches!(last, LastRun::Ended { status, .. } if status != 0) {
            record.restart.failures = record.restart.failures.saturating_add(1);
        }
        record.restart.count = record.restart.count.saturating_add(1);
        let streak = self.watch(id, |watched| {
            watched.streak = watched.streak.saturating_add(1);
            watched.streak
        });
        let begun = Instant::now();
        let span = span!("restart", container = *id, cause = "policy");
        let launched = traced(span, self.launch(record, seen, labels)).await;
        let figures = self.attachments.figures();
        figures.restarted(Restart::Policy, &launched, begun.elapsed());
        match launched {
            Ok(pid) => {
                // What was said of a failure may be said again at the next.
                self.watch(id, |watched| {
                    watched
                        .said
                        .take_if(|said| said.starts_with(CANNOT_RESTART));
                });
                tracing::info!("restarted {id}: pid {pid}");
                let count = record.restart.count;
                self.attachments.events().tell(
                    Kind::TaskRestarted,
                    Happening {
                        container: id,
                        message: format!("pid {pid}, restart {count} by its policy"),
                        ..Happening::default()
                    },
                );
                Ok(Next::Rest)
            }
            Err(error) => {
                self.say_once(id, format!("{CANNOT_RESTART} {id}: {error}"));
                // There is no task whose end could count: the delay runs from now.
                self.watch(id, |watched| {
                    watched
                        .ended
                        .get_or_insert((1, Duration::ZERO, Instant::now()))
                        .2 = Instant::now();
                });
                Ok(Next::After(circuit_core::restart::delay(streak)))
            }
        }
    }

    /// Logs a line at the level of a warning, unless it was the last one said.
    pub(super) fn say_once(&self, container: &str, line: String) {
        let news = self.watch(container, |watched| {
            let news = watched.said.as_ref() != Some(&line);
            watched.said = Some(line.clone());
            news
        });
        if news {
            tracing::warn!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_number() {
        for (text, number) in [
            ("SIGQUIT", 3),
            ("quit", 3),
            ("3", 3),
            (" SIGINT ", 2),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("SIGRTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(signal_of(text), Some(number), "{text}");
        }
        for text in [
            "",
            "SIG",
            "0",
            "65",
            "-3",
            "TERMINATE",
            "RTMIN-1",
            "RTMIN+31",
            "RTMAX+1",
        ] {
            assert_eq!(signal_of(text), None, "{text}");
        }
    }
}
