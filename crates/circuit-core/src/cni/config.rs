//! Configuration lists, and single plugins' configurations read as lists of one.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::Value;

use super::{AnyCase as _, CniVersion, DataPath, IpamConfig, JsonObject, json_kind};
use crate::{Error, Result};

/// The key of a configuration list that says how its default route stands to
/// those of a container's other networks.
pub const GW_PRIORITY_KEY: &str = "io.circuit.gw-priority";

/// The key of a configuration list that asks for names: its containers find a
/// server for them in their `/etc/resolv.conf`.
pub const DNS_KEY: &str = "io.circuit.dns";

/// Keys of a list that say nothing to its plugins.
const LIST_KEYS: [&str; 7] = [
    "cniVersions",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    DataPath::KEY,
    GW_PRIORITY_KEY,
    DNS_KEY,
];

/// The largest configuration that is read; a real one has a few kilobytes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// The longest name of an interface.
const MAX_INTERFACE: usize = 15;

/// A network's configuration: plugins that run one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigList {
    /// The network's name inside CNI.
    pub name: String,
    /// The version in which the plugins are spoken to: the highest usable one.
    pub cni_version: CniVersion,
    /// Every usable version that the list offers, newest first.
    pub versions: Vec<CniVersion>,
    /// CHECK is not to be run.
    pub disable_check: bool,
    /// GC is not to be run: another runtime uses the network too.
    pub disable_gc: bool,
    /// Which way its plugins are run, when it says so itself.
    pub data_path: Option<DataPath>,
    /// Whether a container's default route leads here rather than to its other
    /// networks: the highest number wins, networks without one have 0.
    pub gw_priority: Option<i32>,
    /// Whether its containers ask this node for names.
    pub dns: bool,
    /// The plugins, in the order of ADD; never empty.
    pub plugins: Vec<PluginConfig>,
}

/// One plugin's part of a configuration list.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// The plugin's `type`: the file name of its executable.
    pub kind: String,
    /// The capabilities that it declares as `true`.
    pub capabilities: BTreeSet<String>,
    /// The configuration as it was written: see [`AnyCase`](super::AnyCase).
    pub raw: JsonObject,
}

impl ConfigList {
    /// Reads a configuration list, or a single plugin's configuration.
    ///
    /// # Errors
    /// An [`InvalidArgument`](crate::ErrorKind::InvalidArgument) that names
    /// the place and the remedy.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let top = parse_object(bytes)?;
        let plugins = parse_plugins(&top)?;
        let versions = parse_versions(&top)?;
        let Some(&cni_version) = versions.first() else {
            return Err(Error::invalid("no usable cniVersion"));
        };
        Ok(Self {
            name: parse_name(&top)?,
            cni_version,
            versions,
            disable_check: parse_switch(&top, "disableCheck")?,
            disable_gc: parse_switch(&top, "disableGC")?,
            data_path: parse_data_path(&top)?,
            gw_priority: parse_gw_priority(&top)?,
            dns: parse_switch(&top, DNS_KEY)?,
            plugins,
        })
    }

    /// The same list, spoken in another version.
    #[must_use]
    pub fn at_version(&self, version: CniVersion) -> Self {
        Self {
            cni_version: version,
            ..self.clone()
        }
    }

    /// The first plugin's type.
    pub fn first_kind(&self) -> &str {
        self.plugins
            .first()
            .map_or("", |plugin| plugin.kind.as_str())
    }

    /// Whether a plugin of this type is in the list.
    pub fn uses(&self, kind: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.kind == kind)
    }

    /// Whether some plugin declares the capability.
    pub fn declares(&self, capability: &str) -> bool {
        self.plugins
            .iter()
            .any(|plugin| plugin.capabilities.contains(capability))
    }

    /// The type of address management of the first plugin that has one.
    pub fn ipam_kind(&self) -> Option<&str> {
        self.plugins.iter().find_map(|plugin| plugin.ipam()?.kind())
    }

    /// The subnets from which the network's addresses come, without repeats;
    /// what cannot be read as a subnet is left to [`validate`](Self::validate).
    pub fn subnets(&self) -> Vec<IpNet> {
        let mut subnets = Vec::new();
        for subnet in self
            .plugins
            .iter()
            .filter_map(PluginConfig::ipam)
            .flat_map(|i| i.subnets())
        {
            if !subnets.contains(&subnet) {
                subnets.push(subnet);
            }
        }
        subnets
    }

    /// Whether its containers reach beyond the host by its forwarding, of IPv4 or IPv6.
    pub fn leads_out(&self, ipv6: bool) -> bool {
        let by_forwarding = self.plugins.iter().any(|plugin| {
            let is = |key| plugin.raw.find(key).and_then(Value::as_bool) == Some(true);
            plugin.kind == "ptp" || plugin.kind == "bridge" && (is("isGateway") || is("ipMasq"))
        });
        by_forwarding && self.subnets().iter().any(|it| it.addr().is_ipv6() == ipv6)
    }

    /// Checks what would only be refused at the first ADD: that subnets, ranges and
    /// gateways parse and fit together, and that a bridge's VLAN has a name.
    ///
    /// # Errors
    /// An [`InvalidArgument`](crate::ErrorKind::InvalidArgument) that names
    /// the field.
    pub fn validate(&self) -> Result<()> {
        for (index, plugin) in self.plugins.iter().enumerate() {
            let checked = plugin.ipam().map_or(Ok(()), |ipam| ipam.validate());
            checked
                .and_then(|()| plugin.check_vlan())
                .map_err(|e| e.context(format!("plugins[{index}] ({})", plugin.kind)))?;
        }
        Ok(())
    }
}

