//! Addresses that somebody who is away may use.

use circuit_core::ipam::{Standing, Tick};

use super::*;

fn hello(node: &str) -> Hello {
    Hello {
        node: node.to_owned(),
        name: node.to_owned(),
        epoch: String::new(),
        count: 0,
        fresh: "a".into(),
        place: node.to_owned(),
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

#[tokio::test]
async fn an_address_that_was_taken_from_a_node_that_lives_is_asked_for_again() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (wire, pool) = (Arc::new(Lan::default()), set(2, 60));
    let ledger = Arc::new(Alone::new("a".into(), QUICK));
    let [away, other] = [0, 1].map(|n: usize| {
        let ledger = Arc::clone(&ledger) as _;
        keeper(ledger, &wire, dirs[n].path(), &format!("node-{n}"))
    });
    other.call().await.unwrap();
    for (last, freed_first) in [(9, true), (10, false)] {
        let container = format!("c{last}");
        away.call().await.unwrap();
        one(add(&away, &container, &pool, Some(ip(last))).await);
        let taken = [ip(last)];
        let back = ledger.give_back("id-node-0", "lan", &taken, true);
        back.await.unwrap();
        // Its host is down: nobody answers.
        one(add(&other, "c1", &pool, Some(ip(last))).await);
        if freed_first {
            del(&other, "c1").await;
        }
        // It is back, and has its container.
        away.call().await.unwrap();
        wire.0.lock().unwrap().insert(ip(last));
        other.call().await.unwrap();
        if !freed_first {
            del(&other, "c1").await;
        }
        let there = text(add(&other, "c2", &pool, Some(ip(last))).await);
        assert!(there.contains("answers on eth1"), "{there}");
        away.call().await.unwrap();
        let held = ledger.held_by("id-node-0").await.unwrap();
        assert!(held.contains(&("lan".into(), ip(last))), "{held:?}");
    }
}

/// Runs the script, but does not tell of what came of it this time.
struct Deaf {
    client: Client,
    now: AtomicBool,
}

#[async_trait]
impl Scripts for Arc<Deaf> {
    async fn run(&self, arguments: &[String]) -> Result<Value> {
        let value = self.client.run(arguments).await;
        let deaf = arguments[0] == "exact" && self.now.swap(false, Ordering::Relaxed);
        if deaf {
            return Err(Error::unavailable("the answer is lost"));
        }
        value
    }
}

#[tokio::test]
async fn an_address_whose_answer_was_lost_is_asked_for_on_the_wire() {
    let redis = Redis::start();
    let client = redis.client();
    client.up().await;
    let deaf = Arc::new(Deaf {
        client,
        now: AtomicBool::new(true),
    });
    let ledger = Arc::new(Shared::new(Arc::clone(&deaf), SLOW));
    let (dir, pool) = (tempfile::tempdir().unwrap(), set(2, 9));
    // A container of a node that is away has it.
    let gone = hello("gone");
    ledger.tick(&gone).await.unwrap();
    ledger.exact(&gone, "lan", ip(3)).await.unwrap_err();
    ledger
        .give_back("gone", "lan", &[ip(3)], true)
        .await
        .unwrap();
    let wire = Arc::new(Lan::default());
    wire.0.lock().unwrap().insert(ip(3));
    let keeper = keeper(ledger, &wire, dir.path(), "node-1");
    keeper.call().await.unwrap();
    deaf.now.store(true, Ordering::Relaxed);
    let lost = text(add(&keeper, "c1", &pool, Some(ip(3))).await);
    assert!(lost.contains("the answer is lost"), "{lost}");
    let there = text(add(&keeper, "c1", &pool, Some(ip(3))).await);
    assert!(there.contains("answers on eth1"), "{there}");
}

#[tokio::test]
async fn what_is_released_by_hand_is_not_given_while_somebody_has_it() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (wire, ledger) = (
        Arc::new(Lan::default()),
        Arc::new(Alone::new("a".into(), QUICK)),
    );
    let pool = set(2, 60);
    let node = |n: usize| {
        let ledger = Arc::clone(&ledger) as _;
        keeper(ledger, &wire, dirs[n].path(), &format!("node-{n}"))
    };
    let [first, other] = [0, 1].map(node);
    let used = one(add(&first, "c1", &pool, None).await);
    wire.0.lock().unwrap().insert(used);
    first.stock().await.unwrap();
    let stock = first.agent().pools()["lan"].holding.spare().next().unwrap();
    first.call().await.unwrap();
    other.call().await.unwrap();
    let of = |address| Release::Address {
        pool: None,
        address,
    };
    // It is killed before it has told what it gave.
    drop(first);
    for (address, why) in [(stock, "is in stock on node node-0"), (used, "is in stock")] {
        let refused = other.release(of(address), false).await.unwrap_err();
        assert!(refused.message().contains(why), "{refused}");
    }
    let first = node(0);
    first.call().await.unwrap();
    first.tell().await.unwrap();
    let refused = other.release(of(used), false).await.unwrap_err();
    let why = "is in use by c1 on node node-0";
    assert!(refused.message().contains(why), "{refused}");
    let freed = other.release(of(used), true).await.unwrap();
    assert_eq!(freed[0].address, used);
    let there = text(add(&other, "c2", &pool, Some(used)).await);
    assert!(there.contains("answers on eth1"), "{there}");
    // Who knows better says so twice.
    let refused = other.release(of(used), false).await.unwrap_err();
    assert!(refused.message().contains("was taken back"), "{refused}");
    other.release(of(used), true).await.unwrap();
    assert_eq!(one(add(&other, "c2", &pool, Some(used)).await), used);
    let all = Release::Node("node-0".into());
    let refused = other.release(all.clone(), false).await.unwrap_err();
    assert!(refused.message().contains("may still live"), "{refused}");
    other.release(all.clone(), true).await.unwrap();
    let none = other.release(all, true).await.unwrap_err();
    assert!(none.message().contains("holds no address"), "{none}");
}

