//! Masquerading of networks.

use circuit_core::cni::{ErrorReport, code};
use ipnet::IpNet;

use crate::driver::Answer;

/// Has traffic that leaves the subnets of a network masqueraded.
///
/// # Errors
/// When the rules cannot be made.
pub fn ensure(network: &str, _iface: Option<&str>, _subnets: &[IpNet]) -> Answer<()> {
    let text = format!("network {network} cannot be masqueraded");
    Err(ErrorReport::new(code::OTHER, text))
}

/// Takes the rules of a network away; no error when there are none.
///
/// # Errors
/// When the ruleset cannot be changed.
pub fn release(_network: &str) -> Answer<()> {
    Ok(())
}
