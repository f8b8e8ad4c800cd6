//! The parts, put together as the options say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use circuit_core::{Error, Result, runtime::Runtime as _};
use circuit_net::cni::{CniRuntime, OperationLock, PluginPath};
use circuit_net::netns::pins_last;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::datastore::Networks;
use super::fleet::{self, Fleet};
use super::leases::Leases;
use super::names::Naming;
use super::pools::{self, Pools};
use super::{Daemon, Lives};
use crate::{
    attachments::{Attachments, Book, Parts},
    cli::server::ServerOptions,
    containerd::Containerd,
    datapath::CniDatapath,
    doctor::{NodeDoctor, PINS_END, PINS_REMEDY, Patients},
    events::{EventLog, Watched},
    grpc::{self, Backends, Listeners, Security, Services, tls::TlsFiles},
    metrics,
    networks::{Host, NetworkService, Sharing, Surroundings},
    overview::NodeOverview,
    reconciler::Reconciler,
    redis::Store,
    state::{State, make_private},
    web,
};

impl Daemon {
    pub(super) async fn build(options: &ServerOptions) -> Result<Self> {
        let doors = Doors::open(options).await?;
        let lock = lock_state(options)?;
        let cni = CniRuntime::new(PluginPath::new(&options.cni_path), options.cni_timeout)
            .on(options.data_path.parse()?)
            .asking(&options.ipam_socket);
        let registry = fleet::connect(options)?;
        let host: Arc<dyn Surroundings> = Arc::new(Host::new(cni.clone()));
        let networks = Networks::open(options, registry.as_ref(), Arc::clone(&host)).await?;
        let leases = Leases::start(
            &options.run_dir.join("dhcp"),
            &options.dhcp_socket,
            options.cni_timeout,
        )?;
        let pools = Pools::open(pool_settings(options, registry.clone())?).await?;
        let lives = lives(options, &cni, &networks, (&leases, &pools))?;
        let attachments = &lives.attachments;
        let stores = registry.clone();
        let fleet = Fleet::join(options, registry, attachments).await?;
        let stored = (Arc::clone(&networks.source), networks.folder.clone());
        let naming = Naming::open(options, attachments, fleet.registry(), stored)?;
        let shown = shown(options, &networks, &fleet, attachments, Arc::clone(&host));
        let doctor = NodeDoctor::new(Patients {
            attachments: Arc::clone(attachments),
            networks: Arc::clone(&shown.networks),
            host,
            nodes: Arc::clone(&shown.nodes),
            names: Arc::clone(&naming.dns) as _,
            answers_names: !options.dns_listen.is_empty(),
            datastore: networks.redis.clone(),
            registry: stores,
            state_dir: options.state_dir.clone(),
            pins: pins(options),
        });
        let services = Services::new(Backends {
            networks: Arc::clone(&shown.networks),
            attachments: Arc::clone(attachments) as _,
            containers: Arc::clone(&lives.reconciler) as _,
            nodes: Arc::clone(&shown.nodes),
            lookups: fleet.lookups.clone(),
            addressing: pools.keeper() as _,
            names: Arc::clone(&naming.dns) as _,
            overview: Arc::clone(&shown.overview),
            events: Arc::clone(&shown.events),
            doctor: Arc::new(doctor),
        });
        Ok(Self {
            listeners: doors.api,
            services,
            lives,
            networks,
            fleet,
            naming,
            metrics: doors.metrics,
            web: doors.web.map(|listener| (listener, shown)),
            leases,
            pools,
            _lock: lock,
        })
    }
}

/// Where the daemon is spoken to. The API comes last: who can reach it can reach
/// the others.
struct Doors {
    metrics: Option<TcpListener>,
    web: Option<TcpListener>,
    api: Listeners,
}

impl Doors {
    async fn open(options: &ServerOptions) -> Result<Self> {
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
        let metrics = match options.metrics {
            Some(address) => Some(metrics::bind(address).await?),
            None => None,
        };
        let web = match options.web {
            Some(address) => Some(web::bind(address).await?),
            None => None,
        };
        let api = grpc::bind(&options.addresses, &security).await?;
        Ok(Self { metrics, web, api })
    }
}

/// Where namespaces are pinned.
fn pins(options: &ServerOptions) -> PathBuf {
    options.run_dir.join("netns")
}

/// The records of this node's containers, and who keeps containers like them.
fn lives(
    options: &ServerOptions,
    cni: &CniRuntime,
    networks: &Networks,
    (leases, pools): (&Leases, &Pools),
) -> Result<Lives> {
    let runtime = Containerd::new(&options.containerd, &options.containerd_namespace)
        .map_err(|error| Error::invalid(error.to_string()))?;
    let (state, loaded) = State::open(&options.state_dir, runtime.namespace())?;
    for damage in loaded.damage {
        tracing::error!("cannot read a record, {damage}: what it says of its container is lost");
    }
    let pins = pins(options);
    make_private(&pins).map_err(|error| cannot_make(&pins, &error))?;
    if !pins_last(&pins) {
        tracing::warn!("{PINS_END}: {PINS_REMEDY}");
    }
    let locks = options.run_dir.join("locks");
    let (wake, wakes) = mpsc::unbounded_channel();
    leases.wake(runtime.namespace(), wake.clone());
    let (lender, giver) = (leases.lender(), pools.giver());
    let datapath = CniDatapath::new(cni.clone(), locks, pins.clone(), lender, giver);
    let parts = Parts {
        runtime: Arc::new(runtime),
        datapath: Arc::new(datapath),
        networks: Arc::clone(&networks.source),
        book: Book::new(state, &options.node_name, loaded.records),
        pins,
        label: options.network_label.clone(),
        events: Arc::new(EventLog::new(&options.node_name)),
    };
    let attachments = Arc::new(Attachments::new(parts, wake));
    let reconciler = Arc::new(Reconciler::new(Arc::clone(&attachments)));
    Ok(Lives {
        attachments,
        reconciler,
        wakes,
    })
}

/// Who answers for what people are shown, by the API and the live picture.
fn shown(
    options: &ServerOptions,
    networks: &Networks,
    fleet: &Fleet,
    attachments: &Arc<Attachments>,
    host: Arc<dyn Surroundings>,
) -> web::Shown {
    let events = Arc::clone(&attachments.parts.events);
    let sharing = match (networks.is_shared(), fleet.lookups.clone()) {
        (false, _) => Sharing::Alone,
        (true, Some(lookups)) => Sharing::Known(lookups),
        (true, None) => Sharing::Unknown,
    };
    let store = Arc::clone(&networks.store);
    let service = NetworkService::on(store, Arc::clone(attachments) as _, host)
        .shared(sharing)
        .with_pools(options.default_pools.clone())
        .telling(Arc::clone(&events));
    let others = fleet.elsewhere.clone();
    let overview = NodeOverview::new(Arc::clone(attachments), others, &options.node_name);
    web::Shown {
        networks: Arc::new(service),
        nodes: Arc::clone(&fleet.nodes),
        overview: Arc::new(overview),
        events: Arc::new(Watched(events)),
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

fn cannot_make(dir: &Path, error: &std::io::Error) -> Error {
    Error::precondition(format!("cannot make the folder {}: {error}", dir.display()))
}
