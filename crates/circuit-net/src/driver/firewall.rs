//! `firewall`: lets what containers send, and the answers to it, pass the
//! host's firewall.
//!
//! A rule that accepts counts only in the table where another one would drop.
//! What drops forwarded packets (the policy of Docker, an administrator's
//! rules) is in iptables' `filter` tables, or firewalld's business. So, like
//! the stock plugin, this one goes where it counts: it puts its chains and one
//! jump to each into iptables' tables, written as iptables writes them, over
//! netlink; or it tells firewalld, over D-Bus. Nothing that others put there
//! is changed or moved. Where the host uses the older iptables that is not
//! kept in nftables, the stock plugin is needed.

mod firewalld;
mod iptables;
mod tokens;

pub(super) use iptables::owners;

use std::net::IpAddr;

use circuit_core::cni::{AnyCase as _, CniResult, ErrorReport, JsonObject, code};

use self::firewalld::Firewalld;
pub use self::firewalld::FirewalldWatch;
use self::iptables::Wanted;
use super::dbus::DbusError;
use super::owner::Owner;
use super::{Answer, Call, Driver, Options, Unsupported};
use crate::nft::Nft;

const KEYS: [&str; 4] = [
    "backend",
    "iptablesAdminChainName",
    "firewalldZone",
    "ingressPolicy",
];

/// The longest name of a chain that iptables takes.
const CHAIN_MAX: usize = 28;

/// The driver.
pub(super) struct Firewall;

struct Config<'a> {
    firewalld: bool,
    admin: &'a str,
    zone: &'a str,
    /// `same-bridge` is `Some(false)`, `isolated` `Some(true)`.
    isolated: Option<bool>,
}

impl<'a> Config<'a> {
    fn parse(config: &'a JsonObject) -> Answer<Self> {
        let options = Options::new(config);
        let isolated = match options.text("ingressPolicy")? {
            None | Some("open") => None,
            Some("same-bridge") => Some(false),
            Some("isolated") => Some(true),
            Some(other) => {
                return Err(wrong(format!(
                    "ingressPolicy {other:?} is not known: use open, same-bridge or isolated"
                )));
            }
        };
        let admin = options.text("iptablesAdminChainName")?;
        let admin = admin.unwrap_or("CNI-ADMIN");
        if admin.len() > CHAIN_MAX
            || admin.starts_with(['-', '!'])
            || !admin.chars().all(|c| c.is_ascii_graphic())
        {
            return Err(wrong(format!(
                "iptablesAdminChainName {admin:?} is no name of a chain: \
                 use at most {CHAIN_MAX} letters, digits, '-' and '_'"
            )));
        }
        Ok(Self {
            firewalld: match options.text("backend")? {
                Some("iptables") => false,
                Some("firewalld") => true,
                // As the stock plugin does with any other word.
                _ => firewalld::is_running(),
            },
            admin,
            zone: options.text("firewalldZone")?.unwrap_or("trusted"),
            isolated,
        })
    }

    /// The bridge that is isolated: the first interface of the result.
    fn isolation(&self, prev: &'a CniResult) -> Answer<Option<(&'a str, bool)>> {
        let Some(isolated) = self.isolated else {
            return Ok(None);
        };
        match prev.interfaces.first() {
            Some(bridge) if !bridge.name.is_empty() => Ok(Some((&bridge.name, isolated))),
            _ => Err(wrong(
                "ingressPolicy needs a bridge: put firewall behind the plugin bridge".to_owned(),
            )),
        }
    }
}

