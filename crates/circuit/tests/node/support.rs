//! What several subjects need: the API from Rust, listings read back, and the
//! comparison of everything that should agree about attachments.

use std::{
    collections::BTreeMap,
    future::Future,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use circuit_api::{
    ClientOptions, Target,
    v1::{
        ConnectRequest, ConnectResponse, DisconnectRequest, GetContainerIPsRequest,
        GetContainerIPsResponse, circuit_client::CircuitClient,
    },
};
use circuit_testing::{
    Ends, Lan, NodeBuilder, PATIENCE, Plugins, Ran, TestNode, network, wait_for, wait_until,
};
use serde_json::Value;
use tonic::{Request, Status, transport::Channel};

/// The label that names networks.
pub(crate) const NETWORK: &str = "io.circuit.network";
/// The label, and the key of networks, by which containers ask for names.
pub(crate) const DNS: &str = "io.circuit.dns";
/// The label with the restart policy.
pub(crate) const RESTART: &str = "io.circuit.restart";

/// A node of this name in the cluster of the Redis on its LAN. Its lease, in
/// seconds, is short enough for tests.
pub(crate) fn member(lan: &Lan, name: &str, lease: u32) -> NodeBuilder {
    let arguments = membership(name, lease);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    crate::node().lan(lan).server(&arguments)
}

/// The arguments of its daemon for that.
pub(crate) fn membership(name: &str, lease: u32) -> Vec<String> {
    let words = ["--redis-url", "redis://192.0.2.1", "--node-name", name];
    let times = ["--heartbeat", "1s", "--lease"];
    let mut arguments: Vec<String> = [&words[..], &times]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    arguments.push(format!("{lease}s"));
    arguments
}

/// Creates the usual network: `ctr0`, 10.255.0.0/16.
#[track_caller]
pub(crate) fn create_ctr0(node: &TestNode) {
    node.create_network("ctr0", &network::bridge("ctr0", "10.255.0.0/16"));
}

/// The one line on standard error of a command that must have failed with 1,
/// without its label.
#[track_caller]
pub(crate) fn error_of(ran: Ran) -> String {
    assert_eq!(ran.stdout, "", "{ran}");
    let stderr = ran.fails(1);
    let line = stderr
        .strip_prefix("error: ")
        .unwrap_or_else(|| panic!("no error line: {stderr:?}"));
    assert!(line.ends_with('\n'), "{stderr:?}");
    assert_eq!(line.lines().count(), 1, "one line only: {stderr:?}");
    line.trim_end().to_owned()
}

/// Fails unless the text holds every part.
#[track_caller]
pub(crate) fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

/// Runs the CLI with `--format json`, and reads what it prints.
#[track_caller]
pub(crate) fn json(node: &TestNode, arguments: &[&str]) -> Value {
    let printed = node
        .circuit(&[arguments, &["--format", "json"]].concat())
        .ok();
    serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{e}: {printed}"))
}

/// The addresses of a container by `network ips`: network, address, interface.
#[track_caller]
pub(crate) fn ips(node: &TestNode, container: &str) -> Vec<[String; 3]> {
    rows(&json(node, &["network", "ips", container]))
}

fn rows(listing: &Value) -> Vec<[String; 3]> {
    let ips = listing["ips"].as_array().expect("a list");
    let text = |ip: &Value, key: &str| ip[key].as_str().expect("a text").to_owned();
    ips.iter()
        .map(|ip| ["network", "ip", "interface"].map(|key| text(ip, key)))
        .collect()
}

/// The problems of a container by `network ips`: network and message.
#[track_caller]
pub(crate) fn problems(node: &TestNode, container: &str) -> Vec<(String, String)> {
    let listing = json(node, &["network", "ips", container]);
    let problems = listing["problems"].as_array().expect("a list");
    let text = |p: &Value, key: &str| p[key].as_str().expect("a text").to_owned();
    problems
        .iter()
        .map(|p| (text(p, "network"), text(p, "message")))
        .collect()
}

/// Waits until a container has a problem with this network, and returns what
/// is said about it.
#[track_caller]
pub(crate) fn wait_for_problem(node: &TestNode, container: &str, network: &str) -> String {
    let what = format!("{container} has a problem with {network:?}");
    wait_for(&what, PATIENCE, || {
        let found = problems(node, container);
        found
            .into_iter()
            .find(|(of, _)| of == network)
            .map(|(_, message)| message)
    })
}

/// How many lines of the daemon's log hold every part.
pub(crate) fn logged(node: &TestNode, parts: &[&str]) -> usize {
    let log = node.daemon_log();
    log.lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .count()
}

/// A node of drivers, on which all is looked at once in that time.
pub(crate) fn looked_at_each(interval: &str) -> TestNode {
    crate::node()
        .plugins(Plugins::None)
        .server(&["--reconcile-interval", interval])
        .start()
}

/// Takes something away that the daemon gives back by itself, as often as it takes to
/// have it leave that alone for some seconds; `said` counts what it says of that.
pub(crate) fn tire(said: impl Fn() -> usize, take: impl Fn()) {
    for _ in 0..4 {
        let before = said();
        take();
        wait_until("it is given back", PATIENCE, || said() > before);
    }
    take();
}

/// Why the daemon, the containers, the leases, the pins and the records do not
/// agree yet that exactly these containers are on that many networks each.
pub(crate) fn disagreement(node: &TestNode, wanted: &[(&str, usize)]) -> Option<String> {
    let mut leases: BTreeMap<String, usize> = BTreeMap::new();
    let attachments: usize = wanted.iter().map(|(_, networks)| networks).sum();
    for (container, networks) in wanted {
        let listing = node.circuit(&["network", "ips", container, "--format", "json"]);
        if !listing.worked() {
            return Some(listing.to_string());
        }
        let told = rows(&serde_json::from_str(&listing.stdout).unwrap_or_default());
        let mut told_ips: Vec<String> = told.iter().map(|row| row[1].clone()).collect();
        if told.len() != *networks {
            return Some(format!("{container} should be on {networks}: {told:?}"));
        }
        let mut inside = node.addresses(container);
        for address in &mut inside {
            let bare = address.split('/').next().unwrap_or_default().to_owned();
            *address = bare;
        }
        inside.sort();
        told_ips.sort();
        if inside != told_ips {
            return Some(format!("{container} has {inside:?}, told {told_ips:?}"));
        }
        for row in told {
            *leases.entry(format!("{}/{}", row[0], row[1])).or_default() += 1;
        }
    }
    let held = node.leftovers();
    let mut held_leases = held.leases.clone();
    held_leases.sort();
    let told_leases: Vec<String> = leases.keys().cloned().collect();
    if leases.values().any(|count| *count > 1) || held_leases != told_leases {
        return Some(format!("leases {held_leases:?}, told {told_leases:?}"));
    }
    let connected = wanted.iter().filter(|(_, networks)| *networks > 0).count();
    let counts = [
        ("interfaces", held.interfaces.len(), attachments),
        ("records", held.records.len(), attachments),
        ("pins", held.pins.len(), connected),
    ];
    for (what, count, want) in counts {
        if count != want {
            return Some(format!("{count} {what} and not {want}:\n{held}"));
        }
    }
    // Executables make a chain for each address that is masqueraded, drivers
    // one rule for the network.
    let executed = node.executed();
    let chains = held
        .chains
        .iter()
        .filter(|c| c.starts_with(":CNI-"))
        .count();
    (chains != executed)
        .then(|| format!("{chains} chains for {executed} attachments by executables:\n{held}"))
}

/// Waits until everything agrees that exactly these containers are on that
/// many networks each.
#[track_caller]
pub(crate) fn assert_exactly(node: &TestNode, wanted: &[(&str, usize)]) {
    let start = Instant::now();
    let mut last = disagreement(node, wanted);
    while let Some(why) = last {
        assert!(start.elapsed() < PATIENCE, "{wanted:?}: {why}");
        std::thread::sleep(Duration::from_millis(50));
        last = disagreement(node, wanted);
    }
}

/// The node's API, on its socket.
pub(crate) struct Api {
    runtime: tokio::runtime::Runtime,
    pub(crate) channel: Channel,
}

impl Api {
    #[track_caller]
    pub(crate) fn of(node: &TestNode) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let options = ClientOptions {
            target: Some(Target::Unix(node.path("/run/circuit/circuit.sock"))),
            tls: None,
        };
        let channel = runtime
            .block_on(circuit_api::connect(&options))
            .expect("the daemon listens");
        Self { runtime, channel }
    }

    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn circuit(&self) -> CircuitClient<Channel> {
        CircuitClient::new(self.channel.clone())
    }

    pub(crate) fn connect(
        &self,
        container: &str,
        network: &str,
    ) -> Result<ConnectResponse, Status> {
        self.run(connect(self.circuit(), container, network))
    }

    pub(crate) fn disconnect(&self, container: &str, network: &str) -> Result<(), Status> {
        self.run(disconnect(self.circuit(), container, network))
    }

    pub(crate) fn ips(
        &self,
        container: &str,
        network: &str,
    ) -> Result<GetContainerIPsResponse, Status> {
        let request = patient(GetContainerIPsRequest {
            container: container.to_owned(),
            network: network.to_owned(),
        });
        let mut client = self.circuit();
        Ok(self.run(client.get_container_i_ps(request))?.into_inner())
    }
}

