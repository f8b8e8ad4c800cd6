//! What is done with each configuration: an attachment's whole life, and the
//! mistakes that runtimes make.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::compare::{Record, differences};
use crate::normal::Names;
use crate::purpose;
use crate::runtime::{Answers, Attachment, Runtime, result_of};
use crate::sides::Side;
use crate::snapshot;
use crate::traffic;
use crate::world::{CONTAINERS, HOST_V4, HOST_V6, OUTSIDE, OUTSIDE_V4, OUTSIDE_V6, World};

/// The ports that containers serve.
pub(crate) const CONTAINER_PORT: u16 = 8080;
/// And those that stand for any service, each used once at a time.
const FIRST_PORT: u16 = 1000;

/// Shows all rules, those of `iptables` too.
const RULES: &str = "nft -s list ruleset";

/// Somebody who talks to somebody.
struct Probe {
    name: String,
    from: &'static str,
    to: IpAddr,
    /// The namespace that serves the address.
    at: &'static str,
    udp: bool,
}

/// What the stock plugins make of the ADDs of the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adds {
    /// The first one succeeds.
    Succeed,
    /// One of them fails.
    Fail,
    /// Nobody knows.
    MayFail,
}

/// A configuration, and how it is used.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The name of its test.
    pub(crate) name: &'static str,
    /// The configuration list.
    pub(crate) list: Value,
    /// Arguments of capabilities for the first container and for the second.
    pub(crate) capabilities: [Value; 2],
    /// `CNI_ARGS` of the first container.
    pub(crate) args: &'static str,
    /// Shell commands on the host before anything else.
    pub(crate) prepare: String,
    /// The stock plugins that ours are compared with.
    pub(crate) stock: Side,
    /// Whether the stock plugins 1.1.1 know all of it.
    pub(crate) old: bool,
    /// What the stock plugins make of the ADDs, that the case tries what it means to.
    pub(crate) adds: Adds,
    /// Whether the native drivers take what the stock plugins refuse.
    pub(crate) taken: bool,
    /// Whether the native drivers leave it to the stock plugins, with code 2.
    pub(crate) left: bool,
    /// The interface's name.
    pub(crate) ifname: &'static str,
    /// Whether a tenth of a life is enough: ADD, CHECK and DEL.
    pub(crate) short: bool,
}

impl Case {
    /// A list of one version with these plugins.
    pub(crate) fn new(name: &'static str, version: &str, plugins: Value) -> Self {
        Self {
            name,
            list: json!({"cniVersion": version, "name": "net", "plugins": plugins}),
            capabilities: [json!({}), json!({})],
            args: "",
            prepare: String::new(),
            stock: Side::New,
            old: version != "1.1.0",
            adds: Adds::Succeed,
            taken: false,
            left: false,
            ifname: "eth0",
            short: false,
        }
    }

    pub(crate) fn capabilities(mut self, one: Value, two: Value) -> Self {
        self.capabilities = [one, two];
        self
    }

    pub(crate) fn args(mut self, args: &'static str) -> Self {
        self.args = args;
        self
    }

    pub(crate) fn prepare(mut self, commands: &str) -> Self {
        self.prepare = commands.to_owned();
        self
    }

    /// 1.1.1 does not know a key of it.
    pub(crate) fn only_new(mut self) -> Self {
        self.old = false;
        self
    }

    /// Ours are compared with the stock plugins 1.10.0.
    pub(crate) fn with_newest(mut self) -> Self {
        self.stock = Side::Newest;
        self.only_new()
    }

    /// Both sides refuse it, for one of the containers at least.
    pub(crate) fn fails(mut self) -> Self {
        self.adds = Adds::Fail;
        self
    }

    /// Both sides refuse it or not.
    pub(crate) fn may_fail(mut self) -> Self {
        self.adds = Adds::MayFail;
        self
    }

    /// The native drivers take it, whatever the stock plugins say.
    pub(crate) fn taken_by_ours(mut self) -> Self {
        self.taken = true;
        self
    }

    /// The native drivers refuse it with code 2, so that a runtime uses the
    /// stock executable.
    pub(crate) fn left_to_the_stock_plugin(mut self) -> Self {
        self.left = true;
        self.short()
    }

    pub(crate) fn ifname(mut self, name: &'static str) -> Self {
        self.ifname = name;
        self
    }

    pub(crate) fn short(mut self) -> Self {
        self.short = true;
        self
    }

    fn has_status_and_gc(&self) -> bool {
        self.list["cniVersion"] == "1.1.0"
    }

