//! Definitions with revisions, and what two holders of them owe each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The last change of a network: of two, the one with the higher revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Counts the changes of all networks. None for a definition that was put
    /// into this node's folder by hand and belongs to no fleet yet.
    pub(super) revision: Option<u64>,
    /// The configuration; none when the network was deleted.
    pub(super) data: Option<Vec<u8>>,
}

/// The last change of every network, by name.
pub(super) type Entries = BTreeMap<String, Entry>;

/// The revisions that a node has heard of, as it keeps them beside the
/// definitions.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// Of networks that there are.
    #[serde(default)]
    pub(super) networks: BTreeMap<String, u64>,
    /// Of networks that were deleted: Redis may come back without knowing.
    #[serde(default)]
    pub(super) deleted: BTreeMap<String, u64>,
}

impl Index {
    /// The highest revision heard of.
    pub(super) fn highest(&self) -> u64 {
        let all = self.networks.values().chain(self.deleted.values());
        all.copied().max().unwrap_or_default()
    }

    /// Notes the last change of a network.
    pub(super) fn note(&mut self, name: &str, revision: u64, deleted: bool) {
        let (there, gone) = match deleted {
            false => (&mut self.networks, &mut self.deleted),
            true => (&mut self.deleted, &mut self.networks),
        };
        gone.remove(name);
        there.insert(name.to_owned(), revision);
    }
}

/// What makes two holders hold the same.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Exchange {
    /// What this node has to take over.
    pub(super) take: Entries,
    /// What this node alone knows of: Redis came back empty, or as it was
    /// before.
    pub(super) give: Entries,
}

/// What this node's entries and those in Redis differ in. Where both have the
/// same revision, Redis is right.
pub(super) fn exchange(ours: &Entries, theirs: &Entries) -> Exchange {
    let mut exchange = Exchange::default();
    for (name, their) in theirs {
        let newer = match ours.get(name) {
            None => their.data.is_some(),
            Some(our) => {
                our.revision < their.revision || {
                    our.revision == their.revision && our.data != their.data
                }
            }
        };
        if newer {
            exchange.take.insert(name.clone(), their.clone());
        }
    }
    for (name, our) in ours {
        let unheard = theirs
            .get(name)
            .is_none_or(|their| our.revision > their.revision);
        if unheard {
            exchange.give.insert(name.clone(), our.clone());
        }
    }
    exchange
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Entries> {
        let entry = (1u64..6, proptest::option::of(0u8..3)).prop_map(|(revision, data)| Entry {
            revision: Some(revision),
            data: data.map(|byte| vec![byte]),
        });
        proptest::collection::btree_map("[a-c]", entry, 0..4)
    }

    fn visible(entries: &Entries) -> BTreeMap<&String, &Vec<u8>> {
        entries
            .iter()
            .filter_map(|(name, entry)| Some((name, entry.data.as_ref()?)))
            .collect()
    }

    proptest! {
        #[test]
        fn one_exchange_makes_both_the_same(ours in entries(), theirs in entries()) {
            let exchange = exchange(&ours, &theirs);
            let (mut a, mut b) = (ours.clone(), theirs.clone());
            a.extend(exchange.take);
            b.extend(exchange.give);
            prop_assert_eq!(visible(&a), visible(&b));
            // The last change of each network won.
            for (name, entry) in &a {
                let last = [ours.get(name), theirs.get(name)].into_iter().flatten();
                prop_assert_eq!(entry.revision, last.filter_map(|e| e.revision).max());
            }
        }
    }

    #[test]
    fn a_definition_of_no_fleet_is_given_where_nobody_has_another() {
        let by_hand = Entry {
            revision: None,
            data: Some(b"{}".to_vec()),
        };
        let ours = Entries::from([("a".to_owned(), by_hand.clone()), ("b".to_owned(), by_hand)]);
        let deleted = Entry {
            revision: Some(3),
            data: None,
        };
        let theirs = Entries::from([("b".to_owned(), deleted)]);
        let exchange = exchange(&ours, &theirs);
        assert_eq!(exchange.give.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(exchange.take.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn the_index_knows_each_network_once() {
        let mut index = Index::default();
        index.note("a", 4, false);
        index.note("a", 5, true);
        index.note("b", 2, true);
        index.note("b", 3, false);
        assert_eq!(index.deleted, [("a".to_owned(), 5)].into());
        assert_eq!(index.networks, [("b".to_owned(), 3)].into());
        assert_eq!(index.highest(), 5);
    }
}
