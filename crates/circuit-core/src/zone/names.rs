//! What the parts of a name stand for.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{Asked, Data, Match, label};
use crate::fleet::{Attached, Protocol, Record};

/// Containers by their names, as a question has them.
pub(super) struct Names<'q> {
    pub(super) container: &'q str,
    pub(super) network: Option<String>,
    pub(super) node: Option<String>,
}

/// A published port, as a question has it.
pub(super) type Wanted = (u16, Protocol);

/// Addresses of the family that is asked for, each once: several daemons may look
/// after one containerd.
pub(super) fn addresses(ips: impl Iterator<Item = IpAddr> + Clone, asked: Asked) -> Vec<Data> {
    let of = |wanted: fn(&IpAddr) -> bool| {
        let mut all: Vec<IpAddr> = ips.clone().filter(wanted).collect();
        if all.len() > 1 {
            let mut seen = HashSet::new();
            all.retain(|ip| seen.insert(*ip));
        }
        all.into_iter().map(Data::Address).collect::<Vec<_>>()
    };
    match asked {
        Asked::V4 => of(IpAddr::is_ipv4),
        Asked::V6 => of(IpAddr::is_ipv6),
        Asked::Any => match of(IpAddr::is_ipv4) {
            none if none.is_empty() => of(IpAddr::is_ipv6),
            some => some,
        },
        _ => Vec::new(),
    }
}

/// Whether a container is called so on a network, and whether that is its very
/// name or alias.
pub(super) fn is_called(record: &Record, attached: &Attached, wanted: &str) -> Option<bool> {
    let mut names =
        std::iter::once(&*record.container).chain(attached.aliases.iter().map(|a| &**a));
    let mut called = false;
    names
        .any(|name| {
            called = called || label(name) == wanted;
            name.eq_ignore_ascii_case(wanted)
        })
        .then_some(true)
        .or(called.then_some(false))
}

/// Whether a network or a node is meant by that part of a name.
pub(super) fn is_named(name: &str, wanted: &str) -> bool {
    name.eq_ignore_ascii_case(wanted) || label(name) == wanted
}

/// Whether a part of a name is that of a network or a node, or its end behind a dot.
pub(super) fn is_above(part: &str, name: &str) -> bool {
    let start = name.len().checked_sub(part.len());
    let end = start.and_then(|start| Some((name.get(..start)?, name.get(start..)?)));
    let ends = |(start, end): (&str, &str)| start.ends_with('.') && end.eq_ignore_ascii_case(part);
    is_named(name, part) || end.is_some_and(ends)
}

pub(super) fn network_names<'q>(names: &[&'q str]) -> Option<Names<'q>> {
    let (container, rest) = names.split_first()?;
    (!rest.is_empty()).then(|| Names {
        container,
        network: Some(rest.join(".")),
        node: None,
    })
}

/// Takes `_PORT._PROTOCOL` off the beginning of a name. None when it begins like
/// that and is something else.
pub(super) fn ports<'l, 'q>(labels: &'l [&'q str]) -> Option<(Option<Wanted>, &'l [&'q str])> {
    let [first, rest @ ..] = labels else {
        return Some((None, labels));
    };
    let Some(port) = first.strip_prefix('_') else {
        return Some((None, labels));
    };
    let (protocol, rest) = rest.split_first()?;
    let protocol = Protocol::named(protocol.strip_prefix('_')?)?;
    Some((Some((port.parse().ok()?, protocol)), rest))
}

/// Whether it is `_PROTOCOL` before the name of a container that has such ports.
pub(super) fn is_above_ports<'a>(
    labels: &[&str],
    matches: impl Fn(&[&str]) -> Option<Vec<Match<'a>>>,
) -> bool {
    let Some((first, names)) = labels.split_first() else {
        return false;
    };
    let Some(protocol) = first.strip_prefix('_').and_then(Protocol::named) else {
        return false;
    };
    let matches = matches(names).unwrap_or_default();
    let mut ports = matches.iter().flat_map(|(_, a)| &a.ports);
    ports.any(|port| port.protocol == protocol)
}
