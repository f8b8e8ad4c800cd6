//! Changes of the ruleset that are made as one, or not at all.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

use super::expr::Rule;
use super::set::{Element, Set};
use super::userdata;
use crate::netlink::Message;

pub(super) const SUBSYSTEM: u16 = 10 << 8;
pub(super) const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
pub(super) const NEWCHAIN: u16 = SUBSYSTEM | 3;
pub(super) const GETCHAIN: u16 = SUBSYSTEM | 4;
const DELCHAIN: u16 = SUBSYSTEM | 5;
pub(super) const NEWRULE: u16 = SUBSYSTEM | 6;
pub(super) const GETRULE: u16 = SUBSYSTEM | 7;
const DELRULE: u16 = SUBSYSTEM | 8;
pub(super) const NEWSET: u16 = SUBSYSTEM | 9;
pub(super) const GETSET: u16 = SUBSYSTEM | 10;
const DELSET: u16 = SUBSYSTEM | 11;
pub(super) const NEWSETELEM: u16 = SUBSYSTEM | 12;
pub(super) const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
pub(super) const NEWGEN: u16 = SUBSYSTEM | 15;
pub(super) const GETGEN: u16 = SUBSYSTEM | 16;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENID: u16 = 1;

/// How many bytes of elements go into one message: an attribute has at most
/// 64 KiB.
const ELEMENTS: usize = 32 * 1024;

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

impl Family {
    /// Reads the family of a message.
    pub(super) fn read(byte: u8) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Ip6]
            .into_iter()
            .find(|family| *family as u8 == byte)
    }
}

/// A table, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table {
    /// The family.
    pub family: Family,
    /// The name, unique in the family.
    pub name: &'static str,
}

/// Where the kernel calls a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `nat` or `filter`.
    pub kind: &'static str,
    /// When.
    pub point: HookPoint,
    /// Lower ones come first.
    pub priority: i32,
}

/// The points on a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    /// Before it is routed.
    Prerouting = 0,
    /// On its way to this host.
    Input = 1,
    /// On its way through this host.
    Forward = 2,
    /// On its way from this host.
    Output = 3,
    /// After it was routed.
    Postrouting = 4,
}

/// The priority of source translation, by convention.
pub const PRIORITY_SRCNAT: i32 = 100;
/// The priority of destination translation, by convention.
pub const PRIORITY_DSTNAT: i32 = -100;
/// The priority of filters, by convention.
pub const PRIORITY_FILTER: i32 = 0;

/// The head of every message: family, version, and for most nothing else.
pub(super) fn head(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

/// Changes, in order.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    messages: Vec<Message>,
}

impl Batch {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is anything to be done.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Adds another batch's changes.
    pub fn extend(&mut self, other: Self) {
        self.messages.extend(other.messages);
    }

    fn put(&mut self, kind: u16, flags: u16, table: Table, fill: impl FnOnce(Message) -> Message) {
        let message = Message::new(kind, flags, &head(table.family as u8));
        self.messages.push(fill(message.with_text(1, table.name)));
    }

    /// Makes a table, if it is not there.
    pub fn add_table(&mut self, table: Table, comment: Option<&str>) {
        self.put(NEWTABLE, NLM_F_CREATE, table, |m| {
            m.with_be32(2, 0)
                .with_some(comment, |m, text| m.with(6, &userdata::comment(text)))
        });
    }

    /// Removes a table with all that is in it.
    pub fn delete_table(&mut self, table: Table) {
        self.put(DELTABLE, 0, table, |m| m);
    }

    /// Makes a chain, if it is not there. The kernel calls it at its hook, if
    /// it has one, and lets pass what no rule decides about.
    pub fn add_chain(&mut self, table: Table, name: &str, hook: Option<Hook>) {
        self.put(NEWCHAIN, NLM_F_CREATE, table, |m| {
            m.with_text(3, name).with_some(hook, |m, hook| {
                m.with_nest(4, &[], |nest| {
                    nest.with_be32(1, hook.point as u32)
                        .with(2, &hook.priority.to_be_bytes())
                })
                .with_be32(5, 1)
                .with_text(7, hook.kind)
            })
        });
    }

