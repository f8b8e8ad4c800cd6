//! The result of ADD, in the shape of the newest version, and its conversion
//! from and to every supported one.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{CniVersion, JsonObject, json_kind};
use crate::{Error, Result};

/// What an ADD made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniResult {
    /// The interfaces, in the container and outside.
    pub interfaces: Vec<Interface>,
    /// The addresses.
    pub ips: Vec<IpConfig>,
    /// The routes.
    pub routes: Vec<Route>,
    /// Name resolution as the network would have it.
    pub dns: Dns,
}

/// An interface that a plugin made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The name.
    pub name: String,
    /// The hardware address.
    pub mac: Option<String>,
    /// The MTU; from 1.1.0 on.
    pub mtu: Option<u32>,
    /// The network namespace, or nothing for one on the host.
    pub sandbox: Option<String>,
    /// The path of a socket, for interfaces in user space; from 1.1.0 on.
    pub socket_path: Option<String>,
    /// The PCI device; from 1.1.0 on.
    pub pci_id: Option<String>,
}

/// An address that a plugin gave out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfig {
    /// The address with its prefix length.
    pub address: IpNet,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// The interface that has it: an index into the interfaces.
    pub interface: Option<usize>,
}

/// A route that a plugin made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The destination.
    pub dst: IpNet,
    /// The gateway; without one, the address' gateway counts.
    pub gw: Option<IpAddr>,
    /// The MTU. This and what follows came with 1.1.0; plugins of that time
    /// have it in results of every version, and so it is here, or a route of
    /// an older list would be another when it is checked.
    pub mtu: Option<u32>,
    /// The advertised segment size.
    pub advmss: Option<u32>,
    /// The metric.
    pub priority: Option<u32>,
    /// The routing table.
    pub table: Option<u32>,
    /// The scope.
    pub scope: Option<u32>,
}

/// Name resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// The servers, as written.
    pub nameservers: Vec<String>,
    /// The local domain.
    pub domain: Option<String>,
    /// The domains to search.
    pub search: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

impl CniResult {
    /// Reads a result by the version that it names.
    ///
    /// # Errors
    /// When the version is missing or not supported, or a field that Circuit
    /// reads is not what the specification says. Unknown keys are no error.
    pub fn parse(value: &Value) -> Result<Self> {
        let object = as_object("result", value)?;
        let version = text(object, "cniVersion")?
            .ok_or_else(|| Error::invalid("result has no cniVersion"))?;
        Self::parse_version(object, &version)
    }

    /// Reads a result; one that names no version counts as being of `default`.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_or(value: &Value, default: CniVersion) -> Result<Self> {
        let object = as_object("result", value)?;
        let version = text(object, "cniVersion")?.unwrap_or_else(|| default.to_string());
        Self::parse_version(object, &version)
    }

    fn parse_version(object: &JsonObject, version: &str) -> Result<Self> {
        let version: CniVersion = version.parse()?;
        if !version.is_supported() {
            return Err(Error::invalid(format!(
                "result has cniVersion {version}, which is not supported"
            )));
        }
        Ok(Self {
            interfaces: list(object, "interfaces", |o| Interface::parse(o, version))?,
            ips: list(object, "ips", IpConfig::parse)?,
            routes: list(object, "routes", |o| Route::parse(o, version))?,
            dns: match object.get("dns") {
                None | Some(Value::Null) => Dns::default(),
                Some(dns) => as_object("dns", dns).and_then(Dns::parse)?,
            },
        })
    }

    /// The result as JSON of the given version; what that version cannot say
    /// is left out.
    pub fn to_version(&self, version: CniVersion) -> Value {
        let mut object = JsonObject::new();
        object.insert("cniVersion".to_owned(), version.as_str().into());
        let lists: [(&str, Vec<Value>); 3] = [
            (
                "interfaces",
                self.interfaces.iter().map(|i| i.to_json(version)).collect(),
            ),
            (
                "ips",
                self.ips.iter().map(|ip| ip.to_json(version)).collect(),
            ),
            ("routes", self.routes.iter().map(Route::to_json).collect()),
        ];
        for (key, values) in lists {
            if !values.is_empty() {
                object.insert(key.to_owned(), values.into());
            }
        }
        // Before 1.0.0 it is always there, as the plugins write it.
        let dns = self.dns.to_json();
        if version < CniVersion::V1_0_0 || dns.as_object().is_some_and(|dns| !dns.is_empty()) {
            object.insert("dns".to_owned(), dns);
        }
        object.into()
    }

    /// The container's interface of that name; `sandbox` narrows it to one
    /// network namespace.
    pub fn interface(&self, ifname: &str, sandbox: Option<&str>) -> Option<&Interface> {
        self.interfaces
            .iter()
            .find(|interface| interface.is(ifname, sandbox))
    }

    /// The addresses of the container's interface of that name. One that names
    /// no interface counts too: plugins before 0.3 knew but one. Where no interface
    /// is in `sandbox`, the plugin has written its path in another way.
    pub fn ips_of(&self, ifname: &str, sandbox: Option<&str>) -> Vec<IpNet> {
        let sandbox = sandbox.filter(|_| self.interface(ifname, sandbox).is_some());
        let belongs = |ip: &&IpConfig| match ip.interface {
            None => true,
            Some(index) => self
                .interfaces
                .get(index)
                .is_some_and(|i| i.is(ifname, sandbox)),
        };
        self.ips
            .iter()
            .filter(belongs)
            .map(|ip| ip.address)
            .collect()
    }

    /// The hardware address of the container's interface of that name.
    pub fn mac_of(&self, ifname: &str) -> Option<&str> {
        self.interface(ifname, None)?.mac.as_deref()
    }
}

