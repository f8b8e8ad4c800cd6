//! Rules, put together expression by expression.

use std::net::IpAddr;

use ipnet::IpNet;

use super::read::attribute;
use super::userdata::{self, fnv};
use crate::netlink::Message;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;

/// `conntrack`'s status bit of connections whose destination was translated.
pub const IPS_DST_NAT: u32 = 1 << 5;

/// The `ct state` bit of connections that begin.
pub const CT_STATE_NEW: u32 = 1 << 3;

/// `fib`'s type of addresses of this host.
const RTN_LOCAL: u32 = 2;

/// One of the sixteen registers of 4 bytes, in which a rule keeps values.
/// Values that are looked up together lie behind one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u32);

impl Register {
    /// The first one.
    pub const FIRST: Self = Self(8);

    /// The register behind a value of so many bytes.
    #[must_use]
    pub fn after(self, bytes: u32) -> Self {
        Self(self.0 + bytes.div_ceil(4))
    }
}

/// What a rule knows of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// The name of the interface that it came in by, 16 bytes.
    Iifname,
    /// The name of the interface that it goes out by, 16 bytes.
    Oifname,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, 1 byte.
    Nfproto,
    /// The protocol above IP, 1 byte.
    L4proto,
    /// The packet's mark, 4 bytes.
    Mark,
    /// The source address.
    Saddr {
        /// Of IPv6 rather than IPv4.
        v6: bool,
    },
    /// The destination address.
    Daddr {
        /// Of IPv6 rather than IPv4.
        v6: bool,
    },
    /// The destination port of TCP, UDP and SCTP, 2 bytes.
    Dport,
    /// The state of its connection, 4 bytes.
    CtState,
    /// The status bits of its connection, 4 bytes.
    CtStatus,
    /// The kind of its destination address, as the routing table has it.
    FibDaddrType,
}

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// They are equal.
    Equal = 0,
    /// They differ.
    Differ = 1,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this chain's hook.
    Accept,
    /// It is dropped.
    Drop,
    /// It goes on in the chain that led here.
    Return,
    /// It goes through that chain, and comes back.
    Jump(String),
    /// It goes on in that chain, and does not come back.
    Goto(String),
}

impl Verdict {
    fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
        }
    }

    /// Reads the value of the attribute of a verdict.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let code = i32::from_be_bytes(*attribute(bytes, 1)?.first_chunk()?);
        let chain = attribute(bytes, 2).map(|name| {
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            String::from_utf8_lossy(name).into_owned()
        });
        Self::read(code, chain)
    }

    fn read(code: i32, chain: Option<String>) -> Option<Self> {
        Some(match (code, chain) {
            (0, _) => Self::Drop,
            (1, _) => Self::Accept,
            (-3, Some(chain)) => Self::Jump(chain),
            (-4, Some(chain)) => Self::Goto(chain),
            (-5, _) => Self::Return,
            _ => return None,
        })
    }

    /// The verdict as the attribute of kind `kind`.
    pub(super) fn put(&self, message: Message, kind: u16) -> Message {
        message.with_nest(kind, &[], |data| {
            data.with_nest(NFTA_DATA_VERDICT, &[], |verdict| {
                let verdict = verdict.with(1, &self.code().to_be_bytes());
                match self {
                    Self::Jump(chain) | Self::Goto(chain) => verdict.with_text(2, chain),
                    _ => verdict,
                }
            })
        })
    }
}

/// A value as the attribute of kind `kind`.
pub(super) fn put_value(message: Message, kind: u16, value: &[u8]) -> Message {
    message.with_nest(kind, &[], |data| data.with(NFTA_DATA_VALUE, value))
}

/// A rule: conditions, and what is done when all of them hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    expressions: Vec<u8>,
    comment: Option<String>,
    bare: bool,
}

impl Rule {
    /// A rule that holds for every packet and does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// With words for people, and for finding it again.
    #[must_use]
    pub fn comment(mut self, text: impl Into<String>) -> Self {
        self.comment = Some(text.into());
        self
    }

    /// Without anything that iptables would not write: neither comment nor
    /// digest.
    #[must_use]
    pub(crate) fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// The expressions, as list elements.
    pub(super) fn expressions(&self) -> &[u8] {
        &self.expressions
    }

    /// The digest by which the rule is known again.
    pub(super) fn digest(&self) -> u64 {
        let comment = self.comment.as_deref().unwrap_or_default();
        fnv(&[&self.expressions, comment.as_bytes()].concat())
    }

