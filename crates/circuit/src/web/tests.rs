#![allow(clippy::unwrap_used, clippy::panic)]

mod site;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use circuit_core::cni::Description;
use circuit_core::datapath::Pool;
use circuit_core::event::{Event, Kind, Since};
use circuit_core::overview::{ContainerView, NetworkView, OnNetwork, RestartView, TaskState};
use circuit_core::service::{
    ClusterStatus, NetworkListing, NodeInfo, Problem, Pruned, StoredNetwork,
};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use site::*;

const TOKEN: &str = "0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn names_that_others_lead_here_are_turned_away() {
    let page = Served::new(None, World::default()).await;
    let port = page.address.port();
    assert_eq!(page.get("/", &[]).await.status(), 200);
    let local = format!("Host: localhost:{port}");
    assert_eq!(page.get("/api/state", &[&local]).await.status(), 200);
    let rebound = format!("Host: attacker.example:{port}");
    for path in ["/", "/style.css", "/api/state", "/api/events", "/nothing"] {
        let answer = page.get(path, &[&rebound]).await;
        assert_eq!(answer.status(), 403, "{path}");
        assert!(answer.body().contains("as localhost"), "{}", answer.0);
        let answer = page.get(path, &["Host:"]).await;
        assert_eq!(answer.status(), 403, "{path} of no host");
    }
}

#[tokio::test]
async fn the_token_lets_in_and_nothing_else_does() {
    let page = Served::new(Some(TOKEN), World::default()).await;
    for headers in [
        &[][..],
        &["Authorization: Bearer 0123456789abcdeF"],
        &["Authorization: Bearer"],
        &["Authorization: Basic 0123456789abcdef"],
        &["Cookie: circuit-web-0000000000000001=30313233343536373839616263646566"],
        &["Cookie: token=0123456789abcdef"],
    ] {
        for path in ["/api/state", "/api/events", "/app.js", "/nothing"] {
            let answer = page.get(path, headers).await;
            assert_eq!(answer.status(), 401, "{path} {headers:?}");
            assert!(answer.body().contains("--web-token-file"), "{}", answer.0);
        }
    }
    for path in [
        "/?token=",
        "/?token=0123456789abcde",
        "/?nottoken=0123456789abcdef",
    ] {
        let answer = page.get(path, &[]).await;
        assert_eq!(answer.status(), 401, "{path}");
        assert_eq!(answer.header("Set-Cookie"), "");
        assert!(answer.body().contains("<form"), "{}", answer.0);
    }

    let bearer = format!("Authorization: Bearer {TOKEN}");
    // With a token the name does not count: proxies have others.
    let proxied = ["Host: circuit.example", &bearer];
    assert_eq!(page.get("/api/state", &proxied).await.status(), 200);

    let answer = page.get(&format!("/?token={TOKEN}"), &[]).await;
    assert_eq!(answer.status(), 200);
    let cookie = answer.header("Set-Cookie");
    assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
    let cookie = format!("Cookie: other=1; {}", cookie.split(';').next().unwrap());
    assert_eq!(page.get("/api/state", &[&cookie]).await.status(), 200);
}

#[tokio::test]
async fn every_answer_forbids_what_the_page_does_not_need() {
    let page = Served::new(Some(TOKEN), World::default()).await;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for (path, headers) in [
        ("/", &[][..]),
        ("/", &[&*bearer]),
        ("/app.js", &[&bearer]),
        ("/api/state", &[&bearer]),
        ("/api/state", &[]),
        ("/nothing", &[&bearer]),
    ] {
        let answer = page.get(path, headers).await;
        let policy = answer.header("Content-Security-Policy");
        assert!(
            policy.starts_with("default-src 'self';"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("X-Content-Type-Options"), "nosniff");
        assert_eq!(answer.header("X-Frame-Options"), "DENY");
        assert_eq!(answer.header("Referrer-Policy"), "no-referrer");
        assert_eq!(answer.header("Access-Control-Allow-Origin"), "");
        assert_ne!(answer.header("Cache-Control"), "", "{path}");
    }
}

#[tokio::test]
async fn nothing_can_be_changed_nor_read_by_other_pages() {
    let page = Served::new(None, World::default()).await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["/", "/api/state", "/api/networks/web"] {
            let answer = page.ask(method, path, &["Content-Length: 0"]).await;
            assert_eq!(answer.status(), 405, "{method} {path}");
            assert_eq!(answer.header("Allow"), "GET, HEAD");
        }
    }
    for site in ["cross-site", "same-site"] {
        let header = format!("Sec-Fetch-Site: {site}");
        assert_eq!(page.get("/api/state", &[&header]).await.status(), 403);
        // A link of another page leads here.
        assert_eq!(page.get("/", &[&header]).await.status(), 200);
    }
    let own = ["Sec-Fetch-Site: same-origin"];
    assert_eq!(page.get("/api/state", &own).await.status(), 200);
}

