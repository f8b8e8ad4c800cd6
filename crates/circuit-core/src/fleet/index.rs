//! From keys to records, in shards that snapshots share.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::Arc;

use super::Record;

/// With 100,000 records, a change copies about a hundred entries.
const SHARDS: usize = 1024;

/// Which records a key leads to. Nearly always one.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    One([Arc<Record>; 1]),
    Many(Box<[Arc<Record>]>),
}

impl Entry {
    pub(super) fn records(&self) -> &[Arc<Record>] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }

    fn of(mut records: Vec<Arc<Record>>) -> Option<Self> {
        match records.len() {
            0 => None,
            1 => records.pop().map(|only| Self::One([only])),
            _ => Some(Self::Many(records.into())),
        }
    }
}

pub(super) type Shard<K> = HashMap<K, Entry>;

#[derive(Debug, Clone)]
pub(super) struct Index<K> {
    shards: Arc<Vec<Arc<Shard<K>>>>,
    len: usize,
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        // One empty shard for all, until they are written to.
        let empty = Arc::new(Shard::new());
        Self {
            shards: Arc::new(vec![empty; SHARDS]),
            len: 0,
        }
    }
}

impl<K> Index<K> {
    /// Whether it is the same one, unchanged.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shards, &other.shards)
    }

    /// The shards that are not the same in both, ours first. Both are of one map.
    pub(super) fn changed<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (&'a Shard<K>, &'a Shard<K>)> {
        let pairs = self.shards.iter().zip(before.shards.iter());
        pairs
            .filter(|(now, before)| !Arc::ptr_eq(now, before))
            .map(|(now, before)| (&**now, &**before))
    }

    /// Every record, in no order.
    pub(super) fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        let entries = self.shards.iter().flat_map(|shard| shard.values());
        entries.flat_map(Entry::records)
    }
}

fn shard_of(key: &(impl Hash + ?Sized)) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
    usize::try_from(hash % SHARDS as u64).unwrap_or_default()
}

impl<K: Hash + Eq + Clone> Index<K> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> &[Arc<Record>]
    where
        K: Borrow<Q>,
    {
        self.shards
            .get(shard_of(key))
            .and_then(|shard| shard.get(key))
            .map_or(&[], Entry::records)
    }

    pub(super) fn add(&mut self, key: K, record: Arc<Record>) {
        let mut records = self.get(&key).to_vec();
        self.len += usize::from(records.is_empty());
        records.push(record);
        // The same order on every node, whatever came first.
        records.sort_by(|a, b| (&a.node, &a.container).cmp(&(&b.node, &b.container)));
        self.set(shard_of(&key), key, Entry::of(records));
    }

    pub(super) fn take<Q: Hash + Eq + ToOwned + ?Sized>(&mut self, key: &Q, record: &Arc<Record>)
    where
        K: Borrow<Q>,
    {
        let left: Vec<Arc<Record>> = self
            .get(key)
            .iter()
            .filter(|held| !Arc::ptr_eq(held, record))
            .cloned()
            .collect();
        let Some(shard) = Arc::make_mut(&mut self.shards).get_mut(shard_of(key)) else {
            return;
        };
        let shard = Arc::make_mut(shard);
        match Entry::of(left) {
            Some(entry) => {
                if let Some(held) = shard.get_mut(key) {
                    *held = entry;
                }
            }
            None => self.len -= usize::from(shard.remove(key).is_some()),
        }
    }

    fn set(&mut self, at: usize, key: K, entry: Option<Entry>) {
        let shards = Arc::make_mut(&mut self.shards);
        if let (Some(shard), Some(entry)) = (shards.get_mut(at), entry) {
            Arc::make_mut(shard).insert(key, entry);
        }
    }
}
