//! The connection to Redis, on real servers of every kind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use circuit::redis::{Event, Failure, Script, Store, Subscription, Url, Value, cmd, pipe};
use circuit_testing::{Ends, PATIENCE, RedisServer, certificates, free_ports, wait_until};

const CHANNEL: &str = "circuit:{fleet}:test";
const KEY: &str = "circuit:{fleet}:count";

async fn open(url: &str) -> Store {
    let store = Store::open(&Url::parse(url).unwrap()).unwrap();
    store.wait_up(PATIENCE).await.unwrap();
    store
}

async fn next(subscription: &mut Subscription) -> Event {
    let event = tokio::time::timeout(PATIENCE, subscription.next());
    event.await.expect("an event in time").unwrap()
}

async fn say(store: &Store, text: &str) {
    let mut publish = cmd("PUBLISH");
    publish.arg(CHANNEL).arg(text);
    store.query(&publish).await.unwrap();
}

fn said(text: &str) -> Event {
    Event::Message {
        channel: CHANNEL.to_owned(),
        payload: text.as_bytes().to_vec(),
    }
}

async fn count(store: &Store) -> Result<Value, Failure> {
    let script = Script::new("return redis.call('INCR', KEYS[1])");
    store.script(&script, &[KEY], &[]).await
}

/// Everything that the registry asks of a connection.
async fn works(url: &str) -> Store {
    let store = open(url).await;
    let mut subscription = store.subscribe(&[CHANNEL], &[]);
    assert_eq!(next(&mut subscription).await, Event::Resumed, "{url}");
    for expected in 1..=2 {
        assert_eq!(count(&store).await.unwrap(), Value::Int(expected), "{url}");
    }
    let mut both = pipe();
    both.cmd("GET").arg(KEY).cmd("EXISTS").arg(KEY);
    let answers = store.pipeline(&both).await.unwrap();
    assert_eq!(answers.len(), 2, "{url}");
    assert_eq!(answers[1], Value::Int(1), "{url}");
    say(&store, "hello").await;
    assert_eq!(next(&mut subscription).await, said("hello"), "{url}");
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_unix_socket() {
    let server = RedisServer::start();
    works(&server.url()).await;
    works(&format!("{}?db=5", server.url())).await;
    assert_eq!(server.cli(&["-n", "5", "GET", KEY]), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey() {
    let server = RedisServer::valkey();
    assert!(server.cli(&["INFO", "server"]).contains("valkey_version"));
    works(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_tcp_with_a_database_and_a_user() {
    let [port] = free_ports();
    let port = port.to_string();
    let server = RedisServer::start_with(&["--bind", "127.0.0.1", "--port", &port]);
    works(&format!("redis://127.0.0.1:{port}/3")).await;
    assert_eq!(server.cli(&["-n", "3", "GET", KEY]), "2");
    // What the manual says a user needs, and no more.
    server.cli(&[
        "ACL",
        "SETUSER",
        "circuit",
        "on",
        ">p@ss/word",
        "~circuit:*",
        "~nodes:*",
        "&circuit*",
        "+@all",
    ]);
    works(&format!("redis://circuit:p%40ss%2Fword@127.0.0.1:{port}/4")).await;
    for login in ["circuit:wrong", "nobody:p%40ss%2Fword"] {
        let url = Url::parse(&format!("redis://{login}@127.0.0.1:{port}")).unwrap();
        let store = Store::open(&url).unwrap();
        let refused = store.wait_up(PATIENCE).await.unwrap_err();
        assert!(matches!(refused, Failure::Refused(_)), "{refused:?}");
        assert!(
            refused.to_string().contains("the user or the password"),
            "{refused}"
        );
        assert!(
            !format!("{refused:?} {url:?} {url}").contains("p@ss"),
            "{url:?}"
        );
    }
    server.cli(&["ACL", "SETUSER", "default", "off"]);
    let store = Store::open(&Url::parse(&format!("redis://127.0.0.1:{port}")).unwrap()).unwrap();
    let refused = store.wait_up(PATIENCE).await.unwrap_err();
    assert!(matches!(refused, Failure::Refused(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_tls_with_an_authority_and_a_certificate_of_its_own() {
    let [port] = free_ports();
    let files = tempfile::tempdir().unwrap();
    certificates(files.path(), "localhost");
    let file = |name: &str| files.path().join(name).display().to_string();
    let _server = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--tls-auth-clients",
        "yes",
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
    ]);
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    works(&format!(
        "rediss://localhost:{port}/?ca={ca}&cert={cert}&key={key}"
    ))
    .await;
    // Without the authority, without a certificate, and with a broken one.
    for query in [format!("cert={cert}&key={key}"), format!("ca={ca}")] {
        let url = Url::parse(&format!("rediss://localhost:{port}/?{query}")).unwrap();
        let store = Store::open(&url).unwrap();
        let failure = store.wait_up(Duration::from_secs(2)).await.unwrap_err();
        assert!(!store.is_up(), "{query}: {failure}");
    }
    let broken = Url::parse(&format!(
        "rediss://localhost:{port}/?ca={}",
        file("missing")
    ))
    .unwrap();
    let refused = Store::open(&broken).err().unwrap().to_string();
    assert!(refused.contains("missing: no such file"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_sentinels_through_a_failover() {
    let [one, two, sentinel] = free_ports::<3>().map(|port| port.to_string());
    let mut master = RedisServer::start_with(&["--bind", "127.0.0.1", "--port", &one]);
    let replica = RedisServer::start_with(&[
        "--bind",
        "127.0.0.1",
        "--port",
        &two,
        "--replicaof",
        "127.0.0.1",
        &one,
        "--repl-diskless-sync-delay",
        "0",
    ]);
    wait_until("the replica follows", PATIENCE, || {
        replica
            .cli(&["INFO", "replication"])
            .contains("master_link_status:up")
    });
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("sentinel.conf");
    let lines = format!(
        "port {sentinel}\nbind 127.0.0.1\ndir {}\nsentinel monitor circuit 127.0.0.1 {one} 1\n\
         sentinel down-after-milliseconds circuit 500\nsentinel failover-timeout circuit 2000\n",
        folder.path().display()
    );
    fs::write(&configuration, lines).unwrap();
    let _sentinel = Ends(
        Command::new("redis-server")
            .arg(&configuration)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let store = works(&format!("redis+sentinel://127.0.0.1:{sentinel}/circuit")).await;
    // One who asks is cut off when a server's part changes.
    let answer = |port: &str, command: &[&str]| {
        let asked = Command::new("redis-cli")
            .args(["-p", port])
            .args(command)
            .output()
            .unwrap();
        String::from_utf8_lossy(&asked.stdout).into_owned()
    };
    // A sentinel looks at its master's replicas every ten seconds.
    let known = || answer(&sentinel, &["SENTINEL", "REPLICAS", "circuit"]).contains(&two);
    wait_until("the sentinel knows the replica", PATIENCE, known);
    let mut subscription = store.subscribe(&[CHANNEL], &[]);
    assert_eq!(next(&mut subscription).await, Event::Resumed);
    master.kill();
    wait_until("the replica is the master", PATIENCE, || {
        answer(&two, &["ROLE"]).starts_with("master")
    });
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while count(&store).await != Ok(Value::Int(3)) {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", store.link());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(next(&mut subscription).await, Event::Resumed);
    say(&store, "again").await;
    assert_eq!(next(&mut subscription).await, said("again"));
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_redis_cluster() {
    let ports = free_ports::<3>().map(|port| port.to_string());
    let nodes = ports.clone().map(|port| {
        RedisServer::start_with(&[
            "--bind",
            "127.0.0.1",
            "--port",
            &port,
            "--cluster-enabled",
            "yes",
        ])
    });
    let mut create = Command::new("redis-cli");
    create.args(["--cluster", "create"]);
    create.args(ports.iter().map(|port| format!("127.0.0.1:{port}")));
    let created = create.arg("--cluster-yes").output().unwrap();
    assert!(created.status.success(), "{created:?}");
    for node in &nodes {
        wait_until("the cluster is ready", PATIENCE, || {
            node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        });
    }
    let [a, b, _] = &ports;
    works(&format!("redis+cluster://127.0.0.1:{a},127.0.0.1:{b}")).await;
}

/// Whether everything is refused, also a PING, as what there is cannot be saved.
fn cannot_save(server: &RedisServer) -> bool {
    server.cli(&["PING"]).contains("MISCONF")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_disk_is_full_is_only_away() {
    let server = RedisServer::start();
    server.cli(&["CONFIG", "SET", "save", "3600 1"]);
    let connected = open(&server.url()).await;
    let generation = connected.link().borrow().generation;
    // In the way of its file.
    let folder = server.cli(&["CONFIG", "GET", "dir"]);
    let file = Path::new(folder.lines().last().unwrap()).join("dump.rdb");
    fs::create_dir(&file).unwrap();
    server.cli(&["SET", "circuit:x", "1"]);
    server.cli(&["BGSAVE"]);
    wait_until("nothing can be saved", PATIENCE, || cannot_save(&server));
    let failure = count(&connected).await.unwrap_err();
    assert!(failure.is_unavailable(), "{failure:?}");
    // Another connection would not help.
    assert!(connected.is_up());
    let store = Store::open(&Url::parse(&server.url()).unwrap()).unwrap();
    let away = store.wait_up(Duration::from_secs(1)).await.unwrap_err();
    assert!(away.is_unavailable(), "{away:?}");
    assert!(away.to_string().contains("MISCONF"), "{away}");
    fs::remove_dir(&file).unwrap();
    server.cli(&["BGSAVE"]);
    store.wait_up(PATIENCE).await.unwrap();
    assert_eq!(count(&store).await, Ok(Value::Int(1)));
    assert_eq!(count(&connected).await, Ok(Value::Int(2)));
    assert_eq!(connected.link().borrow().generation, generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_without_replicas_is_not_clung_to() {
    let server = RedisServer::start();
    let store = open(&server.url()).await;
    let generation = || store.link().borrow().generation;
    let before = generation();
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let failure = count(&store).await.unwrap_err();
    assert!(failure.is_unavailable(), "{failure:?}");
    // Sentinels may know of another one by now.
    wait_until("it is asked for anew", PATIENCE, || generation() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_there_is_not_is_refused() {
    let many = RedisServer::start();
    // A node of a Redis Cluster has one.
    let node = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    for (server, database) in [(many, 99), (node, 1)] {
        let url = format!("{}?db={database}", server.url());
        let url = Url::parse(&url).unwrap();
        let refused = Store::open(&url).unwrap().wait_up(PATIENCE).await;
        assert!(matches!(refused, Err(Failure::Refused(_))), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_back_by_itself() {
    let mut server = RedisServer::start();
    let store = works(&server.url()).await;
    let mut subscription = store.subscribe(&[CHANNEL], &[]);
    assert_eq!(next(&mut subscription).await, Event::Resumed);
    let before = store.link().borrow().generation;
    server.kill();
    // Noticed by whoever asks first.
    while count(&store).await.is_ok() {}
    assert!(!store.is_up());
    let asked = tokio::time::timeout(Duration::from_secs(1), count(&store)).await;
    let failure = asked.expect("nobody waits for it").unwrap_err();
    assert!(failure.is_unavailable(), "{failure:?}");
    server.come_back();
    store.wait_up(PATIENCE).await.unwrap();
    assert!(store.link().borrow().generation > before);
    // The script is new to this server.
    assert_eq!(count(&store).await.unwrap(), Value::Int(1));
    assert_eq!(next(&mut subscription).await, Event::Resumed);
    say(&store, "back").await;
    assert_eq!(next(&mut subscription).await, said("back"));
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_refuses_what_is_asked_is_not_run_after() {
    let log = Log::default();
    let writer = log.clone();
    // Of all tests of this process: a log of one thread may miss what another thread
    // came by first.
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let server = RedisServer::start_with(&["--replicaof", "127.0.0.1", "1"]);
    let store = open(&server.url()).await;
    let mut subscription = store.subscribe(&[CHANNEL], &[]);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        assert!(count(&store).await.unwrap_err().is_unavailable());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let told = server.cli(&["INFO", "stats"]);
    let told = told.lines().find_map(|line| {
        let count = line.strip_prefix("total_connections_received:")?;
        count.trim().parse::<u32>().ok()
    });
    // Each time one for commands and one that listens.
    assert!(told.unwrap() < 30, "{told:?}");
    let lines = || {
        let all = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let own = all.lines().filter(|line| line.contains(&server.url()));
        own.map(|line| format!("{line}\n")).collect::<String>()
    };
    let connected = || lines().matches("connected to redis").count();
    assert!((1..10).contains(&lines().lines().count()), "{}", lines());
    assert!(lines().contains("read only replica"), "{}", lines());
    assert_eq!(connected(), 1, "{}", lines());
    // It is the master now.
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    let deadline = Instant::now() + PATIENCE;
    while count(&store).await.is_err() || connected() < 2 {
        assert!(Instant::now() < deadline, "{:?}", store.link());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(next(&mut subscription).await, Event::Resumed);
}
