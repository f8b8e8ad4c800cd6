//! How much one source may have asked of other servers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// As many sources are remembered; of more, those that are quiet are forgotten.
const SOURCES: usize = 8192;

/// A token bucket for each source: as many as in a second at once, and that many
/// a second.
#[derive(Debug)]
pub(super) struct Limits {
    each_second: f64,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Limits {
    pub(super) fn new(each_second: u32) -> Self {
        Self {
            each_second: each_second.into(),
            buckets: Mutex::default(),
        }
    }

    /// Whether this source may have one more.
    pub(super) fn allow(&self, source: IpAddr, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= SOURCES && !buckets.contains_key(&source) {
            // One that is full again has nothing to remember.
            buckets.retain(|_, bucket| self.filled(bucket, now) < self.each_second);
            if buckets.len() >= SOURCES {
                return false;
            }
        }
        let bucket = buckets.entry(source).or_insert(Bucket {
            left: self.each_second,
            at: now,
        });
        bucket.left = self.filled(bucket, now);
        bucket.at = now;
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + passed * self.each_second).min(self.each_second)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_source_has_its_own_share_which_comes_back() {
        let limits = Limits::new(3);
        let start = Instant::now();
        let [a, b] = [1_u8, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let some = |of: IpAddr, at: Instant| (0..9).filter(|_| limits.allow(of, at)).count();
        assert_eq!((some(a, start), some(b, start)), (3, 3));
        assert_eq!(some(a, start + Duration::from_millis(700)), 2);
        assert_eq!(some(a, start + Duration::from_secs(60)), 3);
    }

    #[test]
    fn many_sources_take_a_bounded_place() {
        let limits = Limits::new(1);
        let start = Instant::now();
        let allowed =
            (0..20_000_u32).filter(|n| limits.allow(IpAddr::from(n.to_be_bytes()), start));
        assert_eq!(allowed.count(), SOURCES);
        assert!(limits.allow([10, 0, 0, 1].into(), start + Duration::from_secs(2)));
    }
}
