//! Masquerading of networks: what leaves a network's subnets gets this host's
//! address. One rule for each subnet of a network, however many containers.
//! Rules that name an interface need Linux 5.7.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::batch::{Batch, Hook, HookPoint, PRIORITY_SRCNAT};
use super::expr::{Compare, Rule, Verdict};
use super::part::{Chain, Part};
use super::userdata::{COMMENT_MAX, fnv};
use super::{Nft, NftError, Result, RuleInfo, TABLE, TRIES, attribute};
use crate::driver::Answer;

/// The chain with the rules of the networks; `masquerade` is a word of `nft`.
const CHAIN: &str = "networks";

const PAYLOAD_OFFSET: u16 = 3;
const BITWISE_MASK: u16 = 4;
const CMP_DATA: u16 = 3;

/// Has everything masqueraded that goes from the subnets of a network to
/// somewhere outside of the same subnet, multicast excepted; where `iface` is
/// given, only what came in by that interface. What other subnets of the network
/// have stays: there may be containers that were attached with them. Costs one
/// question when that is so already.
///
/// # Errors
/// When the ruleset cannot be read or changed.
pub fn ensure(network: &str, iface: Option<&str>, subnets: &[IpNet]) -> Answer<()> {
    let mut nft = Nft::open(None)?;
    for _ in 0..TRIES {
        match ensure_rules(&mut nft, network, iface, subnets) {
            // The chain went away behind our back.
            Err(NftError::Refused(libc::ENOENT)) => {}
            other => return Ok(other?),
        }
    }
    Err(NftError::Busy.into())
}

/// Each rule is remembered by itself, for other attachments have other subnets.
fn ensure_rules(
    nft: &mut Nft,
    network: &str,
    iface: Option<&str>,
    subnets: &[IpNet],
) -> Result<()> {
    let named: Vec<(String, Rule)> = subnets
        .iter()
        .map(|subnet| {
            let name = format!("{}{}", names(network), subnet.trunc());
            (name, rule(network, iface, *subnet))
        })
        .collect();
    nft.establish(&part())?;
    let known = |nft: &Nft, generation| {
        let mut all = named.iter();
        all.all(|(name, rule)| nft.knows(name, rule.digest(), generation))
    };
    let ((), generation) = nft.transaction(|nft, generation| {
        let mut batch = Batch::new();
        if known(nft, generation) {
            return Ok((batch, ()));
        }
        let there = of_network(nft, network)?;
        for ((name, rule), subnet) in named.iter().zip(subnets) {
            if has(&there, rule.digest()) {
                continue;
            }
            nft.note_missing(name);
            // As `nft` has written it out, or for another interface.
            let of_subnet = |it: &&RuleInfo| subnet_of(it) == Some(subnet.trunc());
            for outdated in there.iter().filter(of_subnet) {
                batch.delete_rule(TABLE, CHAIN, outdated.handle);
            }
            batch.add_rule(TABLE, CHAIN, rule);
        }
        Ok::<_, NftError>((batch, ()))
    })?;
    for (name, rule) in &named {
        let digest = rule.digest();
        if !nft.knows(name, digest, generation) {
            let network = network.to_owned();
            nft.note(name, digest, generation, move |nft| {
                Ok(has(&of_network(nft, &network)?, digest))
            });
        }
    }
    Ok(())
}

/// The subnets that a network's rules name.
///
/// # Errors
/// When the ruleset cannot be read.
pub fn subnets(network: &str) -> Answer<Vec<IpNet>> {
    let rules = of_network(&mut Nft::open(None)?, network)?;
    Ok(rules.iter().filter_map(subnet_of).collect())
}

/// What a rule's source is compared with. `nft` writes a mask of whole bytes as a
/// shorter comparison.
fn subnet_of(rule: &RuleInfo) -> Option<IpNet> {
    let value = |data, kind| attribute(attribute(data, kind)?, 1);
    let mut rest = rule.expressions.iter();
    let (_, source) = rest.find(|(name, _)| name == "payload")?;
    let length = match attribute(source, PAYLOAD_OFFSET)? {
        [0, 0, 0, 12] => 4,
        [0, 0, 0, 8] => 16,
        _ => return None,
    };
    let address = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.resize(length, 0);
        let v4 = <[u8; 4]>::try_from(&*bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(&*bytes).map(IpAddr::from))
            .ok()
    };
    let (name, data) = rest.next()?;
    let (network, mask) = match name.as_str() {
        "bitwise" => {
            let compared = value(&rest.next()?.1, CMP_DATA)?;
            (compared, value(data, BITWISE_MASK)?.to_vec())
        }
        _ => {
            let compared = value(data, CMP_DATA)?;
            (compared, vec![0xff; compared.len()])
        }
    };
    IpNet::with_netmask(address(network)?, address(&mask)?).ok()
}

/// Takes the rules of a network away; no error when there are none.
///
/// # Errors
/// When the ruleset cannot be read or changed.
pub fn release(network: &str) -> Answer<()> {
    let mut nft = Nft::open(None)?;
    nft.forget_all(&names(network));
    nft.transaction(|nft, _| {
        let there = of_network(nft, network)?;
        let mut batch = Batch::new();
        delete(&mut batch, &there);
        Ok::<_, NftError>((batch, ()))
    })?;
    Ok(())
}

/// What the names of a network's rules begin with; no network's name has a slash.
fn names(network: &str) -> String {
    format!("{CHAIN} {network}/")
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

fn has(rules: &[RuleInfo], digest: u64) -> bool {
    rules.iter().any(|rule| rule.digest == Some(digest))
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
