//! Masquerading, for the networks that ask for it: rules of the network, made
//! with its first attachment and taken away with its last.

use circuit_core::cni::{AnyCase as _, CniResult, ErrorReport, IpamConfig, JsonObject, code};
use ipnet::IpNet;

use super::{Answer, Call, Options, Unsupported};
use crate::nft::masquerade;

/// Refuses rules by `iptables` where they are asked for by name: who asks
/// wants to see them there. Otherwise it is left to the plugin, and so to us.
pub(super) fn supports(config: &JsonObject) -> Result<(), Unsupported> {
    let asked = config.find("ipMasqBackend").and_then(|v| v.as_str());
    match asked {
        Some("iptables") => Err(Unsupported {
            key: "ipMasqBackend".to_owned(),
            documented: true,
        }),
        _ => Ok(()),
    }
}

/// Whether the network is masqueraded.
pub(super) fn wanted(call: &Call<'_>) -> Answer<bool> {
    let options = Options::new(call.config);
    let wanted = options.flag("ipMasq")?;
    let backend = options.text("ipMasqBackend")?;
    match backend {
        None | Some("nftables" | "iptables") => Ok(wanted),
        Some(_) if !wanted => Ok(false),
        Some(other) => Err(ErrorReport::new(
            code::INVALID_CONFIG,
            format!("ipMasqBackend {other:?} is not known: use nftables"),
        )),
    }
}

/// Has the subnets of the network masqueraded: those that it gives addresses
/// out of, and those of an attachment.
pub(super) fn ensure(call: &Call<'_>, result: &CniResult) -> Answer<()> {
    masquerade::ensure(call.network(), None, &subnets(call, Some(result)))
}

/// Has the network of an attachment masqueraded that was made before.
pub(super) fn mend(call: &Call<'_>) -> Answer<()> {
    match call.prev {
        Some(result) if !result.ips.is_empty() && wanted(call)? => ensure(call, result),
        _ => Ok(()),
    }
}

/// Ends the masquerading of a network that has no attachments left, which
/// `unused` finds out. An attachment that comes meanwhile gets it back.
pub(super) fn release(call: &Call<'_>, unused: impl Fn() -> Answer<bool>) -> Answer<()> {
    if !unused()? {
        return Ok(());
    }
    masquerade::release(call.network())?;
    match unused()? {
        true => Ok(()),
        false => masquerade::ensure(call.network(), None, &subnets(call, call.prev)),
    }
}

/// The network's subnets, sorted and without repeats.
fn subnets(call: &Call<'_>, result: Option<&CniResult>) -> Vec<IpNet> {
    let ipam = call.config.find("ipam").and_then(|ipam| ipam.as_object());
    let configured = ipam.map(|ipam| IpamConfig::new(ipam).subnets());
    let leased = result.into_iter().flat_map(|result| &result.ips);
    let mut subnets: Vec<IpNet> = configured.into_iter().flatten().collect();
    subnets.extend(leased.map(|ip| ip.address));
    subnets
        .iter_mut()
        .for_each(|subnet| *subnet = subnet.trunc());
    subnets.sort_unstable();
    subnets.dedup();
    subnets
}