#[tokio::test]
async fn every_file_that_the_page_names_is_there() {
    let page = Served::new(None, World::default()).await;
    let mut todo = vec!["/".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = todo.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let answer = page.get(&path, &[]).await;
        assert_eq!(answer.status(), 200, "{path}");
        let tag = format!("If-None-Match: {}", answer.header("ETag"));
        assert_eq!(page.get(&path, &[&tag]).await.status(), 304, "{path}");
        if path.starts_with("/vendor/") {
            continue;
        }
        for mark in ["src=\"", "href=\"", "from \"", "import \""] {
            for rest in answer.body().split(mark).skip(1) {
                let name = rest.split('"').next().unwrap();
                let name = name.trim_start_matches(['.', '/']);
                todo.push(format!("/{name}"));
            }
        }
    }
    for wanted in ["/app.js", "/style.css", "/vendor/cytoscape.min.js"] {
        assert!(seen.contains(wanted), "{wanted} not in {seen:?}");
    }
    assert_eq!(page.get("/../Cargo.toml", &[]).await.status(), 404);
}

#[tokio::test]
async fn the_state_has_everything_that_is_drawn() {
    let hostile = "<img src=x onerror=alert(1)>\n\u{202e}";
    let problem = Problem {
        container: "a".into(),
        network: "lan".into(),
        message: "network lan does not exist".into(),
    };
    let world = World {
        networks: vec!["web".into()],
        containers: vec![ContainerView {
            id: "a".into(),
            node: "n1".into(),
            state: TaskState::Running,
            pid: 7,
            exit_status: None,
            networks: vec![OnNetwork {
                network: "web".into(),
                interface: "eth0".into(),
                ips: vec!["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
                mac: "02:00:00:00:00:07".into(),
                aliases: vec![hostile.into()],
                ports: vec!["8080:80/tcp".into()],
                phase: "attached",
                origin: "label",
                traffic: None,
            }],
            restart: Some(RestartView {
                policy: "always".into(),
                count: 2,
                stopped: false,
            }),
            problems: vec![problem],
        }],
        ..World::default()
    };
    let page = Served::new(None, world).await;
    let answer = page.get("/api/state", &[]).await;
    assert_eq!(answer.header("Content-Type"), "application/json");
    assert_eq!(answer.header("Cache-Control"), "no-store");
    let expected = json!({
        "node": "n1",
        "version": crate::VERSION,
        "registry": null,
        "nodes": [{
            "name": "n1", "state": "live", "version": "0.1.0", "kernel": "6.18",
            "cpus": 2, "memory": 4096, "seen": 0,
        }],
        "networks": ["web"],
        "containers": [{
            "id": "a", "node": "n1", "state": "running", "pid": 7, "exit": null,
            "restart": {"policy": "always", "count": 2, "stopped": false},
            "networks": [{
                "network": "web", "interface": "eth0", "ips": ["10.88.0.2", "fd00::2"],
                "mac": "02:00:00:00:00:07", "aliases": [hostile], "ports": ["8080:80/tcp"],
                "phase": "attached", "origin": "label",
            }],
            "problems": [{
                "container": "a", "network": "lan", "message": "network lan does not exist",
            }],
        }],
        "problems": [],
    });
    assert_eq!(answer.json(), expected);

    let network = page.get("/api/networks/web", &[]).await;
    let expected = json!({
        "name": "web", "plugins": ["bridge"], "subnets": ["10.88.0.0/24"],
        "ipam": "host-local", "problems": [],
        "pools": [{"name": "web", "ipv6": false, "size": 253, "used": 1}],
    });
    // The configuration itself may hold what not everybody should read.
    assert_eq!(network.json(), expected);
    assert_eq!(page.get("/api/networks/lan", &[]).await.status(), 404);
}

#[tokio::test]
async fn what_cannot_be_read_is_told() {
    let world = World {
        registry: "redis://192.0.2.1".into(),
        ..World::default()
    };
    world.broken.lock().unwrap().insert("networks");
    let page = Served::new(None, world).await;
    let state = page.get("/api/state", &[]).await.json();
    let message = state["problems"][0]["message"].as_str().unwrap();
    assert!(message.contains("networks are away"), "{message}");
    // Where the registry is, browsers need not know.
    let registry = json!({"connected": false, "failure": "it is gone"});
    assert_eq!(state["registry"], registry);

    page.world.broken.lock().unwrap().insert("containers");
    let answer = page.get("/api/state", &[]).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.body().contains("containers are away"));
}

