//! `ipvlan`: an interface on one of the host's that shares its hardware
//! address.

use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};

use super::ipam::{ask, dns_of};
use super::single::{self, Addresses, Device};
use super::{Answer, Call, Driver, Options, Unsupported, check};

const KIND: &str = "ipvlan";
const KEYS: [&str; 4] = ["master", "mode", "mtu", "linkInContainer"];

const IFLA_IPVLAN_MODE: u16 = 1;

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
        let addresses = match (ask::kind(call.config), call.prev) {
            (Some(kind), _) => Addresses::Ipam(kind),
            (None, Some(prev)) if !prev.ips.is_empty() => Addresses::Known(prev.clone()),
            _ => {
                return Err(ErrorReport::new(
                    code::INVALID_CONFIG,
                    "ipvlan needs addresses: add ipam, or put it behind a plugin that has some",
                ));
            }
        };
        let dns = dns_of(call.config)?;
        let result = single::attach(call, &device(call)?, addresses, true)?;
        Ok(CniResult { dns, ..result })
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        single::detach(call)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let options = Options::new(call.config);
        ask::forward(call)?;
        if let Some(master) = options.text("master")? {
            single::master(call, Some(master), options.flag("linkInContainer")?)?;
        }
        let link = check::interface(call, Some(KIND))?;
        let wanted = mode(&options)?;
        let has = link
            .detail(IFLA_IPVLAN_MODE)
            .and_then(|value| value.first_chunk());
        if has.map(|value| u16::from_ne_bytes(*value)) != Some(wanted) {
            return Err(ErrorReport::new(
                code::OTHER,
                format!(
                    "interface {} has another mode: attach the container again",
                    call.ifname
                ),
            ));
        }
        check::configuration(call, &link)
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        let options = Options::new(call.config);
        match options.text("master")? {
            // It may come with the result of the plugin before.
            None => ask::forward(call),
            master => single::status(call, master, options.flag("linkInContainer")?),
        }
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        ask::forward(call)
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
        data: vec![(IFLA_IPVLAN_MODE, mode.to_ne_bytes().to_vec())],
    })
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

fn mode(options: &Options<'_>) -> Answer<u16> {
    let name = options.text("mode")?.unwrap_or("l2");
    let known = MODES.iter().find(|(mode, _)| *mode == name);
    known.map(|(_, number)| *number).ok_or_else(|| {
        ErrorReport::new(
            code::INVALID_CONFIG,
            format!("mode {name:?} is none of l2, l3 and l3s"),
        )
    })
}
