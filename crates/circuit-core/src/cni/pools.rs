//! Pools from which subnets for new networks are taken.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{Error, Result};

/// A range of addresses that is cut into subnets of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubnetPool {
    base: IpNet,
    size: u8,
}

impl SubnetPool {
    /// A pool that cuts `base` into subnets with prefixes of `size` bits.
    ///
    /// # Errors
    /// `InvalidArgument` when nothing would come of it.
    pub fn new(base: IpNet, size: u8) -> Result<Self> {
        if size == 0 || size < base.prefix_len() || size + 2 > base.max_prefix_len() {
            return Err(Error::invalid(format!(
                "{base} cannot be cut into subnets of size {size}: give one from {} to {}",
                base.prefix_len().max(1),
                base.max_prefix_len() - 2
            )));
        }
        let base = base.trunc();
        Ok(Self { base, size })
    }

    /// Whether its subnets are of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.base.addr().is_ipv6()
    }

    /// The first of its subnets that overlaps none of those.
    pub fn free(&self, taken: &[IpNet]) -> Option<IpNet> {
        let last = number(self.base.broadcast());
        let bits = u32::from(self.base.max_prefix_len() - self.size);
        let mut at = number(self.base.network());
        // Each round passes at least one of `taken`.
        loop {
            let subnet = self.subnet(at)?;
            let overlaps =
                |net: &&IpNet| net.contains(&subnet.network()) || subnet.contains(&net.network());
            let family = |net: &&IpNet| net.addr().is_ipv6() == self.is_ipv6();
            let in_the_way = taken.iter().filter(family).filter(overlaps);
            let Some(end) = in_the_way.map(|net| number(net.broadcast())).max() else {
                return Some(subnet);
            };
            let end = end.max(number(subnet.broadcast()));
            at = (end >> bits).checked_add(1)?.checked_shl(bits)?;
            if at > last || at <= end {
                return None;
            }
        }
    }

    fn subnet(&self, at: u128) -> Option<IpNet> {
        match self.base {
            IpNet::V4(_) => {
                let ip = Ipv4Addr::from(u32::try_from(at).ok()?);
                Ipv4Net::new(ip, self.size).ok().map(IpNet::V4)
            }
            IpNet::V6(_) => {
                let ip = Ipv6Addr::from(at);
                Ipv6Net::new(ip, self.size).ok().map(IpNet::V6)
            }
        }
    }
}

/// An address as a number of its family.
fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

impl fmt::Display for SubnetPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "base={},size={}", self.base, self.size)
    }
}

impl FromStr for SubnetPool {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let form = "write base=10.88.0.0/13,size=24";
        let wrong = |what: String| Error::invalid(format!("{what}: {form}"));
        let (mut base, mut size) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("base", net)) => {
                    let net = net.parse::<IpNet>();
                    base = Some(net.map_err(|_| wrong(format!("{part:?} has no subnet")))?);
                }
                Some(("size", bits)) => {
                    let bits = bits.parse::<u8>();
                    size = Some(bits.map_err(|_| wrong(format!("{part:?} has no number")))?);
                }
                _ => return Err(wrong(format!("{part:?} is neither base nor size"))),
            }
        }
        match (base, size) {
            (Some(base), Some(size)) => Self::new(base, size),
            _ => Err(wrong(format!("{text:?} is not whole"))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(text: &str) -> SubnetPool {
        text.parse().unwrap()
    }

    fn nets(all: &[&str]) -> Vec<IpNet> {
        all.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_free_subnet() {
        let pool = pool("base=10.88.0.0/13,size=24");
        let free = |taken: &[&str]| pool.free(&nets(taken)).map(|net| net.to_string());
        assert_eq!(free(&[]).unwrap(), "10.88.0.0/24");
        assert_eq!(free(&["10.88.0.0/24"]).unwrap(), "10.88.1.0/24");
        assert_eq!(free(&["10.88.0.128/25"]).unwrap(), "10.88.1.0/24");
        assert_eq!(
            free(&["10.88.0.0/16", "10.90.0.0/24"]).unwrap(),
            "10.89.0.0/24"
        );
        assert_eq!(
            free(&["10.88.0.0/16", "10.89.0.7/32"]).unwrap(),
            "10.89.1.0/24"
        );
        assert_eq!(free(&["fd00::/8"]).unwrap(), "10.88.0.0/24");
        assert_eq!(free(&["10.0.0.0/8"]), None);
        assert_eq!(free(&["10.88.0.0/14", "10.92.0.0/14"]), None);
    }

    #[test]
    fn the_ends_of_the_space() {
        let last = pool("base=255.255.255.0/24,size=30");
        assert_eq!(last.free(&nets(&["255.255.255.0/24"])), None);
        let last = pool("base=ffff:ffff:ffff:ffff::/64,size=64");
        assert_eq!(last.free(&nets(&["ffff:ffff:ffff:ffff::/64"])), None);
        let all = pool("base=::/0,size=64");
        assert_eq!(all.free(&nets(&["::/1"])).unwrap().to_string(), "8000::/64");
        assert_eq!(all.free(&nets(&["::/0"])), None);
        assert!("base=::/0,size=0".parse::<SubnetPool>().is_err());
    }

    #[test]
    fn forms() {
        let text = "base=fd00:c1c::/48,size=64";
        assert_eq!(pool(text).to_string(), text);
        for wrong in [
            "",
            "10.0.0.0/8",
            "base=10.0.0.0/8",
            "size=24",
            "base=x,size=24",
            "base=10.0.0.0/8,size=x",
            "base=10.0.0.0/24,size=16",
            "base=10.0.0.0/8,size=31",
            "base=10.0.0.0/8,size=24,x=1",
        ] {
            assert!(wrong.parse::<SubnetPool>().is_err(), "{wrong}");
        }
    }

    proptest! {
        /// What is chosen is of the pool and overlaps nothing, and nothing before it
        /// would have done.
        #[test]
        fn what_is_chosen_is_free(taken in proptest::collection::vec((any::<u8>(), 20_u8..=32), 0..40)) {
            let pool = pool("base=10.0.0.0/20,size=24");
            let taken: Vec<IpNet> = taken
                .into_iter()
                .map(|(byte, length)| {
                    let ip = Ipv4Addr::new(10, 0, byte & 15, byte);
                    IpNet::V4(Ipv4Net::new(ip, length).unwrap().trunc())
                })
                .collect();
            let overlap = |a: &IpNet, b: &IpNet| a.contains(&b.network()) || b.contains(&a.network());
            let subnets: Vec<IpNet> = "10.0.0.0/20".parse::<IpNet>().unwrap().subnets(24).unwrap().collect();
            let want = subnets.into_iter().find(|net| !taken.iter().any(|t| overlap(t, net)));
            prop_assert_eq!(pool.free(&taken), want);
        }
    }
}
