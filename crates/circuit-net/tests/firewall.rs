//! The driver `firewall`, side by side with the stock plugin.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/attachment.rs"]
mod attachment;
mod common;
#[path = "common/lan.rs"]
mod lan;

use std::path::Path;
use std::process::{Command as Process, Stdio};

use attachment::*;
use circuit_net::driver::{Command, driver};
use circuit_net::nft::is_intact;
use common::{on_private_host, shell};
use lan::*;
use serde_json::{Value, json};

fn config(n: usize, policy: &str) -> Value {
    let addresses = [format!("{}/24", ip4(n)), format!("{}/64", ip6(n))];
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "firewall",
        "backend": "iptables", "ingressPolicy": policy,
        "prevResult": bridge_result(Path::new("/run/netns/x"), &addresses),
    })
}

fn native(n: usize, command: Command, config: &Value) -> Result<(), String> {
    let attachment = Attachment {
        id: &format!("container{n}"),
        netns: Some(Path::new("/run/netns/x")),
    };
    let result = attachment.run(command, config);
    result.map(drop).map_err(|error| error.msg)
}

fn stock(n: usize, command: &str, config: &Value) -> Result<(), String> {
    let mut config = config.clone();
    config["prevResult"]["cniVersion"] = json!("1.0.0");
    let mut child = Process::new(stock_plugin("firewall"))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", format!("container{n}"))
        .env("CNI_NETNS", "/run/netns/x")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/nowhere")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, config.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stdout).into_owned()),
    }
}

/// What iptables sees, without counters and dates.
fn tables() -> String {
    let text = shell("iptables-save -t filter; ip6tables-save -t filter");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.map(|line| line.split(" [").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

const POLICIES: [&str; 3] = ["open", "same-bridge", "isolated"];

/// Runs something on two hosts that are alike, and compares their tables.
fn alike(setup: &'static str, policy: &'static str) {
    let [one, other] = [true, false].map(|is_native| {
        let (sender, receiver) = std::sync::mpsc::channel();
        on_private_host(move || async move {
            shell(setup);
            let mut seen = Vec::new();
            for (n, add) in [(0, true), (1, true), (0, true), (0, false), (1, false)] {
                let config = config(n, policy);
                match (is_native, add) {
                    (true, true) => native(n, Command::Add, &config),
                    (true, false) => native(n, Command::Del, &config),
                    (false, true) => stock(n, "ADD", &config),
                    (false, false) => stock(n, "DEL", &config),
                }
                .unwrap();
                seen.push(tables());
            }
            sender.send(seen).unwrap();
        });
        receiver.recv().unwrap()
    });
    assert_eq!(one, other, "{setup} {policy}");
}

#[test]
fn iptables_sees_what_the_stock_plugin_makes() {
    for policy in POLICIES {
        alike("true", policy);
    }
}

#[test]
fn iptables_sees_it_beside_the_rules_of_others() {
    alike(
        "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER; \
         iptables -A FORWARD -i docker0 -o eth+ -p tcp -m tcp --dport 80 -j ACCEPT; \
         ip6tables -A INPUT -i lo -j ACCEPT; iptables -N CNI-ADMIN; \
         iptables -A CNI-ADMIN -s 10.0.0.0/8 -j DROP",
        "isolated",
    );
}

#[test]
fn the_stock_plugin_finds_what_is_made_here_and_the_other_way_round() {
    on_private_host(|| async {
        for policy in POLICIES {
            let config = config(0, policy);
            native(0, Command::Add, &config).unwrap();
            native(0, Command::Check, &config).unwrap();
            stock(0, "CHECK", &config).unwrap();
            let text = tables();
            stock(0, "ADD", &config).unwrap();
            assert_eq!(tables(), text);
            stock(0, "DEL", &config).unwrap();
            assert!(native(0, Command::Check, &config).is_err());
            native(0, Command::Del, &config).unwrap();
            stock(0, "ADD", &config).unwrap();
            native(0, Command::Check, &config).unwrap();
            native(0, Command::Add, &config).unwrap();
            assert_eq!(tables(), text);
            native(0, Command::Del, &config).unwrap();
            assert!(stock(0, "CHECK", &config).is_err());
            assert!(!tables().contains("10.77.0.2"));
        }
    });
}

#[test]
fn packets_pass_a_host_that_drops_what_it_forwards() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        set_bridge_netfilter(true);
        let (client, first) = (lan.client.path(), lan.containers[0].path());
        serve_tcp(Some(&client), "[::]:80", "client");
        serve_tcp(Some(&first), "[::]:80", "first");
        let outwards = || ask_tcp(Some(&first), &format!("{CLIENT}:80"));
        let inwards = || ask_tcp(Some(&client), &format!("{}:80", ip4(0)));
        let neighbour = || ask_tcp(Some(&lan.containers[1].path()), &format!("{}:80", ip4(0)));
        shell("iptables -P FORWARD DROP");
        assert!(outwards().is_err());
        for n in [0, 1] {
            native(n, Command::Add, &config(n, "same-bridge")).unwrap();
        }
        assert!(outwards().is_ok() && neighbour().is_ok());
        assert!(inwards().is_err(), "as the stock plugin leaves it");
        // The administrator has the last word.
        shell(&format!("iptables -A CNI-ADMIN -s {} -j DROP", ip4(0)));
        assert!(outwards().is_err());
        shell("iptables -F CNI-ADMIN");
        native(0, Command::Add, &config(0, "isolated")).unwrap();
        assert!(outwards().is_ok() && neighbour().is_err());
        native(0, Command::Del, &config(0, "isolated")).unwrap();
        assert!(outwards().is_err());
    });
}

