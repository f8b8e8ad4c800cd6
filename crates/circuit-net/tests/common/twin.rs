//! The same steps by a stock plugin and by ours, each on a host of its own,
//! and all that can be seen afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use circuit_core::cni::ErrorReport;
use circuit_net::driver::Command;
use serde_json::{Map, Value, json};

use super::plugin::{Way, Who, who, without_dns};
use super::{Netns, on_private_host, shell};

/// The ways that are to be alike.
pub(crate) const WAYS: [Way; 3] = [Way::Stock19, Way::Ours, Way::InProcess];

/// One host and its containers, on which plugins run one way.
pub(crate) struct Twin {
    way: Way,
    containers: Vec<Netns>,
    leases: tempfile::TempDir,
    seen: Vec<Value>,
}

/// Takes the same steps each way, and compares what was noted on the way.
pub(crate) fn alike(steps: fn(&mut Twin)) {
    let mut all = WAYS.map(|way| {
        let (sender, seen) = std::sync::mpsc::channel();
        on_private_host(async move || {
            let mut twin = Twin::new(way);
            steps(&mut twin);
            sender.send(std::mem::take(&mut twin.seen)).unwrap();
        });
        (way, seen.recv().unwrap())
    });
    let [(_, stock), ours @ ..] = &mut all;
    for (way, seen) in ours {
        assert_eq!(seen.len(), stock.len());
        for (number, (ours, stock)) in seen.iter().zip(stock.iter()).enumerate() {
            let (ours, stock) = (lines(ours), lines(stock));
            assert!(
                ours == stock,
                "note {number}, {way:?}:\n{}",
                difference(&stock, &ours)
            );
        }
    }
}

fn lines(value: &Value) -> Vec<String> {
    let text = serde_json::to_string_pretty(value).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn difference(stock: &[String], ours: &[String]) -> String {
    let dir = tempfile::tempdir().unwrap();
    for (name, lines) in [("stock", stock), ("ours", ours)] {
        std::fs::write(dir.path().join(name), lines.join("\n")).unwrap();
    }
    let path = dir.path().display();
    shell(&format!("diff -U12 {path}/stock {path}/ours || true"))
}

impl Twin {
    pub(crate) fn new(way: Way) -> Self {
        Self {
            way,
            containers: Vec::new(),
            leases: tempfile::tempdir().unwrap(),
            seen: Vec::new(),
        }
    }

    /// Makes a container, and tells its number.
    pub(crate) fn container(&mut self) -> usize {
        self.containers.push(Netns::new());
        self.containers.len() - 1
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.way != Way::Stock19
    }

    pub(crate) fn netns(&self, container: usize) -> &Netns {
        &self.containers[container]
    }

    /// Ends a container's namespace, and waits until the kernel has taken away
    /// what was in it.
    pub(crate) fn end(&mut self, container: usize) {
        let veths = || shell("ip -o link").matches(": veth").count();
        let inside = self.netns(container).ip("-o link");
        let left = veths() - inside.matches("@if").count();
        self.containers[container] = Netns::new();
        let start = Instant::now();
        while veths() > left {
            assert!(start.elapsed() < Duration::from_secs(10));
            sleep(Duration::from_millis(10));
        }
    }

    /// A configuration with what is the same in all; `$LEASES` in it is a
    /// folder.
    pub(crate) fn config(&self, plugin: &Value) -> Value {
        let mut config = json!({"cniVersion": "1.1.0", "name": "net"});
        let object = config.as_object_mut().unwrap();
        object.extend(plugin.as_object().unwrap().clone());
        let text = config
            .to_string()
            .replace("$LEASES", self.leases.path().to_str().unwrap());
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn who(&self, container: usize) -> Who {
        Who {
            netns: Some(self.netns(container).path()),
            ..who(&format!("c{container}"))
        }
    }

    /// Runs the plugin.
    pub(crate) fn run(
        &self,
        command: Command,
        plugin: &Value,
        who: &Who,
    ) -> Result<Value, ErrorReport> {
        let config = self.config(plugin);
        let kind = config["type"].as_str().unwrap();
        self.way.run(kind, command, &config, who)
    }

    /// Attaches a container, which must succeed, and notes the result.
    pub(crate) fn add(&mut self, plugin: &Value, container: usize) -> Value {
        let who = self.who(container);
        self.add_as(plugin, &who)
    }

    pub(crate) fn add_as(&mut self, plugin: &Value, who: &Who) -> Value {
        let result = self.run(Command::Add, plugin, who).unwrap();
        self.note(plain(&without_dns(result.clone())));
        result
    }

    /// Runs a command on an attachment with the result of its ADD, which must
    /// succeed.
    pub(crate) fn again(&self, command: Command, plugin: &Value, who: &Who, result: &Value) {
        self.with_prev(command, plugin, who, result).unwrap();
    }

    pub(crate) fn with_prev(
        &self,
        command: Command,
        plugin: &Value,
        who: &Who,
        result: &Value,
    ) -> Result<Value, ErrorReport> {
        let mut plugin = plugin.clone();
        plugin["prevResult"] = result.clone();
        self.run(command, &plugin, who)
    }

    /// Has the plugin refuse. Ours leaves nothing then, other than the stock
    /// one, of which it is taken away here.
    pub(crate) fn refuse(&mut self, plugin: &Value, who: &Who) -> ErrorReport {
        let links = || look_at(who.netns.as_deref().filter(|path| path.exists()));
        let before = links()["links"].clone();
        let error = self.run(Command::Add, plugin, who).unwrap_err();
        if links()["links"] != before {
            assert_eq!(self.way, Way::Stock19, "{plugin} leaves {}", links());
            let path = who.netns.as_ref().unwrap().display();
            shell(&format!("nsenter --net={path} ip link del {}", who.ifname));
        }
        error
    }

    /// Notes something that has to be the same.
    pub(crate) fn note(&mut self, value: Value) {
        self.seen.push(value);
    }

    /// Notes the addresses that are leased.
    pub(crate) fn note_leases(&mut self) {
        let dir = self.leases.path().join("net");
        let mut leases: Vec<String> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "lock" && !name.starts_with("last_reserved"))
            .collect();
        leases.sort();
        self.note(json!({ "leases": leases }));
    }

    /// Notes everything about the host and its containers.
    pub(crate) fn look(&mut self) {
        let host = look_at(None);
        self.note(json!({ "host": host }));
        for number in 0..self.containers.len() {
            let seen = look_at(Some(&self.containers[number].path()));
            self.note(json!({ "container": seen }));
        }
    }
}

fn look_at(netns: Option<&Path>) -> Value {
    let enter = match netns {
        Some(path) => format!("nsenter --net={} ", path.display()),
        None => String::new(),
    };
    let ask = |command: &str| -> Value {
        let text = shell(&format!("{enter}{command}"));
        match text.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap(),
        }
    };
    let sysctls = "cd /proc/sys/net && grep -rs . ipv4/conf ipv6/conf ipv4/ip_forward \
        | grep -v stable_secret";
    let sysctls = shell(&format!("{enter}sh -c \"{sysctls}\""));
    let mut sysctls: Vec<String> = sysctls.lines().map(plain_text).collect();
    sysctls.sort();
    json!({
        "links": sorted(plain(&ask("ip -j -d addr show"))),
        "routes": sorted(plain(&ask("ip -j -d -N -4 route show table all"))),
        "routes6": sorted(plain(&ask("ip -j -d -N -6 route show table all"))),
        "sysctls": sysctls,
    })
}