    pub(super) fn userdata(&self) -> Vec<u8> {
        if self.bare {
            return Vec::new();
        }
        let mut bytes = self
            .comment
            .as_deref()
            .map(userdata::comment)
            .unwrap_or_default();
        bytes.extend(userdata::digest(self.digest()));
        bytes
    }

    /// Adds an expression of any kind.
    #[must_use]
    pub(crate) fn expression(mut self, name: &str, fill: impl FnOnce(Message) -> Message) -> Self {
        let element = Message::new(0, 0, &[]).with_nest(NFTA_LIST_ELEM, &[], |e| {
            e.with_text(NFTA_EXPR_NAME, name)
                .with_nest(NFTA_EXPR_DATA, &[], fill)
        });
        self.expressions.extend(element.body());
        self
    }

    /// Puts what is known of the packet into a register.
    #[must_use]
    pub fn load(self, what: Load, register: Register) -> Self {
        let register = register.0;
        let meta = |key: u32| ("meta", vec![(1, register), (2, key)]);
        let payload = |base: u32, offset: u32, length: u32| {
            let values = vec![(1, register), (2, base), (3, offset), (4, length)];
            ("payload", values)
        };
        let (name, values) = match what {
            Load::Mark => meta(3),
            Load::Iifname => meta(6),
            Load::Oifname => meta(7),
            Load::Nfproto => meta(15),
            Load::L4proto => meta(16),
            Load::Saddr { v6: false } => payload(1, 12, 4),
            Load::Daddr { v6: false } => payload(1, 16, 4),
            Load::Saddr { v6: true } => payload(1, 8, 16),
            Load::Daddr { v6: true } => payload(1, 24, 16),
            Load::Dport => payload(2, 2, 2),
            Load::CtState => ("ct", vec![(1, register), (2, 0)]),
            Load::CtStatus => ("ct", vec![(1, register), (2, 2)]),
            Load::FibDaddrType => ("fib", vec![(1, register), (2, 3), (3, 2)]),
        };
        self.expression(name, |data| {
            let put = |data: Message, (kind, value)| data.with_be32(kind, value);
            values.into_iter().fold(data, put)
        })
    }

    /// Holds when a register compares so with a value.
    #[must_use]
    pub fn compare(self, register: Register, how: Compare, value: &[u8]) -> Self {
        self.expression("cmp", |data| {
            let data = data.with_be32(1, register.0).with_be32(2, how as u32);
            put_value(data, 3, value)
        })
    }

    /// Holds when a register is within two values, these included.
    #[must_use]
    pub fn within(self, register: Register, from: &[u8], to: &[u8]) -> Self {
        self.expression("range", |data| {
            let data = data.with_be32(1, register.0).with_be32(2, 0);
            put_value(put_value(data, 3, from), 4, to)
        })
    }

    /// Keeps of a register only the bits of a mask.
    #[must_use]
    pub fn mask(self, register: Register, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        self.expression("bitwise", |data| {
            let data = data
                .with_be32(1, register.0)
                .with_be32(2, register.0)
                .with_be32(3, length);
            put_value(put_value(data, 4, mask), 5, &vec![0; mask.len()])
        })
    }

    /// Holds when what lies from a register on is in a set; of a map, puts
    /// what it leads to from register `into` on.
    #[must_use]
    pub fn lookup(self, set: &str, register: Register, into: Option<Register>) -> Self {
        self.expression("lookup", |data| {
            data.with_text(1, set)
                .with_be32(2, register.0)
                .with_some(into, |data, into| data.with_be32(3, into.0))
        })
    }

    /// Does what a map of verdicts says, if it says anything.
    #[must_use]
    pub fn verdict_map(self, set: &str, register: Register) -> Self {
        self.lookup(set, register, Some(Register(0)))
    }

    /// Decides.
    #[must_use]
    pub fn verdict(self, verdict: &Verdict) -> Self {
        self.expression("immediate", |data| verdict.put(data.with_be32(1, 0), 2))
    }

    /// Translates the destination to the address and the port in registers.
    #[must_use]
    pub fn dnat(self, v6: bool, address: Register, port: Register) -> Self {
        self.expression("nat", |data| {
            data.with_be32(1, 1)
                .with_be32(2, nfproto(v6).into())
                .with_be32(3, address.0)
                .with_be32(5, port.0)
        })
    }

