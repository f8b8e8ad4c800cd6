//! Configurations that are generated from the keys there are.
//!
//! `CIRCUIT_DIFFERENTIAL_CASES` says how many of each kind (default 6), and
//! `CIRCUIT_DIFFERENTIAL_SEED` from where they are drawn: a number (default 1), or `new` for
//! some that never were before. These may find what nobody knew of the stock plugins, so that
//! no change can be made to wait for them.

use std::time::UNIX_EPOCH;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use crate::script::{Case, mapping};

const SEED: &str = "CIRCUIT_DIFFERENTIAL_SEED";

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// Draws configurations and runs them; the name tells which one failed, and
/// the failure what it was.
fn run_some(name: &'static str, lists: impl Strategy<Value = Value>) {
    let seed = match std::env::var(SEED).as_deref() {
        Ok("new") => UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into(),
        _ => number(SEED, 1),
    };
    let count = number("CIRCUIT_DIFFERENTIAL_CASES", 6);
    let succeeded = run_of(name, &lists, seed, count);
    // What is refused tries little.
    assert!(
        succeeded >= usize::try_from(count / 3).unwrap(),
        "{name}: only {succeeded} ADDs succeeded"
    );
}

/// Runs what is drawn from this seed, and returns how many ADDs succeeded.
fn run_of(
    name: &'static str,
    lists: &impl Strategy<Value = Value>,
    from: u64,
    count: u64,
) -> usize {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&from.to_be_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let mut succeeded = 0;
    for at in 0..count {
        let drawn = lists.new_tree(&mut runner).unwrap().current();
        eprintln!("{name} {at} of {SEED}={from}: {drawn}");
        let mut case = Case::new(
            name,
            drawn["cniVersion"].as_str().unwrap(),
            drawn["plugins"].clone(),
        )
        .may_fail()
        .only_new();
        case.capabilities = [drawn["one"].clone(), drawn["two"].clone()];
        case.short = drawn["short"] == true;
        let of_this = case.run();
        eprintln!("{name} {at}: {of_this} ADDs succeeded");
        succeeded += of_this;
    }
    succeeded
}

