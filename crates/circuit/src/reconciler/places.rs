//! How many containers are looked at side by side.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Looks at this many containers side by side: plugins are processes.
const AT_ONCE: usize = 8;
/// A look that takes longer waits for somebody, such as a DHCP server that is not
/// there, and gives up its place.
const UNHURRIED: Duration = Duration::from_secs(5);
/// Together with those that gave theirs up: what is slow because the machine is, is
/// not to make it slower.
const AT_MOST: usize = 128;

/// Places for looks.
pub(super) struct Places {
    free: Arc<Semaphore>,
    all: Arc<Semaphore>,
    given_up: Arc<Notify>,
}

/// A look's place; it is free again when this is dropped.
pub(super) struct Place {
    permit: OwnedSemaphorePermit,
    any: OwnedSemaphorePermit,
    given_up: Arc<Notify>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(AT_ONCE)),
            all: Arc::new(Semaphore::new(AT_MOST)),
            given_up: Arc::default(),
        }
    }
}

impl Places {
    /// A place, if one is free.
    pub(super) fn take(&self) -> Option<Place> {
        Some(Place {
            permit: Arc::clone(&self.free).try_acquire_owned().ok()?,
            any: Arc::clone(&self.all).try_acquire_owned().ok()?,
            given_up: Arc::clone(&self.given_up),
        })
    }

    pub(super) fn are_free(&self) -> bool {
        self.free.available_permits() > 0 && self.all.available_permits() > 0
    }

    /// Returns when a place was given up before its look had ended.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl Place {
    /// Keeps the place while something is done, but not for long.
    pub(super) async fn during<T>(self, look: impl Future<Output = T>) -> T {
        let mut look = pin!(look);
        if let Ok(done) = tokio::time::timeout(UNHURRIED, &mut look).await {
            return done;
        }
        drop(self.permit);
        self.given_up.notify_one();
        let done = look.await;
        drop(self.any);
        done
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_long_keeps_nobody_waiting() {
        let places = Places::default();
        let taken: Vec<Place> = std::iter::from_fn(|| places.take()).collect();
        assert_eq!((taken.len(), places.are_free()), (AT_ONCE, false));
        let mut looks = tokio::task::JoinSet::new();
        for place in taken {
            looks.spawn(place.during(std::future::pending::<()>()));
        }
        places.given_up().await;
        assert!(places.take().is_some());
        // But not for ever.
        tokio::time::sleep(UNHURRIED).await;
        while let Some(place) = places.take() {
            looks.spawn(place.during(std::future::pending::<()>()));
            tokio::time::sleep(UNHURRIED).await;
        }
        assert_eq!(looks.len(), AT_MOST);
        looks.abort_all();
        while looks.join_next().await.is_some() {}
        assert!(places.are_free());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_after_its_look() {
        let places = Places::default();
        let place = places.take().unwrap();
        assert_eq!(places.free.available_permits(), AT_ONCE - 1);
        assert_eq!(place.during(async { 7 }).await, 7);
        assert_eq!(places.free.available_permits(), AT_ONCE);
    }
}
