//! Sets of addresses that a search found used up.

use super::AddressSet;

/// For how long one is left alone first. Each further search in vain doubles it.
const FIRST_MS: u64 = 2_000;
/// And at most.
const LONGEST_MS: u64 = 60_000;

/// Sets of which nothing is taken for later for a while, as the last search, which costs
/// as much as they are large, was in vain.
#[derive(Debug, Clone, Default)]
pub struct UsedUp(Vec<(AddressSet, Rest)>);

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: u64,
    ms: u64,
}

impl UsedUp {
    /// Takes up that a search was in vain.
    pub fn note(&mut self, set: &AddressSet, now: u64) {
        let fresh = |rest: &Rest| now < rest.until.saturating_add(LONGEST_MS);
        self.0.retain(|(_, rest)| fresh(rest));
        let before = self.0.iter().position(|(its, _)| its == set);
        let before = before.map(|place| self.0.swap_remove(place).1);
        let ms = before.map_or(FIRST_MS, |rest| (2 * rest.ms).min(LONGEST_MS));
        let until = now.saturating_add(ms);
        self.0.push((set.clone(), Rest { until, ms }));
    }

    /// Whether a set is better left alone.
    pub fn rests(&self, set: &AddressSet, now: u64) -> bool {
        let mut its = self.0.iter().filter(|(its, _)| its == set);
        its.any(|(_, rest)| now < rest.until)
    }

    /// Takes up that there is something again.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::*;

    fn other() -> AddressSet {
        let [first, last] = [2, 5].map(|n| std::net::IpAddr::from([10, 0, 0, n]));
        let spans = vec![Span {
            subnet: "10.0.0.0/24".parse().expect("a subnet"),
            first,
            last,
            gateway: first,
        }];
        AddressSet { spans }
    }

    #[test]
    fn what_is_used_up_is_left_alone_for_longer_each_time() {
        let (set, other) = (AddressSet { spans: Vec::new() }, other());
        let mut used_up = UsedUp::default();
        let mut now = 1_000;
        for ms in [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            assert!(!used_up.rests(&set, now));
            used_up.note(&set, now);
            assert!(used_up.rests(&set, now + ms - 1) && !used_up.rests(&other, now));
            now += ms;
        }
        used_up.clear();
        assert!(!used_up.rests(&set, now - 1));
    }
}
