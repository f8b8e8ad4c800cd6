//! The service of containers: as they are, stopped and started.

use std::time::Duration;

use circuit_api::v1;
use circuit_core::overview::{ContainerView, OnNetwork};
use tonic::Request;

use super::services::{Answer, Services, ask, named, problems};

fn timeout(seconds: Option<u32>) -> Option<Duration> {
    seconds.map(|seconds| Duration::from_secs(seconds.into()))
}

/// A container on one network, as the API has it.
pub(super) fn on_network(on: OnNetwork) -> v1::ContainerNetwork {
    v1::ContainerNetwork {
        network: on.network,
        interface: on.interface,
        ips: on.ips.iter().map(ToString::to_string).collect(),
        mac: on.mac,
        aliases: on.aliases,
        ports: on.ports,
        phase: on.phase.to_owned(),
        origin: on.origin.to_owned(),
        received_bytes: on.traffic.map(|passed| passed.received),
        sent_bytes: on.traffic.map(|passed| passed.sent),
    }
}

fn told(view: ContainerView) -> v1::Container {
    v1::Container {
        id: view.id,
        node: view.node,
        state: view.state.name().to_owned(),
        pid: view.pid,
        exit_status: view.exit_status,
        networks: view.networks.into_iter().map(on_network).collect(),
        restart: view.restart.map(|restart| v1::RestartPolicy {
            policy: restart.policy,
            count: restart.count,
            stopped: restart.stopped,
        }),
        problems: problems(view.problems),
    }
}

#[tonic::async_trait]
impl v1::containers_server::Containers for Services {
    async fn list(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let v1::ListContainersRequest { here, traffic } = request.into_inner();
        ask("ListContainers", async {
            let mut views = self.to.overview.containers(here).await?;
            if traffic {
                self.to.overview.add_traffic(&mut views).await;
            }
            let containers = views.into_iter().map(told).collect();
            Ok(v1::ListContainersResponse { containers })
        })
        .await
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Answer<()> {
        let v1::StopRequest {
            container,
            timeout_seconds,
        } = request.into_inner();
        let container = named("container", container)?;
        let containers = self.to.containers.clone();
        self.change("Stop", async move {
            containers.stop(&container, timeout(timeout_seconds)).await
        })
        .await
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Answer<v1::StartResponse> {
        let container = named("container", request.into_inner().container)?;
        let containers = self.to.containers.clone();
        self.change("Start", async move {
            Ok(v1::StartResponse {
                pid: containers.start(&container).await?,
            })
        })
        .await
    }

    async fn restart(&self, request: Request<v1::RestartRequest>) -> Answer<v1::StartResponse> {
        let v1::RestartRequest {
            container,
            timeout_seconds,
        } = request.into_inner();
        let container = named("container", container)?;
        let containers = self.to.containers.clone();
        self.change("Restart", async move {
            let pid = containers
                .restart(&container, timeout(timeout_seconds))
                .await?;
            Ok(v1::StartResponse { pid })
        })
        .await
    }
}
