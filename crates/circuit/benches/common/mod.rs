//! What the benchmarks share: a job inside of a node, times, and rows of
//! figures.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout
)]

use std::{
    collections::BTreeMap,
    env, fmt,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use circuit::memory::Memory;
use circuit_api::v1::{ConnectRequest, DisconnectRequest, circuit_client::CircuitClient};
use circuit_api::{ClientOptions, connect};
use circuit_testing::{Plugins, TestNode};
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

/// As the program has it: some clients are in here.
#[global_allocator]
static MEMORY: Memory = Memory::new();

/// Between two operations, so that none pays for what the one before leaves to
/// be done in the background: containerd's record, announcements.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// A node with the newer stock plugins.
pub(crate) fn node() -> TestNode {
    TestNode::builder(env!("CARGO_BIN_EXE_circuit"))
        .plugins(Plugins::Newer)
        .start()
}

/// Runs this very program in the node, with `inside` and these arguments, and
/// lets it print.
pub(crate) fn run_inside(node: &TestNode, arguments: &[&str]) {
    let itself = env::current_exe().unwrap();
    let status = node
        .command(itself.to_str().unwrap())
        .arg("inside")
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the inner side failed: {arguments:?}");
}

/// The daemon of the node that this runs in.
pub(crate) struct Api {
    pub(crate) runtime: Runtime,
    pub(crate) client: CircuitClient<Channel>,
}

impl Api {
    pub(crate) fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let channel = runtime
            .block_on(connect(&ClientOptions::default()))
            .unwrap();
        Self {
            runtime,
            client: CircuitClient::new(channel),
        }
    }

    pub(crate) fn connect(&mut self, container: &str, network: &str) {
        let done = self.client.connect(join(container, network));
        self.runtime.block_on(done).unwrap();
    }

    pub(crate) fn disconnect(&mut self, container: &str, network: &str) {
        let done = self.client.disconnect(leave(container, network));
        self.runtime.block_on(done).unwrap();
    }
}

pub(crate) fn join(container: &str, network: &str) -> ConnectRequest {
    ConnectRequest {
        container: container.into(),
        network: network.into(),
        ..ConnectRequest::default()
    }
}

pub(crate) fn leave(container: &str, network: &str) -> DisconnectRequest {
    DisconnectRequest {
        container: container.into(),
        network: network.into(),
    }
}

/// The one plugin of a list, as CNI runtimes pass it on.
pub(crate) fn single(list: &str) -> Value {
    let list: Value = serde_json::from_str(list).unwrap();
    let mut single = list["plugins"][0].clone();
    single["cniVersion"] = list["cniVersion"].clone();
    single["name"] = list["name"].clone();
    single
}

/// An executable run as any CNI runtime runs it.
#[derive(Clone, Copy)]
pub(crate) struct Executable<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) config: &'a Value,
    pub(crate) netns: &'a str,
    pub(crate) container: &'a str,
    pub(crate) ifname: &'a str,
}

impl Executable<'_> {
    /// Runs one operation, DEL with the result of ADD.
    pub(crate) fn run(&self, operation: &str, prev: Option<&[u8]>) -> Vec<u8> {
        self.attempt(operation, prev).unwrap()
    }

    /// The same; else what the plugin says.
    pub(crate) fn attempt(&self, operation: &str, prev: Option<&[u8]>) -> Result<Vec<u8>, String> {
        let mut config = self.config.clone();
        if let Some(prev) = prev.filter(|prev| !prev.is_empty()) {
            config["prevResult"] = serde_json::from_slice(prev).unwrap();
        }
        let program = self.folder.join(config["type"].as_str().unwrap());
        let mut child = Command::new(program)
            .env("CNI_COMMAND", operation)
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_NETNS", self.netns)
            .env("CNI_IFNAME", self.ifname)
            .env("CNI_PATH", self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(config.to_string().as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(String::from_utf8_lossy(&output.stdout).into_owned()),
        }
    }
}

/// Runs a program that must work.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A new network namespace of that name.
pub(crate) fn namespace(name: &str) -> String {
    run("ip", &["netns", "add", name]);
    format!("/run/netns/{name}")
}

pub(crate) fn pid_of(container: &str) -> u32 {
    let text = run("ctr", &["task", "ls"]);
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{container} ")))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How long operations took, by what they are.
#[derive(Debug, Default)]
pub(crate) struct Times(BTreeMap<String, Vec<Duration>>);

impl Times {
    /// Rests, does it, and notes how long it took.
    pub(crate) fn take<T>(&mut self, what: &str, operation: impl FnOnce() -> T) -> T {
        sleep(PAUSE);
        let start = Instant::now();
        let done = operation();
        let took = start.elapsed();
        self.0.entry(what.to_owned()).or_default().push(took);
        done
    }

    /// Forgets all, for instance the rounds that warm caches.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The median in milliseconds.
    pub(crate) fn p50(&self, what: &str) -> f64 {
        at(&self.0[what], 0.5)
    }
}

/// The middle one; of an even number, the upper one of both.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A quantile in milliseconds.
pub(crate) fn at(times: &[Duration], quantile: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    if sorted.is_empty() {
        return f64::NAN;
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let index = ((sorted.len() - 1) as f64 * quantile).round() as usize;
    sorted[index].as_secs_f64() * 1000.0
}

pub(crate) fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "missed" }
}

/// What a ratio is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// For comparison only.
    None,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most:.2}"),
            Self::AtLeast(least) => write!(f, ">= {least:.2}"),
            Self::None => Ok(()),
        }
    }
}

impl Goal {
    fn reached(self, ratio: f64) -> &'static str {
        match self {
            Self::AtMost(most) => verdict(ratio <= most),
            Self::AtLeast(least) => verdict(ratio >= least),
            Self::None => "",
        }
    }
}

/// The head of a table of [`row`]s.
pub(crate) fn table(title: &str) {
    println!("\n{title}");
    println!(
        "  {:<44}{:>12}   {:<34}{:>12}{:>9}   {:<9}",
        "", "", "beside", "", "ratio", "goal"
    );
}

/// One figure beside another one, both of this unit.
pub(crate) fn row(what: &str, ours: f64, beside: &str, theirs: f64, unit: &str, goal: Goal) {
    let ratio = ours / theirs;
    let (ours, theirs) = (format!("{ours:.2} {unit}"), format!("{theirs:.2} {unit}"));
    let line = format!(
        "  {what:<44}{ours:>12}   {beside:<34}{theirs:>12}{ratio:>9.2}   {:<9}{}",
        goal.to_string(),
        goal.reached(ratio)
    );
    println!("{}", line.trim_end());
}
