//! Proof that a folder is as it was left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

const NANOSECONDS: i64 = 1_000_000_000;

/// A folder's identity and times.
///
/// Whoever makes or removes a file in a folder gives the folder the time of the
/// change. After each change of ours the folder is given a time that it never
/// had: so when it still has that time, nobody else has changed it. The time of
/// the last change of the folder itself, which nobody can choose, must be the
/// same too, in case the clock is set back to the very nanosecond.
///
/// Both are read and written under the lock of the leases: whoever does not
/// take it, such as a human with `rm`, is seen as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    place: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn read(dir: &Path) -> Option<Self> {
        let data = fs::metadata(dir).ok()?;
        Some(Self {
            place: (data.dev(), data.ino()),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }

    /// Gives the folder a time of its own. None when it cannot be had, as on a
    /// file system that keeps only seconds: then there is no proof.
    pub(super) fn put(dir: &Path) -> Option<Self> {
        let before = Self::read(dir)?;
        let modified = now()?.max(following(before.modified));
        let (seconds, nanoseconds) = modified;
        let seconds = u64::try_from(seconds).ok()?;
        let time = Duration::new(seconds, u32::try_from(nanoseconds).ok()?);
        let time = TimeSpec::from_duration(time);
        utimensat(AT_FDCWD, dir, &time, &time, UtimensatFlags::FollowSymlink).ok()?;
        let stamp = Self::read(dir)?;
        (stamp.modified == modified).then_some(stamp)
    }

    /// Whether the folder is still as it was then.
    pub(super) fn holds(&self, dir: &Path) -> bool {
        Self::read(dir).as_ref() == Some(self)
    }
}

fn now() -> Option<(i64, i64)> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.ok()?;
    Some((
        i64::try_from(since.as_secs()).ok()?,
        since.subsec_nanos().into(),
    ))
}

fn following((seconds, nanoseconds): (i64, i64)) -> (i64, i64) {
    if nanoseconds + 1 < NANOSECONDS {
        (seconds, nanoseconds + 1)
    } else {
        (seconds.saturating_add(1), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_by_others_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("10.0.0.1");
        for _ in 0..500 {
            let stamp = Stamp::put(dir.path()).unwrap();
            assert!(stamp.holds(dir.path()));
            fs::write(&file, "a").unwrap();
            assert!(!stamp.holds(dir.path()));
            let stamp = Stamp::put(dir.path()).unwrap();
            fs::remove_file(&file).unwrap();
            assert!(!stamp.holds(dir.path()));
        }
    }

    #[test]
    fn stamps_differ_and_so_do_folders() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Stamp::put(dir.path()), Stamp::put(dir.path()));
        assert!(one.unwrap().modified < two.unwrap().modified);
        let other = tempfile::tempdir().unwrap();
        assert!(!two.unwrap().holds(other.path()));
        assert!(Stamp::put(&dir.path().join("none")).is_none());
        assert_eq!(following((1, NANOSECONDS - 1)), (2, 0));
    }

    /// A clock that is ahead, and then is not, makes no two stamps alike.
    #[test]
    fn a_time_in_the_future_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let ahead = TimeSpec::new(2_147_000_000, 5);
        utimensat(
            AT_FDCWD,
            dir.path(),
            &ahead,
            &ahead,
            UtimensatFlags::FollowSymlink,
        )
        .unwrap();
        let stamp = Stamp::put(dir.path()).unwrap();
        assert_eq!(stamp.modified, (2_147_000_000, 6));
    }
}
