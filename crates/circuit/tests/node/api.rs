//! The gRPC API: status codes, the filter, health and reflection.

use circuit_api::v1::{
    CreateNetworkRequest, DeleteNetworkRequest, GetNetworkRequest, ListNetworksRequest,
    NodesRequest, StopRequest, cluster_client::ClusterClient, containers_client::ContainersClient,
};
use circuit_testing::{TestNode, network};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{Api, assert_names, create_ctr0, patient};

fn create(api: &Api, name: &str, data: &[u8]) -> Result<(), Status> {
    let request = patient(CreateNetworkRequest {
        name: name.to_owned(),
        data: data.to_vec(),
        force: false,
    });
    api.run(api.circuit().create_network(request)).map(drop)
}

fn delete(api: &Api, name: &str) -> Result<(), Status> {
    let request = patient(DeleteNetworkRequest {
        name: name.to_owned(),
        force: false,
    });
    api.run(api.circuit().delete_network(request)).map(drop)
}

fn get(api: &Api, name: &str) -> Result<Vec<u8>, Status> {
    let name = name.to_owned();
    let request = patient(GetNetworkRequest { name });
    let answer = api.run(api.circuit().get_network(request))?.into_inner();
    Ok(answer.network.expect("a network").data)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, parts: &[&str]) {
    let status = answer.expect_err("a refusal");
    assert_eq!(status.code(), code, "{status:?}");
    assert_names(status.message(), parts);
}

fn node_with_ctr0() -> (TestNode, Api) {
    let node = crate::node().start();
    create_ctr0(&node);
    let api = Api::of(&node);
    (node, api)
}

#[test]
fn what_does_not_exist_is_not_found() {
    let (node, api) = node_with_ctr0();
    node.run_container("shell", &[], &[]);
    refused(get(&api, "nope"), Code::NotFound, &["network nope"]);
    refused(delete(&api, "nope"), Code::NotFound, &["network nope"]);
    refused(
        api.connect("shell", "nope"),
        Code::NotFound,
        &["network nope"],
    );
    refused(
        api.connect("nope", "ctr0"),
        Code::NotFound,
        &["container nope"],
    );
    refused(
        api.disconnect("nope", "ctr0"),
        Code::NotFound,
        &["container nope"],
    );
    refused(
        api.disconnect("shell", "nope"),
        Code::NotFound,
        &["network nope"],
    );
    refused(api.ips("nope", ""), Code::NotFound, &["container nope"]);
    let stop = patient(StopRequest {
        container: "nope".to_owned(),
        timeout_seconds: None,
    });
    let mut containers = ContainersClient::new(api.channel.clone());
    refused(api.run(containers.stop(stop)), Code::NotFound, &["nope"]);
}

#[test]
fn what_exists_already_is_told() {
    let (_node, api) = node_with_ctr0();
    let config = network::bridge("ctr0", "10.255.0.0/16");
    let again = create(&api, "ctr0", config.as_bytes());
    refused(again, Code::AlreadyExists, &["ctr0"]);
}

#[test]
fn what_can_never_work_is_an_invalid_argument() {
    let (_node, api) = node_with_ctr0();
    let good = network::bridge("a", "10.7.0.0/16");
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        "\u{0}",
        "{\"cniVersion\":\"1.0.0\",\"name\":\"a\"}",
    ] {
        refused(
            create(&api, "a", bad.as_bytes()),
            Code::InvalidArgument,
            &[],
        );
    }
    for name in [
        "",
        "../x",
        "..",
        ".",
        "a/b",
        "/etc/passwd",
        "a b",
        "é",
        "-a",
        "a\nb",
    ] {
        refused(
            create(&api, name, good.as_bytes()),
            Code::InvalidArgument,
            &[],
        );
        refused(get(&api, name), Code::InvalidArgument, &[]);
        refused(delete(&api, name), Code::InvalidArgument, &[]);
    }
    refused(
        create(&api, "b", good.as_bytes()),
        Code::InvalidArgument,
        &["\"a\"", "\"b\""],
    );
    refused(
        api.connect("", "ctr0"),
        Code::InvalidArgument,
        &["container"],
    );
    refused(
        api.connect("shell", ""),
        Code::InvalidArgument,
        &["network"],
    );
    refused(api.ips("", ""), Code::InvalidArgument, &["container"]);
}

#[test]
fn what_does_not_work_now_is_a_failed_precondition() {
    let (node, api) = node_with_ctr0();
    node.create_container("idle", &[], &[]);
    node.run_container("shell", &[], &[]);
    refused(
        api.connect("idle", "ctr0"),
        Code::FailedPrecondition,
        &["idle", "not running"],
    );
    refused(
        api.disconnect("shell", "ctr0"),
        Code::FailedPrecondition,
        &["shell", "ctr0"],
    );
    api.connect("shell", "ctr0").unwrap();
    refused(
        delete(&api, "ctr0"),
        Code::FailedPrecondition,
        &["ctr0", "shell", "--force"],
    );
    node.stop_containerd();
    refused(
        api.connect("idle", "ctr0"),
        Code::Unavailable,
        &["containerd"],
    );
    // What is known of a container whose task lives needs no containerd.
    api.disconnect("shell", "ctr0").unwrap();
    api.connect("shell", "ctr0").unwrap();
    node.start_containerd();
}