    /// Whether the stock plugins 1.1.1 run too: always for the versions of the
    /// protocol and what is used most, for all that they know when asked to.
    fn is_tried_with_old(&self) -> bool {
        let asked = std::env::var_os("CIRCUIT_DIFFERENTIAL_OLD").is_some();
        self.old && (asked || self.name.contains("_version_"))
    }

    /// Runs it everywhere, and compares; returns how many of the stock plugins' ADDs
    /// succeeded.
    pub(crate) fn run(&self) -> usize {
        let newest = std::env::var_os("CIRCUIT_DIFFERENTIAL_NEWEST").is_some();
        match newest && self.stock == Side::New {
            true => self.clone().with_newest().run_with_stock(),
            false => self.run_with_stock(),
        }
    }

    fn run_with_stock(&self) -> usize {
        let (old, stock, ours) = std::thread::scope(|scope| {
            let live = |side: Side| scope.spawn(move || live(self, side));
            let old = self.is_tried_with_old().then(|| live(Side::Old));
            let (stock, ours) = (live(self.stock), live(Side::Ours));
            let old = old.map(|old| old.join().unwrap());
            (old, stock.join().unwrap(), ours.join().unwrap())
        });
        self.assert_added(&stock, &ours);
        let name = self.stock.name();
        if let Some(old) = old {
            judge(self.name, "1.1.1", &old, name, &stock, purpose::VERSIONS);
        }
        if self.left {
            assert_left(self.name, &stock, &ours);
        } else {
            judge(self.name, name, &stock, "ours", &ours, purpose::ON_PURPOSE);
        }
        stock.first_adds().filter(|(_, worked)| *worked).count()
    }

    /// Fails when the case does not try what it means to.
    fn assert_added(&self, stock: &Record, ours: &Record) {
        let [stock, ours] = [stock, ours].map(|it| it.first_adds().collect::<Vec<_>>());
        let refused = stock.iter().any(|(_, worked)| !worked);
        let as_meant = refused || self.adds != Adds::Fail;
        assert!(
            as_meant,
            "{}: the stock plugins' ADDs: {stock:?}",
            self.name
        );
        let taken = ours.iter().all(|(_, worked)| *worked);
        assert!(taken || !self.taken, "{}: our ADDs: {ours:?}", self.name);
    }
}

/// Fails with every difference that is not in the table.
pub(crate) fn judge(
    test: &str,
    left_name: &str,
    left: &Record,
    right_name: &str,
    right: &Record,
    meant: &[purpose::Meant],
) {
    let found = differences(left, right);
    let (known, unknown): (Vec<_>, Vec<_>) = found.iter().partition(|difference| {
        let refused = left.is_after_a_refusal(difference);
        meant
            .iter()
            .any(|meant| meant.covers(test, refused, difference))
    });
    if std::env::var_os("CIRCUIT_DIFFERENTIAL_SHOW").is_some() {
        for difference in &known {
            eprintln!("{test}: meant: {difference}");
        }
        for (step, seen) in &right.steps {
            eprintln!("{test}: {right_name}: [{step}] {seen}");
        }
    }
    let lines: Vec<String> = unknown.iter().take(40).map(ToString::to_string).collect();
    assert!(
        unknown.is_empty(),
        "{test}: {left_name} and {right_name} differ in {} places:\n{}",
        unknown.len(),
        lines.join("\n")
    );
}

/// Fails unless the stock plugins do what ours refuse with code 2.
fn assert_left(test: &str, stock: &Record, ours: &Record) {
    let add = |record: &Record| {
        let (_, seen) = record
            .steps
            .iter()
            .find(|(step, _)| step == "ADD one")
            .unwrap();
        seen.as_array().unwrap().last().unwrap().clone()
    };
    assert_eq!(add(stock)["exit"], 0, "{test}: {:?}", add(stock));
    assert_eq!(add(ours)["code"], 2, "{test}: {:?}", add(ours));
}

/// One life of a configuration in a world of its own.
pub(crate) fn live(case: &Case, side: Side) -> Record {
    World::with(|world| Life::new(case, side, world).run())
}

struct Life<'a> {
    case: &'a Case,
    side: Side,
    world: &'a World,
    runtime: Runtime,
    names: Names,
    /// The firewall's rules before anything was done.
    rules: String,
    attachments: Vec<Attachment>,
    results: Vec<Value>,
    record: Record,
    start: Instant,
}

