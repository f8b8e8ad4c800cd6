//! What attachments leave in a node: interfaces, leases, pinned namespaces,
//! firewall chains, records.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, DirEntry},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    command::{PATIENCE, wait_for},
    node::TestNode,
};

/// The folder of records of attachments inside a node.
pub(crate) const STATE_DIR: &str = "/var/lib/circuit/state";
/// The folder of sockets and pins inside a node.
pub(crate) const RUN_DIR: &str = "/run/circuit";

/// What attachments hold in a node at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Host ends of containers' interfaces.
    pub interfaces: Vec<String>,
    /// `network/address` of host-local.
    pub leases: Vec<String>,
    /// Pinned network namespaces.
    pub pins: Vec<String>,
    /// Chains and rules that belong to one attachment.
    pub chains: Vec<String>,
    /// Containers whose record on disk names an attachment, with the networks.
    pub records: Vec<String>,
}

impl Leftovers {
    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            interfaces,
            leases,
            pins,
            chains,
            records,
        } = self;
        writeln!(f, "interfaces: {interfaces:?}")?;
        writeln!(f, "leases: {leases:?}")?;
        writeln!(f, "pins: {pins:?}")?;
        writeln!(f, "chains: {chains:#?}")?;
        writeln!(f, "records: {records:?}")
    }
}

fn entries(folder: &Path) -> Vec<DirEntry> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    all.sort_by_key(DirEntry::file_name);
    all
}

fn name(entry: &DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

/// The files under a folder, at any depth.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in entries(folder) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(files(&entry.path()));
        } else {
            all.push(entry.path());
        }
    }
    all
}

impl TestNode {
    /// `network/address` for each lease of host-local.
    pub fn leases(&self) -> Vec<String> {
        let mut all = Vec::new();
        for network in entries(&self.path("/var/lib/cni/networks")) {
            for lease in entries(&network.path()) {
                // Beside leases there are `lock` and `last_reserved_ip.0`.
                if name(&lease).parse::<std::net::IpAddr>().is_ok() {
                    all.push(format!("{}/{}", name(&network), name(&lease)));
                }
            }
        }
        all
    }

    /// The pinned network namespaces.
    pub fn pins(&self) -> Vec<String> {
        let root = self.path(&format!("{RUN_DIR}/netns"));
        let inside = |path: &PathBuf| path.strip_prefix(&root).unwrap_or(path).to_path_buf();
        files(&root)
            .iter()
            .map(|path| inside(path).to_string_lossy().into_owned())
            .collect()
    }

    /// Host ends of containers' interfaces.
    pub fn veths(&self) -> Vec<String> {
        let text = self.run("ip", &["-j", "link", "show", "type", "veth"]).ok();
        let links: Value = serde_json::from_str(&text).unwrap_or_default();
        let names = links
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|l| l["ifname"].as_str());
        names
            .filter(|name| !["up0", "lan0"].contains(name))
            .map(str::to_owned)
            .collect()
    }

    /// Firewall chains and rules that belong to one attachment; the plugins'
    /// static chains are meant to stay.
    pub fn chains(&self) -> Vec<String> {
        let mut chains: Vec<String> = self
            .firewall()
            .lines()
            .filter(|line| is_of_attachment(line))
            .map(str::to_owned)
            .collect();
        chains.extend(self.native_rules());
        chains
    }

    /// What the native drivers have in their table for networks in use and for
    /// published ports.
    pub fn native_rules(&self) -> Vec<String> {
        let table = self.native_table();
        let mut rules: Vec<String> = table
            .iter()
            .filter_map(|entry| entry["rule"]["comment"].as_str())
            .filter(|comment| comment.starts_with("network "))
            .map(|comment| format!("masquerade of {comment}"))
            .collect();
        rules.extend(mappings(&table));
        rules
    }

    fn native_table(&self) -> Vec<Value> {
        let listed = self.run("nft", &["-j", "list", "table", "inet", "circuit"]);
        // Without attachments there may be no such table.
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
        listed["nftables"].as_array().cloned().unwrap_or_default()
    }

    /// Published ports, whoever published them: `udp 5353 -> 10.1.0.2:53`.
    pub fn publications(&self) -> Vec<String> {
        let firewall = self.firewall();
        let by_executables = firewall.lines().filter_map(|line| {
            let after = |word: &str| line.split_once(word)?.1.split(' ').next();
            let (protocol, port) = (after("-p ")?, after("--dport ")?);
            let to = after("--to-destination ")?;
            Some(format!("{protocol} {port} -> {to}"))
        });
        let mut all: Vec<String> = by_executables.collect();
        all.extend(mappings(&self.native_table()));
        all
    }

    /// Every iptables rule of IPv4 and IPv6, as `iptables-save` prints them.
    pub fn firewall(&self) -> String {
        let save = |program: &str| self.run(program, &[]).ok();
        save("iptables-save") + &save("ip6tables-save")
    }

    /// What the daemon's journal says last of each container.
    fn journal(&self) -> BTreeMap<String, Value> {
        let mut records = BTreeMap::new();
        let journals = files(&self.path(STATE_DIR));
        let is_journal = |file: &&PathBuf| file.extension().is_some_and(|e| e == "journal");
        for file in journals.iter().filter(is_journal) {
            let bytes = fs::read(file).unwrap_or_default();
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            // A checksum and a space come before the JSON.
            let lines = text.split(|byte| *byte == b'\n').skip(1);
            for line in lines.filter_map(|line| line.get(9..)) {
                if let Ok(record) = serde_json::from_slice::<Value>(line) {
                    let container = record["container"].as_str().unwrap_or_default();
                    records.insert(container.to_owned(), record);
                }
            }
        }
        records.retain(|_, record| !is_forgotten(record));
        records
    }

    /// Containers whose record on disk names an attachment, with the networks.
    pub fn records(&self) -> Vec<String> {
        let mut all = Vec::new();
        for record in self.journal().values() {
            for attachment in record["attachments"].as_array().into_iter().flatten() {
                all.push(format!("{}/{}", record["container"], attachment["network"]));
            }
        }
        all
    }

    /// How many attachments on record were made by executables.
    pub fn executed(&self) -> usize {
        let by_driver = |attachment: &&Value| {
            let natives = attachment["natives"].as_array();
            natives.is_some_and(|natives| !natives.is_empty())
        };
        let records = self.journal();
        let attachments = records
            .values()
            .filter_map(|record| record["attachments"].as_array());
        attachments.flatten().filter(|a| !by_driver(a)).count()
    }

    /// What is remembered about a container on disk, if anything.
    pub fn record(&self, container: &str) -> Option<Value> {
        self.journal().remove(container)
    }

    /// Everything that attachments hold now.
    pub fn leftovers(&self) -> Leftovers {
        Leftovers {
            interfaces: self.veths(),
            leases: self.leases(),
            pins: self.pins(),
            chains: self.chains(),
            records: self.records(),
        }
    }

    /// Fails when attachments still hold anything after a while.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let mut last = Leftovers::default();
        let start = std::time::Instant::now();
        wait_for("nothing is left behind", PATIENCE * 2, || {
            last = self.leftovers();
            let late = start.elapsed() > PATIENCE;
            assert!(!late || last.is_empty(), "left behind:\n{last}");
            last.is_empty().then_some(())
        });
    }
}

