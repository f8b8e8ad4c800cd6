//! DNS, with what it answers from.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use circuit_core::Result;
use circuit_core::cni::ConfigList;
use circuit_core::fleet::Snapshot;
use circuit_core::zone::Networks;
use ipnet::IpNet;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    attachments::{Attachments, Nameservers, NetworkSource},
    cli::server::ServerOptions,
    dns::{Dns, Door, Gateways, Listener, Servers, Settings, Sources, serve},
    registry::Registry,
};

/// Which servers the host asks.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How often it is looked whether networks came or went.
const LOOK: Duration = Duration::from_millis(250);
/// A folder that was changed so lately may change again without showing it.
const UNSETTLED: Duration = Duration::from_secs(2);

/// DNS and its listeners.
pub(super) struct Naming {
    pub(super) dns: Arc<Dns>,
    gateways: Arc<Gateways>,
    listeners: Vec<Listener>,
    known: Arc<Known>,
}

impl Naming {
    /// Puts it together; `folder` is where networks are stored.
    pub(super) fn open(
        options: &ServerOptions,
        attachments: &Arc<Attachments>,
        registry: Option<Arc<Registry>>,
        networks: (Arc<dyn NetworkSource>, PathBuf),
    ) -> Result<Self> {
        let listen = options.dns_listen.iter();
        let listeners: Vec<Listener> = listen
            .map(|address| Listener::bind(*address, false))
            .collect::<Result<_>>()?;
        let (source, folder) = networks;
        let known = Arc::new(Known {
            attachments: Arc::clone(attachments),
            registry,
            stale: options.lease + options.dns_stale,
            networks: ArcSwap::default(),
            source,
            folder,
        });
        let settings = Settings {
            domain: options.dns_domain.clone(),
            ttl: u32::try_from(options.dns_ttl.as_secs()).unwrap_or(u32::MAX),
            listen: listeners.iter().map(Listener::address).collect(),
            limit: options.dns_limit,
        };
        let servers = match options.dns_upstream.as_slice() {
            [] => Servers::OfHost(RESOLV_CONF.into()),
            these => Servers::These(these.to_vec()),
        };
        let dns = Arc::new(Dns::new(settings, Arc::clone(&known) as _, servers));
        let gateways = Arc::new(Gateways::new(Arc::clone(&dns)));
        attachments.announce(Arc::new(Told {
            gateways: Arc::clone(&gateways),
            dns: Arc::clone(&dns),
        }));
        Ok(Self {
            gateways,
            dns,
            listeners,
            known,
        })
    }

    /// Answers until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<()> {
        let mut parts = JoinSet::new();
        for listener in self.listeners {
            tracing::info!("answering names on {}", listener.address());
            let (dns, stop) = (Arc::clone(&self.dns), stop.clone());
            parts.spawn(serve(dns, listener, Door::Open, stop));
        }
        let (gateways, stopped) = (self.gateways, stop.clone());
        parts.spawn(async move {
            gateways.watch(stopped).await;
            Ok(())
        });
        let dns = self.dns;
        let others = async {
            tokio::join!(dns.watch(), self.known.follow());
        };
        let answering = async {
            while let Some(ended) = parts.join_next().await {
                ended.map_err(|error| {
                    circuit_core::Error::internal(format!("dns hit a defect: {error}"))
                })??;
            }
            Ok(())
        };
        tokio::select! {
            answered = answering => answered,
            () = others => Ok(()),
        }
    }
}

/// Where containers are told to ask.
struct Told {
    gateways: Arc<Gateways>,
    dns: Arc<Dns>,
}

impl Nameservers for Told {
    fn serve(&self, network: &str, gateways: &[IpAddr]) -> Result<Vec<IpAddr>> {
        self.gateways.serve(network, gateways)
    }

    fn domain(&self) -> &str {
        self.dns.settings().domain.as_str()
    }
}

/// What names are answered from.
struct Known {
    attachments: Arc<Attachments>,
    registry: Option<Arc<Registry>>,
    /// What other nodes have is too old after that.
    stale: Duration,
    networks: ArcSwap<Networks>,
    source: Arc<dyn NetworkSource>,
    folder: PathBuf,
}

impl Known {
    /// Follows which networks there are, for ever.
    async fn follow(&self) {
        let mut timer = tokio::time::interval(LOOK);
        let mut seen = None;
        loop {
            timer.tick().await;
            let changed = fs::metadata(&self.folder).and_then(|it| it.modified()).ok();
            let age = changed.and_then(|at| SystemTime::now().duration_since(at).ok());
            if changed == seen && age.is_some_and(|age| age > UNSETTLED) {
                continue;
            }
            match self.read().await {
                Ok(networks) if **self.networks.load() == networks => seen = changed,
                Ok(networks) => {
                    self.networks.store(Arc::new(networks));
                    seen = changed;
                }
                Err(error) => tracing::debug!(%error, "cannot read which networks there are"),
            }
        }
    }

    async fn read(&self) -> Result<Networks> {
        let stored = self.source.networks().await?;
        let networks = stored.iter().map(|network| {
            let config = ConfigList::parse(&network.data);
            let subnets = config.map_or_else(|_| Vec::new(), |config| own_subnets(&config));
            (network.name.as_str(), subnets)
        });
        Ok(Networks::new(networks))
    }
}

/// The subnets in which nobody but containers has addresses. Interfaces of some kinds are
/// on a LAN: others are there too, and have names elsewhere.
fn own_subnets(config: &ConfigList) -> Vec<IpNet> {
    match config.plugins.first().map(|plugin| plugin.kind.as_str()) {
        Some("macvlan" | "ipvlan" | "vlan" | "host-device") => Vec::new(),
        _ => config.subnets(),
    }
}

impl Sources for Known {
    fn maps(&self) -> Vec<Snapshot> {
        let mut maps = vec![Snapshot::clone(&self.attachments.book().snapshot())];
        if let Some(registry) = &self.registry {
            let age = registry.stale_for();
            if age.is_none_or(|age| age <= self.stale) {
                maps.push(Snapshot::clone(&registry.fleet()));
            }
        }
        maps
    }

    fn networks(&self) -> Arc<Networks> {
        self.networks.load_full()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lan_is_not_ours_alone() {
        for (kind, expected) in [
            ("bridge", &["10.88.0.0/16"][..]),
            ("ptp", &["10.88.0.0/16"]),
            ("macvlan", &[]),
            ("ipvlan", &[]),
            ("vlan", &[]),
            ("host-device", &[]),
        ] {
            let config = format!(
                r#"{{"cniVersion":"1.0.0","name":"lan","plugins":[{{"type":"{kind}","master":"eth0",
                "device":"eth0","vlanId":7,"ipam":{{"type":"host-local","ranges":
                [[{{"subnet":"10.88.0.0/16"}}]]}}}},{{"type":"tuning"}}]}}"#
            );
            let config = ConfigList::parse(config.as_bytes()).unwrap();
            let subnets = own_subnets(&config);
            let subnets: Vec<String> = subnets.iter().map(ToString::to_string).collect();
            assert_eq!(subnets, expected, "{kind}");
        }
    }
}
