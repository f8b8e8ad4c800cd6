//! Services that answer from a table, and a server of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use circuit::grpc::{Backends, Security, Services, bind, serve};
use circuit_api::ListenAddress;
use circuit_core::cni::Description;
use circuit_core::datapath::Pool;
use circuit_core::doctor::{Doctor, Finding};
use circuit_core::event::{Event, Events, Filter, Kind, Since};
use circuit_core::overview::{
    ContainerView, Member, NetworkView, OnNetwork, Overview, RestartView, TaskState, Traffic,
};
use circuit_core::request::Requested;
use circuit_core::service::{
    Address, AddressState, Addresses, Addressing, Attachments, Connected, ContainerIp, Containers,
    NameAnswer, NameRecord, Names, NetworkListing, Networks, NodeInfo, Nodes, Problem, Pruned,
    Release, StoredNetwork,
};
use circuit_core::{Error, Result};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What the services know and what was done to them.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) networks: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(crate) problems: Mutex<Vec<Problem>>,
    pub(crate) calls: Mutex<Vec<String>>,
    /// Let `connect slow… …` begin and end.
    pub(crate) begun: Notify,
    pub(crate) go_on: Notify,
    pub(crate) started: AtomicUsize,
    pub(crate) finished: AtomicUsize,
    /// Whether a prune and a doctor have no end of their own.
    pub(crate) lingers: AtomicBool,
    /// How many more containers other nodes have.
    pub(crate) fleet: AtomicUsize,
    /// Whether who asks for traffic is told nothing.
    pub(crate) hangs: AtomicBool,
    /// How often traffic was asked for.
    pub(crate) looks: AtomicUsize,
}

