//! Letting the host forward, without what it would lose by that.

use std::fs;
use std::io;

use circuit_core::{Error, Result};

use crate::netlink::Netlink;

/// Where forwarding is switched on, by whether it is that of IPv6.
pub fn switch(ipv6: bool) -> &'static str {
    match ipv6 {
        false => "/proc/sys/net/ipv4/ip_forward",
        true => "/proc/sys/net/ipv6/conf/all/forwarding",
    }
}

/// Lets the calling thread's namespace forward. Where it does, nothing is written:
/// that resets other parameters.
///
/// A host that begins to forward IPv6 is a router, and listens to routers no more
/// (RFC 4861, section 6.2.1): the kernel drops the default route that they gave it.
/// Interfaces that have one are told to go on listening (`accept_ra=2`).
///
/// # Errors
/// When the parameter cannot be written.
pub fn enable(ipv6: bool) -> Result<()> {
    let path = switch(ipv6);
    if is_on(path) {
        return Ok(());
    }
    if ipv6 {
        keep_routers();
    }
    let refused =
        |error: io::Error| Error::precondition(format!("cannot set {path} to 1: {error}"));
    fs::write(path, "1").map_err(refused)
}

/// Has a host that does not forward IPv6 yet keep its routers when it does: see
/// [`enable`]. For whoever lets another program switch it on.
pub fn keep_routers() {
    if is_on(switch(true)) {
        return;
    }
    if let Err(error) = go_on_listening() {
        tracing::warn!("routers of IPv6 may be lost, now that this host forwards: {error}");
    }
}

fn is_on(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

/// Has interfaces with a default route from a router keep it.
fn go_on_listening() -> Result<()> {
    for name in Netlink::open(None)?.interfaces_of_routers()? {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
        // Another program listens where it is 0, and 2 is what it is to be.
        if !is_on(&path) {
            continue;
        }
        let refused = |error| Error::precondition(format!("cannot set {path} to 2: {error}"));
        fs::write(&path, "2").map_err(refused)?;
        tracing::info!("{name} goes on listening to its routers while this host forwards IPv6");
    }
    Ok(())
}
