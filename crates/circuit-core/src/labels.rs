//! What a container's labels ask for. A label that cannot be read spoils only
//! what it speaks of.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// The default key of the label that names the networks; also the key of the
/// extension on containerd's container record.
pub const NETWORK_LABEL: &str = "io.circuit.network";
/// The label that publishes ports.
pub const PORTS_LABEL: &str = "io.circuit.ports";
/// The label that has a container find a server for names, or not.
pub const DNS_LABEL: &str = "io.circuit.dns";
/// The label with the restart policy.
pub const RESTART_LABEL: &str = "io.circuit.restart";
/// The label with the address of the restarted task's output.
pub const RESTART_LOG_LABEL: &str = "io.circuit.restart.log";
/// The label by which containerd's clients say, as `true`, that somebody stopped a
/// container: `nerdctl stop` and `kill` do, `nerdctl start` takes it back.
pub const CONTAINERD_STOPPED_LABEL: &str = "containerd.io/restart.explicitly-stopped";
/// The label by which containerd's clients say with which signal a container wants to be
/// ended, by name or number: `ctr` and nerdctl take it from the image.
pub const STOP_SIGNAL_LABEL: &str = "io.containerd.image.config.stop-signal";
/// The label with the name that people gave a container by nerdctl.
pub const NERDCTL_NAME_LABEL: &str = "nerdctl/name";
/// The label of containerd's own restart monitor.
pub const CONTAINERD_RESTART_LABEL: &str = "containerd.io/restart.status";

/// What the labels of one network end with.
const WISHES: [&str; 5] = ["aliases", "gw-priority", "interface", "ip", "mac"];

/// A network that a container should be on, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredNetwork {
    /// The network's name.
    pub network: String,
    /// Fixed addresses, as written (with or without prefix length).
    pub ips: Vec<String>,
    /// A fixed hardware address.
    pub mac: Option<String>,
    /// Further names.
    pub aliases: Vec<String>,
    /// The interface's name.
    pub interface: Option<String>,
}

impl DesiredNetwork {
    /// A network without wishes.
    pub fn named(network: impl Into<String>) -> Self {
        Self {
            network: network.into(),
            ..Self::default()
        }
    }
}

/// A host port that leads to a container's port, as the capability
/// `portMappings` has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// Listen on this address only.
    pub host_ip: Option<IpAddr>,
    /// 1 to 65535.
    pub host_port: u16,
    /// 1 to 65535.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
}

impl fmt::Display for PortMapping {
    /// The form that [`parse_ports`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(ip) => write!(f, "{ip}:")?,
            None => {}
        }
        let Self {
            host_port,
            container_port,
            protocol,
            ..
        } = self;
        write!(f, "{host_port}:{container_port}/{protocol}")
    }
}

impl PortMapping {
    /// Reads the form of the CNI conventions.
    pub fn from_json(value: &Value) -> Option<Self> {
        let port = |key: &str| u16::try_from(value.get(key)?.as_u64()?).ok();
        let protocol = value.get("protocol").and_then(Value::as_str);
        let host_ip = value.get("hostIP").and_then(Value::as_str);
        Some(Self {
            host_ip: host_ip.and_then(|ip| ip.parse().ok()),
            host_port: port("hostPort")?,
            container_port: port("containerPort")?,
            protocol: protocol_named(protocol.unwrap_or("tcp"))?,
        })
    }

    /// The form of the CNI conventions.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("hostPort".into(), json!(self.host_port));
        map.insert("containerPort".into(), json!(self.container_port));
        map.insert("protocol".into(), json!(self.protocol));
        if let Some(ip) = self.host_ip {
            map.insert("hostIP".into(), json!(ip.to_string()));
        }
        Value::Object(map)
    }
}