/// A request that fails, rather than hang its test.
pub(crate) fn patient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE * 2);
    request
}

pub(crate) async fn connect(
    mut client: CircuitClient<Channel>,
    container: &str,
    network: &str,
) -> Result<ConnectResponse, Status> {
    let request = patient(ConnectRequest {
        container: container.to_owned(),
        network: network.to_owned(),
        ..ConnectRequest::default()
    });
    Ok(client.connect(request).await?.into_inner())
}

pub(crate) async fn disconnect(
    mut client: CircuitClient<Channel>,
    container: &str,
    network: &str,
) -> Result<(), Status> {
    let request = patient(DisconnectRequest {
        network: network.to_owned(),
        container: container.to_owned(),
    });
    client.disconnect(request).await.map(|_| ())
}

/// Runs containers side by side; each is made by a process of its own.
pub(crate) fn run_containers(node: &TestNode, names: &[String], labels: &[(&str, &str)]) {
    std::thread::scope(|scope| {
        for lane in 0..4 {
            scope.spawn(move || {
                for name in names.iter().skip(lane).step_by(4) {
                    node.run_container(name, labels, &[]);
                }
            });
        }
    });
}

/// Removes containers side by side.
pub(crate) fn remove_containers(node: &TestNode, names: &[String]) {
    std::thread::scope(|scope| {
        for lane in 0..4 {
            scope.spawn(move || {
                for name in names.iter().skip(lane).step_by(4) {
                    node.remove_container(name);
                }
            });
        }
    });
}

