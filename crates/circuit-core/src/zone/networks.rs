//! The networks whose names and subnets are ours to answer for.

use std::{collections::HashMap, sync::Arc};

use ipnet::IpNet;

use super::label;

/// The networks of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    /// By their names in small letters, and as labels.
    names: HashMap<String, Arc<str>>,
    /// From the longest prefix on.
    subnets: Vec<IpNet>,
}

impl Networks {
    /// Networks with their subnets.
    pub fn new<'n>(networks: impl IntoIterator<Item = (&'n str, Vec<IpNet>)>) -> Self {
        let mut all = Self::default();
        for (name, subnets) in networks {
            let shared: Arc<str> = name.into();
            // Its own name before one that another network's was changed into.
            let entry = all.names.entry(label(name).into_owned());
            entry.or_insert_with(|| Arc::clone(&shared));
            all.names.insert(name.to_ascii_lowercase(), shared);
            all.subnets.extend(subnets.iter().map(IpNet::trunc));
        }
        all.subnets
            .sort_by_key(|subnet| (std::cmp::Reverse(subnet.prefix_len()), subnet.addr()));
        all.subnets.dedup();
        all
    }

    /// The network of a name as DNS has it, in small letters.
    pub fn named(&self, name: &str) -> Option<&Arc<str>> {
        self.names.get(name)
    }

    /// The narrowest subnet that has all of a prefix.
    pub fn subnet_of(&self, prefix: IpNet) -> Option<IpNet> {
        let mut subnets = self.subnets.iter();
        subnets.find(|subnet| subnet.contains(&prefix)).copied()
    }

    /// The subnets, the narrowest first.
    pub fn subnets(&self) -> &[IpNet] {
        &self.subnets
    }

    /// The networks' own names, perhaps more than once.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.values()
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = self.names.values().cloned().collect();
        names.sort();
        names.dedup();
        names
    }
}
