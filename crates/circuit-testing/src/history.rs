//! A history of who had which address when, and whether any had two owners.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// What happened to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Given,
    Released,
}

#[derive(Debug, Clone)]
struct Event {
    at: u64,
    what: What,
    address: IpAddr,
    owner: String,
}

/// An address that two had at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The address.
    pub address: IpAddr,
    /// Who had it.
    pub first: String,
    /// Since when.
    pub since: u64,
    /// Who was given it too.
    pub second: String,
    /// When.
    pub at: u64,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            first,
            since,
            second,
            at,
        } = self;
        write!(
            f,
            "{address} is {first}'s since {since} and was given to {second} at {at}"
        )
    }
}

/// Every allocation and release. Note an allocation after the answer has come,
/// a release before it is asked for: then an overlap is one for certain.
#[derive(Debug)]
pub struct History {
    start: Instant,
    events: Mutex<Vec<Event>>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            events: Mutex::default(),
        }
    }
}

impl History {
    /// The time since the history began, in microseconds.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// An owner, such as `node1/container`, has an address.
    pub fn given(&self, address: IpAddr, owner: &str) {
        self.note(self.now(), What::Given, address, owner);
    }

    /// An owner is about to let go of an address.
    pub fn released(&self, address: IpAddr, owner: &str) {
        self.note(self.now(), What::Released, address, owner);
    }

    /// As [`given`](Self::given), at a time of the caller's own clock.
    pub fn given_at(&self, at: u64, address: IpAddr, owner: &str) {
        self.note(at, What::Given, address, owner);
    }

    /// As [`released`](Self::released), at a time of the caller's own clock.
    pub fn released_at(&self, at: u64, address: IpAddr, owner: &str) {
        self.note(at, What::Released, address, owner);
    }

    fn note(&self, at: u64, what: What, address: IpAddr, owner: &str) {
        let event = Event {
            at,
            what,
            address,
            owner: owner.to_owned(),
        };
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
    }

    /// How many allocations there were.
    pub fn len(&self) -> usize {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let given = events.iter().filter(|event| event.what == What::Given);
        given.count()
    }

    /// True when nothing was given.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every allocation of an address that somebody had.
    pub fn overlaps(&self) -> Vec<Overlap> {
        let mut events = self
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        events.sort_by_key(|event| event.at);
        let mut has: BTreeMap<IpAddr, Vec<(String, u64)>> = BTreeMap::new();
        let mut overlaps = Vec::new();
        for Event {
            at,
            what,
            address,
            owner,
        } in events
        {
            let owners = has.entry(address).or_default();
            if what == What::Released {
                owners.retain(|(other, _)| *other != owner);
                continue;
            }
            if let Some((first, since)) = owners.iter().find(|(other, _)| *other != owner) {
                overlaps.push(Overlap {
                    address,
                    first: first.clone(),
                    since: *since,
                    second: owner.clone(),
                    at,
                });
            }
            owners.push((owner, at));
        }
        overlaps
    }

    /// Fails the test when an address had two owners.
    #[track_caller]
    pub fn assert_sound(&self) {
        let overlaps: Vec<String> = self.overlaps().iter().map(ToString::to_string).collect();
        assert!(overlaps.is_empty(), "{}", overlaps.join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found_and_successors_are_none() {
        let history = History::default();
        let ip = IpAddr::from([10, 0, 0, 2]);
        let other = IpAddr::from([10, 0, 0, 3]);
        history.given_at(1, ip, "a");
        history.given_at(2, other, "b");
        history.released_at(3, ip, "a");
        history.given_at(3, ip, "b");
        history.assert_sound();
        history.given_at(4, ip, "c");
        let overlaps = history.overlaps();
        assert_eq!(overlaps.len(), 1);
        assert_eq!(
            overlaps[0].to_string(),
            "10.0.0.2 is b's since 3 and was given to c at 4"
        );
        assert_eq!(history.len(), 4);
    }
}
