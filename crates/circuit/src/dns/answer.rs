//! A message answered: from the zones, or by other servers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use circuit_core::fleet::{Attached, Record, Snapshot};
use circuit_core::zone::{Networks, Scope, special};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::Dns;
use super::limit::Share;
use super::message::{self, Authority, Question, Read};

/// Through what a message came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// An address to listen on, where all names are seen.
    Open,
    /// A network's gateway: names of the networks that the asking container is on are
    /// seen, and those of that network by who is not known.
    Gateway(Arc<str>),
    /// The API, whose clients are trusted; they have servers of their own for
    /// other names.
    Api,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its address.
    pub peer: IpAddr,
    /// The address of this host that it wrote to, where that is known.
    pub local: Option<IpAddr>,
    /// Through what.
    pub door: &'a Door,
    /// Whether it is a stream, on which answers may be long.
    pub stream: bool,
}

/// What is done with a message.
#[derive(Debug)]
pub enum Answered {
    /// The answer is written.
    Now,
    /// There is none.
    Never,
    /// Another server is to be asked.
    Later(Pending),
}

/// A question for another server.
#[derive(Debug)]
pub struct Pending {
    question: Box<Question>,
    bytes: Vec<u8>,
    stream: bool,
    _share: Option<Share>,
}

/// What somebody may see.
struct View {
    maps: Vec<Snapshot>,
    networks: Arc<Networks>,
    /// None: everything.
    only: Option<Vec<Arc<str>>>,
}

impl View {
    fn scope(&self) -> Scope<'_> {
        self.only.as_deref().map_or(Scope::All, Scope::Networks)
    }
}

impl Dns {
    /// Answers a message into the place of what is in `out`, or says who can.
    /// Never waits.
    pub fn answer(&self, bytes: &[u8], client: &Client<'_>, out: &mut Vec<u8>) -> Answered {
        out.clear();
        let question = match message::read(bytes) {
            Read::Question(question) => question,
            Read::Wrong(question, code) => return self.refuse(&question, code, client, out),
            Read::Nonsense => {
                self.figures.dropped();
                return Answered::Never;
            }
        };
        if question.query.query_type == RecordType::HINFO
            && self.upstreams.is_probe(&question.query.name)
        {
            // Our own question came back: whoever we asked asks us.
            return self.refuse(&question, ResponseCode::Refused, client, out);
        }
        let view = self.view(client);
        let recursive = self.may_recurse(client, &view);
        let name = question.name();
        let labels: Vec<&str> = name.split('.').collect();
        let zone = self.zone(&view.networks, &view.maps, view.scope());
        let at_home = recursive || !matches!(client.door, Door::Gateway(_));
        let ours = zone.find(&labels, question.asked()).filter(|_| at_home);
        let everywhere = || special(&labels, question.asked()).filter(|_| recursive);
        if let Some(found) = ours.or_else(everywhere) {
            let longest = longest(&question, client);
            let ttl = self.settings.ttl;
            if question.write_addresses(bytes, &found, ttl, recursive, longest, out) {
                self.figures.answered(ResponseCode::NoError);
                return Answered::Now;
            }
            let answer = question.answer(&found, &self.authority(), recursive);
            self.figures.answered(answer.metadata.response_code);
            message::write(answer, longest, out);
            return Answered::Now;
        }
        if !recursive || !question.wants_recursion() {
            return self.refuse(&question, ResponseCode::Refused, client, out);
        }
        let is_here = self.is_here(client);
        if self.upstreams.comes_back(bytes, client.peer, is_here) {
            return self.refuse(&question, ResponseCode::Refused, client, out);
        }
        // Through a program of this host many may ask.
        if !is_here && !self.limits.allow(client.peer, Instant::now()) {
            self.figures.limited();
            return self.refuse(&question, ResponseCode::Refused, client, out);
        }
        let share = self.shares.take(client.peer).filter(|_| !is_here);
        if share.is_none() && !is_here {
            self.figures.limited();
            return self.refuse(&question, ResponseCode::ServFail, client, out);
        }
        Answered::Later(Pending {
            question,
            bytes: bytes.to_vec(),
            stream: client.stream,
            _share: share,
        })
    }

