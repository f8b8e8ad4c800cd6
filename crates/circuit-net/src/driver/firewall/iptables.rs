//! The backend `iptables`: the chains of the stock plugin in the tables that
//! `iptables` keeps in nftables.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::tokens::{Line, compared};
use crate::driver::owner::Owner;
use crate::nft::{
    Batch, Chain, ChainInfo, Element, Family, Hook, HookPoint, Nft, NftError, PRIORITY_FILTER,
    Part, RuleInfo, Set, TABLE, Table, Type, Verdict, ip_key,
};

const FORWARD: &str = "FORWARD";
const PRIVATE: &str = "CNI-FORWARD";
const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";

/// In our own table: whose an address is, for DEL and GC.
const OWNERS: &[Set] = &[
    Set::of("firewall4", &[Type::Ipv4]),
    Set::of("firewall6", &[Type::Ipv6]),
];

/// What is remembered of the rules of all addresses.
const RULES: &str = "firewall rules";

/// What an attachment wants of the firewall.
pub(super) struct Wanted<'a> {
    /// The container's addresses.
    pub(super) addresses: &'a [IpAddr],
    /// Whether iptables is to let them through, and not firewalld.
    pub(super) accepts: bool,
    /// The chain with the administrator's own rules.
    pub(super) admin: &'a str,
    /// The bridge into which nobody gets from another, and whether its own
    /// containers are kept apart too.
    pub(super) isolation: Option<(&'a str, bool)>,
}

fn table(v6: bool) -> Table {
    Table {
        family: if v6 { Family::Ip6 } else { Family::Ip },
        name: "filter",
    }
}

fn owner_set(v6: bool) -> &'static str {
    OWNERS[usize::from(v6)].name
}

fn part() -> Part {
    Part {
        name: "firewall",
        sets: OWNERS,
        chains: Vec::<Chain>::new(),
    }
}

/// One of iptables' tables, and what is to be changed in it.
struct Filter {
    table: Table,
    chains: Vec<String>,
    rules: Vec<RuleInfo>,
    /// What is added, by its chain.
    added: Vec<(String, Line)>,
    batch: Batch,
}

impl Filter {
    fn read(nft: &mut Nft, v6: bool) -> Result<Self, NftError> {
        let table = table(v6);
        let of_table = |chain: &ChainInfo| chain.table == table.name;
        let chains: Vec<String> = nft
            .chains(table.family)?
            .into_iter()
            .filter(of_table)
            .map(|chain| chain.name)
            .collect();
        let rules = match chains.is_empty() {
            true => Vec::new(),
            false => nft.rules(table, None)?,
        };
        Ok(Self {
            table,
            chains,
            rules,
            added: Vec::new(),
            batch: Batch::new(),
        })
    }

    fn has(&self, chain: &str, line: &Line) -> bool {
        let is_there = |rule: &&RuleInfo| rule.chain == chain && line.is(rule);
        self.rules.iter().any(|rule| is_there(&rule))
            || self.added.iter().any(|(of, it)| of == chain && it == line)
    }

    fn ensure_chain(&mut self, chain: &str, hook: Option<Hook>) {
        if self.chains.iter().any(|there| there == chain) {
            return;
        }
        if self.chains.is_empty() {
            self.batch.add_table(self.table, None);
        }
        self.batch.add_chain(self.table, chain, hook);
        self.chains.push(chain.to_owned());
    }

    fn append(&mut self, chain: &str, line: Line) {
        if !self.has(chain, &line) {
            self.batch.add_rule(self.table, chain, &line.rule());
            self.added.push((chain.to_owned(), line));
        }
    }

    fn prepend(&mut self, chain: &str, line: Line) {
        if !self.has(chain, &line) {
            self.batch.insert_rule(self.table, chain, &line.rule());
            self.added.push((chain.to_owned(), line));
        }
    }

    fn accept(&mut self, wanted: &Wanted<'_>, addresses: &[IpAddr]) {
        self.ensure_chain(PRIVATE, None);
        self.ensure_chain(wanted.admin, None);
        self.ensure_chain(FORWARD, Some(forward()));
        self.prepend(FORWARD, to_private());
        self.prepend(PRIVATE, to_admin(wanted.admin));
        for line in addresses.iter().copied().flat_map(of_address) {
            self.append(PRIVATE, line);
        }
    }

