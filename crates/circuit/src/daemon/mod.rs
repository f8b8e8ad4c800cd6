//! The daemon: builds its parts from the options, runs them as one supervised
//! set, and drains them. The only place that names concrete backends.

mod build;
mod datastore;
mod fleet;
mod leases;
mod names;
mod notify;
mod pools;
mod signals;

use std::{sync::Arc, time::Duration};

use circuit_core::{Error, Result};
use circuit_net::cni::OperationLock;
use datastore::Networks;
use fleet::Fleet;
use leases::Leases;
use names::Naming;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pools::Pools;
use signals::Signals;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    attachments::Attachments,
    cli::server::ServerOptions,
    events::follow_fleet,
    grpc::{self, Listeners, Services},
    metrics,
    pulse::Pulse,
    reconciler::Reconciler,
    web,
};

/// What runs has this long to come to its end after a signal.
const DRAIN: Duration = Duration::from_secs(30);

/// So many descriptors are enough.
const MOST_DESCRIPTORS: u32 = 65_536;

/// Cleaning up after an earlier life waits so long for a runtime that is away.
const TIDY_AGAIN: Duration = Duration::from_secs(10);

/// Runs the daemon until SIGTERM or SIGINT. Attachments stay up.
///
/// # Errors
/// With the text to tell the user, when it cannot start or a part of it ends
/// by itself.
pub async fn run(options: ServerOptions) -> Result<()> {
    // Before anything else: a start may take its time, and SIGHUP must not end it.
    let mut signals = Signals::hear()?;
    have_descriptors();
    let daemon = tokio::select! {
        built = Daemon::build(&options) => built?,
        () = signals.end() => return Ok(()),
    };
    tracing::info!(
        "circuit {} serves node {} on {}",
        crate::VERSION,
        options.node_name,
        daemon.addresses()
    );
    daemon.run(&options, signals).await
}

/// Takes as many descriptors as it may, within reason: started by hand it has some
/// thousand, of which clients may hold many.
#[allow(clippy::useless_conversion, reason = "some machines have 32 bits")]
fn have_descriptors() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let most = hard.min(MOST_DESCRIPTORS.into());
    if soft < most
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, most, hard)
    {
        tracing::warn!(%error, "only {soft} descriptors may be open");
    }
}

/// The parts, ready to run.
struct Daemon {
    listeners: Listeners,
    services: Services,
    lives: Lives,
    networks: Networks,
    fleet: Fleet,
    naming: Naming,
    metrics: Option<TcpListener>,
    web: Option<(TcpListener, web::Shown)>,
    leases: Leases,
    pools: Pools,
    /// Keeps a second daemon away from the same records.
    _lock: OperationLock,
}

/// This node's containers.
struct Lives {
    attachments: Arc<Attachments>,
    reconciler: Arc<Reconciler>,
    /// Who is to be looked at.
    wakes: mpsc::UnboundedReceiver<String>,
}

/// Parts that run, by name.
type Running = JoinSet<(&'static str, Result<()>)>;

impl Daemon {
    fn addresses(&self) -> String {
        let addresses = self.listeners.addresses();
        addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" and ")
    }

    /// Who knows what monitoring programs are told.
    fn told(&self) -> metrics::Told {
        let registry = self.fleet.redis.clone();
        let registry = registry.map(|redis| ("registry", redis));
        let datastore = self.networks.redis.clone();
        let datastore = datastore.map(|redis| ("datastore", redis));
        metrics::Told {
            nodes: Arc::clone(&self.fleet.nodes),
            dns: Arc::clone(&self.naming.dns),
            attachments: Arc::clone(&self.lives.attachments),
            keeper: self.pools.keeper(),
            redis: registry.into_iter().chain(datastore).collect(),
        }
    }

    /// Runs every part until a signal, or until one ends by itself.
    async fn run(self, options: &ServerOptions, mut signals: Signals) -> Result<()> {
        let told = self.told();
        let shutdown = CancellationToken::new();
        let (mut pulse, addresses) = (Pulse::default(), self.addresses());
        let attachments = self.lives.attachments.clone();
        let mut parts = Running::new();
        let stop = shutdown.clone();
        parts.spawn(async move {
            stop.run_until_cancelled(signals.end()).await;
            ("signals", Ok(()))
        });
        let (stop, services) = (shutdown.clone(), self.services);
        let (listeners, alive) = (self.listeners, pulse.answerer("api"));
        parts.spawn(async move {
            let served = grpc::serve(listeners, services, stop, DRAIN);
            ("api", alive.during(served).await)
        });
        if let Some(listener) = self.metrics {
            let stop = shutdown.clone();
            parts.spawn(async move { ("metrics", metrics::serve(listener, told, stop).await) });
        }
        if let Some((listener, shown)) = self.web {
            show(&mut parts, listener, shown, options, &shutdown);
        }
        let (stop, naming) = (shutdown.clone(), self.naming);
        parts.spawn(async move { ("dns", naming.run(stop).await) });
        follow_others(
            &mut parts,
            self.fleet,
            self.networks,
            &attachments,
            &shutdown,
        );
        self.lives.run(
            &mut parts,
            &mut pulse,
            options.reconcile_interval,
            &shutdown,
        );
        // Containers are still detached while everything else ends.
        let last = CancellationToken::new();
        let pools = self.pools.run(&last);
        tokio::spawn(tidy(Arc::clone(&attachments)));
        // Until the very end: ending takes its time too.
        let telling = notify::start(addresses, pulse, shutdown.clone());
        let outcome = supervise(parts, shutdown).await;
        // What is not written now is written by the next start.
        let _ = tokio::time::timeout(DRAIN, attachments.idle()).await;
        self.leases.stop().await;
        last.cancel();
        if pools.await.is_err() {
            tracing::error!("the keeper of addresses hit a defect");
        }
        attachments.book().close();
        telling.abort();
        tracing::info!("stopped: attachments stay as they are");
        outcome
    }
}

