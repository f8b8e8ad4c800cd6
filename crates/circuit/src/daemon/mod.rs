//! The daemon: builds its parts from the options, runs them as one supervised
//! set, and drains them. The only place that names concrete backends.

mod datastore;
mod fleet;
mod leases;
mod names;
mod notify;
mod pools;
mod signals;

use std::{sync::Arc, time::Duration};

use circuit_core::{Error, Result, runtime::Runtime as _};
use circuit_net::cni::{CniRuntime, OperationLock, PluginPath};
use datastore::Networks;
use fleet::Fleet;
use leases::Leases;
use names::Naming;
use pools::Pools;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    attachments::{Attachments, Book, Parts},
    cli::server::ServerOptions,
    containerd::Containerd,
    datapath::CniDatapath,
    doctor::{NodeDoctor, Patients},
    events::{EventLog, Watched, follow_fleet},
    grpc::{self, Backends, Listeners, Security, Services, tls::TlsFiles},
    metrics,
    networks::{Host, NetworkService, Surroundings},
    overview::NodeOverview,
    pulse::Pulse,
    reconciler::Reconciler,
    redis::Store,
    state::{State, make_private},
    web,
};

/// What runs has this long to come to its end after a signal.
const DRAIN: Duration = Duration::from_secs(30);

/// Runs the daemon until SIGTERM or SIGINT. Attachments stay up.
///
/// # Errors
/// With the text to tell the user, when it cannot start or a part of it ends
/// by itself.
pub async fn run(options: ServerOptions) -> Result<()> {
    let daemon = Daemon::build(&options).await?;
    tracing::info!(
        "circuit {} serves node {} on {}",
        crate::VERSION,
        options.node_name,
        daemon.addresses()
    );
    daemon.run(&options).await
}

