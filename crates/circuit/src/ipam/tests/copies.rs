//! Two hosts with one node id.

use super::*;

/// A node of this id whose time never runs out, on a folder of its own.
async fn node(redis: &Redis, wire: &Arc<Lan>, dir: &Path, name: &str) -> Arc<Keeper> {
    let client = redis.client();
    client.up().await;
    let parts = Parts {
        ledger: Arc::new(Shared::new(client, SLOW)),
        wire: Arc::clone(wire) as _,
        state_dir: dir.to_owned(),
        node: "id".into(),
        name: name.into(),
        timing: SLOW,
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
