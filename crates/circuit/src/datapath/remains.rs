//! What an ADD that was interrupted has made.

use std::path::Path;

use circuit_core::{
    Result,
    attachment::Attachment,
    cni::{CniResult, CniVersion, ConfigList, Interface, IpConfig},
};
use circuit_net::{netlink::Netlink, netns::Workers};
use serde_json::Value;

/// Of addresses that are good beyond their link (rtnetlink(7)).
const RT_SCOPE_UNIVERSE: u8 = 0;

/// The attachment with a result by what the container's interface has, where executables
/// are to take away what they made and their result is not known: it is lost with a daemon
/// that ends during ADD, and some, as the stock `firewall`, find their rules by the
/// addresses in it alone.
pub(super) async fn with_result(
    attachment: &Attachment,
    config: &ConfigList,
    workers: &Workers,
) -> Option<Attachment> {
    let netns = attachment.netns.clone()?;
    let executables = config.plugins.len() > attachment.natives.len();
    if attachment.result.is_some() || !executables || !config.cni_version.has_check() {
        return None;
    }
    let (interface, version) = (attachment.interface.clone(), config.cni_version);
    let look = move || remains(&netns, &interface, version);
    match workers.run(look).await.and_then(|found| found) {
        Ok(None) => None,
        Ok(result) => Some(Attachment {
            result,
            ..attachment.clone()
        }),
        Err(error) => {
            tracing::debug!(%error, "what an interrupted connect has made is not known");
            None
        }
    }
}

/// None while there is no address.
fn remains(netns: &Path, interface: &str, version: CniVersion) -> Result<Option<Value>> {
    let mut inside = Netlink::open(Some(netns))?;
    let Some(link) = inside.link(interface)? else {
        return Ok(None);
    };
    let addresses = inside.addresses(link.index)?.into_iter();
    let ips: Vec<IpConfig> = addresses
        .filter(|found| found.scope == RT_SCOPE_UNIVERSE)
        .map(|found| IpConfig {
            address: found.address,
            gateway: None,
            interface: Some(0),
        })
        .collect();
    let interface = Interface {
        name: interface.to_owned(),
        mac: link.mac,
        sandbox: Some(netns.to_string_lossy().into_owned()),
        ..Interface::default()
    };
    if ips.is_empty() {
        return Ok(None);
    }
    let result = CniResult {
        interfaces: vec![interface],
        ips,
        ..CniResult::default()
    };
    Ok(Some(result.to_version(version)))
}
