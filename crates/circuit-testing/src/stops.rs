//! Threads that go on until they are told to stop.

use std::sync::atomic::{AtomicBool, Ordering};

/// Tells threads of a scope to stop, by a flag that is set when this is dropped: also
/// when what they accompany panics, or the scope would wait for them for ever.
#[derive(Debug)]
pub struct Stops<'a>(pub &'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::catch_unwind,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn a_scope_that_panics_does_not_wait_for_its_threads() {
        let (stop, start) = (AtomicBool::new(false), Instant::now());
        let long = Duration::from_secs(20);
        let panics = || {
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) && start.elapsed() < long {
                        thread::yield_now();
                    }
                });
                let _stops = Stops(&stop);
                panic!("as a test that fails");
            });
        };
        catch_unwind(panics).unwrap_err();
        assert!(start.elapsed() < long);
    }
}