impl PluginConfig {
    /// The plugin's address management, if it has any.
    pub fn ipam(&self) -> Option<IpamConfig<'_>> {
        let ipam = self.raw.find("ipam")?.as_object()?;
        (!ipam.is_empty()).then(|| IpamConfig::new(ipam))
    }

    /// A gateway in a VLAN of a bridge is an interface of the host, which is called
    /// after both.
    fn check_vlan(&self) -> Result<()> {
        let is = |key| self.raw.find(key).and_then(Value::as_bool) == Some(true);
        let vlan = self.raw.find("vlan").and_then(Value::as_u64).unwrap_or(0);
        let is_gateway = is("isGateway") || is("isDefaultGateway");
        if self.kind != "bridge" || vlan == 0 || !is_gateway || self.ipam().is_none() {
            return Ok(());
        }
        let named = self.raw.find("bridge").and_then(Value::as_str);
        let bridge = named.filter(|name| !name.is_empty()).unwrap_or("cni0");
        let interface = format!("{bridge}.{vlan}");
        let room = MAX_INTERFACE.saturating_sub(interface.len() - bridge.len());
        if bridge.len() <= room {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the gateway in vlan {vlan} would be the interface {interface}, whose name is too long \
             for the kernel: give a \"bridge\" whose name has at most {room} characters"
        )))
    }

    fn parse(value: &Value) -> Result<Self> {
        let Value::Object(raw) = value else {
            return Err(Error::invalid(format!(
                "is {}, not an object",
                json_kind(value)
            )));
        };
        let kind = match raw.find("type") {
            Some(Value::String(kind)) if !kind.is_empty() => kind.clone(),
            None | Some(Value::Null | Value::String(_)) => {
                return Err(Error::invalid(
                    "has no \"type\": name the plugin's executable",
                ));
            }
            Some(other) => {
                return Err(Error::invalid(format!(
                    "type is {}, not a string",
                    json_kind(other)
                )));
            }
        };
        if !is_file_name(&kind) {
            return Err(Error::invalid(format!(
                "type {kind:?} is not a plain file name: use the plugin's name without a folder"
            )));
        }
        Ok(Self {
            kind,
            capabilities: parse_capabilities(raw)?,
            raw: raw.clone(),
        })
    }
}

/// Whether the text can name a network: what the CNI specification allows.
pub fn is_network_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// A plugin's type becomes part of a path: no folder, no hidden file, nothing
/// that could be taken for an option.
fn is_file_name(kind: &str) -> bool {
    kind.len() <= 255
        && !kind.starts_with(['.', '-'])
        && kind.chars().all(|c| c.is_ascii_graphic() && c != '/')
}

fn parse_object(bytes: &[u8]) -> Result<JsonObject> {
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(Error::invalid(format!(
            "configuration has {} bytes, more than the {MAX_CONFIG_BYTES} that are read",
            bytes.len()
        )));
    }
    // Editors on some systems put a byte order mark in front.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(top)) => Ok(top),
        Ok(other) => Err(Error::invalid(format!(
            "not a cni configuration: the top is {}, not an object",
            json_kind(&other)
        ))),
        Err(e) if e.line() == 0 => Err(Error::invalid(format!("not valid json: {e}"))),
        Err(e) => {
            let text = e.to_string();
            let place = format!(" at line {} column {}", e.line(), e.column());
            let text = text.strip_suffix(&place).unwrap_or(&text);
            Err(Error::invalid(format!(
                "not valid json, line {} column {}: {text}",
                e.line(),
                e.column()
            )))
        }
    }
}

