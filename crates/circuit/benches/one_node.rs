//! Figures of one node, each beside what it is measured against, in one run:
//! `scripts/bench one_node`. Nothing here passes or fails.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod common;

use std::{
    collections::BTreeMap,
    env, fs,
    time::{Duration, Instant},
};

use circuit_api::v1::GetContainerIPsRequest;
use circuit_testing::{Plugins, TestNode, network, wait_until};
use common::{Api, Executable, Times, at, node, pid_of, run_inside, single, verdict};

/// Rounds of connect and disconnect on each side.
const ROUNDS: usize = 40;
/// Look-ups.
const LOOKUPS: usize = 5_000;
/// Labelled containers started one after the other.
const STARTS: usize = 20;
/// Containers for the figure of memory.
const CROWD: usize = 100;
const SUBNET: &str = "10.77.0.0/16";

fn main() {
    let arguments: Vec<String> = env::args().collect();
    // `cargo bench` passes --bench; the inner side is told its job.
    match arguments.get(1).map(String::as_str) {
        Some("inside") => inside(&arguments[2]),
        _ => outside(),
    }
}

fn outside() {
    for (name, masquerade) in [("bridge", false), ("bridge + masquerade", true)] {
        // What the daemon adds to executables; `data_path` has the drivers.
        let node = TestNode::builder(env!("CARGO_BIN_EXE_circuit"))
            .plugins(Plugins::Newer)
            .server(&["--data-path", "exec"])
            .start();
        let config = bridge(masquerade);
        node.create_network("bench", &config);
        node.run_container("one", &[], &[]);
        println!("\n{name}, {ROUNDS} rounds, each side in turn");
        run_inside(&node, &[&config]);
    }
    labelled();
    memory();
}

fn bridge(masquerade: bool) -> String {
    network::list(
        "bench",
        &[serde_json::json!({
            "type": "bridge", "bridge": "bench0", "isGateway": true, "ipMasq": masquerade,
            "ipam": {"type": "host-local", "subnet": SUBNET, "routes": [{"dst": "0.0.0.0/0"}]},
        })],
    )
}

/// Inside the node, beside the daemon: the same plugins by hand and through
/// the API.
fn inside(config: &str) {
    let mut api = Api::open();
    let by_hand = Executable {
        folder: &Plugins::Newer.folder(),
        config: &single(config),
        netns: &format!("/proc/{}/ns/net", pid_of("one")),
        container: "by-hand",
        ifname: "eth9",
    };
    let mut times = Times::default();
    for round in 0..ROUNDS + 2 {
        // The first rounds make the bridge and warm caches.
        if round == 2 {
            times.clear();
        }
        times.take("connect", || api.connect("one", "bench"));
        times.take("disconnect", || api.disconnect("one", "bench"));
        let result = times.take("plugin ADD", || by_hand.run("ADD", None));
        times.take("plugin DEL", || by_hand.run("DEL", Some(&result)));
    }
    for (ours, theirs) in [("connect", "plugin ADD"), ("disconnect", "plugin DEL")] {
        let (a, b) = (times.p50(ours), times.p50(theirs));
        let allowed = b * 1.1 + 3.0;
        println!(
            "  {ours:<12} p50 {a:>7.2} ms   {theirs} exec'd p50 {b:>7.2} ms   ratio {:.2}   +{:.2} ms   \
             goal <= {allowed:.2} ms: {}",
            a / b,
            a - b,
            verdict(a <= allowed)
        );
    }
    lookups(&mut api);
}

fn lookups(api: &mut Api) {
    api.connect("one", "bench");
    let mut times = Vec::with_capacity(LOOKUPS);
    let client = &mut api.client;
    api.runtime.block_on(async {
        for _ in 0..LOOKUPS {
            let request = GetContainerIPsRequest {
                container: "one".into(),
                ..Default::default()
            };
            let start = Instant::now();
            let ips = client
                .get_container_i_ps(request)
                .await
                .unwrap()
                .into_inner()
                .ips;
            times.push(start.elapsed());
            assert_eq!(ips.len(), 1);
        }
    });
    let p50 = at(&times, 0.5);
    println!(
        "  GetContainerIPs p50 {p50:.3} ms   p99 {:.3} ms   goal p50 <= 0.5 ms: {}",
        at(&times, 0.99),
        verdict(p50 <= 0.5)
    );
    api.disconnect("one", "bench");
}

