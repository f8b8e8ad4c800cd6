//! How long things take, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the parts into which times are sorted, in seconds: from
/// what a driver takes to the longest that a plugin may.
pub const BOUNDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// Times, sorted.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The last one is for all that took longer than the last bound.
    parts: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// What a histogram has seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    /// The bounds and how many are in each part, those of earlier parts left
    /// out.
    pub parts: Vec<(f64, u64)>,
    /// How many there are.
    pub count: u64,
    /// All times together.
    pub sum: Duration,
}

impl Histogram {
    /// Sorts a time in.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let part = BOUNDS.partition_point(|bound| *bound < seconds);
        self.parts[part].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// What it has seen. Whatever comes in between is in the count and in one of
    /// the parts, or in neither.
    pub fn read(&self) -> Times {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let counts = self.parts.iter().map(|part| part.load(Ordering::Relaxed));
        let parts: Vec<(f64, u64)> = bounds.zip(counts).collect();
        Times {
            count: parts.iter().map(|(_, count)| count).sum(),
            sum: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)),
            parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_sorted_by_upper_bounds() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 60_000_000, 60_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let times = histogram.read();
        let full: Vec<_> = times.parts.iter().filter(|part| part.1 > 0).collect();
        assert_eq!(
            full,
            [&(0.0005, 2), &(0.001, 1), &(60.0, 1), &(f64::INFINITY, 1)]
        );
        assert_eq!(times.count, 5);
        assert_eq!(times.sum, Duration::from_micros(120_001_002));
    }

    #[test]
    fn threads_count_together() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        histogram.observe(Duration::from_millis(1));
                    }
                });
            }
        });
        let times = histogram.read();
        assert_eq!((times.count, times.sum), (4000, Duration::from_secs(4)));
    }
}
