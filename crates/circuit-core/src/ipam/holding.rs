//! The addresses of one pool that this node holds, and who has them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{AddressSet, Use, User};

/// A change of a [`Holding`], as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// The ledger gave these to this node; or they are suspect from now on.
    Hold {
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// Somebody who is away may use them: the wire must be asked first.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        suspect: bool,
    },
    /// These are not this node's any more.
    Drop {
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// A container has it.
    Use {
        /// The address.
        address: IpAddr,
        /// Who, and for what.
        by: Use,
    },
    /// Its container let go of it.
    Free {
        /// The address.
        address: IpAddr,
    },
    /// Nobody on the wire has it.
    Clear {
        /// The address.
        address: IpAddr,
    },
}

/// What keeps a request from being served out of what is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Any address of the set of this place.
    Any(usize),
    /// This address, of the set of this place.
    Exact(usize, IpAddr),
    /// This one is in use on this node already.
    InUse(IpAddr, Use),
    /// This one belongs to no set, or to one that gives another already.
    Nowhere(IpAddr),
}

/// The addresses of one pool on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    used: BTreeMap<IpAddr, Use>,
    /// Free ones, those that have been free for longest first: an address that
    /// was just let go of is remembered by neighbours for a while.
    spare: VecDeque<IpAddr>,
    suspect: BTreeSet<IpAddr>,
}

