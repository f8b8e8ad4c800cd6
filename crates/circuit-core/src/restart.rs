//! When a container is started again: the rules people know from Docker, as a
//! pure function of the policy, what is remembered and what was seen.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The first delay.
pub const FIRST_DELAY: Duration = Duration::from_millis(100);
/// No delay is longer.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A task that ran this long starts the delays anew.
pub const STEADY_AFTER: Duration = Duration::from_secs(10);
/// A container whose task nobody has seen is given this long to be started by
/// whoever created it.
pub const NEVER_SEEN_GRACE: Duration = Duration::from_secs(10);

/// A restart policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Never.
    No,
    /// Whenever it is not running.
    Always,
    /// Whenever it is not running, until it is stopped by hand.
    UnlessStopped,
    /// After an exit status other than 0, at most this often in a row.
    OnFailure(Option<u32>),
}

impl Policy {
    /// Reads the label's value. Anything that an older program took for
    /// "present" means [`Policy::Always`].
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed `on-failure:N`.
    pub fn parse(value: &str) -> Result<Self> {
        let value = value.trim().to_ascii_lowercase();
        Ok(match value.as_str() {
            "no" => Self::No,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => Self::OnFailure(None),
            other => match other.strip_prefix("on-failure:") {
                None => Self::Always,
                Some(count) => Self::OnFailure(Some(count.parse().map_err(|_| {
                    Error::invalid(format!(
                        "{value:?} is no restart policy: write on-failure:N with a number N"
                    ))
                })?)),
            },
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(count)) => write!(f, "on-failure:{count}"),
        }
    }
}

/// What is remembered about a container's restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartState {
    /// Stopped by hand: the policy rests until it is started by hand.
    #[serde(default)]
    pub stopped: bool,
    /// A restart by hand is under way: a task is ended and another started. After a
    /// crash in between it is finished.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarting: bool,
    /// The pid that was stopped, or is restarted, by hand: a running task with another
    /// pid was started by someone, which ends the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_pid: Option<u32>,
    /// Restarts after failures since somebody last started it by hand.
    #[serde(default)]
    pub failures: u32,
    /// Restarts, after whatever end, since somebody last started it by hand.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub count: u32,
    /// A task is being made and started by Circuit. After a crash in between,
    /// a task that was made and does not run is ours to start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub launching: bool,
    /// A task of it was seen, so it was once started.
    #[serde(default)]
    pub seen: bool,
    /// The pid of the last task that the policy started: another pid was
    /// started by hand, which makes the attempts count anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl RestartState {
    /// Takes note of a living task.
    pub fn saw_task(&mut self, pid: u32) {
        self.seen = true;
        if (self.stopped || self.restarting) && self.stopped_pid != Some(pid) {
            self.stopped = false;
            self.restarting = false;
            self.stopped_pid = None;
        }
        // What is being launched is the policy's own, though its pid may not be known.
        if self.pid != Some(pid) && !self.launching {
            self.failures = 0;
            self.count = 0;
            self.pid = None;
        }
    }

    /// Takes note of a start by hand.
    pub fn begin_anew(&mut self) {
        self.stopped = false;
        self.restarting = false;
        self.stopped_pid = None;
        self.failures = 0;
        self.count = 0;
    }

    /// True when nothing is remembered.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a container's last task ended, as far as anyone knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastRun {
    /// No task was ever seen; the container is this old.
    NeverSeen(Duration),
    /// It ran, and how it ended is not known (the machine went down); this long
    /// ago it was first missed.
    Unknown(Duration),
    /// It ended.
    Ended {
        /// Its exit status.
        status: u32,
        /// How long it had run; zero when not known.
        ran: Duration,
        /// How long ago it ended.
        ago: Duration,
    },
}

/// What to do about a container that is not running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Leave it.
    Stay,
    /// Start it after this time.
    StartIn(Duration),
    /// The policy's number of attempts is used up.
    GiveUp,
}

/// The delay before the restart number `streak` in a row, counted from 0.
pub fn delay(streak: u32) -> Duration {
    FIRST_DELAY
        .saturating_mul(1_u32.checked_shl(streak.min(20)).unwrap_or(u32::MAX))
        .min(LONGEST_DELAY)
}

/// Decides about a container that is not running. `streak` counts the restarts
/// since it last ran for [`STEADY_AFTER`].
pub fn decide(policy: Policy, state: &RestartState, last: LastRun, streak: u32) -> Decision {
    if state.stopped {
        return Decision::Stay;
    }
    let wait = |ago: Duration| Decision::StartIn(delay(streak).saturating_sub(ago));
    match (policy, last) {
        (Policy::No, _) => Decision::Stay,
        (Policy::Always | Policy::UnlessStopped, LastRun::Ended { ago, .. }) => wait(ago),
        (Policy::Always | Policy::UnlessStopped, LastRun::Unknown(ago)) => wait(ago),
        (Policy::Always | Policy::UnlessStopped, LastRun::NeverSeen(age)) => {
            let grace = NEVER_SEEN_GRACE.saturating_sub(age);
            Decision::StartIn(if streak == 0 { grace } else { delay(streak) })
        }
        (Policy::OnFailure(_), LastRun::Ended { status: 0, .. }) => Decision::Stay,
        (Policy::OnFailure(most), LastRun::Ended { ago, .. }) => {
            if most.is_some_and(|most| state.failures >= most) {
                Decision::GiveUp
            } else {
                wait(ago)
            }
        }
        (Policy::OnFailure(_), LastRun::Unknown(_) | LastRun::NeverSeen(_)) => Decision::Stay,
    }
}