    /// Translates the source to the address of the interface that the packet
    /// leaves by.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.expression("masq", |data| data)
    }

    /// Counts.
    #[must_use]
    pub fn counter(self) -> Self {
        self.expression("counter", |data| data.with_be64(1, 0).with_be64(2, 0))
    }
}

/// Conditions that are made of several expressions.
impl Rule {
    /// Holds for packets of one family; needed in tables of both before
    /// anything that looks at addresses.
    #[must_use]
    pub fn family(self, v6: bool) -> Self {
        self.load(Load::Nfproto, Register::FIRST).compare(
            Register::FIRST,
            Compare::Equal,
            &[nfproto(v6)],
        )
    }

    /// Holds for packets that came in by the interface of that name.
    #[must_use]
    pub fn iifname(self, how: Compare, name: &str) -> Self {
        self.load(Load::Iifname, Register::FIRST)
            .compare(Register::FIRST, how, &ifname_key(name))
    }

    /// Holds for packets whose source is in a subnet.
    #[must_use]
    pub fn saddr(self, how: Compare, subnet: IpNet) -> Self {
        let v6 = subnet.addr().is_ipv6();
        self.address(Load::Saddr { v6 }, how, subnet)
    }

    /// Holds for packets whose destination is in a subnet.
    #[must_use]
    pub fn daddr(self, how: Compare, subnet: IpNet) -> Self {
        let v6 = subnet.addr().is_ipv6();
        self.address(Load::Daddr { v6 }, how, subnet)
    }

    fn address(self, load: Load, how: Compare, subnet: IpNet) -> Self {
        let rule = self.load(load, Register::FIRST);
        let rule = match subnet.prefix_len() == subnet.max_prefix_len() {
            true => rule,
            false => rule.mask(Register::FIRST, &ip_key(subnet.netmask())),
        };
        rule.compare(Register::FIRST, how, &ip_key(subnet.network()))
    }

    /// Holds when some of the bits are set.
    #[must_use]
    pub fn any_bit(self, load: Load, bits: u32) -> Self {
        self.bits(load, bits, Compare::Differ)
    }

    /// Holds when none of the bits is set.
    #[must_use]
    pub fn no_bit(self, load: Load, bits: u32) -> Self {
        self.bits(load, bits, Compare::Equal)
    }

    fn bits(self, load: Load, bits: u32, with_zero: Compare) -> Self {
        self.load(load, Register::FIRST)
            .mask(Register::FIRST, &bits.to_ne_bytes())
            .compare(Register::FIRST, with_zero, &[0; 4])
    }

    /// Holds for packets to an address of this host.
    #[must_use]
    pub fn to_this_host(self) -> Self {
        self.load(Load::FibDaddrType, Register::FIRST).compare(
            Register::FIRST,
            Compare::Equal,
            &RTN_LOCAL.to_ne_bytes(),
        )
    }
}

/// An interface's name as a value: 16 bytes, filled up with zeros.
pub fn ifname_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// An address as a value.
pub fn ip_key(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn nfproto(v6: bool) -> u8 {
    if v6 { 10 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_differ_have_digests_that_differ() {
        let net: IpNet = "10.88.0.0/16".parse().unwrap();
        let rules = [
            Rule::new(),
            Rule::new().masquerade(),
            Rule::new().masquerade().comment("a"),
            Rule::new().saddr(Compare::Equal, net).masquerade(),
            Rule::new().saddr(Compare::Differ, net).masquerade(),
            Rule::new().daddr(Compare::Differ, net).masquerade(),
        ];
        for (i, a) in rules.iter().enumerate() {
            for (j, b) in rules.iter().enumerate() {
                assert_eq!(a.digest() == b.digest(), i == j, "{i} {j}");
            }
        }
    }

    #[test]
    fn registers_lie_behind_one_another() {
        assert_eq!(Register::FIRST.after(4), Register(9));
        assert_eq!(Register::FIRST.after(16).after(1), Register(13));
    }

    #[test]
    fn verdicts_are_read_as_they_are_written() {
        for verdict in [
            Verdict::Accept,
            Verdict::Drop,
            Verdict::Return,
            Verdict::Jump("a".into()),
            Verdict::Goto("b".into()),
        ] {
            let chain = match &verdict {
                Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain.clone()),
                _ => None,
            };
            assert_eq!(Verdict::read(verdict.code(), chain), Some(verdict));
        }
    }
}
