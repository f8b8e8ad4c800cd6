//! The configuration of `portmap`.

use std::fmt;
use std::net::IpAddr;

use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};
use serde_json::Value;

use crate::driver::{Answer, Options, Unsupported};

pub(super) const KEYS: [&str; 7] = [
    "backend",
    "snat",
    "conditionsV4",
    "conditionsV6",
    "masqAll",
    "markMasqBit",
    "externalSetMarkChain",
];

/// Refuses what needs iptables: conditions and chains of its language, and the
/// backend where it is asked for by name. `markMasqBit` says which bit of the
/// packets' marks iptables may use; here none is used, so any will do.
pub(super) fn supports(config: &JsonObject) -> Result<(), Unsupported> {
    let options = Options::new(config);
    options.only(&KEYS)?;
    let refuse = |key: &str| {
        Err(Unsupported {
            key: key.to_owned(),
            documented: true,
        })
    };
    for key in ["conditionsV4", "conditionsV6"] {
        let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        if options.get(key).is_some_and(|value| !is_empty(value)) {
            return refuse(key);
        }
    }
    if options.get("externalSetMarkChain").is_some() {
        return refuse("externalSetMarkChain");
    }
    match options.get("backend") {
        None => Ok(()),
        Some(Value::String(backend)) if backend == "nftables" => Ok(()),
        Some(_) => refuse("backend"),
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    /// Connections that would not find their way back are masqueraded.
    pub(super) snat: bool,
    /// All connections are masqueraded.
    pub(super) masq_all: bool,
    pub(super) mappings: Vec<Mapping>,
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) host_ip: Option<IpAddr>,
    pub(super) host_port: u16,
    pub(super) container_port: u16,
    pub(super) protocol: Protocol,
}

/// A protocol that has ports, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    pub(super) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    fn parse(text: &str) -> Option<Self> {
        let named = |protocol: &Self| protocol.to_string().eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(named)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl Config {
    pub(super) fn parse(config: &JsonObject) -> Answer<Self> {
        let options = Options::new(config);
        if let Some(bit) = options.number::<i64>("markMasqBit")?
            && !(0..=31).contains(&bit)
        {
            return Err(wrong(format!("markMasqBit is {bit}: use 0 to 31")));
        }
        Ok(Self {
            snat: options.opt_flag("snat")?.unwrap_or(true),
            masq_all: options.flag("masqAll")?,
            mappings: mappings(&options)?,
        })
    }
}

fn mappings(options: &Options<'_>) -> Answer<Vec<Mapping>> {
    let Some(runtime) = options.object("runtimeConfig")? else {
        return Ok(Vec::new());
    };
    let values = Options::at(runtime, "runtimeConfig").array("portMappings")?;
    let parse = |(index, value): (usize, &Value)| {
        let place = format!("runtimeConfig.portMappings[{index}]");
        let object = value.as_object().ok_or_else(|| {
            ErrorReport::new(
                code::DECODING_FAILURE,
                format!("{place} is {value}, not an object"),
            )
        })?;
        mapping(&Options::at(object, &place), &place)
    };
    values.iter().enumerate().map(parse).collect()
}

fn mapping(options: &Options<'_>, place: &str) -> Answer<Mapping> {
    let port = |key: &str| {
        let number = options.number::<i64>(key)?.unwrap_or(0);
        u16::try_from(number)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| wrong(format!("{place}.{key} is {number}: use 1 to 65535")))
    };
    let protocol = options.text("protocol")?.unwrap_or_default();
    Ok(Mapping {
        host_ip: options
            .parsed::<IpAddr>("hostIP", "an address")?
            .map(|ip| ip.to_canonical()),
        host_port: port("hostPort")?,
        container_port: port("containerPort")?,
        protocol: Protocol::parse(protocol).ok_or_else(|| {
            wrong(format!(
                "{place}.protocol is {protocol:?}: use tcp, udp or sctp"
            ))
        })?,
    })
}

fn wrong(text: String) -> ErrorReport {
    ErrorReport::new(code::INVALID_CONFIG, text)
}

