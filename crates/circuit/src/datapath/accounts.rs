//! For whom the addresses of networks are held, and what of that this daemon knows.

use circuit_core::cni::AnyCase as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use circuit_core::{
    Error, Result,
    cni::ConfigList,
    datapath::{Held, Holder, Pool},
    ipam::wire::named_socket,
};
use circuit_net::driver;

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
            named_socket(ipam.raw())
                .is_none_or(|socket| socket.as_str().map(Path::new) == Some(self.socket.as_path()))
        })
    }
}

impl Accounts {
    /// Whether it is told here for whom a network's addresses are held: of those by DHCP
    /// and of pools the one knows that others ask.
    pub(super) fn are_ours(&self, config: &ConfigList) -> bool {
        ipams(config).all(|ipam| match ipam {
            "dhcp" => self.lender.lends(config),
            "circuit" => self.pools.as_ref().is_some_and(|it| it.gives(config)),
            _ => true,
        })
    }

    /// Whether it is known as well: whom another's executable has given addresses is not.
    pub(super) fn are_complete(&self, config: &ConfigList) -> bool {
        if config.ipam_kind().is_none() {
            return tells_by_rules(config);
        }
        let known = |ipam| match ipam {
            "dhcp" | "circuit" | "host-local" => true,
            "static" => tells_by_rules(config),
            _ => false,
        };
        self.are_ours(config) && ipams(config).all(known)
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

/// The types of plugins that give a network's addresses.
fn ipams(config: &ConfigList) -> impl Iterator<Item = &str> {
    let ipams = config.plugins.iter().filter_map(|plugin| plugin.ipam());
    ipams.filter_map(|ipam| ipam.kind())
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

    fn accounts(leases: &Path, pools: Option<Giver>) -> Accounts {
        Accounts {
            lender: Lender {
                keeper: LeaseKeeper::start(leases, Settings::default()).unwrap(),
                socket: "/run/own-dhcp.sock".into(),
                listens: false,
            },
            pools,
        }
    }

    #[test]
    fn only_those_who_are_known_can_be_told_from_those_who_are_gone() {
        let leases = tempfile::tempdir().unwrap();
        let accounts = accounts(leases.path(), None);
        let read = |plugins: &str| {
            let list = format!(r#"{{"cniVersion":"1.1.0","name":"net","plugins":[{plugins}]}}"#);
            ConfigList::parse(list.as_bytes()).unwrap()
        };
        for known in [
            r#"{"type":"bridge","ipam":{"type":"host-local"}},{"type":"theirs"}"#,
            r#"{"type":"bridge","ipam":{"type":"host-local"}},{"type":"bandwidth"}"#,
            r#"{"type":"macvlan","ipam":{"type":"static"}},{"type":"portmap"}"#,
            r#"{"type":"bridge"},{"type":"firewall"}"#,
        ] {
            assert!(accounts.are_complete(&read(known)), "{known}");
        }
        for unknown in [
            r#"{"type":"bridge","ipam":{"type":"theirs"}}"#,
            r#"{"type":"bridge","ipam":{"type":"host-local"}},{"type":"x","ipam":{"type":"y"}}"#,
            r#"{"type":"bridge","ipam":{"type":"static"}},{"type":"theirs"}"#,
            r#"{"type":"bridge","ipam":{"type":"static"}},{"type":"bandwidth"}"#,
            r#"{"type":"theirs"}"#,
        ] {
            assert!(!accounts.are_complete(&read(unknown)), "{unknown}");
            // No other daemon gives them, all the same.
            assert!(accounts.are_ours(&read(unknown)), "{unknown}");
        }
        let lent = read(r#"{"type":"bridge","ipam":{"type":"dhcp"}}"#);
        assert!(!accounts.are_ours(&lent) && !accounts.are_complete(&lent));
    }

    #[tokio::test]
    async fn what_another_keeper_gives_is_not_known_here() {
        let giver = Giver {
            holder: Arc::new(Always),
            socket: "/run/own.sock".into(),
        };
        let leases = tempfile::tempdir().unwrap();
        let accounts = |pools| accounts(leases.path(), pools);
        let own = accounts(Some(giver));
        for (socket, ours) in [
            (json!(null), true),
            (json!(""), true),
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
