//! `vlan`: an interface on one of the host's for the traffic of one VLAN.

use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};

use super::ipam::{ask, dns_of};
use super::single::{self, Addresses, Device};
use super::{Answer, Call, Driver, Options, Unsupported, check};

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
        let kind = single::needs_ipam(call)?;
        let dns = dns_of(call.config)?;
        let result = single::attach(call, &device(call)?, Addresses::Ipam(kind), false)?;
        Ok(CniResult { dns, ..result })
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        single::detach(call)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let options = Options::new(call.config);
        ask::forward(call)?;
        single::master(
            call,
            Some(master(&options)?),
            options.flag("linkInContainer")?,
        )?;
        let link = check::interface(call, Some(KIND))?;
        let has = link
            .detail(IFLA_VLAN_ID)
            .and_then(|value| value.first_chunk());
        let has = has.map(|value| u16::from_ne_bytes(*value));
        let (id, mtu): (u16, Option<u32>) = (vlan_id(&options)?, options.number("mtu")?);
        if has != Some(id) {
            return differs(call, &format!("is of another VLAN than {id}"));
        }
        match mtu.filter(|mtu| *mtu != 0) {
            Some(mtu) if link.mtu != Some(mtu) => {
                differs(call, &format!("has another mtu than {mtu}"))
            }
            _ => check::configuration(call, &link),
        }
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        let options = Options::new(call.config);
        let name = master(&options)?;
        single::status(call, Some(name), options.flag("linkInContainer")?)
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        ask::forward(call)
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

fn differs(call: &Call<'_>, what: &str) -> Answer<()> {
    Err(ErrorReport::new(
        code::OTHER,
        format!(
            "interface {} {what}: attach the container again",
            call.ifname
        ),
    ))
}
