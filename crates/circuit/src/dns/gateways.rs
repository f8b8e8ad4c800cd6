//! DNS on the gateways of networks: where containers find it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use circuit_core::{Error, Result};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::answer::Door;
use super::server::{Listener, serve};
use super::{Dns, PORT};

/// How often it is looked whether gateways are still there.
const LOOK: Duration = Duration::from_secs(5);

/// The gateways on which DNS listens.
pub struct Gateways {
    dns: Arc<Dns>,
    open: Mutex<HashMap<IpAddr, Open>>,
}

struct Open {
    network: Arc<str>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Gateways {
    /// None yet.
    pub fn new(dns: Arc<Dns>) -> Self {
        Self {
            dns,
            open: Mutex::default(),
        }
    }

    /// Has DNS listen on those gateways of a network that are this host's, and
    /// returns where the network's containers can ask. Takes the runtime.
    ///
    /// # Errors
    /// When they can ask nowhere, with the remedy.
    pub fn serve(&self, network: &str, gateways: &[IpAddr]) -> Result<Vec<IpAddr>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut servers = Vec::new();
        let mut here = None;
        for gateway in gateways {
            let is_open = |open: &Open| !open.serving.is_finished();
            if open.get(gateway).is_some_and(is_open) {
                servers.push(*gateway);
                continue;
            }
            let here = here.get_or_insert_with(addresses_of_host);
            if !here.contains(gateway) {
                continue;
            }
            if self.dns.listens_on(*gateway) {
                servers.push(*gateway);
                continue;
            }
            // An address of IPv6 is looked for at first, and cannot be used.
            let listener = Listener::bind((*gateway, PORT).into(), true)?;
            open.insert(*gateway, self.start(network, listener));
            servers.push(*gateway);
        }
        if servers.is_empty() {
            servers.extend(self.dns.addresses());
        }
        if servers.is_empty() {
            return Err(Error::precondition(format!(
                "network {network} has no gateway on this host where its containers could ask for \
                 names; have the daemon listen on port 53 of an address that they reach, by \
                 --dns-listen"
            )));
        }
        Ok(servers)
    }

    fn start(&self, network: &str, listener: Listener) -> Open {
        let network: Arc<str> = network.into();
        let stop = CancellationToken::new();
        let (dns, door) = (Arc::clone(&self.dns), Door::Gateway(Arc::clone(&network)));
        let (address, stopped) = (listener.address(), stop.clone());
        tracing::info!("answering names for network {network} on {address}");
        let serving = tokio::spawn(async move {
            if let Err(error) = serve(dns, listener, door, stopped).await {
                tracing::error!(%address, %error, "names are no longer answered there");
            }
        });
        Open {
            network,
            stop,
            serving,
        }
    }

    /// Closes those whose address is gone from the host, until `stop`; then all.
    pub async fn watch(&self, stop: CancellationToken) {
        let mut timer = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = timer.tick() => self.close(|here, gateway| !here.contains(gateway)),
            }
        }
        self.close(|_, _| true);
    }

    fn close(&self, which: impl Fn(&HashSet<IpAddr>, &IpAddr) -> bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.is_empty() {
            return;
        }
        let here = addresses_of_host();
        open.retain(|gateway, it| {
            let closes = which(&here, gateway);
            if closes {
                tracing::debug!(network = %it.network, %gateway, "no more names there");
                it.stop.cancel();
            }
            !closes
        });
    }
}

/// Every address of this host, also those that cannot be used yet.
fn addresses_of_host() -> HashSet<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        return HashSet::new();
    };
    let address = |one: nix::ifaddrs::InterfaceAddress| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|it| it.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|it| it.ip().into()))
    };
    all.filter_map(address).collect()
}