/// Each key there or not, with one of its values.
fn some_of(keys: Vec<(&'static str, Vec<Value>)>) -> BoxedStrategy<Value> {
    let keys: Vec<_> = keys
        .into_iter()
        .map(|(key, values)| (Just(key), option::weighted(0.3, select(values))))
        .collect();
    keys.prop_map(|keys| {
        let there = keys
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        there.collect::<Map<_, _>>().into()
    })
    .boxed()
}

fn versions() -> impl Strategy<Value = &'static str> {
    select(vec!["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
}

fn range() -> impl Strategy<Value = Value> {
    let v4 = select(vec![
        "10.88.0.0/24",
        "10.89.0.0/16",
        "10.90.0.0/29",
        "10.91.3.128/25",
    ]);
    let v6 = select(vec!["fd00:88::/64", "fd00:89::/112"]);
    prop_oneof![2 => v4, 1 => v6].prop_map(|subnet| json!([{"subnet": subnet}]))
}

fn addresses() -> impl Strategy<Value = Value> {
    let routes = vec![
        json!({"dst": "0.0.0.0/0"}),
        json!({"dst": "::/0"}),
        json!({"dst": "192.0.2.0/24"}),
        json!({"dst": "203.0.113.0/24", "gw": "10.88.0.1"}),
        json!({"dst": "2001:db8:9::/48", "gw": "fd00:88::1"}),
    ];
    (
        vec(range(), 1..3),
        vec(select(routes), 0..3),
        any::<[bool; 3]>(),
    )
        .prop_map(|(ranges, mut routes, astray)| {
            // A gateway that is in none of the ranges is refused: only at times.
            let subnets = json!(ranges).to_string();
            routes.retain(|route| match route["gw"].as_str() {
                Some(gateway) => {
                    subnets.contains(gateway.trim_end_matches('1')) || astray == [true; 3]
                }
                None => true,
            });
            json!({"type": "host-local", "ranges": ranges, "routes": routes})
        })
}

/// A list of one interface plugin with addresses, and what comes behind it.
fn lists(
    kind: &'static str,
    keys: BoxedStrategy<Value>,
    behind: BoxedStrategy<Vec<Value>>,
) -> impl Strategy<Value = Value> {
    (
        versions(),
        keys,
        option::weighted(0.9, addresses()),
        behind,
        any::<bool>(),
    )
        .prop_map(move |(version, keys, ipam, behind, short)| {
            let mut plugin = keys;
            plugin["type"] = kind.into();
            if let Some(ipam) = ipam {
                plugin["ipam"] = ipam;
            }
            // The stock firewall does not speak 0.3.1.
            let firewall = behind.iter().any(|plugin| plugin["type"] == "firewall");
            let version = if firewall && version == "0.3.1" {
                "0.4.0"
            } else {
                version
            };
            let mut plugins = vec![plugin];
            plugins.extend(behind);
            json!({"cniVersion": version, "plugins": plugins, "short": short,
                "one": {"portMappings": [mapping(18080, "tcp")], "mac": "02:11:22:33:44:55"},
                "two": {"mac": "02:11:22:33:44:66"}})
        })
}

fn nothing() -> BoxedStrategy<Vec<Value>> {
    Just(Vec::new()).boxed()
}

fn bridge_keys() -> BoxedStrategy<Value> {
    let yes = || vec![json!(true), json!(false)];
    some_of(vec![
        (
            "bridge",
            vec![
                json!("br1"),
                json!("br2"),
                json!("a-name.of-15"),
                json!("uplink"),
            ],
        ),
        ("isGateway", yes()),
        ("isDefaultGateway", yes()),
        ("forceAddress", yes()),
        ("ipMasq", yes()),
        (
            "mtu",
            vec![
                json!(1400),
                json!(1300),
                json!(0),
                json!(9000),
                json!(70000),
            ],
        ),
        ("hairpinMode", yes()),
        ("promiscMode", yes()),
        (
            "vlan",
            vec![json!(0), json!(0), json!(0), json!(0), json!(9999)],
        ),
        ("preserveDefaultVlan", yes()),
        ("enabledad", yes()),
        (
            "disableContainerInterface",
            vec![json!(false), json!(false), json!(false), json!(true)],
        ),
        ("portIsolation", yes()),
        ("capabilities", vec![json!({"mac": true})]),
        (
            "dns",
            vec![json!({"nameservers": ["192.0.2.1"]}), json!({})],
        ),
    ])
}

#[test]
fn generated_bridges() {
    run_some(
        "generated_bridges",
        lists("bridge", bridge_keys(), nothing()),
    );
}

#[test]
fn generated_point_to_point_links() {
    let keys = some_of(vec![
        ("ipMasq", vec![json!(true)]),
        ("mtu", vec![json!(1400), json!(9000), json!(70000)]),
        ("dns", vec![json!({"search": ["a"]})]),
    ]);
    run_some(
        "generated_point_to_point_links",
        lists("ptp", keys, nothing()),
    );
}

#[test]
fn generated_macvlans() {
    let keys = some_of(vec![
        (
            "mode",
            ["bridge", "private", "vepa", "bridge", "passthru", "oops"]
                .map(Value::from)
                .to_vec(),
        ),
        ("mtu", vec![json!(1400), json!(1300), json!(0), json!(9000)]),
        ("bcqueuelen", vec![json!(500)]),
        ("capabilities", vec![json!({"mac": true})]),
        ("master", vec![json!("uplink"), json!("")]),
    ]);
    run_some("generated_macvlans", lists("macvlan", keys, nothing()));
}

#[test]
fn generated_chains() {
    let tuning = some_of(vec![
        ("mtu", vec![json!(1300)]),
        ("promisc", vec![json!(true)]),
        ("allmulti", vec![json!(true), json!(false)]),
        ("txQLen", vec![json!(50)]),
        (
            "sysctl",
            vec![
                json!({"net.core.somaxconn": "77"}),
                json!({"net.ipv4.conf.IFNAME.arp_filter": "1"}),
            ],
        ),
    ]);
    let chained = (tuning, any::<[bool; 4]>()).prop_map(|(mut tuning, there)| {
        tuning["type"] = "tuning".into();
        let all = [
            tuning,
            json!({"type": "firewall"}),
            json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000}),
            json!({"type": "portmap", "capabilities": {"portMappings": true}}),
        ];
        all.into_iter()
            .zip(there)
            .filter(|(_, there)| *there)
            .map(|(plugin, _)| plugin)
            .collect()
    });
    let keys = some_of(vec![
        ("isGateway", vec![json!(true)]),
        ("ipMasq", vec![json!(true)]),
    ]);
    run_some("generated_chains", lists("bridge", keys, chained.boxed()));
}