/// The parts, ready to run.
struct Daemon {
    listeners: Listeners,
    services: Services,
    attachments: Arc<Attachments>,
    reconciler: Arc<Reconciler>,
    wakes: mpsc::UnboundedReceiver<String>,
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

impl Daemon {
    async fn build(options: &ServerOptions) -> Result<Self> {
        let tls = TlsFiles {
            cert: options.tls_cert.clone(),
            key: options.tls_key.clone(),
            client_ca: options.tls_client_ca.clone(),
        };
        let security = Security {
            tls: tls.load()?,
            verifies_clients: options.tls_client_ca.is_some(),
            insecure: options.insecure,
        };
        let listeners = grpc::bind(&options.addresses, &security).await?;
        let lock = lock_state(options)?;
        let runtime = Containerd::new(&options.containerd, &options.containerd_namespace)
            .map_err(|error| Error::invalid(error.to_string()))?;
        let cni = CniRuntime::new(PluginPath::new(&options.cni_path), options.cni_timeout)
            .on(options.data_path.parse()?);
        let registry = fleet::connect(options)?;
        let networks = Networks::open(options, registry.as_ref()).await?;
        let (state, loaded) = State::open(&options.state_dir, runtime.namespace())?;
        for damage in loaded.damage {
            tracing::error!(
                "cannot read a record, {damage}: what it says of its container is lost"
            );
        }
        let events = Arc::new(EventLog::new(&options.node_name));
        let book = Book::new(state, &options.node_name, loaded.records);
        let pins = options.run_dir.join("netns");
        make_private(&pins).map_err(|error| cannot_make(&pins, &error))?;
        let parts = Parts {
            runtime: Arc::new(runtime),
            datapath: Arc::new(CniDatapath::new(
                cni.clone(),
                options.run_dir.join("locks"),
                pins.clone(),
            )),
            networks: Arc::clone(&networks.source),
            book,
            pins,
            label: options.network_label.clone(),
            events: Arc::clone(&events),
        };
        let (wake, wakes) = mpsc::unbounded_channel();
        let attachments = Arc::new(Attachments::new(parts, wake));
        let reconciler = Arc::new(Reconciler::new(Arc::clone(&attachments)));
        let store = Arc::clone(&networks.store);
        let metrics = match options.metrics {
            Some(address) => Some(metrics::bind(address).await?),
            None => None,
        };
        let fleet = Fleet::join(options, registry.clone(), &attachments).await?;
        let stored = (Arc::clone(&networks.source), networks.folder.clone());
        let naming = Naming::open(options, &attachments, fleet.registry(), stored)?;
        let elsewhere = fleet.lookups.clone().filter(|_| networks.is_shared());
        let host: Arc<dyn Surroundings> = Arc::new(Host::new(cni));
        let service = NetworkService::on(store, Arc::clone(&attachments) as _, Arc::clone(&host))
            .shared(elsewhere)
            .with_pools(options.default_pools.clone())
            .telling(Arc::clone(&events));
        let others = fleet.elsewhere.clone();
        let overview = NodeOverview::new(Arc::clone(&attachments), others, &options.node_name);
        let pools = Pools::open(pool_settings(options, registry)?).await?;
        let shown = web::Shown {
            networks: Arc::new(service),
            nodes: Arc::clone(&fleet.nodes),
            overview: Arc::new(overview),
            events: Arc::new(Watched(events)),
        };
        let doctor = NodeDoctor::new(Patients {
            attachments: Arc::clone(&attachments),
            networks: Arc::clone(&shown.networks),
            host,
            nodes: Arc::clone(&fleet.nodes),
            names: Arc::clone(&naming.dns) as _,
            answers_names: !options.dns_listen.is_empty(),
            state_dir: options.state_dir.clone(),
        });
        let services = Services::new(Backends {
            networks: Arc::clone(&shown.networks),
            attachments: Arc::clone(&attachments) as _,
            containers: Arc::clone(&reconciler) as _,
            nodes: Arc::clone(&fleet.nodes),
            lookups: fleet.lookups.clone(),
            addressing: pools.keeper() as _,
            names: Arc::clone(&naming.dns) as _,
            overview: Arc::clone(&shown.overview),
            events: Arc::clone(&shown.events),
            doctor: Arc::new(doctor),
        });
        let web = match options.web {
            Some(address) => Some((web::bind(address).await?, shown)),
            None => None,
        };
        Ok(Self {
            listeners,
            services,
            attachments,
            reconciler,
            wakes,
            networks,
            fleet,
            naming,
            metrics,
            web,
            leases: Leases::start(&options.run_dir.join("dhcp"), &options.dhcp_socket)?,
            pools,
            _lock: lock,
        })
    }

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
            attachments: Arc::clone(&self.attachments),
            keeper: self.pools.keeper(),
            redis: registry.into_iter().chain(datastore).collect(),
        }
    }

    /// Runs every part until a signal, or until one ends by itself.
    async fn run(self, options: &ServerOptions) -> Result<()> {
        let told = self.told();
        let shutdown = CancellationToken::new();
        let (mut pulse, addresses) = (Pulse::default(), self.addresses());
        let mut parts: JoinSet<(&'static str, Result<()>)> = JoinSet::new();
        let stop = shutdown.clone();
        parts.spawn(async move { ("signals", signals::wait(stop).await) });
        let (stop, services) = (shutdown.clone(), self.services);
        let (listeners, alive) = (self.listeners, pulse.answerer("api"));
        parts.spawn(async move {
            let served = grpc::serve(listeners, services, stop, DRAIN);
            ("api", alive.during(served).await)
        });
        let (stop, reconciler, wakes) =
            (shutdown.clone(), Arc::clone(&self.reconciler), self.wakes);
        let alive = pulse.answerer("reconciler");
        parts.spawn(async move {
            reconciler.run(wakes, alive, stop).await;
            ("reconciler", Ok(()))
        });
        let (stop, reconciler) = (shutdown.clone(), Arc::clone(&self.reconciler));
        parts.spawn(async move {
            reconciler.guard(stop).await;
            ("firewall", Ok(()))
        });
        if let Some(listener) = self.metrics {
            let stop = shutdown.clone();
            parts.spawn(async move { ("metrics", metrics::serve(listener, told, stop).await) });
        }
        if let Some((listener, shown)) = self.web {
            let (stop, token) = (shutdown.clone(), options.web_token.clone());
            parts.spawn(async move {
                let served = web::serve(listener, token, shown, stop).await;
                ("live picture", served)
            });
        }
        let (stop, naming) = (shutdown.clone(), self.naming);
        parts.spawn(async move { ("dns", naming.run(stop).await) });
        if let Some(registry) = self.fleet.registry() {
            let (stop, log) = (shutdown.clone(), Arc::clone(&self.attachments.parts.events));
            parts.spawn(async move {
                follow_fleet(registry, log, stop).await;
                ("events of others", Ok(()))
            });
        }
        let (stop, fleet) = (shutdown.clone(), self.fleet);
        parts.spawn(async move {
            fleet.run(stop).await;
            ("cluster", Ok(()))
        });
        let (stop, networks) = (shutdown.clone(), self.networks);
        let attachments = Arc::clone(&self.attachments);
        parts.spawn(async move {
            networks.follow(attachments, stop).await;
            ("networks", Ok(()))
        });
        let (stop, reconciler) = (shutdown.clone(), self.reconciler);
        let (every, alive) = (options.reconcile_interval, pulse.answerer("events"));
        parts.spawn(async move {
            // It may have to wait for containerd, which no restart of ours mends.
            alive.during(reconciler.follow(every, stop)).await;
            ("events", Ok(()))
        });
        // Containers are still detached while everything else ends.
        let last = CancellationToken::new();
        let pools = self.pools.run(&last);
        tokio::spawn(tidy(Arc::clone(&self.attachments)));
        // Until the very end: ending takes its time too.
        let telling = notify::start(addresses, pulse, shutdown.clone());
        let outcome = supervise(parts, shutdown).await;
        // What is not written now is written by the next start.
        let _ = tokio::time::timeout(DRAIN, self.attachments.idle()).await;
        self.leases.stop().await;
        last.cancel();
        if pools.await.is_err() {
            tracing::error!("the keeper of addresses hit a defect");
        }
        self.attachments.book().close();
        telling.abort();
        tracing::info!("stopped: attachments stay as they are");
        outcome
    }
}

