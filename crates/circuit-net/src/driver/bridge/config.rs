//! The configuration of the bridge driver.

use circuit_core::cni::{AnyCase as _, ErrorReport, JsonObject, code};
use serde_json::Value;

use crate::driver::managed::Managed;
use crate::driver::{Answer, Call, Options, Unsupported, args, ipmasq};
use crate::netlink::{Mac, Vlans};

/// The bridge of a configuration that names none.
pub(in crate::driver) const DEFAULT_BRIDGE: &str = "cni0";
/// The highest number of a VLAN.
const MAX_VLAN: i64 = 4094;

const KEYS: [&str; 16] = [
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
    "preserveDefaultVlan",
    "macspoofchk",
    "enabledad",
    "portIsolation",
    "disableContainerInterface",
];

/// A bridge network, as one attachment sees it.
#[derive(Debug)]
pub(super) struct Config<'a> {
    pub(super) bridge: &'a str,
    pub(super) gateway: bool,
    /// Attachments have addresses, and a gateway so.
    pub(super) addressed: bool,
    pub(super) default_gateway: bool,
    pub(super) force_address: bool,
    pub(super) mtu: Option<u32>,
    pub(super) hairpin: bool,
    pub(super) promisc: bool,
    pub(super) vlan: Option<u16>,
    /// `None` when there is no trunk; one without VLANs is still one.
    pub(super) trunk: Option<Vec<u16>>,
    pub(super) keep_default_vlan: bool,
    pub(super) dad: bool,
    pub(super) isolated: bool,
    /// The container's interface is to be up.
    pub(super) container_up: bool,
    mac: Option<&'a str>,
}

/// Whether the driver does all that the configuration asks for.
pub(super) fn supports(config: &JsonObject) -> Result<(), Unsupported> {
    let options = Options::new(config);
    options.only(&KEYS)?;
    for item in options.array("vlanTrunk").unwrap_or_default() {
        if let Some(item) = item.as_object() {
            Options::at(item, "vlanTrunk").only(&["minID", "maxID", "id"])?;
        }
    }
    if config.find("macspoofchk").and_then(Value::as_bool) == Some(true) {
        return Err(Unsupported {
            key: "macspoofchk".to_owned(),
            documented: true,
        });
    }
    ipmasq::supports(config)
}

/// The name of the bridge.
pub(super) fn bridge<'a>(call: &Call<'a>) -> Answer<&'a str> {
    let name = Options::new(call.config).text("bridge")?;
    Ok(name.unwrap_or(DEFAULT_BRIDGE))
}

impl<'a> Config<'a> {
    pub(super) fn read(call: &Call<'a>) -> Answer<Self> {
        let options = Options::new(call.config);
        let default_gateway = options.flag("isDefaultGateway")?;
        let config = Self {
            bridge: bridge(call)?,
            gateway: options.flag("isGateway")? || default_gateway,
            addressed: Managed::of(call)?.is_some(),
            default_gateway,
            force_address: options.flag("forceAddress")?,
            mtu: mtu(&options)?,
            hairpin: options.flag("hairpinMode")?,
            promisc: options.flag("promiscMode")?,
            vlan: vlan(&options)?,
            trunk: trunk(&options)?,
            keep_default_vlan: options.flag("preserveDefaultVlan")?,
            dad: options.flag("enabledad")?,
            isolated: options.flag("portIsolation")?,
            container_up: !options.flag("disableContainerInterface")?,
            mac: mac(call)?,
        };
        if config.hairpin && config.promisc && call.command == crate::driver::Command::Add {
            return Err(invalid(
                "hairpinMode and promiscMode exclude each other: set one of them",
            ));
        }
        Ok(config)
    }

    /// The hardware address that the container's interface is to have.
    pub(super) fn mac(&self) -> Answer<Option<Mac>> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|e: circuit_core::Error| invalid(e.message()))
        };
        self.mac.map(parse).transpose()
    }

    /// Whether the bridge has to keep VLANs apart.
    pub(super) fn vlan_filtering(&self) -> bool {
        self.vlan.is_some() || self.trunk.is_some()
    }

    /// The VLANs that the port is to be in, if it is to be in any.
    pub(super) fn vlans(&self) -> Vec<Vlans> {
        let trunk = Vlans::ranges(self.trunk.iter().flatten().copied());
        // Untagged traffic of a trunk is in VLAN 1, if in no other.
        let native = match self.vlan {
            None if !trunk.is_empty() => Some(1),
            vlan => vlan,
        };
        trunk.into_iter().chain(native.map(Vlans::native)).collect()
    }
}

fn invalid(text: impl Into<String>) -> ErrorReport {
    ErrorReport::new(code::INVALID_CONFIG, text)
}

/// The MTU; 0 and less leave it to the kernel.
pub(in crate::driver) fn mtu(options: &Options<'_>) -> Answer<Option<u32>> {
    let mtu = options.number::<i64>("mtu")?.filter(|mtu| *mtu > 0);
    mtu.map(|mtu| u32::try_from(mtu).map_err(|_| invalid(format!("mtu {mtu} is too large"))))
        .transpose()
}

