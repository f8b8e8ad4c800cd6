//! Many attachments at once, by the rate.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use circuit_testing::TestNode;
use futures::{StreamExt as _, stream};

use crate::{
    common::{Api, Goal, join, leave, median, node, row, run, run_inside, table},
    floor::Floor,
    one::network,
};

/// Containers of each side.
const CONTAINERS: usize = 200;
/// Operations at one time.
const IN_FLIGHT: usize = 16;
/// Rounds of each side, in turn.
const ROUNDS: usize = 3;

/// A node with many running containers.
pub(crate) fn outside(part: &str) {
    let node = node();
    for (name, number) in [("native", 71), ("exec", 72)] {
        node.create_network(name, &network(name, number, name));
    }
    start(&node);
    run_inside(&node, &[part]);
}

fn start(node: &TestNode) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CONTAINERS {
                        break;
                    }
                    node.run_container(&name(number), &[], &[]);
                }
            });
        }
    });
}

fn name(number: usize) -> String {
    format!("c{number}")
}

/// Operations per second, and how many failed.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: f64,
    failed: usize,
}

/// The median of a side's rounds, and all of its failures.
#[derive(Debug, Default)]
struct Side {
    connects: Vec<Rate>,
    disconnects: Vec<Rate>,
}

pub(crate) fn inside() {
    let mut api = Api::open();
    let (mut native, mut exec, mut floor) = (Side::default(), Side::default(), Side::default());
    // Makes the bridges and warms caches.
    both_ways(&mut api, "native", IN_FLIGHT);
    both_ways(&mut api, "exec", IN_FLIGHT);
    let pids = pids();
    for _ in 0..ROUNDS {
        for (side, network) in [(&mut native, "native"), (&mut exec, "exec")] {
            let (connects, disconnects) = both_ways(&mut api, network, CONTAINERS);
            side.connects.push(connects);
            side.disconnects.push(disconnects);
        }
        let (adds, removals) = floors(&pids);
        floor.connects.push(adds);
        floor.disconnects.push(removals);
    }
    print(&native, &exec, &floor);
}

fn both_ways(api: &mut Api, network: &str, count: usize) -> (Rate, Rate) {
    let client = &api.client;
    let connects = api.runtime.block_on(rate(count, |number| {
        let mut client = client.clone();
        async move { client.connect(join(&name(number), network)).await.is_ok() }
    }));
    let disconnects = api.runtime.block_on(rate(count, |number| {
        let mut client = client.clone();
        async move {
            client
                .disconnect(leave(&name(number), network))
                .await
                .is_ok()
        }
    }));
    (connects, disconnects)
}

async fn rate<F: Future<Output = bool>>(count: usize, operation: impl Fn(usize) -> F) -> Rate {
    let start = Instant::now();
    let done: Vec<bool> = stream::iter(0..count)
        .map(operation)
        .buffer_unordered(IN_FLIGHT)
        .collect()
        .await;
    Rate::of(count, start, done.iter().filter(|worked| !**worked).count())
}

impl Rate {
    fn of(count: usize, start: Instant, failed: usize) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let count = count as f64;
        Self {
            per_second: count / start.elapsed().as_secs_f64(),
            failed,
        }
    }
}

fn pids() -> Vec<String> {
    let text = run("ctr", &["task", "ls"]);
    let pids = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(1));
    pids.map(str::to_owned).collect()
}

/// The kernel's steps alone, on as many threads as attachments are in flight.
fn floors(pids: &[String]) -> (Rate, Rate) {
    let mut floors: Vec<Floor> = (0..)
        .zip(pids)
        .map(|(number, pid)| {
            let netns = format!("/proc/{pid}/ns/net");
            Floor::new("bench71", &netns, &format!("floor{number}"))
        })
        .collect();
    let gateway = "10.71.0.1".parse().unwrap();
    let adds = on_threads(&mut floors, |number, floor| {
        let address = format!("10.71.200.{}/16", number + 1).parse().unwrap();
        floor.add(address, gateway);
    });
    let removals = on_threads(&mut floors, |_, floor| floor.remove());
    (adds, removals)
}

fn on_threads(floors: &mut [Floor], operation: impl Fn(usize, &mut Floor) + Sync) -> Rate {
    let count = floors.len();
    let each = count.div_ceil(IN_FLIGHT);
    let start = Instant::now();
    thread::scope(|scope| {
        for (chunk, floors) in floors.chunks_mut(each).enumerate() {
            let operation = &operation;
            scope.spawn(move || {
                for (number, floor) in floors.iter_mut().enumerate() {
                    operation(chunk * each + number, floor);
                }
            });
        }
    });
    Rate::of(count, start, 0)
}

fn typical(rates: &[Rate]) -> f64 {
    median(rates.iter().map(|rate| rate.per_second))
}

fn print(native: &Side, exec: &Side, floor: &Side) {
    table(&format!(
        "{IN_FLIGHT} in flight, {CONTAINERS} containers, the median of {ROUNDS} rounds"
    ));
    for (what, native, exec, floor) in [
        (
            "connects per second, native",
            &native.connects,
            &exec.connects,
            &floor.connects,
        ),
        (
            "disconnects per second, native",
            &native.disconnects,
            &exec.disconnects,
            &floor.disconnects,
        ),
    ] {
        let ours = typical(native);
        row(
            what,
            ours,
            "exec path",
            typical(exec),
            "/s",
            Goal::AtLeast(10.0),
        );
        row(
            what,
            ours,
            "kernel floor, as many threads",
            typical(floor),
            "/s",
            Goal::None,
        );
    }
    let failed = |side: &Side| -> usize {
        let all = side.connects.iter().chain(&side.disconnects);
        all.map(|rate| rate.failed).sum()
    };
    println!(
        "  errors: {} native (goal 0: {}), {} on the exec path",
        failed(native),
        crate::common::verdict(failed(native) == 0),
        failed(exec)
    );
}
