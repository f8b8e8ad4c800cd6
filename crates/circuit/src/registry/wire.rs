//! What nodes say of themselves and of their containers, as bytes.

use std::net::IpAddr;
use std::sync::Arc;

use circuit_core::fleet::{Attached, Fleet, NodeWord, Port, Protocol, Record};
use circuit_core::service::NodeInfo;
use prost::Message;

/// A node about itself.
#[derive(Clone, PartialEq, Message)]
struct Word {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(int64, tag = "2")]
    cpus: i64,
    #[prost(uint64, tag = "3")]
    memory: u64,
    #[prost(uint64, tag = "4")]
    uptime: u64,
    #[prost(string, tag = "5")]
    kernel: String,
    #[prost(uint64, tag = "6")]
    heartbeat: u64,
    #[prost(uint64, tag = "7")]
    lease: u64,
}

/// A container's networks.
#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(message, repeated, tag = "1")]
    attached: Vec<Network>,
}

#[derive(Clone, PartialEq, Message)]
struct Network {
    #[prost(string, tag = "1")]
    network: String,
    #[prost(string, tag = "2")]
    interface: String,
    /// Four or sixteen bytes each.
    #[prost(bytes = "vec", repeated, tag = "3")]
    ips: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "4")]
    mac: Vec<u8>,
    #[prost(string, repeated, tag = "5")]
    aliases: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    ports: Vec<Published>,
}

#[derive(Clone, PartialEq, Message)]
struct Published {
    #[prost(uint32, tag = "1")]
    host: u32,
    #[prost(uint32, tag = "2")]
    container: u32,
    #[prost(string, tag = "3")]
    protocol: String,
}

/// Changes of a node's containers.
#[derive(Clone, PartialEq, Message)]
struct Changes {
    #[prost(message, repeated, tag = "1")]
    puts: Vec<Put>,
    #[prost(string, repeated, tag = "2")]
    removes: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(bytes = "vec", tag = "2")]
    record: Vec<u8>,
}

/// Containers with their records.
pub(super) type Puts = Vec<(String, Vec<u8>)>;

/// What happened to a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is gone, with everything it had.
    Gone,
    /// It came, or everything it has was replaced.
    Word,
    /// Its containers changed.
    Change(Vec<u8>),
}

/// A message about a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) node: String,
    /// The revision it follows on.
    pub(super) before: u64,
    pub(super) revision: u64,
    pub(super) kind: Kind,
}