#[test]
fn connecting_twice_changes_nothing() {
    let (node, api) = node_with_ctr0();
    node.run_container("shell", &[], &[]);
    let first = api.connect("shell", "ctr0").unwrap();
    assert_eq!(first.ip, "10.255.0.2");
    assert_eq!(first.ips, ["10.255.0.2"]);
    assert_eq!(first.interface, "eth0");
    let (interfaces, held) = (node.interfaces("shell"), node.leftovers());
    for _ in 0..3 {
        assert_eq!(api.connect("shell", "ctr0").unwrap(), first);
    }
    assert_eq!(node.interfaces("shell"), interfaces);
    assert_eq!(node.leftovers(), held);
    assert_eq!(api.ips("shell", "").unwrap().ips.len(), 1);
    // Also for callers that do not know of each other.
    let answers = api.run(async {
        let calls = (0..8).map(|_| crate::support::connect(api.circuit(), "shell", "ctr0"));
        futures::future::join_all(calls).await
    });
    for answer in answers {
        assert_eq!(answer.unwrap(), first);
    }
    assert_eq!(node.leftovers(), held);
}

#[test]
fn addresses_are_filtered_by_network() {
    let (node, api) = node_with_ctr0();
    node.create_network("ctr1", &network::bridge("ctr1", "10.8.0.0/16"));
    node.run_container("shell", &[], &[]);
    api.connect("shell", "ctr0").unwrap();
    api.connect("shell", "ctr1").unwrap();
    let networks = |filter: &str| -> Vec<String> {
        let ips = api.ips("shell", filter).unwrap().ips;
        ips.into_iter().map(|ip| ip.network).collect()
    };
    assert_eq!(networks(""), ["ctr0", "ctr1"]);
    assert_eq!(networks("ctr0"), ["ctr0"]);
    assert_eq!(networks("ctr1"), ["ctr1"]);
    assert!(networks("ctr2").is_empty());
}

#[test]
fn networks_are_sorted() {
    let node = crate::node().start();
    let api = Api::of(&node);
    for (name, subnet) in [
        ("zeta", "10.1.0.0/16"),
        ("alpha", "10.2.0.0/16"),
        ("mid", "10.3.0.0/16"),
    ] {
        create(&api, name, network::bridge(name, subnet).as_bytes()).unwrap();
    }
    let request = patient(ListNetworksRequest {});
    let listed = api
        .run(api.circuit().list_networks(request))
        .unwrap()
        .into_inner();
    let names: Vec<&str> = listed.networks.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["alpha", "mid", "zeta"]);
    let alpha = network::bridge("alpha", "10.2.0.0/16");
    assert_eq!(listed.networks[0].data, alpha.as_bytes());
    assert_eq!(get(&api, "alpha").unwrap(), alpha.as_bytes());
}

#[test]
fn the_daemon_is_healthy_and_describes_itself() {
    let node = crate::node().start();
    let api = Api::of(&node);
    let ours = [
        "io.circuit.v1.Circuit",
        "io.circuit.v1.Cluster",
        "io.circuit.v1.Containers",
    ];
    let mut health = HealthClient::new(api.channel.clone());
    for service in [&[""][..], &ours[..]].concat() {
        let request = patient(HealthCheckRequest {
            service: service.to_owned(),
        });
        let answer = api.run(health.check(request)).unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = patient(HealthCheckRequest {
        service: "no.such.Service".to_owned(),
    });
    refused(api.run(health.check(unknown)), Code::NotFound, &[]);
    for described in [reflected(&api), reflected_alpha(&api)] {
        for service in ours.into_iter().chain(["grpc.health.v1.Health"]) {
            assert!(
                described.iter().any(|name| name == service),
                "{described:?}"
            );
        }
    }
    let mut cluster = ClusterClient::new(api.channel.clone());
    let nodes = api
        .run(cluster.nodes(patient(NodesRequest {})))
        .unwrap()
        .into_inner();
    assert_eq!(nodes.nodes[0].name, "node");
}

fn reflected(api: &Api) -> Vec<String> {
    use v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(api.channel.clone());
    api.run(async {
        let request = patient(tokio_stream::iter([ask]));
        let mut answers = client
            .server_reflection_info(request)
            .await
            .unwrap()
            .into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        match answer.message_response {
            Some(MessageResponse::ListServicesResponse(list)) => list
                .service
                .into_iter()
                .map(|service| service.name)
                .collect(),
            other => panic!("{other:?}"),
        }
    })
}

/// The older form, which most tools still speak.
fn reflected_alpha(api: &Api) -> Vec<String> {
    use v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(api.channel.clone());
    api.run(async {
        let request = patient(tokio_stream::iter([ask]));
        let mut answers = client
            .server_reflection_info(request)
            .await
            .unwrap()
            .into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        match answer.message_response {
            Some(MessageResponse::ListServicesResponse(list)) => list
                .service
                .into_iter()
                .map(|service| service.name)
                .collect(),
            other => panic!("{other:?}"),
        }
    })
}

/// Comes to no end when it is to attach.
const HANGS: &str = "#!/bin/sh\n\
     [ $CNI_COMMAND = ADD ] || exec %STOCK%/bridge\n\
     exec sleep 987654\n";

#[test]
fn a_plugin_that_hangs_is_a_deadline_that_was_exceeded() {
    let node = crate::node().server(&["--cni-timeout", "2s"]).start();
    let api = Api::of(&node);
    node.script_plugin("hangs", HANGS);
    let stuck = network::by_plugin("hangs", "stuck", "10.4.0.0/16");
    node.create_network("stuck", &stuck);
    node.run_container("shell", &[], &[]);
    refused(
        api.connect("shell", "stuck"),
        Code::DeadlineExceeded,
        &["hangs", "2"],
    );
    node.remove_container("shell");
    node.assert_nothing_left();
}
