//! The server beyond what commands show: health, reflection, faults, the end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use circuit::grpc::Security;
use circuit_api::ListenAddress;
use circuit_api::v1;
use circuit_api::v1::circuit_client::CircuitClient;
use circuit_testing::PATIENCE;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpStream, UnixStream};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::fake::Server;

fn connect(container: &str) -> v1::ConnectRequest {
    v1::ConnectRequest {
        container: container.into(),
        network: "ctr0".into(),
        ..v1::ConnectRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_is_told() {
    let server = Server::start().await;
    let mut client = CircuitClient::new(server.channel().await);
    let connected = client.connect(connect("shell")).await.unwrap().into_inner();
    assert_eq!(connected.ip, "10.255.0.2");
    assert_eq!(connected.ips, ["10.255.0.2", "fd00::2"]);
    assert_eq!(connected.interface, "eth0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defect_ends_one_request_only() {
    let server = Server::start().await;
    let mut client = CircuitClient::new(server.channel().await);
    let status = client.connect(connect("defect")).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(
        status
            .message()
            .contains("the attachment of ctr0 is impossible"),
        "{status}"
    );
    let ask = |container: &str| v1::GetContainerIPsRequest {
        container: container.into(),
        network: String::new(),
    };
    let status = client.get_container_i_ps(ask("defect")).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(
        client
            .get_container_i_ps(ask("shell"))
            .await
            .unwrap()
            .into_inner()
            .ips
            .len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_checked_at_the_door() {
    let server = Server::start().await;
    let mut client = CircuitClient::new(server.channel().await);
    for container in [String::new(), "a\nb".into(), "x".repeat(2000)] {
        let status = client.connect(connect(&container)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_goes_on_without_its_client_and_the_end_waits_for_it() {
    let server = Server::start().await;
    let mut client = CircuitClient::new(server.channel().await);
    let asking = tokio::spawn(async move { client.connect(connect("slow")).await });
    server.world.begun.notified().await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    server.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!server.serving.is_finished());
    assert_eq!(server.world.finished.load(Ordering::SeqCst), 0);
    server.world.go_on.notify_one();
    server.serving.await.unwrap().unwrap();
    assert_eq!(server.world.finished.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_still_arrives_while_the_server_ends() {
    let server = Server::start().await;
    let mut client = CircuitClient::new(server.channel().await);
    let asking = tokio::spawn(async move { client.connect(connect("slow")).await });
    server.world.begun.notified().await;
    server.shutdown.cancel();
    server.world.go_on.notify_one();
    assert_eq!(asking.await.unwrap().unwrap().into_inner().ip, "10.255.0.2");
    server.serving.await.unwrap().unwrap();
    let circuit_api::ListenAddress::Unix(socket) = &server.address else {
        panic!("a socket")
    };
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_watch_does_not_hold_up_the_end() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel().await);
    for service in [
        "",
        "io.circuit.v1.Circuit",
        "io.circuit.v1.Cluster",
        "io.circuit.v1.Containers",
    ] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
    let watch = HealthCheckRequest {
        service: String::new(),
    };
    let mut watch = health.watch(watch).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    server.shutdown.cancel();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    let ended = tokio::time::timeout(Duration::from_secs(5), server.serving).await;
    ended.expect("an end in time").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = Server::start().await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("a list of services: {answer:?}");
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in ["Circuit", "Cluster", "Containers", "Dns", "Ipam"] {
        assert!(
            names.contains(&format!("io.circuit.v1.{name}").as_str()),
            "{names:?}"
        );
    }
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
    assert!(names.contains(&"coredns.dns.DnsService"), "{names:?}");
}

/// Reads until the server closes the connection.
async fn closed(mut stream: impl AsyncRead + Unpin) {
    let mut said = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said));
    // With an error or without.
    let _ = end.await.expect("the connection is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_and_says_nothing_is_not_kept() {
    let by_tcp = Server::start_tcp(Security::default()).await;
    let by_socket = Server::start().await;
    let ListenAddress::Unix(path) = &by_socket.address else {
        panic!("{}", by_socket.address);
    };
    let tcp = TcpStream::connect(by_tcp.target()).await.unwrap();
    let unix = UnixStream::connect(path).await.unwrap();
    // One that is of use is kept meanwhile.
    let mut client = CircuitClient::new(by_tcp.channel().await);
    tokio::join!(closed(tcp), closed(unix));
    client
        .list_networks(v1::ListNetworksRequest {})
        .await
        .unwrap();
}
