//! Messages of DNS, read and written by hickory.

use std::net::IpAddr;

use circuit_core::zone::{Asked, Data, Found};
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use rand::seq::SliceRandom;

/// The length of a message's head.
pub(super) const HEAD: usize = 12;
/// More records than this no question has: one of EDNS, and one of a signature. A name
/// may be a chain of thousands of pointers that each record walks along.
const MOST_RECORDS: u32 = 8;
/// A record of an address of IPv6, its name being a pointer.
const LONGEST_ADDRESS: usize = 28;
/// EDNS, with the longest datagram that is taken.
const OPT: [u8; 11] = {
    let [high, low] = LONGEST_DATAGRAM.to_be_bytes();
    [0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]
};
/// The longest answer by UDP: what passes every network whole (RFC 9715).
pub(super) const LONGEST_DATAGRAM: u16 = 1232;
/// The longest answer by UDP to who said nothing of longer ones.
const SHORT_DATAGRAM: u16 = 512;

/// A message that makes sense.
#[derive(Debug)]
pub(super) struct Question {
    metadata: Metadata,
    pub(super) query: Query,
    edns: Option<Edns>,
}

/// What came.
#[derive(Debug)]
pub(super) enum Read {
    /// A question.
    Question(Box<Question>),
    /// Something that is told what is wrong with it.
    Wrong(Box<Question>, ResponseCode),
    /// Something that is not answered: an answer, or what has not even a head.
    Nonsense,
}

/// Reads a message.
pub(super) fn read(bytes: &[u8]) -> Read {
    let Some(&[high, low, flags, ..]) = bytes.get(..HEAD) else {
        return Read::Nonsense;
    };
    // Nobody answers answers: two servers would go on for ever.
    if flags & 0x80 != 0 {
        return Read::Nonsense;
    }
    let id = u16::from_be_bytes([high, low]);
    let op_code = OpCode::from_u8(flags >> 3 & 0x0f);
    let wrong = |code| {
        let metadata = Metadata::new(id, MessageType::Query, op_code);
        let question = Question {
            metadata,
            query: Query::query(Name::root(), RecordType::ZERO),
            edns: None,
        };
        Read::Wrong(Box::new(question), code)
    };
    if op_code != OpCode::Query {
        return wrong(ResponseCode::NotImp);
    }
    if !is_plain(bytes) {
        return wrong(ResponseCode::FormErr);
    }
    let Ok(mut message) = Message::from_vec(bytes) else {
        return wrong(ResponseCode::FormErr);
    };
    let (Some(query), true) = (message.queries.pop(), message.queries.is_empty()) else {
        return wrong(ResponseCode::FormErr);
    };
    let question = Box::new(Question {
        metadata: message.metadata,
        query,
        edns: message.edns,
    });
    let version = question.edns.as_ref().map_or(0, Edns::version);
    let transfer = matches!(
        question.query.query_type,
        RecordType::AXFR | RecordType::IXFR
    );
    match question.query.query_class {
        _ if version != 0 => Read::Wrong(question, ResponseCode::BADVERS),
        DNSClass::IN | DNSClass::ANY if !transfer => Read::Question(question),
        _ => Read::Wrong(question, ResponseCode::Refused),
    }
}

