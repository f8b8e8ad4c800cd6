//! What the API asks of DNS.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr as _;
use std::time::Instant;

use async_trait::async_trait;
use circuit_core::service::{NameAnswer, NameRecord, Names};
use circuit_core::{Error, Result};
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::Dns;
use super::answer::{Answered, Client, Door};
use super::figures::code_name;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[async_trait]
impl Names for Dns {
    async fn query(&self, name: &str, kind: &str) -> Result<NameAnswer> {
        let (name, kind) = asked(name, kind)?;
        let text = name.to_ascii();
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        let mut edns = Edns::new();
        edns.set_max_payload(super::message::LONGEST_DATAGRAM);
        question.edns = Some(edns);
        question.queries.push(Query::query(name, kind));
        let bytes = question
            .to_vec()
            .map_err(|error| Error::invalid(format!("{text} cannot be asked for: {error}")))?;
        let start = Instant::now();
        let (answer, source) = self.whole_answer(&bytes).await;
        let took = start.elapsed();
        let broken =
            |error| Error::unavailable(format!("the answer for {text} is broken: {error}"));
        let answer = Message::from_vec(&answer).map_err(broken)?;
        Ok(NameAnswer {
            code: code_name(answer.metadata.response_code),
            records: answer.answers.iter().map(told).collect(),
            nodes: match source {
                "zone" => self.nodes_of(&text),
                _ => Vec::new(),
            },
            source: source.to_owned(),
            took,
        })
    }

    fn list(&self) -> Vec<NameRecord> {
        let ttl = self.settings().ttl;
        let mut records = self.rows();
        records.iter_mut().for_each(|record| record.ttl = ttl);
        records
    }

    fn message(&self, message: &[u8]) -> Option<Vec<u8>> {
        let client = Client {
            peer: HERE,
            local: None,
            door: &Door::Api,
            stream: true,
        };
        // Of most answers: it is not to grow bit by bit.
        let mut out = Vec::with_capacity(message.len() + 128);
        match self.answer(message, &client, &mut out) {
            Answered::Now => Some(out),
            Answered::Never | Answered::Later(_) => None,
        }
    }
}

impl Dns {
    /// The answer, whole, as a program on this host gets it, and where it came
    /// from.
    async fn whole_answer(&self, question: &[u8]) -> (Vec<u8>, &'static str) {
        let mut out = Vec::new();
        for stream in [false, true] {
            let client = Client {
                peer: HERE,
                local: None,
                door: &Door::Open,
                stream,
            };
            let pending = match self.answer(question, &client, &mut out) {
                Answered::Later(pending) => pending,
                Answered::Now | Answered::Never if is_cut(&out) => continue,
                Answered::Now | Answered::Never => return (out, "zone"),
            };
            let answered = self.finish(&pending, &mut out).await;
            if !is_cut(&out) {
                return (out, if answered { "upstream" } else { "none" });
            }
        }
        (out, "upstream")
    }
}

fn is_cut(answer: &[u8]) -> bool {
    answer.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

/// Reads what people ask for.
fn asked(name: &str, kind: &str) -> Result<(Name, RecordType)> {
    let kind = kind.trim().to_ascii_uppercase();
    let wrong = |error| Error::invalid(format!("{name:?} is no name: {error}"));
    if let (Ok(address), "" | "PTR") = (name.parse::<IpAddr>(), &*kind) {
        return Ok((Name::from(address), RecordType::PTR));
    }
    let kind = match &*kind {
        "" => RecordType::A,
        kind => RecordType::from_str(kind).map_err(|_| {
            Error::invalid(format!(
                "{kind:?} is no type of dns; give one such as A, AAAA, PTR or SRV"
            ))
        })?,
    };
    if name.is_empty() || name.len() > 255 {
        return Err(Error::invalid(format!(
            "{name:?} is no name; give one such as web.ctr0"
        )));
    }
    let mut read = Name::from_ascii(name).map_err(wrong)?;
    read.set_fqdn(true);
    Ok((read, kind))
}

fn told(record: &Record) -> NameRecord {
    let data = match &record.data {
        RData::PTR(to) => to.0.to_ascii(),
        data => data.to_string(),
    };
    NameRecord {
        name: record.name.to_ascii().trim_end_matches('.').to_owned(),
        kind: record.record_type().to_string(),
        data: data.trim_end_matches('.').to_owned(),
        ttl: record.ttl,
        node: String::new(),
    }
}
