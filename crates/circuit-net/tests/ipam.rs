//! `host-local` and `static` beside the stock plugins: the same answers, and
//! one pool that all give addresses out of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Mutex;

use circuit_core::cni::ErrorReport;
use circuit_net::driver::Command;
use common::plugin::{Way, Who, who, without_dns};
use serde_json::{Value, json};

const STOCK: [Way; 2] = [Way::Stock11, Way::Stock19];
const ALL: [Way; 4] = [Way::Stock11, Way::Stock19, Way::Ours, Way::InProcess];

/// Runs the address management of a configuration.
fn run(way: Way, command: Command, config: &Value, who: &Who) -> Result<Value, ErrorReport> {
    let kind = config["ipam"]["type"].as_str().unwrap();
    way.run(kind, command, config, who)
}

fn config(dir: &Path, ipam: &Value) -> Value {
    let mut config = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": ipam});
    config["ipam"]["type"] = "host-local".into();
    config["ipam"]["dataDir"] = dir.to_str().into();
    config
}

/// Every file of the network with what is in it.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        (entry.file_name().into_string().unwrap(), text)
    };
    std::fs::read_dir(dir.join("net"))
        .into_iter()
        .flatten()
        .map(read)
        .collect()
}

fn leases(dir: &Path) -> Vec<String> {
    let is_lease = |name: &String| name != "lock" && !name.starts_with("last_reserved_ip.");
    files(dir).into_keys().filter(is_lease).collect()
}

fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

/// A small random number generator: the same steps in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// The same steps in two folders leave the same answers and the same files.
fn same_steps(stock: Way, ours: Way, ipam: &Value, wishes: &[&str], seed: u64) {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut dice = Dice(seed);
    for step in 0..60 {
        let mut who = who(&format!("c{}", dice.roll(8)));
        if dice.roll(4) == 0 {
            who.ifname = "eth1".to_owned();
        }
        let command = match dice.roll(5) {
            0 | 1 => Command::Del,
            2 => Command::Check,
            _ => Command::Add,
        };
        if command == Command::Add && dice.roll(4) == 0 && !wishes.is_empty() {
            let wish = usize::try_from(dice.roll(wishes.len() as u64)).unwrap();
            who.args = format!("IP={}", wishes[wish]);
        }
        let theirs = run(stock, command, &config(one.path(), ipam), &who);
        let mine = run(ours, command, &config(two.path(), ipam), &who);
        let place = format!("step {step}: {command} {who:?}");
        match (theirs, mine) {
            (Ok(theirs), Ok(mine)) => {
                assert_eq!(without_dns(theirs), without_dns(mine), "{place}");
            }
            (Err(_), Err(_)) => {}
            (theirs, mine) => panic!("{place}: {theirs:?}, ours {mine:?}"),
        }
        let mut theirs = files(one.path());
        theirs.remove("lock");
        let mut mine = files(two.path());
        mine.remove("lock");
        assert_eq!(theirs, mine, "{place}");
    }
}

#[test]
fn answers_and_files_are_those_of_the_stock_plugins() {
    let small = json!({"subnet": "10.0.0.0/29", "routes": [{"dst": "0.0.0.0/0"}]});
    let wishes = ["10.0.0.4", "10.0.0.6/29", "10.0.0.1", "10.0.0.9", "fd00::1"];
    let several = json!({"ranges": [[
        {"subnet": "fd00:1::/64", "rangeStart": "fd00:1::a", "rangeEnd": "fd00:1::c",
         "gateway": "fd00:1::b"},
        {"subnet": "fd00:0:0:2::/64", "rangeEnd": "fd00:0:0:2::3"},
    ]]});
    let six = ["fd00:1::b", "fd00:0:0:2:0:0:0:3", "fd00:1::c/64"];
    for (seed, stock) in (1..).zip(STOCK) {
        for ours in [Way::Ours, Way::InProcess] {
            same_steps(stock, ours, &small, &wishes, seed * 7919);
            same_steps(stock, ours, &several, &six, seed * 104_729);
        }
    }
}

#[test]
fn all_see_each_others_leases() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(
        dir.path(),
        &json!({"ranges": [[{"subnet": "10.0.0.0/28"}]]}),
    );
    let mut given = BTreeSet::new();
    for n in 0..13 {
        let way = ALL[n % ALL.len()];
        let result = run(way, Command::Add, &config, &who(&format!("c{n}"))).unwrap();
        assert!(given.insert(address(&result)), "{way:?}: {given:?}");
    }
    for way in ALL {
        let error = run(way, Command::Add, &config, &who("more")).unwrap_err();
        assert!(
            error.msg.contains("no IP addresses available"),
            "{way:?}: {}",
            error.msg
        );
        let twice = run(way, Command::Add, &config, &who("c0")).unwrap_err();
        assert!(
            twice.msg.contains("10.0.0.2 has been allocated to c0"),
            "{}",
            twice.msg
        );
    }
    for n in 0..13 {
        let (checker, remover) = (ALL[(n + 1) % ALL.len()], ALL[(n + 2) % ALL.len()]);
        let who = who(&format!("c{n}"));
        run(checker, Command::Check, &config, &who).unwrap();
        run(remover, Command::Del, &config, &who).unwrap();
        for way in ALL {
            assert!(
                run(way, Command::Check, &config, &who).is_err(),
                "{way:?} {n}"
            );
        }
        assert_eq!(leases(dir.path()).len(), 12 - n);
    }
}

