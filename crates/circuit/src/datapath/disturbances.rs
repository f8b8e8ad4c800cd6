//! Noticing that another program took firewall rules of ours away, as a reload
//! of a firewall or `nft flush ruleset` does.

use std::{sync::OnceLock, time::Duration};

use circuit_core::{Error, Result};
use circuit_net::nft;
use tokio::sync::{Mutex, mpsc};

/// How often the watching thread looks whether anybody still listens.
const GLANCE: Duration = Duration::from_secs(5);
/// A reload takes rules away and makes others, in several steps.
const SETTLE: Duration = Duration::from_millis(50);

type Told = Result<()>;

/// A thread that watches the ruleset, started when it is first asked.
#[derive(Default)]
pub(super) struct Disturbances {
    watch: OnceLock<Mutex<mpsc::Receiver<Told>>>,
}

impl Disturbances {
    /// Returns when rules of ours were taken away since it was last asked.
    pub(super) async fn next(&self) -> Result<()> {
        let watch = self.watch.get_or_init(|| Mutex::new(start()));
        let told = watch.lock().await.recv().await;
        told.unwrap_or_else(|| Err(Error::internal("nobody watches the firewall any more")))
    }
}

fn start() -> mpsc::Receiver<Told> {
    let (tell, told) = mpsc::channel(1);
    let failed = tell.clone();
    let spawned = std::thread::Builder::new()
        .name("firewall-watch".to_owned())
        .spawn(move || {
            if let Err(error) = watch(&tell) {
                let _ = tell.blocking_send(Err(error));
            }
        });
    if let Err(error) = spawned {
        let _ = failed.try_send(Err(Error::unavailable(format!(
            "cannot start a thread that watches the firewall: {error}"
        ))));
    }
    told
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
        // One that is waiting to be told of says it for this one too.
        let _ = tell.try_send(Ok(()));
    }
    Ok(())
}

fn unwatched(error: &nft::NftError) -> Error {
    Error::unavailable(format!("cannot watch the firewall: {error}"))
}