#[test]
fn rules_are_known_by_their_owner() {
    on_private_host(|| async {
        for n in [0, 1, 2] {
            native(n, Command::Add, &config(n, "open")).unwrap();
        }
        let other = shell("nft list table inet circuit");
        assert!(other.contains("net container2 eth0"), "{other}");
        // DEL that is told nothing.
        let bare = json!({"cniVersion": "1.0.0", "name": "net", "type": "firewall", "backend": "iptables"});
        native(0, Command::Del, &bare).unwrap();
        native(0, Command::Del, &bare).unwrap();
        assert!(!tables().contains("10.77.0.2") && !tables().contains("fd77::2"));
        // GC, of this network only.
        let gc = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "firewall", "backend": "iptables",
            "cni.dev/valid-attachments": [{"containerID": "container1", "ifname": "eth0"}],
        });
        let mut elsewhere = gc.clone();
        elsewhere["name"] = json!("net2");
        native(9, Command::Gc, &elsewhere).unwrap();
        native(2, Command::Check, &config(2, "open")).unwrap();
        let mut silent = gc.clone();
        silent["cni.dev/valid-attachments"] = json!("nothing");
        assert!(native(9, Command::Gc, &silent).is_err());
        native(2, Command::Check, &config(2, "open")).unwrap();
        native(9, Command::Gc, &gc).unwrap();
        native(1, Command::Check, &config(1, "open")).unwrap();
        assert!(native(2, Command::Check, &config(2, "open")).is_err());
        // The address of one that is gone belongs to the next one: the late
        // DEL of the first does not take it away.
        let mut heir = config(1, "open");
        heir["name"] = json!("net2");
        native(5, Command::Add, &heir).unwrap();
        native(1, Command::Del, &config(1, "open")).unwrap();
        native(5, Command::Check, &heir).unwrap();
        native(9, Command::Status, &gc).unwrap();
    });
}

#[test]
fn many_at_once_lose_nothing() {
    on_private_host(|| async {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                std::thread::spawn(move || native(n, Command::Add, &config(n, "isolated")).unwrap())
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        for n in 0..8 {
            native(n, Command::Check, &config(n, "isolated")).unwrap();
        }
        assert_eq!(
            tables().matches("-j CNI-FORWARD").count(),
            2,
            "{}",
            tables()
        );
    });
}

#[test]
fn everything_is_made_anew_after_a_flush() {
    on_private_host(|| async {
        let config = config(0, "isolated");
        native(0, Command::Add, &config).unwrap();
        let text = tables();
        shell("nft flush ruleset");
        assert!(native(0, Command::Check, &config).is_err());
        native(0, Command::Add, &config).unwrap();
        assert_eq!(tables(), text);
    });
}

#[test]
fn the_older_iptables_is_left_to_the_stock_plugin() {
    on_private_host(|| async {
        let supports = || {
            let config = config(0, "open");
            driver("firewall")
                .unwrap()
                .supports(config.as_object().unwrap())
        };
        supports().unwrap();
        // Any look at the table makes it, in this namespace only.
        shell("iptables-legacy -t filter -S");
        assert!(supports().unwrap_err().documented);
    });
}

#[test]
fn a_ruleset_that_is_loaded_over_it_is_noticed() {
    on_private_host(|| async {
        shell("iptables -P FORWARD DROP");
        let saved = shell("iptables-save");
        for n in 0..2 {
            native(n, Command::Add, &config(n, "open")).unwrap();
        }
        let whole = tables();
        native(2, Command::Add, &config(2, "open")).unwrap();
        native(2, Command::Del, &config(2, "open")).unwrap();
        assert!(is_intact().unwrap());
        // What others add is their business.
        shell("iptables -A FORWARD -p icmp -j ACCEPT; iptables -D FORWARD -p icmp -j ACCEPT");
        assert!(is_intact().unwrap());
        for _ in 0..2 {
            shell(&format!("iptables-restore <<'END'\n{saved}END"));
            assert!(!is_intact().unwrap());
            assert!(is_intact().unwrap(), "it is said once");
            for n in 0..2 {
                native(n, Command::Add, &config(n, "open")).unwrap();
            }
            assert_eq!(tables(), whole);
        }
        // A rule of one address.
        let rule = shell("iptables -S CNI-FORWARD | grep -m1 -- '-s 10.77'");
        let rule = rule.trim().strip_prefix("-A").unwrap();
        shell(&format!("iptables -D {rule}"));
        assert!(!is_intact().unwrap());
    });
}
