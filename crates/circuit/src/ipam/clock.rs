//! What the machine knows of time, and texts that are new.

use std::os::unix::fs::MetadataExt as _;
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

/// What tells a folder, on this boot of this machine, from every copy of it: another
/// machine has another boot, another folder another number, and a container that was
/// copied together with its folder another network namespace.
pub(super) fn place(folder: &Path) -> String {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let boot = std::fs::read_to_string(path).map_or(String::new(), |id| id.trim().to_owned());
    let number = |path: &Path| {
        let found = std::fs::metadata(path);
        found.map_or((0, 0), |found| (found.dev(), found.ino()))
    };
    let (device, inode) = number(folder);
    let (_, netns) = number(Path::new("/proc/self/ns/net"));
    format!("{boot}/{device:x}/{inode:x}/{netns:x}")
}

/// A text that nobody has had before.
pub fn fresh() -> String {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    std::fs::read_to_string(path).map_or_else(
        |_| format!("{}-{}", std::process::id(), now()),
        |id| id.trim().to_owned(),
    )
}
