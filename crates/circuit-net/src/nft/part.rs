//! Parts of the table: sets, chains and rules that belong together and are the
//! same on every host.

use super::batch::{Batch, Hook};
use super::expr::Rule;
use super::read::{ChainInfo, RuleInfo, SetInfo};
use super::set::Set;
use super::userdata::fnv;
use super::{Nft, NftError, Result, TABLE, TABLE_COMMENT};

/// A part of [`TABLE`].
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name, for the memory of what is intact.
    pub name: &'static str,
    /// Its sets; what is in them is not part of it.
    pub sets: &'static [Set],
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// A chain of a part.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The name, unique in the table.
    pub name: &'static str,
    /// Where the kernel calls it, if it does.
    pub hook: Option<Hook>,
    /// Its rules; `None` when they are not part of this.
    pub rules: Option<Vec<Rule>>,
}

/// What is there of the table.
struct Found {
    chains: Vec<ChainInfo>,
    sets: Vec<SetInfo>,
    rules: Vec<RuleInfo>,
}

impl Nft {
    /// What is to be done so that a part is there: nothing when it is there.
    ///
    /// # Errors
    /// When the ruleset cannot be read.
    pub fn prepare(&mut self, part: &Part, generation: u32) -> Result<Batch> {
        let digest = part.digest();
        if self.knows(part.name, digest, generation) {
            return Ok(Batch::new());
        }
        let found = self.found()?;
        if part.is_in(&found) {
            self.note_part(part, digest, generation);
            return Ok(Batch::new());
        }
        self.note_missing(part.name);
        Ok(part.build(&found))
    }

    /// Notes that a part is there in this generation, as it is after its
    /// preparation was carried out.
    pub fn note_prepared(&self, part: &Part, generation: u32) {
        let digest = part.digest();
        if !self.knows(part.name, digest, generation) {
            self.note_part(part, digest, generation);
        }
    }

    /// Makes a part, if it is not there.
    ///
    /// # Errors
    /// When the ruleset cannot be read or changed.
    pub fn establish(&mut self, part: &Part) -> Result<()> {
        let ((), generation) = self.transaction(|nft, generation| {
            let batch = nft.prepare(part, generation)?;
            Ok::<_, NftError>((batch, ()))
        })?;
        self.note_prepared(part, generation);
        Ok(())
    }

    /// Whether a part is there, which is noted: it will be missed.
    ///
    /// # Errors
    /// When the ruleset cannot be read.
    pub(crate) fn finds(&mut self, part: &Part) -> Result<bool> {
        let generation = self.generation()?;
        Ok(self.prepare(part, generation)?.is_empty())
    }

    /// Whether a part is there.
    ///
    /// # Errors
    /// When the ruleset cannot be read.
    pub fn has(&mut self, part: &Part) -> Result<bool> {
        let found = self.found()?;
        Ok(part.is_in(&found))
    }

    fn note_part(&self, part: &Part, digest: u64, generation: u32) {
        let copy = part.clone();
        self.note(part.name, digest, generation, move |nft| nft.has(&copy));
    }

    fn found(&mut self) -> Result<Found> {
        let mut chains = self.chains(TABLE.family)?;
        chains.retain(|chain| chain.table == TABLE.name);
        if chains.is_empty() {
            return Ok(Found {
                chains,
                sets: self.sets(TABLE)?,
                rules: Vec::new(),
            });
        }
        Ok(Found {
            chains,
            sets: self.sets(TABLE)?,
            rules: self.rules(TABLE, None)?,
        })
    }
}

impl Part {
    fn digest(&self) -> u64 {
        let digests = self.chains.iter().flat_map(Chain::digests);
        let bytes: Vec<u8> = digests.flat_map(u64::to_be_bytes).collect();
        fnv(&bytes)
    }

    fn is_in(&self, found: &Found) -> bool {
        let set_is_there = |set: &Set| found.shape_of(set).is_some_and(|same| same);
        let chain_is_there = |chain: &Chain| {
            found.chain(chain.name).is_some_and(|it| chain.fits(it)) && chain.has_rules(found)
        };
        self.sets.iter().all(set_is_there) && self.chains.iter().all(chain_is_there)
    }

    /// Makes the part out of whatever there is.
    fn build(&self, found: &Found) -> Batch {
        let mut batch = Batch::new();
        batch.add_table(TABLE, Some(TABLE_COMMENT));
        for chain in &self.chains {
            let Some(there) = found.chain(chain.name) else {
                continue;
            };
            if chain.rules.is_some() || !chain.fits(there) {
                batch.flush_chain(TABLE, chain.name);
            }
        }
        for chain in &self.chains {
            if found.chain(chain.name).is_some_and(|it| !chain.fits(it)) {
                batch.delete_chain(TABLE, chain.name);
            }
        }
        for set in self.sets {
            if found.shape_of(set) == Some(false) {
                batch.delete_set(TABLE, set.name);
            }
            batch.add_set(TABLE, set);
        }
        for chain in &self.chains {
            batch.add_chain(TABLE, chain.name, chain.hook);
        }
        for chain in &self.chains {
            for rule in chain.rules.iter().flatten() {
                batch.add_rule(TABLE, chain.name, rule);
            }
        }
        batch
    }
}

impl Chain {
    fn fits(&self, there: &ChainInfo) -> bool {
        match (&self.hook, &there.hook) {
            (None, None) => true,
            (Some(hook), Some(there)) => {
                there.kind == hook.kind
                    && there.point == hook.point as u32
                    && there.priority == hook.priority
                    && !there.drops
            }
            _ => false,
        }
    }

    fn digests(&self) -> impl Iterator<Item = u64> {
        let name = fnv(self.name.as_bytes());
        let rules = self.rules.iter().flatten().map(Rule::digest);
        std::iter::once(name).chain(rules)
    }

    fn has_rules(&self, found: &Found) -> bool {
        let Some(rules) = &self.rules else {
            return true;
        };
        let there = found.rules.iter().filter(|rule| rule.chain == self.name);
        there
            .map(|rule| rule.digest)
            .eq(rules.iter().map(|rule| Some(rule.digest())))
    }
}

impl Found {
    fn chain(&self, name: &str) -> Option<&ChainInfo> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// Whether the set of that name is such a set, if there is one.
    fn shape_of(&self, set: &Set) -> Option<bool> {
        let there = self.sets.iter().find(|there| there.name == set.name)?;
        Some(there.shape == set.shape())
    }
}
