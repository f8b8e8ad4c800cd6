//! What this node tells monitoring programs, in Prometheus' text format.

mod content;
mod page;
mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use circuit_core::service::{ClusterStatus, Nodes};
use circuit_core::{Error, Result, datapath::Pool};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::attachments::Attachments;
use crate::dns::Dns;
use crate::ipam::{Account, Keeper};
use crate::pages;
use crate::redis::Store;
use process::Process;

/// Listens for monitoring programs.
///
/// # Errors
/// When the address cannot be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    process::started();
    TcpListener::bind(address).await.map_err(|error| {
        let reason = crate::text::io_error(&error);
        Error::precondition(format!(
            "cannot listen on {address} for --metrics: {reason}"
        ))
    })
}

/// Who knows what is told.
#[derive(Clone)]
pub struct Told {
    /// The cluster.
    pub nodes: Arc<dyn Nodes>,
    /// Names.
    pub dns: Arc<Dns>,
    /// Containers and their networks.
    pub attachments: Arc<Attachments>,
    /// Pools of addresses.
    pub keeper: Arc<Keeper>,
    /// Each Redis, by what it is for.
    pub redis: Vec<(&'static str, Store)>,
}

/// Answers `GET /metrics` until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, told: Told, stop: CancellationToken) -> Result<()> {
    let failed = |error| Error::internal(format!("serving metrics failed: {error}"));
    let address = listener.local_addr().map_err(failed)?;
    let mut router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(told);
    if address.ip().to_canonical().is_loopback() {
        router = router.layer(middleware::from_fn(guard));
    }
    pages::serve(listener, router, stop).await.map_err(failed)
}

/// Turns pages of other sites away, whose names lead here.
async fn guard(request: Request, next: Next) -> Response {
    if pages::is_of_this_machine(request.headers()) {
        return next.run(request).await;
    }
    let why = "ask for this page as localhost or by a loopback address\n";
    (StatusCode::FORBIDDEN, why).into_response()
}

async fn metrics(State(told): State<Told>) -> Response {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Answer(told.read().await)));
    let mut text = String::new();
    match prometheus_text::encode(&mut text, &registry) {
        Ok(()) => (
            [(header::CONTENT_TYPE, prometheus_text::CONTENT_TYPE)],
            text,
        )
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// All that a page says, as of one moment.
struct Reading {
    told: Told,
    cluster: ClusterStatus,
    process: Process,
    /// How many containers are attached, by network.
    attached: BTreeMap<String, u64>,
    pools: Vec<Pool>,
    accounts: Vec<Account>,
}

impl Told {
    async fn read(self) -> Reading {
        let mut attached = BTreeMap::new();
        let mut pools: Vec<Pool> = Vec::new();
        // Networks that cannot be listed have no figures; whoever uses one is
        // told why.
        let networks = self.attachments.parts.networks.networks().await;
        for network in networks.unwrap_or_default() {
            if let Ok(config) = std::str::from_utf8(&network.data) {
                pools.extend(self.attachments.parts.datapath.pools(config).await);
            }
            attached.insert(network.name, 0);
        }
        for record in self.attachments.book().snapshot().records() {
            for on in &record.attached {
                *attached.entry(on.network.to_string()).or_default() += 1;
            }
        }
        Reading {
            cluster: self.nodes.status().await.unwrap_or_default(),
            process: Process::now(),
            accounts: self.keeper.accounts(),
            pools: unique(pools),
            attached,
            told: self,
        }
    }
}

/// Networks may share a pool, each with ranges of its own: the largest counts.
fn unique(mut pools: Vec<Pool>) -> Vec<Pool> {
    let key = |pool: &Pool| (pool.ipam.clone(), pool.name.clone(), pool.ipv6);
    pools.sort_by_key(|pool| (key(pool), std::cmp::Reverse(pool.size)));
    pools.dedup_by_key(|pool| key(pool));
    pools
}

/// A reading on its way to a page.
struct Answer(Reading);

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

impl Collector for Answer {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut page::Page::new(encoder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_of_two_networks_is_told_once() {
        let pool = |ipam: &str, name: &str, ipv6, size| Pool {
            ipam: ipam.to_owned(),
            name: name.to_owned(),
            ipv6,
            size,
            used: None,
        };
        let pools = vec![
            pool("host-local", "fleet", false, 10),
            pool("circuit", "fleet", false, 100),
            pool("circuit", "fleet", true, 7),
            pool("circuit", "fleet", false, 200),
        ];
        let told: Vec<_> = unique(pools).iter().map(|p| (p.ipv6, p.size)).collect();
        assert_eq!(told, [(false, 200), (true, 7), (false, 10)]);
    }
}
