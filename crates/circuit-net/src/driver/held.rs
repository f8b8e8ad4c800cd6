//! What is held for containers of a network, whichever runtime asked for it.

use std::collections::BTreeSet;

use circuit_core::cni::ConfigList;
use circuit_core::datapath::Held;

use super::owner::Owner;
use super::{Answer, firewall, ipam, portmap};
use crate::nft::{Nft, NftError};

/// Leases in files, published ports, and addresses that the firewall lets through.
///
/// # Errors
/// An error object, when the firewall or a folder of leases cannot be read.
pub fn held(list: &ConfigList) -> Answer<Vec<Held>> {
    let owners = match owners() {
        // A kernel without nftables, where all rules are of executables.
        Err(error) if error.errno() == Some(libc::EINVAL) => BTreeSet::new(),
        owners => owners?,
    };
    let of_network = |owner: &Owner| owner.is_of_network(&list.name);
    let mut all = ipam::leases(list)?;
    all.extend(owners.into_iter().filter(of_network).map(Owner::held));
    Ok(all)
}

/// Whoever has rules in our table.
fn owners() -> Result<BTreeSet<Owner>, NftError> {
    let mut nft = Nft::open(None)?;
    let mut owners = portmap::owners(&mut nft)?;
    owners.extend(firewall::owners(&mut nft)?);
    Ok(owners)
}
