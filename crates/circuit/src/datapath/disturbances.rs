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
/// How soon a watch that failed is begun anew, and how long one lasts that is taken to
/// have recovered: no pause is longer.
const AGAIN: Duration = Duration::from_secs(5);
const STEADY: Duration = Duration::from_secs(300);
/// A reload takes rules away and makes others, in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// How long rules and ends are left alone after they were told of. It doubles with each
/// time within `QUARREL`: who takes away again what was given back is not to be fought.
const CALM: Duration = Duration::from_secs(1);
const QUARREL: Duration = Duration::from_secs(60);

/// The pauses after what was told.
#[derive(Default)]
struct Calm {
    pause: Duration,
    /// When the last one was over.
    over: Option<Instant>,
}

impl Calm {
    /// The pause after what is told now.
    fn next(&mut self, now: Instant) -> Duration {
        let again = self.over.is_some_and(|over| now < over + QUARREL);
        self.pause = if again {
            QUARREL.min(self.pause * 2)
        } else {
            CALM
        };
        self.over = Some(now + self.pause);
        self.pause
    }
}

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
            // No thread could be started, as each has said.
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
    watch_on(tell, AGAIN, |anew| hear_of_rules(tell, anew));
}

/// Watches until nobody listens. What ends a watch, such as a shortage, passes: it is
/// said, once, and the watch begun anew, ever later while it goes on failing.
fn watch_on(tell: &mpsc::Sender<Told>, first: Duration, mut watch: impl FnMut(bool) -> Result<()>) {
    let (mut said, mut pause, mut anew) = (None, first, false);
    while !tell.is_closed() {
        let begun = Instant::now();
        let Err(error) = watch(anew) else { return };
        let text = error.to_string();
        if said.as_ref() != Some(&text) {
            let _ = tell.blocking_send(Err(error));
            said = Some(text);
        }
        if begun.elapsed() >= STEADY {
            pause = first;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(STEADY);
        anew = true;
    }
}

fn hear_of_rules(tell: &mpsc::Sender<Told>, anew: bool) -> Result<()> {
    let mut watch = nft::Watch::open(None).map_err(|e| unwatched(&e))?;
    // Since the last one ended, everything may have happened.
    let (mut calm, mut missed) = (Calm::default(), anew);
    while !tell.is_closed() {
        let changed = missed || watch.wait(GLANCE).map_err(|e| unwatched(&e))?.is_some();
        missed = false;
        if !changed {
            continue;
        }
        // Most changes are our own, or none of our business.
        if nft::is_intact().map_err(|e| unwatched(&e))? {
            continue;
        }
        std::thread::sleep(SETTLE);
        let _ = tell.try_send(Ok(Disturbance::Rules));
        std::thread::sleep(calm.next(Instant::now()));
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
    watch_on(tell, AGAIN, |anew| hear_of_ends(tell, anew));
}

fn hear_of_ends(tell: &mpsc::Sender<Told>, anew: bool) -> Result<()> {
    let mut watch = ends::Watch::open()?;
    let (mut calm, mut missed) = (Calm::default(), anew);
    while !tell.is_closed() {
        let changed = missed || watch.wait(GLANCE)?;
        missed = false;
        if !changed {
            continue;
        }
        let _ = tell.try_send(Ok(Disturbance::Ends));
        std::thread::sleep(calm.next(Instant::now()));
    }
    Ok(())
}

fn unwatched(error: &nft::NftError) -> Error {
    Error::unavailable(format!("cannot watch the firewall: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_away_again_is_left_alone_for_longer() {
        let mut calm = Calm::default();
        let mut now = Instant::now();
        let mut next = |later: u64| {
            now += Duration::from_secs(later);
            calm.next(now).as_secs()
        };
        assert_eq!([next(0), next(1), next(2), next(60)], [1, 2, 4, 8]);
        assert_eq!([next(8), next(16), next(32), next(60)], [16, 32, 60, 60]);
        assert_eq!(next(120), 1);
    }

    #[tokio::test]
    async fn a_watch_that_failed_is_begun_anew() {
        let ends = [
            Err(Error::unavailable("no descriptor is free")),
            Err(Error::unavailable("no descriptor is free")),
            Err(Error::unavailable("no memory")),
            Ok(()),
        ];
        let mut ends = ends.into_iter();
        let mut told = spawn("test-watch", move |tell| {
            watch_on(tell, Duration::from_millis(1), |anew| {
                assert_eq!(anew, ends.len() < 4);
                let end = ends.next().unwrap();
                if end.is_ok() {
                    let _ = tell.blocking_send(Ok(Disturbance::Rules));
                }
                end
            });
        });
        let mut all = Vec::new();
        while let Some(told) = told.recv().await {
            all.push(told.map_err(|error| error.to_string()));
        }
        let failed = |text: &str| Err(text.to_owned());
        let want = [
            failed("no descriptor is free"),
            failed("no memory"),
            Ok(Disturbance::Rules),
        ];
        assert_eq!(all, want);
    }
}
