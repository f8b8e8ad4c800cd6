//! `dummy`: an interface that swallows what it is sent, to carry addresses.

use circuit_core::cni::{CniResult, JsonObject};

use super::managed::Managed;
use super::single::{self, Addresses, Device};
use super::verify::differs;
use super::{Answer, Call, Driver, Options, Unsupported};

const KIND: &str = "dummy";

/// The driver of `dummy`.
#[derive(Debug)]
pub(crate) struct Dummy;

impl Driver for Dummy {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        Options::new(config).only(&[])
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let ipam = Addresses::Ipam(Managed::needed(call)?);
        let device = Device {
            kind: KIND,
            ..Device::default()
        };
        single::attach(call, &device, ipam, &[])
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        single::detach(call)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        Managed::needed(call)?.check()?;
        let link = single::check(call, KIND, None)?;
        match link.up {
            true => Ok(()),
            false => Err(differs(format!("interface {} is down", call.ifname))),
        }
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        Managed::needed(call)?.status()
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        single::forward(call, Managed::gc)
    }
}
