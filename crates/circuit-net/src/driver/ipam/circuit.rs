//! `circuit`: addresses out of one pool over all nodes, by the keeper of pools
//! in the daemon of this node.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use circuit_core::cni::{
    AnyCase as _, CniResult, ErrorReport, IpConfig, JsonObject, code, is_network_name,
};
use circuit_core::ipam::wire::{DEFAULT_SOCKET, Question, Reply, Wanted};
use circuit_core::ipam::{AddressSet, Span, User};
use ipnet::IpNet;
use serde_json::Value;

use super::host_local::config::{range_sets, requested};
use super::host_local::range::RangeSet;
use super::{canonical, invalid, network, routes, section, texts};
use crate::driver::bridge::DEFAULT_BRIDGE;
use crate::driver::single::default_interface;
use crate::driver::{Answer, Call, Driver, Options, Unsupported};

/// The keys of the `ipam` part.
const KEYS: [&str; 10] = [
    "type",
    "pool",
    "ranges",
    "exclude",
    "routes",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "socket",
];

/// The keeper waits for a ledger that settles for this long at most, and says
/// so then.
const PATIENCE: Duration = Duration::from_secs(40);

/// More than any answer has.
const MAX_ANSWER: u64 = 1 << 20;

/// More pieces of a range than this are not reckoned with.
const MAX_SPANS: usize = 256;

/// The driver of `circuit`.
#[derive(Debug)]
pub(crate) struct Circuit;

impl Driver for Circuit {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        // There is no executable that would know more.
        let unknown = |unsupported| Unsupported {
            documented: true,
            ..unsupported
        };
        super::only(config, &KEYS).map_err(unknown)
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let sets = address_sets(call)?;
        let options = Options::at(section(call.config)?, "ipam");
        let routes = routes(&options)?;
        let (link, unasked) = wire(call);
        let wanted = Wanted {
            pool: pool(call)?,
            network: network(call)?.to_owned(),
            user: user(call),
            sets: sets.clone(),
            wishes: requested(call, "circuit")?,
            link,
            unasked,
        };
        let Reply::Addresses(addresses) = ask(call, &Question::Add(wanted))? else {
            return Err(strange());
        };
        if addresses.len() != sets.len() {
            return Err(strange());
        }
        let ips = addresses.iter().zip(&sets);
        Ok(CniResult {
            ips: ips.map(|(ip, set)| configured(*ip, set)).collect(),
            routes,
            ..CniResult::default()
        })
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        let (pool, user) = (pool(call)?, user(call));
        ask(call, &Question::Del { pool, user }).map(drop)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let (pool, user) = (pool(call)?, user(call));
        let Reply::Addresses(has) = ask(call, &Question::Check { pool, user })? else {
            return Err(strange());
        };
        let told = call
            .prev
            .map(|prev| prev.ips.as_slice())
            .unwrap_or_default();
        let ours = address_sets(call)?;
        let ours = |ip: IpAddr| ours.iter().any(|set| set.span_of(ip).is_some());
        let other = told.iter().map(|ip| ip.address.addr());
        match other.filter(|ip| ours(*ip)).find(|ip| !has.contains(ip)) {
            None if !has.is_empty() => Ok(()),
            other => {
                let what = other.map_or("an address".to_owned(), |ip| ip.to_string());
                Err(ErrorReport::new(
                    code::OTHER,
                    format!(
                        "interface {} of {} does not have {what} of network {}: attach it again",
                        call.ifname,
                        call.container_id,
                        call.network()
                    ),
                ))
            }
        }
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        let (pool, sets) = (pool(call)?, address_sets(call)?);
        let unavailable = |report: ErrorReport| ErrorReport {
            code: code::NOT_AVAILABLE,
            ..report
        };
        ask(call, &Question::Status { pool, sets })
            .map(drop)
            .map_err(unavailable)
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        let valid = call.valid()?.into_iter().map(|valid| User {
            container: valid.container_id,
            ifname: valid.ifname,
        });
        let question = Question::Gc {
            pool: pool(call)?,
            network: network(call)?.to_owned(),
            valid: valid.collect(),
        };
        ask(call, &question).map(drop)
    }
}