impl Interface {
    fn is(&self, ifname: &str, sandbox: Option<&str>) -> bool {
        self.name == ifname
            && self.sandbox.is_some()
            && (sandbox.is_none() || self.sandbox.as_deref() == sandbox)
    }

    fn parse(object: &JsonObject, version: CniVersion) -> Result<Self> {
        let mut interface = Self {
            name: text(object, "name")?.unwrap_or_default(),
            mac: text(object, "mac")?,
            sandbox: text(object, "sandbox")?,
            ..Self::default()
        };
        if version.has_details() {
            interface.mtu = number(object, "mtu")?.filter(|mtu| *mtu != 0);
            interface.socket_path = text(object, "socketPath")?;
            interface.pci_id = text(object, "pciID")?;
        }
        Ok(interface)
    }

    fn to_json(&self, version: CniVersion) -> Value {
        let mut object = JsonObject::new();
        object.insert("name".to_owned(), self.name.as_str().into());
        put(&mut object, "mac", self.mac.as_deref());
        if version.has_details() {
            put(&mut object, "mtu", self.mtu);
        }
        put(&mut object, "sandbox", self.sandbox.as_deref());
        if version.has_details() {
            put(&mut object, "socketPath", self.socket_path.as_deref());
            put(&mut object, "pciID", self.pci_id.as_deref());
        }
        object.into()
    }
}

impl IpConfig {
    fn parse(object: &JsonObject) -> Result<Self> {
        let address = text(object, "address")?
            .ok_or_else(|| Error::invalid("has no address: an address with a prefix length"))?;
        let address = address.parse().map_err(|_| {
            Error::invalid(format!(
                "address {address:?} has no prefix length or is no address"
            ))
        })?;
        let interface = match object.get("interface") {
            None | Some(Value::Null) => None,
            // Negative numbers mean that there is no interface to name.
            Some(Value::Number(n)) if n.as_f64().is_some_and(|n| n < 0.0) => None,
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(index) => Some(index),
                None => return Err(Error::invalid(format!("interface {value} is no index"))),
            },
        };
        Ok(Self {
            address,
            gateway: address_of(object, "gateway")?,
            interface,
        })
    }

    fn to_json(&self, version: CniVersion) -> Value {
        let mut object = JsonObject::new();
        if version.has_address_version() {
            let family = if self.address.addr().is_ipv4() {
                "4"
            } else {
                "6"
            };
            object.insert("version".to_owned(), family.into());
        }
        put(&mut object, "interface", self.interface);
        object.insert("address".to_owned(), self.address.to_string().into());
        put(
            &mut object,
            "gateway",
            self.gateway.map(|gateway| gateway.to_string()),
        );
        object.into()
    }
}

