//! What is random gets a name for what it is, so that worlds can be compared:
//! the host's end of a container's veth pair, hardware addresses, and the
//! link-local addresses that are made of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::snapshot::HOST;

/// The names of what is random in one world, learned from its links.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Random names of links.
    links: BTreeMap<String, String>,
    /// Hardware addresses and whose they are.
    addresses: BTreeMap<String, String>,
    /// Hardware addresses of ports of bridges.
    of_ports: BTreeSet<String>,
    /// Names of bridges, and the last address of each.
    bridges: BTreeMap<String, String>,
    /// What a configuration says is not random.
    given: String,
}

impl Names {
    /// Hardware addresses that are written in `given` are left as they are.
    pub(crate) fn new(given: String) -> Self {
        Self {
            given: given.to_lowercase(),
            ..Self::default()
        }
    }

    /// Learns from the links of all namespaces.
    pub(crate) fn learn(&mut self, namespaces: &[(String, Vec<Value>)]) {
        let host = &namespaces.iter().find(|(name, _)| name == HOST).unwrap().1;
        for (namespace, links) in namespaces.iter().filter(|(name, _)| name != HOST) {
            for link in links.iter().filter(|link| is_veth(link)) {
                let peer = &link["link_index"];
                let peer = host.iter().find(|l| is_veth(l) && l["ifindex"] == *peer);
                if let Some(peer) = peer {
                    self.name(text(peer, "ifname"), namespace, text(link, "ifname"));
                }
            }
        }
        for link in host.iter().filter(|link| is_veth(link)) {
            let (name, peer) = (text(link, "ifname"), text(link, "link"));
            if is_random(name) && !peer.is_empty() {
                self.name(name, HOST, peer);
            }
        }
        for (namespace, links) in namespaces {
            for link in links {
                self.learn_address(namespace, link);
            }
        }
    }

    fn name(&mut self, random: &str, namespace: &str, peer: &str) {
        if is_random(random) {
            let name = format!("(peer of {namespace} {peer})");
            self.links.insert(random.to_owned(), name);
        }
    }

    fn learn_address(&mut self, namespace: &str, link: &Value) {
        let address = text(link, "address");
        if address.len() != 17 || address == "00:00:00:00:00:00" {
            return;
        }
        let link_name = text(link, "ifname");
        if text(&link["linkinfo"], "info_kind") == "bridge" {
            self.bridges
                .insert(link_name.to_owned(), address.to_owned());
        }
        if link["master"].is_string() {
            self.of_ports.insert(address.to_owned());
        }
        let is_bridge = self.bridges.contains_key(link_name) && namespace == HOST;
        if !(self.given.contains(address) || is_bridge && self.of_ports.contains(address)) {
            let owner = self.links.get(link_name).map_or(link_name, String::as_str);
            let owner = format!("(mac of {namespace} {owner})");
            self.addresses.insert(address.to_owned(), owner);
        }
    }

    /// Whether a bridge has the address of a port: of which one is chance.
    pub(crate) fn borrows_address(&self, namespace: &str, link: &str) -> bool {
        let address = self.bridges.get(link);
        namespace == HOST && address.is_some_and(|address| self.of_ports.contains(address))
    }

    /// Replaces what is random, and sorts what has no order.
    pub(crate) fn normal(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.words(text).into(),
            Value::Array(values) => {
                let mut values: Vec<Value> = values.iter().map(|v| self.normal(v)).collect();
                if values.iter().all(Value::is_object) && !values.iter().any(is_answer) {
                    values.sort_by_key(Value::to_string);
                }
                values.into()
            }
            Value::Object(object) => {
                let mut object = object.clone();
                self.borrowed(&mut object);
                object
                    .iter()
                    .map(|(key, value)| (self.words(key), self.normal(value)))
                    .collect::<BTreeMap<_, _>>()
                    .into_iter()
                    .collect::<Map<_, _>>()
                    .into()
            }
            other => other.clone(),
        }
    }

    /// An interface of a result that is a bridge with the address of a port.
    fn borrowed(&self, interface: &mut Map<String, Value>) {
        let text = |key: &str| interface.get(key).and_then(Value::as_str);
        let (Some(name), Some(mac)) = (text("name"), text("mac")) else {
            return;
        };
        if text("sandbox").unwrap_or_default().is_empty()
            && self.bridges.contains_key(name)
            && self.of_ports.contains(mac)
        {
            interface.insert("mac".to_owned(), "(that of a port)".into());
        }
    }

    fn words(&self, text: &str) -> String {
        // Most of what there is are numbers.
        if !text.contains(':') && !text.contains("veth") {
            return text.to_owned();
        }
        let mut normal = String::new();
        let mut word = String::new();
        for character in text.chars().chain(['\0']) {
            if character.is_ascii_alphanumeric() || ":.-_".contains(character) {
                word.push(character);
                continue;
            }
            if !word.is_empty() {
                normal.push_str(&self.word(&word));
                word.clear();
            }
            if character != '\0' {
                normal.push(character);
            }
        }
        normal
    }

    fn word(&self, word: &str) -> String {
        let known = self.links.get(word).or_else(|| self.addresses.get(word));
        match known {
            Some(name) => name.clone(),
            None if is_made_of_mac(word) => "(link-local)".to_owned(),
            None if is_random(word) => "(some veth)".to_owned(),
            None if is_random_mac(word) && !self.given.contains(&word.to_lowercase()) => {
                "(some mac)".to_owned()
            }
            None => word.to_owned(),
        }
    }
}

/// An element of something whose order is its meaning.
fn is_answer(value: &Value) -> bool {
    ["plugin", "address", "name", "dst"]
        .iter()
        .any(|key| value.get(key).is_some())
        && value.get("dev").is_none()
        && value.get("protocol").is_none()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn is_veth(link: &Value) -> bool {
    text(&link["linkinfo"], "info_kind") == "veth"
}

/// Whether a link has a name of the kind that plugins make up.
fn is_random(name: &str) -> bool {
    name.strip_prefix("veth")
        .is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether this is a unicast address that nobody was given by its maker.
fn is_random_mac(word: &str) -> bool {
    let bytes: Vec<&str> = word.split(':').collect();
    bytes.len() == 6
        && bytes.iter().all(|byte| byte.len() == 2)
        && u8::from_str_radix(bytes[0], 16).is_ok_and(|first| first & 3 == 2)
}

/// Whether this is a link-local address made of a hardware address.
fn is_made_of_mac(word: &str) -> bool {
    word.parse::<std::net::Ipv6Addr>().is_ok_and(|address| {
        let bytes = address.octets();
        bytes[..2] == [0xfe, 0x80] && bytes[11..13] == [0xff, 0xfe]
    })
}