impl World {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    /// One step each time that it may `go_on`, until a step says to stop.
    async fn linger(&self, step: impl Fn(usize) -> bool + Send + Sync) {
        while self.lingers.load(Ordering::SeqCst) {
            self.begun.notify_one();
            self.go_on.notified().await;
            if !step(self.started.fetch_add(1, Ordering::SeqCst)) {
                self.finished.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

fn unknown(name: &str) -> Error {
    Error::not_found(format!(
        "network {name} does not exist;\nsee `circuit network ls`"
    ))
}

#[async_trait]
impl Networks for World {
    async fn create(&self, name: &str, data: &[u8], force: bool) -> Result<()> {
        self.note(format!("create {name} force={force}"));
        self.networks
            .lock()
            .unwrap()
            .insert(name.into(), data.into());
        Ok(())
    }
    async fn list(&self) -> Result<NetworkListing> {
        let networks = self.networks.lock().unwrap().clone().into_iter();
        let networks = networks
            .map(|(name, data)| StoredNetwork { name, data })
            .collect();
        Ok(NetworkListing {
            networks,
            problems: self.problems.lock().unwrap().clone(),
        })
    }
    async fn get(&self, name: &str) -> Result<StoredNetwork> {
        let networks = self.networks.lock().unwrap();
        let data = networks.get(name).ok_or_else(|| unknown(name))?;
        Ok(StoredNetwork {
            name: name.into(),
            data: data.clone(),
        })
    }
    async fn delete(&self, name: &str, force: bool) -> Result<()> {
        self.note(format!("delete {name} force={force}"));
        self.networks
            .lock()
            .unwrap()
            .remove(name)
            .map(drop)
            .ok_or_else(|| unknown(name))
    }
    async fn make(
        &self,
        description: Description,
        force: bool,
        dry_run: bool,
    ) -> Result<StoredNetwork> {
        self.note(format!(
            "make {description:?} force={force} dry_run={dry_run}"
        ));
        let subnets = vec!["10.88.0.0/24".parse().unwrap()];
        let name = description.name.clone();
        let described = Description {
            subnets,
            ..description
        };
        let data = described.config("br-fake")?;
        if !dry_run {
            Networks::create(self, &name, &data, force).await?;
        }
        Ok(StoredNetwork { name, data })
    }
    async fn prune(
        &self,
        dry_run: bool,
        each: &(dyn Fn(Pruned) -> bool + Send + Sync),
    ) -> Result<()> {
        self.note(format!("prune dry_run={dry_run}"));
        let kept = Some("used by container shell".to_owned());
        let used = Pruned {
            name: "used".into(),
            kept,
        };
        let unused = Pruned {
            name: "unused".into(),
            kept: None,
        };
        if each(used) && each(unused) {
            self.linger(|number| {
                each(Pruned {
                    name: format!("unused{number}"),
                    kept: None,
                })
            })
            .await;
        }
        Ok(())
    }
}

#[async_trait]
impl Overview for World {
    async fn containers(&self, here: bool) -> Result<Vec<ContainerView>> {
        let on = OnNetwork {
            network: "ctr0".into(),
            interface: "eth0".into(),
            ips: vec!["10.255.0.2".parse().unwrap()],
            mac: "02:00:00:00:00:07".into(),
            aliases: vec!["db".into()],
            ports: vec!["8080:80/tcp".into()],
            phase: "attached",
            origin: "label",
            traffic: None,
        };
        let here_views = [
            ContainerView {
                id: "idle".into(),
                node: "n1".into(),
                state: TaskState::Absent,
                ..ContainerView::default()
            },
            ContainerView {
                id: "web".into(),
                node: "n1".into(),
                state: TaskState::Running,
                pid: 7,
                networks: vec![on.clone()],
                restart: Some(RestartView {
                    policy: "always".into(),
                    count: 2,
                    stopped: false,
                }),
                problems: self.problems.lock().unwrap().clone(),
                ..ContainerView::default()
            },
        ];
        let elsewhere = ContainerView {
            id: "web".into(),
            node: "n2".into(),
            state: TaskState::Running,
            networks: vec![on],
            ..ContainerView::default()
        };
        let fleet = (0..self.fleet.load(Ordering::SeqCst)).map(|number| ContainerView {
            id: format!("web{number}"),
            ..elsewhere.clone()
        });
        let fleet = fleet.chain([elsewhere.clone()]).filter(|_| !here);
        Ok(here_views.into_iter().chain(fleet).collect())
    }

    async fn add_traffic(&self, views: &mut [ContainerView]) {
        if self.hangs.load(Ordering::SeqCst) {
            self.begun.notify_one();
            std::future::pending::<()>().await;
        }
        // More each time that it is looked at.
        let looks = self.looks.fetch_add(1, Ordering::SeqCst) as u64;
        for on in views.iter_mut().flat_map(|view| &mut view.networks) {
            on.traffic = Some(Traffic {
                received: 1_000_000 * looks,
                sent: 1000 * looks,
            });
        }
    }

    async fn network(&self, name: &str) -> Result<NetworkView> {
        let network = Networks::get(self, name).await?;
        let on = self.containers(true).await?.remove(1).networks.remove(0);
        Ok(NetworkView {
            network,
            plugins: vec!["bridge".into(), "portmap".into()],
            subnets: vec!["10.255.0.0/16".into()],
            ipam: "host-local".into(),
            pools: vec![Pool {
                ipam: "host-local".into(),
                name: name.into(),
                ipv6: false,
                size: 65_533,
                used: Some(1),
            }],
            members: vec![Member {
                container: "web".into(),
                node: "n1".into(),
                attachment: on,
            }],
            problems: Vec::new(),
        })
    }
}

#[async_trait]
impl Doctor for World {
    async fn examine(
        &self,
        fix: bool,
        tell: &(dyn Fn(Finding) -> bool + Send + Sync),
    ) -> Result<()> {
        let off = Finding::problem("forwarding", "it is off", "switch it on").fixable();
        let off = if fix { off.fixed() } else { off };
        if tell(Finding::fine("containerd", "7 containers")) && tell(off) {
            self.linger(|_| tell(Finding::fine("leaks", "none"))).await;
        }
        Ok(())
    }
}

impl Events for World {
    fn node(&self) -> &str {
        "n1"
    }
    fn watch(&self, since: Since, wanted: Filter) -> BoxStream<'static, Arc<Event>> {
        let event = |id: u64, node: &str, kind| Event {
            id,
            at: UNIX_EPOCH + Duration::from_secs(id),
            node: node.into(),
            kind,
            container: "web".into(),
            network: "ctr0".into(),
            interface: "eth0".into(),
            ips: vec!["10.255.0.2".parse().unwrap()],
            message: String::new(),
        };
        let mut all = vec![
            event(1, "n1", Kind::Connected),
            event(2, "n2", Kind::Connected),
            event(3, "n1", Kind::Disconnected),
        ];
        all.retain(|event| wanted.takes(event));
        let last = all.len().saturating_sub(since.last);
        let told = all.into_iter().skip(last).map(Arc::new);
        futures::stream::iter(told).boxed()
    }
}

#[async_trait]
impl Attachments for World {
    async fn wanted(&self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }
    async fn connect(&self, container: &str, wanted: &Requested) -> Result<Connected> {
        let network = &wanted.network.network;
        if !wanted.is_plain() {
            let wishes = serde_json::to_string(&wanted.wishes()).unwrap();
            self.note(format!("connect {container} {network} {wishes}"));
        }
        match container {
            _ if container.starts_with("slow") => {
                self.started.fetch_add(1, Ordering::SeqCst);
                self.begun.notify_one();
                self.go_on.notified().await;
                self.finished.fetch_add(1, Ordering::SeqCst);
            }
            "defect" => panic!("the attachment of {network} is impossible"),
            _ => {}
        }
        let ips = ["10.255.0.2", "fd00::2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        Ok(Connected {
            ips: ips.into(),
            interface: "eth0".into(),
        })
    }
    async fn disconnect(&self, container: &str, network: &str) -> Result<()> {
        self.note(format!("disconnect {container} {network}"));
        Ok(())
    }
    async fn ips(&self, container: &str, network: Option<&str>) -> Result<Addresses> {
        if container == "defect" {
            panic!("no addresses");
        }
        let ip = |network: &str, ip: &str, interface: &str| ContainerIp {
            node: String::new(),
            network: network.into(),
            ip: ip.parse().unwrap(),
            interface: interface.into(),
        };
        let mut ips = vec![
            ip("ctr0", "10.255.0.2", "eth0"),
            ip("ctr1", "fd00::2", "eth1"),
        ];
        ips.retain(|ip| network.is_none_or(|network| network == ip.network));
        Ok(Addresses {
            ips,
            problems: self.problems.lock().unwrap().clone(),
        })
    }
    fn remembered(&self, _: &str, _: Option<&str>) -> Option<Addresses> {
        None
    }
    fn problems_of_network(&self, _: &str) -> Vec<Problem> {
        self.problems.lock().unwrap().clone()
    }
    async fn users_of(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    async fn holders(&self, _: &StoredNetwork) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    async fn network_created(&self, _: &str) {}
    async fn disconnect_all(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Containers for World {
    async fn stop(&self, container: &str, timeout: Option<Duration>) -> Result<()> {
        if container == "gone" {
            return Err(Error::not_found("container gone does not exist"));
        }
        self.note(format!("stop {container} {timeout:?}"));
        Ok(())
    }
    async fn start(&self, _: &str) -> Result<u32> {
        Ok(23217)
    }
    async fn restart(&self, _: &str, _: Option<Duration>) -> Result<u32> {
        Ok(23218)
    }
}

#[async_trait]
impl Nodes for World {
    async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        let node = |name: &str| NodeInfo {
            name: name.into(),
            version: "0.1.0".into(),
            cpus: 2,
            memory: 25_276_510_208,
            uptime: 2168,
            kernel_version: "6.18.44".into(),
        };
        Ok(vec![node("node2"), node("node1")])
    }
}

#[async_trait]
impl Addressing for World {
    async fn list(&self, pool: Option<&str>) -> Result<Vec<Address>> {
        let address = |ip: &str, state, container: &str| Address {
            pool: pool.unwrap_or("lan").into(),
            address: ip.parse().unwrap(),
            state,
            node: "node1".into(),
            container: container.into(),
            network: if container.is_empty() { "" } else { "lan0" }.into(),
            interface: if container.is_empty() { "" } else { "eth0" }.into(),
            claim_ms: 3_629_500,
        };
        Ok(vec![
            address("10.9.0.2", AddressState::Used, "default-shell"),
            address("10.9.0.3", AddressState::Spare, ""),
        ])
    }
    async fn release(&self, what: Release, force: bool) -> Result<Vec<Address>> {
        self.note(format!("release {what:?} force={force}"));
        Addressing::list(self, None).await
    }
}

#[async_trait]
impl Names for World {
    async fn query(&self, name: &str, kind: &str) -> Result<NameAnswer> {
        self.note(format!("query {name} {kind}"));
        let found = name.starts_with("web");
        Ok(NameAnswer {
            code: if found { "NOERROR" } else { "NXDOMAIN" }.into(),
            records: Names::list(self).into_iter().filter(|_| found).collect(),
            source: "zone".into(),
            nodes: vec!["node1".into(), "node2".into()],
            took: Duration::from_micros(1042),
        })
    }
    fn list(&self) -> Vec<NameRecord> {
        let record = |network: &str, data: &str| NameRecord {
            name: format!("web.{network}.circuit.internal"),
            kind: "A".into(),
            data: data.into(),
            ttl: 7,
            node: "node1".into(),
        };
        vec![record("ctr0", "10.88.0.2"), record("ctr1", "10.89.0.2")]
    }
    fn message(&self, message: &[u8]) -> Option<Vec<u8>> {
        (!message.is_empty()).then(|| message.iter().rev().copied().collect())
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) world: Arc<World>,
    pub(crate) address: ListenAddress,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinHandle<Result<()>>,
    _dir: tempfile::TempDir,
}

impl Server {
    /// On a Unix socket.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = ListenAddress::Unix(dir.path().join("circuit.sock"));
        Self::start_on(socket, Security::default(), dir).await
    }

    /// On a port of loopback.
    pub(crate) async fn start_tcp(security: Security) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_on("localhost:0".parse().unwrap(), security, dir).await
    }

    async fn start_on(at: ListenAddress, security: Security, dir: tempfile::TempDir) -> Self {
        let listeners = bind(&[at], &security).await.unwrap();
        let address = match listeners.addresses().remove(0) {
            ListenAddress::Tcp { port, .. } => ListenAddress::Tcp {
                host: "127.0.0.1".into(),
                port,
            },
            unix => unix,
        };
        // `localhost` may be several addresses, each with a port of its own.
        let address = listeners
            .addresses()
            .into_iter()
            .find(|at| at.to_string().starts_with("127."))
            .unwrap_or(address);
        let world = Arc::new(World::default());
        let services = Services::new(Backends {
            networks: world.clone(),
            attachments: world.clone(),
            containers: world.clone(),
            nodes: world.clone(),
            lookups: None,
            addressing: world.clone(),
            names: world.clone(),
            overview: world.clone(),
            events: world.clone(),
            doctor: world.clone(),
        });
        let shutdown = CancellationToken::new();
        let drain = Duration::from_secs(20);
        let serving = tokio::spawn(serve(listeners, services, shutdown.clone(), drain));
        Self {
            world,
            address,
            shutdown,
            serving,
            _dir: dir,
        }
    }

    /// The address as a client writes it.
    pub(crate) fn target(&self) -> String {
        self.address.to_string()
    }

    pub(crate) async fn channel(&self) -> tonic::transport::Channel {
        let target = Some(self.target().parse().unwrap());
        circuit_api::connect(&circuit_api::ClientOptions { target, tls: None })
            .await
            .unwrap()
    }
}
