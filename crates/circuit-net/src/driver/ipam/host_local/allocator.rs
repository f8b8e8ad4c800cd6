//! Which address comes next: round and round through the ranges of a set, from
//! the one given out last, so that an address that became free is used again
//! as late as can be.

use std::net::IpAddr;

use super::range::{Range, RangeSet, address, number};
use super::taken::Taken;

/// The next free address of a set, with its range.
pub(super) fn next<'a>(
    set: &'a RangeSet,
    last: Option<IpAddr>,
    taken: &Taken,
) -> Option<(IpAddr, &'a Range)> {
    let ranges = set.ranges();
    let (first, from) = begin(ranges, last);
    // From there to the end of its range, through the others, and what comes
    // before in its range.
    let whole = |range: &Range| (number(range.start), number(range.end));
    let rest = (1..ranges.len()).map(|n| &ranges[(first + n) % ranges.len()]);
    let head = &ranges[first];
    let before = from
        .checked_sub(1)
        .map(|to| (head, (number(head.start), to)));
    std::iter::once((head, (from, number(head.end))))
        .chain(rest.map(|range| (range, whole(range))))
        .chain(before)
        .find_map(|(range, span)| Some((free_in(range, span, taken)?, range)))
}

/// Where to begin: the range, and the number in it.
fn begin(ranges: &[Range], last: Option<IpAddr>) -> (usize, u128) {
    let found = last.and_then(|last| {
        let n = ranges.iter().position(|range| range.contains(last))?;
        Some((n, last))
    });
    match found {
        None => (0, number(ranges[0].start)),
        Some((n, last)) if last == ranges[n].end => {
            let next = (n + 1) % ranges.len();
            (next, number(ranges[next].start))
        }
        Some((n, last)) => (n, number(last) + 1),
    }
}

/// The first free address of a part of a range.
fn free_in(range: &Range, (from, to): (u128, u128), taken: &Taken) -> Option<IpAddr> {
    let like = range.start;
    let mut from = from;
    loop {
        let free = taken.first_free(from, like).filter(|free| *free <= to)?;
        let ip = address(free, like);
        if ip != range.gateway {
            return Some(ip);
        }
        from = free.checked_add(1)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The stock plugin's way: one address after the other until the first
    /// comes again.
    fn model(set: &RangeSet, last: Option<IpAddr>, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let ranges = set.ranges();
        let step = |(n, ip): (usize, IpAddr)| {
            if ip == ranges[n].end {
                let n = (n + 1) % ranges.len();
                (n, ranges[n].start)
            } else {
                (n, address(number(ip) + 1, ip))
            }
        };
        let place = last.and_then(|last| {
            let n = ranges.iter().position(|range| range.contains(last))?;
            Some((n, last))
        });
        let start = place.map_or((0, ranges[0].start), step);
        let mut here = start;
        loop {
            let (n, ip) = here;
            if ip != ranges[n].gateway && !taken.contains(&ip) {
                return Some(ip);
            }
            here = step(here);
            if here == start {
                return None;
            }
        }
    }

    const BASES: [&str; 2] = ["10.0.0.0", "fd00::"];

    fn ip(six: bool, offset: u128) -> IpAddr {
        let base: IpAddr = BASES[usize::from(six)].parse().unwrap();
        address(number(base) + offset, base)
    }

    /// Up to four ranges in a row of 64 addresses, which do not overlap, in
    /// any order.
    fn any_set() -> impl Strategy<Value = (bool, RangeSet)> {
        let cuts = proptest::collection::btree_set(0..64u128, 2..=8);
        let ranges = (
            any::<bool>(),
            cuts,
            any::<u64>(),
            proptest::collection::vec(0..64u128, 4),
        );
        ranges.prop_map(|(six, cuts, order, gateways)| {
            let cuts: Vec<u128> = cuts.into_iter().collect();
            let subnet = if six { "fd00::/122" } else { "10.0.0.0/26" };
            let mut ranges: Vec<Range> = cuts
                .chunks_exact(2)
                .zip(gateways)
                .map(|(ends, gateway)| Range {
                    subnet: subnet.parse().unwrap(),
                    start: ip(six, ends[0]),
                    end: ip(six, ends[1]),
                    gateway: ip(six, gateway),
                })
                .collect();
            let by = usize::try_from(order % 4).unwrap() % ranges.len();
            ranges.rotate_left(by);
            (six, RangeSet::new(ranges, "set").unwrap())
        })
    }

    proptest! {
        #[test]
        fn addresses_come_in_the_stock_order(
            (six, set) in any_set(),
            last in proptest::option::of(0..66u128),
            busy in proptest::collection::btree_set(0..64u128, 0..64),
        ) {
            let busy: BTreeSet<IpAddr> = busy.into_iter().map(|n| ip(six, n)).collect();
            let mut taken = Taken::default();
            busy.iter().for_each(|ip| taken.insert(*ip));
            let last = last.map(|n| ip(six, n));
            let (found, range) = next(&set, last, &taken).unzip();
            prop_assert_eq!(found, model(&set, last, &busy));
            if let (Some(ip), Some(range)) = (found, range) {
                prop_assert!(range.contains(ip));
            }
        }

        #[test]
        fn every_address_is_given_once_and_then_none((six, set) in any_set()) {
            let (mut taken, mut given, mut last) = (Taken::default(), BTreeSet::new(), None);
            while let Some((ip, _)) = next(&set, last, &taken) {
                prop_assert!(given.insert(ip));
                taken.insert(ip);
                last = Some(ip);
            }
            let all: BTreeSet<IpAddr> = (0..64)
                .map(|n| ip(six, n))
                .filter(|ip| set.range_of(*ip).is_some_and(|range| range.gateway != *ip))
                .collect();
            prop_assert_eq!(given, all);
        }
    }

    #[test]
    fn a_full_range_costs_no_walk() {
        let object = serde_json::json!({"subnet": "fd00::/16"});
        let range = Range::parse(object.as_object().unwrap(), "range").unwrap();
        let set = RangeSet::new(vec![range], "set").unwrap();
        let mut taken = Taken::default();
        (1..60_000).for_each(|n| taken.insert(ip(true, n)));
        let (found, _) = next(&set, None, &taken).unwrap();
        assert_eq!(found, ip(true, 60_000));
        taken.insert("fd00::".parse().unwrap());
        let end = set.ranges()[0].end;
        let (found, _) = next(&set, Some(end), &taken).unwrap();
        assert_eq!(found, ip(true, 60_000));
    }
}