impl Route {
    /// A route with a destination and a gateway only.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self {
            dst,
            gw,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }

    fn parse(object: &JsonObject, version: CniVersion) -> Result<Self> {
        let dst = text(object, "dst")?.ok_or_else(|| Error::invalid("has no dst"))?;
        let dst = dst
            .parse()
            .map_err(|_| Error::invalid(format!("dst {dst:?} is no destination with a prefix")))?;
        // An older version gives these keys no meaning.
        let detail = |key| match number(object, key) {
            Err(_) if !version.has_details() => Ok(None),
            other => other,
        };
        // Zero is what "not said" looks like for these three.
        let said = |key| Ok::<_, Error>(detail(key)?.filter(|n| *n != 0));
        Ok(Self {
            mtu: said("mtu")?,
            advmss: said("advmss")?,
            priority: said("priority")?,
            table: detail("table")?,
            scope: detail("scope")?,
            ..Self::new(dst, address_of(object, "gw")?)
        })
    }

    fn to_json(&self) -> Value {
        let mut object = JsonObject::new();
        object.insert("dst".to_owned(), self.dst.to_string().into());
        put(&mut object, "gw", self.gw.map(|gw| gw.to_string()));
        put(&mut object, "mtu", self.mtu);
        put(&mut object, "advmss", self.advmss);
        put(&mut object, "priority", self.priority);
        put(&mut object, "table", self.table);
        put(&mut object, "scope", self.scope);
        object.into()
    }
}

impl Dns {
    fn parse(object: &JsonObject) -> Result<Self> {
        let parse = || {
            Ok(Self {
                nameservers: texts(object, "nameservers")?,
                domain: text(object, "domain")?,
                search: texts(object, "search")?,
                options: texts(object, "options")?,
            })
        };
        parse().map_err(|e: Error| e.context("dns"))
    }

    fn to_json(&self) -> Value {
        let mut object = JsonObject::new();
        let list = |texts: &Vec<String>| (!texts.is_empty()).then(|| json!(texts));
        put(&mut object, "nameservers", list(&self.nameservers));
        put(&mut object, "domain", self.domain.as_deref());
        put(&mut object, "search", list(&self.search));
        put(&mut object, "options", list(&self.options));
        object.into()
    }
}

fn put(object: &mut JsonObject, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}

fn as_object<'a>(what: &str, value: &'a Value) -> Result<&'a JsonObject> {
    value
        .as_object()
        .ok_or_else(|| Error::invalid(format!("{what} is {}, not an object", json_kind(value))))
}

/// The elements of an array of objects; the error of one says which it is.
fn list<T>(
    object: &JsonObject,
    key: &str,
    parse: impl Fn(&JsonObject) -> Result<T>,
) -> Result<Vec<T>> {
    let values = match object.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(other) => {
            return Err(Error::invalid(format!(
                "{key} is {}, not an array",
                json_kind(other)
            )));
        }
    };
    let element = |(index, value)| {
        as_object("entry", value)
            .and_then(&parse)
            .map_err(|e| e.context(format!("{key}[{index}]")))
    };
    values.iter().enumerate().map(element).collect()
}

/// A text; an empty one counts as absent.
fn text(object: &JsonObject, key: &str) -> Result<Option<String>> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(other) => Err(Error::invalid(format!(
            "{key} is {}, not a string",
            json_kind(other)
        ))),
    }
}

fn texts(object: &JsonObject, key: &str) -> Result<Vec<String>> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) if values.iter().all(Value::is_string) => Ok(values
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()),
        Some(_) => Err(Error::invalid(format!("{key} is not an array of strings"))),
    }
}

fn number(object: &JsonObject, key: &str) -> Result<Option<u32>> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("{key} is {value}, not a number of 32 bits"))),
    }
}

fn address_of(object: &JsonObject, key: &str) -> Result<Option<IpAddr>> {
    let parse = |text: String| {
        text.parse()
            .map_err(|_| Error::invalid(format!("{key} {text:?} is not an address")))
    };
    text(object, key)?.map(parse).transpose()
}

#[cfg(test)]
#[path = "result_tests.rs"]
mod tests;
