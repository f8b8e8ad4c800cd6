//! What is written into nftables is what `nft` shows and the kernel tells.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use circuit_net::nft::*;
use common::{Netns, on_private_host, shell};

const OURS: Table = Table {
    family: Family::Inet,
    name: "test",
};

const RANGES: Set = Set::ranges("ranges", &[Type::Port]);
const PAIRS: Set = Set::ranges("pairs", &[Type::Ipv4, Type::Port]);
const PORTS: Set = Set::map(
    "ports",
    &[Type::Protocol, Type::Port],
    Leads::To(&[Type::Ipv6, Type::Port]),
);
const VERDICTS: Set = Set::map("verdicts", &[Type::Ifname], Leads::ToVerdicts);

fn change(nft: &mut Nft, fill: impl Fn(&mut Batch)) -> Result<()> {
    let made = nft.transaction(|_, _| {
        let mut batch = Batch::new();
        fill(&mut batch);
        Ok::<_, NftError>((batch, ()))
    });
    made.map(drop)
}

#[test]
fn sets_of_every_kind_are_written_and_read() {
    on_private_host(|| async {
        let mut nft = Nft::open(None).unwrap();
        let (from, to) = (1000u16.to_be_bytes(), 2001u16.to_be_bytes());
        let port = |ip: [u8; 4], port: u16| concat(&[&ip, &port.to_be_bytes()]);
        let range = [
            Element::new(from.to_vec()).comment("a range"),
            Element {
                behind: true,
                ..Element::new(to.to_vec())
            },
        ];
        let pair = Element::new(port([10, 0, 0, 0], 80)).up_to(port([10, 0, 0, 255], 90));
        let ip6 = "fd00::1".parse().unwrap();
        let there = concat(&[&ip_key(ip6), &[0, 53]]);
        let mapped = Element::new(concat(&[&[17], &[0, 53]])).leading_to(Data::Value(there));
        let jump = Element::new(ifname_key("br0"))
            .leading_to(Data::Verdict(Verdict::Jump("target".to_owned())));
        let drop = Element::new(ifname_key("br1")).leading_to(Data::Verdict(Verdict::Drop));
        change(&mut nft, |batch| {
            batch.add_table(OURS, Some("a test"));
            batch.add_chain(OURS, "target", None);
            for set in [RANGES, PAIRS, PORTS, VERDICTS] {
                batch.add_set(OURS, &set);
            }
            batch.add_elements(OURS, "ranges", &range);
            batch.add_elements(OURS, "pairs", std::slice::from_ref(&pair));
            batch.add_elements(OURS, "ports", std::slice::from_ref(&mapped));
            batch.add_elements(OURS, "verdicts", &[jump.clone(), drop.clone()]);
        })
        .unwrap();
        let text = shell("nft list table inet test");
        for part in [
            "1000-2000 comment \"a range\"",
            "10.0.0.0/24 . 80-90",
            "udp . 53 : fd00::1 . 53",
            "\"br0\" : jump target",
            "\"br1\" : drop",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(
            nft.elements(OURS, "pairs").unwrap(),
            std::slice::from_ref(&pair)
        );
        assert_eq!(nft.elements(OURS, "ports").unwrap(), [mapped]);
        assert_eq!(nft.elements(OURS, "verdicts").unwrap().len(), 2);
        assert!(nft.elements(OURS, "ranges").unwrap().contains(&range[0]));
        assert_eq!(nft.elements(OURS, "nothing").unwrap(), []);
        let other = Element::new(ifname_key("br2"));
        let found = nft.find(OURS, "verdicts", &[other, jump.clone()]).unwrap();
        assert_eq!(found, [None, Some(jump)]);
        change(&mut nft, |batch| {
            batch.delete_elements(OURS, "pairs", std::slice::from_ref(&pair));
        })
        .unwrap();
        assert_eq!(nft.elements(OURS, "pairs").unwrap(), []);
        change(&mut nft, |batch| batch.delete_table(OURS)).unwrap();
        assert_eq!(shell("nft list ruleset"), "");
    });
}

#[test]
fn rules_of_every_expression_are_what_nft_reads() {
    on_private_host(|| async {
        let mut nft = Nft::open(None).unwrap();
        let net = "10.1.0.0/16".parse().unwrap();
        let first = Register::FIRST;
        let rules = [
            (Rule::new().counter(), "counter packets 0 bytes 0"),
            (
                Rule::new()
                    .load(Load::L4proto, first)
                    .compare(first, Compare::Equal, &[6])
                    .load(Load::Dport, first)
                    .within(first, &[0, 80], &[0, 90])
                    .verdict(&Verdict::Accept),
                "tcp dport 80-90 accept",
            ),
            (
                Rule::new()
                    .family(false)
                    .saddr(Compare::Differ, net)
                    .verdict(&Verdict::Drop),
                "ip saddr != 10.1.0.0/16 drop",
            ),
            (
                Rule::new()
                    .iifname(Compare::Equal, "br0")
                    .verdict(&Verdict::Goto("target".to_owned())),
                "iifname \"br0\" goto target",
            ),
            (
                Rule::new()
                    .load(Load::Oifname, first)
                    .verdict_map("verdicts", first),
                "oifname vmap @verdicts",
            ),
            (
                Rule::new()
                    .any_bit(Load::CtState, CT_STATE_NEW)
                    .comment("words"),
                "ct state new comment \"words\"",
            ),
        ];
        change(&mut nft, |batch| {
            batch.add_table(OURS, None);
            batch.add_chain(OURS, "target", None);
            let hook = Hook {
                kind: "filter",
                point: HookPoint::Forward,
                priority: PRIORITY_FILTER + 5,
            };
            batch.add_chain(OURS, "way", Some(hook));
            batch.add_set(OURS, &VERDICTS);
            for (rule, _) in rules.iter().skip(1) {
                batch.add_rule(OURS, "way", rule);
            }
            batch.insert_rule(OURS, "way", &rules[0].0);
        })
        .unwrap();
        let text = shell("nft list chain inet test way");
        let lines: Vec<&str> = text.lines().map(str::trim).skip(3).collect();
        let expected: Vec<&str> = rules.iter().map(|(_, text)| *text).collect();
        assert_eq!(lines[..expected.len()], expected, "{text}");
        let read = nft.rules(OURS, Some("way")).unwrap();
        assert_eq!(read.len(), rules.len());
        assert_eq!(read[5].comment.as_deref(), Some("words"));
        assert_eq!(nft.rules(OURS, Some("target")).unwrap(), []);
        let chains = nft.chains(Family::Inet).unwrap();
        let hook = chains.iter().find_map(|chain| chain.hook.clone()).unwrap();
        assert_eq!((hook.point, hook.priority, hook.drops), (2, 5, false));
        change(&mut nft, |batch| {
            batch.delete_rule(OURS, "way", read[0].handle);
        })
        .unwrap();
        change(&mut nft, |batch| {
            batch.flush_chain(OURS, "way");
            batch.delete_chain(OURS, "way");
            batch.delete_set(OURS, "verdicts");
        })
        .unwrap();
        assert_eq!(nft.chains(Family::Inet).unwrap().len(), 1);
    });
}

#[test]
fn a_batch_is_made_whole_and_in_its_generation_or_not_at_all() {
    on_private_host(|| async {
        let mut nft = Nft::open(None).unwrap();
        let generation = nft.generation().unwrap();
        let mut batch = Batch::new();
        batch.add_table(OURS, None);
        shell("nft add table ip other");
        let stale = nft.commit(&batch, generation).unwrap_err();
        assert!(matches!(stale, NftError::Busy));
        let generation = nft.generation().unwrap();
        assert_eq!(nft.commit(&Batch::new(), generation).unwrap(), generation);
        let next = nft.commit(&batch, generation).unwrap();
        assert_eq!(nft.generation().unwrap(), next);
        let error = change(&mut nft, |batch| {
            batch.add_set(OURS, &VERDICTS);
            batch.delete_chain(OURS, "nobody");
            batch.add_set(OURS, &RANGES);
        });
        assert_eq!(error.unwrap_err().errno(), Some(libc::ENOENT));
        assert!(!shell("nft list ruleset").contains("verdicts"));
        // Larger than what a socket sends without being told.
        let many: Vec<Element> = (0..5000u32)
            .map(|n| Element::new(n.to_be_bytes().to_vec()).comment("x".repeat(100)))
            .collect();
        let set = Set::of("many", &[Type::Ipv4]);
        change(&mut nft, |batch| {
            batch.add_set(OURS, &set);
            batch.add_elements(OURS, "many", &many);
        })
        .unwrap();
        assert_eq!(nft.elements(OURS, "many").unwrap().len(), 5000);
        let again = change(&mut nft, |batch| {
            batch.add_elements(OURS, "many", &many);
        });
        assert_eq!(again.unwrap_err().errno(), Some(libc::EEXIST));
    });
}

#[test]
fn sockets_and_watches_are_of_the_namespace_they_are_opened_in() {
    on_private_host(|| async {
        let netns = Netns::new();
        let mut nft = Nft::open(Some(&netns.path())).unwrap();
        let mut watch = Watch::open(Some(&netns.path())).unwrap();
        change(&mut nft, |batch| batch.add_table(OURS, None)).unwrap();
        assert_eq!(shell("nft list ruleset"), "");
        let change = watch.wait(Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(change.generation, Some(nft.generation().unwrap()));
        assert_eq!(watch.wait(Duration::from_millis(1)).unwrap(), None);
    });
}