/// From containerd's event to the address: the daemon's own log has both ends.
fn labelled() {
    let node = TestNode::builder(env!("CARGO_BIN_EXE_circuit"))
        .plugins(Plugins::Newer)
        .server(&["--debug"])
        .start();
    node.create_network("bench", &bridge(false));
    // Says at its first instruction whether the address is there.
    let look =
        "ip -4 -o addr show eth0 2>/dev/null | grep -q inet && echo early > /found; sleep 600";
    for number in 0..STARTS {
        let name = format!("auto{number}");
        node.run_container(
            &name,
            &[("io.circuit.network", "bench")],
            &["sh", "-c", look],
        );
        node.wait_for_addresses(&name);
    }
    let early = (0..STARTS)
        .filter(|number| {
            node.exec(&format!("auto{number}"), &["cat", "/found"])
                .worked()
        })
        .count();
    let mut by_hand = 0;
    for number in 0..STARTS {
        let name = format!("auto{number}");
        node.exec(&name, &["rm", "-f", "/found"]);
        node.circuit(&["container", "restart", "--timeout", "0", &name])
            .ok();
        node.wait_for_addresses(&name);
        by_hand += usize::from(wait_found(&node, &name));
    }
    let log = node.daemon_log();
    let made = times_of(&log, "task made: container=");
    let there = times_of(&log, "connected ");
    let waits: Vec<Duration> = there
        .iter()
        .filter_map(|(name, at)| made.get(name).and_then(|made| at.checked_sub(*made)))
        .collect();
    println!("\nlabelled containers, {} starts by ctr", waits.len());
    println!(
        "  task event to address in place   p50 {:.1} ms   p99 {:.1} ms",
        at(&waits, 0.5),
        at(&waits, 0.99)
    );
    println!("  address in place before the process runs: {early} of {STARTS} started by ctr");
    println!(
        "  address in place before the process runs: {by_hand} of {STARTS} started by circuit"
    );
}

fn wait_found(node: &TestNode, name: &str) -> bool {
    // The process has decided by the time that another can be run.
    std::thread::sleep(Duration::from_millis(100));
    node.exec(name, &["cat", "/found"]).worked()
}

/// The first time each container is named after `marker`, since midnight.
fn times_of(log: &str, marker: &str) -> BTreeMap<String, Duration> {
    let mut times = BTreeMap::new();
    for line in log.lines() {
        let Some((_, rest)) = line.split_once(marker) else {
            continue;
        };
        let Some(name) = rest.split_whitespace().next() else {
            continue;
        };
        let Some(clock) = line.split_once('T').and_then(|(_, t)| t.split_once('Z')) else {
            continue;
        };
        let parts: Vec<f64> = clock.0.split(':').filter_map(|p| p.parse().ok()).collect();
        if let [h, m, s] = parts[..] {
            let at = Duration::from_secs_f64(h * 3600.0 + m * 60.0 + s);
            times.entry(name.to_owned()).or_insert(at);
        }
    }
    times
}

fn memory() {
    let node = node();
    node.create_network("bench", &bridge(false));
    let idle = resident(node.daemon_pid());
    for number in 0..CROWD {
        node.run_container(
            &format!("c{number}"),
            &[("io.circuit.network", "bench")],
            &[],
        );
    }
    wait_until(
        "every container is connected",
        Duration::from_secs(60),
        || node.leases().len() >= CROWD && node.records().len() >= CROWD,
    );
    let crowded = resident(node.daemon_pid());
    println!("\nresident memory (the original: 31 MB)");
    println!("  idle {idle:.1} MB   with {CROWD} containers {crowded:.1} MB");
}

fn resident(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}