#[tokio::test]
async fn a_clock_that_is_set_back_stops_nobody() {
    let redis = Redis::start();
    let client = redis.client();
    client.up().await;
    let ledger = Shared::new(client.clone(), QUICK);
    ledger.tick(&hello("a")).await.unwrap();
    let mut long_ago = cmd("HSET");
    long_ago
        .arg("circuit:{fleet}:ipam:state")
        .arg("born")
        .arg("1000");
    client.store.query(&long_ago).await.unwrap();
    let age = ledger.tick(&hello("a")).await.unwrap().standing.age;
    assert!(age > 1_000_000_000_000, "{age}");
    let ahead = "9007199254740000";
    let mut state = cmd("HSET");
    state.arg("circuit:{fleet}:ipam:state");
    for field in ["born", "settles"] {
        state.arg(field).arg(ahead);
    }
    client.store.query(&state).await.unwrap();
    let mut wanted = cmd("ZADD");
    wanted
        .arg("circuit:{fleet}:ipam:wanted")
        .arg(ahead)
        .arg("lan");
    client.store.query(&wanted).await.unwrap();
    let mut knows_another = hello("b");
    knows_another.epoch = "another".into();
    let tick = ledger.tick(&knows_another).await.unwrap();
    assert_eq!(tick.standing.age, 0);
    let settling = tick.standing.settling;
    assert!((1..=QUICK.lease).contains(&settling), "{settling}");
    assert_eq!(tick.wanted, [""; 0]);
}

#[tokio::test]
async fn a_clock_that_is_set_back_keeps_no_address_for_a_dead_node() {
    let redis = Redis::start();
    let client = redis.client();
    client.up().await;
    let ledger = Shared::new(client.clone(), Timing { moment: 0, ..QUICK });
    ledger.tick(&hello("dead")).await.unwrap();
    ledger.exact(&hello("dead"), "lan", ip(3)).await.unwrap();
    let mut ahead = pipe();
    let (key, time) = ("circuit:{fleet}:ipam", "9007199254740000");
    let (state, claims) = (format!("{key}:state"), format!("{key}:claims"));
    ahead.cmd("HSET").arg(state).arg("heard").arg(time);
    ahead.cmd("ZADD").arg(claims).arg(time).arg("dead");
    client.store.pipeline(&ahead).await.unwrap();
    ledger.tick(&hello("other")).await.unwrap();
    let claim = ledger.list(None).await.unwrap()[0].claim;
    assert!((1..=QUICK.claim()).contains(&claim), "{claim}");
}