/// Whether a message has one question, its name written out, and few records. Of a name
/// that goes on elsewhere, no answer of another server could be told.
fn is_plain(bytes: &[u8]) -> bool {
    let count = |at: usize| match bytes.get(at..at + 2) {
        Some(&[high, low]) => u32::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    let records = count(6) + count(8) + count(10);
    count(4) == 1 && records <= MOST_RECORDS && end_of_question(bytes).is_some()
}

impl Question {
    /// Whether the sender wants other servers to be asked.
    pub(super) fn wants_recursion(&self) -> bool {
        self.metadata.recursion_desired
    }

    /// The name in small letters, its labels with dots between them. What no name
    /// of ours can have is something that none has.
    pub(super) fn name(&self) -> String {
        let mut name = String::with_capacity(self.query.name.len());
        for bytes in self.query.name.iter() {
            if !name.is_empty() {
                name.push('.');
            }
            match std::str::from_utf8(bytes) {
                Ok(text) if !text.contains('.') => name.push_str(text),
                _ => name.push('\u{fffd}'),
            }
        }
        name.make_ascii_lowercase();
        name
    }

    /// What is asked of the name.
    pub(super) fn asked(&self) -> Asked {
        match self.query.query_type {
            RecordType::A => Asked::V4,
            RecordType::AAAA => Asked::V6,
            RecordType::PTR => Asked::Pointer,
            RecordType::SRV => Asked::Service,
            RecordType::SOA => Asked::Authority,
            RecordType::NS => Asked::Server,
            RecordType::ANY => Asked::Any,
            _ => Asked::Other,
        }
    }

    /// The longest datagram that the sender takes.
    pub(super) fn longest(&self) -> u16 {
        let told = self.edns.as_ref().map_or(SHORT_DATAGRAM, Edns::max_payload);
        told.clamp(SHORT_DATAGRAM, LONGEST_DATAGRAM)
    }

    /// An answer without any data.
    pub(super) fn empty(&self, code: ResponseCode, recursion: bool) -> Message {
        let mut metadata = Metadata::response_from_request(&self.metadata);
        metadata.response_code = code;
        metadata.recursion_available = recursion;
        let mut answer = Message::response(metadata.id, metadata.op_code);
        answer.metadata = metadata;
        // Of what could not be read there is no question to repeat.
        if !self.query.name.is_root() || self.query.query_type != RecordType::ZERO {
            answer.queries.push(self.query.clone());
        }
        if let Some(asked) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LONGEST_DATAGRAM);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            answer.edns = Some(edns);
        }
        answer
    }

    /// Writes the answer about addresses of a name, into the place of what is in
    /// `out`: by far the most frequent one, and so plain that it needs no writer
    /// that knows every form. False when it is not of that kind, or too long.
    pub(super) fn write_addresses(
        &self,
        asked: &[u8],
        found: &Found,
        ttl: u32,
        recursion: bool,
        longest: u16,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(end) = end_of_question(asked) else {
            return false;
        };
        let question = asked.get(HEAD..end).unwrap_or_default();
        let count = u16::try_from(found.data.len()).unwrap_or(u16::MAX);
        let room = usize::from(longest).saturating_sub(end + OPT.len());
        if question.is_empty() || count == 0 || usize::from(count) * LONGEST_ADDRESS > room {
            return false;
        }
        out.clear();
        out.extend_from_slice(asked.get(..2).unwrap_or(&[0; 2]));
        let desired = u8::from(self.metadata.recursion_desired);
        let disabled = u8::from(self.metadata.checking_disabled) << 4;
        // An answer, authoritative.
        out.extend([0x84 | desired, u8::from(recursion) << 7 | disabled]);
        out.extend([0, 1]);
        out.extend(count.to_be_bytes());
        out.extend([0, 0, 0, u8::from(self.edns.is_some())]);
        out.extend_from_slice(question);
        let mut order: Vec<&Data> = found.data.iter().collect();
        if count > 1 {
            order.shuffle(&mut rand::rng());
        }
        for data in order {
            let Data::Address(ip) = data else {
                return false;
            };
            // The name of the question.
            out.extend([0xc0, HEAD as u8]);
            let (kind, octets): (u16, &[u8]) = match ip {
                IpAddr::V4(ip) => (1, &ip.octets()),
                IpAddr::V6(ip) => (28, &ip.octets()),
            };
            out.extend(kind.to_be_bytes());
            out.extend([0, 1]);
            out.extend(ttl.to_be_bytes());
            out.extend([0, octets.len() as u8]);
            out.extend_from_slice(octets);
        }
        if let Some(edns) = &self.edns {
            let mut opt = OPT;
            opt[7] = u8::from(edns.flags().dnssec_ok) << 7;
            out.extend(opt);
        }
        true
    }

    /// The answer about a name of ours.
    pub(super) fn answer(&self, found: &Found, zone: &Authority<'_>, recursion: bool) -> Message {
        let code = match found.exists {
            true => ResponseCode::NoError,
            false => ResponseCode::NXDomain,
        };
        let mut answer = self.empty(code, recursion);
        answer.metadata.authoritative = true;
        for data in &found.data {
            if let Some(data) = zone.data(data) {
                let record = Record::from_rdata(self.query.name.clone(), zone.ttl, data);
                answer.answers.push(record);
            }
        }
        if answer.answers.len() > 1 {
            answer.answers.shuffle(&mut rand::rng());
        }
        for (of, ip) in &found.additional {
            if let Some(of) = name(of) {
                let record = Record::from_rdata(of, zone.ttl, address(*ip));
                answer.additionals.push(record);
            }
        }
        if answer.answers.is_empty()
            && let (Some(apex), Some(soa)) = (name(&found.apex), zone.soa())
        {
            let record = Record::from_rdata(apex, zone.ttl, soa);
            answer.authorities.push(record);
        }
        answer
    }
}