impl Lives {
    /// Keeps containers as they should be.
    fn run(
        self,
        parts: &mut Running,
        pulse: &mut Pulse,
        every: Duration,
        shutdown: &CancellationToken,
    ) {
        let (stop, reconciler) = (shutdown.clone(), Arc::clone(&self.reconciler));
        let (wakes, alive) = (self.wakes, pulse.answerer("reconciler"));
        parts.spawn(async move {
            reconciler.run(wakes, alive, stop).await;
            ("reconciler", Ok(()))
        });
        let (stop, reconciler) = (shutdown.clone(), Arc::clone(&self.reconciler));
        parts.spawn(async move {
            reconciler.guard(every, stop).await;
            ("mending", Ok(()))
        });
        let (stop, reconciler) = (shutdown.clone(), self.reconciler);
        let alive = pulse.answerer("events");
        parts.spawn(async move {
            // It may have to wait for containerd, which no restart of ours mends.
            alive.during(reconciler.follow(every, stop)).await;
            ("events", Ok(()))
        });
    }
}

/// Serves the live picture.
fn show(
    parts: &mut Running,
    listener: TcpListener,
    shown: web::Shown,
    options: &ServerOptions,
    shutdown: &CancellationToken,
) {
    let (stop, token) = (shutdown.clone(), options.web_token.clone());
    parts.spawn(async move {
        let served = web::serve(listener, token, shown, stop).await;
        ("live picture", served)
    });
}

/// Keeps this node in agreement with the others.
fn follow_others(
    parts: &mut Running,
    fleet: Fleet,
    networks: Networks,
    attachments: &Arc<Attachments>,
    shutdown: &CancellationToken,
) {
    if let Some(registry) = fleet.registry() {
        let (stop, log) = (shutdown.clone(), Arc::clone(&attachments.parts.events));
        parts.spawn(async move {
            follow_fleet(registry, log, stop).await;
            ("events of others", Ok(()))
        });
    }
    let stop = shutdown.clone();
    parts.spawn(async move {
        fleet.run(stop).await;
        ("cluster", Ok(()))
    });
    let (stop, attachments) = (shutdown.clone(), Arc::clone(attachments));
    parts.spawn(async move {
        networks.follow(attachments, stop).await;
        ("networks", Ok(()))
    });
}

/// Once a start: what an earlier life left that no record speaks of.
async fn tidy(attachments: Arc<Attachments>) {
    if let Err(error) = attachments.sweep_pins().await {
        tracing::warn!(%error, "cannot remove pinned namespaces that nothing uses");
    }
    while let Err(error) = attachments.collect_garbage().await {
        tracing::debug!(%error, "cleaning up after an earlier life has to wait");
        tokio::time::sleep(TIDY_AGAIN).await;
    }
}

/// Waits for the first part to end, has the others end, and waits for them.
async fn supervise(mut parts: Running, shutdown: CancellationToken) -> Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        let unexpected = !shutdown.is_cancelled();
        shutdown.cancel();
        let failure = match ended {
            Ok((_, Err(error))) => Some(error),
            Ok((part, Ok(()))) if unexpected && part != "signals" => {
                Some(Error::internal(format!("the {part} ended by itself")))
            }
            Ok((_, Ok(()))) => None,
            Err(error) => Some(Error::internal(format!(
                "a part of the daemon failed: {error}"
            ))),
        };
        if let Some(error) = failure {
            tracing::error!(%error, "stopping");
            outcome = outcome.and(Err(error));
        }
    }
    outcome
}
