//! Keys of plugins' configurations as they are documented, however they are written.
//!
//! The stock plugins read JSON as Go's library does: a key may be written in capitals
//! or not. Runtimes rely on it: those made with containerd's `go-cni`, CRI among them,
//! hand over `HostPort` where `hostPort` is documented.

use std::borrow::Cow;

use serde_json::Value;

use super::JsonObject;

/// Every key that a driver, or the daemon, reads, of the specification and of plugins.
const KEYS: &[&str] = &[
    // The specification's own, and what runtimes put in.
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "cni",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "dns",
    "ipam",
    "nameservers",
    "domain",
    "search",
    "options",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
    "containerID",
    "ifname",
    // The conventions of `runtimeConfig` and `args`.
    "portMappings",
    "hostPort",
    "containerPort",
    "protocol",
    "hostIP",
    "bandwidth",
    "ips",
    "mac",
    "ipRanges",
    "deviceID",
    // Interfaces.
    "bridge",
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "ipMasq",
    "ipMasqBackend",
    "mtu",
    "hairpinMode",
    "promiscMode",
    "vlan",
    "vlanTrunk",
    "id",
    "minID",
    "maxID",
    "preserveDefaultVlan",
    "macspoofchk",
    "enabledad",
    "disableContainerInterface",
    "portIsolation",
    "master",
    "mode",
    "linkInContainer",
    "bcqueuelen",
    "vlanId",
    "device",
    "hwaddr",
    "kernelpath",
    "pciBusID",
    // Addresses.
    "addresses",
    "address",
    "gateway",
    "routes",
    "dst",
    "gw",
    "advmss",
    "priority",
    "table",
    "scope",
    "ranges",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "exclude",
    "pool",
    "socket",
    "resolvConf",
    "dataDir",
    "daemonSocketPath",
    "request",
    "provide",
    "skipDefault",
    "option",
    "value",
    "fromArg",
    // What comes behind them in a list.
    "backend",
    "snat",
    "conditionsV4",
    "conditionsV6",
    "masqAll",
    "markMasqBit",
    "externalSetMarkChain",
    "iptablesAdminChainName",
    "firewalldZone",
    "ingressPolicy",
    "ingressRate",
    "ingressBurst",
    "egressRate",
    "egressBurst",
    "shapedSubnets",
    "unshapedSubnets",
    "sysctl",
    "promisc",
    "allmulti",
    "txQLen",
];

/// Under these, names are whoever's: the kernel's, or another plugin's.
const OTHERS: [&str; 3] = ["sysctl", "prevResult", "capabilities"];

/// The types of address management whose keys these are.
const MANAGEMENT: [&str; 4] = ["circuit", "dhcp", "host-local", "static"];

/// Whether the names under a key are another's to read.
fn is_others(name: &str, value: &Value) -> bool {
    let foreign = |ipam: &JsonObject| {
        let mut types = ipam.iter().filter(|(key, _)| documented(key) == "type");
        types.any(|(_, kind)| {
            kind.as_str()
                .is_some_and(|kind| !MANAGEMENT.contains(&kind))
        })
    };
    OTHERS.contains(&name) || (name == "ipam" && value.as_object().is_some_and(foreign))
}

/// The configuration with the keys that drivers read spelled as documented. Where a key
/// is there in both spellings, the documented one counts.
pub fn as_documented(config: &JsonObject) -> Cow<'_, JsonObject> {
    match config.iter().all(|(key, value)| is_documented(key, value)) {
        true => Cow::Borrowed(config),
        false => Cow::Owned(respelled(config)),
    }
}

fn is_documented(key: &str, value: &Value) -> bool {
    let name = documented(key);
    name == key && (is_others(name, value) || is_documented_inside(value))
}

fn is_documented_inside(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.iter().all(|(key, value)| is_documented(key, value)),
        Value::Array(values) => values.iter().all(is_documented_inside),
        _ => true,
    }
}

fn respelled(object: &JsonObject) -> JsonObject {
    let mut all = JsonObject::new();
    for (key, value) in object {
        let name = documented(key);
        if name != key && object.contains_key(name) {
            continue;
        }
        let value = match is_others(name, value) {
            true => value.clone(),
            false => respelled_inside(value),
        };
        all.insert(name.to_owned(), value);
    }
    all
}

fn respelled_inside(value: &Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(respelled(object)),
        Value::Array(values) => values.iter().map(respelled_inside).collect(),
        other => other.clone(),
    }
}

/// The documented spelling of a key; the key itself when nobody here knows it.
fn documented(key: &str) -> &str {
    let known = KEYS.iter().find(|known| known.eq_ignore_ascii_case(key));
    known.copied().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> JsonObject {
        let Value::Object(object) = value else {
            panic!("{value} is no object")
        };
        object
    }

    #[test]
    fn each_key_has_one_spelling() {
        for key in KEYS {
            assert_eq!(documented(key), *key);
            assert_eq!(documented(&key.to_uppercase()), *key);
            assert_eq!(documented(&key.to_lowercase()), *key);
        }
    }

    #[test]
    fn what_go_cni_hands_over_is_read() {
        let written = object(json!({
            "type": "portmap", "name": "pods",
            "RuntimeConfig": {
                "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
                "bandwidth": {"IngressRate": 1, "IngressBurst": 2, "EgressRate": 3, "EgressBurst": 4},
                "ipRanges": [[{"Subnet": "10.1.0.0/16", "RangeStart": "10.1.0.9"}]],
            },
        }));
        let read = as_documented(&written);
        let wanted = json!({
            "type": "portmap", "name": "pods",
            "runtimeConfig": {
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
                "bandwidth": {"ingressRate": 1, "ingressBurst": 2, "egressRate": 3, "egressBurst": 4},
                "ipRanges": [[{"subnet": "10.1.0.0/16", "rangeStart": "10.1.0.9"}]],
            },
        });
        assert_eq!(Value::Object(read.into_owned()), wanted);
    }

    #[test]
    fn what_is_documented_already_is_not_copied() {
        let written = object(json!({
            "type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.mtu": "1", "MTU": "2"},
            "capabilities": {"portmappings": true}, "prevResult": {"IPs": []}, "com.example/Key": 1,
            "ipam": {"type": "example.com/ipam", "Subnet": "10.1.0.0/16"},
        }));
        assert!(matches!(as_documented(&written), Cow::Borrowed(_)));
    }

    #[test]
    fn of_two_spellings_the_documented_one_counts() {
        let written = object(json!({"MTU": 1400, "mtu": 1500, "Mtu": 1600}));
        let read = as_documented(&written).into_owned();
        assert_eq!(Value::Object(read), json!({"mtu": 1500}));
    }
}
