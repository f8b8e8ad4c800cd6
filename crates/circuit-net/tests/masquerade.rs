//! Masquerading in the kernel's nftables, with real packets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::time::Duration;

use circuit_net::nft::{Nft, Watch, is_intact, masquerade};
use common::{on_private_host, shell};
use ipnet::IpNet;
use lan::*;

fn nets() -> Vec<IpNet> {
    ["10.77.0.0/24", "fd77::/64"]
        .map(|net| net.parse().unwrap())
        .to_vec()
}

fn ruleset() -> String {
    shell("nft list ruleset")
}

fn generation() -> u32 {
    Nft::open(None).unwrap().generation().unwrap()
}

#[test]
fn what_leaves_the_subnet_gets_the_hosts_address() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        let (client, first) = (lan.client.path(), lan.containers[0].path());
        let (client, first) = (Some(client.as_path()), Some(first.as_path()));
        serve_tcp(client, "0.0.0.0:80", "client");
        serve_tcp(client, "[::]:81", "client");
        serve_tcp(Some(&lan.containers[1].path()), "0.0.0.0:80", "second");
        let ask = |v6: bool| match v6 {
            false => ask_tcp(first, &format!("{CLIENT}:80")).unwrap(),
            true => ask_tcp(first, &format!("[{CLIENT6}]:81")).unwrap(),
        };
        assert_eq!(ask(false), format!("client {}", ip4(0)));
        masquerade::ensure("net", Some("br0"), &nets()).unwrap();
        assert_eq!(ask(false), format!("client {HOST}"));
        assert_eq!(ask(true), format!("client {HOST6}"));
        // Within the subnet everybody keeps his address.
        let second = ask_tcp(first, &format!("{}:80", ip4(1))).unwrap();
        assert_eq!(second, format!("second {}", ip4(0)));
        // What does not come in by the bridge does too.
        masquerade::ensure("net", Some("br1"), &nets()).unwrap();
        assert_eq!(ask(false), format!("client {}", ip4(0)));
        masquerade::ensure("net", None, &nets()).unwrap();
        assert_eq!(ask(false), format!("client {HOST}"));
        masquerade::release("net").unwrap();
        assert_eq!(ask(false), format!("client {}", ip4(0)));
    });
}

#[test]
fn nothing_is_written_that_is_there() {
    on_private_host(|| async {
        shell(
            "nft add table ip other '{ chain c { type nat hook postrouting priority 100; ip saddr 10.0.0.0/8 masquerade; }; }'",
        );
        let other = shell("nft list table ip other");
        masquerade::ensure("net", Some("br0"), &nets()).unwrap();
        let (text, before) = (ruleset(), generation());
        masquerade::ensure("net", Some("br0"), &nets()).unwrap();
        assert_eq!(generation(), before);
        masquerade::ensure("net2", None, &nets()[..1]).unwrap();
        masquerade::ensure("net", Some("br0"), &nets()).unwrap();
        assert_eq!(generation(), before + 1);
        // Others' changes make it look again, and write nothing.
        shell("nft add table ip another");
        masquerade::ensure("net", Some("br0"), &nets()).unwrap();
        assert_eq!(generation(), before + 2);
        shell("nft delete table ip another");
        masquerade::release("net2").unwrap();
        masquerade::release("net2").unwrap();
        assert_eq!(ruleset(), text);
        assert_eq!(shell("nft list table ip other"), other);
        assert!(
            text.contains("masquerade comment \"network net\""),
            "{text}"
        );
        assert!(is_intact().unwrap());
    });
}

