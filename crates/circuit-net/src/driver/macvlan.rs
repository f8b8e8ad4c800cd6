//! `macvlan`: an interface with a hardware address of its own on one of the
//! host's, so that the container is on the host's LAN.

use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};

use super::managed::Managed;
use super::single::{self, ANNOUNCED, Addresses, Detail, Device};
use super::{Answer, Call, Driver, Options, Unsupported, args};
use crate::netlink::Mac;

const KIND: &str = "macvlan";
const KEYS: [&str; 6] = [
    "master",
    "mode",
    "mtu",
    "mac",
    "linkInContainer",
    "bcqueuelen",
];

const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_BC_QUEUE_LEN: u16 = 7;

/// The modes, with the kernel's numbers.
const MODES: [(&str, u32); 4] = [("private", 1), ("vepa", 2), ("bridge", 4), ("passthru", 8)];

/// The driver of `macvlan`.
#[derive(Debug)]
pub(crate) struct Macvlan;

impl Driver for Macvlan {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        Options::new(config).only(&KEYS)
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let device = device(call)?;
        let addresses = match Managed::of(call)? {
            Some(ipam) => Addresses::Ipam(ipam),
            None => Addresses::None,
        };
        let result = single::attach(call, &device, addresses, ANNOUNCED)?;
        single::with_own_dns(call, result)
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        single::detach(call)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let options = Options::new(call.config);
        single::forward(call, Managed::check)?;
        single::master(
            call,
            options.text("master")?,
            options.flag("linkInContainer")?,
        )?;
        let mode = Detail {
            kind: IFLA_MACVLAN_MODE,
            value: &mode(&options)?.to_ne_bytes(),
            text: format!("mode {}", mode_name(&options)?),
        };
        single::check(call, KIND, Some(mode)).map(drop)
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        let options = Options::new(call.config);
        single::status(
            call,
            options.text("master")?,
            options.flag("linkInContainer")?,
        )
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        single::forward(call, Managed::gc)
    }
}

fn device(call: &Call<'_>) -> Answer<Device> {
    let options = Options::new(call.config);
    let in_container = options.flag("linkInContainer")?;
    let mode = mode(&options)?;
    let mac = mac(call, &options)?;
    let queue: Option<u32> = options.number("bcqueuelen")?;
    let master = single::master(call, options.text("master")?, in_container)?;
    let mut data = vec![(IFLA_MACVLAN_MODE, mode.to_ne_bytes().to_vec())];
    if let Some(length) = queue.filter(|length| *length != 0) {
        data.push((IFLA_MACVLAN_BC_QUEUE_LEN, length.to_ne_bytes().to_vec()));
    }
    Ok(Device {
        kind: KIND,
        parent: Some(master.index),
        in_container,
        mtu: single::mtu(&options, &master)?,
        mac,
        data,
    })
}

fn mode_name<'a>(options: &Options<'a>) -> Answer<&'a str> {
    Ok(options.text("mode")?.unwrap_or("bridge"))
}

fn mode(options: &Options<'_>) -> Answer<u32> {
    let name = mode_name(options)?;
    let known = MODES.iter().find(|(mode, _)| *mode == name);
    known.map(|(_, number)| *number).ok_or_else(|| {
        ErrorReport::new(
            code::INVALID_CONFIG,
            format!("mode {name:?} is none of bridge, private, vepa and passthru"),
        )
    })
}

/// The hardware address that the runtime asks for, else that of `CNI_ARGS`,
/// else that of the configuration.
fn mac(call: &Call<'_>, options: &Options<'_>) -> Answer<Option<Mac>> {
    args::only(call, KIND, &["MAC"])?;
    let asked = match options.object("runtimeConfig")? {
        Some(runtime) => Options::at(runtime, "runtimeConfig").text("mac")?,
        None => None,
    };
    let text = match asked.or(call.arg("MAC").filter(|mac| !mac.is_empty())) {
        Some(text) => Some(text),
        None => options.text("mac")?,
    };
    let mac = text.map(str::parse::<Mac>).transpose();
    mac.map_err(|e| ErrorReport::new(code::INVALID_CONFIG, format!("mac: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn modes_have_names() {
        let of = |value| mode(&Options::new(json!({ "mode": value }).as_object().unwrap()));
        assert_eq!(of(json!(null)).unwrap(), 4);
        for (name, number) in MODES {
            assert_eq!(of(json!(name)).unwrap(), number);
        }
        assert!(
            of(json!("source"))
                .unwrap_err()
                .msg
                .contains("\"source\" is none of")
        );
    }

    #[test]
    fn keys_are_known_or_named() {
        let all = json!({"type": "macvlan", "master": "a", "mode": "a", "mtu": 1, "mac": "a",
            "linkInContainer": true, "bcqueuelen": 1, "ipam": {}, "dns": {}});
        assert_eq!(Macvlan.supports(all.as_object().unwrap()), Ok(()));
        let other = json!({"master": "a", "vlan": 3});
        let unsupported = Macvlan.supports(other.as_object().unwrap()).unwrap_err();
        assert_eq!(unsupported.key, "vlan");
    }
}