impl Driver for Firewall {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        Options::new(config).only(&KEYS)?;
        if config.find("backend").and_then(|it| it.as_str()) != Some("firewalld") && has_legacy() {
            return Err(Unsupported {
                key: "backend".to_owned(),
                documented: true,
            });
        }
        Ok(())
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let_through(call, Firewalld::add)?;
        call.needs_prev().cloned()
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        let addresses = call.prev.map(addresses).unwrap_or_default();
        // The configuration may be one that ADD refused.
        let config = Config::parse(call.config).ok();
        if let Some(config) = config.filter(|config| config.firewalld)
            && let Ok(mut firewalld) = Firewalld::connect()
        {
            for address in &addresses {
                firewalld.remove(config.zone, *address).map_err(failed)?;
            }
        }
        Ok(iptables::remove(&Owner::of(call), &addresses)?)
    }

    fn mend(&self, call: &Call<'_>) -> Answer<()> {
        let_through(call, Firewalld::ensure)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let (prev, config) = (call.needs_prev()?, Config::parse(call.config)?);
        let addresses = addresses(prev);
        if config.firewalld {
            let mut firewalld = Firewalld::connect().map_err(failed)?;
            for address in addresses {
                if !firewalld.has(config.zone, address).map_err(failed)? {
                    return Err(missing(&format!("{address} in zone {}", config.zone)));
                }
            }
            return Ok(());
        }
        let wanted = Wanted {
            addresses: &addresses,
            accepts: true,
            admin: config.admin,
            isolation: config.isolation(prev)?,
        };
        match iptables::missing(&wanted)? {
            None => Ok(()),
            Some(what) => Err(missing(&what)),
        }
    }

    fn status(&self, _call: &Call<'_>) -> Answer<()> {
        let works = || Nft::open(None)?.generation();
        works()
            .map(drop)
            .map_err(|error| ErrorReport::new(code::NOT_AVAILABLE, error.to_string()))
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        let network = call.network();
        let valid = call
            .valid()?
            .iter()
            .map(|it| Owner::new(network, &it.container_id, &it.ifname))
            .collect();
        Ok(iptables::keep_only(network, &valid)?)
    }
}

/// Has firewalld, which is told of each address by `tell`, or iptables accept what
/// comes from the container and goes to it.
fn let_through(
    call: &Call<'_>,
    tell: impl Fn(&mut Firewalld, &str, IpAddr) -> Result<(), DbusError>,
) -> Answer<()> {
    let (prev, config) = (call.needs_prev()?, Config::parse(call.config)?);
    let (addresses, isolation) = (addresses(prev), config.isolation(prev)?);
    if config.firewalld {
        let mut firewalld = Firewalld::connect().map_err(failed)?;
        for address in &addresses {
            tell(&mut firewalld, config.zone, *address).map_err(|e| {
                failed(e).context(format!("cannot add {address} to zone {}", config.zone))
            })?;
        }
        if isolation.is_none() {
            return Ok(());
        }
    }
    let wanted = Wanted {
        addresses: &addresses,
        accepts: !config.firewalld,
        admin: config.admin,
        isolation,
    };
    Ok(iptables::put(&Owner::of(call), &wanted)?)
}

/// Whether the kernel has a `filter` table of the older iptables.
pub fn has_legacy() -> bool {
    ["ip_tables_names", "ip6_tables_names"].iter().any(|file| {
        let names = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        names.is_ok_and(|names| names.lines().any(|name| name == "filter"))
    })
}

fn addresses(prev: &CniResult) -> Vec<IpAddr> {
    prev.ips.iter().map(|ip| ip.address.addr()).collect()
}

fn wrong(text: String) -> ErrorReport {
    ErrorReport::new(code::INVALID_CONFIG, text)
}

fn failed(error: DbusError) -> ErrorReport {
    ErrorReport::new(code::IO_FAILURE, format!("firewalld: {error}"))
}

fn missing(what: &str) -> ErrorReport {
    ErrorReport::new(
        code::OTHER,
        format!("the firewall lacks {what}: connect anew"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(config: &Value) -> Answer<()> {
        let config = config.as_object().unwrap();
        // What this machine's own firewall is must not matter here.
        Options::new(config).only(&KEYS).unwrap();
        Config::parse(config).map(drop)
    }

    #[test]
    fn keys_are_checked() {
        parse(
            &json!({"backend": "iptables", "iptablesAdminChainName": "MINE",
            "firewalldZone": "x", "ingressPolicy": "same-bridge"}),
        )
        .unwrap();
        for config in [
            json!({"backend": "iptables", "ingressPolicy": "closed"}),
            json!({"backend": "iptables", "iptablesAdminChainName": "-A"}),
            json!({"backend": "iptables", "iptablesAdminChainName": "x".repeat(29)}),
        ] {
            assert_eq!(parse(&config).unwrap_err().code, code::INVALID_CONFIG);
        }
        let unknown = json!({"mystery": 1});
        let error = Firewall.supports(unknown.as_object().unwrap()).unwrap_err();
        assert!(!error.documented);
    }

    #[test]
    fn isolation_is_of_the_first_interface() {
        let config = json!({"backend": "iptables", "ingressPolicy": "isolated"});
        let config = Config::parse(config.as_object().unwrap()).unwrap();
        assert!(config.isolation(&CniResult::default()).is_err());
        let prev = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "br0"}]});
        let prev = CniResult::parse(&prev).unwrap();
        assert_eq!(config.isolation(&prev).unwrap(), Some(("br0", true)));
    }
}
