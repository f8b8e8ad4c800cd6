//! Noticing that another program took firewall rules of ours away, as
//! `nft flush ruleset` does, or that firewalld forgot what it was told.

use std::{sync::OnceLock, time::Duration};

use circuit_core::{Error, Result, datapath::Disturbance};
use circuit_net::driver::FirewalldWatch;
use circuit_net::nft;
use tokio::sync::{Mutex, mpsc};

/// How often a watching thread looks whether anybody still listens, and for a bus
/// where there is none.
const GLANCE: Duration = Duration::from_secs(5);
/// A reload takes rules away and makes others, in several steps.
const SETTLE: Duration = Duration::from_millis(50);

type Told = Result<Disturbance>;

/// Threads that watch the ruleset and firewalld, started when it is first asked.
#[derive(Default)]
pub(super) struct Disturbances {
    watches: OnceLock<Mutex<Watches>>,
}

struct Watches {
    rules: mpsc::Receiver<Told>,
    firewalld: mpsc::Receiver<Told>,
}

impl Disturbances {
    /// Returns when rules of ours were taken away since it was last asked.
    pub(super) async fn next(&self) -> Told {
        let start = || {
            Mutex::new(Watches {
                rules: spawn("firewall-watch", watch_rules),
                firewalld: spawn("firewalld-watch", watch_firewalld),
            })
        };
        let mut watches = self.watches.get_or_init(start).lock().await;
        let Watches { rules, firewalld } = &mut *watches;
        let told = tokio::select! {
            told = rules.recv() => told,
            told = firewalld.recv() => told,
        };
        told.unwrap_or_else(|| Err(Error::internal("nobody watches the firewall any more")))
    }
}

/// What is waiting to be told of says it for what follows, too.
fn spawn(
    name: &str,
    watch: impl FnOnce(&mpsc::Sender<Told>) + Send + 'static,
) -> mpsc::Receiver<Told> {
    let (tell, told) = mpsc::channel(1);
    let failed = tell.clone();
    let spawned = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || watch(&tell));
    if let Err(error) = spawned {
        let _ = failed.try_send(Err(Error::unavailable(format!(
            "cannot start a thread that watches the firewall: {error}"
        ))));
    }
    told
}

fn watch_rules(tell: &mpsc::Sender<Told>) {
    if let Err(error) = watch(tell) {
        let _ = tell.blocking_send(Err(error));
    }
}

fn watch(tell: &mpsc::Sender<Told>) -> Result<()> {
    let mut watch = nft::Watch::open(None).map_err(|e| unwatched(&e))?;
    while !tell.is_closed() {
        if watch.wait(GLANCE).map_err(|e| unwatched(&e))?.is_none() {
            continue;
        }
        // Most changes are our own, or none of our business.
        if nft::is_intact().map_err(|e| unwatched(&e))? {
            continue;
        }
        std::thread::sleep(SETTLE);
        let _ = tell.try_send(Ok(Disturbance::Rules));
    }
    Ok(())
}

/// A host without a system bus, or without firewalld, is the usual one: nothing
/// is said of it.
fn watch_firewalld(tell: &mpsc::Sender<Told>) {
    let (mut heard_all, mut ran) = (true, false);
    while !tell.is_closed() {
        if let Ok(mut firewalld) = FirewalldWatch::open() {
            if !heard_all && (ran || firewalld.runs()) {
                let _ = tell.try_send(Ok(Disturbance::Firewalld));
            }
            while !tell.is_closed() {
                match firewalld.wait(GLANCE) {
                    Ok(true) => drop(tell.try_send(Ok(Disturbance::Firewalld))),
                    Ok(false) => {}
                    Err(_) => break,
                }
            }
            ran = firewalld.runs();
        }
        // Until there is a bus again it may start, end, or lose what it knows.
        heard_all = false;
        std::thread::sleep(GLANCE);
    }
}

fn unwatched(error: &nft::NftError) -> Error {
    Error::unavailable(format!("cannot watch the firewall: {error}"))
}
