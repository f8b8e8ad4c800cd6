//! Serves the API until it is told to stop, then lets what runs come to its
//! end.

use std::sync::Arc;
use std::time::Duration;

use circuit_api::coredns::dns_service_server::DnsServiceServer;
use circuit_api::v1::{
    FILE_DESCRIPTOR_SET, circuit_server::CircuitServer, cluster_server::ClusterServer,
    containers_server::ContainersServer, dns_server::DnsServer, doctor_server::DoctorServer,
    events_server::EventsServer, ipam_server::IpamServer, networks_server::NetworksServer,
};
use circuit_core::{Error, Result};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::accept::accept;
use super::drive;
use super::front::Front;
use super::listen::Listeners;
use super::services::Services;

/// Answers get this long to reach their clients once nothing runs any more;
/// streams that never end, such as a health watch, do not hold up the end.
const FLUSH: Duration = Duration::from_millis(500);

/// Serves until `shutdown`. Then no connection is accepted, the health service
/// says so, and changes that were begun have `drain` to come to their end.
///
/// # Errors
/// When the services cannot be put together.
pub async fn serve(
    listeners: Listeners,
    services: Services,
    shutdown: CancellationToken,
    drain: Duration,
) -> Result<()> {
    let health = HealthReporter::new();
    let routes = routes(&services, &health).await?;
    let front = Front::new(routes, Arc::clone(&services.to.names));
    let mut accepted = accept(listeners, &shutdown);
    let serving = async {
        let connections = TaskTracker::new();
        while let Some(connection) = accepted.recv().await {
            connections.spawn(drive::serve(connection, front.clone(), shutdown.clone()));
        }
        connections.close();
        connections.wait().await;
    };
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
        // Their clients may be gone while changes they asked for still run.
        () = serving => drop(tokio::time::timeout(drain, services.idle()).await),
        () = ending => {}
    }
    Ok(())
}

/// The names of our services, as the health service knows them.
fn names() -> [&'static str; 9] {
    use tonic::server::NamedService;
    [
        <CircuitServer<Services> as NamedService>::NAME,
        <ClusterServer<Services> as NamedService>::NAME,
        <ContainersServer<Services> as NamedService>::NAME,
        <IpamServer<Services> as NamedService>::NAME,
        <EventsServer<Services> as NamedService>::NAME,
        <DoctorServer<Services> as NamedService>::NAME,
        <NetworksServer<Services> as NamedService>::NAME,
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
        .add_service(EventsServer::new(services.clone()))
        .add_service(DoctorServer::new(services.clone()))
        .add_service(NetworksServer::new(services.clone()))
        .add_service(DnsServer::new(services.clone()))
        .add_service(DnsServiceServer::new(services.clone()))
        .add_service(HealthServer::new(HealthService::from_health_reporter(
            health.clone(),
        )))
        .add_service(describe().build_v1().map_err(bad)?)
        .add_service(describe().build_v1alpha().map_err(bad)?);
    Ok(routes.routes())
}