impl Holding {
    /// Takes a change over.
    pub fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Hold { addresses, suspect } => {
                for address in addresses {
                    self.hold(*address, *suspect);
                }
            }
            Entry::Drop { addresses } => {
                for address in addresses {
                    self.used.remove(address);
                    self.suspect.remove(address);
                    self.spare.retain(|spare| spare != address);
                }
            }
            Entry::Use { address, by } => {
                self.spare.retain(|spare| spare != address);
                self.used.insert(*address, by.clone());
            }
            Entry::Free { address } => {
                if self.used.remove(address).is_some() {
                    self.spare.push_back(*address);
                }
            }
            Entry::Clear { address } => {
                self.suspect.remove(address);
            }
        }
    }

    fn hold(&mut self, address: IpAddr, suspect: bool) {
        if !self.holds(address) {
            self.spare.push_back(address);
        }
        if suspect {
            self.suspect.insert(address);
        }
    }

    /// The changes that lead to what is held, from nothing.
    pub fn entries(&self) -> Vec<Entry> {
        let all = self.used.keys().chain(&self.spare);
        let (suspect, sound): (Vec<_>, Vec<_>) = all.partition(|ip| self.suspect.contains(ip));
        let mut entries = Vec::new();
        for (addresses, suspect) in [(sound, false), (suspect, true)] {
            if !addresses.is_empty() {
                entries.push(Entry::Hold { addresses, suspect });
            }
        }
        entries.extend(self.used.iter().map(|(address, by)| Entry::Use {
            address: *address,
            by: by.clone(),
        }));
        entries
    }

    /// Chooses an address of each set, the wished ones where there are some.
    /// Nothing is changed: [`Entry::Use`] does that.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn choose(&self, sets: &[AddressSet], wishes: &[IpAddr]) -> Result<Vec<IpAddr>, Missing> {
        let mut wishes = wishes.to_vec();
        let mut chosen = Vec::new();
        for (place, set) in sets.iter().enumerate() {
            let wish = wishes.iter().position(|ip| set.span_of(*ip).is_some());
            chosen.push(match wish {
                Some(wish) => self.exact(place, wishes.remove(wish))?,
                None => self.any(place, set, &chosen)?,
            });
        }
        match wishes.first() {
            Some(wish) => Err(Missing::Nowhere(*wish)),
            None => Ok(chosen),
        }
    }

    fn exact(&self, place: usize, ip: IpAddr) -> Result<IpAddr, Missing> {
        match self.used.get(&ip) {
            Some(by) => Err(Missing::InUse(ip, by.clone())),
            None if self.spare.contains(&ip) => Ok(ip),
            None => Err(Missing::Exact(place, ip)),
        }
    }

    fn any(&self, place: usize, set: &AddressSet, chosen: &[IpAddr]) -> Result<IpAddr, Missing> {
        let fits = |ip: &&IpAddr| set.span_of(**ip).is_some() && !chosen.contains(ip);
        let sound = |ip: &&IpAddr| !self.suspect.contains(ip);
        let mut spare = self.spare.iter().filter(fits);
        let chosen = self.spare.iter().filter(fits).find(sound);
        chosen
            .or_else(|| spare.next())
            .copied()
            .ok_or(Missing::Any(place))
    }

    /// Whether an address is this node's.
    pub fn holds(&self, ip: IpAddr) -> bool {
        self.used.contains_key(&ip) || self.spare.contains(&ip)
    }

    /// Whether the wire must be asked before an address is used.
    pub fn is_suspect(&self, ip: IpAddr) -> bool {
        self.suspect.contains(&ip)
    }

    /// The addresses in use.
    pub fn used(&self) -> &BTreeMap<IpAddr, Use> {
        &self.used
    }

    /// The addresses of an interface.
    pub fn of(&self, user: &User) -> Vec<IpAddr> {
        let its = self.used.iter().filter(|(_, by)| by.user == *user);
        its.map(|(ip, _)| *ip).collect()
    }

    /// The free addresses, those that have been free for longest first.
    pub fn spare(&self) -> impl Iterator<Item = IpAddr> {
        self.spare.iter().copied()
    }

    /// How many free addresses of a set there are.
    pub fn spare_in(&self, set: &AddressSet) -> usize {
        let fits = |ip: &&IpAddr| set.span_of(**ip).is_some();
        self.spare.iter().filter(fits).count()
    }

    /// Free addresses beyond `keep` of each set that are better given back.
    pub fn surplus(&self, set: &AddressSet, keep: usize) -> Vec<IpAddr> {
        let more = self.spare_in(set).saturating_sub(keep);
        let its = self.spare().filter(|ip| set.span_of(*ip).is_some());
        its.take(more).collect()
    }

    /// Every address that is this node's, those in use first.
    pub fn all(&self) -> Vec<IpAddr> {
        self.used.keys().copied().chain(self.spare()).collect()
    }

    /// How many addresses are this node's.
    pub fn len(&self) -> usize {
        self.used.len() + self.spare.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Span;
    use super::*;
    use proptest::prelude::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn set(first: u8, last: u8) -> AddressSet {
        AddressSet {
            spans: vec![Span {
                subnet: "10.0.0.0/24".parse().unwrap(),
                first: ip(first),
                last: ip(last),
                gateway: ip(1),
            }],
        }
    }

    fn by(container: &str) -> Use {
        Use {
            user: User {
                container: container.into(),
                ifname: "eth0".into(),
            },
            network: "lan".into(),
        }
    }

    fn held(addresses: &[u8]) -> Holding {
        let mut holding = Holding::default();
        holding.apply(&Entry::Hold {
            addresses: addresses.iter().map(|n| ip(*n)).collect(),
            suspect: false,
        });
        holding
    }

    #[test]
    fn what_was_free_for_longest_is_used_first() {
        let mut holding = held(&[2, 3]);
        assert_eq!(holding.choose(&[set(2, 9)], &[]), Ok(vec![ip(2)]));
        for entry in [
            Entry::Use {
                address: ip(2),
                by: by("a"),
            },
            Entry::Free { address: ip(2) },
        ] {
            holding.apply(&entry);
        }
        assert_eq!(holding.choose(&[set(2, 9)], &[]), Ok(vec![ip(3)]));
        assert_eq!(holding.surplus(&set(2, 9), 1), [ip(3)]);
    }

    #[test]
    fn wishes_go_to_their_set() {
        let mut holding = held(&[2, 3, 20]);
        let sets = [set(2, 9), set(20, 29)];
        assert_eq!(holding.choose(&sets, &[ip(3)]), Ok(vec![ip(3), ip(20)]));
        assert_eq!(
            holding.choose(&sets, &[ip(21)]),
            Err(Missing::Exact(1, ip(21)))
        );
        assert_eq!(
            holding.choose(&sets, &[ip(99)]),
            Err(Missing::Nowhere(ip(99)))
        );
        assert_eq!(
            holding.choose(&sets, &[ip(2), ip(3)]),
            Err(Missing::Nowhere(ip(3)))
        );
        holding.apply(&Entry::Use {
            address: ip(20),
            by: by("a"),
        });
        assert_eq!(holding.choose(&sets, &[]), Err(Missing::Any(1)));
        assert_eq!(
            holding.choose(&sets, &[ip(20)]),
            Err(Missing::InUse(ip(20), by("a")))
        );
        assert_eq!(holding.of(&by("a").user), [ip(20)]);
    }

    #[test]
    fn suspects_are_the_last_choice() {
        let mut holding = Holding::default();
        holding.apply(&Entry::Hold {
            addresses: vec![ip(2)],
            suspect: true,
        });
        holding.apply(&Entry::Hold {
            addresses: vec![ip(3)],
            suspect: false,
        });
        assert_eq!(holding.choose(&[set(2, 9)], &[]), Ok(vec![ip(3)]));
        holding.apply(&Entry::Drop {
            addresses: vec![ip(3)],
        });
        assert_eq!(holding.choose(&[set(2, 9)], &[]), Ok(vec![ip(2)]));
        assert!(holding.is_suspect(ip(2)));
        holding.apply(&Entry::Clear { address: ip(2) });
        assert!(!holding.is_suspect(ip(2)));
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let address = || (2..12_u8).prop_map(ip);
        let addresses = || proptest::collection::vec(address(), 0..4);
        prop_oneof![
            (addresses(), any::<bool>())
                .prop_map(|(addresses, suspect)| Entry::Hold { addresses, suspect }),
            addresses().prop_map(|addresses| Entry::Drop { addresses }),
            (address(), "[ab]").prop_map(|(address, c)| Entry::Use {
                address,
                by: by(&c)
            }),
            address().prop_map(|address| Entry::Free { address }),
            address().prop_map(|address| Entry::Clear { address }),
        ]
    }

    proptest! {
        #[test]
        fn no_address_is_both_free_and_used(entries in proptest::collection::vec(entry(), 0..40)) {
            let mut holding = Holding::default();
            for entry in &entries {
                holding.apply(entry);
                let mut all = holding.all();
                let count = all.len();
                all.sort();
                all.dedup();
                prop_assert_eq!(all.len(), count);
            }
            let mut again = Holding::default();
            for entry in holding.entries() {
                again.apply(&entry);
            }
            prop_assert_eq!(&again.used, &holding.used);
            let all = |holding: &Holding| holding.spare().collect::<BTreeSet<_>>();
            prop_assert_eq!(all(&again), all(&holding));
        }
    }
}
