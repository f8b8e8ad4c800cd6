//! Sets, maps and what is in them.

use super::expr::{Verdict, put_value};
use super::userdata;
use crate::netlink::Message;

const NFTA_LIST_ELEM: u16 = 1;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_CONCAT: u32 = 0x80;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;

/// The type of a value, or of a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A protocol above IP.
    Protocol,
    /// A port.
    Port,
    /// An interface's name.
    Ifname,
    /// A number, which `nft` shows as a mark.
    Mark,
}

impl Type {
    /// The number by which `nft` knows the type, and its length.
    fn id_and_length(self) -> (u32, u32) {
        match self {
            Self::Ipv4 => (7, 4),
            Self::Ipv6 => (8, 16),
            Self::Protocol => (12, 1),
            Self::Port => (13, 2),
            Self::Ifname => (41, 16),
            Self::Mark => (19, 4),
        }
    }
}

/// The type and the length of a concatenation.
fn concatenated(types: &[Type]) -> (u32, u32) {
    match types {
        [one] => one.id_and_length(),
        _ => types.iter().fold((0, 0), |(id, length), part| {
            let (part, bytes) = part.id_and_length();
            (id << 6 | part, length + bytes.next_multiple_of(4))
        }),
    }
}

/// The order of a value's bytes, as `nft` has it, without which it shows some
/// values the wrong way round.
fn byte_order(types: &[Type]) -> u32 {
    match types {
        [Type::Ifname | Type::Mark] => 1,
        [_] => 2,
        _ => 0,
    }
}

/// What the keys of a set lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leads {
    /// Nothing: it is a set and no map.
    Nowhere,
    /// Values of these types.
    To(&'static [Type]),
    /// Verdicts.
    ToVerdicts,
}

/// A set or a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// The name, unique in the table.
    pub name: &'static str,
    /// What the keys are made of.
    pub key: &'static [Type],
    /// What they lead to.
    pub leads: Leads,
    /// The keys are ranges.
    pub interval: bool,
}

/// What tells one shape of a set from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) flags: u32,
    pub(super) key: u32,
    pub(super) key_length: u32,
    pub(super) data: u32,
}

impl Set {
    /// A set of single values.
    pub const fn of(name: &'static str, key: &'static [Type]) -> Self {
        Self {
            name,
            key,
            leads: Leads::Nowhere,
            interval: false,
        }
    }

    /// A map.
    pub const fn map(name: &'static str, key: &'static [Type], leads: Leads) -> Self {
        Self {
            name,
            key,
            leads,
            interval: false,
        }
    }

    /// A set of ranges.
    pub const fn ranges(name: &'static str, key: &'static [Type]) -> Self {
        Self {
            name,
            key,
            leads: Leads::Nowhere,
            interval: true,
        }
    }

    pub(super) fn shape(&self) -> Shape {
        let (key, key_length) = concatenated(self.key);
        let mut flags = 0;
        if self.interval {
            flags |= NFT_SET_INTERVAL;
            if self.key.len() > 1 {
                flags |= NFT_SET_CONCAT;
            }
        }
        let data = match self.leads {
            Leads::Nowhere => 0,
            Leads::To(types) => concatenated(types).0,
            Leads::ToVerdicts => NFT_DATA_VERDICT,
        };
        if self.leads != Leads::Nowhere {
            flags |= NFT_SET_MAP;
        }
        Shape {
            flags,
            key,
            key_length,
            data,
        }
    }