    /// Asks another server, into the place of what is in `out`; that nobody
    /// answers is an answer too. Returns whether somebody did.
    pub async fn finish(&self, pending: &Pending, out: &mut Vec<u8>) -> bool {
        self.figures.forwarded();
        let question = &pending.question;
        match self.upstreams.ask(&pending.bytes, pending.stream).await {
            Some(answer) => {
                let code = answer.get(3).map_or(0, |flags| flags & 0x0f);
                self.figures.answered(ResponseCode::from_low(code));
                *out = answer;
                if !pending.stream && out.len() > usize::from(question.longest()) {
                    message::cut(question, out);
                }
                true
            }
            None => {
                let answer = question.empty(ResponseCode::ServFail, true);
                self.figures.answered(ResponseCode::ServFail);
                message::write(answer, question.longest(), out);
                false
            }
        }
    }

    fn refuse(
        &self,
        question: &Question,
        code: ResponseCode,
        client: &Client<'_>,
        out: &mut Vec<u8>,
    ) -> Answered {
        self.figures.answered(code);
        message::write(question.empty(code, false), longest(question, client), out);
        Answered::Now
    }

    fn view(&self, client: &Client<'_>) -> View {
        let (maps, networks) = (self.sources.maps(), self.sources.networks());
        let only = match client.door {
            Door::Open | Door::Api => None,
            Door::Gateway(network) => Some(seen_through(network, client.peer, &maps)),
        };
        View {
            maps,
            networks,
            only,
        }
    }

    /// Other servers are asked for this host and for containers only. Through a
    /// gateway, nobody else is answered at all.
    fn may_recurse(&self, client: &Client<'_>, view: &View) -> bool {
        let peer = client.peer;
        if *client.door == Door::Api {
            return false;
        }
        self.is_here(client)
            || view.networks.subnet_of(peer.into()).is_some()
            || view.maps.iter().any(|map| !map.holders(peer).is_empty())
    }

    /// Whether a program of this host asks.
    fn is_here(&self, client: &Client<'_>) -> bool {
        let peer = client.peer;
        peer.is_loopback() || client.local == Some(peer) || self.own.contains(&peer)
    }

    fn authority(&self) -> Authority<'_> {
        Authority {
            domain: self.settings.domain.as_str(),
            ttl: self.settings.ttl,
            serial,
        }
    }
}

/// The networks whose names somebody sees through the gateway of one: a container of
/// this node those that it is on. Other nodes' containers are looked for only when no
/// container here has the address, and only on that network: elsewhere it may be
/// another's.
fn seen_through(network: &Arc<str>, peer: IpAddr, maps: &[Snapshot]) -> Vec<Arc<str>> {
    let is_there = |record: &&Arc<Record>| {
        let on = |it: &Attached| it.network == *network && it.ips.contains(&peer);
        record.attached.iter().any(on)
    };
    let here = maps.first().map_or(&[][..], |own| own.holders(peer));
    let others = maps.iter().skip(1).flat_map(|map| map.holders(peer));
    // A container asks the first of its gateways for all it wants.
    let askers: Vec<&Arc<Record>> = match here.iter().any(|record| is_there(&record)) {
        true => here.iter().filter(is_there).collect(),
        false if !here.is_empty() => here.iter().collect(),
        false => others.filter(is_there).collect(),
    };
    let mut seen = match here {
        [] => vec![Arc::clone(network)],
        _ => Vec::new(),
    };
    for attached in askers.into_iter().flat_map(|record| &record.attached) {
        if !seen.contains(&attached.network) {
            seen.push(Arc::clone(&attached.network));
        }
    }
    seen
}

/// The time: zones change with every container. Serial numbers go round (RFC
/// 1982).
#[allow(clippy::cast_possible_truncation, reason = "they go round")]
fn serial() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs() as u32)
}

fn longest(question: &Question, client: &Client<'_>) -> u16 {
    if client.stream {
        u16::MAX
    } else {
        question.longest()
    }
}
