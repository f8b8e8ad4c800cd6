//! Whether the host's ends of containers' pairs are what drivers made of them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use circuit_core::{Error, Result};

use crate::netlink::{Link, Netlink, NetlinkError, index_toward};

mod watch;

pub use watch::Watch;

/// An end on the host.
#[derive(Debug, Clone)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is there for.
    pub role: Role<'a>,
}

/// What an end on the host is there for.
#[derive(Debug, Clone)]
pub enum Role<'a> {
    /// To be a port of the bridge of this name.
    Port(&'a str),
    /// To be the container's gateway.
    Gateway {
        /// The addresses that it has.
        own: Vec<IpAddr>,
        /// The container's, to which it leads.
        leads_to: Vec<IpAddr>,
    },
}

/// The places of those ends that are there and do not do what they are for.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn loose(ends: &[End<'_>]) -> Result<Vec<usize>> {
    let mut host = Host::look(Netlink::open(None)?).map_err(refused)?;
    let mut places = Vec::new();
    for (place, end) in ends.iter().enumerate() {
        if host.is_loose(end).map_err(refused)? {
            places.push(place);
        }
    }
    Ok(places)
}

fn refused(error: NetlinkError) -> Error {
    Error::internal(format!("cannot look at the host's interfaces: {error}"))
}

/// What is there.
struct Host {
    socket: Netlink,
    bridges: HashMap<String, Link>,
    ends: HashMap<String, Link>,
    /// With the index of the interface.
    addresses: HashSet<(u32, IpAddr)>,
}

impl Host {
    fn look(mut socket: Netlink) -> std::result::Result<Self, NetlinkError> {
        let mut list = |kind| -> std::result::Result<_, NetlinkError> {
            let links = socket.links_of_kind(kind)?.into_iter();
            Ok(links.map(|link| (link.name.clone(), link)).collect())
        };
        let (bridges, ends) = (list("bridge")?, list("veth")?);
        let addresses = socket.all_addresses()?.into_iter();
        Ok(Self {
            bridges,
            ends,
            addresses: addresses.map(|it| (it.index, it.address.addr())).collect(),
            socket,
        })
    }

    fn is_loose(&mut self, end: &End<'_>) -> std::result::Result<bool, NetlinkError> {
        let Some(link) = self.ends.get(end.name).filter(|link| link.is_half()) else {
            return Ok(false);
        };
        match &end.role {
            Role::Port(bridge) => {
                let bridge = self.bridges.get(*bridge);
                Ok(bridge.is_some_and(|bridge| link.is_loose(bridge)))
            }
            Role::Gateway { own, leads_to } => {
                let has = |ip: &IpAddr| self.addresses.contains(&(link.index, *ip));
                if !link.up || !own.iter().all(has) {
                    return Ok(true);
                }
                for ip in leads_to {
                    if index_toward(&mut self.socket, *ip)? != Some(link.index) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}
