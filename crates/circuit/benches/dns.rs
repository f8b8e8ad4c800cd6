//! Figures of DNS: the built-in server beside a stock CoreDNS with the same names
//! in its `hosts` plugin, and CoreDNS in front of the daemon in both stock ways.
//! Asked by dnsperf, all on one machine, one after the other.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss)]

mod common;
mod simulated;

use std::fmt::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use circuit_api::v1::{QueryNameRequest, circuit_client::CircuitClient, dns_client::DnsClient};
use circuit_api::{ClientOptions, Target, connect};
use circuit_testing::{CoreDns, Lan, Plugins, TestNode, network};
use tonic::transport::Channel;

use common::{at, join, leave, median, verdict};
use simulated::{EACH, address, name, open, publish};

/// Connects and disconnects that are timed.
const CHANGES: usize = 40;
/// Names that are asked for, whatever their number.
const ASKED: usize = 1000;
/// Seconds of each run.
const SECONDS: &str = "8";
/// Runs of each of the two ways of CoreDNS in front, in turn.
const ROUNDS: usize = 5;
/// Seconds of each of these.
const ROUND: &str = "4";
/// Questions under way where rates are compared: enough that nobody waits for more.
const AT_ONCE: &str = "100";
/// Questions in a second where times are compared: well below what both can do.
const CALM: &str = "10000";