fn vlan(options: &Options<'_>) -> Answer<Option<u16>> {
    match options.number::<i64>("vlan")?.unwrap_or(0) {
        0 => Ok(None),
        vid => vid_of("vlan", vid).map(Some),
    }
}

fn vid_of(key: &str, vid: i64) -> Answer<u16> {
    let fits = u16::try_from(vid).ok();
    fits.filter(|_| (1..=MAX_VLAN).contains(&vid))
        .ok_or_else(|| invalid(format!("{key} {vid} is no vlan: use 1 to {MAX_VLAN}")))
}

fn trunk(options: &Options<'_>) -> Answer<Option<Vec<u16>>> {
    if options.get("vlanTrunk").is_none() {
        return Ok(None);
    }
    let mut vids = Vec::new();
    for item in options.array("vlanTrunk")? {
        let item = item
            .as_object()
            .ok_or_else(|| invalid(format!("vlanTrunk has {item}, which is not an object")))?;
        let item = Options::at(item, "vlanTrunk");
        let vid = |key: &str| {
            let name = format!("vlanTrunk.{key}");
            let given = item.number::<i64>(key)?;
            given.map(|vid| vid_of(&name, vid)).transpose()
        };
        match (vid("minID")?, vid("maxID")?) {
            (None, None) => {}
            (Some(first), Some(last)) if first <= last => vids.extend(first..=last),
            (Some(first), Some(last)) => {
                return Err(invalid(format!(
                    "vlanTrunk.minID {first} is greater than its maxID {last}"
                )));
            }
            _ => {
                return Err(invalid(
                    "vlanTrunk needs minID and maxID together: add the other one",
                ));
            }
        }
        vids.extend(vid("id")?);
    }
    Ok(Some(vids))
}

/// The hardware address asked for: by the runtime's capability first, then by
/// the configuration's arguments, then by the environment's.
fn mac<'a>(call: &Call<'a>) -> Answer<Option<&'a str>> {
    args::only(call, "bridge", &["MAC"])?;
    let text = |value: Option<&'a Value>| value.and_then(Value::as_str).filter(|t| !t.is_empty());
    Ok(text(call.runtime_config("mac"))
        .or_else(|| text(call.cni_arg("mac")))
        .or_else(|| call.arg("MAC").filter(|text| !text.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> JsonObject {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn what_is_not_done_is_named() {
        let key = |value: Value| {
            let unsupported = supports(&object(&value)).err()?;
            Some((unsupported.key, unsupported.documented))
        };
        let all = json!({"bridge": "br0", "isGateway": true, "isDefaultGateway": true,
            "forceAddress": true, "ipMasq": true, "ipMasqBackend": "nftables", "mtu": 1400,
            "hairpinMode": true, "promiscMode": false, "vlan": 7, "vlanTrunk": [{"id": 9}],
            "preserveDefaultVlan": true, "macspoofchk": false, "enabledad": true,
            "portIsolation": true, "disableContainerInterface": false, "ipam": {}, "dns": {}});
        assert_eq!(key(all), None);
        let named = |name: &str, documented| Some((name.to_owned(), documented));
        assert_eq!(
            key(json!({"macspoofchk": true})),
            named("macspoofchk", true)
        );
        assert_eq!(
            key(json!({"ipMasqBackend": "iptables"})),
            named("ipMasqBackend", true)
        );
        assert_eq!(key(json!({"color": 1})), named("color", false));
        assert_eq!(
            key(json!({"vlanTrunk": [{"id": 9, "color": 1}]})),
            named("vlanTrunk.color", false)
        );
    }

    #[test]
    fn trunks_are_read() {
        let read = |trunk: Value| {
            let config = object(&json!({ "vlanTrunk": trunk }));
            trunk_of(&config)
        };
        fn trunk_of(config: &JsonObject) -> Option<Vec<u16>> {
            trunk(&Options::new(config)).unwrap()
        }
        assert_eq!(trunk_of(&JsonObject::new()), None);
        assert_eq!(read(json!([])), Some(vec![]));
        assert_eq!(read(json!([{}])), Some(vec![]));
        assert_eq!(
            read(json!([{"minID": 10, "maxID": 12, "id": 5}, {"id": 4094}])),
            Some(vec![10, 11, 12, 5, 4094])
        );
        for wrong in [
            json!([{"minID": 1}]),
            json!([{"maxID": 1}]),
            json!([{"minID": 2, "maxID": 1}]),
            json!([{"id": 0}]),
            json!([{"id": 4095}]),
            json!([7]),
            json!({"id": 7}),
        ] {
            let config = object(&json!({ "vlanTrunk": wrong }));
            assert!(trunk(&Options::new(&config)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_that_make_no_sense_are_left_to_the_kernel_or_refused() {
        let config = |value: Value| object(&value);
        for (given, expected) in [(0, None), (-3, None), (1400, Some(1400))] {
            let config = config(json!({ "mtu": given }));
            assert_eq!(mtu(&Options::new(&config)).unwrap(), expected);
        }
        for (given, expected) in [
            (0, Some(None)),
            (7, Some(Some(7))),
            (-1, None),
            (4095, None),
        ] {
            let config = config(json!({ "vlan": given }));
            assert_eq!(vlan(&Options::new(&config)).ok(), expected);
        }
    }
}
