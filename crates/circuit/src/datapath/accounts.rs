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
    /// DHCP and of pools are the business of the one that others ask, and whom another's
    /// executable has given addresses is not known.
    pub(super) fn are_complete(&self, config: &ConfigList) -> bool {
        if config.ipam_kind().is_none() {
            return tells_by_rules(config);
        }
        let kinds = config.plugins.iter().filter_map(|plugin| plugin.ipam());
        let mut kinds = kinds.filter_map(|ipam| ipam.kind().map(str::to_owned));
        kinds.all(|kind| match kind.as_str() {
            "dhcp" => self.lender.as_ref().is_some_and(|it| it.lends(config)),
            "circuit" => self.pools.is_some(),
            "host-local" => true,
            "static" => tells_by_rules(config),
            _ => false,
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

/// Whether all that these plugins' GC removes is known without leases. Ports and the
/// firewall's rules name their container; the devices of `bandwidth` do not, and what
/// plugins without a driver keep is their own.
fn tells_by_rules(config: &ConfigList) -> bool {
    let tells = |kind: &str| driver::driver(kind).is_some() && kind != "bandwidth";
    config.plugins.iter().all(|plugin| tells(&plugin.kind))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn is_complete(plugins: &str) -> bool {
        let list = format!(r#"{{"cniVersion":"1.1.0","name":"net","plugins":[{plugins}]}}"#);
        let config = ConfigList::parse(list.as_bytes()).unwrap();
        let nobody = Accounts {
            lender: None,
            pools: None,
        };
        nobody.are_complete(&config)
    }

    #[test]
    fn only_those_who_are_known_can_be_told_from_those_who_are_gone() {
        for known in [
            r#"{"type":"bridge","ipam":{"type":"host-local"}},{"type":"theirs"}"#,
            r#"{"type":"bridge","ipam":{"type":"host-local"}},{"type":"bandwidth"}"#,
            r#"{"type":"macvlan","ipam":{"type":"static"}},{"type":"portmap"}"#,
            r#"{"type":"bridge"},{"type":"firewall"}"#,
        ] {
            assert!(is_complete(known), "{known}");
        }
        for unknown in [
            r#"{"type":"bridge","ipam":{"type":"theirs"}}"#,
            r#"{"type":"bridge","ipam":{"type":"host-local"}},{"type":"x","ipam":{"type":"y"}}"#,
            r#"{"type":"bridge","ipam":{"type":"dhcp"}}"#,
            r#"{"type":"bridge","ipam":{"type":"static"}},{"type":"theirs"}"#,
            r#"{"type":"bridge","ipam":{"type":"static"}},{"type":"bandwidth"}"#,
            r#"{"type":"theirs"}"#,
        ] {
            assert!(!is_complete(unknown), "{unknown}");
        }
    }
}