/// A record with nothing in it is the last word about a container.
fn is_forgotten(record: &Value) -> bool {
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    record.as_object().is_some_and(|record| {
        record
            .iter()
            .all(|(key, value)| key == "container" || empty(value))
    })
}

/// The port mappings among what `nft -j list table` prints.
fn mappings(table: &[Value]) -> Vec<String> {
    let maps = table.iter().filter_map(|entry| entry.get("map"));
    let of_ports = |map: &&Value| {
        let name = map["name"].as_str().unwrap_or_default();
        name.trim_start_matches("host_").starts_with("ports")
    };
    let elements = maps
        .filter(of_ports)
        .filter_map(|map| map["elem"].as_array())
        .flatten();
    elements.filter_map(mapping).collect()
}

fn mapping(element: &Value) -> Option<String> {
    let key = element.get(0)?;
    let key = key.get("elem").map_or(key, |elem| &elem["val"]);
    let from = key["concat"].as_array()?;
    let to = element.get(1)?["concat"].as_array()?;
    let [.., protocol, port] = from.as_slice() else {
        return None;
    };
    let (protocol, ip) = (protocol.as_str()?, to.first()?.as_str()?);
    Some(format!("{protocol} {port} -> {ip}:{}", to.get(1)?))
}

/// The CNI plugins name a chain of one attachment `CNI-` and a hash, a chain of
/// its ports `CNI-DN-`, `CNI-SN-` and a hash; the firewall plugin's rules name
/// its address.
fn is_of_attachment(line: &str) -> bool {
    let hash = |text: &str| text.len() >= 16 && text.chars().all(|c| c.is_ascii_hexdigit());
    let hashed = line
        .split(|c: char| c.is_whitespace() || c == '"')
        .any(|word| {
            let word = word.trim_start_matches(':');
            word.strip_prefix("CNI-").is_some_and(|rest| {
                let rest = rest
                    .strip_prefix("DN-")
                    .or(rest.strip_prefix("SN-"))
                    .unwrap_or(rest);
                hash(rest)
            })
        });
    hashed || line.starts_with("-A CNI-FORWARD -d") || line.starts_with("-A CNI-FORWARD -s")
}

#[cfg(test)]
mod tests {
    use super::is_of_attachment;

    #[test]
    fn static_chains_may_stay() {
        for line in [
            ":CNI-HOSTPORT-DNAT - [0:0]",
            ":CNI-HOSTPORT-MASQ - [0:0]",
            "-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
            "-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE",
            ":CNI-FORWARD - [0:0]",
            "-A CNI-FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-ADMIN",
        ] {
            assert!(!is_of_attachment(line), "{line}");
        }
    }

    #[test]
    fn chains_of_attachments_are_found() {
        for line in [
            ":CNI-0123456789abcdef01234567 - [0:0]",
            ":CNI-DN-0123456789abcdef01234 - [0:0]",
            "-A POSTROUTING -s 10.1.0.2/32 -j CNI-0123456789abcdef01234567",
            "-A CNI-FORWARD -d 10.1.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ] {
            assert!(is_of_attachment(line), "{line}");
        }
    }
}
