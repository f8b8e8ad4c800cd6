//! `ipvlan`: an interface on one of the host's that shares its hardware
//! address.

use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};

use super::managed::Managed;
use super::single::{self, ANNOUNCED, Addresses, Detail, Device};
use super::{Answer, Call, Driver, Options, Unsupported};

const KIND: &str = "ipvlan";
const KEYS: [&str; 4] = ["master", "mode", "mtu", "linkInContainer"];

const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;

/// The modes, with the kernel's numbers.
const MODES: [(&str, u16); 3] = [("l2", 0), ("l3", 1), ("l3s", 2)];

/// The driver of `ipvlan`.
#[derive(Debug)]
pub(crate) struct Ipvlan;

impl Driver for Ipvlan {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        Options::new(config).only(&KEYS)
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let addresses = match (Managed::of(call)?, call.prev) {
            (Some(ipam), _) => Addresses::Ipam(ipam),
            (None, Some(prev)) if !prev.ips.is_empty() => Addresses::Known(prev.clone()),
            _ => {
                return Err(ErrorReport::new(
                    code::INVALID_CONFIG,
                    "ipvlan needs addresses: add ipam, or put it behind a plugin that has some",
                ));
            }
        };
        let result = single::attach(call, &device(call)?, addresses, ANNOUNCED)?;
        single::with_own_dns(call, result)
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        single::detach(call)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let options = Options::new(call.config);
        single::forward(call, Managed::check)?;
        if let Some(master) = options.text("master")? {
            single::master(call, Some(master), options.flag("linkInContainer")?)?;
        }
        let mode = Detail {
            kind: IFLA_IPVLAN_MODE,
            value: &mode(&options)?.to_ne_bytes(),
            text: format!("mode {}", mode_name(&options)?),
        };
        single::check(call, KIND, Some(mode)).map(drop)
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        let options = Options::new(call.config);
        match options.text("master")? {
            // It may come with the result of the plugin before.
            None => single::forward(call, Managed::status),
            master => single::status(call, master, options.flag("linkInContainer")?),
        }
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        single::forward(call, Managed::gc)
    }
}

fn device(call: &Call<'_>) -> Answer<Device> {
    let options = Options::new(call.config);
    let in_container = options.flag("linkInContainer")?;
    let mode = mode(&options)?;
    let master = single::master(call, master(call, &options)?, in_container)?;
    let mtu: Option<u32> = options.number("mtu")?;
    Ok(Device {
        kind: KIND,
        parent: Some(master.index),
        in_container,
        mtu: mtu.filter(|mtu| *mtu != 0),
        mac: None,
        data: data(mode),
    })
}

/// The mode, and no flags: without them an old one of the master, `private`, would stay.
fn data(mode: u16) -> Vec<(u16, Vec<u8>)> {
    let of = |kind, value: u16| (kind, value.to_ne_bytes().to_vec());
    vec![of(IFLA_IPVLAN_MODE, mode), of(IFLA_IPVLAN_FLAGS, 0)]
}

/// The master's name; behind another plugin, that of the one interface which
/// that made.
fn master<'a>(call: &Call<'a>, options: &Options<'a>) -> Answer<Option<&'a str>> {
    match (options.text("master")?, call.prev) {
        (Some(name), _) => Ok(Some(name)),
        (None, None) => Ok(None),
        (None, Some(prev)) => match prev.interfaces.as_slice() {
            [only] if !only.name.is_empty() => Ok(Some(&only.name)),
            _ => Err(ErrorReport::new(
                code::INVALID_CONFIG,
                "master is missing, and prevResult has not just one interface: name a master",
            )),
        },
    }
}

fn mode_name<'a>(options: &Options<'a>) -> Answer<&'a str> {
    Ok(options.text("mode")?.unwrap_or("l2"))
}

fn mode(options: &Options<'_>) -> Answer<u16> {
    let name = mode_name(options)?;
    let known = MODES.iter().find(|(mode, _)| *mode == name);
    known.map(|(_, number)| *number).ok_or_else(|| {
        ErrorReport::new(
            code::INVALID_CONFIG,
            format!("mode {name:?} is none of l2, l3 and l3s"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn modes_have_the_kernels_numbers() {
        let of = |value| mode(&Options::new(json!({ "mode": value }).as_object().unwrap()));
        assert_eq!(of(json!(null)).unwrap(), 0);
        for (name, number) in MODES {
            assert_eq!(of(json!(name)).unwrap(), number);
        }
        assert!(
            of(json!("l4"))
                .unwrap_err()
                .msg
                .contains("\"l4\" is none of")
        );
        assert_eq!(data(1), [(1, 1u16.to_ne_bytes().to_vec()), (2, vec![0, 0])]);
    }
}