fn user(call: &Call<'_>) -> User {
    User {
        container: call.container_id.to_owned(),
        ifname: call.ifname.to_owned(),
    }
}

/// The pool's name; the network's when it is not said.
pub(super) fn pool(call: &Call<'_>) -> Answer<String> {
    let options = Options::at(section(call.config)?, "ipam");
    match options.text("pool")? {
        None => network(call).map(str::to_owned),
        Some(name) if is_network_name(name) => Ok(name.to_owned()),
        Some(name) => Err(invalid(format!(
            "ipam.pool {name:?} is no name: use letters, digits, '_', '.' and '-'"
        ))),
    }
}

/// Plugins that attach to no wire: nobody else can have an address there.
const ALONE: [&str; 3] = ["ptp", "dummy", "loopback"];

/// The host's interface that is on the wire of the addresses, and whether that wire is
/// one that cannot be asked by an interface of the host. Without either, nobody else is
/// on it. Of a plugin that is not known, its wire is not.
fn wire(call: &Call<'_>) -> (Option<String>, bool) {
    let value = |key: &str| call.config.find(key);
    let text = |key: &str| {
        value(key)
            .and_then(Value::as_str)
            .filter(|it| !it.is_empty())
    };
    let kind = text("type").unwrap_or_default();
    let tag = |key: &str| value(key).is_some_and(|tag| tag.as_u64() != Some(0) && !tag.is_null());
    let inside = value("linkInContainer").and_then(Value::as_bool) == Some(true);
    if inside || tag("vlan") || tag("vlanId") || ["vlan", "host-device"].contains(&kind) {
        return (None, true);
    }
    let named = text("master").or_else(|| text("bridge"));
    let link = match (named, kind) {
        (Some(name), _) => Some(name.to_owned()),
        (None, "bridge") => Some(DEFAULT_BRIDGE.to_owned()),
        (None, "ipvlan") if call.prev.is_some() => {
            let before = call.prev.and_then(|prev| prev.interfaces.first());
            before.map(|interface| interface.name.clone())
        }
        (None, "macvlan" | "ipvlan") => default_interface(call, false).ok(),
        _ => None,
    };
    let unasked = link.is_none() && !ALONE.contains(&kind);
    (link, unasked)
}

fn configured(ip: IpAddr, set: &AddressSet) -> IpConfig {
    let span = set.span_of(ip);
    let prefix = span.map(|span| span.subnet.prefix_len());
    let address = prefix.and_then(|prefix| IpNet::new(ip, prefix).ok());
    IpConfig {
        address: address.unwrap_or_else(|| ip.into()),
        gateway: span.map(|span| span.gateway),
        interface: None,
    }
}

/// The addresses that can be given: ranges without gateways and what is
/// excluded.
pub(super) fn address_sets(call: &Call<'_>) -> Answer<Vec<AddressSet>> {
    let options = Options::at(section(call.config)?, "ipam");
    let excluded = texts(section(call.config)?.find("exclude"), "ipam.exclude")?
        .into_iter()
        .map(excluded)
        .collect::<Answer<Vec<_>>>()?;
    let sets = range_sets(call, &options)?;
    sets.iter().map(|set| addresses(set, &excluded)).collect()
}

/// What an entry of `exclude` names: an address, a prefix, or a first and a
/// last address.
fn excluded(text: &str) -> Answer<(IpAddr, IpAddr)> {
    let wrong = || {
        invalid(format!(
            "ipam.exclude: {text:?} is neither an address, nor a prefix, nor two addresses \
             with a '-' between"
        ))
    };
    let address = |text: &str| text.trim().parse().map(canonical).map_err(|_| wrong());
    if let Some((from, to)) = text.split_once('-') {
        let (from, to): (IpAddr, IpAddr) = (address(from)?, address(to)?);
        let fit = from.is_ipv4() == to.is_ipv4() && from <= to;
        return fit.then_some((from, to)).ok_or_else(wrong);
    }
    if text.contains('/') {
        let net: IpNet = text.parse().map_err(|_| wrong())?;
        return Ok((net.network(), net.broadcast()));
    }
    address(text).map(|ip| (ip, ip))
}

