//! What is seen of a world: of each namespace its links, addresses, routes,
//! rules, lasting neighbours, sysctls, bridge ports and traffic control; and
//! the files that plugins keep.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::normal::Names;
use crate::world::{CONTAINERS, WATCH, World, feed, netns_path};

/// The name of the host in a snapshot, which is the empty one in [`World`].
pub(crate) const HOST: &str = "host";

/// Folders in which plugins keep what outlives them.
const FILES: [&str; 2] = ["/var/lib/cni", "/run/cni"];

/// How long devices may take to come up.
const PATIENCE: Duration = Duration::from_secs(4);

/// Keys of links and of addresses that say nothing of what a plugin did: they
/// count, or they are the kernel's own business.
const PASSING: [&str; 15] = [
    "ifindex",
    "link_index",
    "link_netnsid",
    "operstate",
    "bridge_id",
    "root_id",
    "root_port",
    "root_path_cost",
    "hello_timer",
    "gc_timer",
    "forward_delay_timer",
    "tcn_timer",
    "topology_change_timer",
    "topology_change",
    "topology_change_detected",
];
const PASSING_OF_PORTS: [&str; 13] = [
    "designated_bridge",
    "designated_root",
    "designated_port",
    "designated_cost",
    "id",
    "no",
    "hold_timer",
    "message_age_timer",
    "config_pending",
    "topology_change_ack",
    "bridge_id",
    "root_id",
    "port_id",
];

/// Sysctls that change by themselves.
fn is_passing_sysctl(path: &str) -> bool {
    let passing = ["stable_secret", "/netfilter/", "fastopen_key", "/unix/"];
    passing.iter().any(|part| path.contains(part))
}

/// Looks at everything once nothing changes by itself any more.
pub(crate) fn take(world: &World, names: &mut Names) -> Value {
    let links = settled(world, names);
    let mut snapshot = Map::new();
    for (name, links) in links {
        let namespace = world_name(&name);
        snapshot.insert(
            name.clone(),
            world.inside_with_sys(namespace, || namespace_of(&name, links, names)),
        );
    }
    snapshot.insert("files".to_owned(), files());
    snapshot.into()
}

/// The namespaces that exist, by their name in a snapshot.
fn namespaces() -> Vec<String> {
    // A plugin may make a file where a namespace was.
    let containers = CONTAINERS
        .into_iter()
        .filter(|name| circuit_net::netns::is_netns(netns_path(name)));
    std::iter::once(HOST)
        .chain(containers)
        .map(str::to_owned)
        .collect()
}

fn world_name(name: &str) -> &str {
    if name == HOST { "" } else { name }
}

/// Waits until no link and no address is about to change by itself.
pub(crate) fn settle(world: &World, names: &mut Names) {
    settled(world, names);
}

