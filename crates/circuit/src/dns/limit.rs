//! How much one source may have asked of other servers, and how much it may have at once.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// As many in a second, and at once.
    most: f64,
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
        let (source, times) = source_of(source);
        let most = self.each_second * f64::from(times);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= SOURCES && !buckets.contains_key(&source) {
            // One that is full again has nothing to remember.
            buckets.retain(|_, bucket| bucket.filled(now) < bucket.most);
            if buckets.len() >= SOURCES {
                return false;
            }
        }
        let bucket = buckets.entry(source).or_insert(Bucket {
            most,
            left: most,
            at: now,
        });
        bucket.left = bucket.filled(now);
        bucket.at = now;
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

impl Bucket {
    fn filled(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + passed * self.most).min(self.most)
    }
}

/// As what an address counts, and for how many. Whoever has one address of IPv6 has all of
/// its /64, in which others may be too: it has four times as much.
fn source_of(address: IpAddr) -> (IpAddr, u32) {
    match address.to_canonical() {
        IpAddr::V6(ip) => {
            let network = u128::from(ip) & !u128::from(u64::MAX);
            (Ipv6Addr::from(network).into(), 4)
        }
        v4 => (v4, 1),
    }
}

/// What each source has of something of which there is not much.
#[derive(Debug)]
pub(super) struct Shares {
    most: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// One part of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Shares>,
    source: IpAddr,
}

impl Shares {
    /// So many for each source.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
        })
    }

    /// One for this source; none when it has all that it may.
    pub(super) fn take(self: &Arc<Self>, source: IpAddr) -> Option<Share> {
        let (source, times) = source_of(source);
        let most = self.most.saturating_mul(times as usize);
        let mut taken = self.lock();
        let count = taken.entry(source).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Share {
            of: Arc::clone(self),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.lock();
        match taken.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.source);
            }
        }
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
        // An address is changed for another one of its network in no time.
        let v6 = |last: u32| format!("fd00::{last:x}").parse().expect("an address");
        let many = (0..100).filter(|last| limits.allow(v6(*last), start));
        assert_eq!(many.count(), 12);
    }

    #[test]
    fn a_source_has_no_more_than_its_share_at_once() {
        let shares = Shares::new(2);
        let take = |source: &str| shares.take(source.parse().expect("an address"));
        let held = ["10.0.0.1", "10.0.0.1", "10.0.0.2"].map(take);
        let of_one_network = [1, 2, 3, 4, 5, 6, 7, 8].map(|last| take(&format!("fd00::{last}")));
        let held = held.into_iter().chain(of_one_network);
        let held: Vec<_> = held.collect();
        assert!(held.iter().all(Option::is_some));
        assert!(take("10.0.0.1").is_none() && take("fd00::ffff:0:0:3").is_none());
        assert!(take("::ffff:10.0.0.1").is_none(), "the same address");
        assert!(take("10.0.0.2").is_some() && take("fd00:0:0:1::1").is_some());
        drop(held);
        assert!(take("10.0.0.1").is_some() && take("fd00::3").is_some());
        assert!(shares.lock().is_empty(), "nothing is remembered");
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
