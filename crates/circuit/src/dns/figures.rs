//! What DNS has answered, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::ResponseCode;

/// Result codes that are told apart; the last one stands for all others.
const CODES: [(&str, ResponseCode); 7] = [
    ("NOERROR", ResponseCode::NoError),
    ("FORMERR", ResponseCode::FormErr),
    ("SERVFAIL", ResponseCode::ServFail),
    ("NXDOMAIN", ResponseCode::NXDomain),
    ("NOTIMP", ResponseCode::NotImp),
    ("REFUSED", ResponseCode::Refused),
    ("BADVERS", ResponseCode::BADVERS),
];

/// The text of a result code.
pub(super) fn code_name(code: ResponseCode) -> String {
    let known = CODES.iter().find(|(_, known)| *known == code);
    known.map_or_else(
        || format!("RCODE{}", u16::from(code)),
        |(name, _)| (*name).to_owned(),
    )
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Figures {
    answers: [AtomicU64; CODES.len() + 1],
    forwarded: AtomicU64,
    limited: AtomicU64,
    dropped: AtomicU64,
}

impl Figures {
    pub(super) fn answered(&self, code: ResponseCode) {
        let at = CODES.iter().position(|(_, known)| *known == code);
        add(&self.answers[at.unwrap_or(CODES.len())]);
    }

    pub(super) fn forwarded(&self) {
        add(&self.forwarded);
    }

    pub(super) fn limited(&self) {
        add(&self.limited);
    }

    pub(super) fn dropped(&self) {
        add(&self.dropped);
    }

    /// Answers by result code.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let names = CODES.iter().map(|(name, _)| *name).chain(["other"]);
        names.zip(self.answers.iter().map(count))
    }

    /// Questions that were passed on to other servers.
    pub fn passed_on(&self) -> u64 {
        count(&self.forwarded)
    }

    /// Questions for other servers that came too fast, or too many at once.
    pub fn too_fast(&self) -> u64 {
        count(&self.limited)
    }

    /// Datagrams that were no questions, which nobody is answered.
    pub fn nonsense(&self) -> u64 {
        count(&self.dropped)
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
