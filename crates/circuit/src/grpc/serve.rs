//! Serves the API until it is told to stop, then lets what runs come to its
//! end.

use std::time::Duration;

use circuit_api::coredns::dns_service_server::DnsServiceServer;
use circuit_api::v1::{
    FILE_DESCRIPTOR_SET, circuit_server::CircuitServer, cluster_server::ClusterServer,
    containers_server::ContainersServer, dns_server::DnsServer, ipam_server::IpamServer,
};
use circuit_core::{Error, Result};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::accept::accept;
use super::listen::Listeners;
use super::services::Services;

/// Answers get this long to reach their clients once nothing runs any more;
/// streams that never end, such as a health watch, do not hold up the end.
const FLUSH: Duration = Duration::from_millis(500);
/// A silent client is asked for a sign of life this often, and dropped when it
/// gives none for as long.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Serves until `shutdown`. Then no connection is accepted, the health service
/// says so, and changes that were begun have `drain` to come to their end.
///
/// # Errors
/// When the services cannot be put together or the transport fails.
pub async fn serve(
    listeners: Listeners,
    services: Services,
    shutdown: CancellationToken,
    drain: Duration,
) -> Result<()> {
    let health = HealthReporter::new();
    let routes = routes(&services, &health).await?;
    let incoming = ReceiverStream::new(accept(listeners, &shutdown));
    let stopped = shutdown.clone();
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move { stopped.cancelled().await });
    let ending = async {
        shutdown.cancelled().await;
        set_health(&health, ServingStatus::NotServing).await;
        let idle = async {
            services.idle().await;
            tokio::time::sleep(FLUSH).await;
        };
        if tokio::time::timeout(drain, idle).await.is_err() {
            tracing::warn!(
                "stopping although requests still run after {} s",
                drain.as_secs()
            );
        }
    };
    tokio::select! {
        result = serving => {
            // Its clients may be gone while a change they asked for still runs.
            let _ = tokio::time::timeout(drain, services.idle()).await;
            result.map_err(|e| Error::internal(format!("cannot serve the api: {e}")))
        }
        () = ending => Ok(()),
    }
}

/// The names of our services, as the health service knows them.
fn names() -> [&'static str; 6] {
    use tonic::server::NamedService;
    [
        <CircuitServer<Services> as NamedService>::NAME,
        <ClusterServer<Services> as NamedService>::NAME,
        <ContainersServer<Services> as NamedService>::NAME,
        <IpamServer<Services> as NamedService>::NAME,
        <DnsServer<Services> as NamedService>::NAME,
        <DnsServiceServer<Services> as NamedService>::NAME,
    ]
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for name in names().into_iter().chain([""]) {
        health.set_service_status(name, status).await;
    }
}

async fn routes(services: &Services, health: &HealthReporter) -> Result<Routes> {
    use tonic_health::pb::{self, health_server::HealthServer};
    use tonic_health::server::HealthService;

    set_health(health, ServingStatus::Serving).await;
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
    };
    let bad = |e| Error::internal(format!("cannot describe the api: {e}"));
    let mut routes = Routes::builder();
    routes
        .add_service(CircuitServer::new(services.clone()))
        .add_service(ClusterServer::new(services.clone()))
        .add_service(ContainersServer::new(services.clone()))
        .add_service(IpamServer::new(services.clone()))
        .add_service(DnsServer::new(services.clone()))
        .add_service(DnsServiceServer::new(services.clone()))
        .add_service(HealthServer::new(HealthService::from_health_reporter(
            health.clone(),
        )))
        .add_service(describe().build_v1().map_err(bad)?)
        .add_service(describe().build_v1alpha().map_err(bad)?);
    Ok(routes.routes())
}