/// What dnsperf has to say.
struct Run {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// `scripts/bench dns [beside | front | fresh]`: everything, or that part alone.
#[tokio::main]
async fn main() {
    println!("\ndns, asked by dnsperf for {ASKED} names");
    let part = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    if wanted("beside") || wanted("front") {
        answered(wanted("beside"), wanted("front")).await;
    }
    if wanted("fresh") {
        fresh().await;
    }
}

/// The rates of answers: of the daemon beside CoreDNS, and of CoreDNS in front of it.
async fn answered(beside: bool, front: bool) {
    let lan = Lan::new();
    let redis = lan.redis();
    let words = ["--redis-url", "redis://192.0.2.1", "--node-name", "real"];
    let dns = ["--dns-listen", "127.0.0.1:5353"];
    let node = TestNode::builder(env!("CARGO_BIN_EXE_circuit"))
        .plugins(Plugins::None)
        .lan(&lan)
        .server(&[&words[..], &dns].concat())
        .start();
    let store = open(&redis).await;
    let mut there = 0;
    let mut rates = Vec::new();
    let fleets = [ASKED / EACH, 1000];
    for fleet in &fleets[..if beside { 2 } else { 1 }] {
        let fleet = *fleet;
        publish(&store, there..fleet).await;
        there = fleet;
        let last = format!("{}.web.circuit.internal", name(fleet - 1, EACH - 1));
        while !answers(&node, &last) {
            sleep(Duration::from_millis(20));
        }
        let asked = questions(&node, fleet);
        if beside {
            rates.push(beside_hosts(&node, fleet, &asked));
        }
        if front && fleet == fleets[0] {
            in_front(&node, &asked);
        }
    }
    if let [small, large] = rates[..] {
        let flat = large / small;
        println!("  100,000 names against 1,000: {flat:.2} of the rate");
    }
}

/// How long after the answer to a connect, or disconnect, its name is answered
/// rightly: on the node itself, and on another one.
async fn fresh() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let node = |name: &str| {
        let words = ["--redis-url", "redis://192.0.2.1", "--node-name", name];
        TestNode::builder(env!("CARGO_BIN_EXE_circuit"))
            .plugins(Plugins::None)
            .lan(&lan)
            .server(&words)
            .start()
    };
    let (one, two) = (node("one"), node("two"));
    one.create_network("web", &network::bridge("web", "10.90.0.0/16"));
    one.run_container("shown", &[], &[]);
    let (here, there) = (channel(&one).await, channel(&two).await);
    let mut api = CircuitClient::new(here.clone());
    let mut times: [Vec<Duration>; 2] = Default::default();
    for _ in 0..CHANGES {
        for is_there in [true, false] {
            match is_there {
                true => drop(api.connect(join("shown", "web")).await.unwrap()),
                false => drop(api.disconnect(leave("shown", "web")).await.unwrap()),
            }
            let start = Instant::now();
            let (on_here, on_there) = tokio::join!(
                until(here.clone(), is_there, start),
                until(there.clone(), is_there, start)
            );
            times[0].push(on_here);
            times[1].push(on_there);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    for (times, place, goal) in [
        (&times[0], "on the node", 50.0),
        (&times[1], "elsewhere", 100.0),
    ] {
        let (p50, p99) = (at(times, 0.5), at(times, 0.99));
        println!(
            "  changed until answered so {place:<11}   p50 {p50:.2} ms   p99 {p99:.2} ms   \
             goal <= {goal} ms: {}",
            verdict(p99 <= goal)
        );
    }
}

async fn channel(node: &TestNode) -> Channel {
    let socket = node.path("/run/circuit/circuit.sock");
    let options = ClientOptions {
        target: Some(Target::Unix(socket)),
        ..ClientOptions::default()
    };
    connect(&options).await.unwrap()
}

/// How long it takes from `start` until the name is there, or is not.
async fn until(channel: Channel, is_there: bool, start: Instant) -> Duration {
    let mut names = DnsClient::new(channel);
    loop {
        let asked = QueryNameRequest {
            name: "shown.web.circuit.internal".into(),
            ..Default::default()
        };
        let answer = names.query_name(asked).await.unwrap().into_inner();
        if (answer.code == "NOERROR") == is_there {
            return start.elapsed();
        }
    }
}

fn answers(node: &TestNode, name: &str) -> bool {
    let told = node.dig(&["@127.0.0.1", "-p", "5353", "+short", name]);
    told.worked() && !told.stdout.trim().is_empty()
}

/// The built-in server and CoreDNS with the names of so many nodes; returns the
/// rate of the former.
fn beside_hosts(node: &TestNode, fleet: usize, asked: &str) -> f64 {
    let mut hosts = String::new();
    for at in (0..fleet).flat_map(|node| (0..EACH).map(move |container| (node, container))) {
        let (ip, name) = (address(at.0, at.1), name(at.0, at.1));
        writeln!(hosts, "{ip} {name}.web.circuit.internal").unwrap();
    }
    let hosts = node.file("hosts", hosts);
    let corefile =
        format!("circuit.internal:5354 {{\n hosts {hosts} {{\n ttl 1\n reload 0\n }}\n}}\n");
    let coredns = CoreDns::start(node, &corefile, 5354);
    // Both are warm before they are timed.
    let _ = [rate(node, 5353, asked, "1"), rate(node, 5354, asked, "1")];
    let (ours, [our_time]) = timed([node.daemon_pid()], SECONDS, || {
        rate(node, 5353, asked, SECONDS)
    });
    let (theirs, [their_time]) = timed([coredns.pid()], SECONDS, || {
        rate(node, 5354, asked, SECONDS)
    });
    println!(
        "  {:>6} names   circuit {ours:>7.0}/s   coredns hosts {theirs:>7.0}/s   {:.1} x   \
         goal >= 2: {}",
        fleet * EACH,
        ours / theirs,
        verdict(ours >= 2.0 * theirs)
    );
    // dnsperf takes about half of the machine beside the faster one.
    println!(
        "    processor time of an answer   circuit {our_time:.1} us   coredns {their_time:.1} us   \
         {:.1} x",
        their_time / our_time
    );
    let (ours_calm, theirs_calm) = (calm(node, 5353, asked), calm(node, 5354, asked));
    println!(
        "    at {CALM}/s   circuit p50 {:.3} p99 {:.3} ms   coredns p50 {:.3} p99 {:.3} ms   \
         goal lower p99: {}",
        ours_calm.p50,
        ours_calm.p99,
        theirs_calm.p50,
        theirs_calm.p99,
        verdict(ours_calm.p99 < theirs_calm.p99)
    );
    drop(coredns);
    ours
}

/// A file with questions for [`ASKED`] of the names of so many nodes.
fn questions(node: &TestNode, fleet: usize) -> String {
    let every = (fleet * EACH / ASKED).max(1);
    let asked: String = (0..ASKED)
        .map(|at| at * every)
        .map(|at| format!("{}.web.circuit.internal A\n", name(at / EACH, at % EACH)))
        .collect();
    node.file(&format!("asked-{fleet}"), asked)
}

/// Of both ways, a rate, and the processor times of the daemon and of CoreDNS.
type Round = [(f64, [f64; 2]); 2];

/// CoreDNS in front of the daemon: by gRPC, and by DNS; as it is, and collecting its
/// garbage less often, as its page of the documentation has it.
fn in_front(node: &TestNode, asked: &str) {
    for (what, environment) in [("", &[][..]), (", GOGC=400", &[("GOGC", "400")][..])] {
        let start = |port: u16, way: &str| {
            let corefile = format!("circuit.internal:{port} {{\n {way}\n}}\n");
            CoreDns::start_with(node, &corefile, port, environment)
        };
        let by_grpc = start(5355, "grpc . 127.0.0.1:8080");
        let by_dns = start(5356, "forward . 127.0.0.1:5353");
        compare(node, asked, what, [(&by_grpc, 5355), (&by_dns, 5356)]);
    }
}

/// In turn, so that what else the machine does meets both alike.
fn compare(node: &TestNode, asked: &str, what: &str, ways: [(&CoreDns, u16); 2]) {
    for (_, port) in ways {
        let _warm = rate(node, port, asked, "1");
    }
    let rounds: Vec<Round> = (0..ROUNDS)
        .map(|_| {
            ways.map(|(coredns, port)| {
                let pids = [node.daemon_pid(), coredns.pid()];
                timed(pids, ROUND, || rate(node, port, asked, ROUND))
            })
        })
        .collect();
    let of = |value: &dyn Fn(&Round) -> f64| median(rounds.iter().map(value));
    let share = of(&|[grpc, forward]| grpc.0 / forward.0 * 100.0);
    println!(
        "  coredns in front{what}   by grpc {:>7.0}/s   by forward {:>7.0}/s   {share:.0} %   \
         goal >= 80 %: {}",
        of(&|[grpc, _]| grpc.0),
        of(&|[_, forward]| forward.0),
        verdict(share >= 80.0)
    );
    for (at, way) in ["grpc", "forward"].into_iter().enumerate() {
        let [ours, theirs] = [0, 1].map(|process| of(&|ways| ways[at].1[process]));
        let resident = resident(ways[at].0.pid());
        println!(
            "    processor time of an answer by {way:<7}   circuit {ours:.1} us   \
             coredns {theirs:.1} us, {resident:.0} MiB"
        );
    }
}

/// The memory of a process that is in use, in MiB.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse::<f64>().unwrap() / 1024.0
}

fn dnsperf(node: &TestNode, port: u16, asked: &str, more: &[&str]) -> String {
    let port = port.to_string();
    let words = ["-s", "127.0.0.1", "-p", &port, "-d", asked, "-c", "16"];
    let ran = node.run("dnsperf", &[&words[..], more].concat());
    ran.ok()
}

/// As many as it answers when always so many questions are under way.
fn rate(node: &TestNode, port: u16, asked: &str, seconds: &str) -> f64 {
    let told = dnsperf(node, port, asked, &["-l", seconds, "-q", AT_ONCE]);
    read(&told).rate
}

/// A rate, and the processor time in microseconds that each of these processes took
/// for an answer, in a run of so many seconds.
fn timed<const N: usize>(pids: [u32; N], seconds: &str, run: impl Fn() -> f64) -> (f64, [f64; N]) {
    let before = pids.map(ticks);
    let rate = run();
    let after = pids.map(ticks);
    let answers = rate * seconds.parse::<f64>().unwrap();
    // A tick is ten milliseconds.
    let times = std::array::from_fn(|at| (after[at] - before[at]) * 10_000.0 / answers);
    (rate, times)
}

/// The processor time that a process has taken.
fn ticks(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let ticks = rest.split_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum()
}

/// Times of answers when there is no haste.
fn calm(node: &TestNode, port: u16, asked: &str) -> Run {
    read(&dnsperf(
        node,
        port,
        asked,
        &["-l", SECONDS, "-Q", CALM, "-v"],
    ))
}

fn read(told: &str) -> Run {
    let number = |label: &str| {
        let line = told
            .lines()
            .find(|line| line.trim_start().starts_with(label));
        let value = line.and_then(|line| line.split(':').nth(1));
        let word = value.and_then(|value| value.split_whitespace().next());
        word.and_then(|word| word.parse::<f64>().ok())
    };
    let lost = number("Queries lost").unwrap_or(0.0);
    let sent = number("Queries sent").unwrap_or(1.0);
    assert!(lost <= sent / 1000.0, "questions were lost: {told}");
    // "> NOERROR NAME TYPE SECONDS" for each answer.
    let mut times: Vec<f64> = told
        .lines()
        .filter(|line| line.starts_with("> NOERROR"))
        .filter_map(|line| line.split_whitespace().last()?.parse::<f64>().ok())
        .map(|seconds| seconds * 1000.0)
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (times.len() as f64 * share) as usize;
        times.get(place).copied().unwrap_or(f64::NAN)
    };
    Run {
        rate: number("Queries per second").unwrap(),
        p50: at(0.5),
        p99: at(0.99),
    }
}