    /// The attributes that say what the set is; `id` is unique in a batch.
    pub(super) fn put(&self, message: Message, id: u32) -> Message {
        let shape = self.shape();
        let orders = match self.leads {
            Leads::To(types) => [byte_order(self.key), byte_order(types)],
            _ => [byte_order(self.key), 0],
        };
        let message = message
            .with_be32(3, shape.flags)
            .with_be32(4, shape.key)
            .with_be32(5, shape.key_length)
            .with_be32(10, id)
            .with(13, &userdata::byte_orders(orders));
        let message = match self.leads {
            Leads::Nowhere => message,
            Leads::To(types) => message
                .with_be32(6, shape.data)
                .with_be32(7, concatenated(types).1),
            Leads::ToVerdicts => message.with_be32(6, shape.data).with_be32(7, 16),
        };
        if shape.flags & NFT_SET_CONCAT == 0 {
            return message;
        }
        // Of ranges of several parts the kernel must know the parts.
        message.with_nest(9, &[], |description| {
            description.with_nest(2, &[], |parts| {
                self.key.iter().fold(parts, |parts, part| {
                    let bytes = part.id_and_length().1;
                    parts.with_nest(NFTA_LIST_ELEM, &[], |part| part.with_be32(1, bytes))
                })
            })
        })
    }
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A value.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// An element of a set or a map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// The key.
    pub key: Vec<u8>,
    /// The last key of a range, in sets of ranges of several parts.
    pub end: Option<Vec<u8>>,
    /// In sets of ranges of a single value: the element is the first value
    /// behind a range.
    pub behind: bool,
    /// What it leads to, in maps.
    pub data: Option<Data>,
    /// Words for people, and for finding it again.
    pub comment: Option<String>,
}

impl Element {
    /// An element of a set.
    pub fn new(key: Vec<u8>) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// Leading to something.
    #[must_use]
    pub fn leading_to(mut self, data: Data) -> Self {
        self.data = Some(data);
        self
    }

    /// With words.
    #[must_use]
    pub fn comment(mut self, text: impl Into<String>) -> Self {
        self.comment = Some(text.into());
        self
    }

    /// Up to a last key.
    #[must_use]
    pub fn up_to(mut self, end: Vec<u8>) -> Self {
        self.end = Some(end);
        self
    }

    /// The element as an attribute of a list.
    pub(super) fn put(&self, list: Message) -> Message {
        list.with_nest(NFTA_LIST_ELEM, &[], |element| {
            let element = self.put_key(element);
            let element = match &self.data {
                None => element,
                Some(Data::Value(value)) => put_value(element, 2, value),
                Some(Data::Verdict(verdict)) => verdict.put(element, 2),
            };
            element.with_some(self.comment.as_deref(), |element, text| {
                element.with(6, &userdata::comment(text))
            })
        })
    }

    /// Only what tells it from others, for finding and deleting.
    pub(super) fn put_bare(&self, list: Message) -> Message {
        list.with_nest(NFTA_LIST_ELEM, &[], |element| self.put_key(element))
    }

    fn put_key(&self, element: Message) -> Message {
        let element = put_value(element, 1, &self.key);
        let element = match self.behind {
            true => element.with_be32(3, NFT_SET_ELEM_INTERVAL_END),
            false => element,
        };
        element.with_some(self.end.as_deref(), |element, end| {
            put_value(element, 10, end)
        })
    }
}

/// Values behind one another, each filled up to a multiple of 4 bytes.
pub fn concat(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for part in parts {
        key.extend(*part);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_concatenated() {
        assert_eq!(concatenated(&[Type::Port]), (13, 2));
        assert_eq!(
            concatenated(&[Type::Ipv4, Type::Protocol, Type::Port]),
            ((7 << 6 | 12) << 6 | 13, 12)
        );
        assert_eq!(concat(&[&[6], &[0, 80]]), [6, 0, 0, 0, 0, 80, 0, 0]);
    }

    #[test]
    fn shapes_say_what_a_set_is() {
        let set = Set::ranges("a", &[Type::Ipv4, Type::Ipv4]);
        assert_eq!(set.shape().flags, NFT_SET_INTERVAL | NFT_SET_CONCAT);
        let set = Set::ranges("a", &[Type::Ipv4]);
        assert_eq!(set.shape().flags, NFT_SET_INTERVAL);
        let map = Set::map("a", &[Type::Ifname], Leads::ToVerdicts);
        assert_eq!(map.shape().data, NFT_DATA_VERDICT);
        assert_eq!(map.shape().flags, NFT_SET_MAP);
    }
}