impl<'a> Life<'a> {
    fn new(case: &'a Case, side: Side, world: &'a World) -> Self {
        let given = format!("{}{:?}{}", case.list, case.capabilities, case.args);
        let mut attachments: Vec<Attachment> = CONTAINERS
            .into_iter()
            .zip(&case.capabilities)
            .map(|(netns, capabilities)| Attachment {
                capabilities: capabilities.clone(),
                ..Attachment::of(netns, case.ifname)
            })
            .collect();
        attachments[0].args = case.args.to_owned();
        Self {
            case,
            side,
            world,
            runtime: Runtime::new(side.folder(), &case.list),
            names: Names::new(given),
            rules: String::new(),
            attachments,
            results: vec![Value::Null; CONTAINERS.len()],
            record: Record::default(),
            start: Instant::now(),
        }
    }

    fn run(mut self) -> Record {
        self.world.shell(&self.case.prepare);
        self.rules = self.world.shell(RULES);
        self.ask("VERSION");
        self.add(0);
        self.check(0, "one");
        if !self.case.short {
            self.share();
        }
        self.snapshot("attached");
        self.del(0, "one");
        self.del(0, "one again");
        self.check(0, "one that is gone");
        if !self.case.short {
            self.mishaps();
        }
        self.snapshot("end");
        self.nothing_is_left();
        let steps = std::mem::take(&mut self.record.steps);
        let normal = |(step, seen): (String, Value)| (step, self.names.normal(&seen));
        Record {
            steps: steps.into_iter().map(normal).collect(),
        }
    }

    /// Two containers, what they say to each other and to the world, and what
    /// must change nothing.
    fn share(&mut self) {
        if self.case.has_status_and_gc() {
            self.ask("STATUS");
        }
        self.add(1);
        self.check(1, "two");
        // What a failed ADD leaves behind is looked at, not talked to.
        if self.results.iter().all(|result| !result.is_null()) {
            self.talk();
        }
        if self.case.has_status_and_gc() {
            let answers = self
                .runtime
                .gc(&[&self.attachments[0], &self.attachments[1]]);
            self.saw("GC of nothing", &answers);
        }
        let again = self.runtime.add(&self.attachments[0]);
        self.saw("ADD one again", &again);
    }

    /// What was attached is broken, and its namespace goes before the DEL.
    fn mishaps(&mut self) {
        let two = CONTAINERS[1];
        let ifname = self.case.ifname;
        self.world.inside(two, || {
            self.world.shell(&format!(
                "ip addr flush dev {ifname} scope global 2>&1 || true"
            ));
        });
        self.check(1, "two without addresses");
        self.world.remove_netns(two);
        self.del(1, "two without netns");
        self.attachments[1].netns = None;
        self.del(1, "two with no netns named");
    }

    fn saw(&mut self, step: &str, answers: &Answers) {
        if std::env::var_os("CIRCUIT_DIFFERENTIAL_SHOW").is_some() {
            let at = self.start.elapsed();
            eprintln!(
                "{} {:?} {at:?}: [{step}] {answers:?}",
                self.case.name, self.side
            );
        }
        let seen = answers.iter().map(|(kind, ran)| {
            let mut seen = ran.seen();
            seen["plugin"] = kind.as_str().into();
            seen
        });
        self.record.push(step, seen.collect());
    }

    fn snapshot(&mut self, step: &str) {
        if std::env::var_os("CIRCUIT_DIFFERENTIAL_SHOW").is_some() {
            let at = self.start.elapsed();
            eprintln!("{} {:?} {at:?}: [{step}]", self.case.name, self.side);
        }
        let seen = snapshot::take(self.world, &mut self.names);
        self.record.push(step, seen);
    }

    fn ask(&mut self, command: &str) {
        let answers = self.runtime.ask(command);
        self.saw(command, &answers);
    }

    fn add(&mut self, which: usize) {
        let answers = self.runtime.add(&self.attachments[which]);
        self.results[which] = result_of(&answers);
        if self.side == self.case.stock && self.case.adds == Adds::Succeed && which == 0 {
            let tries = "this case tries nothing, for the stock plugins refuse it";
            assert!(!self.results[which].is_null(), "{tries}: {answers:?}");
        }
        self.saw(&format!("ADD {}", CONTAINERS[which]), &answers);
    }

    fn check(&mut self, which: usize, what: &str) {
        let answers = self
            .runtime
            .check(&self.attachments[which], &self.results[which]);
        self.saw(&format!("CHECK {what}"), &answers);
    }

    fn del(&mut self, which: usize, what: &str) {
        let answers = self
            .runtime
            .del(&self.attachments[which], &self.results[which]);
        self.saw(&format!("DEL {what}"), &answers);
    }

    /// The addresses of a container, and its gateways.
    fn addresses(&self, which: usize, key: &str) -> Vec<IpAddr> {
        let ips = self.results[which]["ips"].as_array().into_iter().flatten();
        ips.filter_map(|ip| ip[key].as_str()?.split('/').next()?.parse().ok())
            .collect()
    }

