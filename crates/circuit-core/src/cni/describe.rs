//! Writes the configuration of a network that is described in a few words.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::DNS_KEY;
use crate::labels::check_interface;
use crate::{Error, Result};

/// The versions of the configurations that are written: one that every plugin in
/// use speaks, and one in which leftovers can be cleaned up. The highest that the
/// plugins speak is taken.
const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// A network in a few words. Empty fields leave it to what is usual.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// The network's name.
    pub name: String,
    /// `bridge` when empty; else `ptp`, `macvlan`, `ipvlan` or `vlan`.
    pub driver: String,
    /// At most one subnet of each family.
    pub subnets: Vec<IpNet>,
    /// The gateways of the subnets; their first addresses when there are none.
    pub gateways: Vec<IpAddr>,
    /// Parts of the subnets from which addresses are given.
    pub ranges: Vec<IpNet>,
    /// A subnet of each family.
    pub ipv6: bool,
    /// No way out: neither a default route nor masquerading.
    pub internal: bool,
    /// In bytes; 0 leaves it to the kernel.
    pub mtu: u32,
    /// The host's interface that the network is on.
    pub parent: String,
    /// The number of a VLAN, 1 to 4094; 0 for none.
    pub vlan: u32,
    /// How `macvlan` and `ipvlan` pass frames.
    pub mode: String,
    /// Containers find each other by name.
    pub dns: bool,
    /// What publishes ports: `nftables`, `iptables` or `none`.
    pub publish_backend: String,
    /// What gives addresses: `host-local`, `circuit` or `dhcp`.
    pub ipam: String,
}

/// What makes the interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    /// A bridge on the host, behind which containers are.
    Bridge,
    /// Point to point, one pair a container.
    Ptp,
    /// Containers on the network of a parent, with hardware addresses of their own.
    Macvlan,
    /// The same with the parent's hardware address.
    Ipvlan,
    /// A VLAN of a parent.
    Vlan,
}

const DRIVERS: [(Driver, &str); 5] = [
    (Driver::Bridge, "bridge"),
    (Driver::Ptp, "ptp"),
    (Driver::Macvlan, "macvlan"),
    (Driver::Ipvlan, "ipvlan"),
    (Driver::Vlan, "vlan"),
];
/// As long is an interface's name at most, and as long what a VLAN adds to one.
const MAX_INTERFACE: usize = 15;
const MAX_VLAN_SUFFIX: usize = ".4094".len();
const PUBLISHERS: [&str; 3] = ["nftables", "iptables", "none"];
const IPAMS: [&str; 3] = ["host-local", "circuit", "dhcp"];

impl Driver {
    fn named(name: &str) -> Result<Self> {
        if name.is_empty() {
            return Ok(Self::Bridge);
        }
        let found = DRIVERS.iter().find(|(_, known)| *known == name);
        found.map(|(driver, _)| *driver).ok_or_else(|| {
            let known = DRIVERS.map(|(_, name)| name);
            Error::invalid(format!(
                "driver {name:?} is unknown: use one of {}, or create the network from a CNI \
                 configuration",
                known.join(", ")
            ))
        })
    }

    fn name(self) -> &'static str {
        let found = DRIVERS.iter().find(|(driver, _)| *driver == self);
        found.map_or("", |(_, name)| name)
    }

    /// Whether the host is the way out, with addresses of its own to give.
    fn is_routed(self) -> bool {
        matches!(self, Self::Bridge | Self::Ptp)
    }
}

impl Description {
    /// The families of which subnets are to be chosen: whether IPv4, and whether
    /// IPv6.
    ///
    /// # Errors
    /// `InvalidArgument` when subnets cannot be chosen for such a network.
    pub fn lacks(&self) -> Result<(bool, bool)> {
        let driver = Driver::named(&self.driver)?;
        if self.ipam == "dhcp" {
            return Ok((false, false));
        }
        let has = |v6: bool| {
            let mut families = self.subnets.iter().map(|net| net.addr().is_ipv6());
            families.any(|family| family == v6)
        };
        let lacks = (self.subnets.is_empty(), self.ipv6 && !has(true));
        if !driver.is_routed() && lacks != (false, false) {
            return Err(Error::invalid(format!(
                "a network of driver {} needs the subnet of the network that {} is on: give \
                 --subnet, or --ipam dhcp",
                driver.name(),
                if self.parent.is_empty() {
                    "its parent"
                } else {
                    &self.parent
                },
            )));
        }
        Ok(lacks)
    }