#[tokio::test]
async fn events_are_told_one_message_each() {
    let world = World {
        events: vec![event(1, ""), event(2, "two\nlines\r\nid: 9\n\n")],
        ..World::default()
    };
    let page = Served::new(None, world).await;
    let mut stream = page.watch(&["Last-Event-ID: 41"]).await;
    let text = until(&mut stream, r#"id: 9\n\n"}"#).await;
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    let data: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let first = json!({
        "at": "1970-01-01T00:00:00Z", "node": "n1", "kind": "container.connected",
        "container": "a", "network": "web", "interface": "eth0", "ips": ["10.88.0.2"],
        "message": "",
    });
    assert_eq!(data[0], first);
    assert_eq!(data[1]["message"], "two\nlines\r\nid: 9\n\n");
    assert_eq!(data.len(), 2);
    let mut stream = page.watch(&["Last-Event-ID: nonsense"]).await;
    until(&mut stream, "id: 1").await;
    let asked = page.world.asked.lock().unwrap().clone();
    assert_eq!(asked, [Some(41), None]);
}

#[tokio::test]
async fn so_many_may_watch_and_their_places_come_back() {
    let world = World {
        events: vec![event(1, "")],
        ..World::default()
    };
    let page = Served::new(None, world).await;
    let mut watchers = Vec::new();
    for _ in 0..64 {
        let mut stream = page.watch(&[]).await;
        until(&mut stream, "id: 1").await;
        watchers.push(stream);
    }
    let refused = page.get("/api/events", &[]).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.header("Retry-After"), "10");
    assert!(refused.body().contains("64 pages watch"), "{}", refused.0);
    // The rest of the page goes on.
    assert_eq!(page.get("/api/state", &[]).await.status(), 200);
    drop(watchers.pop());
    let again = async {
        loop {
            let mut stream = page.watch(&[]).await;
            if until(&mut stream, "HTTP/1.1 ").await.contains(" 200 ") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn who_reads_nothing_holds_up_nobody() {
    let world = World {
        events: vec![event(1, &"x".repeat(10_000))],
        endless: true,
        ..World::default()
    };
    let page = Served::new(None, world).await;
    let slow = [page.watch(&[]).await, page.watch(&[]).await];
    for _ in 0..20 {
        assert_eq!(page.get("/api/state", &[]).await.status(), 200);
    }
    page.stop.cancel();
    let ended = timeout(PATIENCE, page.serving).await.unwrap().unwrap();
    assert_eq!(ended, Ok(()));
    drop(slow);
}

#[tokio::test]
async fn streams_end_with_the_daemon() {
    let world = World {
        events: vec![event(1, "")],
        ..World::default()
    };
    let page = Served::new(None, world).await;
    let mut stream = page.watch(&[]).await;
    until(&mut stream, "id: 1").await;
    page.stop.cancel();
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the stream goes on");
    timeout(PATIENCE, page.serving)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}
