//! What the machine knows of time, and texts that are new.

use std::path::Path;

use nix::time::{ClockId, clock_gettime};

/// A clock of this boot that goes on while the machine sleeps, in milliseconds.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).or_else(|_| {
        // Every Linux that containerd runs on has the other one.
        clock_gettime(ClockId::CLOCK_MONOTONIC)
    });
    time.map_or(0, |time| {
        let millis = time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000;
        u64::try_from(millis).unwrap_or_default()
    })
}

/// What tells this boot of the machine from others.
pub(super) fn boot_id() -> String {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    std::fs::read_to_string(path).map_or(String::new(), |id| id.trim().to_owned())
}

/// A text that nobody has had before.
pub fn fresh() -> String {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    std::fs::read_to_string(path).map_or_else(
        |_| format!("{}-{}", std::process::id(), now()),
        |id| id.trim().to_owned(),
    )
}
