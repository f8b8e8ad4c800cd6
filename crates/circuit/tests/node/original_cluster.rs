//! Nodes of the original program in the same cluster, played by a double that
//! speaks the bytes recorded from it.

use std::time::{Duration, Instant};

use circuit::redis::{Event, Store, Url, Value as Redis, cmd};
use circuit_api::v1;
use circuit_testing::{Lan, PATIENCE, RedisServer, TestNode, network, wait_until};
use prost::Message as _;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::support::json;

/// Bytes recorded from the original.
fn recorded(name: &str) -> Vec<u8> {
    let all = include_str!("../vectors/original-wire.json");
    let all: Value = serde_json::from_str(all).unwrap();
    let found = all.as_array().unwrap().iter().find(|v| v["name"] == name);
    let hex = found.unwrap()["hex"].as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn node(lan: &Lan, name: &str) -> TestNode {
    let arguments = ["--redis-url", "redis://192.0.2.1", "--node-name", name];
    let lease = ["--lease", "5m"];
    let arguments = [&arguments[..], &lease].concat();
    crate::node().lan(lan).server(&arguments).start()
}

async fn store(redis: &RedisServer) -> Store {
    let store = Store::open(&Url::parse(&redis.url()).unwrap()).unwrap();
    store.wait_up(PATIENCE).await.unwrap();
    store
}

async fn publish(store: &Store, channel: &str, payload: &[u8]) {
    let mut publish = cmd("PUBLISH");
    publish.arg(channel).arg(payload);
    store.query(&publish).await.unwrap();
}

#[test]
fn its_questions_are_answered_to_the_byte() {
    let lan = Lan::new();
    let redis = lan.redis();
    let ours = node(&lan, "node3");
    ours.create_network("ctr0", &network::bridge("ctr0", "10.77.0.0/16"));
    for container in ["first", "auto2"] {
        ours.run_container(container, &[], &[]);
        ours.circuit(&["network", "connect", container, "ctr0"])
            .ok();
    }
    let (answers, beat) = Runtime::new().unwrap().block_on(async {
        let store = store(&redis).await;
        let channel = "circuit.reply.1795461650588088509";
        let mut subscription = store.subscribe(&[channel], &[]);
        assert_eq!(subscription.next().await, Some(Event::Resumed));
        publish(&store, "circuit.cluster", &recorded("cluster-request")).await;
        let mut answers = Vec::new();
        while answers.len() < 2 {
            let next = tokio::time::timeout(PATIENCE, subscription.next());
            if let Some(Event::Message { payload, .. }) = next.await.expect("an answer") {
                answers.push(payload);
            }
        }
        let beat = store.query(cmd("GET").arg("nodes:node3")).await;
        (answers, beat.unwrap())
    });
    assert_eq!(
        answers,
        [recorded("cluster-ip"), recorded("cluster-complete")]
    );
    // It lists who has such a key, and counts as many answers as there are.
    let Redis::BulkString(beat) = beat else {
        panic!("{beat:?}");
    };
    let beat = prost_types::Any::decode(beat.as_slice()).unwrap();
    assert_eq!(beat.type_url, "io.circuit.v1.NodeInfo");
    let beat = v1::NodeInfo::decode(beat.value.as_slice()).unwrap();
    assert_eq!((&*beat.name, beat.cpus > 0), ("node3", true));
    let told = json(&ours, &["cluster", "nodes"]);
    assert_eq!(told["nodes"][0]["version"], *beat.version);
    assert_eq!(redis.cli(&["KEYS", "nodes:*"]), "nodes:node3");
    let told = redis.cli(&["PTTL", "nodes:node3"]);
    // Of one that is killed it does not go on expecting an answer, whatever its lease.
    let life = 1..=20_000;
    assert!(life.contains(&told.parse::<u64>().unwrap()), "{told}");
    ours.stop_daemon();
    assert_eq!(redis.cli(&["KEYS", "nodes:*"]), "");
}

/// A node of the original that has one container. Its first answer takes so long.
async fn serve(store: Store, mut late: Duration) {
    let mut questions = store.subscribe(&["circuit.cluster"], &[]);
    while let Some(event) = questions.next().await {
        let Event::Message { payload, .. } = event else {
            continue;
        };
        let any = prost_types::Any::decode(payload.as_slice()).unwrap();
        let request = v1::ClusterRequest::decode(any.value.as_slice()).unwrap();
        let query = request.request.unwrap();
        assert_eq!(query.type_url, "io.circuit.v1.ContainerIPQuery");
        let query = v1::ContainerIpQuery::decode(query.value.as_slice()).unwrap();
        tokio::time::sleep(std::mem::take(&mut late)).await;
        if query.container == "auto2" {
            publish(&store, &request.channel, &recorded("cluster-ip")).await;
        }
        let done = v1::OpComplete {
            node: "node1".to_owned(),
        };
        let done = prost_types::Any {
            type_url: "io.circuit.v1.OpComplete".to_owned(),
            value: done.encode_to_vec(),
        };
        publish(&store, &request.channel, &done.encode_to_vec()).await;
    }
}

#[test]
fn it_is_asked_and_nobody_waits_for_it_when_it_is_gone() {
    let runtime = Runtime::new().unwrap();
    let lan = Lan::new();
    let redis = lan.redis();
    let store = runtime.block_on(store(&redis));
    let mut beat = cmd("SET");
    beat.arg("nodes:node1").arg(recorded("node-heartbeat"));
    runtime.block_on(store.query(&beat)).unwrap();
    let original = runtime.spawn(serve(store, Duration::ZERO));
    let ours = node(&lan, "node0");
    let listed = || {
        let nodes = json(&ours, &["cluster", "nodes"]);
        nodes["nodes"].as_array().unwrap().iter().any(|node| {
            node["name"] == "node1" && node["state"] == "original" && node["uptime"] == 2168
        })
    };
    wait_until("it is listed", PATIENCE, listed);
    let shown = || {
        let ran = ours.circuit(&["network", "ips", "auto2"]);
        ran.stdout.contains("10.77.0.3")
    };
    wait_until("its container is known", PATIENCE, shown);
    assert!(!ours.circuit(&["network", "ips", "nobody"]).worked());
    original.abort();
    let ask = || {
        let start = Instant::now();
        assert!(!ours.circuit(&["network", "ips", "auto2"]).worked());
        start.elapsed()
    };
    let (first, second) = (ask(), ask());
    assert!(first < Duration::from_secs(3), "{first:?}");
    println!("asked one that is gone: {first:?}, again: {second:?}");
}

#[test]
fn one_that_was_late_once_is_asked_again() {
    let runtime = Runtime::new().unwrap();
    let lan = Lan::new();
    let redis = lan.redis();
    let store = runtime.block_on(store(&redis));
    // The same bytes for ever: the original reads its uptime at its start only.
    let mut beat = cmd("SET");
    beat.arg("nodes:node1").arg(recorded("node-heartbeat"));
    runtime.block_on(store.query(&beat)).unwrap();
    let original = runtime.spawn(serve(store, Duration::from_millis(600)));
    let ours = node(&lan, "node0");
    let shown = || {
        let ran = ours.circuit(&["network", "ips", "auto2"]);
        ran.stdout.contains("10.77.0.3")
    };
    wait_until("its container is known", PATIENCE, shown);
    original.abort();
}
