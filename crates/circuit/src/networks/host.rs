//! What a network's configuration is held against: this host.

use std::net::IpAddr;
use std::path::Path;

use async_trait::async_trait;
use circuit_core::cni::ConfigList;
use circuit_core::{Error, Result};
use circuit_net::cni::CniRuntime;
use circuit_net::host::{remove_idle_bridge, resolvers};
use circuit_net::netlink::{self, Route};
use ipnet::IpNet;

/// Where resolvers are named; the second file has the real ones on hosts whose
/// first names a local stub.
const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Routes and resolvers that a network must leave alone.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The routes of the main table.
    pub routes: Vec<Route>,
    /// The name servers that the host asks.
    pub resolvers: Vec<IpAddr>,
}

/// What decides whether a network can be on this host.
#[async_trait]
pub trait Surroundings: Send + Sync {
    /// Checks that the plugins are there and speak the configuration's version.
    async fn probe(&self, list: &ConfigList) -> Result<()>;

    /// The host's routes and resolvers.
    async fn facts(&self) -> Result<Facts>;

    /// Removes a bridge of a network that is gone, with addresses of those subnets,
    /// unless something else is on it.
    async fn remove_bridge(&self, name: &str, subnets: &[IpNet]) -> Result<()>;
}

/// This host.
pub struct Host {
    cni: CniRuntime,
}

impl Host {
    /// A host with those plugins.
    #[must_use]
    pub fn new(cni: CniRuntime) -> Self {
        Self { cni }
    }
}

#[async_trait]
impl Surroundings for Host {
    async fn probe(&self, list: &ConfigList) -> Result<()> {
        self.cni.probe(list).await?;
        // What is not ready now may be by the time a container comes.
        if let Err(error) = self.cni.status(list).await {
            tracing::warn!(
                network = list.name,
                %error,
                "a plugin says that it is not ready: containers are connected when it is"
            );
        }
        Ok(())
    }

    async fn facts(&self) -> Result<Facts> {
        tokio::task::spawn_blocking(facts)
            .await
            .map_err(|e| Error::internal(format!("reading the host's routes hit a defect: {e}")))?
    }

    async fn remove_bridge(&self, name: &str, subnets: &[IpNet]) -> Result<()> {
        let (bridge, subnets) = (name.to_owned(), subnets.to_vec());
        let removing = move || remove_idle_bridge(&bridge, &subnets);
        let removed = tokio::task::spawn_blocking(removing)
            .await
            .map_err(|e| Error::internal(format!("removing a bridge hit a defect: {e}")))??;
        if removed {
            tracing::debug!("removed bridge {name}");
        }
        Ok(())
    }
}

fn facts() -> Result<Facts> {
    let routes = netlink::routes(None).map_err(|e| e.context("cannot read the host's routes"))?;
    let mut servers = Vec::new();
    for path in RESOLV_CONF {
        // A host without such a file has no such resolver.
        let text = std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        for server in resolvers(&text) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    Ok(Facts {
        routes,
        resolvers: servers,
    })
}
