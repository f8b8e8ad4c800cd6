//! The elements of the sets: put in, found by their owner, taken away.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use circuit_core::cni::{ErrorReport, code};

use super::config::{Config, Protocol};
use super::listeners;
use super::rules::{ATTACHMENTS, SETS, address_of, is_of_ports, names, part, waiting_for};
use crate::driver::Answer;
use crate::driver::owner::Owner;
use crate::nft::{Batch, Data, Element, Nft, NftError, TABLE, concat, ifname_key, ip_key};

/// Elements by the name of their set.
pub(super) type Elements = BTreeMap<&'static str, Vec<Element>>;

/// A container's address and the interface that leads there.
pub(super) struct Target {
    pub(super) address: IpAddr,
    pub(super) interface: Option<String>,
}

/// What stands between an attachment and its ports.
enum Obstacle {
    Nft(NftError),
    Report(ErrorReport),
}

impl From<NftError> for Obstacle {
    fn from(error: NftError) -> Self {
        Self::Nft(error)
    }
}

impl From<Obstacle> for ErrorReport {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Nft(error) => error.into(),
            Obstacle::Report(report) => report,
        }
    }
}

/// The elements of an attachment.
///
/// # Errors
/// When a port of the host is to lead to two places.
pub(super) fn wanted(owner: &Owner, config: &Config, targets: &[Target]) -> Answer<Elements> {
    let comment = owner.comment();
    let mut elements = Elements::new();
    for target in targets {
        let v6 = target.address.is_ipv6();
        put_ports(&mut elements, config, target.address)?;
        if !config.snat {
            continue;
        }
        let address = ip_key(target.address);
        let mut put = |set, key| elements.entry(set).or_default().push(Element::new(key));
        if config.masq_all {
            put(names(v6).masq_all, address);
            continue;
        }
        if let Some(interface) = &target.interface {
            let key = concat(&[&ifname_key(interface), &address]);
            put(names(v6).hairpin, key);
        }
        let pairs = names(v6).pairs;
        put(pairs, concat(&[&address, &address]));
        if !v6 {
            let loopback = Ipv4Addr::LOCALHOST.octets();
            put(pairs, concat(&[&loopback, &address]));
        }
    }
    let count = Data::Value(count(&elements).to_ne_bytes().to_vec());
    let attachment = Element::new(owner.key()).leading_to(count);
    elements.insert(ATTACHMENTS, vec![attachment]);
    for element in elements.values_mut().flatten() {
        element.comment = Some(comment.clone());
    }
    Ok(elements)
}

fn put_ports(elements: &mut Elements, config: &Config, target: IpAddr) -> Answer<()> {
    let v6 = target.is_ipv6();
    let mut known = HashMap::new();
    for mapping in &config.mappings {
        let Some(address) = address_of(mapping, v6) else {
            continue;
        };
        let protocol = [mapping.protocol as u8];
        let port = mapping.host_port.to_be_bytes();
        let (set, key) = match address {
            Some(ip) => (
                names(v6).at_address,
                concat(&[&ip_key(ip), &protocol, &port]),
            ),
            None => (names(v6).anywhere, concat(&[&protocol, &port])),
        };
        let to = concat(&[&ip_key(target), &mapping.container_port.to_be_bytes()]);
        match known.entry((set, key)) {
            Entry::Occupied(other) if *other.get() == to => {}
            Entry::Occupied(other) => {
                let text = port_text(set, &other.key().1);
                return Err(ErrorReport::new(
                    code::INVALID_CONFIG,
                    format!(
                        "host port {text} is to lead to two ports of the container: choose one"
                    ),
                ));
            }
            Entry::Vacant(free) => {
                let element = Element::new(free.key().1.clone());
                let element = element.leading_to(Data::Value(to.clone()));
                elements.entry(set).or_default().push(element);
                free.insert(to);
            }
        }
    }
    Ok(())
}

