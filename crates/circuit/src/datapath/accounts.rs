//! For whom the addresses of networks are held, and what of that this daemon knows.

use circuit_core::cni::AnyCase as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use circuit_core::{
    Error, Result,
    cni::ConfigList,
    datapath::{Held, Holder, Pool},
};
use circuit_net::driver;
use serde_json::Value;

use super::standing::Lender;

/// Where host-local keeps leases when the configuration does not say.
const LEASES: &str = "/var/lib/cni/networks";

/// Who gives addresses, and whom they know.
pub(super) struct Accounts {
    /// Lends those of ipam type `dhcp`.
    pub(super) lender: Lender,
    /// Gives those of ipam type `circuit`, if it is this daemon.
    pub(super) pools: Option<Giver>,
}

/// The keeper of address pools, and the socket at which plugins find it.
#[derive(Clone)]
pub struct Giver {
    /// Knows who has addresses.
    pub holder: Arc<dyn Holder>,
    /// Where it listens.
    pub socket: PathBuf,
}

impl Giver {
    /// Whether a network's addresses come by this keeper; one that names no socket has
    /// those of its daemon.
    fn gives(&self, config: &ConfigList) -> bool {
        let ipams = config.plugins.iter().filter_map(|plugin| plugin.ipam());
        let mut circuit = ipams.filter(|ipam| ipam.kind() == Some("circuit"));
        circuit.all(|ipam| {
            let told = ipam.raw().find("socket").and_then(Value::as_str);
            told.is_none_or(|socket| Path::new(socket) == self.socket)
        })
    }
}

impl Accounts {
    /// Whether this daemon knows for whom a network's addresses are held: those by
    /// DHCP and of pools are the business of the one that others ask.
    pub(super) fn are_complete(&self, config: &ConfigList) -> bool {
        let kinds = config.plugins.iter().filter_map(|plugin| plugin.ipam());
        let mut kinds = kinds.filter_map(|ipam| ipam.kind().map(str::to_owned));
        kinds.all(|kind| match kind.as_str() {
            "dhcp" => self.lender.lends(config),
            "circuit" => self.pools.as_ref().is_some_and(|it| it.gives(config)),
            _ => true,
        })
    }

    /// What is held on a network, whoever asked for it.
    pub(super) async fn held(&self, config: ConfigList) -> Result<Vec<Held>> {
        let mut all = Vec::new();
        all.extend(self.lender.held(&config.name));
        if let Some(pools) = self.pools.as_ref().filter(|it| it.gives(&config)) {
            all.extend(pools.holder.held(&config.name));
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use circuit_net::dhcp::{LeaseKeeper, Settings};
    use serde_json::json;

    use super::*;

    /// It holds the same on every network.
    struct Always;

    impl Holder for Always {
        fn held(&self, _: &str) -> Vec<Held> {
            vec![Held {
                cni_id: "default-web".to_owned(),
                interface: "eth0".to_owned(),
                address: None,
            }]
        }
    }

    #[tokio::test]
    async fn what_another_keeper_gives_is_not_known_here() {
        let giver = Giver {
            holder: Arc::new(Always),
            socket: "/run/own.sock".into(),
        };
        let leases = tempfile::tempdir().unwrap();
        let keeper = LeaseKeeper::start(leases.path(), Settings::default()).unwrap();
        let accounts = |pools| Accounts {
            lender: Lender {
                keeper: keeper.clone(),
                socket: "/run/own-dhcp.sock".into(),
                listens: false,
            },
            pools,
        };
        let own = accounts(Some(giver));
        for (socket, ours) in [
            (json!(null), true),
            (json!("/run/own.sock"), true),
            (json!("/run/other.sock"), false),
        ] {
            let list = json!({"cniVersion": "1.0.0", "name": "lan", "plugins": [
                {"type": "bridge", "ipam": {"type": "circuit", "Socket": socket}}]});
            let list = ConfigList::parse(list.to_string().as_bytes()).unwrap();
            assert_eq!(own.are_complete(&list), ours, "{socket}");
            assert_eq!(
                own.held(list.clone()).await.unwrap().len(),
                usize::from(ours)
            );
            assert!(!accounts(None).are_complete(&list));
        }
    }
}