fn sorted(value: Value) -> Value {
    let Value::Array(mut values) = value else {
        return value;
    };
    values.sort_by_key(Value::to_string);
    values.into()
}

/// Without what is random, or comes a bit later.
pub(crate) fn plain(value: &Value) -> Value {
    const DROPPED: [&str; 19] = [
        "ifindex",
        "link_index",
        "link_netnsid",
        "broadcast",
        "operstate",
        "hello_timer",
        "gc_timer",
        "tcn_timer",
        "topology_change_timer",
        "bridge_id",
        "root_id",
        "designated_bridge",
        "designated_root",
        "hold_timer",
        "message_age_timer",
        "forward_delay_timer",
        "tentative",
        "group_addr",
        // The stock plugin means nothing by the 0 on the host.
        "txqlen",
    ];
    // Addresses of links are made when these carry traffic, routes to those of
    // the host when it is known that nobody else has them.
    let late = |value: &Value| {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        let outside = ["br0", "veth"]
            .iter()
            .any(|dev| text("dev").starts_with(dev));
        if text("table") == "255" && outside && text("dst").contains(':') {
            return true;
        }
        ["local", "dst"].iter().any(|key| {
            let text = text(key);
            text.starts_with("fe80:") || text.starts_with("ff00:")
        })
    };
    match value {
        Value::Object(object) => {
            let kept = object.iter().filter(|(key, value)| {
                let brd = *key == "broadcast" && !value.as_str().unwrap().contains(':');
                brd || !DROPPED.contains(&key.as_str())
            });
            let kept: BTreeMap<String, Value> = kept
                .map(|(key, value)| (key.clone(), plain(value)))
                .collect();
            kept.into_iter().collect::<Map<String, Value>>().into()
        }
        Value::Array(values) => {
            let carrier = ["NO-CARRIER", "LOWER_UP", "M-DOWN", "linkdown"];
            let kept = values.iter().filter(|value| {
                !late(value) && !value.as_str().is_some_and(|text| carrier.contains(&text))
            });
            kept.map(plain).collect::<Vec<Value>>().into()
        }
        Value::String(text) => plain_text(text).into(),
        other => other.clone(),
    }
}

fn plain_text(text: &str) -> String {
    // Those that tests choose begin so.
    let chosen = text.starts_with("02:00:00:");
    let mac = text.len() == 17 && text.matches(':').count() == 5 && !chosen;
    if mac {
        return "random".to_owned();
    }
    if text.starts_with("/run/netns/") {
        return "netns".to_owned();
    }
    let words = text.split_inclusive(['.', '/', ' ', ':']);
    words
        .map(|word| match word.strip_prefix("veth") {
            Some(rest) if rest.len() >= 8 => format!("veth{}", &rest[8..]),
            _ => word.to_owned(),
        })
        .collect()
}
