//! What the kernel tells of tables, chains, rules, sets and elements.

use super::batch::{Family, NEWCHAIN, NEWGEN, NEWRULE, NEWSET, NEWSETELEM};
use super::expr::Verdict;
use super::set::{Data, Element, Shape};
use super::userdata;
use crate::netlink::{Reply, attributes};

/// The fixed part of every message.
const HEAD: usize = 4;

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainInfo {
    /// The family of its table.
    pub family: Family,
    /// Its table's name.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where the kernel calls it, if it does.
    pub hook: Option<HookInfo>,
}

/// Where the kernel calls a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookInfo {
    /// `nat`, `filter` or `route`.
    pub kind: String,
    /// The number of the point.
    pub point: u32,
    /// Lower ones come first.
    pub priority: i32,
    /// Whether it drops what no rule decides about.
    pub drops: bool,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// Its chain's name.
    pub chain: String,
    /// What tells it from others of its table.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// The digest of a rule that was written here.
    pub digest: Option<u64>,
    /// Its expressions: name and attributes.
    pub expressions: Vec<(String, Vec<u8>)>,
}

/// A set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetInfo {
    pub(super) name: String,
    pub(super) shape: Shape,
}

/// The generation of the ruleset, in the answer to a question for it and in
/// notifications.
pub(super) fn generation(reply: &Reply) -> Option<u32> {
    (reply.kind == NEWGEN)
        .then(|| find(&reply.payload, 1))
        .flatten()
        .and_then(be32)
}

/// The name of the program that made a generation, in notifications.
pub(super) fn generation_by(reply: &Reply) -> Option<String> {
    find(&reply.payload, 3).map(text)
}

pub(super) fn chain(reply: &Reply) -> Option<ChainInfo> {
    let body = body(reply, NEWCHAIN)?;
    let hook = attribute(body, 4).map(|hook| HookInfo {
        kind: attribute(body, 7).map(text).unwrap_or_default(),
        point: attribute(hook, 1).and_then(be32).unwrap_or(u32::MAX),
        priority: attribute(hook, 2).and_then(be32).unwrap_or(0).cast_signed(),
        drops: attribute(body, 5).and_then(be32) == Some(0),
    });
    Some(ChainInfo {
        family: Family::read(*reply.payload.first()?)?,
        table: text(attribute(body, 1)?),
        name: text(attribute(body, 3)?),
        hook,
    })
}

pub(super) fn rule(reply: &Reply) -> Option<RuleInfo> {
    let body = body(reply, NEWRULE)?;
    let userdata = attribute(body, 7).unwrap_or_default();
    let expressions = attributes(attribute(body, 4).unwrap_or_default())
        .filter_map(|(_, expression)| {
            let data = attribute(expression, 2).unwrap_or_default();
            Some((text(attribute(expression, 1)?), data.to_vec()))
        })
        .collect();
    Some(RuleInfo {
        chain: text(attribute(body, 2)?),
        handle: u64::from_be_bytes(*attribute(body, 3)?.first_chunk()?),
        comment: userdata::read_comment(userdata),
        digest: userdata::read_digest(userdata),
        expressions,
    })
}

pub(super) fn set(reply: &Reply) -> Option<SetInfo> {
    let body = body(reply, NEWSET)?;
    let number = |kind| attribute(body, kind).and_then(be32).unwrap_or(0);
    Some(SetInfo {
        name: text(attribute(body, 2)?),
        shape: Shape {
            flags: number(3),
            key: number(4),
            key_length: number(5),
            data: number(6),
        },
    })
}

pub(super) fn elements(reply: &Reply) -> Vec<Element> {
    let list = body(reply, NEWSETELEM).and_then(|body| attribute(body, 3));
    attributes(list.unwrap_or_default())
        .filter_map(|(_, value)| element(value))
        .collect()
}

fn element(bytes: &[u8]) -> Option<Element> {
    let value = |kind| {
        let data = attribute(bytes, kind)?;
        attribute(data, 1).map(<[u8]>::to_vec)
    };
    let flags = attribute(bytes, 3).and_then(be32).unwrap_or(0);
    Some(Element {
        key: value(1)?,
        end: value(10),
        behind: flags & 1 != 0,
        data: attribute(bytes, 2).and_then(data),
        comment: attribute(bytes, 6).and_then(userdata::read_comment),
    })
}

fn data(bytes: &[u8]) -> Option<Data> {
    if let Some(value) = attribute(bytes, 1) {
        return Some(Data::Value(value.to_vec()));
    }
    attribute(bytes, 2)
        .and_then(Verdict::parse)
        .map(Data::Verdict)
}

fn body(reply: &Reply, kind: u16) -> Option<&[u8]> {
    (reply.kind == kind).then(|| reply.payload.get(HEAD..))?
}

fn find(payload: &[u8], kind: u16) -> Option<&[u8]> {
    attribute(payload.get(HEAD..)?, kind)
}

pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Message;
    use proptest::prelude::*;

    #[test]
    fn elements_are_read_as_they_are_written() {
        let written = [
            Element::new(vec![1, 2, 3, 4]).comment("a b c"),
            Element::new(vec![1; 8]).up_to(vec![2; 8]),
            Element::new(vec![1; 4]).leading_to(Data::Value(vec![9; 8])),
            Element::new(vec![1; 4]).leading_to(Data::Verdict(Verdict::Jump("x".into()))),
        ];
        let list = Message::new(0, 0, &[0; 4]).with_nest(3, &[], |list| {
            written.iter().fold(list, |list, element| element.put(list))
        });
        let reply = Reply {
            kind: NEWSETELEM,
            payload: list.body().to_vec(),
        };
        assert_eq!(elements(&reply), written);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(payload: Vec<u8>) {
            for kind in [NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM, NEWGEN] {
                let reply = Reply { kind, payload: payload.clone() };
                let _ = (chain(&reply), rule(&reply), set(&reply), elements(&reply));
                let _ = (generation(&reply), generation_by(&reply));
            }
        }
    }
}
