#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use circuit_core::ErrorKind;
use circuit_testing::RedisServer;
use tokio::sync::mpsc;

use super::*;

/// A node's store, and what others changed on it.
struct Node {
    dir: tempfile::TempDir,
    store: Arc<SharedStore>,
    changed: mpsc::UnboundedReceiver<Change>,
    stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Node {
    async fn start(redis: &RedisServer) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), redis, true).await
    }

    async fn start_in(dir: tempfile::TempDir, redis: &RedisServer, up: bool) -> Self {
        let store = Self::open(redis, dir.path(), up).await;
        let (tell, changed) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (followed, stopped) = (Arc::clone(&store), stop.clone());
        tokio::spawn(async move {
            followed.follow(stopped, tell).await;
        });
        Self {
            dir,
            store,
            changed,
            stop,
        }
    }

    async fn open(redis: &RedisServer, dir: &Path, up: bool) -> Arc<SharedStore> {
        let url = redis::Url::parse(&redis.url()).unwrap();
        let handle = redis::Store::open(&url).unwrap();
        if up {
            handle.wait_up(circuit_testing::PATIENCE).await.unwrap();
        }
        Arc::new(SharedStore::open(handle, dir).unwrap())
    }

    /// The same node later.
    async fn restart(self, redis: &RedisServer, up: bool) -> Self {
        Self::start_in(self.fall_asleep(), redis, up).await
    }

    /// Stops the node, and returns what it keeps.
    fn fall_asleep(mut self) -> tempfile::TempDir {
        self.stop.cancel();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    async fn write(&self, name: &str, mtu: u32, replace: bool) -> Result<()> {
        let (store, name) = (Arc::clone(&self.store), name.to_owned());
        let turn = Turn::default();
        let work = move || store.write(&name, config(&name, mtu).as_bytes(), replace, &turn);
        let written = tokio::task::spawn_blocking(work).await.unwrap();
        written.map(|written| assert!(written))
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let (store, name) = (Arc::clone(&self.store), name.to_owned());
        let work = move || store.remove(&name);
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    /// Waits until these are its networks, with this MTU each.
    async fn comes_to(&self, wanted: &[(&str, u32)]) {
        let wanted: Vec<(String, Vec<u8>)> = wanted
            .iter()
            .map(|(name, mtu)| ((*name).to_owned(), config(name, *mtu).into_bytes()))
            .collect();
        let has = || {
            let networks = self.store.list().unwrap().networks.into_iter();
            networks.map(|n| (n.name, n.data)).collect::<Vec<_>>() == wanted
        };
        let deadline = tokio::time::Instant::now() + circuit_testing::PATIENCE;
        while !has() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{:?} does not become {wanted:?}",
                self.store.list().unwrap().networks
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn config(name: &str, mtu: u32) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{{"type":"bridge","mtu":{mtu}}}]}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_one_node_is_one_of_all() {
    let redis = RedisServer::start();
    let (a, mut b) = (Node::start(&redis).await, Node::start(&redis).await);
    a.write("web", 1400, false).await.unwrap();
    a.comes_to(&[("web", 1400)]).await;
    b.comes_to(&[("web", 1400)]).await;
    assert_eq!(b.changed.recv().await.unwrap(), Change::Came("web".into()));
    // Byte for byte, and the other way round.
    assert_eq!(
        b.store.get("web").unwrap().data,
        config("web", 1400).as_bytes()
    );
    b.write("web", 1500, true).await.unwrap();
    a.comes_to(&[("web", 1500)]).await;
    a.write("web", 1450, true).await.unwrap();
    b.comes_to(&[("web", 1450)]).await;
    let replaced = Change::Replaced(StoredNetwork {
        name: "web".into(),
        data: config("web", 1500).into_bytes(),
    });
    assert_eq!(b.changed.recv().await.unwrap(), replaced);
    let twice = a.write("web", 1600, false).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    a.remove("web").await.unwrap();
    b.comes_to(&[]).await;
    let gone = match b.changed.recv().await.unwrap() {
        Change::Went(gone) => gone,
        other => panic!("{other:?} is not a deletion"),
    };
    assert_eq!(gone.name, "web");
    assert_eq!(gone.data, config("web", 1450).as_bytes());
    let gone = b.remove("web").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_written_once_more_as_it_was_is_no_other() {
    let redis = RedisServer::start();
    let (a, dir) = (Node::start(&redis).await, tempfile::tempdir().unwrap());
    let b = Node::open(&redis, dir.path(), true).await;
    a.write("web", 1400, false).await.unwrap();
    assert_eq!(b.compare().await.unwrap(), [Change::Came("web".into())]);
    let before = b.get("web").unwrap();
    a.write("web", 1400, true).await.unwrap();
    assert_eq!(b.compare().await.unwrap(), []);
    a.write("web", 1500, true).await.unwrap();
    assert_eq!(b.compare().await.unwrap(), [Change::Replaced(before)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_node_starts_and_changes_nothing() {
    let mut redis = RedisServer::start();
    let node = Node::start(&redis).await;
    node.write("web", 1400, false).await.unwrap();
    redis.kill();
    let node = node.restart(&redis, false).await;
    node.comes_to(&[("web", 1400)]).await;
    let refused = node.write("db", 1400, false).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.message().contains("shared by redis"), "{refused}");
    let refused = node.remove("web").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    node.comes_to(&[("web", 1400)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_redis_is_filled_again_and_brings_nothing_back() {
    let mut redis = RedisServer::start();
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    for name in ["db", "old", "web"] {
        a.write(name, 1400, false).await.unwrap();
    }
    b.comes_to(&[("db", 1400), ("old", 1400), ("web", 1400)])
        .await;
    // This one does not hear of what comes now.
    let asleep = b.fall_asleep();
    a.remove("old").await.unwrap();
    a.write("web", 1500, true).await.unwrap();
    redis.kill();
    redis.come_back();
    let b = Node::start_in(asleep, &redis, true).await;
    let c = Node::start(&redis).await;
    for node in [&a, &b, &c] {
        node.comes_to(&[("db", 1400), ("web", 1500)]).await;
    }
    // New changes are newer than all that was heard of before.
    c.write("web", 1600, true).await.unwrap();
    for node in [&a, &b] {
        node.comes_to(&[("db", 1400), ("web", 1600)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_the_folder_becomes_the_fleets() {
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("web.json"), config("web", 1400)).unwrap();
    let _a = Node::start_in(dir, &redis, true).await;
    let b = Node::start(&redis).await;
    b.comes_to(&[("web", 1400)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_in_which_others_change_something_is_lost() {
    let redis = RedisServer::start();
    let a = Node::start(&redis).await;
    // This one hears of nothing by itself.
    let dir = tempfile::tempdir().unwrap();
    let b = Node::open(&redis, dir.path(), true).await;
    a.write("web", 1400, false).await.unwrap();
    let written = |turn: Turn, name: &'static str| {
        let store = Arc::clone(&b);
        let work = move || store.write(name, config(name, 1500).as_bytes(), false, &turn);
        async { tokio::task::spawn_blocking(work).await.unwrap() }
    };
    let turn = || b.turn().unwrap();
    assert!(!written(turn(), "db").await.unwrap());
    // By now it has looked.
    assert!(b.has("web"));
    let second = turn();
    assert!(written(turn(), "db").await.unwrap());
    assert!(!written(second, "late").await.unwrap());
    assert!(written(turn(), "late").await.unwrap());
    assert!(written(turn(), "later").await.unwrap());
    let taken = written(turn(), "web").await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    // Whoever follows is told yet.
    let told = b.compare().await.unwrap();
    assert_eq!(told, [Change::Came("web".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_at_once_are_looked_at_together() {
    let redis = RedisServer::start();
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    a.write("web", 1400, false).await.unwrap();
    b.comes_to(&[("web", 1400)]).await;
    let looks = || {
        let stats = redis.cli(&["INFO", "commandstats"]);
        let calls = stats.split("cmdstat_evalsha:calls=").nth(1).unwrap();
        calls.split(',').next().unwrap().parse::<u32>().unwrap()
    };
    let before = looks();
    let many = "for n = 1, 500 do redis.call('PUBLISH', 'circuit:{fleet}:networks', 'web') end";
    redis.cli(&["EVAL", many, "0"]);
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        let looks = looks() - before;
        assert!(looks < 100, "{looks}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(looks() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_in_redis_is_left_alone() {
    let redis = RedisServer::start();
    let node = Node::start(&redis).await;
    let hset = |name: &str, value: &str| {
        let mut command = redis::cmd("HSET");
        command.arg("circuit:{fleet}:networks").arg(name).arg(value);
        command
    };
    let good = config("hand", 1400);
    for (name, value) in [("../x", "{}"), ("web", "no json"), ("hand", &good)] {
        let set = hset(name, value);
        node.store.definitions.0.query(&set).await.unwrap();
    }
    node.store.compare().await.unwrap();
    node.comes_to(&[("hand", 1400)]).await;
    assert!(node.store.compare().await.unwrap().is_empty());
    // A name that holds nonsense can still be given to a network.
    node.write("web", 1400, true).await.unwrap();
    node.comes_to(&[("hand", 1400), ("web", 1400)]).await;
}