/// The links of every namespace, once they are what they will be.
fn settled(world: &World, names: &mut Names) -> Vec<(String, Vec<Value>)> {
    let start = Instant::now();
    loop {
        let mut all = Vec::new();
        for name in namespaces() {
            let links = world.inside(world_name(&name), || {
                documents(&feed("ip", &["-j", "-d", "addr", "show"], ""))
            });
            let mut links = array(links.into_iter().next());
            links.retain(|link| link["ifname"] != WATCH);
            all.push((name, links));
        }
        names.learn(&all);
        let waits = all.iter().any(|(_, links)| links.iter().any(is_passing));
        if !waits || start.elapsed() > PATIENCE {
            return all;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a link is about to change by itself.
fn is_passing(link: &Value) -> bool {
    let flag = |name: &str| link["flags"].as_array().unwrap().iter().any(|f| f == name);
    let addresses = link["addr_info"].as_array().unwrap();
    let state = link["operstate"].as_str().unwrap_or_default();
    let comes = flag("UP") && flag("LOWER_UP") && !["UP", "UNKNOWN"].contains(&state);
    comes || addresses.iter().any(|address| address["tentative"] == true)
}

fn namespace_of(name: &str, links: Vec<Value>, names: &Names) -> Value {
    let devices: Vec<String> = links
        .iter()
        .map(|link| link["ifname"].as_str().unwrap().to_owned())
        .collect();
    let mut tables = documents(&feed(
        "ip",
        &["-j", "-d", "-batch", "-"],
        "route show table all\nrule show\nneigh show nud permanent",
    ))
    .into_iter();
    let mut routes = array(tables.next());
    for route in &mut routes {
        // Whether a device has a carrier is told to routes later.
        if let Some(flags) = route["flags"].as_array_mut() {
            flags.retain(|flag| flag != "linkdown");
        }
        // It is counted down.
        if let Some(expires) = route.get_mut("expires") {
            *expires = "limited".into();
        }
    }
    let rules = array(tables.next());
    let neighbours = tables
        .flat_map(|table| array(Some(table)))
        .collect::<Vec<_>>();
    let rules6 = array(documents(&feed("ip", &["-6", "-j", "-d", "rule", "show"], "")).pop());
    let host = name == HOST;
    json!({
        "links": by_name(links, names, name),
        "routes": routes,
        "rules": rules,
        "rules6": rules6,
        "neighbours": neighbours,
        "sysctls": sysctls(),
        "ports": if host { ports() } else { Value::Null },
        "tc": if host { traffic_control(&devices) } else { Value::Null },
    })
}

/// Links by name, with how they came by their hardware address.
fn by_name(links: Vec<Value>, names: &Names, namespace: &str) -> Value {
    let mut all = Map::new();
    for mut link in links {
        let name = link["ifname"].as_str().unwrap().to_owned();
        let sys = Path::new("/sys/class/net").join(&name);
        let kind = std::fs::read_to_string(sys.join("addr_assign_type")).unwrap_or_default();
        let alias = std::fs::read_to_string(sys.join("ifalias")).unwrap_or_default();
        if names.borrows_address(namespace, &name) {
            link["address"] = "(that of a port)".into();
        }
        strip(&mut link, &PASSING);
        let object = link.as_object_mut().unwrap();
        object.insert("addr_assign_type".to_owned(), kind.trim().into());
        object.insert("ifalias".to_owned(), alias.trim().into());
        if let Some(Value::Array(flags)) = object.get_mut("flags") {
            flags.retain(|flag| flag != "LOWER_UP" && flag != "NO-CARRIER");
        }
        for address in object["addr_info"].as_array_mut().unwrap() {
            for key in ["valid_life_time", "preferred_life_time"] {
                let ever = address[key] == u32::MAX;
                address[key] = if ever { "forever" } else { "limited" }.into();
            }
        }
        all.insert(name, link);
    }
    all.into()
}

fn ports() -> Value {
    let text = feed("bridge", &["-j", "-d", "link", "show"], "");
    let mut ports = Map::new();
    for mut port in array(documents(&text).pop()) {
        let name = port["ifname"].as_str().unwrap_or_default().to_owned();
        strip(&mut port, &PASSING);
        strip(&mut port, &PASSING_OF_PORTS);
        let object = port.as_object_mut().unwrap();
        object.remove("flags");
        ports.insert(name, port);
    }
    ports.into()
}

/// Qdiscs, classes and filters as lines; their numbers where the kernel gave
/// them are left out.
fn traffic_control(devices: &[String]) -> Value {
    let mut commands = String::from("qdisc show\n");
    for device in devices {
        commands.push_str(&format!("class show dev {device}\n"));
    }
    let mut lines: Vec<String> = feed("tc", &["-d", "-batch", "-"], &commands)
        .lines()
        .map(str::to_owned)
        .collect();
    let shown = lines.join("\n");
    for device in devices {
        if shown.contains(&format!(" dev {device} ")) && !is_plain(&shown, device) {
            for place in ["root", "ingress"] {
                let arguments = ["-d", "filter", "show", "dev", device, place];
                let filters = feed("tc", &arguments, "");
                lines.extend(
                    filters
                        .lines()
                        .map(|line| format!("{device} {place}: {line}")),
                );
            }
        }
    }
    lines
        .into_iter()
        .filter(|line| !line.trim().is_empty())
        .map(|line| Value::from(without_numbers(&line)))
        .collect::<Vec<_>>()
        .into()
}

/// Whether a device has no queueing of its own: then it has no filters.
fn is_plain(shown: &str, device: &str) -> bool {
    let of_device = format!(" dev {device} ");
    let mut of_it = shown.lines().filter(|line| line.contains(&of_device));
    of_it.all(|line| line.starts_with("qdisc noqueue"))
}

fn without_numbers(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let (major, minor) = word.split_once(':').unwrap_or(("", ""));
        let automatic = major.len() == 4 && major.starts_with('8');
        match automatic && major.chars().all(|c| c.is_ascii_hexdigit()) {
            true => format!("(auto):{minor}"),
            false => word.to_owned(),
        }
    });
    let mut words: Vec<String> = words.collect();
    for count in ["refcnt", "index"] {
        if let Some(at) = words.iter().position(|word| word == count) {
            words.drain(at..(at + 2).min(words.len()));
        }
    }
    words.join(" ")
}

/// Every sysctl of the network.
fn sysctls() -> Value {
    fn walk(folder: &Path) -> Map<String, Value> {
        let mut values = Map::new();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if is_passing_sysctl(path.to_str().unwrap()) {
                continue;
            }
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                values.insert(name, walk(&path).into());
            } else if let Ok(value) = std::fs::read_to_string(&path) {
                values.insert(name, value.trim().into());
            }
        }
        values
    }
    let mut values = Map::new();
    for family in ["core", "ipv4", "ipv6", "bridge"] {
        let tree = walk(&Path::new("/proc/sys/net").join(family));
        values.insert(family.to_owned(), tree.into());
    }
    values.into()
}

/// The files that plugins keep, with what is in them.
pub(crate) fn files() -> Value {
    fn walk(folder: &Path, found: &mut BTreeMap<String, Value>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                let text = std::fs::read(&path).unwrap_or_default();
                let name = path.to_str().unwrap().to_owned();
                let plain = || Value::from(String::from_utf8_lossy(&text));
                // How JSON is set out does not matter.
                let json = serde_json::from_slice(&text).ok().filter(Value::is_object);
                found.insert(name, json.unwrap_or_else(plain));
            }
        }
    }
    let mut found = BTreeMap::new();
    for folder in FILES {
        walk(Path::new(folder), &mut found);
    }
    json!(found)
}

fn strip(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(object) => {
            object.retain(|key, _| !keys.contains(&key.as_str()));
            object.values_mut().for_each(|value| strip(value, keys));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| strip(value, keys)),
        _ => {}
    }
}

/// The JSON documents that a batch wrote, one after the other.
fn documents(text: &str) -> Vec<Value> {
    serde_json::Deserializer::from_str(text)
        .into_iter::<Value>()
        .map(|document| document.unwrap_or_else(|e| panic!("{e}: {text}")))
        .collect()
}

fn array(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(values)) => values,
        _ => Vec::new(),
    }
}