/// Puts an attachment's elements in, and returns those that were not there; what it had
/// before and does not want any more goes.
pub(super) fn put(owner: &Owner, wanted: &Elements) -> Answer<Elements> {
    let part = part();
    let mut nft = Nft::open(None)?;
    let mut look = false;
    loop {
        // Nearly always every port is free: look only when one is not.
        let outcome = nft.transaction(|nft, generation| {
            let mut batch = nft.prepare(&part, generation)?;
            // When the rules went away meanwhile, the elements did too.
            let added = if look && batch.is_empty() {
                let there = all(nft)?;
                replace(&mut batch, owner, wanted, &there).map_err(Obstacle::Report)?
            } else {
                for (set, elements) in wanted {
                    batch.add_elements(TABLE, set, elements);
                }
                wanted.clone()
            };
            Ok::<_, Obstacle>((batch, added))
        });
        match outcome {
            Ok((added, generation)) => {
                nft.note_prepared(&part, generation);
                if let Err(error) = listeners::keep(&mut nft) {
                    tracing::warn!(%error, "published ports may lead away from dns for a moment");
                }
                return Ok(added);
            }
            Err(Obstacle::Nft(NftError::Refused(libc::EEXIST | libc::EBUSY))) if !look => {
                nft.establish(&part)?;
                look = true;
            }
            Err(obstacle) => return Err(obstacle.into()),
        }
    }
}

/// Changes what is there into what an attachment wants; returns what is new.
fn replace(
    batch: &mut Batch,
    owner: &Owner,
    wanted: &Elements,
    there: &Elements,
) -> Answer<Elements> {
    let comment = owner.comment();
    let nothing = Vec::new();
    let mut wanted = in_turn(owner, wanted, there);
    for set in SETS {
        let there = there.get(set.name).unwrap_or(&nothing);
        let add = wanted.entry(set.name).or_default();
        let by_key = by_key(add);
        let (mut delete, mut stays) = (Vec::new(), HashSet::new());
        for element in there {
            let same_key = by_key.get(&*element.key).copied();
            let is_own = element.comment.as_ref() == Some(&comment);
            match same_key {
                Some(same) if same == element => {
                    stays.insert(&*element.key);
                }
                Some(same) if is_own || is_outdated(set.name, same, element) => {
                    delete.push(element.clone());
                }
                Some(_) => return Err(taken(set.name, element)),
                None if is_own => delete.push(element.clone()),
                None => {}
            }
        }
        add.retain(|element| !stays.contains(&*element.key));
        batch.delete_elements(TABLE, set.name, &delete);
        batch.add_elements(TABLE, set.name, add);
    }
    Ok(wanted)
}

fn by_key(elements: &[Element]) -> HashMap<&[u8], &Element> {
    elements.iter().map(|it| (&*it.key, it)).collect()
}

/// What an attachment wants, but for ports that another one of the same container has:
/// for those it waits. A container on two networks has its ports on both, as runtimes
/// ask for them, and its host has each of them once.
fn in_turn(owner: &Owner, wanted: &Elements, there: &Elements) -> Elements {
    let mut turned = Elements::new();
    for (set, elements) in wanted {
        let waiting = waiting_for(set);
        let there = there.get(set).filter(|_| waiting.is_some());
        let there = there.map(|all| by_key(all)).unwrap_or_default();
        for element in elements {
            let is_held =
                |other: &&Element| is_of_sibling(owner, other) && !is_outdated(set, element, other);
            let held = there.get(&*element.key).is_some_and(is_held);
            let (set, element) = match waiting {
                Some(waiting) if held => (waiting, waiting_element(owner, element)),
                _ => (*set, element.clone()),
            };
            turned.entry(set).or_default().push(element);
        }
    }
    turned
}

fn waiting_element(owner: &Owner, port: &Element) -> Element {
    Element {
        key: concat(&[&owner.key(), &port.key]),
        ..port.clone()
    }
}

/// Whether an element is of another attachment of the same container.
fn is_of_sibling(owner: &Owner, element: &Element) -> bool {
    let other = element.comment.as_deref().and_then(Owner::parse);
    other.is_some_and(|other| other != *owner && other.is_of_container_of(owner))
}

/// Gives ports that are gone to attachments of the same container that wait for them.
fn hand_over(batch: &mut Batch, gone: &Elements, there: &Elements) {
    for (set, elements) in gone {
        let waiting = waiting_for(set).and_then(|name| Some((name, there.get(name)?)));
        let Some((name, waiting)) = waiting else {
            continue;
        };
        let gone_too = gone.get(name).map(Vec::as_slice).unwrap_or_default();
        for port in elements {
            let Some(owner) = port.comment.as_deref().and_then(Owner::parse) else {
                continue;
            };
            let next = waiting.iter().find(|it| {
                it.key.ends_with(&port.key) && is_of_sibling(&owner, it) && !gone_too.contains(it)
            });
            if let Some(next) = next {
                let own = Element {
                    key: port.key.clone(),
                    ..next.clone()
                };
                batch.delete_elements(TABLE, name, std::slice::from_ref(next));
                batch.add_elements(TABLE, set, &[own]);
            }
        }
    }
}

