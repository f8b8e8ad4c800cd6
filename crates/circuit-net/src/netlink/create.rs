//! A bridge that stands for an interface of another kind.

use circuit_core::{Error, Result};
use ipnet::IpNet;

use super::{AddressSpec, LinkSpec, Netlink};

/// Adds a bridge with an address to the calling thread's namespace. It is
/// down.
pub(crate) fn add_bridge(ifname: &str, address: IpNet) -> Result<()> {
    let refused = |what: &dyn std::fmt::Display| {
        Error::unavailable(format!(
            "cannot add interface {ifname} with {address}: {what}, try again"
        ))
    };
    let mut socket = Netlink::open(None)?;
    let bridge = LinkSpec::named(ifname).create("bridge", |m| m);
    let made = socket.create(ifname, bridge).map_err(|e| refused(&e))?;
    socket
        .request(&AddressSpec::from(address).add(made.index))
        .map_err(|e| refused(&e))?;
    Ok(())
}