fn addresses(set: &RangeSet, excluded: &[(IpAddr, IpAddr)]) -> Answer<AddressSet> {
    let mut spans = Vec::new();
    for range in set.ranges() {
        let mut left = vec![Span {
            subnet: range.subnet,
            first: range.start,
            last: range.end,
            gateway: range.gateway,
        }];
        for (from, to) in excluded.iter().chain([&(range.gateway, range.gateway)]) {
            left = left
                .into_iter()
                .flat_map(|span| span.without(*from, *to))
                .collect();
        }
        spans.extend(left);
    }
    if spans.is_empty() {
        return Err(invalid(format!(
            "ipam: range set {set} has no address that is neither the gateway's nor excluded"
        )));
    }
    if spans.len() > MAX_SPANS {
        return Err(invalid(format!(
            "ipam: range set {set} is in {} pieces, exclude prefixes in the place of addresses",
            spans.len()
        )));
    }
    spans.sort_by_key(|span| span.first);
    Ok(AddressSet { spans })
}

fn socket(call: &Call<'_>) -> Answer<PathBuf> {
    let options = Options::at(section(call.config)?, "ipam");
    Ok(options.text("socket")?.unwrap_or(DEFAULT_SOCKET).into())
}

/// Asks the keeper. What it does not do is an error.
fn ask(call: &Call<'_>, question: &Question) -> Answer<Reply> {
    let socket = socket(call)?;
    let reply = talk(&socket, question).map_err(|error| {
        let socket = socket.display();
        let text = format!(
            "cannot ask the keeper of addresses at {socket}: {error}: see that circuit server runs"
        );
        ErrorReport::new(code::TRY_AGAIN_LATER, text)
    })?;
    match reply {
        Reply::Failed(text) => Err(ErrorReport::new(code::OTHER, text)),
        Reply::Later(text) => Err(ErrorReport::new(code::TRY_AGAIN_LATER, text)),
        reply => Ok(reply),
    }
}

fn talk(socket: &Path, question: &Question) -> std::io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .take(MAX_ANSWER)
        .read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