#[test]
fn what_other_containers_of_the_network_have_stays() {
    on_private_host(|| async {
        let both = nets();
        let one = |n: usize| &both[n..=n];
        masquerade::ensure("net", None, one(0)).unwrap();
        masquerade::ensure("net", None, one(1)).unwrap();
        masquerade::ensure("other", None, one(0)).unwrap();
        let mut subnets = masquerade::subnets("net").unwrap();
        subnets.sort_unstable();
        assert_eq!(subnets, both);
        let before = generation();
        for subnets in [one(0), one(1), &both] {
            masquerade::ensure("net", None, subnets).unwrap();
        }
        assert_eq!(generation(), before);
        assert!(is_intact().unwrap());
        // Each is missed, whoever asked last.
        let handle = shell("nft -a list chain inet circuit networks");
        let line = handle.lines().find(|line| line.contains("10.77")).unwrap();
        let handle = line.rsplit(' ').next().unwrap();
        shell(&format!(
            "nft delete rule inet circuit networks handle {handle}"
        ));
        masquerade::ensure("net", None, one(1)).unwrap();
        assert!(!is_intact().unwrap());
        masquerade::ensure("net", None, one(0)).unwrap();
        let _ = is_intact();
        assert!(is_intact().unwrap());
        masquerade::release("net").unwrap();
        assert_eq!(masquerade::subnets("net").unwrap(), []);
        assert_eq!(masquerade::subnets("other").unwrap(), one(0));
        assert!(is_intact().unwrap());
        let odd = ["10.0.0.0/9", "10.80.0.0/16", "10.90.1.3/32", "fd77::1/128"];
        let odd = odd.map(|net| net.parse().unwrap());
        masquerade::ensure("odd", Some("br0"), &odd).unwrap();
        assert_eq!(masquerade::subnets("odd").unwrap(), odd);
        // `nft` writes them out in its own way.
        shell(
            "nft list ruleset > /tmp/circuit-subnets.$$; nft flush ruleset; nft -f /tmp/circuit-subnets.$$; rm /tmp/circuit-subnets.$$",
        );
        assert_eq!(masquerade::subnets("other").unwrap(), one(0));
        assert_eq!(masquerade::subnets("odd").unwrap(), odd);
    });
}

#[test]
fn what_is_flushed_is_noticed_at_once_and_made_anew() {
    on_private_host(|| async {
        masquerade::ensure("a", Some("br0"), &nets()).unwrap();
        masquerade::ensure("b", Some("br1"), &nets()).unwrap();
        let text = ruleset();
        let mut watch = Watch::open(None).unwrap();
        assert_eq!(watch.wait(Duration::ZERO).unwrap(), None);
        shell("nft flush ruleset");
        let change = watch.wait(Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(change.by.as_deref(), Some("nft"));
        assert_eq!(change.generation, Some(generation()));
        assert!(!is_intact().unwrap());
        masquerade::ensure("a", Some("br0"), &nets()).unwrap();
        // Of the other one it is told, too: whoever wants it makes it again.
        assert!(is_intact().unwrap());
        masquerade::ensure("b", Some("br1"), &nets()).unwrap();
        assert_eq!(ruleset(), text);
        let _ = is_intact();
        assert!(is_intact().unwrap());
        // A single rule, a chain, a foreign rule in our chain.
        for damage in [
            "nft flush chain inet circuit networks",
            "nft flush chain inet circuit postrouting",
            "nft delete chain inet circuit postrouting",
            "nft insert rule inet circuit postrouting accept",
            "nft delete table inet circuit",
            "nft list ruleset > /tmp/circuit-ruleset.$$ && nft flush ruleset && nft -f /tmp/circuit-ruleset.$$; rm /tmp/circuit-ruleset.$$",
        ] {
            shell(damage);
            assert!(!is_intact().unwrap(), "{damage}");
            masquerade::ensure("a", Some("br0"), &nets()).unwrap();
            masquerade::ensure("b", Some("br1"), &nets()).unwrap();
            assert_eq!(ruleset(), text, "{damage}");
            let _ = is_intact();
            assert!(is_intact().unwrap(), "{damage}");
        }
    });
}

#[test]
fn many_at_once_do_not_disturb_each_other() {
    on_private_host(|| async {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                std::thread::spawn(move || {
                    for round in 0..10 {
                        masquerade::ensure(&format!("net{n}"), Some("br0"), &nets()).unwrap();
                        masquerade::ensure("all", Some("br0"), &nets()).unwrap();
                        if round == 4 && n == 0 {
                            shell("nft flush ruleset");
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        for n in 0..8 {
            masquerade::ensure(&format!("net{n}"), Some("br0"), &nets()).unwrap();
        }
        let text = ruleset();
        for network in (0..8).map(|n| format!("net{n}")).chain(["all".to_owned()]) {
            let rules = text.matches(&format!("\"network {network}\"")).count();
            assert_eq!(rules, 2, "{network}: {text}");
        }
    });
}