    fn isolate(&mut self, bridge: &str, from_each_other: bool) {
        self.ensure_chain(STAGE_1, None);
        self.ensure_chain(STAGE_2, None);
        self.ensure_chain(FORWARD, Some(forward()));
        let policy = if from_each_other {
            "isolated"
        } else {
            "same-bridge"
        };
        self.prepend(
            FORWARD,
            Line::new()
                .comment(&of_policy("same-bridge|isolated"))
                .jump(STAGE_1),
        );
        self.prepend(
            STAGE_1,
            Line::new()
                .comes_by(bridge)
                .leaves_not_by(bridge)
                .comment(&of_policy(policy))
                .jump(STAGE_2),
        );
        if from_each_other {
            self.prepend(
                STAGE_1,
                Line::new()
                    .comes_by(bridge)
                    .leaves_by(bridge)
                    .comment(&of_policy(policy))
                    .then(Verdict::Drop),
            );
        }
        let back = || {
            Line::new()
                .comment(&of_policy("same-bridge|isolated"))
                .then(Verdict::Return)
        };
        self.append(STAGE_1, back());
        self.prepend(
            STAGE_2,
            Line::new()
                .leaves_by(bridge)
                .comment(&of_policy("same-bridge|isolated"))
                .then(Verdict::Drop),
        );
        self.append(STAGE_2, back());
    }

    fn remove(&mut self, address: IpAddr) {
        for line in of_address(address) {
            let there = self.rules.iter();
            for rule in there.filter(|rule| rule.chain == PRIVATE && line.is(rule)) {
                self.batch.delete_rule(self.table, PRIVATE, rule.handle);
            }
        }
    }
}

fn forward() -> Hook {
    Hook {
        kind: "filter",
        point: HookPoint::Forward,
        priority: PRIORITY_FILTER,
    }
}

fn to_private() -> Line {
    Line::new()
        .comment("CNI firewall plugin rules")
        .jump(PRIVATE)
}

fn to_admin(admin: &str) -> Line {
    Line::new()
        .comment("CNI firewall plugin admin overrides")
        .jump(admin)
}

fn of_policy(policy: &str) -> String {
    format!("CNI firewall plugin rules (ingressPolicy: {policy})")
}

/// Answers to the container, and all that it sends.
fn of_address(address: IpAddr) -> [Line; 2] {
    let key = ip_key(address);
    [
        Line::new()
            .destination(&key)
            .established()
            .then(Verdict::Accept),
        Line::new().source(&key).then(Verdict::Accept),
    ]
}

/// Puts in what is missing.
pub(super) fn put(owner: &Owner, wanted: &Wanted<'_>) -> Result<(), NftError> {
    let mut nft = Nft::open(None)?;
    nft.establish(&part())?;
    let ((), generation) = nft.transaction(|nft, generation| {
        let mut batch = nft.prepare(&part(), generation)?;
        for v6 in [false, true] {
            let addresses = of_family(wanted.addresses, v6);
            if addresses.is_empty() {
                continue;
            }
            let mut filter = Filter::read(nft, v6)?;
            if wanted.accepts {
                filter.accept(wanted, &addresses);
            }
            if let Some((bridge, from_each_other)) = wanted.isolation {
                filter.isolate(bridge, from_each_other);
            }
            batch.extend(filter.batch);
            if wanted.accepts {
                own(&mut batch, nft, owner, &addresses, v6)?;
            }
        }
        Ok::<_, NftError>((batch, ()))
    })?;
    // What cannot be had is not missed again and again.
    if !nft.knows(RULES, 0, generation) && let_all_through(&mut nft)? {
        nft.note(RULES, 0, generation, let_all_through);
    }
    Ok(())
}

