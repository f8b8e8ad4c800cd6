//! The rules of port mappings, which are the same on every host, and the sets
//! whose elements are the mappings. A packet costs two look-ups, however many
//! ports and containers there are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::config::Mapping;
use crate::nft::{
    CT_STATE_NEW, Chain, Compare, Hook, HookPoint, IPS_DST_NAT, Leads, Load, PRIORITY_DSTNAT,
    PRIORITY_FILTER, PRIORITY_SRCNAT, Part, Register, Rule, Set, Type, Verdict,
};

/// The sets of one family.
pub(super) struct Names {
    /// From the host's address, the protocol and the port to the container's
    /// address and port.
    pub(super) at_address: &'static str,
    /// The same for ports of any of the host's addresses.
    pub(super) anywhere: &'static str,
    /// Where the daemon itself listens, by the host's address, the protocol and the port:
    /// ports of any of the host's addresses are not at these.
    pub(super) listeners: &'static str,
    /// The interface behind which a container is, and its address: what comes
    /// from there and goes back there must pass the host on its way back too.
    pub(super) hairpin: &'static str,
    /// A source and a container's address between which it is so too: the
    /// container itself, whose packets a bridge may hand over without saying
    /// where they came from, and for IPv4 127.0.0.1.
    pub(super) pairs: &'static str,
    /// The containers all of whose connections are masqueraded.
    pub(super) masq_all: &'static str,
}

const V4: Names = Names {
    at_address: "host_ports4",
    anywhere: "ports4",
    listeners: "listeners4",
    hairpin: "hairpin4",
    pairs: "hairpin_pairs4",
    masq_all: "masq_all4",
};
const V6: Names = Names {
    at_address: "host_ports6",
    anywhere: "ports6",
    listeners: "listeners6",
    hairpin: "hairpin6",
    pairs: "hairpin_pairs6",
    masq_all: "masq_all6",
};

/// The attachments that have elements, by [`Owner::key`](super::Owner::key),
/// and how many there are in all other sets.
pub(super) const ATTACHMENTS: &str = "attachments";

/// What waits for the ports of a set that another attachment of the same container has:
/// by [`Owner::key`](super::Owner::key) and the port's key, what it is to lead to then.
const WAITING: [(&str, &str); 4] = [
    (V4.at_address, "waiting_host_ports4"),
    (V4.anywhere, "waiting_ports4"),
    (V6.at_address, "waiting_host_ports6"),
    (V6.anywhere, "waiting_ports6"),
];

const ENDPOINT4: &[Type] = &[Type::Ipv4, Type::Port];
const ENDPOINT6: &[Type] = &[Type::Ipv6, Type::Port];
const PORT: &[Type] = &[Type::Protocol, Type::Port];

/// Every set; elements are deleted in this order, so that an attachment is
/// known until all else of it is gone.
pub(super) const SETS: &[Set] = &[
    Set::map(
        V4.at_address,
        &[Type::Ipv4, Type::Protocol, Type::Port],
        Leads::To(ENDPOINT4),
    ),
    Set::map(V4.anywhere, PORT, Leads::To(ENDPOINT4)),
    Set::map(
        V6.at_address,
        &[Type::Ipv6, Type::Protocol, Type::Port],
        Leads::To(ENDPOINT6),
    ),
    Set::map(V6.anywhere, PORT, Leads::To(ENDPOINT6)),
    Set::of(V4.listeners, &[Type::Ipv4, Type::Protocol, Type::Port]),
    Set::of(V6.listeners, &[Type::Ipv6, Type::Protocol, Type::Port]),
    Set::of(V4.hairpin, &[Type::Ifname, Type::Ipv4]),
    Set::of(V6.hairpin, &[Type::Ifname, Type::Ipv6]),
    Set::of(V4.pairs, &[Type::Ipv4, Type::Ipv4]),
    Set::of(V6.pairs, &[Type::Ipv6, Type::Ipv6]),
    Set::of(V4.masq_all, &[Type::Ipv4]),
    Set::of(V6.masq_all, &[Type::Ipv6]),
    Set::map(
        WAITING[0].1,
        &[Type::Ipv6, Type::Ipv4, Type::Protocol, Type::Port],
        Leads::To(ENDPOINT4),
    ),
    Set::map(
        WAITING[1].1,
        &[Type::Ipv6, Type::Protocol, Type::Port],
        Leads::To(ENDPOINT4),
    ),
    Set::map(
        WAITING[2].1,
        &[Type::Ipv6, Type::Ipv6, Type::Protocol, Type::Port],
        Leads::To(ENDPOINT6),
    ),
    Set::map(
        WAITING[3].1,
        &[Type::Ipv6, Type::Protocol, Type::Port],
        Leads::To(ENDPOINT6),
    ),
    Set::map(ATTACHMENTS, &[Type::Ipv6], Leads::To(&[Type::Mark])),
];

/// The sets of a family.
pub(super) fn names(v6: bool) -> &'static Names {
    if v6 { &V6 } else { &V4 }
}

/// Whether elements of a set are ports of the host.
pub(super) fn is_of_ports(set: &str) -> bool {
    waiting_for(set).is_some()
}

/// Where attachments wait for the ports of a set, if it is one of ports.
pub(super) fn waiting_for(set: &str) -> Option<&'static str> {
    let found = WAITING.iter().find(|(ports, _)| *ports == set);
    found.map(|(_, waiting)| *waiting)
}

