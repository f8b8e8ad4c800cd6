//! The names that DNS has for containers, found in the fleet's maps: which names
//! are ours, whether they exist, and what they lead to.
//!
//! | name | leads to |
//! |---|---|
//! | `CONTAINER.NETWORK` | its addresses on that network |
//! | `CONTAINER.NETWORK.DOMAIN` | the same |
//! | `CONTAINER.DOMAIN` | its addresses on all networks |
//! | `CONTAINER.NODE.node.DOMAIN` | those of that node's container |
//! | `_PORT._PROTOCOL.` before any of these | a published port |
//! | `….in-addr.arpa`, `….ip6.arpa` | the container with that address |
//!
//! An alias stands for the container on the network that it was given for.

mod label;
mod names;
mod networks;
mod reverse;
mod services;
mod special;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use crate::fleet::{Attached, Record, Snapshot};
use crate::{Error, Result};

pub(crate) use label::checksum;
pub use label::{label, network_labels};
use names::{
    Names, Wanted, addresses, is_above, is_above_ports, is_called, is_named, network_names, ports,
};
pub use networks::Networks;
pub use special::special;

/// The domain of containers when no other is chosen. `internal` is set aside for
/// private use.
pub const DOMAIN: &str = "circuit.internal";

/// A domain's name in small letters, without a dot at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(String);

impl Domain {
    /// Reads a domain.
    ///
    /// # Errors
    /// When it is no name of a domain.
    pub fn parse(text: &str) -> Result<Self> {
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        let fits = |part: &str| !part.is_empty() && !part.starts_with('_') && label(part) == part;
        // What comes before it must fit too.
        if name.len() > 120 || !name.split('.').all(fits) {
            return Err(Error::invalid(format!(
                "{text:?} is no domain; give one such as {DOMAIN}"
            )));
        }
        Ok(Self(name))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is asked of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// `A`
    V4,
    /// `AAAA`
    V6,
    /// `PTR`
    Pointer,
    /// `SRV`
    Service,
    /// `SOA`
    Authority,
    /// `NS`
    Server,
    /// `ANY`: one kind of what there is is enough (RFC 8482).
    Any,
    /// A type that no name of ours has.
    Other,
}

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// `A` or `AAAA`
    Address(IpAddr),
    /// `PTR`
    Pointer(String),
    /// `SRV`
    Service {
        /// The container's port.
        port: u16,
        /// The container's name.
        target: String,
    },
    /// `SOA` of the apex
    Authority,
    /// `NS`: a server of the zone
    Server(String),
}

/// What is known of a name in one of our zones. Names are in small letters, and
/// have no dot at their end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The zone's name.
    pub apex: String,
    /// Whether the name exists, with whatever it leads to.
    pub exists: bool,
    /// What was asked for.
    pub data: Vec<Data>,
    /// Addresses of names in the data.
    pub additional: Vec<(String, IpAddr)>,
}

impl Found {
    fn new(apex: impl Into<String>, exists: bool) -> Self {
        Self {
            apex: apex.into(),
            exists,
            data: Vec::new(),
            additional: Vec::new(),
        }
    }
}

/// Whose names are to be seen.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Those of all networks.
    All,
    /// Those of these networks.
    Networks(&'a [Arc<str>]),
}

impl Scope<'_> {
    fn has(&self, network: &str) -> bool {
        match self {
            Self::All => true,
            Self::Networks(networks) => networks.iter().any(|one| **one == *network),
        }
    }
}

/// The zones at one moment, as somebody sees them.
#[derive(Debug, Clone, Copy)]
pub struct Zone<'a> {
    /// The containers' domain.
    pub domain: &'a Domain,
    /// The networks of this node.
    pub networks: &'a Networks,
    /// The containers: of this node, and of others.
    pub maps: &'a [Snapshot],
    /// What is to be seen.
    pub scope: Scope<'a>,
    /// Where the zone's own server is.
    pub servers: &'a [IpAddr],
}

/// A container on one network.
type Match<'a> = (&'a Arc<Record>, &'a Attached);

impl<'a> Zone<'a> {
    /// What is known of a name, given by its labels in small letters. None when it
    /// is in none of our zones.
    pub fn find(&self, labels: &[&str], asked: Asked) -> Option<Found> {
        if let Some(rest) = self.below_domain(labels) {
            return Some(self.in_domain(rest, asked));
        }
        if let Some(place) = reverse::Place::read(labels) {
            return self.reverse(place, asked);
        }
        let below = self.below_reverse(labels);
        below.or_else(|| self.on_network(labels, asked))
    }

