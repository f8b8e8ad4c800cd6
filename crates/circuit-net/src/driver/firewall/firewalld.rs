//! The backend `firewalld`: the container's addresses are made sources of a
//! zone, over D-Bus.

use std::net::IpAddr;

use crate::driver::dbus::{Bus, DbusError, Method};

const SERVICE: &str = "org.fedoraproject.FirewallD1";

/// A connection to firewalld.
pub(super) struct Firewalld {
    bus: Bus,
}

/// Whether firewalld runs.
pub(super) fn is_running() -> bool {
    Bus::connect().is_ok_and(|mut bus| bus.has(SERVICE).unwrap_or(false))
}

impl Firewalld {
    pub(super) fn connect() -> Result<Self, DbusError> {
        Ok(Self {
            bus: Bus::connect()?,
        })
    }

    pub(super) fn add(&mut self, zone: &str, address: IpAddr) -> Result<(), DbusError> {
        match self.call("addSource", zone, address) {
            Err(DbusError::Refused(text)) if text.contains("ZONE_ALREADY_SET") => Ok(()),
            other => other.map(drop),
        }
    }

    /// What is not there need not be removed.
    pub(super) fn remove(&mut self, zone: &str, address: IpAddr) -> Result<(), DbusError> {
        match self.call("removeSource", zone, address) {
            Err(DbusError::Refused(_)) => Ok(()),
            other => other.map(drop),
        }
    }

    pub(super) fn has(&mut self, zone: &str, address: IpAddr) -> Result<bool, DbusError> {
        let body = self.call("querySource", zone, address)?;
        Ok(body.iter().any(|byte| *byte != 0))
    }

    fn call(&mut self, name: &str, zone: &str, address: IpAddr) -> Result<Vec<u8>, DbusError> {
        let method = Method {
            service: SERVICE,
            path: "/org/fedoraproject/FirewallD1",
            interface: "org.fedoraproject.FirewallD1.zone",
            name,
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        self.bus
            .call(&method, &[zone, &format!("{address}/{bits}")])
    }
}