/// Whether a mapping is one of a family, and the host's address if it is one
/// of a single address.
pub(super) fn address_of(mapping: &Mapping, v6: bool) -> Option<Option<IpAddr>> {
    match mapping.host_ip {
        None => Some(None),
        Some(ip) if ip.is_ipv6() != v6 => None,
        Some(ip) => Some((!ip.is_unspecified()).then_some(ip)),
    }
}

/// The part of the table.
pub(super) fn part() -> Part {
    let nat = |name, point, priority, rules| Chain {
        name,
        hook: Some(Hook {
            kind: "nat",
            point,
            priority,
        }),
        rules: Some(rules),
    };
    let translate = || vec![Rule::new().to_this_host().verdict(&jump())];
    Part {
        name: "hostports",
        sets: SETS,
        chains: vec![
            Chain {
                name: "hostports",
                hook: None,
                rules: Some(translations()),
            },
            nat(
                "hostports_prerouting",
                HookPoint::Prerouting,
                PRIORITY_DSTNAT,
                translate(),
            ),
            nat(
                "hostports_output",
                HookPoint::Output,
                PRIORITY_DSTNAT,
                translate(),
            ),
            nat(
                "hostports_postrouting",
                HookPoint::Postrouting,
                PRIORITY_SRCNAT,
                ways_back(),
            ),
            Chain {
                name: "hostports_input",
                hook: Some(Hook {
                    kind: "filter",
                    point: HookPoint::Input,
                    priority: PRIORITY_FILTER,
                }),
                rules: Some(vec![guard()]),
            },
        ],
    }
}

fn jump() -> Verdict {
    Verdict::Jump("hostports".to_owned())
}

/// Mappings of a single address come before those of any.
fn translations() -> Vec<Rule> {
    let first = Register::FIRST;
    let mut rules = Vec::new();
    for v6 in [false, true] {
        let (names, length) = (names(v6), if v6 { 16 } else { 4 });
        let (protocol, port) = (first.after(length), first.after(length).after(1));
        if v6 {
            rules.push(not_of_loopback6());
        }
        let at_address = || {
            Rule::new()
                .family(v6)
                .load(Load::Daddr { v6 }, first)
                .load(Load::L4proto, protocol)
                .load(Load::Dport, port)
        };
        rules.push(
            at_address()
                .lookup(names.at_address, first, Some(first))
                .dnat(v6, first, first.after(length)),
        );
        if !v6 {
            rules.push(not_of_programs());
        }
        rules.push(
            at_address()
                .lookup(names.listeners, first, None)
                .verdict(&Verdict::Return),
        );
        rules.push(
            Rule::new()
                .family(v6)
                .load(Load::L4proto, first)
                .load(Load::Dport, first.after(1))
                .lookup(names.anywhere, first, Some(first))
                .dnat(v6, first, first.after(length)),
        );
    }
    rules
}

/// A port without an address is published at all addresses but the loopback's, of which
/// people know one: the others are for programs of the host, as systemd-resolved has one.
fn not_of_programs() -> Rule {
    let loopback = |last, length| {
        let address = Ipv4Addr::new(127, 0, 0, last);
        IpNet::V4(Ipv4Net::new_assert(address, length))
    };
    Rule::new()
        .family(false)
        .daddr(Compare::Equal, loopback(0, 8))
        .daddr(Compare::Differ, loopback(1, 32))
        .verdict(&Verdict::Return)
}

/// What was sent to `::1` keeps that as its source, with which nothing leaves the host: a
/// program that listens there is to be reached, even if the port is published there.
fn not_of_loopback6() -> Rule {
    let loopback = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128));
    Rule::new()
        .family(true)
        .daddr(Compare::Equal, loopback)
        .verdict(&Verdict::Return)
}

/// What is translated and would not come back this way is masqueraded.
fn ways_back() -> Vec<Rule> {
    let first = Register::FIRST;
    let translated = |v6| Rule::new().any_bit(Load::CtStatus, IPS_DST_NAT).family(v6);
    let mut rules = Vec::new();
    for v6 in [false, true] {
        let names = names(v6);
        rules.push(
            translated(v6)
                .load(Load::Iifname, first)
                .load(Load::Daddr { v6 }, first.after(16))
                .lookup(names.hairpin, first, None)
                .masquerade(),
        );
        rules.push(
            translated(v6)
                .load(Load::Saddr { v6 }, first)
                .load(Load::Daddr { v6 }, first.after(if v6 { 16 } else { 4 }))
                .lookup(names.pairs, first, None)
                .masquerade(),
        );
        rules.push(
            translated(v6)
                .load(Load::Daddr { v6 }, first)
                .lookup(names.masq_all, first, None)
                .masquerade(),
        );
    }
    rules
}

/// `route_localnet`, which 127.0.0.1 as a way to containers needs, would also
/// let neighbours on that interface reach what listens on 127.0.0.1 only.
fn guard() -> Rule {
    Rule::new()
        .family(false)
        .daddr(
            Compare::Equal,
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        )
        .iifname(Compare::Differ, "lo")
        .any_bit(Load::CtState, CT_STATE_NEW)
        .no_bit(Load::CtStatus, IPS_DST_NAT)
        .verdict(&Verdict::Drop)
}
