//! Addresses that somebody who is away may use.

use circuit_core::ipam::Standing;

use super::*;

fn hello(node: &str) -> Hello {
    Hello {
        node: node.to_owned(),
        name: node.to_owned(),
        epoch: String::new(),
        count: 0,
        fresh: "a".into(),
    }
}

/// Has these be taken back from a node that is away.
async fn away(ledger: &Alone, addresses: &[IpAddr]) -> Standing {
    let gone = hello("gone");
    let standing = ledger.tick(&gone).await.unwrap().standing;
    for ip in addresses {
        ledger.exact(&gone, "lan", *ip).await.unwrap();
    }
    let back = ledger.give_back("gone", "lan", addresses, true).await;
    back.unwrap();
    standing
}

#[tokio::test]
async fn an_address_that_answers_keeps_no_other_from_being_given() {
    let dir = tempfile::tempdir().unwrap();
    let (wire, ledger) = (
        Arc::new(Lan::default()),
        Arc::new(Alone::new("a".into(), QUICK)),
    );
    let pool = set(2, 7);
    let addresses: Vec<IpAddr> = (2..=7).map(ip).collect();
    away(&ledger, &addresses).await;
    // Its containers live on, but for one.
    let live = addresses.iter().filter(|there| **there != ip(5));
    wire.0.lock().unwrap().extend(live);
    let keeper = keeper(Arc::clone(&ledger) as _, &wire, dir.path(), "node-1");
    assert_eq!(one(add(&keeper, "c1", &pool, None).await), ip(5));
    // The others are called for what they have, and the wire has its peace.
    let none = text(add(&keeper, "c2", &pool, None).await);
    assert!(none.contains("no address of pool lan is left"), "{none}");
    let tick = ledger.tick(&hello("other")).await.unwrap();
    assert_eq!(tick.wanted, ["lan"]);
    let asked = wire.1.load(Ordering::Relaxed);
    for _ in 0..3 {
        keeper.stock().await.unwrap();
    }
    assert_eq!(wire.1.load(Ordering::Relaxed), asked);
}

#[tokio::test]
async fn what_cannot_be_asked_for_just_now_stays_suspect() {
    let dir = tempfile::tempdir().unwrap();
    let (wire, ledger) = (
        Arc::new(Lan::default()),
        Arc::new(Alone::new("a".into(), QUICK)),
    );
    let pool = set(2, 5);
    away(&ledger, &[ip(2), ip(3)]).await;
    wire.0.lock().unwrap().insert(ip(2));
    let keeper = keeper(Arc::clone(&ledger) as _, &wire, dir.path(), "node-1");
    wire.2.store(true, Ordering::Relaxed);
    for container in ["c1", "c2"] {
        assert!(one(add(&keeper, container, &pool, None).await) > ip(3));
    }
    for wish in [Some(ip(2)), None, None] {
        let refused = text(add(&keeper, "c3", &pool, wish).await);
        assert!(
            refused.contains("cannot be asked: eth1 is down"),
            "{refused}"
        );
        keeper.stock().await.unwrap();
    }
    wire.2.store(false, Ordering::Relaxed);
    assert_eq!(one(add(&keeper, "c3", &pool, None).await), ip(3));
    let there = text(add(&keeper, "c4", &pool, Some(ip(2))).await);
    assert!(there.contains("answers on eth1"), "{there}");
}
