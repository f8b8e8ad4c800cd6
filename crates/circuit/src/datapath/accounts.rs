//! For whom the addresses of networks are held, and what of that this daemon knows.

use circuit_core::cni::AnyCase as _;
use std::path::Path;
use std::sync::Arc;

use circuit_core::{
    Error, Result,
    cni::ConfigList,
    datapath::{Held, Holder, Pool},
};
use circuit_net::driver;

use super::standing::Lender;

/// Where host-local keeps leases when the configuration does not say.
const LEASES: &str = "/var/lib/cni/networks";

/// Who gives addresses, and whom they know.
pub(super) struct Accounts {
    /// Lends those of ipam type `dhcp`, if it is this daemon.
    pub(super) lender: Option<Lender>,
    /// Gives those of ipam type `circuit`, if it is this daemon.
    pub(super) pools: Option<Arc<dyn Holder>>,
}

impl Accounts {
    /// Whether this daemon knows for whom a network's addresses are held: those by
    /// DHCP and of pools are the business of the one that others ask.
    pub(super) fn are_complete(&self, config: &ConfigList) -> bool {
        let kinds = config.plugins.iter().filter_map(|plugin| plugin.ipam());
        let mut kinds = kinds.filter_map(|ipam| ipam.kind().map(str::to_owned));
        kinds.all(|kind| match kind.as_str() {
            "dhcp" => self.lender.as_ref().is_some_and(|it| it.lends(config)),
            "circuit" => self.pools.is_some(),
            _ => true,
        })
    }

    /// What is held on a network, whoever asked for it.
    pub(super) async fn held(&self, config: ConfigList) -> Result<Vec<Held>> {
        let mut all = Vec::new();
        if let Some(lender) = &self.lender {
            all.extend(lender.held(&config.name));
        }
        if let Some(pools) = &self.pools {
            all.extend(pools.held(&config.name));
        }
        let read = tokio::task::spawn_blocking(move || driver::held(&config));
        let read = read
            .await
            .map_err(|error| Error::internal(format!("reading leases failed: {error}")))?;
        all.extend(read.map_err(|report| Error::internal(report.text()))?);
        Ok(all)
    }
}

/// The CNI container id that has an address of host-local's.
pub(super) fn owner_of(config: &ConfigList, ip: &str) -> Option<String> {
    let ipam = config.plugins.iter().find_map(|plugin| plugin.ipam())?;
    let told = ipam.raw().find("dataDir").and_then(|dir| dir.as_str());
    let lease = Path::new(told.unwrap_or(LEASES))
        .join(&config.name)
        .join(ip);
    let text = std::fs::read_to_string(lease).ok()?;
    text.lines().next().map(|owner| owner.trim().to_owned())
}

/// How full the pools of a network are.
pub(super) async fn pools(config: ConfigList) -> Vec<Pool> {
    // Leases are files, and there may be thousands.
    let counted = tokio::task::spawn_blocking(move || driver::pools(&config));
    counted.await.unwrap_or_default()
}
