//! One lock a name: work on one container runs one after the other, work on
//! different containers side by side.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

type Locks = Arc<Mutex<HashMap<String, Arc<AsyncMutex<()>>>>>;

/// Locks by name; a name nobody holds takes no memory.
#[derive(Debug, Default, Clone)]
pub struct KeyedLocks {
    locks: Locks,
}

/// A held lock.
#[derive(Debug)]
pub struct KeyGuard {
    key: String,
    locks: Locks,
    guard: Option<OwnedMutexGuard<()>>,
}

impl KeyedLocks {
    /// Waits for the lock of `key`.
    pub async fn lock(&self, key: &str) -> KeyGuard {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.entry(key.to_owned()).or_default().clone()
        };
        KeyGuard {
            guard: Some(lock.lock_owned().await),
            key: key.to_owned(),
            locks: self.locks.clone(),
        }
    }

    /// Whether somebody holds the lock of `key`.
    pub fn is_held(&self, key: &str) -> bool {
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.get(key).is_some_and(|lock| lock.try_lock().is_err())
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // Whoever waits holds a reference too.
        if locks
            .get(&self.key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_name_is_held_once_and_leaves_nothing() {
        let locks = KeyedLocks::default();
        assert!(!locks.is_held("a"));
        let first = locks.lock("a").await;
        assert!(locks.is_held("a"));
        let other = locks.lock("b").await;
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { locks.lock("a").await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        drop(waiting.await.unwrap());
        drop(other);
        assert!(locks.locks.lock().unwrap().is_empty());
    }
}