/// Something a label asks for that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelProblem {
    /// The network it concerns; empty when none.
    pub network: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// What a container's labels ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Networks, in order: the first gives the default route.
    pub networks: Vec<DesiredNetwork>,
    /// Which networks' default routes come first, by network: the highest
    /// number does, networks without one have 0.
    pub gw_priorities: HashMap<String, i32>,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// Whether the container is to find a server for names; its networks say so
    /// when it does not.
    pub dns: Option<bool>,
    /// What people call the container, where its id is not for people: nerdctl says so.
    /// It is a further name on each of its networks.
    pub name: Option<String>,
    /// What could not be read.
    pub problems: Vec<LabelProblem>,
}

impl Labels {
    /// Reads a container's labels; `key` is the network label's key.
    pub fn read(labels: &HashMap<String, String>, key: &str) -> Self {
        let mut read = Self {
            name: labels.get(NERDCTL_NAME_LABEL).cloned(),
            ..Self::default()
        };
        read.read_priorities(labels, key);
        read.read_dns(labels);
        let Some(list) = labels.get(key) else {
            if labels.contains_key(PORTS_LABEL) {
                read.problem(
                    "",
                    format!("label {PORTS_LABEL} needs a network: add label {key}"),
                );
            }
            return read;
        };
        for name in list
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            if read.networks.iter().any(|n| n.network == name) {
                read.problem(name, format!("label {key} names network {name} twice"));
                continue;
            }
            match desired(labels, key, name) {
                Ok(network) => read.networks.push(network),
                Err(error) => read.problem(name, error.message().to_owned()),
            }
        }
        if read.networks.is_empty() && list.trim_matches([',', ' ']).is_empty() {
            read.problem(
                "",
                format!("label {key} names no network: write a network's name"),
            );
        }
        read.read_interfaces();
        read.find_unknown(labels, key);
        if let Some(ports) = labels.get(PORTS_LABEL) {
            match parse_ports(ports) {
                Ok(ports) => read.ports = ports,
                Err(error) => read.problem(
                    "",
                    error
                        .context(format!("label {PORTS_LABEL}"))
                        .message()
                        .to_owned(),
                ),
            }
        }
        read
    }

    /// Also for networks that are joined by hand.
    fn read_priorities(&mut self, labels: &HashMap<String, String>, key: &str) {
        for (label, value) in labels {
            let named = label
                .strip_prefix(key)
                .and_then(|rest| rest.strip_prefix('.'))
                .and_then(|rest| rest.strip_suffix(".gw-priority"));
            let Some(network) = named.filter(|network| !network.is_empty()) else {
                continue;
            };
            match value.trim().parse() {
                Ok(priority) => {
                    self.gw_priorities.insert(network.to_owned(), priority);
                }
                Err(_) => self.problem(
                    network,
                    format!("label {label}: {value:?} is no whole number: write one like 10"),
                ),
            }
        }
    }

    /// Also for networks that are joined by hand.
    fn read_dns(&mut self, labels: &HashMap<String, String>) {
        match labels.get(DNS_LABEL).map(|value| value.trim()) {
            None => {}
            Some("true") => self.dns = Some(true),
            Some("false") => self.dns = Some(false),
            Some(other) => self.problem(
                "",
                format!("label {DNS_LABEL}: {other:?} is neither true nor false"),
            ),
        }
    }

    /// A wish that nobody reads, such as a misspelt one, is told. A network's name may
    /// have dots: what one network does not explain, another may.
    fn find_unknown(&mut self, labels: &HashMap<String, String>, key: &str) {
        let names: Vec<&str> = self.networks.iter().map(|it| it.network.as_str()).collect();
        let wish = |label: &str, network: &str| {
            let rest = label.strip_prefix(key)?.strip_prefix('.')?;
            let wish = rest.strip_prefix(network)?.strip_prefix('.')?;
            Some(WISHES.contains(&wish))
        };
        let of_a_network = |label: &&String| names.iter().any(|it| wish(label, it).is_some());
        let explained = |label: &&String| names.iter().any(|it| wish(label, it) == Some(true));
        let labels = labels.keys().filter(of_a_network);
        let mut unknown: Vec<&str> = labels
            .filter(|label| !explained(label))
            .map(String::as_str)
            .collect();
        if unknown.is_empty() {
            return;
        }
        unknown.sort_unstable();
        let known = WISHES.join(", ");
        let message = format!(
            "not known: label {}; those of a network end with {known}",
            unknown.join(", ")
        );
        self.problem("", message);
    }

    fn problem(&mut self, network: &str, message: String) {
        self.problems.push(LabelProblem {
            network: network.to_owned(),
            message,
        });
    }

    /// Two networks cannot share an interface's name: the second loses it.
    fn read_interfaces(&mut self) {
        let mut seen: Vec<String> = Vec::new();
        let mut clashes = Vec::new();
        self.networks.retain(|network| {
            let Some(interface) = &network.interface else {
                return true;
            };
            if seen.contains(interface) {
                clashes.push((network.network.clone(), interface.clone()));
                return false;
            }
            seen.push(interface.clone());
            true
        });
        for (network, interface) in clashes {
            let message =
                format!("interface {interface} is asked for twice: give network {network} another");
            self.problem(&network, message);
        }
    }
}