/// Whether iptables' tables have the rules of every address that is somebody's: whoever
/// loads another ruleset into them leaves our own table alone.
fn let_all_through(nft: &mut Nft) -> Result<bool, NftError> {
    for v6 in [false, true] {
        let elements = nft.elements(TABLE, owner_set(v6))?;
        if elements.is_empty() {
            continue;
        }
        let filter = Filter::read(nft, v6)?;
        let mut of_addresses: HashMap<&[u8], Vec<&RuleInfo>> = HashMap::new();
        for rule in filter.rules.iter().filter(|rule| rule.chain == PRIVATE) {
            of_addresses.entry(compared(rule)).or_default().push(rule);
        }
        let has = |address: IpAddr| {
            let there = of_addresses.get(&*ip_key(address));
            let is_there = |line: &Line| there.is_some_and(|all| all.iter().any(|it| line.is(it)));
            of_address(address).iter().all(is_there)
        };
        let mut addresses = elements.iter().filter_map(|it| address_of(&it.key));
        if !filter.has(FORWARD, &to_private()) || !addresses.all(has) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Notes whose the addresses are; who had them before has them no more.
fn own(
    batch: &mut Batch,
    nft: &mut Nft,
    owner: &Owner,
    addresses: &[IpAddr],
    v6: bool,
) -> Result<(), NftError> {
    let wanted: Vec<Element> = addresses
        .iter()
        .map(|address| Element::new(ip_key(*address)).comment(owner.comment()))
        .collect();
    let found = nft.find(TABLE, owner_set(v6), &wanted)?;
    for (wanted, found) in wanted.into_iter().zip(found) {
        if found.as_ref() == Some(&wanted) {
            continue;
        }
        if let Some(found) = found {
            batch.delete_elements(TABLE, owner_set(v6), &[found]);
        }
        batch.add_elements(TABLE, owner_set(v6), &[wanted]);
    }
    Ok(())
}

/// Takes away what is an attachment's: the rules of its addresses, whether
/// they are told or only remembered, unless they are somebody else's by now.
pub(super) fn remove(owner: &Owner, told: &[IpAddr]) -> Result<(), NftError> {
    let comment = owner.comment();
    take_away(
        |_, element| element.comment.as_deref() == Some(&comment),
        told,
    )
}

/// Takes away what is of no attachment of these, in one network.
pub(super) fn keep_only(network: &str, valid: &BTreeSet<Owner>) -> Result<(), NftError> {
    let is_lost = |_: IpAddr, element: &Element| {
        let owner = element.comment.as_deref().and_then(Owner::parse);
        owner.is_some_and(|owner| owner.is_of_network(network) && !valid.contains(&owner))
    };
    take_away(is_lost, &[])
}

/// Whose addresses are let through.
pub(in crate::driver) fn owners(nft: &mut Nft) -> Result<BTreeSet<Owner>, NftError> {
    let mut all = BTreeSet::new();
    for v6 in [false, true] {
        let elements = nft.elements(TABLE, owner_set(v6))?;
        let comments = elements.iter().filter_map(|it| it.comment.as_deref());
        all.extend(comments.filter_map(Owner::parse));
    }
    Ok(all)
}

fn take_away(goes: impl Fn(IpAddr, &Element) -> bool, told: &[IpAddr]) -> Result<(), NftError> {
    let mut nft = Nft::open(None)?;
    nft.transaction(|nft, _| {
        let mut batch = Batch::new();
        for v6 in [false, true] {
            let mut going: BTreeSet<IpAddr> = of_family(told, v6).into_iter().collect();
            let mut elements = Vec::new();
            for element in nft.elements(TABLE, owner_set(v6))? {
                let Some(address) = address_of(&element.key) else {
                    continue;
                };
                if goes(address, &element) {
                    going.insert(address);
                    elements.push(element);
                } else {
                    going.remove(&address);
                }
            }
            if going.is_empty() {
                continue;
            }
            batch.delete_elements(TABLE, owner_set(v6), &elements);
            let mut filter = Filter::read(nft, v6)?;
            going.into_iter().for_each(|address| filter.remove(address));
            batch.extend(filter.batch);
        }
        Ok::<_, NftError>((batch, ()))
    })?;
    Ok(())
}

/// What is missing of what an attachment wants.
pub(super) fn missing(wanted: &Wanted<'_>) -> Result<Option<String>, NftError> {
    let mut nft = Nft::open(None)?;
    for v6 in [false, true] {
        let addresses = of_family(wanted.addresses, v6);
        if addresses.is_empty() {
            continue;
        }
        let filter = Filter::read(&mut nft, v6)?;
        if !filter.has(FORWARD, &to_private()) {
            return Ok(Some(format!("the way from chain {FORWARD} to {PRIVATE}")));
        }
        if !filter.has(PRIVATE, &to_admin(wanted.admin)) {
            return Ok(Some(format!(
                "the way from chain {PRIVATE} to {}",
                wanted.admin
            )));
        }
        for address in addresses {
            let is_missing = |line: &Line| !filter.has(PRIVATE, line);
            if of_address(address).iter().any(is_missing) {
                return Ok(Some(format!("a rule of {address} in chain {PRIVATE}")));
            }
        }
    }
    Ok(None)
}

fn of_family(addresses: &[IpAddr], v6: bool) -> Vec<IpAddr> {
    let of_family = |address: &IpAddr| address.is_ipv6() == v6;
    addresses.iter().copied().filter(of_family).collect()
}

fn address_of(key: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(key).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(key).ok().map(IpAddr::from))
}