fn parse_plugins(top: &JsonObject) -> Result<Vec<PluginConfig>> {
    let plugins = match top.get("plugins") {
        None if top.contains_key("type") => {
            // It is the list and its plugin in one: a driver would not know the list's keys.
            let mut single = top.clone();
            single.retain(|key, _| !LIST_KEYS.contains(&key.as_str()));
            let single = PluginConfig::parse(&Value::Object(single));
            return Ok(vec![single.map_err(|e| e.context("plugin"))?]);
        }
        None => {
            return Err(Error::invalid(
                "not a cni configuration: neither a list (\"plugins\") \
                 nor a single plugin's (\"type\")",
            ));
        }
        Some(Value::Array(plugins)) => plugins,
        Some(other) => {
            return Err(Error::invalid(format!(
                "plugins is {}, not an array",
                json_kind(other)
            )));
        }
    };
    if plugins.is_empty() {
        return Err(Error::invalid("plugins is empty: name at least one plugin"));
    }
    let parse = |(index, value)| {
        PluginConfig::parse(value).map_err(|e| e.context(format!("plugins[{index}]")))
    };
    plugins.iter().enumerate().map(parse).collect()
}

fn parse_name(top: &JsonObject) -> Result<String> {
    match top.get("name") {
        Some(Value::String(name)) if is_network_name(name) => Ok(name.clone()),
        Some(Value::String(name)) if !name.is_empty() => Err(Error::invalid(format!(
            "name {name:?} is not a network name: \
             begin with a letter or digit, then letters, digits, '_', '.' and '-'"
        ))),
        None | Some(Value::Null | Value::String(_)) => {
            Err(Error::invalid("name is missing: add \"name\""))
        }
        Some(other) => Err(Error::invalid(format!(
            "name is {}, not a string",
            json_kind(other)
        ))),
    }
}

fn parse_versions(top: &JsonObject) -> Result<Vec<CniVersion>> {
    let mut offered = Vec::new();
    match top.get("cniVersion") {
        None | Some(Value::Null) => {}
        Some(Value::String(version)) if version.is_empty() => {}
        Some(Value::String(version)) => offered.push(version.as_str()),
        Some(other) => {
            return Err(Error::invalid(format!(
                "cniVersion is {}, not a string",
                json_kind(other)
            )));
        }
    }
    match top.get("cniVersions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(versions)) if versions.iter().all(Value::is_string) => {
            offered.extend(versions.iter().filter_map(Value::as_str));
        }
        Some(_) => return Err(Error::invalid("cniVersions is not an array of strings")),
    }
    let usable = CniVersion::usable(offered.iter().copied());
    let is_old = |text: &&str| text.parse::<CniVersion>().is_ok();
    if usable.is_empty() && (offered.is_empty() || offered.iter().any(is_old)) {
        return Ok(vec![CniVersion::FOR_OLDER]);
    }
    if usable.is_empty() {
        return Err(Error::invalid(format!(
            "cniVersion {} is not supported, use one of {}",
            offered
                .iter()
                .map(|version| format!("{version:?}"))
                .collect::<Vec<_>>()
                .join(", "),
            CniVersion::supported_text()
        )));
    }
    Ok(usable)
}

fn parse_data_path(top: &JsonObject) -> Result<Option<DataPath>> {
    let key = DataPath::KEY;
    match top.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|e: Error| e.context(key)),
        Some(other) => Err(Error::invalid(format!(
            "{key} is {}, not a string",
            json_kind(other)
        ))),
    }
}

fn parse_gw_priority(top: &JsonObject) -> Result<Option<i32>> {
    let key = GW_PRIORITY_KEY;
    match top.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_i64().and_then(|n| i32::try_from(n).ok()) {
            Some(priority) => Ok(Some(priority)),
            None => Err(Error::invalid(format!(
                "{key} is {value}, not a whole number"
            ))),
        },
    }
}

/// Both a boolean and its text are in use.
fn parse_switch(top: &JsonObject, key: &str) -> Result<bool> {
    match top.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(Error::invalid(format!(
            "{key} is {other}, not true or false"
        ))),
    }
}

