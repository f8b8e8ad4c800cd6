//! Network drivers: what CNI plugins do, done in this process over netlink and
//! nftables. The same drivers serve the daemon and, by [`executable`], any
//! other CNI runtime.
//!
//! A driver is a file of its own and a row in [`DRIVERS`]. It is synchronous
//! and single-threaded: it runs on threads that may block, never on those of
//! an async runtime.

mod args;
mod bandwidth;
mod bridge;
mod call;
mod configure;
mod dbus;
pub(crate) mod delegate;
mod dhcp;
mod dummy;
pub mod executable;
mod firewall;
mod held;
mod host_device;
mod ipam;
mod ipmasq;
mod ipvlan;
mod loopback;
mod macvlan;
mod managed;
mod options;
mod owner;
mod portmap;
mod ptp;
mod sbr;
mod single;
mod steps;
mod sysctl;
mod tuning;
mod verify;
mod veth;
mod vlan;

use circuit_core::cni::{CniResult, ErrorReport, JsonObject};

pub use call::{Call, Command, Sockets};
pub use delegate::Delegate;
pub use executable::dispatch;
pub use firewall::{FirewalldWatch, has_legacy};
pub use held::held;
pub use ipam::pools;
pub use options::{Options, Unsupported};
pub use portmap::{guard_loopback, is_left_to_daemon, leave_to_daemon};

/// What a driver answers: a result, or the error object of the specification.
pub type Answer<T> = std::result::Result<T, ErrorReport>;

/// One plugin type. Operations follow the CNI specification 1.1.0; a driver
/// does not look at versions, but for what [`Call::version`] says it may.
pub trait Driver: Sync {
    /// Whether this driver means the same by this configuration as the stock
    /// plugin 1.10.0 does. Where it does not, a runtime uses the executable.
    ///
    /// # Errors
    /// The first key that is not known, or not done.
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported>;

    /// Attaches. Whatever was made is taken away again when this fails.
    ///
    /// # Errors
    /// An error object.
    fn add(&self, call: &Call<'_>) -> Answer<CniResult>;

    /// Detaches: no error when there is nothing, or the namespace is gone.
    ///
    /// # Errors
    /// An error object; what could be taken away is.
    fn del(&self, call: &Call<'_>) -> Answer<()>;

    /// Says whether the attachment is as [`add`](Self::add) left it.
    ///
    /// # Errors
    /// An error object that names the difference.
    fn check(&self, call: &Call<'_>) -> Answer<()>;

    /// Says whether an ADD could be served.
    ///
    /// # Errors
    /// An error object, code 50 or 51.
    fn status(&self, _call: &Call<'_>) -> Answer<()> {
        Ok(())
    }

    /// Makes again what other programs may have taken away from outside of the
    /// container since the attachment was made: firewall rules, and what its network
    /// has on the host. The previous result of the call is its final one. Doing it in
    /// vain is no error.
    ///
    /// # Errors
    /// An error object.
    fn mend(&self, _call: &Call<'_>) -> Answer<()> {
        Ok(())
    }

    /// Removes what belongs to no attachment of [`Call::valid`].
    ///
    /// # Errors
    /// An error object; what could be removed is.
    fn gc(&self, _call: &Call<'_>) -> Answer<()> {
        Ok(())
    }
}

/// Every driver by the `type` that names it in a configuration.
pub const DRIVERS: &[(&str, &dyn Driver)] = &[
    ("bandwidth", &bandwidth::Bandwidth),
    ("bridge", &bridge::Bridge),
    ("circuit", &ipam::Circuit),
    ("dhcp", &dhcp::Dhcp),
    ("dummy", &dummy::Dummy),
    ("firewall", &firewall::Firewall),
    ("host-device", &host_device::HostDevice),
    ("host-local", &ipam::HostLocal),
    ("ipvlan", &ipvlan::Ipvlan),
    ("loopback", &loopback::Loopback),
    ("macvlan", &macvlan::Macvlan),
    ("portmap", &portmap::Portmap),
    ("ptp", &ptp::Ptp),
    ("sbr", &sbr::Sbr),
    ("static", &ipam::Static),
    ("tuning", &tuning::Tuning),
    ("vlan", &vlan::Vlan),
];

/// The driver of a plugin type.
pub fn driver(kind: &str) -> Option<&'static dyn Driver> {
    DRIVERS
        .iter()
        .find(|(name, _)| *name == kind)
        .map(|(_, driver)| *driver)
}