/// The container's addresses that ports lead to: the first of each family on
/// the interface of that name.
pub(super) fn targets(prev: &CniResult, ifname: &str) -> Vec<IpAddr> {
    let is_inside = |index: Option<usize>| {
        let interface = index.and_then(|index| prev.interfaces.get(index));
        interface.is_none_or(|it| it.name == ifname && it.sandbox.is_some())
    };
    let mut targets: Vec<IpAddr> = Vec::new();
    for ip in prev.ips.iter().filter(|ip| is_inside(ip.interface)) {
        let address = ip.address.addr();
        if !targets.iter().any(|it| it.is_ipv4() == address.is_ipv4()) {
            targets.push(address);
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> JsonObject {
        value.as_object().unwrap().clone()
    }

    fn with_mapping(mapping: Value) -> Answer<Config> {
        Config::parse(&object(
            json!({"runtimeConfig": {"portMappings": [mapping]}}),
        ))
    }

    #[test]
    fn what_needs_iptables_is_left_to_the_executable() {
        for (config, key) in [
            (json!({"backend": "iptables"}), "backend"),
            (
                json!({"conditionsV4": ["-s", "10.0.0.0/8"]}),
                "conditionsV4",
            ),
            (
                json!({"conditionsV6": ["ip6", "saddr", "::1"]}),
                "conditionsV6",
            ),
            (
                json!({"externalSetMarkChain": "KUBE"}),
                "externalSetMarkChain",
            ),
        ] {
            let refused = supports(&object(config)).unwrap_err();
            assert_eq!((refused.key.as_str(), refused.documented), (key, true));
        }
        let refused = supports(&object(json!({"mystery": 1}))).unwrap_err();
        assert!(!refused.documented);
        let all = json!({"type": "portmap", "backend": "nftables", "snat": false,
            "masqAll": true, "markMasqBit": 3, "conditionsV4": [], "conditionsV6": null,
            "capabilities": {"portMappings": true}});
        supports(&object(all)).unwrap();
    }

    #[test]
    fn mappings_are_read() {
        let config = with_mapping(json!({"hostPort": 8080, "containerPort": 80,
            "protocol": "TCP", "hostIP": "::ffff:10.0.0.1"}))
        .unwrap();
        assert!(config.snat && !config.masq_all);
        let mapping = config.mappings[0];
        assert_eq!(mapping.protocol, Protocol::Tcp);
        assert_eq!(mapping.host_ip, Some("10.0.0.1".parse().unwrap()));
        assert_eq!((mapping.host_port, mapping.container_port), (8080, 80));
    }

    #[test]
    fn wrong_mappings_are_named() {
        for (mapping, text) in [
            (
                json!({"hostPort": 0, "containerPort": 80, "protocol": "tcp"}),
                "[0].hostPort is 0",
            ),
            (
                json!({"hostPort": 1, "protocol": "tcp"}),
                "[0].containerPort is 0",
            ),
            (
                json!({"hostPort": 65536, "containerPort": 80, "protocol": "tcp"}),
                "65536",
            ),
            (
                json!({"hostPort": 1, "containerPort": 1}),
                "protocol is \"\"",
            ),
            (
                json!({"hostPort": 1, "containerPort": 1, "protocol": "icmp"}),
                "icmp",
            ),
            (
                json!({"hostPort": 1, "containerPort": 1, "protocol": "tcp", "hostIP": "x"}),
                "hostIP \"x\" is not an address",
            ),
            (json!(7), "[0] is 7, not an object"),
        ] {
            let error = with_mapping(mapping).unwrap_err();
            assert!(error.msg.contains(text), "{} / {text}", error.msg);
        }
        assert!(Config::parse(&object(json!({"markMasqBit": 32}))).is_err());
    }

    #[test]
    fn ports_lead_to_the_containers_first_addresses() {
        let prev = CniResult::parse(&json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/x"},
                {"name": "eth1", "sandbox": "/x"}],
            "ips": [
                {"address": "10.1.0.1/24", "interface": 0},
                {"address": "10.1.0.3/24", "interface": 2},
                {"address": "10.1.0.2/24", "interface": 1},
                {"address": "10.1.0.4/24", "interface": 1},
                {"address": "fd00::2/64", "interface": 1},
            ],
        }))
        .unwrap();
        let expected: Vec<IpAddr> = ["10.1.0.2", "fd00::2"]
            .map(|ip| ip.parse().unwrap())
            .to_vec();
        assert_eq!(targets(&prev, "eth0"), expected);
        assert_eq!(targets(&prev, "eth2"), Vec::<IpAddr>::new());
    }
}
