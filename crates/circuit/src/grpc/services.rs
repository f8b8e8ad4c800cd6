//! The services of the API: they translate messages and leave the work to
//! core's traits.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use circuit_api::v1;
use circuit_core::doctor::Doctor;
use circuit_core::event::Events;
use circuit_core::overview::Overview;
use circuit_core::request::{Requested, Wishes};
use circuit_core::service::{
    Addresses, Addressing, Attachments, ClusterNode, Containers, Lookups, Names, Networks, Nodes,
    Problem,
};

use circuit_core::{Error, ErrorKind, Result};
use futures::FutureExt;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::outlive::ToItsEnd;
use super::status::status;
use crate::traces::{span, traced};

/// The longest name that is looked at: nothing that exists has a longer one.
const MAX_NAME: usize = 1024;

/// Those who do the work.
#[derive(Clone)]
pub struct Backends {
    /// Networks of this node, or of its fleet.
    pub networks: Arc<dyn Networks>,
    /// Attachments of this node.
    pub attachments: Arc<dyn Attachments>,
    /// Containers stopped and started.
    pub containers: Arc<dyn Containers>,
    /// Nodes of the fleet.
    pub nodes: Arc<dyn Nodes>,
    /// Where addresses are looked up instead of on this node alone.
    pub lookups: Option<Arc<dyn Lookups>>,
    /// Pools of addresses.
    pub addressing: Arc<dyn Addressing>,
    /// Names of containers.
    pub names: Arc<dyn Names>,
    /// Everything to be looked at.
    pub overview: Arc<dyn Overview>,
    /// What happens.
    pub events: Arc<dyn Events>,
    /// Examines this node.
    pub doctor: Arc<dyn Doctor>,
}

/// Those who do the work, and the changes that are running.
#[derive(Clone)]
pub struct Services {
    pub(super) to: Backends,
    changes: TaskTracker,
}

pub(super) type Answer<T> = std::result::Result<Response<T>, Status>;

impl Services {
    /// Services backed by those.
    pub fn new(to: Backends) -> Self {
        Self {
            to,
            changes: TaskTracker::new(),
        }
    }

    async fn ips(&self, container: &str, network: Option<&str>) -> Result<Addresses> {
        match &self.to.lookups {
            Some(lookups) => lookups.ips(container, network).await,
            None => self.to.attachments.ips(container, network).await,
        }
    }

    /// Waits until no change runs.
    pub async fn idle(&self) {
        self.changes.close();
        self.changes.wait().await;
    }

    /// Makes a change that tells of itself as it goes, to its end or to where it
    /// leaves off by itself.
    pub(super) fn change_telling(
        &self,
        rpc: &'static str,
        work: impl Future<Output = Result<()>> + Send + 'static,
        failed: impl FnOnce(Status) + Send + 'static,
    ) {
        self.changes.spawn(async move {
            if let Err(status) = respond(rpc, observed(rpc, work).await) {
                failed(status);
            }
        });
    }

    /// Makes a change to its end, even when the client goes away meanwhile:
    /// half a change is worse than one that nobody hears of.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        rpc: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Answer<T> {
        let counted = self.changes.track_future(observed(rpc, work));
        respond(rpc, ToItsEnd::new(counted).await)
    }
}

/// Answers a question; nobody minds when it is dropped half way.
pub(super) async fn ask<T>(
    rpc: &'static str,
    work: impl Future<Output = Result<T>> + Send,
) -> Answer<T> {
    respond(rpc, observed(rpc, work).await)
}

/// The result of work that traces tell of.
async fn observed<T>(rpc: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let span = span!(
        "rpc",
        otel.name = rpc,
        otel.kind = "server",
        rpc.system = "grpc"
    );
    traced(span, guarded(rpc, work)).await
}

/// The result, also of work that panics.
pub(super) async fn guarded<T>(
    rpc: &'static str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let what = panic_text(panic.as_ref());
            Err(Error::internal(format!(
                "{rpc} hit a defect of the server: {what}; please report it"
            )))
        })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown panic")
}

fn respond<T>(rpc: &'static str, result: Result<T>) -> Answer<T> {
    result.map(Response::new).map_err(|error| {
        if error.kind() == ErrorKind::Internal {
            tracing::error!(rpc, "{error}");
        } else {
            tracing::debug!(rpc, kind = ?error.kind(), "{error}");
        }
        status(&error)
    })
}

/// The name, which must be there. Whether it is a good one, others know.
pub(super) fn named(what: &str, name: String) -> std::result::Result<String, Status> {
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME {
        "is too long"
    } else if name.chars().any(char::is_control) {
        "holds a control character"
    } else {
        return Ok(name);
    };
    Err(status(&Error::invalid(format!(
        "the name of the {what} {reason}; give its name"
    ))))
}

/// The container, and what is asked for it.
fn asked(request: v1::ConnectRequest) -> std::result::Result<(String, Requested), Status> {
    let container = named("container", request.container)?;
    let network = named("network", request.network)?;
    let wishes = Wishes {
        ips: request.ips,
        mac: request.mac,
        aliases: request.aliases,
        interface: request.interface,
        ports: request.ports,
    };
    let wanted = Requested::read(network, wishes).map_err(|error| status(&error))?;
    Ok((container, wanted))
}

