//! `vlan`: an interface on one of the host's for the traffic of one VLAN.

use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};

use super::managed::Managed;
use super::single::{self, Addresses, Detail, Device};
use super::verify::differs;
use super::{Answer, Call, Driver, Options, Unsupported};

const KIND: &str = "vlan";
const KEYS: [&str; 4] = ["master", "vlanId", "mtu", "linkInContainer"];

const IFLA_VLAN_ID: u16 = 1;
const LAST_ID: u16 = 4094;

/// The driver of `vlan`.
#[derive(Debug)]
pub(crate) struct Vlan;

impl Driver for Vlan {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        Options::new(config).only(&KEYS)
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let addresses = Managed::of(call)?.map_or(Addresses::None, Addresses::Ipam);
        let result = single::attach(call, &device(call)?, addresses, &[])?;
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
            Some(master(&options)?),
            options.flag("linkInContainer")?,
        )?;
        let id = vlan_id(&options)?;
        let detail = Detail {
            kind: IFLA_VLAN_ID,
            value: &id.to_ne_bytes(),
            text: format!("vlan {id}"),
        };
        let link = single::check(call, KIND, Some(detail))?;
        let mtu: Option<u32> = options.number("mtu")?;
        match mtu.filter(|mtu| *mtu != 0) {
            Some(mtu) if link.mtu != Some(mtu) => Err(differs(format!(
                "interface {} has another mtu than {mtu}",
                call.ifname
            ))),
            _ => Ok(()),
        }
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        let options = Options::new(call.config);
        let name = master(&options)?;
        single::status(call, Some(name), options.flag("linkInContainer")?)
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        single::forward(call, Managed::gc)
    }
}

fn device(call: &Call<'_>) -> Answer<Device> {
    let options = Options::new(call.config);
    let in_container = options.flag("linkInContainer")?;
    let id = vlan_id(&options)?;
    let master = single::master(call, Some(master(&options)?), in_container)?;
    Ok(Device {
        kind: KIND,
        parent: Some(master.index),
        in_container,
        mtu: single::mtu(&options, &master)?,
        mac: None,
        data: vec![(IFLA_VLAN_ID, id.to_ne_bytes().to_vec())],
    })
}

fn master<'a>(options: &Options<'a>) -> Answer<&'a str> {
    options.text("master")?.ok_or_else(|| {
        ErrorReport::new(
            code::INVALID_CONFIG,
            "master is missing: name the interface that has the VLAN",
        )
    })
}

fn vlan_id(options: &Options<'_>) -> Answer<u16> {
    let id: i64 = options.number("vlanId")?.unwrap_or(0);
    let id = u16::try_from(id).ok().filter(|id| *id <= LAST_ID);
    id.ok_or_else(|| {
        ErrorReport::new(
            code::INVALID_CONFIG,
            format!("vlanId is not between 0 and {LAST_ID}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_those_of_vlans() {
        let of = |value| {
            vlan_id(&Options::new(
                json!({ "vlanId": value }).as_object().unwrap(),
            ))
        };
        assert_eq!(of(json!(null)).unwrap(), 0);
        assert_eq!(of(json!(4094)).unwrap(), 4094);
        for wrong in [json!(4095), json!(-1), json!(65536), json!("7")] {
            assert!(of(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
