//! What a person asks for with `Connect`: a network, and how to join it.

use std::collections::HashSet;
use std::hash::Hash;

use serde::{Deserialize, Serialize};

use crate::attachment::Attachment;
use crate::labels::{
    DesiredNetwork, PortMapping, check_interface, parse_ips, parse_mac, parse_ports,
};
use crate::{Error, Result};

/// A network connected by hand, and what was asked for with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Requested {
    /// The network, and how to join it.
    pub network: DesiredNetwork,
    /// Host ports that lead to the container through this network.
    pub ports: Vec<PortMapping>,
}

/// Wishes as people write them; empty ones are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wishes {
    /// Fixed addresses, with or without prefix length.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// A fixed hardware address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Further names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The interface's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub interface: String,
    /// Ports to publish, as the label writes them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
}

/// On disk: the name alone where nothing more was asked for.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Name(String),
    More {
        network: String,
        #[serde(flatten)]
        wishes: Wishes,
    },
}

impl Requested {
    /// A network without wishes.
    pub fn named(network: impl Into<String>) -> Self {
        Self {
            network: DesiredNetwork::named(network),
            ports: Vec::new(),
        }
    }

    /// Reads wishes.
    ///
    /// # Errors
    /// `InvalidArgument` that names the wish and its form.
    pub fn read(network: impl Into<String>, wishes: Wishes) -> Result<Self> {
        let Wishes {
            ips,
            mac,
            aliases,
            interface,
            ports,
        } = wishes;
        let mut read = Self::named(network);
        if !ips.is_empty() {
            read.network.ips = parse_ips(&ips.join(","))?;
        }
        if !mac.is_empty() {
            read.network.mac = Some(parse_mac(&mac)?);
        }
        let empty = |alias: &String| alias.trim().is_empty() || alias.contains(',');
        if let Some(alias) = aliases.iter().find(|alias| empty(alias)) {
            return Err(Error::invalid(format!(
                "{alias:?} is no alias: write one name, like db"
            )));
        }
        read.network.aliases = aliases;
        if !interface.is_empty() {
            check_interface(&interface)?;
            read.network.interface = Some(interface);
        }
        read.ports = parse_ports(&ports.join(","))?;
        Ok(read)
    }

    /// The wishes as people write them.
    pub fn wishes(&self) -> Wishes {
        let network = &self.network;
        Wishes {
            ips: network.ips.clone(),
            mac: network.mac.clone().unwrap_or_default(),
            aliases: network.aliases.clone(),
            interface: network.interface.clone().unwrap_or_default(),
            ports: self.ports.iter().map(ToString::to_string).collect(),
        }
    }

    /// Whether nothing was asked for but the network.
    pub fn is_plain(&self) -> bool {
        self.wishes() == Wishes::default()
    }

    /// What the labels ask for, with what was asked for by hand in its place.
    #[must_use]
    pub fn over(&self, labelled: &DesiredNetwork) -> DesiredNetwork {
        let or = |ours: &Vec<String>, theirs: &Vec<String>| match ours.is_empty() {
            true => theirs.clone(),
            false => ours.clone(),
        };
        let ours = &self.network;
        DesiredNetwork {
            network: labelled.network.clone(),
            ips: or(&ours.ips, &labelled.ips),
            mac: ours.mac.clone().or_else(|| labelled.mac.clone()),
            aliases: or(&ours.aliases, &labelled.aliases),
            interface: ours
                .interface
                .clone()
                .or_else(|| labelled.interface.clone()),
        }
    }

    /// What an attachment lacks of what was asked for, in words; nothing when it
    /// has it all.
    pub fn missing(&self, there: &Attachment) -> Option<String> {
        let wanted = &self.network;
        let bare = |ip: &String| ip.split('/').next().unwrap_or_default().to_owned();
        let has = |ip: &String| there.ips.iter().any(|have| have.addr().to_string() == *ip);
        let lacks = |ip: &String| match bare(ip).parse::<std::net::IpAddr>() {
            Ok(ip) => !has(&ip.to_string()),
            Err(_) => true,
        };
        if let Some(ip) = wanted.ips.iter().find(|ip| lacks(ip)) {
            return Some(format!("address {ip}"));
        }
        if let Some(mac) = &wanted.mac
            && there.mac.as_ref() != Some(mac)
        {
            return Some(format!("hardware address {mac}"));
        }
        if let Some(interface) = &wanted.interface
            && there.interface != *interface
        {
            return Some(format!("interface {interface}"));
        }
        let unnamed = |alias: &&String| !there.aliases.contains(alias);
        if let Some(alias) = wanted.aliases.iter().find(unnamed) {
            return Some(format!("alias {alias}"));
        }
        let published = there.capability_args.get("portMappings");
        let published = published.and_then(serde_json::Value::as_array);
        let published = published.into_iter().flatten();
        let port = first_not_in(&self.ports, published.filter_map(PortMapping::from_json));
        port.map(|port| format!("port {port}"))
    }
}

/// The first that is wanted and not there. Each look at a container asks, and one may
/// publish thousands of ports: each is compared with few others.
fn first_not_in<T: Eq + Hash>(wanted: &[T], there: impl Iterator<Item = T>) -> Option<&T> {
    if wanted.is_empty() {
        return None;
    }
    let there: HashSet<T> = there.collect();
    wanted.iter().find(|wanted| !there.contains(wanted))
}