/// `c0`, `c1`, …
pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("c{number}")).collect()
}

/// The number of lines in the daemon's log, to tell what comes later.
pub(crate) fn log_length(node: &TestNode) -> usize {
    node.daemon_log().lines().count()
}

/// The route that a container takes to the world.
pub(crate) fn way_out(node: &TestNode, container: &str) -> String {
    let get = ["ip", "-4", "route", "get", "198.51.100.1"];
    node.in_netns(container, &get).ok()
}

/// A stock dnsmasq by this command, with nothing of the machine's; it ends with the
/// value.
pub(crate) fn dnsmasq(mut command: Command, arguments: &[&str]) -> Ends {
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null"])
        .args(["--pid-file=", "--user=root"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Ends(command.spawn().expect("dnsmasq: run scripts/setup"))
}

/// What a command that works and has something to say says: `ctr` at times loses what
/// comes from one that ends at once.
pub(crate) fn said(node: &TestNode, container: &str, command: &[&str]) -> String {
    wait_for("something is said", PATIENCE, || {
        Some(node.exec(container, command).ok()).filter(|text| !text.is_empty())
    })
}

/// The journal of a daemon that is not running, and the lines in it.
pub(crate) fn journal(node: &TestNode) -> (std::path::PathBuf, String) {
    let journal = node.path("/var/lib/circuit/state/default.journal");
    let text = String::from_utf8(std::fs::read(&journal).unwrap()).unwrap();
    let lines = text.split('\0').next().unwrap_or_default();
    (journal, lines.to_owned())
}

/// Changes what a daemon that is not running remembers of a container.
#[track_caller]
pub(crate) fn change_record(node: &TestNode, container: &str, change: impl Fn(&mut Value)) {
    let (journal, text) = journal(node);
    let mut changed = 0;
    let lines = text.lines().map(|line| {
        let json = line.split_once(' ').map_or("", |(_, json)| json);
        let mut record: Value = serde_json::from_str(json).unwrap_or_default();
        if record["container"] != container {
            return format!("{line}\n");
        }
        change(&mut record);
        changed += 1;
        let json = record.to_string();
        format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
    });
    let lines: String = lines.collect();
    assert!(changed > 0, "nothing is remembered of {container}");
    std::fs::write(&journal, lines).unwrap();
}