/// What the keeper of address pools is told.
fn pool_settings(options: &ServerOptions, redis: Option<Store>) -> Result<pools::Settings<'_>> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Ok(pools::Settings {
        state_dir: &options.state_dir,
        socket: &options.ipam_socket,
        node: fleet::node_id(&options.state_dir)?,
        name: options.node_name.clone(),
        lease_ms: millis(options.lease),
        grace_ms: millis(options.ipam_grace),
        redis,
    })
}

/// Once a start: what an earlier life left that no record speaks of.
async fn tidy(attachments: Arc<Attachments>) {
    if let Err(error) = attachments.sweep_pins().await {
        tracing::warn!(%error, "cannot remove pinned namespaces that nothing uses");
    }
    attachments.collect_garbage().await;
}

/// Waits for the first part to end, has the others end, and waits for them.
async fn supervise(
    mut parts: JoinSet<(&'static str, Result<()>)>,
    shutdown: CancellationToken,
) -> Result<()> {
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

fn lock_state(options: &ServerOptions) -> Result<OperationLock> {
    let dir = &options.state_dir;
    make_private(dir).map_err(|error| cannot_make(dir, &error))?;
    OperationLock::try_acquire(dir.join("lock"))?.ok_or_else(|| {
        Error::precondition(format!(
            "another circuit server uses {}: stop it, or give this one other folders with \
             --state-dir, --run-dir and --datastore",
            dir.display()
        ))
    })
}

fn cannot_make(dir: &std::path::Path, error: &std::io::Error) -> Error {
    Error::precondition(format!("cannot make the folder {}: {error}", dir.display()))
}