#[test]
fn many_at_once_never_share_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let ipam = json!({"ranges": [[{"subnet": "10.0.0.0/27"}]]});
    let config = config(dir.path(), &ipam);
    let in_use = Mutex::new(BTreeSet::new());
    let worker = |way: Way, number: usize| {
        for round in 0..25 {
            let who = who(&format!("w{number}-{round}"));
            let result = run(way, Command::Add, &config, &who).unwrap();
            let ip = address(&result);
            assert!(
                in_use.lock().unwrap().insert(ip.clone()),
                "{way:?}: {ip} twice"
            );
            // Some stay for a while, so that the pool is rarely empty.
            if round % 5 != 4 {
                assert!(in_use.lock().unwrap().remove(&ip));
                run(way, Command::Del, &config, &who).unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        let ways = [
            Way::Stock11,
            Way::Stock19,
            Way::Ours,
            Way::InProcess,
            Way::InProcess,
        ];
        for (number, way) in ways.into_iter().enumerate() {
            scope.spawn(move || worker(way, number));
        }
    });
    let left: BTreeSet<String> = leases(dir.path()).into_iter().collect();
    let in_use = in_use.into_inner().unwrap();
    assert_eq!(
        left,
        in_use.iter().map(|ip| ip.replace("/27", "")).collect()
    );
}

#[test]
fn a_killed_executable_leaves_no_address_without_an_owner() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(
        dir.path(),
        &json!({"ranges": [[{"subnet": "10.0.0.0/24"}]]}),
    );
    for n in 0..60u32 {
        let mut child = Process::new(Way::Ours.executable("host-local"))
            .arg("host-local")
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", format!("c{n}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", "/proc/1/ns/net-of-nobody")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(config.to_string().as_bytes()).unwrap();
        drop(stdin);
        std::thread::sleep(std::time::Duration::from_micros(u64::from(n) * 60));
        child.kill().unwrap();
        child.wait().unwrap();
        for (name, text) in files(dir.path()) {
            let whole = name == "lock" || !text.is_empty();
            assert!(whole || name.starts_with("last"), "{name} is empty");
        }
        run(
            Way::InProcess,
            Command::Del,
            &config,
            &who(&format!("c{n}")),
        )
        .unwrap();
        assert_eq!(leases(dir.path()), Vec::<String>::new());
    }
}

/// Answers of `static` to one ADD, by all; the stock plugins first.
fn static_answers(config: &Value, args: &str) -> Vec<Result<Value, ErrorReport>> {
    let who = Who {
        args: args.to_owned(),
        ..who("a")
    };
    let each = |way: &Way| run(*way, Command::Add, config, &who).map(without_dns);
    ALL.iter().map(each).collect()
}

#[test]
fn named_addresses_are_those_of_the_stock_plugins() {
    let own = json!({"type": "static", "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}],
        "addresses": [{"address": "10.0.0.7/24", "gateway": "10.0.0.1"},
                      {"address": "fd00::7/64"}],
        "dns": {"nameservers": ["10.0.0.1"], "domain": "a.test", "search": ["b.test"],
                "options": ["rotate"]}});
    let named = json!({"ips": ["10.3.0.5/16", "fd00:3::5/64"]});
    let configs = [
        json!({"ipam": own}),
        json!({"ipam": own, "args": {"cni": named}}),
        json!({"ipam": own, "runtimeConfig": named, "args": {"cni": {"ips": ["10.9.0.9/9"]}}}),
        json!({"ipam": {"type": "static"}}),
        json!({"ipam": {"type": "static", "addresses": [{"address": "10.0.0.7"}]}}),
        json!({"ipam": {"type": "static", "addresses": [{"gateway": "10.0.0.7"}]}}),
        json!({"ipam": own, "runtimeConfig": {"ips": ["10.3.0.5"]}}),
    ];
    let args = [
        "",
        "IP=10.4.0.4/24",
        "IP=10.4.0.4/24, 10.0.0.9/24;GATEWAY=10.4.0.1,10.0.0.254",
        "GATEWAY=10.0.0.254",
        "IP=10.4.0.4",
        "IP=10.4.0.4/24;GATEWAY=x",
        "IgnoreUnknown=true;K8S=1;IP=10.4.0.4/24",
        "K8S=1",
        "IgnoreUnknown=maybe",
        "IP=;GATEWAY=",
    ];
    for config in configs {
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            let mut config = config.clone();
            config["cniVersion"] = version.into();
            config["name"] = "net".into();
            config["type"] = "bridge".into();
            for args in args {
                let answers = static_answers(&config, args);
                let place = format!("{args:?} {config}: {answers:?}");
                for pair in answers.windows(2) {
                    assert_eq!(pair[0].as_ref().ok(), pair[1].as_ref().ok(), "{place}");
                }
            }
        }
    }
}

#[test]
fn a_static_gateway_is_checked_as_by_the_stock_plugins() {
    let mut config = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge",
        "ipam": {"type": "static", "addresses": [{"address": "10.0.0.7/24", "gateway": "10.0.0.1"}]}});
    let check = |config: &Value| {
        let each = |way: &Way| run(*way, Command::Check, config, &who("a")).is_ok();
        ALL.iter().map(each).collect::<Vec<bool>>()
    };
    assert_eq!(check(&config), [false; 4], "without a prevResult");
    for (ip, gateway, good) in [
        ("10.0.0.7/24", "10.0.0.1", true),
        ("10.0.0.7/24", "10.0.0.2", false),
        ("10.0.0.8/24", "10.0.0.2", true),
    ] {
        config["prevResult"] =
            json!({"cniVersion": "1.0.0", "ips": [{"address": ip, "gateway": gateway}]});
        assert_eq!(check(&config), [good; 4], "{ip} {gateway}");
    }
}
