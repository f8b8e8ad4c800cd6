//! Namespaces that stand in for those of containers that are gone.

use std::fs::remove_file;
use std::path::Path;

use circuit_core::labels::check_interface;
use circuit_core::{Error, Result};
use ipnet::IpNet;

use super::enter::in_new_netns;
use super::{is_netns, pin};
use crate::netlink::add_bridge;

/// Makes a new network namespace with one interface of that name, which is
/// down and has this address, and pins it as [`pin`] does; [`unpin`] frees it
/// again.
///
/// Plugins that look a container's addresses up to withdraw what they made for
/// them on the host, as the bridge plugin does with its masquerading, can so
/// withdraw it for a container whose namespace is gone. It waits for the
/// kernel, so it is nothing for a thread of a runtime.
///
/// [`unpin`]: super::unpin
///
/// # Errors
/// [`AlreadyExists`](circuit_core::ErrorKind::AlreadyExists) when the pin keeps
/// a namespace, [`InvalidArgument`](circuit_core::ErrorKind::InvalidArgument)
/// when no interface can have that name, an error too when the kernel refuses.
/// Nothing is left behind then.
pub fn stand_in(pin: &Path, ifname: &str, address: IpNet) -> Result<()> {
    let what = || format!("cannot make a stand-in at {}", pin.display());
    check_interface(ifname).map_err(|e| e.context(what()))?;
    if is_netns(pin) {
        return Err(Error::already_exists(format!(
            "{}: it keeps another network namespace: unpin it first",
            what()
        )));
    }
    let made = in_new_netns(pin, || {
        add_bridge(ifname, address)?;
        keep(pin)
    });
    made.map_err(|e| e.context(what()))
}

/// Pins the calling thread's namespace, or leaves things as they are.
fn keep(target: &Path) -> Result<()> {
    let was_there = target.symlink_metadata().is_ok();
    pin("/proc/thread-self/ns/net", target)
        .map(drop)
        .inspect_err(|_| {
            if !was_there {
                // One that is mounted by somebody else is not removed by this.
                let _ = remove_file(target);
            }
        })
}
