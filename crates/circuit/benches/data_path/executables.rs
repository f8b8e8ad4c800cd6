//! This program as a CNI executable beside the stock ones, type by type.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use circuit_net::driver::DRIVERS;
use circuit_testing::Plugins;
use serde_json::{Value, json};

use crate::{
    common::{Executable, Goal, Times, namespace, node, row, run, run_inside, table},
    one::plugin,
};

const ROUNDS: usize = 30;
const WARM: usize = 2;

/// A folder in which this program has the plugins' names.
pub(crate) fn ours() -> PathBuf {
    let folder = PathBuf::from("/run/ours");
    fs::create_dir_all(&folder).unwrap();
    for (kind, _) in DRIVERS {
        symlink(env!("CARGO_BIN_EXE_circuit"), folder.join(kind)).unwrap();
    }
    folder
}

pub(crate) fn outside(part: &str) {
    run_inside(&node(), &[part]);
}

/// One plugin type: its configuration, and whether it comes behind another one.
struct Case {
    config: Value,
    chained: bool,
    ifname: &'static str,
}

impl Case {
    fn first(config: Value) -> Self {
        Self {
            config,
            chained: false,
            ifname: "eth0",
        }
    }

    fn chained(config: Value) -> Self {
        Self {
            chained: true,
            ..Self::first(config)
        }
    }

    fn kind(&self) -> &str {
        self.config["type"].as_str().unwrap()
    }
}

fn cases() -> Vec<Case> {
    let ipam = |number: u8| json!({"type": "host-local", "subnet": format!("10.{number}.0.0/16")});
    let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
    vec![
        Case::first(plugin(81)),
        Case::first(json!({"type": "ptp", "ipMasq": true, "ipam": ipam(82)})),
        Case::first(json!({"type": "macvlan", "master": "wire0", "ipam": ipam(83)})),
        Case {
            ifname: "lo",
            ..Case::first(json!({"type": "loopback"}))
        },
        Case::first(json!({"type": "host-local", "ipam": ipam(84)})),
        Case::chained(json!({"type": "portmap", "runtimeConfig": {"portMappings": [mapping]}})),
        Case::chained(json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}})),
        Case::chained(
            json!({"type": "bandwidth", "ingressRate": 1_000_000, "ingressBurst": 100_000}),
        ),
        Case::chained(json!({"type": "firewall"})),
    ]
}

pub(crate) fn inside() {
    run("ip", &["link", "set", "lo", "up"]);
    run(
        "ip",
        &[
            "link", "add", "wire0", "type", "veth", "peer", "name", "wire1",
        ],
    );
    run("ip", &["link", "set", "wire0", "up"]);
    run("ip", &["link", "set", "wire1", "up"]);
    let (stock, ours) = (Plugins::Newer.folder(), ours());
    table(&format!("as CNI executables, p50 of {ROUNDS} rounds"));
    start_up(&stock, &ours);
    for case in cases() {
        compare(&case, &stock, &ours);
    }
}

fn start_up(stock: &Path, ours: &Path) {
    let mut times = Times::default();
    let config = json!({"cniVersion": "1.0.0", "type": "bridge"});
    for _ in 0..ROUNDS {
        for (name, folder) in [("ours", ours), ("stock", stock)] {
            let plugin = Executable {
                folder,
                config: &config,
                netns: "",
                container: "",
                ifname: "",
            };
            times.take(name, || plugin.run("VERSION", None));
        }
        times.take("true", || run("/bin/true", &[]));
    }
    let mine = times.p50("ours");
    row(
        "VERSION",
        mine,
        "stock",
        times.p50("stock"),
        "ms",
        Goal::None,
    );
    row(
        "VERSION",
        mine,
        "/bin/true",
        times.p50("true"),
        "ms",
        Goal::None,
    );
}

/// One of the two sides of a comparison, with a namespace of its own.
struct Side<'a> {
    name: &'static str,
    folder: &'a Path,
    config: Value,
    netns: String,
    ifname: &'static str,
}

impl<'a> Side<'a> {
    /// What comes behind another plugin gets a bridge's port by the stock one.
    fn new(case: &Case, name: &'static str, folder: &'a Path, stock: &Path) -> Self {
        let mut config = case.config.clone();
        config["cniVersion"] = "1.0.0".into();
        config["name"] = name.into();
        let netns = namespace(&format!("{}-{name}", case.kind()));
        if case.chained {
            let mut bridge = plugin(85);
            bridge["cniVersion"] = "1.0.0".into();
            bridge["name"] = format!("{}-{name}", case.kind()).into();
            let bridge = Executable {
                folder: stock,
                config: &bridge,
                netns: &netns,
                container: "bench",
                ifname: case.ifname,
            };
            config["prevResult"] = serde_json::from_slice(&bridge.run("ADD", None)).unwrap();
        }
        Self {
            name,
            folder,
            config,
            netns,
            ifname: case.ifname,
        }
    }

    fn add_and_del(&self, times: &mut Times) -> Result<(), String> {
        let plugin = Executable {
            folder: self.folder,
            config: &self.config,
            netns: &self.netns,
            container: "bench",
            ifname: self.ifname,
        };
        let (add, del) = (format!("{} ADD", self.name), format!("{} DEL", self.name));
        let result = times.take(&add, || plugin.attempt("ADD", None))?;
        times.take(&del, || plugin.attempt("DEL", Some(&result)))?;
        self.tidy();
        Ok(())
    }

    /// What the stock plugin's DEL leaves to the end of the interface.
    fn tidy(&self) {
        if self.config["type"] == "bandwidth" {
            let interfaces = self.config["prevResult"]["interfaces"].as_array();
            let port = interfaces.and_then(|all| all[1]["name"].as_str()).unwrap();
            run("tc", &["qdisc", "del", "dev", port, "root"]);
        }
    }
}

/// ADD and DEL on each side in turn.
fn compare(case: &Case, stock: &Path, ours: &Path) {
    let kind = case.kind();
    let sides = [("ours", ours), ("stock", stock)]
        .map(|(name, folder)| Side::new(case, name, folder, stock));
    let mut times = Times::default();
    for round in 0..WARM + ROUNDS {
        if round == WARM {
            times.clear();
        }
        for side in &sides {
            if let Err(said) = side.add_and_del(&mut times) {
                let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
                println!("  {kind}: {} does not run here: {said}", side.name);
                return;
            }
        }
    }
    for (operation, goal) in [("ADD", Goal::AtMost(0.25)), ("DEL", Goal::None)] {
        let p50 = |name| times.p50(&format!("{name} {operation}"));
        let what = format!("{kind} {operation}");
        row(&what, p50("ours"), "stock 1.9.1", p50("stock"), "ms", goal);
    }
}
