//! What the daemon takes of the machine, as the kernel says.

use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// What the process takes; what the kernel does not say is missing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu: Option<Duration>,
    pub(super) resident: Option<u64>,
    pub(super) virtual_size: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) most_files: Option<u64>,
    pub(super) threads: Option<u64>,
    /// Since the epoch.
    pub(super) start: Option<Duration>,
}

static START: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// Says that the process has just been started.
pub(super) fn started() {
    LazyLock::force(&START);
}

#[allow(clippy::unnecessary_cast, reason = "some machines have 32 bits")]
fn most_files() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    Some(soft as u64)
}

impl Process {
    /// This one, now.
    pub(super) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        // The folder is itself open while it is read.
        let open = fs::read_dir("/proc/self/fd").map(|files| files.count().saturating_sub(1));
        Self {
            cpu: cpu(),
            resident: field(&status, "VmRSS:").map(kibibytes),
            virtual_size: field(&status, "VmSize:").map(kibibytes),
            open_files: open.ok().and_then(|count| u64::try_from(count).ok()),
            most_files: most_files(),
            threads: field(&status, "Threads:"),
            start: START.duration_since(SystemTime::UNIX_EPOCH).ok(),
        }
    }
}

fn cpu() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let time = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or_default();
    let micros = time(usage.user_time()).saturating_add(time(usage.system_time()));
    Some(Duration::from_micros(micros))
}

/// The number of a line.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn kibibytes(number: u64) -> u64 {
    number.saturating_mul(1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        started();
        let now = Process::now();
        assert!(now.resident.unwrap() > 1 << 20, "{now:?}");
        assert!(now.virtual_size > now.resident, "{now:?}");
        assert!((1..1000).contains(&now.open_files.unwrap()), "{now:?}");
        assert!(now.most_files > now.open_files && now.threads.unwrap() > 0);
        assert!(now.cpu.is_some() && now.start.unwrap() > Duration::from_secs(1 << 30));
    }

    #[test]
    fn lines_are_read_by_their_names() {
        let status = "Name:\tcircuit\nVmRSS:\t    1234 kB\nThreads:\t7\n";
        assert_eq!(field(status, "VmRSS:").map(kibibytes), Some(1_263_616));
        assert_eq!(field(status, "Threads:"), Some(7));
        assert_eq!(field(status, "VmSize:"), None);
        assert_eq!(field("VmRSS: x", "VmRSS:"), None);
    }
}