fn parse_capabilities(raw: &JsonObject) -> Result<BTreeSet<String>> {
    let declared = match raw.find("capabilities") {
        None | Some(Value::Null) => return Ok(BTreeSet::new()),
        Some(Value::Object(declared)) => declared,
        Some(other) => {
            return Err(Error::invalid(format!(
                "capabilities is {}, not an object of booleans",
                json_kind(other)
            )));
        }
    };
    let mut capabilities = BTreeSet::new();
    for (name, value) in declared {
        match value {
            Value::Bool(true) => {
                capabilities.insert(name.clone());
            }
            Value::Bool(false) | Value::Null => {}
            other => {
                return Err(Error::invalid(format!(
                    "capabilities.{name} is {}, not a boolean",
                    json_kind(other)
                )));
            }
        }
    }
    Ok(capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = br#"{
      "cniVersion": "0.4.0", "cniVersions": ["1.0.0", "2.0.0"], "name": "ctr0",
      "disableCheck": "TRUE", "disableGC": true, "io.circuit.data-path": "exec",
      "io.circuit.gw-priority": 7,
      "plugins": [
        {"type": "bridge", "bridge": "ctr0", "ipam": {"type": "host-local", "ranges": [
            [{"subnet": "10.77.0.0/24", "gateway": "10.78.0.1"}], [{"subnet": "fd00:77::/64"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true, "mac": false}},
        {"type": "x", "ipam": {"type": "static", "addresses": [{"address": "10.78.3.4/16"}]}}
      ]}"#;

    fn message(text: &str) -> String {
        let error = ConfigList::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
        error.message().to_owned()
    }

    fn range_error(range: &str) -> String {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"n","type":"bridge",
                "ipam":{{"type":"host-local","ranges":[[{range}]]}}}}"#
        );
        let list = ConfigList::parse(text.as_bytes()).unwrap();
        list.validate().unwrap_err().message().to_owned()
    }

    #[test]
    fn a_list_is_read() {
        let list = ConfigList::parse(LIST).unwrap();
        assert_eq!(list.name, "ctr0");
        assert_eq!(list.cni_version, CniVersion::V1_0_0);
        assert_eq!(list.versions, [CniVersion::V1_0_0, CniVersion::V0_4_0]);
        assert!(list.disable_check && list.disable_gc);
        assert_eq!(list.data_path, Some(DataPath::Exec));
        assert_eq!(list.gw_priority, Some(7));
        assert_eq!(list.first_kind(), "bridge");
        assert!(list.uses("portmap") && !list.uses("firewall"));
        assert!(list.declares("portMappings") && !list.declares("mac"));
        assert_eq!(list.ipam_kind(), Some("host-local"));
        let subnets: Vec<_> = list.subnets().iter().map(ToString::to_string).collect();
        assert_eq!(subnets, ["10.77.0.0/24", "fd00:77::/64", "10.78.0.0/16"]);
        list.validate().unwrap();
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list = ConfigList::parse(
            br#"{"cniVersion":"0.3.1","name":"one","type":"ptp",
                 "ipam":{"type":"host-local","subnet":"10.1.0.0/16"}}"#,
        )
        .unwrap();
        assert_eq!((list.plugins.len(), list.first_kind()), (1, "ptp"));
        assert_eq!(list.data_path, None);
        assert_eq!(list.subnets(), ["10.1.0.0/16".parse().unwrap()]);
        list.validate().unwrap();
    }

    #[test]
    fn keys_of_plugins_are_read_in_any_letters_and_kept_as_written() {
        let list = ConfigList::parse(
            br#"{"cniVersion":"1.0.0","name":"one","plugins":[{"Type":"bridge","isgateway":true,
                 "IPAM":{"type":"host-local","Subnet":"10.1.0.0/16"},
                 "Capabilities":{"portMappings":true}}]}"#,
        )
        .unwrap();
        let plugin = &list.plugins[0];
        assert_eq!(
            (list.first_kind(), list.ipam_kind()),
            ("bridge", Some("host-local"))
        );
        assert_eq!(list.subnets(), ["10.1.0.0/16".parse().unwrap()]);
        assert!(list.declares("portMappings"));
        assert!(plugin.raw.contains_key("isgateway") && plugin.raw.contains_key("IPAM"));
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_the_reason() {
        assert!(message("{\n\"a\": }").starts_with("not valid json, line 2 column 6: expected"));
        assert!(message("").contains("not valid json"));
        assert!(message("[]").contains("the top is an array"));
        assert!(message("{}").contains("neither a list"));
        assert!(message(r#"{"plugins":[]}"#).contains("plugins is empty"));
        assert!(message(r#"{"plugins":{}}"#).contains("plugins is an object"));
        assert!(message(r#"{"plugins":[{"type":"a"},3]}"#).contains("plugins[1]: is a number"));
        assert!(message(r#"{"plugins":[{}]}"#).contains("plugins[0]: has no \"type\""));
        assert!(message(r#"{"type":7}"#).contains("type is a number"));
        for kind in ["../x", "a/b", ".", "..", "-rf", "a b", r"a\u0000", "é"] {
            let text = format!(r#"{{"plugins":[{{"type":"{kind}"}}]}}"#);
            assert!(message(&text).contains("not a plain file name"), "{kind:?}");
        }
    }

    #[test]
    fn names_and_versions_are_checked() {
        let with = |rest: &str| message(&format!(r#"{{"type":"bridge",{rest}}}"#));
        assert!(with(r#""cniVersion":"1.0.0""#).contains("name is missing"));
        assert!(with(r#""cniVersion":"1.0.0","name":"-a""#).contains("not a network name"));
        assert!(with(r#""cniVersion":"1.0.0","name":"a/b""#).contains("not a network name"));
        assert!(
            with(r#""cniVersion":"7","name":"a""#).contains("\"7\" is not supported, use one of")
        );
        assert!(with(r#""cniVersion":1,"name":"a""#).contains("cniVersion is a number"));
        assert!(
            with(r#""cniVersion":"1.0.0","name":"a","disableGC":"maybe""#)
                .contains("disableGC is \"maybe\"")
        );
        assert!(
            with(r#""cniVersion":"1.0.0","name":"a","io.circuit.data-path":"fast""#)
                .contains("io.circuit.data-path: \"fast\" is not auto, native or exec")
        );
        assert!(
            with(r#""cniVersion":"1.0.0","name":"a","io.circuit.gw-priority":"high""#)
                .contains("io.circuit.gw-priority is \"high\", not a whole number")
        );
        assert!(
            with(r#""cniVersion":"1.0.0","name":"a","capabilities":{"ips":1}"#)
                .contains("capabilities.ips is a number")
        );
    }

    #[test]
    fn lists_of_before_0_3_0_are_spoken_in_0_3_1() {
        for version in [
            "",
            r#""cniVersion":"","#,
            r#""cniVersion":null,"#,
            r#""cniVersion":"0.1.0","#,
            r#""cniVersion":"0.2.0","#,
            r#""cniVersions":["0.1.0","0.2.0","7"],"#,
        ] {
            let text = format!(r#"{{{version}"type":"bridge","name":"a"}}"#);
            let list = ConfigList::parse(text.as_bytes()).unwrap();
            assert_eq!(list.versions, [CniVersion::V0_3_1], "{version}");
            assert_eq!(list.cni_version, CniVersion::V0_3_1);
        }
        let newer = br#"{"cniVersion":"0.2.0","cniVersions":["1.0.0"],"type":"x","name":"a"}"#;
        let newer = ConfigList::parse(newer).unwrap();
        assert_eq!(newer.versions, [CniVersion::V1_0_0]);
    }

    #[test]
    fn ranges_must_fit_their_subnet() {
        let place = "plugins[0] (bridge): ipam.ranges[0][0].";
        let same =
            |range: &str, text: &str| assert_eq!(range_error(range), format!("{place}{text}"));
        same("{}", "subnet is missing: give a subnet");
        same(
            r#"{"subnet":"10.0.0.0/8","gateway":"x"}"#,
            "gateway \"x\" is not an address",
        );
        same(
            r#"{"subnet":"10.0.0.1/8"}"#,
            "subnet 10.0.0.1/8 is an address in a subnet: write 10.0.0.0/8",
        );
        same(
            r#"{"subnet":"10.0.0.0/8","rangeStart":"11.0.0.1"}"#,
            "rangeStart 11.0.0.1 is not in subnet 10.0.0.0/8",
        );
        same(
            r#"{"subnet":"10.0.0.0/8","rangeStart":"x"}"#,
            "rangeStart \"x\" is not an address",
        );
        same(
            r#"{"subnet":"10.0.0.0/8","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.8"}"#,
            "rangeStart 10.0.0.9 is after rangeEnd 10.0.0.8: exchange them",
        );
        same(
            r#"{"subnet":"10.0.0.4/31"}"#,
            "subnet 10.0.0.4/31 is too small to give out addresses, use at most /30",
        );
        assert!(range_error(r#"{"subnet":"10.0.0.0"}"#).contains("prefix length"));
        assert!(range_error(r#"{"subnet":4}"#).contains("subnet is a number"));
        assert!(range_error("3").contains("ranges[0][0] is not an object"));
    }
}