    /// The configuration, as JSON for people. The bridge, if one is needed, gets
    /// the given name.
    ///
    /// # Errors
    /// `InvalidArgument` that names the field and the remedy.
    pub fn config(&self, bridge: &str) -> Result<Vec<u8>> {
        let driver = Driver::named(&self.driver)?;
        self.check(driver)?;
        let mut plugin = Map::new();
        plugin.insert("type".into(), driver.name().into());
        match driver {
            Driver::Bridge => {
                plugin.insert("bridge".into(), bridge.into());
                plugin.insert("isGateway".into(), true.into());
                plugin.insert("ipMasq".into(), (!self.internal).into());
                plugin.insert("hairpinMode".into(), true.into());
                if self.vlan > 0 {
                    plugin.insert("vlan".into(), self.vlan.into());
                }
            }
            Driver::Ptp => {
                plugin.insert("ipMasq".into(), (!self.internal).into());
            }
            Driver::Macvlan | Driver::Ipvlan | Driver::Vlan => {
                plugin.insert("master".into(), self.parent.as_str().into());
                if driver == Driver::Vlan {
                    plugin.insert("vlanId".into(), self.vlan.into());
                } else if !self.mode.is_empty() {
                    plugin.insert("mode".into(), self.mode.as_str().into());
                }
            }
        }
        if self.mtu > 0 {
            plugin.insert("mtu".into(), self.mtu.into());
        }
        plugin.insert("ipam".into(), self.ipam());
        let mut capabilities = Map::new();
        if self.ipam != "dhcp" {
            capabilities.insert("ips".into(), true.into());
        }
        if matches!(driver, Driver::Bridge | Driver::Macvlan) {
            capabilities.insert("mac".into(), true.into());
        }
        if !capabilities.is_empty() {
            plugin.insert("capabilities".into(), capabilities.into());
        }
        let mut plugins = vec![Value::Object(plugin)];
        let publishes = self.publish_backend != "none" && !self.internal;
        if driver.is_routed() && publishes {
            let backend = match self.publish_backend.as_str() {
                "" => PUBLISHERS[0],
                backend => backend,
            };
            plugins.push(json!({
                "type": "portmap",
                "backend": backend,
                "capabilities": { "portMappings": true },
            }));
        }
        if driver.is_routed() {
            // Where another program's firewall drops what it does not know.
            plugins.push(json!({ "type": "firewall" }));
        }
        let mut list = Map::new();
        list.insert("cniVersion".into(), VERSIONS[0].into());
        list.insert("cniVersions".into(), VERSIONS.to_vec().into());
        list.insert("name".into(), self.name.as_str().into());
        if self.dns {
            list.insert(DNS_KEY.into(), true.into());
        }
        list.insert("plugins".into(), plugins.into());
        let mut text = serde_json::to_vec_pretty(&list)
            .map_err(|error| Error::internal(format!("cannot write a configuration: {error}")))?;
        text.push(b'\n');
        Ok(text)
    }

