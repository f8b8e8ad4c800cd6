//! `dummy`: an interface that swallows what it is sent, to carry addresses.

use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};

use super::ipam::ask;
use super::single::{self, Addresses, Device};
use super::{Answer, Call, Driver, Options, Unsupported, check};

const KIND: &str = "dummy";

/// The driver of `dummy`.
#[derive(Debug)]
pub(crate) struct Dummy;

impl Driver for Dummy {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        Options::new(config).only(&[])
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let kind = single::needs_ipam(call)?;
        let device = Device {
            kind: KIND,
            ..Device::default()
        };
        single::attach(call, &device, Addresses::Ipam(kind), false)
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        single::detach(call)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        single::needs_ipam(call)?;
        ask::forward(call)?;
        let link = check::interface(call, Some(KIND))?;
        if !link.up {
            return Err(ErrorReport::new(
                code::OTHER,
                format!(
                    "interface {} is down: attach the container again",
                    call.ifname
                ),
            ));
        }
        check::configuration(call, &link)
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        ask::forward(call)
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        ask::forward(call)
    }
}