/// What a zone says of itself.
pub(super) struct Authority<'a> {
    pub(super) domain: &'a str,
    pub(super) ttl: u32,
    pub(super) serial: fn() -> u32,
}

impl Authority<'_> {
    fn data(&self, data: &Data) -> Option<RData> {
        Some(match data {
            Data::Address(ip) => address(*ip),
            Data::Pointer(to) => RData::PTR(PTR(name(to)?)),
            Data::Service { port, target } => RData::SRV(SRV::new(0, 0, *port, name(target)?)),
            Data::Authority => self.soa()?,
            Data::Server(server) => RData::NS(NS(name(server)?)),
        })
    }

    fn soa(&self) -> Option<RData> {
        let server = name(&format!("ns.{}", self.domain))?;
        let people = name(&format!("hostmaster.{}", self.domain))?;
        let (refresh, retry, expire) = (60, 10, 3600);
        let soa = SOA::new(
            server,
            people,
            (self.serial)(),
            refresh,
            retry,
            expire,
            self.ttl,
        );
        Some(RData::SOA(soa))
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// Where the first question of a message ends; none when its name goes on
/// elsewhere, or beyond the message.
pub(super) fn end_of_question(message: &[u8]) -> Option<usize> {
    let mut at = HEAD;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 5),
            length @ 1..64 => at += length + 1,
            _ => return None,
        }
    }
}

/// A name of ours; none when it is too long to be one.
fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Writes a message into the place of what is in `out`, of `longest` bytes at
/// most: answers that do not fit are left out, and the message says so. Some
/// resolvers take those that are there.
pub(super) fn write(mut message: Message, longest: u16, out: &mut Vec<u8>) {
    let longest = usize::from(longest);
    loop {
        out.clear();
        let mut encoder = BinEncoder::new(out);
        if message.emit(&mut encoder).is_err() {
            out.clear();
            return;
        }
        if out.len() <= longest {
            return;
        }
        if !message.additionals.is_empty() {
            message.additionals.clear();
            continue;
        }
        message.metadata.truncation = true;
        let (over, count) = (out.len() - longest, message.answers.len());
        let each = (out.len() / count.max(1)).max(1);
        let less = over.div_ceil(each).max(1);
        message.answers.truncate(count.saturating_sub(less));
        if count == 0 {
            // A question alone is never so long.
            out.clear();
            return;
        }
    }
}

/// The answer that an answer of another server is too long for this way, and is
/// to be asked for by TCP.
pub(super) fn cut(question: &Question, out: &mut Vec<u8>) {
    let mut answer = question.empty(ResponseCode::NoError, true);
    answer.metadata.truncation = true;
    write(answer, question.longest(), out);
}
