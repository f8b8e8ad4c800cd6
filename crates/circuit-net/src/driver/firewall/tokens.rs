//! Rules as iptables writes them into nftables, so that `iptables` shows them
//! and the stock plugin finds them, and the other way round.

use crate::nft::{Rule, RuleInfo, Verdict, attribute};

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const NETWORK_HEADER: u32 = 1;

/// The states that `--ctstate RELATED,ESTABLISHED` means.
const RELATED_ESTABLISHED: u16 = 0b110;

/// One expression of a rule, but for counters.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// The register holds this much of the packet.
    Payload { offset: u32, length: u32 },
    /// The register holds a name.
    Meta(u32),
    /// The register is equal to this, or differs.
    Compare { differs: bool, value: Vec<u8> },
    /// A match of iptables: name, revision, and its own data.
    Match(String, u32, Vec<u8>),
    /// What is done.
    Verdict(Verdict),
}

/// A rule, comparable with those that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<Token>);

impl Line {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// `-s` or `-d` with a single address.
    fn address(mut self, address: &[u8], v4: u32, v6: u32) -> Self {
        let length = u32::try_from(address.len()).unwrap_or(0);
        let offset = if length == 4 { v4 } else { v6 };
        self.0.push(Token::Payload { offset, length });
        self.compare(false, address.to_vec())
    }

    pub(super) fn source(self, address: &[u8]) -> Self {
        self.address(address, 12, 8)
    }

    pub(super) fn destination(self, address: &[u8]) -> Self {
        self.address(address, 16, 24)
    }

    /// `-i`.
    pub(super) fn comes_by(self, interface: &str) -> Self {
        self.interface(META_IIFNAME, false, interface)
    }

    /// `-o`.
    pub(super) fn leaves_by(self, interface: &str) -> Self {
        self.interface(META_OIFNAME, false, interface)
    }

    /// `! -o`.
    pub(super) fn leaves_not_by(self, interface: &str) -> Self {
        self.interface(META_OIFNAME, true, interface)
    }

    fn interface(mut self, key: u32, differs: bool, name: &str) -> Self {
        self.0.push(Token::Meta(key));
        self.compare(differs, [name.as_bytes(), &[0]].concat())
    }

    fn compare(mut self, differs: bool, value: Vec<u8>) -> Self {
        self.0.push(Token::Compare { differs, value });
        self
    }

    /// `-m comment`.
    pub(super) fn comment(mut self, text: &str) -> Self {
        let mut data = text.as_bytes().to_vec();
        data.resize(256, 0);
        self.0.push(Token::Match("comment".to_owned(), 0, data));
        self
    }

    /// `-m conntrack --ctstate RELATED,ESTABLISHED`: `xt_conntrack_mtinfo3`
    /// with nothing but the flag that the state counts, and the states.
    pub(super) fn established(mut self) -> Self {
        let mut data = vec![0; 168];
        data[146..148].copy_from_slice(&1u16.to_ne_bytes());
        data[150..152].copy_from_slice(&RELATED_ESTABLISHED.to_ne_bytes());
        self.0.push(Token::Match("conntrack".to_owned(), 3, data));
        self
    }

    /// `-j`.
    pub(super) fn then(mut self, verdict: Verdict) -> Self {
        self.0.push(Token::Verdict(verdict));
        self
    }

    pub(super) fn jump(self, chain: &str) -> Self {
        self.then(Verdict::Jump(chain.to_owned()))
    }

    /// Whether a rule that is there is this one.
    pub(super) fn is(&self, rule: &RuleInfo) -> bool {
        let expressions = rule
            .expressions
            .iter()
            .filter(|(name, _)| name != "counter");
        expressions
            .map(|(name, data)| read(name, data))
            .eq(self.0.iter().cloned().map(Some))
    }

    /// The rule for the kernel; it counts as all of iptables' do.
    pub(super) fn rule(&self) -> Rule {
        let write = |rule, token: &Token| write(rule, token);
        self.0.iter().fold(Rule::new().bare(), write)
    }
}

/// What a rule compares first, such as an address; nothing when it compares nothing.
pub(super) fn compared(rule: &RuleInfo) -> &[u8] {
    let first = rule.expressions.iter().find(|(name, _)| name == "cmp");
    first
        .and_then(|(_, data)| attribute(attribute(data, 3)?, 1))
        .unwrap_or_default()
}

fn write(rule: Rule, token: &Token) -> Rule {
    match token {
        Token::Payload { offset, length } => rule.expression("payload", |data| {
            data.with_be32(1, 1)
                .with_be32(2, NETWORK_HEADER)
                .with_be32(3, *offset)
                .with_be32(4, *length)
        }),
        Token::Meta(key) => rule.expression("meta", |data| data.with_be32(1, 1).with_be32(2, *key)),
        Token::Compare { differs, value } => rule.expression("cmp", |data| {
            data.with_be32(1, 1)
                .with_be32(2, u32::from(*differs))
                .with_nest(3, &[], |nest| nest.with(1, value))
        }),
        Token::Match(name, revision, info) => rule.expression("match", |data| {
            data.with_text(1, name)
                .with_be32(2, *revision)
                .with(3, info)
        }),
        Token::Verdict(verdict) => rule.counter().verdict(verdict),
    }
}

fn read(name: &str, data: &[u8]) -> Option<Token> {
    let number = |kind| {
        let bytes = attribute(data, kind)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes))
    };
    match name {
        "payload" if number(2) == Some(NETWORK_HEADER) => Some(Token::Payload {
            offset: number(3)?,
            length: number(4)?,
        }),
        "meta" => Some(Token::Meta(number(2)?)),
        "cmp" => Some(Token::Compare {
            differs: match number(2)? {
                0 => false,
                1 => true,
                _ => return None,
            },
            value: attribute(attribute(data, 3)?, 1)?.to_vec(),
        }),
        "match" => {
            let name = attribute(data, 1)?;
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            let name = String::from_utf8_lossy(name).into_owned();
            Some(Token::Match(name, number(2)?, attribute(data, 3)?.to_vec()))
        }
        "immediate" => {
            let verdict = attribute(attribute(data, 2)?, 2)?;
            Verdict::parse(verdict).map(Token::Verdict)
        }
        _ => None,
    }
}
