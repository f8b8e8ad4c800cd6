//! The addresses that are taken, so that the next free one is found without
//! a look at each of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::range::number;

/// Numbers in runs: the first of each run, and its last. Runs neither overlap
/// nor touch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Runs(BTreeMap<u128, u128>);

impl Runs {
    /// The run that has a number.
    fn run_of(&self, number: u128) -> Option<(u128, u128)> {
        let (first, last) = self.0.range(..=number).next_back()?;
        (*last >= number).then_some((*first, *last))
    }

    fn insert(&mut self, number: u128) {
        if self.run_of(number).is_some() {
            return;
        }
        let (mut first, mut last) = (number, number);
        if let Some((before, _)) = number.checked_sub(1).and_then(|n| self.run_of(n)) {
            first = before;
        }
        if let Some(next) = number.checked_add(1)
            && let Some(after) = self.0.remove(&next)
        {
            last = after;
        }
        self.0.insert(first, last);
    }

    fn remove(&mut self, number: u128) {
        let Some((first, last)) = self.run_of(number) else {
            return;
        };
        if first == number {
            self.0.remove(&first);
        } else {
            self.0.insert(first, number - 1);
        }
        if last != number {
            self.0.insert(number + 1, last);
        }
    }

    /// The first number from `from` on that is in no run.
    fn first_free(&self, from: u128) -> Option<u128> {
        match self.run_of(from) {
            None => Some(from),
            Some((_, last)) => last.checked_add(1),
        }
    }
}

/// The taken addresses of both families.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    v4: Runs,
    v6: Runs,
}

impl Taken {
    pub(super) fn insert(&mut self, ip: IpAddr) {
        self.of_mut(ip).insert(number(ip));
    }

    pub(super) fn remove(&mut self, ip: IpAddr) {
        self.of_mut(ip).remove(number(ip));
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.of(ip).run_of(number(ip)).is_some()
    }

    /// The first number from `from` on, of the family of `like`, that is free;
    /// it may be past the family's end.
    pub(super) fn first_free(&self, from: u128, like: IpAddr) -> Option<u128> {
        self.of(like).first_free(from)
    }

    fn of(&self, like: IpAddr) -> &Runs {
        if like.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    fn of_mut(&mut self, like: IpAddr) -> &mut Runs {
        if like.is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_ends_of_a_family_are_no_trouble() {
        let mut runs = Runs::default();
        runs.insert(u128::MAX);
        runs.insert(u128::MAX - 1);
        runs.insert(0);
        assert_eq!(runs.first_free(u128::MAX - 1), None);
        assert_eq!(runs.first_free(0), Some(1));
        runs.remove(u128::MAX);
        assert_eq!(runs.first_free(u128::MAX - 1), Some(u128::MAX));
    }

    proptest! {
        #[test]
        fn runs_are_as_a_plain_set(steps in proptest::collection::vec((any::<bool>(), 0..40u128), 0..120)) {
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for (add, number) in steps {
                if add {
                    runs.insert(number);
                    model.insert(number);
                } else {
                    runs.remove(number);
                    model.remove(&number);
                }
                for from in 0..42 {
                    prop_assert_eq!(runs.run_of(from).is_some(), model.contains(&from));
                    let free = (from..).find(|n| !model.contains(n));
                    prop_assert_eq!(runs.first_free(from), free);
                }
                let ends: Vec<_> = runs.0.iter().collect();
                let apart = ends.windows(2).all(|two| *two[0].1 + 1 < *two[1].0);
                prop_assert!(apart, "{:?}", runs);
            }
        }
    }
}