    /// Removes a chain that has no rules and that none leads to.
    pub fn delete_chain(&mut self, table: Table, name: &str) {
        self.put(DELCHAIN, 0, table, |m| m.with_text(3, name));
    }

    /// Removes every rule of a chain.
    pub fn flush_chain(&mut self, table: Table, name: &str) {
        self.put(DELRULE, 0, table, |m| m.with_text(2, name));
    }

    /// Adds a rule behind the others of a chain.
    pub fn add_rule(&mut self, table: Table, chain: &str, rule: &Rule) {
        self.rule(NLM_F_CREATE | NLM_F_APPEND, table, chain, rule);
    }

    /// Adds a rule before the others of a chain.
    pub fn insert_rule(&mut self, table: Table, chain: &str, rule: &Rule) {
        self.rule(NLM_F_CREATE, table, chain, rule);
    }

    fn rule(&mut self, flags: u16, table: Table, chain: &str, rule: &Rule) {
        self.put(NEWRULE, flags, table, |m| {
            let userdata = Some(rule.userdata()).filter(|bytes| !bytes.is_empty());
            m.with_text(2, chain)
                .with_nest(4, &[], |list| list.with_raw(rule.expressions()))
                .with_some(userdata, |m, bytes| m.with(7, &bytes))
        });
    }

    /// Removes a rule.
    pub fn delete_rule(&mut self, table: Table, chain: &str, handle: u64) {
        self.put(DELRULE, 0, table, |m| {
            m.with_text(2, chain).with_be64(3, handle)
        });
    }

    /// Makes a set, if it is not there.
    pub fn add_set(&mut self, table: Table, set: &Set) {
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.put(NEWSET, NLM_F_CREATE, table, |m| {
            set.put(m.with_text(2, set.name), id)
        });
    }

    /// Removes a set that no rule refers to.
    pub fn delete_set(&mut self, table: Table, name: &str) {
        self.put(DELSET, 0, table, |m| m.with_text(2, name));
    }

    /// Adds elements, none of which may be there yet.
    pub fn add_elements(&mut self, table: Table, set: &str, elements: &[Element]) {
        let put = |element: &Element, list| element.put(list);
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.elements(NEWSETELEM, flags, table, set, elements, put);
    }

    /// Removes elements, all of which must be there.
    pub fn delete_elements(&mut self, table: Table, set: &str, elements: &[Element]) {
        let put = |element: &Element, list| element.put_bare(list);
        self.elements(DELSETELEM, 0, table, set, elements, put);
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        table: Table,
        set: &str,
        elements: &[Element],
        put: impl Fn(&Element, Message) -> Message,
    ) {
        let mut elements = elements.iter().peekable();
        while elements.peek().is_some() {
            let mut list = Message::new(0, 0, &[]);
            while list.body().len() < ELEMENTS
                && let Some(element) = elements.next()
            {
                list = put(element, list);
            }
            self.put(kind, flags, table, |m| {
                m.with_text(2, set)
                    .with_nest(3, &[], |nest| nest.with_raw(list.body()))
            });
        }
    }

    /// The messages between the bounds of a batch, which the kernel carries
    /// out only while the ruleset is of this generation.
    pub(super) fn bounded(&self, generation: u32) -> Vec<Message> {
        let bound = |kind| Message::new(kind, 0, &[0, 0, 0, 10]);
        let begin = bound(BATCH_BEGIN).with_be32(BATCH_GENID, generation);
        let changes = self.messages.iter().cloned();
        std::iter::once(begin)
            .chain(changes)
            .chain([bound(BATCH_END)])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table {
        family: Family::Inet,
        name: "t",
    };

    #[test]
    fn many_elements_are_spread_over_messages() {
        let elements: Vec<Element> = (0u32..5000)
            .map(|n| Element::new(n.to_be_bytes().to_vec()).comment("net container eth0"))
            .collect();
        let mut batch = Batch::new();
        batch.add_elements(TABLE, "s", &elements);
        assert!(batch.messages.len() > 1);
        assert!(batch.messages.iter().all(|m| m.body().len() < 0xffff));
        let mut none = Batch::new();
        none.add_elements(TABLE, "s", &[]);
        assert!(none.is_empty());
    }

    #[test]
    fn a_batch_has_bounds() {
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        assert_eq!(batch.bounded(7).len(), 3);
    }
}
