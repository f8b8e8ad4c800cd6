//! DNS on the gateways of networks: where containers find it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use circuit_core::{Error, Result};
use circuit_net::driver::leave_to_daemon;
use circuit_net::netlink::Netlink;
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
    /// It was said that published ports may lead away from them.
    told: AtomicBool,
}

struct Open {
    network: Arc<str>,
    /// The host did not have the address at the last look.
    missed: bool,
    stop: CancellationToken,
    /// None where the daemon answers on all of the host's addresses, or on this one.
    serving: Option<JoinHandle<()>>,
}

impl Open {
    fn is_served(&self) -> bool {
        self.serving.as_ref().is_none_or(|it| !it.is_finished())
    }
}

impl Gateways {
    /// None yet.
    pub fn new(dns: Arc<Dns>) -> Self {
        Self {
            dns,
            open: Mutex::default(),
            told: AtomicBool::new(false),
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
            if open.get(gateway).is_some_and(Open::is_served) {
                servers.push(*gateway);
                continue;
            }
            let here = match &mut here {
                Some(here) => here,
                none => none.insert(addresses_of_host()?),
            };
            if !here.contains(gateway) {
                continue;
            }
            let opened = match self.dns.listens_on(*gateway) {
                true => Open {
                    network: network.into(),
                    missed: false,
                    stop: CancellationToken::new(),
                    serving: None,
                },
                // An address of IPv6 is looked for at first, and cannot be used.
                false => self.start(network, Listener::bind((*gateway, PORT).into(), true)?),
            };
            open.insert(*gateway, opened);
            self.keep_from_ports(&open, true);
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
            missed: false,
            stop,
            serving: Some(serving),
        }
    }

    /// Closes those whose address is gone from the host, until `stop`; then all.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut timer = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = timer.tick() => {}
            }
            self.look(addresses_of_host);
            self.keep_all_from_ports(true).await;
        }
        self.close(|_, _| true);
        self.keep_all_from_ports(false).await;
    }

    /// Also makes again what other programs took away of it.
    async fn keep_all_from_ports(self: &Arc<Self>, listens: bool) {
        let gateways = Arc::clone(self);
        let kept = tokio::task::spawn_blocking(move || {
            let open = gateways.open.lock().unwrap_or_else(PoisonError::into_inner);
            gateways.keep_from_ports(&open, listens);
        });
        if let Err(error) = kept.await {
            tracing::error!(%error, "keeping published ports from dns hit a defect");
        }
    }

    /// A container that publishes port 53 at all addresses is not who is asked for names:
    /// neither there nor, while the daemon `listens`, where it was told to.
    fn keep_from_ports(&self, open: &HashMap<IpAddr, Open>, listens: bool) {
        let served = open.iter().filter(|(_, it)| it.is_served());
        let served = served.map(|(ip, _)| (*ip, PORT).into());
        let told = self.dns.settings().listen.iter();
        let told = told.filter(|at| listens && !at.ip().is_unspecified());
        let kept = leave_to_daemon(served.chain(told.copied()).collect());
        if let Err(error) = &kept
            && !self.told.load(Ordering::Relaxed)
        {
            tracing::warn!("{error}");
        }
        self.told.store(kept.is_err(), Ordering::Relaxed);
    }

    /// An address may be away for a moment, as while it is moved: it is gone when two
    /// looks in a row have not found it.
    fn look(&self, addresses: impl FnOnce() -> Result<HashSet<IpAddr>>) {
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open().is_empty() {
            return;
        }
        match addresses() {
            Ok(here) => self.close(|gateway, it| {
                let missed = !here.contains(gateway);
                std::mem::replace(&mut it.missed, missed) && missed
            }),
            Err(error) => tracing::debug!(%error, "names are answered where they were"),
        }
    }

    fn close(&self, mut which: impl FnMut(&IpAddr, &mut Open) -> bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|gateway, it| {
            let closes = which(gateway, it);
            if closes {
                tracing::debug!(network = %it.network, %gateway, "no more names there");
                it.stop.cancel();
            }
            !closes
        });
    }
}

/// Every address of this host, also those that cannot be used yet.
fn addresses_of_host() -> Result<HashSet<IpAddr>> {
    let untold = |e: &dyn std::fmt::Display| {
        Error::unavailable(format!("cannot list the host's addresses: {e}"))
    };
    let mut host = Netlink::open(None)?;
    let all = host.all_addresses().map_err(|e| untold(&e))?;
    Ok(all.iter().map(|it| it.address.addr()).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::dns_with;
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_away_for_a_moment_keeps_its_listener() {
        let gateways = Gateways::new(Arc::new(dns_with(Vec::new(), 100)));
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = IpAddr::from([127, 0, 0, 1]);
        let opened = gateways.start("ctr0", listener);
        gateways.open.lock().unwrap().insert(address, opened);
        let is_open = || gateways.open.lock().unwrap().contains_key(&address);
        let (away, here) = (|| Ok(HashSet::new()), || Ok(HashSet::from([address])));
        for _ in 0..3 {
            gateways.look(|| Err(Error::unavailable("no memory")));
        }
        gateways.look(away);
        assert!(is_open());
        gateways.look(here);
        gateways.look(away);
        assert!(is_open());
        // Nothing is known of it now.
        gateways.look(|| Err(Error::unavailable("no memory")));
        assert!(is_open());
        gateways.look(away);
        assert!(!is_open());
    }
}
