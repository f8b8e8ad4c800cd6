//! Addresses that nobody of the fleet holds and somebody on the wire has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// For how long one is left alone first. Each time that it still answers, it is for
/// twice as long: its container may have just ended, or live for years.
const FIRST_MS: u64 = 15_000;
/// And at most.
const LONGEST_MS: u64 = 480_000;

/// What answered lately, by pool and address. Asking for it anew each time would keep
/// the others from being tried.
#[derive(Default)]
pub(super) struct Answered(Mutex<BTreeMap<(String, IpAddr), Rest>>);

#[derive(Clone, Copy)]
struct Rest {
    until: u64,
    ms: u64,
}

impl Answered {
    fn rests(&self) -> MutexGuard<'_, BTreeMap<(String, IpAddr), Rest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that these answered. Returns those of which it was not known.
    pub(super) fn note(&self, pool: &str, addresses: &[IpAddr], now: u64) -> Vec<IpAddr> {
        let mut rests = self.rests();
        rests.retain(|_, rest| now < rest.until.saturating_add(LONGEST_MS));
        let mut new = Vec::new();
        for ip in addresses {
            let place = (pool.to_owned(), *ip);
            let before = rests.get(&place).copied();
            if before.is_some_and(|rest| now < rest.until) {
                continue;
            }
            let ms = before.map_or(FIRST_MS, |rest| (2 * rest.ms).min(LONGEST_MS));
            let until = now.saturating_add(ms);
            rests.insert(place, Rest { until, ms });
            new.push(*ip);
        }
        new
    }

    /// The addresses of a pool that are better left alone.
    pub(super) fn of(&self, pool: &str, now: u64) -> Vec<IpAddr> {
        let rests = self.rests();
        let its = rests.iter().filter(|((of, _), _)| of == pool);
        its.filter(|(_, rest)| now < rest.until)
            .map(|((_, ip), _)| *ip)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_is_left_alone_for_longer_each_time() {
        let answered = Answered::default();
        let ip = IpAddr::from([10, 0, 0, 2]);
        let mut now = 1_000;
        for ms in [FIRST_MS, 2 * FIRST_MS, 4 * FIRST_MS] {
            assert_eq!(answered.note("lan", &[ip], now), [ip]);
            assert_eq!(
                answered.note("lan", &[ip], now),
                [] as [IpAddr; 0],
                "it is told once"
            );
            assert_eq!(answered.of("lan", now + ms - 1), [ip]);
            assert_eq!(answered.of("other", now), [] as [IpAddr; 0]);
            now += ms;
            assert_eq!(answered.of("lan", now), [] as [IpAddr; 0]);
        }
        now += 10 * LONGEST_MS;
        answered.note("lan", &[ip], now);
        assert_eq!(
            answered.of("lan", now + FIRST_MS),
            [] as [IpAddr; 0],
            "it starts anew"
        );
    }
}
