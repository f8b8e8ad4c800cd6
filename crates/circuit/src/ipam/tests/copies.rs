//! Two hosts with one node id.

use super::*;

/// A node of this id whose time never runs out, on a folder of its own.
async fn node(redis: &Redis, wire: &Arc<Lan>, dir: &Path, name: &str) -> Arc<Keeper> {
    node_with(redis, wire, dir, name, SLOW).await
}

async fn node_with(
    redis: &Redis,
    wire: &Arc<Lan>,
    dir: &Path,
    name: &str,
    timing: Timing,
) -> Arc<Keeper> {
    let client = redis.client();
    client.up().await;
    let parts = Parts {
        ledger: Arc::new(Shared::new(client, timing)),
        wire: Arc::clone(wire) as _,
        state_dir: dir.to_owned(),
        node: "id".into(),
        name: name.into(),
        timing,
    };
    Arc::new(Keeper::open(parts).unwrap())
}

#[tokio::test]
async fn a_copy_of_a_host_gives_nothing_and_says_what_to_do() {
    let redis = Redis::start();
    let (dir, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (wire, pool) = (Arc::new(Lan::default()), set(2, 200));
    let own = node(&redis, &wire, dir.path(), "own").await;
    own.call().await.unwrap();
    assert_eq!(one(add(&own, "c1", &pool, None).await), ip(2));
    own.stock().await.unwrap();
    own.call().await.unwrap();
    let journal = "ipam.journal";
    std::fs::copy(dir.path().join(journal), copied.path().join(journal)).unwrap();
    let copy = node(&redis, &wire, copied.path(), "copy").await;
    // Neither out of the stock that was copied, nor a new one.
    let told = "host own has the same node-id";
    for wish in [None, Some(ip(3)), Some(ip(150))] {
        let refused = text(add(&copy, "c2", &pool, wish).await);
        assert!(refused.contains(told), "{refused}");
        assert!(refused.contains("remove node-id"), "{refused}");
    }
    let status = Question::Status {
        pool: "lan".into(),
        sets: vec![pool.clone()],
    };
    let status = text(copy.answer(status).await);
    assert!(status.contains(told), "{status}");
    assert!(copy.stock().await.is_err());
    copy.tell().await.unwrap();
    // The other one goes on, also when it is started again at once.
    assert_eq!(one(add(&own, "c2", &pool, None).await), ip(3));
    drop(own);
    let own = node(&redis, &wire, dir.path(), "own").await;
    assert_eq!(one(add(&own, "c3", &pool, None).await), ip(4));
    own.call().await.unwrap();
    own.tell().await.unwrap();
    let listed = own.list(Some("lan")).await.unwrap();
    let used = listed.iter().filter(|row| row.state == AddressState::Used);
    assert_eq!(used.count(), 3);
}

/// Half a minute at most until something can be done.
async fn soon<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + circuit_testing::PATIENCE;
    loop {
        if let Some(done) = attempt().await {
            return done;
        }
        assert!(tokio::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_move_is_known_to_the_next_daemon_too_and_comes_to_its_end() {
    const TIMING: Timing = Timing {
        lease: 1_000,
        grace: 60_000,
        moment: 0,
    };
    let redis = Redis::start();
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (wire, pool) = (Arc::default(), set(2, 5));
    let start =
        async |dir: &tempfile::TempDir| node_with(&redis, &wire, dir.path(), "host", TIMING).await;
    let first = start(&before).await;
    for container in ["c1", "c2", "c3", "c4"] {
        one(add(&first, container, &pool, None).await);
    }
    del(&first, "c2").await;
    first.call().await.unwrap();
    drop(first);
    let journal = "ipam.journal";
    std::fs::copy(before.path().join(journal), after.path().join(journal)).unwrap();
    let moved = start(&after).await;
    // The answer that says so is lost.
    let hello = moved.agent().hello.clone();
    let lost = soon(async || {
        let tick = moved.ledger.tick(&hello).await.unwrap();
        tick.standing.taken.is_none().then_some(tick)
    });
    assert!(lost.await.moved);
    let is_suspect = |keeper: &Keeper| keeper.agent().pools()["lan"].holding.is_suspect(ip(3));
    // Nor by a daemon that ends before it has heard anything.
    drop(moved);
    let moved = start(&after).await;
    assert!(!is_suspect(&moved));
    moved.call().await.unwrap();
    assert!(is_suspect(&moved));
    drop(moved);
    let next = start(&after).await;
    next.call().await.unwrap();
    let ask = async || {
        let wanted = Wanted {
            link: None,
            unasked: true,
            ..wanted("c2", &pool, None)
        };
        next.answer(Question::Add(wanted)).await
    };
    let refused = text(ask().await);
    assert!(refused.contains("a copy of this host"), "{refused}");
    // As if that time was over.
    let mut over = next.agent().moved().clone();
    over.until = crate::ipam::clock::now();
    next.agent().set_moved(over);
    assert_eq!(one(ask().await), ip(3));
    next.call().await.unwrap();
    assert!(!is_suspect(&next));
    drop(next);
    let last = start(&after).await;
    assert!(!is_suspect(&last));
}
