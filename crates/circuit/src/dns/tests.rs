#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use circuit_core::fleet::{Attached, Fleet, NodeWord, Port, Protocol, Record, Snapshot};
use circuit_core::service::{Names as _, NodeInfo};
use circuit_core::zone::{DOMAIN, Domain, Networks};
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;

use super::*;

fn record(node: &str, container: &str, network: &str, ip: [u8; 4]) -> Record {
    Record {
        container: container.into(),
        node: node.into(),
        attached: [Attached {
            network: network.into(),
            interface: "eth0".into(),
            ips: [IpAddr::from(ip)].into(),
            mac: None,
            aliases: Box::default(),
            ports: [Port {
                host: 8080,
                container: 80,
                protocol: Protocol::Tcp,
            }]
            .into(),
        }]
        .into(),
    }
}

fn word() -> NodeWord {
    NodeWord {
        info: NodeInfo::default(),
        at: 0,
        heartbeat: 0,
        lease: 0,
    }
}

/// Two networks, of which one has many containers of one name.
struct Few(Vec<Snapshot>);

impl Few {
    fn new() -> Self {
        let mut fleet = Fleet::new();
        let own = [
            record("here", "web", "ctr0", [10, 88, 0, 2]),
            record("here", "db", "ctr1", [10, 99, 0, 2]),
        ];
        fleet.replace("here", word(), 1, own.into());
        for n in 0..200_u8 {
            let many = record("x", "many", "ctr0", [10, 88, 1, n]);
            let node = format!("n{n}");
            let many = Record {
                node: node.as_str().into(),
                ..many
            };
            fleet.replace(&node, word(), 1, vec![many]);
        }
        Self(vec![fleet.snapshot()])
    }
}

impl Sources for Few {
    fn maps(&self) -> Vec<Snapshot> {
        self.0.clone()
    }

    fn networks(&self) -> Arc<Networks> {
        let subnet = |text: &str| vec![text.parse().unwrap()];
        Arc::new(Networks::new([
            ("ctr0", subnet("10.88.0.0/16")),
            ("ctr1", subnet("10.99.0.0/16")),
        ]))
    }
}

pub(super) fn dns_with(upstream: Vec<SocketAddr>, limit: u32) -> Dns {
    dns_of(Few::new(), upstream, limit)
}

fn dns_of(few: Few, upstream: Vec<SocketAddr>, limit: u32) -> Dns {
    let settings = Settings {
        domain: Domain::parse(DOMAIN).unwrap(),
        ttl: 0,
        listen: vec!["192.0.2.1:53".parse().unwrap()],
        limit,
    };
    Dns::new(settings, Arc::new(few), Servers::These(upstream))
}

fn dns() -> Dns {
    dns_with(Vec::new(), 100)
}

pub(super) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message
        .queries
        .push(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn from<'a>(peer: &str, door: &'a Door, stream: bool) -> Client<'a> {
    Client {
        peer: peer.parse().unwrap(),
        local: None,
        door,
        stream,
    }
}

/// The answer's bytes; none when another server is to be asked.
fn bytes_of(dns: &Dns, question: &Message, client: &Client<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match dns.answer(&question.to_vec().unwrap(), client, &mut out) {
        Answered::Now => Some(out),
        Answered::Never => panic!("no answer"),
        Answered::Later(_) => None,
    }
}

fn answer(dns: &Dns, question: &Message, client: &Client<'_>) -> Message {
    Message::from_vec(&bytes_of(dns, question, client).unwrap()).unwrap()
}

fn ask(name: &str, kind: RecordType) -> Message {
    answer(
        &dns(),
        &question(name, kind),
        &from("127.0.0.1", &Door::Open, false),
    )
}

fn addresses(answer: &Message) -> Vec<String> {
    let mut all: Vec<String> = answer
        .answers
        .iter()
        .map(|it| it.data.to_string())
        .collect();
    all.sort();
    all
}

