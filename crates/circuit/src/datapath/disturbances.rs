//! Noticing that another program took firewall rules of ours away, as
//! `nft flush ruleset` does, that firewalld forgot what it was told, or that something
//! was taken from bridges and the host's ends of pairs.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use circuit_core::{Error, Result, datapath::Disturbance};
use circuit_net::driver::FirewalldWatch;
use circuit_net::{ends, nft};
use tokio::sync::{Mutex, mpsc};

/// How often a watching thread looks whether anybody still listens, and for a bus
/// where there is none.
const GLANCE: Duration = Duration::from_secs(5);
/// A reload takes rules away and makes others, in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// How long ends are left alone after they were told of. It doubles with each time
/// within `QUARREL`: who takes away again what was given back is not to be fought.
const CALM: Duration = Duration::from_secs(1);
const QUARREL: Duration = Duration::from_secs(60);

type Told = Result<Disturbance>;

/// Threads that watch the ruleset, firewalld and interfaces, started when it is first asked.
#[derive(Default)]
pub(super) struct Disturbances {
    watches: OnceLock<Mutex<Watches>>,
}

struct Watches {
    rules: mpsc::Receiver<Told>,
    firewalld: mpsc::Receiver<Told>,
    ends: mpsc::Receiver<Told>,
}

impl Disturbances {
    /// Returns when something of ours was taken away since it was last asked.
    pub(super) async fn next(&self) -> Told {
        let start = || {
            Mutex::new(Watches {
                rules: spawn("firewall-watch", watch_rules),
                firewalld: spawn("firewalld-watch", watch_firewalld),
                ends: spawn("ends-watch", watch_ends),
            })
        };
        let mut watches = self.watches.get_or_init(start).lock().await;
        let Watches {
            rules,
            firewalld,
            ends,
        } = &mut *watches;
        tokio::select! {
            Some(told) = rules.recv() => told,
            Some(told) = firewalld.recv() => told,
            Some(told) = ends.recv() => told,
            // Each has said why it ended.
            else => std::future::pending().await,
        }
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
            "cannot start a thread that watches: {error}"
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

fn watch_ends(tell: &mpsc::Sender<Told>) {
    if let Err(error) = hear_of_ends(tell) {
        let _ = tell.blocking_send(Err(error));
    }
}

fn hear_of_ends(tell: &mpsc::Sender<Told>) -> Result<()> {
    let mut watch = ends::Watch::open()?;
    let (mut calm, mut last) = (CALM, None::<Instant>);
    while !tell.is_closed() {
        if !watch.wait(GLANCE)? {
            continue;
        }
        let again = last.is_some_and(|last| last.elapsed() < QUARREL);
        calm = if again { QUARREL.min(calm * 2) } else { CALM };
        let _ = tell.try_send(Ok(Disturbance::Ends));
        std::thread::sleep(calm);
        last = Some(Instant::now());
    }
    Ok(())
}

fn unwatched(error: &nft::NftError) -> Error {
    Error::unavailable(format!("cannot watch the firewall: {error}"))
}
