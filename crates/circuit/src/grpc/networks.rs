//! The service of networks: described, seen as a whole, tidied up.

use std::net::IpAddr;
use std::sync::Arc;

use circuit_api::v1;
use circuit_core::cni::Description;
use circuit_core::overview::NetworkView;
use circuit_core::service::Pruned;
use circuit_core::{Error, Result};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::containers::on_network;
use super::services::{Answer, Services, ask, named, problems};
use super::status::status;

/// What is described, read.
fn description(request: v1::DescribeNetworkRequest) -> Result<Description> {
    Ok(Description {
        subnets: all(&request.subnets, "subnet", "10.88.0.0/24")?,
        gateways: all::<IpAddr>(&request.gateways, "address", "10.88.0.1")?,
        ranges: all(&request.ranges, "subnet", "10.88.0.128/25")?,
        name: request.name,
        driver: request.driver,
        ipv6: request.ipv6,
        internal: request.internal,
        mtu: request.mtu,
        parent: request.parent,
        vlan: request.vlan,
        mode: request.mode,
        dns: request.dns,
        publish_backend: request.publish_backend,
        ipam: request.ipam,
    })
}

fn all<T: std::str::FromStr>(texts: &[String], what: &str, like: &str) -> Result<Vec<T>> {
    let read = |text: &String| {
        text.trim()
            .parse()
            .map_err(|_| Error::invalid(format!("{text:?} is no {what}: write one like {like}")))
    };
    texts.iter().map(read).collect()
}

fn told(view: NetworkView) -> v1::InspectNetworkResponse {
    let pools = view.pools.into_iter().map(|pool| v1::PoolUse {
        name: pool.name,
        ipv6: pool.ipv6,
        size: pool.size,
        used: pool.used,
    });
    let members = view.members.into_iter().map(|member| v1::NetworkMember {
        container: member.container,
        node: member.node,
        attachment: Some(on_network(member.attachment)),
    });
    v1::InspectNetworkResponse {
        network: Some(v1::Network {
            name: view.network.name,
            data: view.network.data,
        }),
        plugins: view.plugins,
        subnets: view.subnets,
        ipam: view.ipam,
        pools: pools.collect(),
        members: members.collect(),
        problems: problems(view.problems),
    }
}

#[tonic::async_trait]
impl v1::networks_server::Networks for Services {
    type PruneStream = BoxStream<'static, std::result::Result<v1::PrunedNetwork, Status>>;

    async fn create(
        &self,
        request: Request<v1::DescribeNetworkRequest>,
    ) -> Answer<v1::DescribeNetworkResponse> {
        let mut request = request.into_inner();
        request.name = named("network", request.name)?;
        let (force, dry_run) = (request.force, request.dry_run);
        let description = description(request).map_err(|error| status(&error))?;
        let networks = Arc::clone(&self.to.networks);
        self.change("Create", async move {
            let made = networks.make(description, force, dry_run).await?;
            Ok(v1::DescribeNetworkResponse {
                network: Some(v1::Network {
                    name: made.name,
                    data: made.data,
                }),
            })
        })
        .await
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectNetworkRequest>,
    ) -> Answer<v1::InspectNetworkResponse> {
        let name = named("network", request.into_inner().name)?;
        ask("Inspect", async {
            Ok(told(self.to.overview.network(&name).await?))
        })
        .await
    }

    async fn prune(&self, request: Request<v1::PruneNetworksRequest>) -> Answer<Self::PruneStream> {
        let dry_run = request.into_inner().dry_run;
        let networks = Arc::clone(&self.to.networks);
        let (tell, told) = mpsc::unbounded_channel();
        let failed = tell.clone();
        let work = async move {
            // A client that is gone stops it between two networks.
            let each = |pruned: Pruned| tell.send(Ok(pruned)).is_ok();
            networks.prune(dry_run, &each).await
        };
        self.change_telling("Prune", work, move |status| drop(failed.send(Err(status))));
        let told = stream::unfold(told, |mut told| async move {
            let one = told.recv().await?;
            Some((one, told))
        });
        let told = told.map(|one: std::result::Result<Pruned, Status>| {
            one.map(|pruned| v1::PrunedNetwork {
                name: pruned.name,
                kept: pruned.kept.unwrap_or_default(),
            })
        });
        Ok(Response::new(told.boxed()))
    }
}