/// Reads a message; none when it is no message.
pub(super) fn told(payload: &[u8]) -> Option<Told> {
    let mut parts = payload.splitn(5, |byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let (node, before, revision, kind) = (text()?, text()?, text()?, text()?);
    let change = parts.next()?;
    Some(Told {
        node: node.to_owned(),
        before: before.parse().ok()?,
        revision: revision.parse().ok()?,
        kind: match kind {
            "gone" => Kind::Gone,
            "word" => Kind::Word,
            "change" => Kind::Change(change.to_vec()),
            _ => return None,
        },
    })
}

/// A node's word as bytes.
pub(super) fn word(info: &NodeInfo, heartbeat: u64, lease: u64) -> Vec<u8> {
    let word = Word {
        version: info.version.clone(),
        cpus: info.cpus,
        memory: info.memory,
        uptime: info.uptime,
        kernel: info.kernel_version.clone(),
        heartbeat,
        lease,
    };
    word.encode_to_vec()
}

/// Reads a node's word, said at this time of the registry's clock.
pub(super) fn read_word(node: &str, bytes: &[u8], at: u64) -> Option<NodeWord> {
    let word = Word::decode(bytes).ok()?;
    Some(NodeWord {
        info: NodeInfo {
            name: node.to_owned(),
            version: word.version,
            cpus: word.cpus,
            memory: word.memory,
            uptime: word.uptime,
            kernel_version: word.kernel,
        },
        at,
        heartbeat: word.heartbeat,
        lease: word.lease,
    })
}

/// A container's record as bytes.
pub(super) fn container(attached: &[Attached]) -> Vec<u8> {
    let network = |a: &Attached| Network {
        network: a.network.to_string(),
        interface: a.interface.to_string(),
        ips: a.ips.iter().map(octets).collect(),
        mac: a.mac.map(Vec::from).unwrap_or_default(),
        aliases: a.aliases.iter().map(ToString::to_string).collect(),
        ports: a.ports.iter().map(published).collect(),
    };
    let attached = attached.iter().map(network).collect();
    Container { attached }.encode_to_vec()
}

/// Reads a container's record; none when it is none.
pub(super) fn read_container(
    fleet: &mut Fleet,
    node: &Arc<str>,
    name: &str,
    bytes: &[u8],
) -> Option<Record> {
    let container = Container::decode(bytes).ok()?;
    let mut attached = Vec::with_capacity(container.attached.len());
    for network in container.attached {
        let ips: Option<Box<[IpAddr]>> = network.ips.iter().map(|ip| address(ip)).collect();
        attached.push(Attached {
            network: fleet.intern(&network.network),
            interface: fleet.intern(&network.interface),
            ips: ips?,
            mac: network.mac.try_into().ok(),
            aliases: network
                .aliases
                .into_iter()
                .map(String::into_boxed_str)
                .collect(),
            // Of a protocol that is not known yet, nothing can be said.
            ports: network.ports.iter().filter_map(port).collect(),
        });
    }
    Some(Record {
        container: name.into(),
        node: Arc::clone(node),
        attached: attached.into(),
    })
}

fn published(port: &Port) -> Published {
    Published {
        host: port.host.into(),
        container: port.container.into(),
        protocol: port.protocol.name().to_owned(),
    }
}

fn port(published: &Published) -> Option<Port> {
    Some(Port {
        host: published.host.try_into().ok()?,
        container: published.container.try_into().ok()?,
        protocol: Protocol::named(&published.protocol)?,
    })
}

/// Changes as bytes.
pub(super) fn changes(puts: &[(String, Vec<u8>)], removes: &[String]) -> Vec<u8> {
    let put = |(container, record): &(String, Vec<u8>)| Put {
        container: container.clone(),
        record: record.clone(),
    };
    let changes = Changes {
        puts: puts.iter().map(put).collect(),
        removes: removes.to_vec(),
    };
    changes.encode_to_vec()
}

/// Reads changes: containers with their records, and removed ones.
pub(super) fn read_changes(bytes: &[u8]) -> Option<(Puts, Vec<String>)> {
    let changes = Changes::decode(bytes).ok()?;
    let puts = changes
        .puts
        .into_iter()
        .map(|put| (put.container, put.record));
    Some((puts.collect(), changes.removes))
}

fn octets(ip: &IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was() {
        let mut fleet = Fleet::new();
        let node: Arc<str> = "a".into();
        let attached = [Attached {
            network: "web".into(),
            interface: "eth0".into(),
            ips: ["10.1.2.3", "fd00::1"].map(|ip| ip.parse().unwrap()).into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            aliases: ["db".into()].into(),
            ports: [Port {
                host: 8080,
                container: 80,
                protocol: Protocol::Tcp,
            }]
            .into(),
        }];
        let bytes = container(&attached);
        let record = read_container(&mut fleet, &node, "shell", &bytes).unwrap();
        assert_eq!(*record.attached, attached);
        assert_eq!((&*record.container, &*record.node), ("shell", "a"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut fleet = Fleet::new();
            let _ = told(&bytes);
            let _ = read_word("a", &bytes, 0);
            let _ = read_container(&mut fleet, &"a".into(), "c", &bytes);
            let _ = read_changes(&bytes);
        }

        #[test]
        fn messages_are_read(before in any::<u64>(), change in proptest::collection::vec(any::<u8>(), 0..20)) {
            let mut payload = format!("n\n{before}\n7\nchange\n").into_bytes();
            payload.extend(&change);
            let expected = Told { node: "n".into(), before, revision: 7, kind: Kind::Change(change) };
            prop_assert_eq!(told(&payload), Some(expected));
        }
    }
}