    /// The nodes whose containers are the answer, sorted.
    pub fn nodes_of(&self, labels: &[&str]) -> Vec<Arc<str>> {
        let mut nodes: Vec<Arc<str>> = Vec::new();
        let mut add = |record: &Record| nodes.push(Arc::clone(&record.node));
        if let Some(reverse::Place::Address(address)) = reverse::Place::read(labels) {
            for (record, _) in self.holders(address) {
                add(record);
            }
        } else {
            let all = self.below_domain(labels);
            let rest = ports(all.unwrap_or(labels)).map_or(&[][..], |(_, rest)| rest);
            let all = match all {
                Some(_) => self.domain_matches(rest).map(|(matches, _)| matches),
                None => network_names(rest).map(|names| self.matches(&names)),
            };
            all.unwrap_or_default()
                .iter()
                .for_each(|(record, _)| add(record));
        }
        nodes.sort();
        nodes.dedup();
        nodes
    }

    /// The name by which a container's address is told.
    pub fn name_of(&self, record: &Record, attached: &Attached) -> String {
        let (container, network) = (label(&record.container), network_labels(&attached.network));
        format!("{container}.{network}.{}", self.domain)
    }

    fn below_domain<'l, 'q>(&self, labels: &'l [&'q str]) -> Option<&'l [&'q str]> {
        let mut rest = labels;
        for part in self.domain.0.rsplit('.') {
            let (last, before) = rest.split_last()?;
            if *last != part {
                return None;
            }
            rest = before;
        }
        Some(rest)
    }

    fn in_domain(&self, rest: &[&str], asked: Asked) -> Found {
        let apex = self.domain.as_str();
        if rest.is_empty() {
            return self.apex(apex, asked);
        }
        let Some((wanted, names)) = ports(rest) else {
            let matches = |names: &[&str]| self.domain_matches(names).map(|(matches, _)| matches);
            return Found::new(apex, is_above_ports(rest, matches));
        };
        let (matches, node) = self.domain_matches(names).unwrap_or_default();
        if !matches.is_empty() {
            return self.told(apex, &matches, node.as_deref(), wanted, asked);
        }
        let mut found = Found::new(apex, wanted.is_none() && self.is_between(names));
        if names == ["ns"] && wanted.is_none() {
            found.exists = true;
            found.data = addresses(self.servers.iter().copied(), asked);
        }
        found
    }

    /// Names of the domain that lead to nothing and have names below them: those of
    /// networks and nodes, and the ends of such that have dots (RFC 8020).
    fn is_between(&self, names: &[&str]) -> bool {
        let name = names.join(".");
        let elsewhere = self.maps.iter().flat_map(Snapshot::networks);
        let mut networks = self.networks.all().chain(elsewhere);
        if networks.any(|network| self.scope.has(network) && is_above(&name, network)) {
            return true;
        }
        let Some((&"node", node)) = names.split_last() else {
            return false;
        };
        let node = node.join(".");
        let nodes = self.maps.iter().flat_map(Snapshot::nodes);
        node.is_empty() || nodes.into_iter().any(|(name, _)| is_above(&node, name))
    }

    /// The containers of a name of the domain, and the node when one is named.
    fn domain_matches(&self, names: &[&str]) -> Option<(Vec<Match<'a>>, Option<String>)> {
        let (container, rest) = names.split_first()?;
        let names = |network: Option<String>, node: Option<String>| Names {
            container,
            network,
            node,
        };
        if rest.is_empty() {
            return Some((self.matches(&names(None, None)), None));
        }
        let on_network = self.matches(&names(Some(rest.join(".")), None));
        match rest.split_last() {
            Some((&"node", node)) if on_network.is_empty() && !node.is_empty() => {
                let node = node.join(".");
                let matches = self.matches(&names(None, Some(node.clone())));
                Some((matches, Some(node)))
            }
            _ => Some((on_network, None)),
        }
    }

    /// `CONTAINER.NETWORK`, which is ours when there is such a network, and whatever is
    /// below the name of one: nobody else knows more of it.
    fn on_network(&self, labels: &[&str], asked: Asked) -> Option<Found> {
        let whole = labels.join(".");
        if let Some(network) = self.networks.named(&whole) {
            return Some(match self.scope.has(network) {
                true => self.apex(&whole, asked),
                false => Found::new(whole, false),
            });
        }
        let matches = |names: &[&str]| network_names(names).map(|names| self.matches(&names));
        if let Some((wanted, names)) = ports(labels) {
            let matches = matches(names).unwrap_or_default();
            if !matches.is_empty() {
                let apex = names.get(1..).unwrap_or_default().join(".");
                return Some(self.told(&apex, &matches, None, wanted, asked));
            }
        } else if is_above_ports(labels, matches) {
            let apex = labels.get(2..).unwrap_or_default().join(".");
            return Some(Found::new(apex, true));
        }
        let mut above = whole.match_indices('.').map(|(at, _)| &whole[at + 1..]);
        let apex = above.find(|name| self.networks.named(name).is_some())?;
        Some(Found::new(apex, false))
    }

    fn apex(&self, apex: &str, asked: Asked) -> Found {
        let mut found = Found::new(apex, true);
        let server = || Data::Server(format!("ns.{}", self.domain));
        match asked {
            Asked::Authority | Asked::Any => found.data.push(Data::Authority),
            Asked::Server => found.data.push(server()),
            _ => {}
        }
        found
    }

    /// Containers of these names on networks that are to be seen. Whoever has the
    /// very name goes before those whose name had to be changed to make it one.
    fn matches(&self, names: &Names<'_>) -> Vec<Match<'a>> {
        let mut all: Vec<Match<'a>> = Vec::new();
        let mut exact = false;
        let of_node = |record: &Record| {
            let node = names.node.as_deref();
            node.is_none_or(|node| is_named(&record.node, node))
        };
        let records = self
            .maps
            .iter()
            .flat_map(|map| map.labelled(names.container));
        for record in records.filter(|record| of_node(record)) {
            for attached in &record.attached {
                let network = names.network.as_deref();
                let wanted = network.is_none_or(|network| is_named(&attached.network, network));
                if !wanted || !self.scope.has(&attached.network) {
                    continue;
                }
                let Some(is_exact) = is_called(record, attached, names.container) else {
                    continue;
                };
                if is_exact && !exact {
                    exact = true;
                    all.clear();
                }
                if is_exact == exact {
                    all.push((record, attached));
                }
            }
        }
        all
    }

    /// What is asked of these containers, which are those of one node when it is named.
    fn told(
        &self,
        apex: &str,
        matches: &[Match<'a>],
        node: Option<&str>,
        wanted: Option<Wanted>,
        asked: Asked,
    ) -> Found {
        let mut found = Found::new(apex, true);
        if wanted.is_some() || asked == Asked::Service {
            let (services, addresses) = self.services(matches, node, wanted);
            found.exists = wanted.is_none() || !services.is_empty();
            if matches!(asked, Asked::Service | Asked::Any) {
                (found.data, found.additional) = (services, addresses);
            }
        } else {
            let ips = matches.iter().flat_map(|(_, a)| a.ips.iter().copied());
            found.data = addresses(ips, asked);
        }
        found
    }

    fn holders(&self, address: IpAddr) -> Vec<Match<'a>> {
        let records = self.maps.iter().flat_map(|map| map.holders(address));
        let on = |record: &'a Arc<Record>| record.attached.iter().map(move |a| (record, a));
        records
            .flat_map(on)
            .filter(|(_, a)| a.ips.contains(&address) && self.scope.has(&a.network))
            .collect()
    }

    /// Whatever is below a name of an address of ours, or below the zone of some.
    fn below_reverse(&self, labels: &[&str]) -> Option<Found> {
        let mut above = (1..labels.len()).filter_map(|at| reverse::Place::read(&labels[at..]));
        let found = self.reverse(above.next()?, Asked::Other)?;
        Some(Found::new(found.apex, false))
    }

    fn reverse(&self, place: reverse::Place, asked: Asked) -> Option<Found> {
        let address = match place {
            reverse::Place::Address(address) => address,
            reverse::Place::Above(prefix) => {
                let within = self.networks.subnet_of(prefix)?;
                let apex = reverse::apex(within, prefix.addr());
                return Some(if apex == reverse::name(prefix) {
                    self.apex(&apex, asked)
                } else {
                    Found::new(apex, true)
                });
            }
        };
        let subnet = self.networks.subnet_of(address.into());
        let holders = self.holders(address);
        if holders.is_empty() && subnet.is_none() {
            return None;
        }
        let apex = reverse::apex(subnet.unwrap_or(address.into()), address);
        let mut found = Found::new(apex, !holders.is_empty());
        if matches!(asked, Asked::Pointer | Asked::Any) {
            for (record, attached) in holders {
                let pointer = Data::Pointer(self.name_of(record, attached));
                if !found.data.contains(&pointer) {
                    found.data.push(pointer);
                }
            }
        }
        Some(found)
    }
}