/// What waits for ports.
fn waiting(nft: &mut Nft) -> Result<Elements, NftError> {
    let mut all = Elements::new();
    for name in SETS.iter().filter_map(|set| waiting_for(set.name)) {
        all.insert(name, nft.elements(TABLE, name)?);
    }
    Ok(all)
}

/// Whether an element of somebody else is left over from a container that had
/// the address which is this one's now.
fn is_outdated(set: &str, own: &Element, other: &Element) -> bool {
    let address = |element: &Element| match &element.data {
        Some(Data::Value(value)) => value
            .get(..value.len().saturating_sub(4))
            .map(<[u8]>::to_vec),
        _ => None,
    };
    !is_of_ports(set) || address(own) == address(other)
}

fn taken(set: &str, element: &Element) -> ErrorReport {
    let comment = element.comment.as_deref().unwrap_or_default();
    let holder = match Owner::parse(comment) {
        Some(owner) => owner.text(),
        None => format!("something that calls itself {comment:?}"),
    };
    ErrorReport::new(
        code::OTHER,
        format!(
            "host port {} is taken by {holder}: choose another one, or remove that container",
            port_text(set, &element.key)
        ),
    )
}

/// A key of a set of ports, for people: `tcp 8080`, `tcp 192.0.2.1:8080`.
fn port_text(set: &str, key: &[u8]) -> String {
    let split = key.len().saturating_sub(8);
    let (address, rest) = key.split_at(split);
    let number = rest.first().copied().unwrap_or(0);
    let protocol = Protocol::ALL.into_iter().find(|it| *it as u8 == number);
    let protocol = protocol.map_or(number.to_string(), |it| it.to_string());
    let port = rest.get(4..6).and_then(<[u8]>::first_chunk);
    let port = port.map_or(0, |bytes| u16::from_be_bytes(*bytes));
    if let Ok(bytes) = <[u8; 4]>::try_from(address) {
        return format!("{protocol} {}:{port}", Ipv4Addr::from(bytes));
    }
    if let Ok(bytes) = <[u8; 16]>::try_from(address) {
        return format!("{protocol} [{}]:{port}", Ipv6Addr::from(bytes));
    }
    let family = if set == names(true).anywhere {
        " (ipv6)"
    } else {
        ""
    };
    format!("{protocol} {port}{family}")
}