    /// Everybody talks to everybody, by every address there is.
    fn talk(&mut self) {
        // Until the kernel has looked for duplicates of an IPv6 address, here
        // as long as it takes to get to it, nobody is answered at it.
        snapshot::settle(self.world, &mut self.names);
        let probes = self.probes();
        let world = self.world;
        let mut seen: Map<String, Value> = std::thread::scope(|scope| {
            let run = |(at, probe): (usize, Probe)| {
                let port = FIRST_PORT + u16::try_from(at).unwrap();
                let to = SocketAddr::new(probe.to, port);
                let by = if probe.udp {
                    traffic::udp
                } else {
                    traffic::tcp
                };
                let ran = scope.spawn(move || by(world, probe.from, to, (probe.at, port)));
                (probe.name, ran)
            };
            let running: Vec<_> = probes.into_iter().enumerate().map(run).collect();
            let said = running.into_iter();
            said.map(|(name, ran)| (name, ran.join().unwrap().into()))
                .collect()
        });
        self.talk_to_ports(&mut seen);
        self.record.push("traffic", seen.into());
    }

    fn probes(&self) -> Vec<Probe> {
        let [one, two] = CONTAINERS;
        let mut probes = Vec::new();
        let mut add = |name: String, from, to, at, udp| {
            probes.push(Probe {
                name,
                from,
                to,
                at,
                udp,
            });
        };
        for (at, to) in self.addresses(1, "address").into_iter().enumerate() {
            add(format!("one to two, address {at}"), one, to, two, false);
        }
        for (at, to) in self.addresses(0, "gateway").into_iter().enumerate() {
            add(format!("one to its gateway {at}"), one, to, "", false);
        }
        for (at, to) in self.addresses(0, "address").into_iter().enumerate() {
            for (from, name) in [("", "host"), (OUTSIDE, "outside"), (two, "two")] {
                add(format!("{name} to one, address {at}"), from, to, one, false);
            }
            let outside = if to.is_ipv4() { OUTSIDE_V4 } else { OUTSIDE_V6 };
            let outside = outside.parse().unwrap();
            for container in [one, two] {
                for (udp, by) in [(true, "udp"), (false, "tcp")] {
                    let name = format!("{container} to outside {outside} by {by}, address {at}");
                    add(name, container, outside, OUTSIDE, udp);
                }
            }
        }
        probes
    }

    /// Everybody uses the first container's ports of the host.
    fn talk_to_ports(&self, seen: &mut Map<String, Value>) {
        let ports = &self.attachments[0].capabilities["portMappings"];
        let [one, two] = CONTAINERS;
        let addresses = ["127.0.0.1", "::1", HOST_V4, HOST_V6];
        for port in ports.as_array().into_iter().flatten() {
            let number = |keys: [&str; 2]| {
                let number = keys.iter().find_map(|key| port[key].as_u64());
                u16::try_from(number.unwrap()).unwrap()
            };
            let host_port = number(["hostPort", "HostPort"]);
            let at = (one, number(["containerPort", "ContainerPort"]));
            let by = if port["protocol"] == "udp" {
                traffic::udp
            } else {
                traffic::tcp
            };
            for address in addresses {
                let address: IpAddr = address.parse().unwrap();
                let to = SocketAddr::new(address, host_port);
                for (from, name) in [
                    ("", "host"),
                    (OUTSIDE, "outside"),
                    (one, "one"),
                    (two, "two"),
                ] {
                    if address.is_loopback() && !from.is_empty() {
                        continue;
                    }
                    let name = format!("{name} to {to}, {}", port["protocol"]);
                    seen.insert(name, by(self.world, from, to, at).into());
                }
            }
        }
    }

    /// A life that ended leaves no rule that names it. (Links, leases and the
    /// rest are in the last snapshot.) The stock plugins leave some.
    fn nothing_is_left(&self) {
        if self.side != Side::Ours {
            return;
        }
        let rules = self.world.shell(RULES);
        let mut new = rules.lines().filter(|line| !self.rules.contains(*line));
        let addresses = (0..CONTAINERS.len()).flat_map(|which| self.addresses(which, "address"));
        let mut traces: Vec<String> = addresses.map(|address| address.to_string()).collect();
        traces.extend(self.attachments.iter().map(|to| to.id.clone()));
        let left = new.find(|line| traces.iter().any(|trace| line.contains(trace)));
        assert_eq!(left, None, "{}: is left in {rules}", self.case.name);
    }
}

/// The port that containers serve, for configurations.
pub(crate) fn mapping(host_port: u16, protocol: &str) -> Value {
    json!({"hostPort": host_port, "containerPort": CONTAINER_PORT, "protocol": protocol})
}
