//! Making interfaces.

use std::net::IpAddr;

use circuit_core::{Error, Result};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::attributes::{self as wire, Reply};
use super::links_on;
use super::socket::Netlink;

/// Adds a bridge with an address to the calling thread's namespace. It is
/// down.
pub(crate) fn add_bridge(ifname: &str, address: IpNet) -> Result<()> {
    let refused = |what: &dyn std::fmt::Display| {
        Error::unavailable(format!(
            "cannot add interface {ifname} with {address}: {what}, try again"
        ))
    };
    let mut socket = Netlink::open(None)?;
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    socket
        .change(&bridge(ifname), flags)
        .map_err(|e| refused(&e))?;
    let links = links_on(&mut socket)?;
    let made = links.iter().find(|link| link.name == ifname);
    let made = made.ok_or_else(|| refused(&"it got another name"))?;
    socket
        .change(&address_of(made.index, address), flags)
        .map_err(|e| refused(&e))?;
    Ok(())
}

fn bridge(ifname: &str) -> Reply {
    let mut payload = vec![0; wire::LINK_HEADER];
    wire::put(&mut payload, wire::IFLA_IFNAME, &terminated(ifname));
    let mut info = Vec::new();
    wire::put(&mut info, wire::IFLA_INFO_KIND, &terminated("bridge"));
    wire::put(&mut payload, wire::IFLA_LINKINFO, &info);
    Reply {
        kind: wire::RTM_NEWLINK,
        payload,
    }
}

fn address_of(index: u32, address: IpNet) -> Reply {
    let (family, bytes) = match address.addr() {
        IpAddr::V4(ip) => (wire::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (wire::AF_INET6, ip.octets().to_vec()),
    };
    let mut payload = vec![family, address.prefix_len(), 0, 0];
    payload.extend(index.to_ne_bytes());
    wire::put(&mut payload, wire::IFA_LOCAL, &bytes);
    wire::put(&mut payload, wire::IFA_ADDRESS, &bytes);
    Reply {
        kind: wire::RTM_NEWADDR,
        payload,
    }
}

fn terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
