//! Masquerading of networks: what leaves a network's subnets gets this host's
//! address. One rule for each subnet of a network, however many containers.
//! Rules that name an interface need Linux 5.7.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::batch::{Batch, Hook, HookPoint, PRIORITY_SRCNAT};
use super::expr::{Compare, Rule, Verdict};
use super::part::{Chain, Part};
use super::userdata::{COMMENT_MAX, fnv};
use super::{Nft, NftError, Result, RuleInfo, TABLE, TRIES};
use crate::driver::Answer;

/// The chain with the rules of the networks; `masquerade` is a word of `nft`.
const CHAIN: &str = "networks";

/// Has everything masqueraded that goes from the subnets of a network to
/// somewhere outside of the same subnet, multicast excepted; where `iface` is
/// given, only what came in by that interface. Costs one question when that is
/// so already.
///
/// # Errors
/// When the ruleset cannot be read or changed.
pub fn ensure(network: &str, iface: Option<&str>, subnets: &[IpNet]) -> Answer<()> {
    let rules: Vec<Rule> = subnets
        .iter()
        .map(|subnet| rule(network, iface, *subnet))
        .collect();
    let mut nft = Nft::open(None)?;
    for _ in 0..TRIES {
        match ensure_rules(&mut nft, network, &rules) {
            // The chain went away behind our back.
            Err(NftError::Refused(libc::ENOENT)) => {}
            other => return Ok(other?),
        }
    }
    Err(NftError::Busy.into())
}

fn ensure_rules(nft: &mut Nft, network: &str, rules: &[Rule]) -> Result<()> {
    let digests: Vec<u64> = rules.iter().map(Rule::digest).collect();
    let bytes: Vec<u8> = digests.iter().flat_map(|d| d.to_be_bytes()).collect();
    let (digest, name) = (fnv(&bytes), name(network));
    nft.establish(&part())?;
    let ((), generation) = nft.transaction(|nft, generation| {
        let mut batch = Batch::new();
        if nft.knows(&name, digest, generation) {
            return Ok((batch, ()));
        }
        let there = of_network(nft, network)?;
        if are(&there, &digests) {
            return Ok::<_, NftError>((batch, ()));
        }
        if there.is_empty() {
            nft.note_missing(&name);
        }
        delete(&mut batch, &there);
        for rule in rules {
            batch.add_rule(TABLE, CHAIN, rule);
        }
        Ok((batch, ()))
    })?;
    if !nft.knows(&name, digest, generation) {
        let network = network.to_owned();
        nft.note(&name, digest, generation, move |nft| {
            Ok(are(&of_network(nft, &network)?, &digests))
        });
    }
    Ok(())
}

/// Takes the rules of a network away; no error when there are none.
///
/// # Errors
/// When the ruleset cannot be read or changed.
pub fn release(network: &str) -> Answer<()> {
    let mut nft = Nft::open(None)?;
    nft.forget(&name(network));
    nft.transaction(|nft, _| {
        let there = of_network(nft, network)?;
        let mut batch = Batch::new();
        delete(&mut batch, &there);
        Ok::<_, NftError>((batch, ()))
    })?;
    Ok(())
}

fn name(network: &str) -> String {
    format!("{CHAIN} {network}")
}

/// The comment that says whose a rule is.
fn owner(network: &str) -> String {
    let text = format!("network {network}");
    if text.len() <= COMMENT_MAX {
        return text;
    }
    let start: String = text.chars().take(COMMENT_MAX / 2 - 17).collect();
    format!("{start}~{:016x}", fnv(network.as_bytes()))
}

fn of_network(nft: &mut Nft, network: &str) -> Result<Vec<RuleInfo>> {
    let owner = owner(network);
    let mut rules = nft.rules(TABLE, Some(CHAIN))?;
    rules.retain(|rule| rule.comment.as_deref() == Some(&owner));
    Ok(rules)
}

fn are(rules: &[RuleInfo], digests: &[u64]) -> bool {
    let there = rules.iter().map(|rule| rule.digest);
    there.eq(digests.iter().copied().map(Some))
}

fn delete(batch: &mut Batch, rules: &[RuleInfo]) {
    for rule in rules {
        batch.delete_rule(TABLE, CHAIN, rule.handle);
    }
}

fn rule(network: &str, iface: Option<&str>, subnet: IpNet) -> Rule {
    let subnet = subnet.trunc();
    let rule = match iface {
        Some(name) => Rule::new().iifname(Compare::Equal, name),
        None => Rule::new(),
    };
    rule.family(subnet.addr().is_ipv6())
        .saddr(Compare::Equal, subnet)
        .daddr(Compare::Differ, subnet)
        .masquerade()
        .comment(owner(network))
}

/// What the rules of the networks rest on.
fn part() -> Part {
    let multicast = [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
        IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0),
            8,
        )),
    ];
    let mut rules: Vec<Rule> = multicast
        .into_iter()
        .map(|net| {
            Rule::new()
                .family(net.addr().is_ipv6())
                .daddr(Compare::Equal, net)
                .verdict(&Verdict::Return)
        })
        .collect();
    rules.push(Rule::new().verdict(&Verdict::Jump(CHAIN.to_owned())));
    Part {
        name: CHAIN,
        sets: &[],
        chains: vec![
            Chain {
                name: CHAIN,
                hook: None,
                rules: None,
            },
            Chain {
                name: "postrouting",
                hook: Some(Hook {
                    kind: "nat",
                    point: HookPoint::Postrouting,
                    priority: PRIORITY_SRCNAT,
                }),
                rules: Some(rules),
            },
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_of_long_names_fit_and_differ() {
        let (a, b) = ("n".repeat(300) + "a", "n".repeat(300) + "b");
        assert!(owner(&a).len() <= COMMENT_MAX);
        assert_ne!(owner(&a), owner(&b));
        assert_eq!(owner("web"), "network web");
    }
}
