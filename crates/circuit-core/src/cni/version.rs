//! Versions of the CNI specification.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// A version of the CNI specification, ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CniVersion {
    /// 0.1.0, which is also that of a list without a version: known, not supported.
    V0_1_0,
    /// 0.2.0: known, not supported.
    V0_2_0,
    /// 0.3.0: chains of plugins, the shape of result still in use.
    V0_3_0,
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// 1.0.0: addresses lose their `version`.
    V1_0_0,
    /// 1.1.0: STATUS, GC, more about interfaces and routes.
    V1_1_0,
}

impl CniVersion {
    /// The versions in which Circuit talks to plugins, oldest first.
    pub const SUPPORTED: [Self; 5] = [
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The version in which lists older than that are spoken: plugins that know the older
    /// ones know it, too, and results are the same to containers.
    pub(super) const FOR_OLDER: Self = Self::V0_3_1;

    /// The newest version.
    pub const LATEST: Self = Self::V1_1_0;

    const KNOWN: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The version as it stands in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Whether Circuit talks to plugins in this version.
    pub fn is_supported(self) -> bool {
        Self::SUPPORTED.contains(&self)
    }

    /// CHECK exists, and DEL carries the result of ADD.
    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// STATUS and GC exist.
    pub fn has_status_and_gc(self) -> bool {
        self >= Self::V1_1_0
    }

    /// Addresses in a result say whether they are version "4" or "6".
    pub(super) fn has_address_version(self) -> bool {
        self < Self::V1_0_0
    }

    /// Interfaces have `mtu`, `socketPath` and `pciID`; of routes, more than a
    /// destination and a gateway must be well-formed.
    pub(super) fn has_details(self) -> bool {
        self >= Self::V1_1_0
    }

    /// The supported ones among `offered`, newest first, without repeats.
    /// Texts that are no version known here are passed over: a list may offer
    /// versions of the future.
    pub fn usable<'a>(offered: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let mut usable: Vec<Self> = offered
            .into_iter()
            .filter_map(|text| text.parse().ok())
            .filter(|version: &Self| version.is_supported())
            .collect();
        usable.sort_unstable_by(|a, b| b.cmp(a));
        usable.dedup();
        usable
    }

    /// The highest version that is in both slices.
    pub fn highest_common(ours: &[Self], theirs: &[Self]) -> Option<Self> {
        ours.iter()
            .copied()
            .filter(|version| theirs.contains(version))
            .max()
    }

    /// The supported versions for an error text.
    pub(super) fn supported_text() -> String {
        Self::SUPPORTED.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for CniVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::KNOWN
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "cniVersion {text:?} is not known, use one of {}",
                    Self::supported_text()
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_version_round_trips_in_order() {
        for pair in CniVersion::KNOWN.windows(2) {
            assert!(pair[0] < pair[1]);
        }
        for version in CniVersion::KNOWN {
            assert_eq!(version.to_string().parse::<CniVersion>().unwrap(), version);
        }
    }

    #[test]
    fn old_versions_are_known_but_not_supported() {
        assert!(!CniVersion::V0_1_0.is_supported());
        assert!(!"0.2.0".parse::<CniVersion>().unwrap().is_supported());
        assert!("1.0".parse::<CniVersion>().is_err());
    }

    #[test]
    fn usable_passes_over_what_nobody_knows() {
        assert_eq!(
            CniVersion::usable(["0.2.0", "0.4.0", "9.0.0", "1.1.0", "0.4.0", ""]),
            [CniVersion::V1_1_0, CniVersion::V0_4_0]
        );
    }

    #[test]
    fn the_highest_common_version_wins() {
        use CniVersion as V;
        let ours = [V::V0_4_0, V::V1_0_0, V::V1_1_0];
        assert_eq!(
            V::highest_common(&ours, &[V::V0_3_1, V::V1_0_0]),
            Some(V::V1_0_0)
        );
        assert_eq!(V::highest_common(&ours, &[V::V0_3_1]), None);
    }
}