impl TryFrom<Written> for Requested {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        match written {
            Written::Name(network) => Ok(Self::named(network)),
            Written::More {
                network,
                mut wishes,
            } => {
                // What was taken once and is refused by now: the rest still counts.
                wishes.ports.retain(|port| parse_ports(port).is_ok());
                Self::read(network, wishes)
            }
        }
    }
}

impl From<Requested> for Written {
    fn from(requested: Requested) -> Self {
        let wishes = requested.wishes();
        let network = requested.network.network;
        match wishes == Wishes::default() {
            true => Self::Name(network),
            false => Self::More { network, wishes },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    /// Counts what it is compared with.
    #[derive(Debug, Eq)]
    struct Counted(u32);

    impl Hash for Counted {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }

    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            COMPARED.set(COMPARED.get() + 1);
            self.0 == other.0
        }
    }

    #[test]
    fn each_of_many_is_compared_with_few() {
        let many = || (0..10_000).map(Counted);
        let wanted: Vec<Counted> = many().collect();
        assert!(first_not_in(&wanted, many()).is_none());
        let lacking = first_not_in(&wanted, many().filter(|it| it.0 != 9000));
        let lacking = lacking.map(|it| it.0);
        assert_eq!(lacking, Some(9000));
        let compared = COMPARED.get();
        assert!(compared < 100_000, "{compared}");
    }

    fn wishes() -> Wishes {
        let list = |text: &str| vec![text.to_owned()];
        Wishes {
            ips: vec!["10.88.0.7".to_owned(), "fd00::7/64".to_owned()],
            mac: "02:42:0A:58:00:07".to_owned(),
            aliases: list("db"),
            interface: "data0".to_owned(),
            ports: vec![
                "8080:80".to_owned(),
                "[fd00::1]:53-54:153-154/udp".to_owned(),
            ],
        }
    }

    #[test]
    fn a_record_of_before_keeps_what_is_still_taken() {
        let text = r#"{"network": "web", "ports": ["[::1]:53:53", "127.0.0.53:53:53", "80:80"]}"#;
        let read: Requested = serde_json::from_str(text).unwrap();
        let ports: Vec<_> = read.ports.iter().map(|port| port.host_port).collect();
        assert_eq!(ports, [80]);
    }

    #[test]
    fn wishes_are_read_and_written() {
        let read = Requested::read("web", wishes()).unwrap();
        assert_eq!(read.network.mac.as_deref(), Some("02:42:0a:58:00:07"));
        assert_eq!(read.ports.len(), 3);
        let text = serde_json::to_string(&read).unwrap();
        assert!(text.contains(r#""[fd00::1]:54:154/udp""#), "{text}");
        assert_eq!(serde_json::from_str::<Requested>(&text).unwrap(), read);
        assert!(!read.is_plain());
    }

    #[test]
    fn a_plain_request_is_a_name_on_disk_as_it_always_was() {
        let plain = Requested::named("web");
        assert!(plain.is_plain());
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#""web""#);
        assert_eq!(
            serde_json::from_str::<Requested>(r#""web""#).unwrap(),
            plain
        );
    }

    #[test]
    fn wrong_wishes_are_named() {
        let refused = |change: &dyn Fn(&mut Wishes)| {
            let mut wishes = Wishes::default();
            change(&mut wishes);
            Requested::read("web", wishes)
                .unwrap_err()
                .message()
                .to_owned()
        };
        let list = |text: &str| vec![text.to_owned()];
        for (message, want) in [
            (refused(&|w| w.ips = list("ten")), "is no address"),
            (
                refused(&|w| w.mac = "02:42".to_owned()),
                "is no hardware address",
            ),
            (
                refused(&|w| w.mac = "03:42:0a:58:00:07".to_owned()),
                "group address",
            ),
            (refused(&|w| w.aliases = list("")), "is no alias"),
            (refused(&|w| w.aliases = list("a,b")), "is no alias"),
            (
                refused(&|w| w.interface = "a b".to_owned()),
                "is no interface name",
            ),
            (refused(&|w| w.ports = list("80")), "has no container port"),
            (
                refused(&|w| w.ports = vec!["80:1".to_owned(), "80:2".to_owned()]),
                "given twice",
            ),
        ] {
            assert!(message.contains(want), "{message}");
        }
    }

    #[test]
    fn what_is_asked_for_by_hand_goes_before_labels() {
        let labelled = DesiredNetwork {
            ips: vec!["10.88.0.9".to_owned()],
            mac: Some("02:00:00:00:00:01".to_owned()),
            ..DesiredNetwork::named("web")
        };
        let by_hand = Wishes {
            ips: vec!["10.88.0.7".to_owned()],
            ..Wishes::default()
        };
        let merged = Requested::read("web", by_hand).unwrap().over(&labelled);
        assert_eq!(merged.ips, ["10.88.0.7"]);
        assert_eq!(merged.mac, labelled.mac);
        assert_eq!(Requested::named("web").over(&labelled), labelled);
    }
}