fn count(elements: &Elements) -> u32 {
    let count = elements.values().map(Vec::len).sum::<usize>();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Takes an attachment's elements away; returns them. When they are those that
/// are `likely`, the others' need not be looked at.
pub(super) fn remove(owner: &Owner, likely: &Elements) -> Answer<Elements> {
    let mut nft = Nft::open(None)?;
    let comment = owner.comment();
    let attachment = [Element::new(owner.key())];
    let (gone, _) = nft.transaction(|nft, _| {
        let mut batch = Batch::new();
        let Some(attachment) = nft.find(TABLE, ATTACHMENTS, &attachment)?.pop().flatten() else {
            return Ok((batch, Elements::new()));
        };
        let mut there = those_of(nft, likely, &comment)?;
        there.insert(ATTACHMENTS, Vec::new());
        let found = Data::Value(count(&there).to_ne_bytes().to_vec());
        if attachment.data.as_ref() == Some(&found) {
            there.insert(ATTACHMENTS, vec![attachment]);
        } else {
            there = all(nft)?;
        }
        let gone = delete(&mut batch, there, |of| of == comment);
        hand_over(&mut batch, &gone, &waiting(nft)?);
        Ok::<_, NftError>((batch, gone))
    })?;
    Ok(gone)
}

/// Those among the elements that are there and an attachment's own.
fn those_of(nft: &mut Nft, likely: &Elements, comment: &str) -> Result<Elements, NftError> {
    let mut there = Elements::new();
    for (set, elements) in likely {
        let mut found: Vec<Element> = nft
            .find(TABLE, set, elements)?
            .into_iter()
            .flatten()
            .collect();
        found.retain(|element| element.comment.as_deref() == Some(comment));
        there.insert(set, found);
    }
    Ok(there)
}

/// Takes away what belongs to no attachment of these, in one network.
pub(super) fn keep_only(network: &str, valid: &BTreeSet<Owner>) -> Answer<Elements> {
    let mut nft = Nft::open(None)?;
    let (gone, _) = nft.transaction(|nft, _| {
        let there = all(nft)?;
        let mut batch = Batch::new();
        let gone = delete(&mut batch, there.clone(), |comment| {
            Owner::parse(comment)
                .is_some_and(|owner| owner.is_of_network(network) && !valid.contains(&owner))
        });
        hand_over(&mut batch, &gone, &there);
        Ok::<_, NftError>((batch, gone))
    })?;
    Ok(gone)
}

fn delete(batch: &mut Batch, mut there: Elements, is: impl Fn(&str) -> bool) -> Elements {
    for (set, elements) in &mut there {
        elements.retain(|element| element.comment.as_deref().is_some_and(&is));
        batch.delete_elements(TABLE, set, elements);
    }
    there
}

/// The first element that is not there as it should be, or the rules. A port may be
/// another attachment's of the same container.
pub(super) fn missing(owner: &Owner, wanted: &Elements) -> Answer<Option<String>> {
    let mut nft = Nft::open(None)?;
    if !nft.finds(&part())? {
        return Ok(Some("the rules of port mappings".to_owned()));
    }
    for set in SETS.iter().map(|set| set.name) {
        let Some(elements) = wanted.get(set) else {
            continue;
        };
        let found = nft.find(TABLE, set, elements)?;
        let differs = |(wanted, found): &(&Element, Option<Element>)| {
            let held = |it: &Element| is_of_ports(set) && is_of_sibling(owner, it);
            found.as_ref() != Some(*wanted) && !found.as_ref().is_some_and(held)
        };
        if let Some((element, _)) = elements.iter().zip(found).find(differs) {
            return Ok(Some(match is_of_ports(set) {
                true => format!("host port {}", port_text(set, &element.key)),
                false => format!("the element of set {set}"),
            }));
        }
    }
    Ok(None)
}

/// Whether there are port mappings at all, and the kernel can do them.
pub(super) fn works() -> Answer<()> {
    Nft::open(None)?.generation()?;
    Ok(())
}

/// Whose ports are published.
pub(in crate::driver) fn owners(nft: &mut Nft) -> Result<BTreeSet<Owner>, NftError> {
    let all = all(nft)?;
    let comments = all
        .values()
        .flatten()
        .filter_map(|it| it.comment.as_deref());
    Ok(comments.filter_map(Owner::parse).collect())
}

fn all(nft: &mut Nft) -> Result<Elements, NftError> {
    let mut all = Elements::new();
    for set in SETS {
        all.insert(set.name, nft.elements(TABLE, set.name)?);
    }
    Ok(all)
}

/// A UDP port of the host.
pub(super) struct UdpPort {
    /// The one address of the host at which it is, if it is not at all.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    /// Where it leads.
    pub(super) to: SocketAddr,
}

/// The UDP ports of the host among elements.
pub(super) fn udp_ports(elements: &Elements, v6: bool) -> Vec<UdpPort> {
    let names = names(v6);
    let sets = [names.at_address, names.anywhere].into_iter();
    let all = sets.filter_map(|set| elements.get(set)).flatten();
    all.filter_map(udp_port).collect()
}

fn udp_port(element: &Element) -> Option<UdpPort> {
    let (address, [protocol, _, _, _, high, low, ..]) = element.key.split_last_chunk::<8>()?;
    let Some(Data::Value(to)) = &element.data else {
        return None;
    };
    let (ip, [to_high, to_low, ..]) = to.split_last_chunk::<4>()?;
    (*protocol == Protocol::Udp as u8).then_some(UdpPort {
        address: ip_of(address),
        port: u16::from_be_bytes([*high, *low]),
        to: (ip_of(ip)?, u16::from_be_bytes([*to_high, *to_low])).into(),
    })
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::config::Mapping;
    use super::*;

    #[test]
    fn of_many_ports_only_those_that_are_missing_are_new() {
        let mapping = |host_port| Mapping {
            host_ip: None,
            host_port,
            container_port: 80,
            protocol: Protocol::Udp,
        };
        let config = Config {
            snat: true,
            masq_all: false,
            mappings: (1..=16_000).map(mapping).collect(),
        };
        let owner = Owner::new("net", "web", "eth0");
        let target = Target {
            address: [10, 0, 0, 2].into(),
            interface: None,
        };
        let wanted = wanted(&owner, &config, &[target]).unwrap();
        let mut there = wanted.clone();
        there.get_mut("ports4").unwrap().pop();
        let added = replace(&mut Batch::new(), &owner, &wanted, &there).unwrap();
        let added = udp_ports(&added, false);
        assert_eq!(added.len(), 1);
        assert_eq!((added[0].address, added[0].port), (None, 16_000));
        assert_eq!(added[0].to, "10.0.0.2:80".parse().unwrap());
    }
}
