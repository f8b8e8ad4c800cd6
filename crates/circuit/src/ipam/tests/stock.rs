//! Addresses that are taken before they are needed.

use super::*;

/// Counts what is asked for.
struct Counting {
    client: Client,
    takes: AtomicUsize,
}

#[async_trait]
impl Scripts for Arc<Counting> {
    async fn run(&self, arguments: &[String]) -> Result<Value> {
        let takes = usize::from(arguments[0] == "take");
        self.takes.fetch_add(takes, Ordering::Relaxed);
        self.client.run(arguments).await
    }
}

#[tokio::test]
async fn a_pool_that_is_used_up_is_not_searched_all_the_time() {
    let redis = Redis::start();
    let client = redis.client();
    client.up().await;
    let counting = Arc::new(Counting {
        client,
        takes: AtomicUsize::new(0),
    });
    let ledger = Arc::new(Shared::new(Arc::clone(&counting), SLOW));
    let (dir, pool) = (tempfile::tempdir().unwrap(), set(2, 5));
    let keeper = keeper(ledger, &Arc::default(), dir.path(), "node-1");
    keeper.call().await.unwrap();
    for container in ["c1", "c2", "c3", "c4"] {
        one(add(&keeper, container, &pool, None).await);
    }
    let before = counting.takes.load(Ordering::Relaxed);
    for _ in 0..10 {
        keeper.stock().await.unwrap();
    }
    assert_eq!(counting.takes.load(Ordering::Relaxed), before + 1);
    // It is when somebody needs one.
    del(&keeper, "c1").await;
    let freed = [one(add(&keeper, "c5", &pool, None).await)];
    let none = text(add(&keeper, "c6", &pool, None).await);
    assert!(none.contains("no address of pool lan is left"), "{none}");
    // One that was found ends that there is nothing.
    del(&keeper, "c5").await;
    let entry = circuit_core::ipam::Entry::Drop {
        addresses: freed.to_vec(),
    };
    keeper.agent().apply("lan", &entry);
    let back = keeper.ledger.give_back("id-node-1", "lan", &freed, false);
    back.await.unwrap();
    assert_eq!(one(add(&keeper, "c6", &pool, None).await), freed[0]);
    let before = counting.takes.load(Ordering::Relaxed);
    keeper.stock().await.unwrap();
    assert_eq!(counting.takes.load(Ordering::Relaxed), before + 1);
}