    /// What fits together and what does not.
    fn check(&self, driver: Driver) -> Result<()> {
        let name = driver.name();
        let needs = |what: &str, flag: &str| {
            Err(Error::invalid(format!(
                "a network of driver {name} needs {what}: give {flag}"
            )))
        };
        let has_no = |what: &str, remedy: &str| {
            Err(Error::invalid(format!(
                "a network of driver {name} has no {what}: {remedy}"
            )))
        };
        if driver.is_routed() && !self.parent.is_empty() {
            return has_no("parent", "leave out --parent, or choose --driver macvlan");
        }
        if !driver.is_routed() && self.parent.is_empty() {
            return needs("an interface of the host to be on", "--parent");
        }
        if !self.parent.is_empty() {
            check_interface(&self.parent).map_err(|e| e.context("--parent"))?;
        }
        if self.vlan > 4094 {
            return Err(Error::invalid(format!(
                "--vlan {} is no number of a vlan: give one from 1 to 4094",
                self.vlan
            )));
        }
        match (driver, self.vlan) {
            (Driver::Vlan, 0) => return needs("the number of its vlan", "--vlan"),
            (Driver::Ptp | Driver::Macvlan | Driver::Ipvlan, 1..) => {
                return has_no(
                    "vlan of its own",
                    "leave out --vlan, or choose --driver vlan",
                );
            }
            _ => {}
        }
        let modes: &[&str] = match driver {
            Driver::Macvlan => &["bridge", "private", "vepa", "passthru"],
            Driver::Ipvlan => &["l2", "l3", "l3s"],
            _ => &[],
        };
        if !self.mode.is_empty() && !modes.contains(&self.mode.as_str()) {
            if modes.is_empty() {
                return has_no("mode", "leave out --mode");
            }
            return Err(Error::invalid(format!(
                "--mode {} is no mode of driver {name}: use one of {}",
                self.mode,
                modes.join(", ")
            )));
        }
        let publisher = self.publish_backend.as_str();
        one_of("--publish-backend", publisher, &PUBLISHERS)?;
        if !matches!(publisher, "" | "none") && !driver.is_routed() {
            return has_no("published ports", "leave out --publish-backend");
        }
        if !matches!(publisher, "" | "none") && self.internal {
            return Err(Error::invalid(
                "an internal network publishes no ports: leave out --publish-backend or --internal",
            ));
        }
        if !(self.mtu == 0 || (68..=65_535).contains(&self.mtu)) {
            return Err(Error::invalid(format!(
                "--mtu {} is no size of a packet: give one from 68 to 65535",
                self.mtu
            )));
        }
        self.check_addresses(driver)
    }

    fn check_addresses(&self, driver: Driver) -> Result<()> {
        one_of("--ipam", &self.ipam, &IPAMS)?;
        if self.ipam == "dhcp" {
            if driver.is_routed() {
                return Err(Error::invalid(format!(
                    "there is no dhcp server behind a network of driver {}: leave out --ipam, or \
                     choose --driver macvlan",
                    driver.name()
                )));
            }
            let given = [
                ("--subnet", self.subnets.is_empty()),
                ("--gateway", self.gateways.is_empty()),
                ("--ip-range", self.ranges.is_empty()),
                ("--ipv6", !self.ipv6),
                // The way out is what that server says.
                ("--internal", !self.internal),
            ];
            if let Some((flag, _)) = given.iter().find(|(_, absent)| !absent) {
                return Err(Error::invalid(format!(
                    "with --ipam dhcp the server knows the addresses: leave out {flag}"
                )));
            }
            return Ok(());
        }
        for (at, subnet) in self.subnets.iter().enumerate() {
            let family = |net: &IpNet| net.addr().is_ipv6();
            let earlier = self.subnets[..at].iter();
            if let Some(earlier) = earlier.clone().find(|net| family(net) == family(subnet)) {
                return Err(Error::invalid(format!(
                    "--subnet {earlier} and --subnet {subnet} are of one family: give one of each"
                )));
            }
            let hosts = subnet.max_prefix_len() - subnet.prefix_len();
            if subnet.prefix_len() == 0 || hosts < 2 {
                return Err(Error::invalid(format!(
                    "--subnet {subnet} has no room for a gateway and containers, or is everything: \
                     give one like 10.88.0.0/24"
                )));
            }
        }
        self.of_a_subnet("--gateway", self.gateways.iter().map(|ip| IpNet::from(*ip)))?;
        self.of_a_subnet("--ip-range", self.ranges.iter().copied())
    }

