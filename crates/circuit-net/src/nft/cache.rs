//! What this process has found intact, and in which generation of the ruleset.
//!
//! Only a generation that this process made itself keeps what it knows. After
//! any other one it looks again, once.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Nft, Result};

/// Looks whether something is as it was left.
type Look = Arc<dyn Fn(&mut Nft) -> Result<bool> + Send + Sync>;

struct Known {
    generation: u32,
    digest: u64,
    look: Look,
}

#[derive(Default)]
struct Cache {
    known: BTreeMap<(u64, String), Known>,
    /// The namespaces in which something was missing that was there before.
    lost: BTreeSet<u64>,
}

static CACHE: Mutex<Option<Cache>> = Mutex::new(None);

fn with_cache<T>(f: impl FnOnce(&mut Cache) -> T) -> T {
    // Whatever a panic left in it is looked at again in the next generation.
    let mut cache: MutexGuard<'_, Option<Cache>> =
        CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    f(cache.get_or_insert_default())
}

impl Nft {
    /// Whether `name` was found intact, with that digest, in this generation.
    pub(crate) fn knows(&self, name: &str, digest: u64, generation: u32) -> bool {
        let Some(cookie) = self.cookie else {
            return false;
        };
        with_cache(|cache| {
            let known = cache.known.get(&(cookie, name.to_owned()));
            known.is_some_and(|known| known.digest == digest && known.generation == generation)
        })
    }

    /// Notes that `name` is intact in this generation.
    pub(crate) fn note(
        &self,
        name: &str,
        digest: u64,
        generation: u32,
        look: impl Fn(&mut Self) -> Result<bool> + Send + Sync + 'static,
    ) {
        let Some(cookie) = self.cookie else { return };
        let known = Known {
            generation,
            digest,
            look: Arc::new(look),
        };
        with_cache(|cache| cache.known.insert((cookie, name.to_owned()), known));
    }

    /// Notes that what begins with these letters is wanted no longer.
    pub(crate) fn forget_all(&self, start: &str) {
        let Some(cookie) = self.cookie else { return };
        let stays = |(of, name): &(u64, String)| *of != cookie || !name.starts_with(start);
        with_cache(|cache| cache.known.retain(|key, _| stays(key)));
    }

    /// Notes that `name` is not there. If it was before, everything may be
    /// gone that was there with it.
    pub(super) fn note_missing(&self, name: &str) {
        let Some(cookie) = self.cookie else { return };
        with_cache(|cache| {
            if cache.known.contains_key(&(cookie, name.to_owned())) {
                cache.lost.insert(cookie);
            }
        });
    }
}

/// What was intact before a change of this process' own is so after it.
pub(super) fn advance(cookie: Option<u64>, from: u32, to: u32) {
    let Some(cookie) = cookie else { return };
    with_cache(|cache| {
        for ((of, _), known) in &mut cache.known {
            if *of == cookie && known.generation == from {
                known.generation = to;
            }
        }
    });
}

/// Whether all that this process has put into the ruleset of the calling
/// thread's namespace is there: masquerading, and what port mappings rest on.
/// Costs one question when nobody else has changed the ruleset.
///
/// When it says no, something has been taken away, at one stroke in all
/// likelihood (`nft flush ruleset`): every network and every attachment is to
/// be set up anew. It says so once, also when parts are there again already.
///
/// # Errors
/// When the ruleset cannot be read.
pub fn is_intact() -> Result<bool> {
    let mut nft = Nft::open(None)?;
    let Some(cookie) = nft.cookie else {
        return Ok(true);
    };
    look_again(&mut nft, cookie)?;
    Ok(!with_cache(|cache| cache.lost.remove(&cookie)))
}

/// Looks for what was last seen in an earlier generation of the ruleset, and notes a loss:
/// it is still to be said when something else cannot be looked at.
fn look_again(nft: &mut Nft, cookie: u64) -> Result<()> {
    let generation = nft.generation()?;
    let stale: Vec<(String, u32, Look)> = with_cache(|cache| {
        let of_here = cache.known.iter().filter(|((of, _), _)| *of == cookie);
        of_here
            .filter(|(_, known)| known.generation != generation)
            .map(|((_, name), known)| (name.clone(), known.generation, Arc::clone(&known.look)))
            .collect()
    });
    for (name, seen, look) in stale {
        let is_there = look(nft)?;
        with_cache(|cache| {
            if !is_there {
                cache.lost.insert(cookie);
            }
            // Another thread may have made it again meanwhile.
            let Entry::Occupied(mut known) = cache.known.entry((cookie, name)) else {
                return;
            };
            match is_there {
                true => known.get_mut().generation = generation,
                // Whoever wants it makes it again, and notes it; perhaps nobody does.
                false if known.get().generation == seen => drop(known.remove()),
                false => {}
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::OLD_KERNEL;
    use crate::nft::NftError;

    #[test]
    fn kernels_without_cookies_are_remembered_by_their_namespace() {
        OLD_KERNEL.set(true);
        // Nothing is written: what is noted here was never made.
        let mut nft = Nft::open(None).unwrap();
        let generation = nft.generation().unwrap();
        nft.note("a test", 7, generation, |_| Ok(true));
        assert!(Nft::open(None).unwrap().knows("a test", 7, generation));
        nft.note("a test", 7, generation.wrapping_sub(1), |_| Ok(false));
        assert!(!is_intact().unwrap());
        // Nobody makes it again.
        assert!(is_intact().unwrap());
        // A loss is told once it can be told.
        nft.note("a test", 7, generation, |_| Ok(true));
        nft.note_missing("a test");
        nft.note("a test", 7, generation.wrapping_sub(1), |_| {
            Err(NftError::Busy)
        });
        assert!(is_intact().is_err());
        nft.forget_all("a test");
        assert!(!is_intact().unwrap());
        assert!(is_intact().unwrap());
        // So is one that is found beside something that cannot be looked at.
        let old = generation.wrapping_sub(1);
        for (name, answer) in [("a test", Ok(false)), ("b test", Err(NftError::Busy))] {
            let answer = Mutex::new(Some(answer));
            let next = move || answer.lock().unwrap().take();
            nft.note(name, 7, old, move |_| next().unwrap_or(Ok(true)));
        }
        assert!(is_intact().is_err());
        assert!(!is_intact().unwrap());
        assert!(is_intact().unwrap());
        nft.forget_all("b test");
        // Another namespace may get its number from one that is gone.
        let elsewhere = std::thread::spawn(|| {
            OLD_KERNEL.set(true);
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            Nft::open(None).unwrap().cookie
        });
        assert_eq!(elsewhere.join().unwrap(), None);
    }
}