/// A Redis may evict keys, and people delete some.
#[tokio::test]
async fn a_pool_whose_owners_are_lost_gives_nothing_before_all_have_claimed_theirs() {
    let redis = Redis::start();
    let client = redis.client();
    client.up().await;
    let store = redis.store();
    store.wait_up(Duration::from_secs(5)).await.unwrap();
    let shared = Shared::new(client, Timing { moment: 0, ..QUICK });
    let mut one = hello("one");
    let pool = set(2, 9);
    let wish = Wish {
        pool: "lan",
        set: &pool,
        want: 3,
        abandoned: 0,
    };
    // The ways on which it may first be seen.
    for way in ["tick", "take", "exact", "claim", "give_back", "release"] {
        one.fresh = format!("one-{way}");
        one.epoch = shared.tick(&one).await.unwrap().standing.epoch;
        shared.exact(&one, "lan", ip(2)).await.unwrap();
        let mut two = Hello {
            epoch: one.epoch.clone(),
            fresh: format!("two-{way}"),
            ..hello("two")
        };
        shared.tick(&two).await.unwrap();
        let lost = cmd("DEL").arg("circuit:{fleet}:ipam:owners:lan").clone();
        store.query(&lost).await.unwrap();
        match way {
            "tick" => drop(shared.tick(&two).await.unwrap()),
            "exact" => {
                let (standing, exact) = shared.exact(&two, "lan", ip(2)).await.unwrap();
                assert_eq!(exact, Exact::Settling);
                assert!(standing.settling > 0);
            }
            "claim" => drop(shared.claim("two", "lan", &[ip(7)]).await.unwrap()),
            "give_back" => {
                let back = [ip(7)];
                shared.give_back("two", "lan", &back, false).await.unwrap();
            }
            "release" => drop(shared.release("two", "lan", &[ip(7)]).await.unwrap()),
            _ => {}
        }
        let taken = shared.take(&two, &wish).await.unwrap();
        assert!(taken.addresses.is_empty(), "{way}");
        assert!(taken.standing.settling > 0, "{way}");
        assert_ne!(taken.standing.epoch, one.epoch, "{way}");
        assert!(taken.standing.suspect, "{way}");
        // It is one new memory, not another with each call.
        two.epoch.clone_from(&taken.standing.epoch);
        let held = shared.claim("one", "lan", &[ip(2)]).await.unwrap();
        assert!(held.is_empty(), "{way}");
        let next = shared.tick(&two).await.unwrap().standing;
        assert_eq!(next.epoch, two.epoch, "{way}");
        one.epoch.clone_from(&next.epoch);
    }
}

/// A ledger that lost its memory so many milliseconds ago.
fn lost(age: u64) -> Standing {
    Standing {
        epoch: "a".into(),
        suspect: true,
        age,
        ..Standing::default()
    }
}

/// A node that holds what was given before the ledger lost its memory.
async fn suspecting(dir: &Path) -> Arc<Keeper> {
    let ledger = Arc::new(Alone::new("a".into(), QUICK));
    let keeper = keeper(ledger, &Arc::default(), dir, "node-1");
    let entry = circuit_core::ipam::Entry::Hold {
        addresses: vec![ip(2), ip(3)],
        suspect: true,
    };
    keeper.agent().apply("lan", &entry);
    keeper.call().await.unwrap();
    keeper
}

/// Asks for an address where the wire cannot be asked.
async fn unasked(keeper: &Keeper) -> Reply {
    let wanted = Wanted {
        link: None,
        unasked: true,
        ..wanted("c1", &set(2, 3), None)
    };
    keeper.answer(Question::Add(wanted)).await
}

#[tokio::test]
async fn where_the_wire_cannot_be_asked_it_is_told_when_addresses_are_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = suspecting(dir.path()).await;
    let age = QUICK.trusted() - 20_000;
    keeper.agent().learn(&lost(age), crate::ipam::clock::now());
    let refused = text(unasked(&keeper).await);
    assert!(refused.contains("redis was started anew"), "{refused}");
    assert!(refused.contains("are given in "), "{refused}");
    // Another daemon of later.
    let dir = tempfile::tempdir().unwrap();
    let keeper = suspecting(dir.path()).await;
    let long_ago = lost(QUICK.trusted());
    keeper.agent().learn(&long_ago, crate::ipam::clock::now());
    // Once it may be a copy, the other may give the same for as long.
    let moved = Tick {
        standing: long_ago,
        known: true,
        held: 2,
        moved: true,
        ..Tick::default()
    };
    keeper.agent().heard(&moved, crate::ipam::clock::now());
    let refused = text(unasked(&keeper).await);
    assert!(refused.contains("a copy of this host"), "{refused}");
    assert!(refused.contains("are given in "), "{refused}");
    let long_ago = crate::ipam::clock::now() - QUICK.trusted();
    keeper.agent().heard(&moved, long_ago);
    one(unasked(&keeper).await);
}