    /// Each belongs to one subnet, and no two to the same.
    fn of_a_subnet(&self, flag: &str, all: impl Iterator<Item = IpNet>) -> Result<()> {
        let mut taken = Vec::new();
        for one in all {
            let shown = if one.prefix_len() == one.max_prefix_len() {
                one.addr().to_string()
            } else {
                one.to_string()
            };
            let Some(home) = self.subnets.iter().find(|subnet| subnet.contains(&one)) else {
                let subnets: Vec<_> = self.subnets.iter().map(ToString::to_string).collect();
                return Err(Error::invalid(match subnets.is_empty() {
                    true => format!("{flag} {shown} needs --subnet, of which it is a part"),
                    false => format!(
                        "{flag} {shown} is outside {}: give one of its addresses",
                        subnets.join(" and ")
                    ),
                }));
            };
            if taken.contains(&home) {
                return Err(Error::invalid(format!(
                    "{flag} is given twice for {home}: give it once"
                )));
            }
            taken.push(home);
        }
        Ok(())
    }

    /// The part of address management.
    fn ipam(&self) -> Value {
        if self.ipam == "dhcp" {
            return json!({ "type": "dhcp" });
        }
        let kind = match self.ipam.as_str() {
            "" => IPAMS[0],
            kind => kind,
        };
        let mut sets = Vec::new();
        let mut routes = Vec::new();
        for subnet in &self.subnets {
            let subnet = subnet.trunc();
            let mut range = Map::new();
            range.insert("subnet".into(), subnet.to_string().into());
            if let Some(part) = self.ranges.iter().find(|part| subnet.contains(*part)) {
                let (first, last) = usable(part, &subnet);
                range.insert("rangeStart".into(), first.to_string().into());
                range.insert("rangeEnd".into(), last.to_string().into());
            }
            let given = self.gateways.iter().find(|ip| subnet.contains(*ip));
            let gateway = given
                .copied()
                .unwrap_or_else(|| neighbour(subnet.network(), true));
            range.insert("gateway".into(), gateway.to_string().into());
            sets.push(Value::Array(vec![range.into()]));
            let everything = match subnet {
                IpNet::V4(_) => "0.0.0.0/0",
                IpNet::V6(_) => "::/0",
            };
            routes.push(json!({ "dst": everything }));
        }
        let mut ipam = Map::new();
        ipam.insert("type".into(), kind.into());
        ipam.insert("ranges".into(), sets.into());
        if !self.internal {
            ipam.insert("routes".into(), routes.into());
        }
        ipam.into()
    }
}

/// The first and last address of a part that a container may have.
fn usable(part: &IpNet, subnet: &IpNet) -> (IpAddr, IpAddr) {
    let (first, last) = (part.network(), part.broadcast());
    let first = if first == subnet.network() {
        neighbour(first, true)
    } else {
        first
    };
    let last = if last == subnet.broadcast() {
        neighbour(last, false)
    } else {
        last
    };
    (first, last)
}

/// The address after this one, or before it.
fn neighbour(ip: IpAddr, after: bool) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let ip = u32::from(ip);
            let there = if after {
                ip.wrapping_add(1)
            } else {
                ip.wrapping_sub(1)
            };
            IpAddr::V4(there.into())
        }
        IpAddr::V6(ip) => {
            let ip = u128::from(ip);
            let there = if after {
                ip.wrapping_add(1)
            } else {
                ip.wrapping_sub(1)
            };
            IpAddr::V6(there.into())
        }
    }
}

fn one_of(flag: &str, value: &str, known: &[&str]) -> Result<()> {
    if value.is_empty() || known.contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{flag} {value} is unknown: use one of {}",
        known.join(", ")
    )))
}

/// A name for a network's bridge on the host: one that people recognise where
/// the kernel's 15 characters allow it. The host's own interface in a `vlan` is called
/// after both, so that there must be room for that too.
pub fn bridge_name(network: &str, vlan: u32) -> String {
    let suffix = match vlan {
        0 => String::new(),
        vlan => format!(".{vlan}"),
    };
    let plain = format!("br-{network}");
    if check_interface(&format!("{plain}{suffix}")).is_ok() {
        return plain;
    }
    // FNV-1a: the same on every node and in every version.
    let hash = network
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let mut name = format!("br-{:012x}", hash & 0xffff_ffff_ffff);
    name.truncate(MAX_INTERFACE - suffix.len().min(MAX_VLAN_SUFFIX));
    name
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