fn strange() -> ErrorReport {
    let text = "the keeper of addresses speaks another language: use the circuit of its version";
    ErrorReport::new(code::OTHER, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_excluded_is_read() {
        let read = |text| excluded(text).map(|(from, to)| format!("{from} {to}"));
        assert_eq!(read("10.1.0.9").unwrap(), "10.1.0.9 10.1.0.9");
        assert_eq!(read("10.1.0.5-10.1.0.9").unwrap(), "10.1.0.5 10.1.0.9");
        assert_eq!(read("10.1.0.77/26").unwrap(), "10.1.0.64 10.1.0.127");
        assert_eq!(read("fd00::/126").unwrap(), "fd00:: fd00::3");
        for wrong in [
            "",
            "x",
            "10.1.0.9-10.1.0.5",
            "10.1.0.9-fd00::1",
            "10.1.0.0/33",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    fn with_call<T>(config: &Value, ask: impl FnOnce(&Call<'_>) -> T) -> T {
        ask(&Call {
            command: crate::driver::Command::Add,
            container_id: "a",
            netns: None,
            ifname: "eth0",
            args: &[],
            config: config.as_object().unwrap(),
            version: circuit_core::cni::CniVersion::LATEST,
            prev: None,
            delegate: &Nobody,
            sockets: &crate::driver::Sockets::default(),
        })
    }

    fn sets(ipam: &Value) -> Answer<Vec<String>> {
        let config = serde_json::json!({"name": "net", "type": "macvlan", "ipam": ipam});
        let sets = with_call(&config, address_sets)?;
        Ok(sets.iter().map(AddressSet::to_string).collect())
    }

    #[test]
    fn the_wire_of_the_addresses_is_asked_or_none() {
        let of = |mut config: Value, more: Value| {
            let more = more.as_object().unwrap().clone();
            config.as_object_mut().unwrap().extend(more);
            with_call(&config, wire)
        };
        let json = |kind: &str| serde_json::json!({ "type": kind });
        let some = |name: &str| (Some(name.to_owned()), false);
        let unasked = (None, true);
        for (kind, more, expected) in [
            (
                "bridge",
                serde_json::json!({"bridge": "br7", "vlan": 0}),
                some("br7"),
            ),
            ("bridge", serde_json::json!({"bridge": ""}), some("cni0")),
            (
                "bridge",
                serde_json::json!({"bridge": "br7", "vlan": 7}),
                unasked.clone(),
            ),
            (
                "macvlan",
                serde_json::json!({"master": "eth1"}),
                some("eth1"),
            ),
            (
                "macvlan",
                serde_json::json!({"master": "eth1", "linkInContainer": true}),
                unasked.clone(),
            ),
            (
                "vlan",
                serde_json::json!({"master": "eth1", "vlanId": 7}),
                unasked.clone(),
            ),
            (
                "host-device",
                serde_json::json!({"device": "eth1"}),
                unasked.clone(),
            ),
            ("ptp", serde_json::json!({}), (None, false)),
            ("dummy", serde_json::json!({}), (None, false)),
            ("sriov", serde_json::json!({}), unasked.clone()),
            ("tap", serde_json::json!({"bridge": "br7"}), some("br7")),
            ("tap", serde_json::json!({}), unasked.clone()),
        ] {
            assert_eq!(of(json(kind), more), expected, "{kind}");
        }
        let by_route = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).ok()?;
            let made = "ip link add up0 type veth peer up1 && ip link set up1 up && \
                        ip link set up0 up && ip addr add 192.0.2.2/24 dev up0 && \
                        ip route add default via 192.0.2.1";
            let made = std::process::Command::new("sh").args(["-c", made]).status();
            assert!(made.unwrap().success());
            Some(with_call(&serde_json::json!({"type": "macvlan"}), wire))
        });
        // Without the right to make namespaces there is nothing to see.
        if let Some(found) = by_route.join().unwrap() {
            assert_eq!(found, some("up0"));
        }
    }

    struct Nobody;

    impl crate::driver::Delegate for Nobody {
        fn run(
            &self,
            _: &str,
            _: crate::driver::Command,
            _: &JsonObject,
            _: &Call<'_>,
        ) -> Answer<Option<CniResult>> {
            Ok(None)
        }
    }

    #[test]
    fn a_pool_has_neither_gateways_nor_what_is_excluded() {
        let of = |ipam| sets(&ipam).unwrap();
        assert_eq!(
            of(serde_json::json!({"subnet": "10.1.0.0/28", "exclude": ["10.1.0.6/31"]})),
            ["10.1.0.2-10.1.0.5,10.1.0.8-10.1.0.14"]
        );
        assert_eq!(
            of(serde_json::json!({"ranges": [
                [{"subnet": "10.1.0.0/28", "rangeStart": "10.1.0.4", "gateway": "10.1.0.14"}],
                [{"subnet": "fd00::/120", "rangeEnd": "fd00::9"}],
            ]})),
            ["10.1.0.4-10.1.0.13", "fd00::2-fd00::9"]
        );
        let all = serde_json::json!({"subnet": "10.1.0.0/28", "exclude": ["10.1.0.0/28"]});
        assert!(sets(&all).unwrap_err().msg.contains("has no address"));
        let twice = serde_json::json!({"subnet": "10.1.0.0/28",
            "ranges": [[{"subnet": "10.1.0.0/24"}]]});
        assert!(sets(&twice).unwrap_err().msg.contains("overlaps"));
        assert!(sets(&serde_json::json!({"exclude": [7], "subnet": "10.1.0.0/28"})).is_err());
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let config = serde_json::json!({"ipam": {"type": "circuit", "dataDir": "/x"}});
        let unsupported = Circuit.supports(config.as_object().unwrap()).unwrap_err();
        assert_eq!(unsupported.key, "ipam.dataDir");
        assert!(unsupported.documented);
    }
}