fn desired(labels: &HashMap<String, String>, key: &str, name: &str) -> Result<DesiredNetwork> {
    let label = |what: &str| {
        let key = format!("{key}.{name}.{what}");
        labels.get(&key).map(|value| (key, value.trim()))
    };
    let mut network = DesiredNetwork::named(name);
    if let Some((key, value)) = label("ip") {
        network.ips = parse_ips(value).map_err(|e| e.context(format!("label {key}")))?;
    }
    if let Some((key, value)) = label("mac") {
        network.mac = Some(parse_mac(value).map_err(|e| e.context(format!("label {key}")))?);
    }
    if let Some((_, value)) = label("aliases") {
        network.aliases = split(value).map(str::to_owned).collect();
    }
    if let Some((key, value)) = label("interface") {
        check_interface(value).map_err(|e| e.context(format!("label {key}")))?;
        network.interface = Some(value.to_owned());
    }
    Ok(network)
}

fn split(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

pub(crate) fn parse_ips(value: &str) -> Result<Vec<String>> {
    let ips: Vec<String> = split(value).map(str::to_owned).collect();
    for ip in &ips {
        if ip.parse::<IpAddr>().is_err() && ip.parse::<IpNet>().is_err() {
            return Err(Error::invalid(format!(
                "{ip:?} is no address: write one like 10.88.0.7 or fd00::7"
            )));
        }
    }
    if ips.is_empty() {
        return Err(Error::invalid(
            "no address is given: write one like 10.88.0.7",
        ));
    }
    Ok(ips)
}

pub(crate) fn parse_mac(value: &str) -> Result<String> {
    let wrong = || {
        Error::invalid(format!(
            "{value:?} is no hardware address: write one like 02:42:0a:58:00:07"
        ))
    };
    let parts: Vec<&str> = value.split(':').collect();
    if parts.len() != 6 {
        return Err(wrong());
    }
    let mut bytes = [0_u8; 6];
    for (byte, part) in bytes.iter_mut().zip(parts) {
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if bytes[0] & 1 == 1 {
        return Err(Error::invalid(format!(
            "{value:?} is a group address: clear the lowest bit of its first byte"
        )));
    }
    Ok(value.to_ascii_lowercase())
}

/// Checks an interface's name by the kernel's rules.
///
/// # Errors
/// `InvalidArgument` that names the rule.
pub fn check_interface(name: &str) -> Result<()> {
    let fine = !name.is_empty()
        && name.len() <= 15
        && name != "."
        && name != ".."
        && !name
            .bytes()
            .any(|b| b.is_ascii_whitespace() || b.is_ascii_control() || b == b'/' || b == b':')
        && name.is_ascii();
    if !fine {
        return Err(Error::invalid(format!(
            "{name:?} is no interface name: 1 to 15 characters without spaces, '/' and ':'"
        )));
    }
    if name == "lo" {
        return Err(Error::invalid(
            "the interface name lo is taken: choose another",
        ));
    }
    Ok(())
}

/// So many ports are published by one container at most: calls by the internet have
/// ranges of ten thousand, and whoever writes labels must not have the daemon busy.
pub const MOST_PORTS: usize = 16_384;

/// Reads `[ADDRESS:]HOST:CONTAINER[/PROTOCOL]`, several separated by commas;
/// HOST and CONTAINER may be ranges of the same length.
///
/// # Errors
/// `InvalidArgument` that names the part and the form; also for more than
/// [`MOST_PORTS`], and for addresses of the loopback other than 127.0.0.1 and `::1`.
pub fn parse_ports(value: &str) -> Result<Vec<PortMapping>> {
    let mut all: Vec<PortMapping> = Vec::new();
    let mut taken: HashMap<(u16, &str), HashSet<Option<IpAddr>>> = HashMap::new();
    for part in split(value) {
        let mappings = parse_port(part)?;
        if all.len() + mappings.len() > MOST_PORTS {
            return Err(Error::invalid(format!(
                "it has more than {MOST_PORTS} ports: publish fewer"
            )));
        }
        for mapping in mappings {
            let host = (mapping.host_port, mapping.protocol);
            let hosts: &mut HashSet<Option<IpAddr>> = taken.entry(host).or_default();
            // One without an address has the port at all of them.
            let all_of_them = hosts.contains(&None) || mapping.host_ip.is_none();
            let twice = all_of_them && !hosts.is_empty() || !hosts.insert(mapping.host_ip);
            if twice {
                return Err(Error::invalid(format!(
                    "host port {}/{} is given twice",
                    mapping.host_port, mapping.protocol
                )));
            }
            all.push(mapping);
        }
    }
    Ok(all)
}

fn parse_port(part: &str) -> Result<Vec<PortMapping>> {
    let wrong = |why: &str| {
        Error::invalid(format!(
            "{part:?} {why}: write [ADDRESS:]HOSTPORT:CONTAINERPORT[/tcp|udp|sctp]"
        ))
    };
    let (ports, protocol) = part.rsplit_once('/').unwrap_or((part, "tcp"));
    let protocol = protocol_named(protocol).ok_or_else(|| wrong("has an unknown protocol"))?;
    let (rest, container) = ports
        .rsplit_once(':')
        .ok_or_else(|| wrong("has no container port"))?;
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => (Some(address), host),
        None => (None, rest),
    };
    let host_ip = address.map(|it| host_address(part, it)).transpose()?;
    let (first_host, last_host) = range(host).ok_or_else(|| wrong("has no valid host port"))?;
    let (first, last) = range(container).ok_or_else(|| wrong("has no valid container port"))?;
    if last_host - first_host != last - first {
        return Err(wrong("has ranges of different lengths"));
    }
    Ok((first_host..=last_host)
        .zip(first..=last)
        .map(|(host_port, container_port)| PortMapping {
            host_ip,
            host_port,
            container_port,
            protocol,
        })
        .collect())
}

/// Programs of the host have the other loopback addresses for themselves: who publishes
/// at 127.0.0.53 would answer the host's questions to systemd-resolved.
fn host_address(part: &str, text: &str) -> Result<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let ip = bare.unwrap_or(text).parse::<IpAddr>();
    let wrong = |_| Error::invalid(format!("{part:?}: write its address like 10.0.0.5"));
    let ip = ip.map_err(wrong)?;
    match ip.to_canonical() {
        IpAddr::V4(v4) if v4.is_loopback() && v4 != Ipv4Addr::LOCALHOST => {
            Err(Error::invalid(format!(
                "{part:?} is at an address for programs of the host: publish at 127.0.0.1, or \
                 at an address by which others reach the host"
            )))
        }
        // Packets from there cannot leave the host, nor so get to a container.
        IpAddr::V6(v6) if v6.is_loopback() => Err(Error::invalid(format!(
            "{part:?} is at an address from which nothing reaches a container: publish at \
             127.0.0.1, or at an address by which others reach the host"
        ))),
        _ => Ok(ip),
    }
}

fn protocol_named(name: &str) -> Option<&'static str> {
    let known = ["tcp", "udp", "sctp"];
    known
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(name))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match text.split_once('-') {
        None => port(text).map(|p| (p, p)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some((first, last))
        }
    }
}