pub(super) fn problems(problems: Vec<Problem>) -> Vec<v1::Problem> {
    let one = |p: Problem| v1::Problem {
        container: p.container,
        network: p.network,
        message: p.message,
    };
    problems.into_iter().map(one).collect()
}

/// The nodes, sorted by name.
fn nodes(nodes: Vec<ClusterNode>) -> Vec<v1::NodeInfo> {
    let one = |node: ClusterNode| v1::NodeInfo {
        name: node.info.name,
        version: node.info.version,
        cpus: node.info.cpus,
        memory: node.info.memory,
        uptime: node.info.uptime,
        kernel_version: node.info.kernel_version,
        state: node.state,
        seen_ms: node.seen.map(millis),
    };
    let mut nodes: Vec<_> = nodes.into_iter().map(one).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[tonic::async_trait]
impl v1::circuit_server::Circuit for Services {
    async fn create_network(&self, request: Request<v1::CreateNetworkRequest>) -> Answer<()> {
        let v1::CreateNetworkRequest { name, data, force } = request.into_inner();
        let name = named("network", name)?;
        let networks = self.to.networks.clone();
        self.change("CreateNetwork", async move {
            networks.create(&name, &data, force).await
        })
        .await
    }

    async fn list_networks(
        &self,
        _request: Request<v1::ListNetworksRequest>,
    ) -> Answer<v1::ListNetworksResponse> {
        ask("ListNetworks", async {
            let listing = self.to.networks.list().await?;
            let networks = listing.networks.into_iter();
            let networks = networks
                .map(|n| v1::Network {
                    name: n.name,
                    data: n.data,
                })
                .collect();
            Ok(v1::ListNetworksResponse {
                networks,
                problems: problems(listing.problems),
            })
        })
        .await
    }

    async fn get_network(
        &self,
        request: Request<v1::GetNetworkRequest>,
    ) -> Answer<v1::GetNetworkResponse> {
        let name = named("network", request.into_inner().name)?;
        ask("GetNetwork", async {
            let network = self.to.networks.get(&name).await?;
            let problems = problems(self.to.attachments.problems_of_network(&name));
            let network = Some(v1::Network {
                name: network.name,
                data: network.data,
            });
            Ok(v1::GetNetworkResponse { network, problems })
        })
        .await
    }

    async fn delete_network(&self, request: Request<v1::DeleteNetworkRequest>) -> Answer<()> {
        let v1::DeleteNetworkRequest { name, force } = request.into_inner();
        let name = named("network", name)?;
        let networks = self.to.networks.clone();
        self.change("DeleteNetwork", async move {
            networks.delete(&name, force).await
        })
        .await
    }

    async fn connect(&self, request: Request<v1::ConnectRequest>) -> Answer<v1::ConnectResponse> {
        let (container, wanted) = asked(request.into_inner())?;
        let attachments = self.to.attachments.clone();
        self.change("Connect", async move {
            let connected = attachments.connect(&container, &wanted).await?;
            let ips: Vec<String> = connected.ips.iter().map(ToString::to_string).collect();
            let ip = ips.first().cloned().unwrap_or_default();
            Ok(v1::ConnectResponse {
                ip,
                ips,
                interface: connected.interface,
            })
        })
        .await
    }

    async fn disconnect(&self, request: Request<v1::DisconnectRequest>) -> Answer<()> {
        let v1::DisconnectRequest { network, container } = request.into_inner();
        let (container, network) = (named("container", container)?, named("network", network)?);
        let attachments = self.to.attachments.clone();
        self.change("Disconnect", async move {
            attachments.disconnect(&container, &network).await
        })
        .await
    }

    async fn get_container_i_ps(
        &self,
        request: Request<v1::GetContainerIPsRequest>,
    ) -> Answer<v1::GetContainerIPsResponse> {
        let v1::GetContainerIPsRequest { container, network } = request.into_inner();
        let container = named("container", container)?;
        ask("GetContainerIPs", async {
            let network = Some(network.as_str()).filter(|network| !network.is_empty());
            let addresses = self.ips(&container, network).await?;
            let one = |ip: circuit_core::service::ContainerIp| v1::ContainerIp {
                network: ip.network,
                ip: ip.ip.to_string(),
                interface: ip.interface,
                node: ip.node,
            };
            Ok(v1::GetContainerIPsResponse {
                ips: addresses.ips.into_iter().map(one).collect(),
                problems: problems(addresses.problems),
            })
        })
        .await
    }
}

#[tonic::async_trait]
impl v1::cluster_server::Cluster for Services {
    async fn nodes(&self, _request: Request<v1::NodesRequest>) -> Answer<v1::NodesResponse> {
        ask("Nodes", async {
            let nodes = nodes(self.to.nodes.cluster().await?);
            Ok(v1::NodesResponse { nodes })
        })
        .await
    }

    async fn status(&self, _request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        ask("Status", async {
            let status = self.to.nodes.status().await?;
            Ok(v1::StatusResponse {
                registry: status.registry,
                connected: status.connected,
                failure: status.failure,
                heard_ms: status.heard.map(millis),
                lag_us: u64::try_from(status.lag.as_micros()).unwrap_or(u64::MAX),
                nonsense: status.nonsense,
                nodes: nodes(status.nodes),
            })
        })
        .await
    }
}
