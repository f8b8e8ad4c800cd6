//! The zone as a list, for people.

use std::net::IpAddr;

use circuit_core::service::NameRecord;
use circuit_core::zone::{Scope, label};

use super::Dns;

impl Dns {
    /// Every name that leads to an address or a port, sorted.
    pub(super) fn rows(&self) -> Vec<NameRecord> {
        let (maps, networks) = (self.sources.maps(), self.sources.networks());
        let zone = self.zone(&networks, &maps, Scope::All);
        let mut rows = Vec::new();
        for record in maps.iter().flat_map(|map| map.records()) {
            for attached in &record.attached {
                let own = zone.name_of(record, attached);
                let rest = own.split_once('.').map_or("", |(_, rest)| rest);
                let aliases = attached.aliases.iter();
                let aliases = aliases.map(|alias| format!("{}.{rest}", label(alias)));
                let row = |name: &str, kind: &str, data| NameRecord {
                    name: name.to_owned(),
                    kind: kind.to_owned(),
                    data,
                    ttl: 0,
                    node: record.node.to_string(),
                };
                for name in [own.clone()].into_iter().chain(aliases) {
                    for ip in &attached.ips {
                        let kind = match ip {
                            IpAddr::V4(_) => "A",
                            IpAddr::V6(_) => "AAAA",
                        };
                        rows.push(row(&name, kind, ip.to_string()));
                    }
                    for port in &attached.ports {
                        let name = format!("_{}._{}.{name}", port.container, port.protocol.name());
                        rows.push(row(&name, "SRV", format!("{} {own}", port.container)));
                    }
                }
            }
        }
        rows.sort();
        rows.dedup();
        rows
    }

    /// The nodes whose containers are the answer to a question about a name.
    pub(super) fn nodes_of(&self, name: &str) -> Vec<String> {
        let (maps, networks) = (self.sources.maps(), self.sources.networks());
        let zone = self.zone(&networks, &maps, Scope::All);
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&str> = name.split('.').collect();
        let nodes = zone.nodes_of(&labels).into_iter();
        nodes.map(|node| node.to_string()).collect()
    }
}
