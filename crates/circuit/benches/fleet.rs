//! Figures of a fleet on a real Redis: look-ups at a real daemon while simulated
//! nodes become more, a change until another node shows it, a node that joins,
//! what nodes ask of Redis at rest, and what the map takes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss
)]

mod common;
mod simulated;

use std::thread::sleep;
use std::time::{Duration, Instant};

use circuit::registry::{Local, Member};
use circuit_api::v1::{GetContainerIPsRequest, circuit_client::CircuitClient};
use circuit_api::{ClientOptions, Target, connect};
use circuit_testing::{Lan, Plugins, RedisServer, TestNode, network};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use common::{at, join, leave, verdict};
use simulated::{EACH, Simulated, name, open, publish, settings};

const LOOKUPS: usize = 2000;
const CHANGES: usize = 60;
const REST: Duration = Duration::from_secs(20);

fn node(lan: &Lan, name: &str) -> TestNode {
    TestNode::builder(env!("CARGO_BIN_EXE_circuit"))
        .plugins(Plugins::None)
        .lan(lan)
        .server(&["--redis-url", "redis://192.0.2.1", "--node-name", name])
        .start()
}

async fn client(node: &TestNode) -> CircuitClient<Channel> {
    let socket = node.path("/run/circuit/circuit.sock");
    let options = ClientOptions {
        target: Some(Target::Unix(socket)),
        ..ClientOptions::default()
    };
    CircuitClient::new(connect(&options).await.unwrap())
}

async fn ips(client: &mut CircuitClient<Channel>, container: String) -> Option<usize> {
    let request = GetContainerIPsRequest {
        container,
        ..Default::default()
    };
    let answer = client.get_container_i_ps(request).await.ok()?;
    Some(answer.into_inner().ips.len())
}

#[tokio::main]
async fn main() {
    println!("\nfleet, on a real Redis");
    lookups().await;
    visible().await;
    at_rest().await;
}

/// Look-ups while the fleet grows, then a node that joins the largest one.
async fn lookups() {
    let lan = Lan::new();
    let redis = lan.redis();
    let node = node(&lan, "real");
    let mut client = client(&node).await;
    let store = open(&redis).await;
    let mut there = 0;
    for fleet in [1usize, 10, 100, 1000] {
        publish(&store, there..fleet).await;
        there = fleet;
        while ips(&mut client, name(fleet - 1, EACH - 1)).await.is_none() {
            sleep(Duration::from_millis(10));
        }
        let mut times = Vec::with_capacity(LOOKUPS);
        for number in 0..LOOKUPS {
            let container = name(number * 7919 % fleet, number % EACH);
            let start = Instant::now();
            assert_eq!(ips(&mut client, container).await, Some(1));
            times.push(start.elapsed());
        }
        let (p50, p99) = (at(&times, 0.5), at(&times, 0.99));
        println!(
            "  look-up, {fleet:>4} nodes of {EACH} containers   p50 {p50:.3} ms   p99 {p99:.3} ms   \
             goal p50 <= 0.5 ms: {}",
            verdict(p50 <= 0.5)
        );
    }
    let before = resident();
    let start = Instant::now();
    let local = Simulated::of(there, 0);
    let patience = Duration::from_secs(30);
    let joined = Member::join(store, settings("joining".into()), local, patience).await;
    let took = start.elapsed();
    let member = joined.unwrap();
    let records = member.registry().fleet().len();
    let taken = resident().saturating_sub(before);
    println!(
        "  joining: the map of {records} records in {:.2} s   goal <= 2 s: {}",
        took.as_secs_f64(),
        verdict(took <= Duration::from_secs(2) && records >= 1000 * EACH)
    );
    println!(
        "  memory per 1,000 records {:.0} KiB",
        taken as f64 / records as f64 * 1000.0 / 1024.0
    );
}

/// The resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// From the answer to a connect until another node shows the address.
async fn visible() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let (one, two) = (node(&lan, "one"), node(&lan, "two"));
    one.create_network("web", &network::bridge("web", "10.90.0.0/16"));
    one.run_container("shown", &[], &[]);
    let (mut here, mut there) = (client(&one).await, client(&two).await);
    let mut times = Vec::with_capacity(CHANGES);
    for _ in 0..CHANGES {
        here.connect(join("shown", "web")).await.unwrap();
        let start = Instant::now();
        while ips(&mut there, "shown".into()).await != Some(1) {}
        times.push(start.elapsed());
        here.disconnect(leave("shown", "web")).await.unwrap();
        while ips(&mut there, "shown".into()).await.is_some() {}
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (p50, p99) = (at(&times, 0.5), at(&times, 0.99));
    println!(
        "  connected until visible on another node   p50 {p50:.2} ms   p99 {p99:.2} ms   \
         goal p99 <= 50 ms: {}",
        verdict(p99 <= 50.0)
    );
}

/// Commands that nodes send while nothing happens.
async fn at_rest() {
    for fleet in [1usize, 10, 100] {
        let redis = RedisServer::start();
        let stop = CancellationToken::new();
        let mut running = Vec::new();
        for node in 0..fleet {
            let store = open(&redis).await;
            let local = Simulated::of(node, 0);
            let patience = Duration::from_secs(10);
            let member = Member::join(store, settings(local.info().name), local, patience).await;
            running.push(tokio::spawn(member.unwrap().run(stop.clone())));
        }
        tokio::time::sleep(Duration::from_secs(12)).await;
        let before = commands(&redis);
        tokio::time::sleep(REST).await;
        let sent = commands(&redis) - before;
        println!(
            "  at rest, {fleet:>3} nodes: {:.2} commands a second and node",
            sent / REST.as_secs_f64() / fleet as f64
        );
        stop.cancel();
        for member in running {
            member.await.unwrap();
        }
    }
}

/// Commands that came over connections. Redis also counts what scripts do; nodes
/// send scripts, and these few besides.
fn commands(redis: &RedisServer) -> f64 {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = |line: &str| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let sent = ["evalsha", "eval", "set", "scan", "ping"].contains(&command);
        let (calls, _) = rest.split_once(',')?;
        sent.then(|| calls.parse::<f64>().ok()).flatten()
    };
    stats.lines().filter_map(calls).sum()
}