#[test]
fn a_name_is_answered_in_the_case_it_was_asked_in() {
    let answer = ask("WeB.cTr0.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(answer.queries[0].name.to_ascii(), "WeB.cTr0.");
    assert_eq!(answer.answers[0].name.to_ascii(), "WeB.cTr0.");
    assert_eq!(
        (addresses(&answer), answer.answers[0].ttl),
        (vec!["10.88.0.2".into()], 0)
    );
    assert!(answer.edns.is_none() && answer.authorities.is_empty());
}

#[test]
fn what_is_not_there_is_told_with_the_zone() {
    for (name, kind, code) in [
        ("web.ctr0.", RecordType::AAAA, ResponseCode::NoError),
        ("none.ctr0.", RecordType::A, ResponseCode::NXDomain),
        (
            "none.circuit.internal.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
    ] {
        let answer = ask(name, kind);
        assert_eq!(answer.metadata.response_code, code, "{name}");
        assert!(answer.answers.is_empty());
        let RData::SOA(soa) = &answer.authorities[0].data else {
            panic!("no soa: {answer:?}");
        };
        assert_eq!(soa.mname.to_ascii(), "ns.circuit.internal.");
        assert_eq!((answer.authorities[0].ttl, soa.minimum), (0, 0));
    }
}

#[test]
fn services_come_with_their_addresses() {
    let answer = ask("_80._tcp.web.circuit.internal.", RecordType::SRV);
    assert_eq!(addresses(&answer), ["0 0 80 web.ctr0.circuit.internal."]);
    assert_eq!(answer.additionals[0].data.to_string(), "10.88.0.2");
}

#[test]
fn several_addresses_come_in_every_order() {
    let first = |_| ask("many.ctr0.", RecordType::A).answers[0].data.to_string();
    let firsts: std::collections::BTreeSet<String> = (0..20).map(first).collect();
    assert!(firsts.len() > 5, "{firsts:?}");
}

#[test]
fn a_datagram_is_no_longer_than_the_asker_takes() {
    let dns = dns();
    let mut asked = question("many.ctr0.", RecordType::A);
    for (size, most) in [
        (None, 512),
        (Some(100), 512),
        (Some(1000), 1000),
        (Some(65535), 1232),
    ] {
        if let Some(size) = size {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            asked.edns = Some(edns);
        }
        let bytes = bytes_of(&dns, &asked, &from("127.0.0.1", &Door::Open, false)).unwrap();
        assert!(
            bytes.len() <= most && bytes.len() > most / 2,
            "{size:?}: {}",
            bytes.len()
        );
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(answer.metadata.truncation);
        assert_eq!(answer.edns.is_some(), size.is_some());
    }
    let answer = answer(&dns, &asked, &from("127.0.0.1", &Door::Open, true));
    assert_eq!(
        (answer.answers.len(), answer.metadata.truncation),
        (200, false)
    );
}

/// The same question about addresses, answered by both writers.
#[test]
fn the_quick_writer_says_what_the_whole_one_does() {
    let (dns, networks) = (dns(), Few::new().networks());
    let maps = dns.sources.maps();
    let zone = dns.zone(&networks, &maps, Scope::All);
    let authority = super::message::Authority {
        domain: "circuit.internal",
        ttl: 7,
        serial: || 1,
    };
    for (name, kind, quick) in [
        ("web.ctr0.", RecordType::A, true),
        ("WEB.ctr0.Circuit.internal.", RecordType::ANY, true),
        ("many.ctr0.", RecordType::A, true),
        ("web.ctr0.", RecordType::AAAA, false),
        ("gone.ctr0.", RecordType::A, false),
        ("_80._tcp.web.ctr0.", RecordType::SRV, false),
    ] {
        for edns in [false, true] {
            let mut asked = question(name, kind);
            asked.metadata.checking_disabled = edns;
            asked.metadata.recursion_desired = !edns;
            if edns {
                let mut told = Edns::new();
                told.set_max_payload(4096);
                told.set_dnssec_ok(true);
                asked.edns = Some(told);
            }
            let bytes = asked.to_vec().unwrap();
            let super::message::Read::Question(read) = super::message::read(&bytes) else {
                panic!("a question");
            };
            let text = read.name();
            let labels: Vec<&str> = text.split('.').collect();
            let found = zone.find(&labels, read.asked()).unwrap();
            let (mut one, mut other) = (Vec::new(), Vec::new());
            let wrote = read.write_addresses(&bytes, &found, 7, true, u16::MAX, &mut one);
            assert_eq!(wrote, quick, "{name}");
            if !quick {
                continue;
            }
            super::message::write(read.answer(&found, &authority, true), u16::MAX, &mut other);
            let [mut one, mut other] = [one, other].map(|it| Message::from_vec(&it).unwrap());
            for message in [&mut one, &mut other] {
                message
                    .answers
                    .sort_by_key(|record| record.data.to_string());
            }
            assert_eq!(one, other, "{name}");
            // Nothing is written that is longer than may be.
            assert!(!read.write_addresses(&bytes, &found, 7, true, 40, &mut Vec::new()));
        }
    }
}

#[test]
fn who_asks_wrongly_is_told_so() {
    let (dns, door) = (dns(), Door::Open);
    let client = from("127.0.0.1", &door, false);
    let code = |change: &dyn Fn(&mut Message)| {
        let mut asked = question("web.ctr0.", RecordType::A);
        change(&mut asked);
        let mut out = Vec::new();
        match dns.answer(&asked.to_vec().unwrap(), &client, &mut out) {
            Answered::Now => Some(Message::from_vec(&out).unwrap().metadata.response_code),
            _ => None,
        }
    };
    assert_eq!(
        code(&|it| it.metadata.op_code = OpCode::Notify),
        Some(ResponseCode::NotImp)
    );
    assert_eq!(code(&|it| it.queries.clear()), Some(ResponseCode::FormErr));
    let two = |it: &mut Message| it.queries.push(it.queries[0].clone());
    assert_eq!(code(&two), Some(ResponseCode::FormErr));
    let chaos = |it: &mut Message| it.queries[0].query_class = DNSClass::CH;
    assert_eq!(code(&chaos), Some(ResponseCode::Refused));
    let transfer = |it: &mut Message| it.queries[0].query_type = RecordType::AXFR;
    assert_eq!(code(&transfer), Some(ResponseCode::Refused));
    let newer = |it: &mut Message| {
        let mut edns = Edns::new();
        edns.set_version(1);
        it.edns = Some(edns);
    };
    // The number has another name where there is a signature.
    assert_eq!(code(&newer).map(u16::from), Some(16));
    // Answers are not answered.
    let response =
        |it: &mut Message| it.metadata.message_type = hickory_proto::op::MessageType::Response;
    assert_eq!(code(&response), None);
}

#[test]
fn one_source_leaves_room_for_others() {
    let (dns, door) = (dns_with(Vec::new(), 10_000), Door::Open);
    let asked = question("example.com.", RecordType::A).to_vec().unwrap();
    let ask = |peer: &str| {
        let mut out = Vec::new();
        match dns.answer(&asked, &from(peer, &door, false), &mut out) {
            Answered::Later(pending) => Ok(pending),
            _ => Err(Message::from_vec(&out).unwrap().metadata.response_code),
        }
    };
    let mut held: Vec<_> = (0..64).map(|_| ask("10.88.0.2").unwrap()).collect();
    assert_eq!(ask("10.88.0.2").err(), Some(ResponseCode::ServFail));
    assert_eq!(dns.figures().too_fast(), 1);
    assert!(ask("10.88.0.3").is_ok());
    held.pop();
    assert!(ask("10.88.0.2").is_ok());
    // A program of the host may ask for many others.
    let here: Vec<_> = (0..100).map(|_| ask("127.0.0.1").unwrap()).collect();
    assert_eq!(here.len(), 100);
}

#[test]
fn a_name_that_goes_on_elsewhere_is_nobodys_to_ask_for() {
    // The number and flags of the head, read as a name.
    let mut bytes = vec![2, b'a', 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(b"\xc0\x00\x00\x01\x00\x01");
    let mut out = Vec::new();
    let answered = dns().answer(&bytes, &from("127.0.0.1", &Door::Open, false), &mut out);
    assert!(matches!(answered, Answered::Now), "{answered:?}");
    assert_eq!(out[3] & 0x0f, 1, "FORMERR");
}

#[test]
fn others_names_are_looked_up_for_our_own_only() {
    let (dns, open) = (dns(), Door::Open);
    let gateway = Door::Gateway("ctr0".into());
    let asked = question("example.com.", RecordType::A);
    // None: another server is asked.
    for (peer, door, expected) in [
        ("127.0.0.1", &open, None),
        ("10.88.7.7", &open, None),
        ("10.88.7.7", &gateway, None),
        ("192.0.2.1", &open, None),
        ("203.0.113.9", &open, Some(ResponseCode::Refused)),
        ("203.0.113.9", &gateway, Some(ResponseCode::Refused)),
        ("127.0.0.1", &Door::Api, Some(ResponseCode::Refused)),
    ] {
        let bytes = bytes_of(&dns, &asked, &from(peer, door, false));
        let code = bytes.map(|bytes| Message::from_vec(&bytes).unwrap().metadata.response_code);
        assert_eq!(code, expected, "{peer} {door:?}");
    }
    let mut asked = asked;
    asked.metadata.recursion_desired = false;
    let refused = answer(&dns, &asked, &from("127.0.0.1", &open, false));
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    // Ours are answered to everybody who reaches an open door, and nobody else.
    let asked = question("web.ctr0.", RecordType::A);
    let stranger = answer(&dns, &asked, &from("203.0.113.9", &open, false));
    assert_eq!(addresses(&stranger), ["10.88.0.2"]);
    assert!(!stranger.metadata.recursion_available);
    let stranger = answer(&dns, &asked, &from("203.0.113.9", &gateway, false));
    assert_eq!(stranger.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn names_that_mean_the_same_everywhere_are_nobodys_to_ask_for() {
    assert_eq!(addresses(&ask("LocalHost.", RecordType::A)), ["127.0.0.1"]);
    assert_eq!(addresses(&ask("web.localhost.", RecordType::AAAA)), ["::1"]);
    let nothing = ask("localhost.", RecordType::MX);
    assert_eq!(nothing.metadata.response_code, ResponseCode::NoError);
    assert_eq!((nothing.answers.len(), nothing.authorities.len()), (0, 1));
    let never = ask("web.invalid.", RecordType::A);
    assert_eq!(never.metadata.response_code, ResponseCode::NXDomain);
    let pointer = ask("1.0.0.127.in-addr.arpa.", RecordType::PTR);
    assert_eq!(addresses(&pointer), ["localhost."]);
    // Who is answered for our own names only has another server for these too.
    for (peer, door) in [("203.0.113.9", &Door::Open), ("127.0.0.1", &Door::Api)] {
        let asked = question("localhost.", RecordType::A);
        let refused = answer(&dns(), &asked, &from(peer, door, false));
        assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    }
}

#[test]
fn who_asks_for_too_much_is_refused() {
    let (dns, door) = (dns_with(Vec::new(), 3), Door::Open);
    let asked = question("example.com.", RecordType::A);
    let passed =
        (0..10).filter(|_| bytes_of(&dns, &asked, &from("10.88.0.2", &door, false)).is_none());
    assert!((3..=4).contains(&passed.count()));
    assert!(bytes_of(&dns, &asked, &from("10.88.0.3", &door, false)).is_none());
    assert!(dns.figures().too_fast() >= 6);
    // Through a program of the host everybody may ask.
    for host in ["127.0.0.1", "192.0.2.1"] {
        let passed =
            (0..10).filter(|_| bytes_of(&dns, &asked, &from(host, &door, false)).is_none());
        assert_eq!(passed.count(), 10, "{host}");
    }
}

/// What is asked through the gateway of `ctr0`, with other nodes' containers beside
/// those of [`Few`].
fn through_gateway(others: Vec<Record>, name: &str, peer: &str) -> ResponseCode {
    let mut fleet = Fleet::new();
    fleet.replace("there", word(), 1, others);
    let mut few = Few::new();
    few.0.push(fleet.snapshot());
    let dns = dns_of(few, Vec::new(), 100);
    let (asked, door) = (question(name, RecordType::A), Door::Gateway("ctr0".into()));
    answer(&dns, &asked, &from(peer, &door, false))
        .metadata
        .response_code
}

#[test]
fn a_gateway_shows_what_the_asker_is_on() {
    let code = |name: &str, peer: &str| through_gateway(Vec::new(), name, peer);
    assert_eq!(code("web.ctr0.", "10.88.0.2"), ResponseCode::NoError);
    for name in ["db.ctr1.", "db.circuit.internal."] {
        assert_eq!(code(name, "10.88.0.2"), ResponseCode::NXDomain);
    }
    // A container of another network sees that one, whomever it asks.
    assert_eq!(code("db.ctr1.", "10.99.0.2"), ResponseCode::NoError);
    assert_eq!(code("web.ctr0.", "10.99.0.2"), ResponseCode::NXDomain);
    // One that is just being attached.
    assert_eq!(code("web.ctr0.", "10.88.0.7"), ResponseCode::NoError);
    assert_eq!(code("db.ctr1.", "10.88.0.7"), ResponseCode::NXDomain);
}

#[test]
fn anothers_container_with_the_askers_address_shows_it_nothing() {
    let other = |networks: &[(&str, [u8; 4])]| {
        let mut all = record("there", "other", "ctr0", [0; 4]);
        let attached = networks.iter().map(|(network, ip)| Attached {
            network: (*network).into(),
            ips: [IpAddr::from(*ip)].into(),
            ..all.attached[0].clone()
        });
        all.attached = attached.collect();
        all
    };
    let code = |other: &Record, peer: &str| through_gateway(vec![other.clone()], "db.ctr1.", peer);
    // A bridge of the same name on another node has given the same address.
    let twin = other(&[("ctr0", [10, 88, 0, 2]), ("ctr1", [10, 99, 0, 7])]);
    assert_eq!(code(&twin, "10.88.0.2"), ResponseCode::NXDomain);
    // Nobody here has the address, and another network has it elsewhere.
    let stray = other(&[("ctr1", [10, 88, 0, 7])]);
    assert_eq!(code(&stray, "10.88.0.7"), ResponseCode::NXDomain);
    // A container of a network that nodes share.
    let shared = other(&[("ctr0", [10, 88, 0, 7]), ("ctr1", [10, 99, 0, 7])]);
    assert_eq!(code(&shared, "10.88.0.7"), ResponseCode::NoError);
}

#[tokio::test]
async fn people_are_told_where_an_answer_came_from() {
    let dns = dns();
    let found = dns.query("web.ctr0", "").await.unwrap();
    assert_eq!(
        (&*found.code, &*found.source, &found.nodes),
        ("NOERROR", "zone", &vec!["here".to_owned()])
    );
    assert_eq!(found.records[0].data, "10.88.0.2");
    let found = dns.query("10.99.0.2", "").await.unwrap();
    assert_eq!(found.records[0].data, "db.ctr1.circuit.internal");
    // More than a datagram holds.
    let found = dns.query("many.circuit.internal", "a").await.unwrap();
    assert_eq!((found.records.len(), found.nodes.len()), (200, 200));
    let nobody = dns.query("example.com", "A").await.unwrap();
    assert_eq!((&*nobody.code, &*nobody.source), ("SERVFAIL", "none"));
    for (name, kind) in [
        ("", "A"),
        ("web", "NONSENSE"),
        (&"x".repeat(300), ""),
        ("a..b", ""),
    ] {
        assert!(dns.query(name, kind).await.is_err(), "{name} {kind}");
    }
    assert_eq!(dns.list().iter().filter(|row| row.kind == "A").count(), 202);
}

/// Whatever comes is answered in bounded length, or not at all.
fn take(dns: &Dns, bytes: &[u8]) {
    let mut out = Vec::new();
    for (door, stream) in [(&Door::Open, false), (&Door::Api, true)] {
        if let Answered::Now = dns.answer(bytes, &from("127.0.0.1", door, stream), &mut out) {
            assert!(out.len() >= 12 && out[..2] == bytes[..2] && out[2] & 0x80 != 0);
            assert!(stream || out.len() <= 1232);
        }
    }
}

#[test]
fn hostile_messages_do_no_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dns/corpus");
    let dns = dns();
    let mut count = 0;
    for file in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        take(&dns, &bytes);
        // And whatever is nearly the same.
        for at in 0..bytes.len() {
            for value in [0x3f, 0xc0] {
                let mut near = bytes.clone();
                near[at] = value;
                take(&dns, &near);
            }
            take(&dns, &bytes[..at]);
        }
        count += 1;
    }
    assert!(count >= 40, "{count} messages");
}

/// One record holds a chain of pointers, each to the one before, and the names of all
/// others begin at its end.
#[test]
fn a_chain_of_pointers_is_not_walked_along_for_each_record() {
    let mut bytes = vec![7, 8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(b"\x03web\x04ctr0\x00\x00\x01\x00\x01");
    let (name, first) = (12_u16, bytes.len() + 11);
    let chain = (0x3fff - first) / 2;
    bytes.extend([0, 0xff, 0, 0, 1, 0, 0, 0, 0]);
    bytes.extend(u16::try_from(2 * chain).unwrap().to_be_bytes());
    let mut to = name;
    for at in (first..).step_by(2).take(chain) {
        bytes.extend((0xc000 | to).to_be_bytes());
        to = u16::try_from(at).unwrap();
    }
    let mut records = 1_u16;
    while bytes.len() + 13 <= usize::from(u16::MAX) {
        bytes.extend((0xc000 | to).to_be_bytes());
        bytes.extend([0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]);
        records += 1;
    }
    bytes[6..8].copy_from_slice(&records.to_be_bytes());
    assert!(chain > 8000 && records > 3500, "{chain} {records}");
    let (dns, started) = (dns(), std::time::Instant::now());
    let mut out = Vec::new();
    let answered = dns.answer(&bytes, &from("127.0.0.1", &Door::Open, true), &mut out);
    assert!(matches!(answered, Answered::Now));
    let code = Message::from_vec(&out).unwrap().metadata.response_code;
    assert_eq!(code, ResponseCode::FormErr);
    assert!(started.elapsed() < std::time::Duration::from_secs(2));
    // As many as questions may have are read.
    let mut asked = question("web.ctr0.", RecordType::A);
    for _ in 0..8 {
        let a = RData::A(std::net::Ipv4Addr::LOCALHOST.into());
        let record = hickory_proto::rr::Record::from_rdata(Name::root(), 0, a);
        asked.answers.push(record);
    }
    let found = answer(&dns, &asked, &from("127.0.0.1", &Door::Open, true));
    assert_eq!(addresses(&found), ["10.88.0.2"]);
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        take(&dns(), &bytes);
    }
}
