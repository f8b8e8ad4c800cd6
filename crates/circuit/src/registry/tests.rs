//! The registry on a real Redis, without daemons.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use circuit_testing::RedisServer;

use super::*;

/// A node that has no more than these.
struct Bare {
    name: String,
    containers: Vec<Arc<Record>>,
    changes: watch::Sender<u64>,
}

impl Local for Bare {
    fn containers(&self) -> Vec<Arc<Record>> {
        self.containers.clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: self.name.clone(),
            ..NodeInfo::default()
        }
    }
}

fn bare(name: &str) -> Arc<dyn Local> {
    with(name, &[])
}

/// A node with these containers.
fn with(name: &str, containers: &[&str]) -> Arc<dyn Local> {
    let record = |container: &&str| {
        Arc::new(Record {
            container: Arc::from(*container),
            node: Arc::from(name),
            attached: Box::default(),
        })
    };
    Arc::new(Bare {
        name: name.to_owned(),
        containers: containers.iter().map(record).collect(),
        changes: watch::Sender::default(),
    })
}

/// A node with such a lease.
fn settings(name: &str, lease: Duration) -> Settings {
    Settings {
        name: name.to_owned(),
        id: name.to_owned(),
        life: 1,
        heartbeat: Duration::from_secs(10),
        lease,
        leave_on_stop: true,
    }
}

const LONG: Duration = Duration::from_secs(3600);

async fn open(url: &str) -> Store {
    let store = Store::open(&crate::redis::Url::parse(url).unwrap()).unwrap();
    store.wait_up(circuit_testing::PATIENCE).await.unwrap();
    store
}

/// So many nodes that are heard of.
async fn beacons(store: &Store, count: usize) -> Vec<Beacon> {
    let mut beacons = Vec::new();
    for number in 0..count {
        let name = format!("n{number:03}");
        let (local, settings) = (bare(&name), settings(&name, LONG));
        let mut beacon = Beacon::new(store.clone(), settings, local);
        beacon.beat().await.unwrap();
        beacons.push(beacon);
    }
    beacons
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_renew_their_leases_are_listed_all_the_same() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    // Several pages.
    let mut nodes = beacons(&store, 230).await;
    let stop = CancellationToken::new();
    let renewing = tokio::spawn({
        let stop = stop.clone();
        async move {
            while !stop.is_cancelled() {
                for node in &mut nodes {
                    node.beat().await.unwrap();
                }
            }
        }
    });
    for _ in 0..100 {
        let listed = scripts::list(&store).await.unwrap();
        assert_eq!(listed.len(), 230);
    }
    stop.cancel();
    renewing.await.unwrap();
}

#[tokio::test]
async fn leases_that_end_together_are_listed_once_each() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    drop(beacons(&store, 130).await);
    for number in 0..130 {
        let name = format!("n{number:03}");
        let ends = format!("{}", 1u64 << 50);
        redis.cli(&["ZADD", "circuit:{fleet}:leases", &ends, &name]);
    }
    let listed = scripts::list(&store).await.unwrap();
    let names: BTreeSet<_> = listed.iter().map(|(name, ..)| name.clone()).collect();
    assert_eq!((listed.len(), names.len()), (130, 130));
}

#[tokio::test]
async fn a_lease_that_makes_no_sense_ends_no_list() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    drop(beacons(&store, 130).await);
    for number in 0..50 {
        let name = format!("x{number}");
        redis.cli(&["ZADD", "circuit:{fleet}:leases", "0.5", &name]);
    }
    redis.cli(&["ZADD", "circuit:{fleet}:leases", "inf", "y"]);
    assert_eq!(scripts::list(&store).await.unwrap().len(), 130);
}

/// What a node with the follower hears at its next tick.
async fn tick(store: &Store, follower: &Follower, own: &scripts::Identity) -> scripts::Tick {
    let asked = Asked {
        word: b"",
        lease: millis(LONG),
        beat: true,
        since: follower.since(),
        from: follower.from(),
    };
    scripts::tick(store, own, &asked).await.unwrap()
}

#[tokio::test]
async fn the_list_of_all_nodes_passes_nobody_over() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    let nodes = beacons(&store, 120).await;
    let settings = settings("own", LONG);
    let own = Publisher::new(&settings);
    let mut follower = Follower::new(&settings);
    let mut pages = 0;
    loop {
        let tick = tick(&store, &follower, own.identity()).await;
        follower.take(&store, &tick).await.unwrap();
        assert_eq!(follower.snapshot().nodes().len(), 120);
        pages += 1;
        if follower.from() == 0 {
            break;
        }
        // Those at the beginning of the list go to its end.
        for node in &nodes[..30] {
            let own = node.publisher.identity();
            scripts::publish(&store, own, true, &[], &[]).await.unwrap();
        }
    }
    assert!(pages > 2, "{pages}");
    assert_eq!(follower.unlisted(), 0);
}

#[tokio::test]
async fn a_node_that_redis_has_is_not_dropped_for_a_list_without_it() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    let nodes = beacons(&store, 2).await;
    let settings = settings("own", Duration::ZERO);
    let own = Publisher::new(&settings);
    let mut follower = Follower::new(&settings);
    let mut tick = tick(&store, &follower, own.identity()).await;
    follower.take(&store, &tick).await.unwrap();
    tick.changed.clear();
    tick.some.clear();
    follower.take(&store, &tick).await.unwrap();
    assert_eq!(follower.snapshot().nodes().len(), 2);
    // One that it has not is.
    scripts::leave(&store, nodes[0].publisher.identity())
        .await
        .unwrap();
    follower.take(&store, &tick).await.unwrap();
    assert_eq!(follower.snapshot().nodes().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_in_another_database_takes_nobody_away() {
    let redis = RedisServer::start();
    let (one, other) = (redis.url(), format!("{}?db=5", redis.url()));
    let (one, other) = (open(&one).await, open(&other).await);
    let (ours, theirs) = (beacons(&one, 2).await, beacons(&other, 1).await);
    let settings = settings("own", LONG);
    let own = Publisher::new(&settings);
    let mut follower = Follower::new(&settings);
    let tick = tick(&one, &follower, own.identity()).await;
    follower.take(&one, &tick).await.unwrap();
    let mut messages = one.subscribe(&[scripts::CHANNEL], &[]);
    assert_eq!(messages.next().await, Some(Event::Resumed));
    for (store, node, left) in [(&other, &theirs[0], 2), (&one, &ours[1], 1)] {
        let identity = node.publisher.identity();
        scripts::leave(store, identity).await.unwrap();
        let Some(Event::Message { payload, .. }) = messages.next().await else {
            unreachable!("the connection has not been lost");
        };
        follower.hear(&one, &payload).await.unwrap();
        assert_eq!(follower.snapshot().nodes().len(), left, "{identity:?}");
    }
}

#[tokio::test]
async fn what_redis_has_lost_of_a_node_is_published_again() {
    const RECORDS: &str = "circuit:{fleet}:records:own";
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    let local = with("own", &["a", "b"]);
    let mut own = Beacon::new(store.clone(), settings("own", LONG), local);
    let lost: [&[&str]; 4] = [
        &["DEL", RECORDS],
        &["HDEL", RECORDS, "a"],
        &["HSET", RECORDS, "another", ""],
        &["SET", RECORDS, "no hash"],
    ];
    for command in lost {
        own.beat().await.unwrap();
        redis.cli(command);
        own.beat().await.unwrap();
        let there = redis.cli(&["HKEYS", RECORDS]);
        let there: BTreeSet<&str> = there.lines().collect();
        assert_eq!(there, BTreeSet::from(["a", "b"]), "{command:?}");
    }
    // What is there is left alone.
    let revision = || redis.cli(&["GET", "circuit:{fleet}:revision"]);
    let before = revision();
    own.beat().await.unwrap();
    assert_eq!(revision(), before);
}

/// Redis' clock in milliseconds.
fn clock(redis: &RedisServer) -> u64 {
    let time = redis.cli(&["TIME"]);
    let (seconds, micros) = time.split_once('\n').unwrap();
    seconds.parse::<u64>().unwrap() * 1000 + micros.parse::<u64>().unwrap() / 1000
}

/// As when that time was now when anybody was heard of last, with what was left of the
/// leases then.
fn heard_at(redis: &RedisServer, at: u64, leases: &[(&str, u64)]) {
    redis.cli(&["SET", "circuit:{fleet}:heard", &at.to_string()]);
    for (node, left) in leases {
        let ends = (at + left).to_string();
        redis.cli(&["ZADD", "circuit:{fleet}:leases", &ends, node]);
    }
}

/// Who has a lease, and the seconds that are left of it.
async fn leases(store: &Store) -> Vec<(String, u64)> {
    let listed = scripts::list(store).await.unwrap();
    let listed = listed.into_iter();
    listed
        .map(|(node, left, _)| (node, left.div_ceil(1000)))
        .collect()
}

#[tokio::test]
async fn nobody_is_forgotten_for_a_time_in_which_nobody_could_be_heard() {
    const LEASE: Duration = Duration::from_secs(30);
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    drop(beacons(&store, 2).await);
    let mut own = Beacon::new(store.clone(), settings("own", LEASE), bare("own"));
    // Redis was away for a minute, and they are not there yet.
    let ends = [("n000", 20_000), ("n001", 3_600_000)];
    heard_at(&redis, clock(&redis) - 60_000, &ends);
    own.beat().await.unwrap();
    let left = [("n000", 30), ("n001", 3540), ("own", 30)];
    assert_eq!(
        leases(&store).await,
        left.map(|(node, left)| (node.to_owned(), left))
    );
    // By now one should be.
    heard_at(&redis, clock(&redis) - 900, &[("n000", 0)]);
    own.beat().await.unwrap();
    assert_eq!(leases(&store).await.len(), 2);
}

#[tokio::test]
async fn a_name_is_free_again_though_nobody_calls_but_who_wants_it() {
    const NAME: &str = "n000";
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    drop(beacons(&store, 1).await);
    // The host was set up anew, and is started now and then.
    let start = async |left: &[(&str, u64)]| {
        heard_at(&redis, clock(&redis) - 60_000, left);
        let settings = Settings {
            id: "another".into(),
            ..settings(NAME, Duration::from_secs(1))
        };
        let mut beacon = Beacon::new(store.clone(), settings, bare(NAME));
        beacon.beat().await.unwrap();
        beacon.publisher.is_taken()
    };
    assert!(start(&[(NAME, 30_000)]).await, "it could not be heard");
    while leases(&store).await != [(NAME.to_owned(), 0)] {}
    assert!(!start(&[]).await);
}

#[tokio::test]
async fn a_redis_that_takes_nothing_tells_what_it_has_and_forgets_nobody() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    drop(beacons(&store, 1).await);
    let settings = settings("own", LONG);
    let own = Publisher::new(&settings);
    tick(&store, &Follower::new(&settings), own.identity()).await;
    let asked = Asked {
        word: b"",
        lease: 30_000,
        beat: false,
        since: 0,
        from: 0,
    };
    let now = clock(&redis);
    for (option, short, enough) in [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")] {
        // Nobody could be heard, or the clock was set back.
        for at in [now - 60_000, now + 86_400_000] {
            heard_at(&redis, at, &[("n000", 20_000)]);
            redis.cli(&["CONFIG", "SET", option, short]);
            let told = scripts::tick(&store, own.identity(), &asked).await.unwrap();
            redis.cli(&["CONFIG", "SET", option, enough]);
            assert_eq!(told.state, scripts::State::Held);
            let names = told.some.iter().map(|(node, _)| node.as_str());
            assert_eq!(names.collect::<Vec<_>>(), ["n000"], "{option}");
            let leases = leases(&store).await;
            assert_eq!(leases.len(), 2, "{option}: {leases:?}");
        }
    }
}

#[tokio::test]
async fn a_node_that_left_is_not_there_again_for_an_old_file() {
    const LEASE: Duration = Duration::from_secs(30);
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    let nodes = beacons(&store, 2).await;
    let settings = settings("own", LEASE);
    let own = Publisher::new(&settings);
    let mut follower = Follower::new(&settings);
    let told = tick(&store, &follower, own.identity()).await;
    follower.take(&store, &told).await.unwrap();
    let keys =
        ["nodes", "leases", "changed", "revision"].map(|key| format!("circuit:{{fleet}}:{key}"));
    for key in &keys {
        redis.cli(&["COPY", key, &format!("{key}:old")]);
    }
    scripts::leave(&store, nodes[0].publisher.identity())
        .await
        .unwrap();
    let told = tick(&store, &follower, own.identity()).await;
    follower.take(&store, &told).await.unwrap();
    assert_eq!(follower.snapshot().nodes().len(), 1);
    for key in &keys {
        redis.cli(&["RENAME", &format!("{key}:old"), key]);
    }
    let told = tick(&store, &follower, own.identity()).await;
    follower.take(&store, &told).await.unwrap();
    assert_eq!(follower.snapshot().nodes().len(), 1);
    // Its lease is over by then.
    assert!(follower.doubted_for("n000").unwrap() > LEASE);
}

#[tokio::test]
async fn a_clock_that_is_set_back_lengthens_no_lease() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    let mut nodes = beacons(&store, 2).await;
    heard_at(
        &redis,
        clock(&redis) + 86_400_000,
        &[("n000", 20_000), ("n001", 30_000)],
    );
    nodes[0].beat().await.unwrap();
    let there = leases(&store).await;
    assert_eq!(there.len(), 2, "{there:?}");
    assert!((25..=30).contains(&there[1].1), "{there:?}");
}

/// A node of the fleet whose daemon does not run.
async fn member(store: &Store) -> Member {
    let settings = settings("own", LONG);
    let patience = circuit_testing::PATIENCE;
    let member = Member::join(store.clone(), settings, bare("own"), patience);
    member.await.unwrap()
}

/// A heartbeat of the original's kind, as ours have too.
fn original_beat(redis: &RedisServer, name: &str) {
    let node = NodeInfo {
        name: name.to_owned(),
        ..NodeInfo::default()
    };
    let key = format!("nodes:{name}");
    let value = String::from_utf8(original::heartbeat(node)).unwrap();
    redis.cli(&["SET", &key, &value]);
}

fn originals_of(member: &Member) -> Vec<String> {
    let fleet = member.registry.fleet();
    let nodes = member.originals.nodes(&fleet).into_iter();
    let names: BTreeSet<String> = nodes.map(|node| node.name).collect();
    let waited_for = member.originals.to_wait_for(&fleet);
    assert_eq!(names, waited_for.into_iter().collect());
    names.into_iter().collect()
}

/// An original that has a container, from when on it listens.
async fn serve_original(store: &Store, name: &'static str) {
    let mut questions = store.subscribe(&["circuit.cluster"], &[]);
    assert_eq!(questions.next().await, Some(Event::Resumed));
    let store = store.clone();
    tokio::spawn(async move {
        while let Some(event) = questions.next().await {
            if let Event::Message { payload, .. } = event {
                original::tests::answer(&store, &payload, name).await;
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_original_is_not_silent_while_nobody_listens_to_it() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    let member = member(&store).await;
    let (originals, fleet) = (Arc::clone(&member.originals), member.registry.fleet());
    serve_original(&store, "old").await;
    original_beat(&redis, "old");
    originals.look(&member.registry).await.unwrap();
    assert_eq!(originals.ask("web", &fleet).await, []);
    assert_eq!(asked_next(&member), ["old"]);
    let mut answers = originals.answers();
    assert_eq!(answers.next().await, Some(Event::Resumed));
    originals.hear(Event::Resumed);
    let hearing = Arc::clone(&originals);
    tokio::spawn(async move {
        while let Some(event) = answers.next().await {
            hearing.hear(event);
        }
    });
    let found = originals.ask("web", &fleet).await;
    assert_eq!(found.len(), 1, "{found:?}");
    // One that does not answer is.
    original_beat(&redis, "gone");
    redis.cli(&["DEL", "circuit:{fleet}:prober"]);
    originals.look(&member.registry).await.unwrap();
    originals.ask("web", &fleet).await;
    assert_eq!(asked_next(&member), ["old"]);
    // Unless its answer may have been missed meanwhile.
    originals.hear(Event::Resumed);
    let resumed = async { originals.hear(Event::Resumed) };
    tokio::join!(originals.ask("web", &fleet), resumed);
    assert_eq!(asked_next(&member), ["gone", "old"]);
}

/// Those that the next look-up asks.
fn asked_next(member: &Member) -> Vec<String> {
    let waited_for = member.originals.to_wait_for(&member.registry.fleet());
    let names: BTreeSet<String> = waited_for.into_iter().collect();
    names.into_iter().collect()
}

#[tokio::test]
async fn nodes_of_ours_are_no_originals_after_their_end() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    drop(beacons(&store, 1).await);
    let mut member = member(&store).await;
    for name in ["own", "n000", "old"] {
        original_beat(&redis, name);
    }
    redis.cli(&["ZADD", "circuit:{fleet}:leases", "1", "n000"]);
    member.tick().await;
    assert_eq!(member.registry.fleet().nodes().len(), 0);
    member.originals.look(&member.registry).await.unwrap();
    assert_eq!(originals_of(&member), ["old"]);
}

#[tokio::test]
async fn a_node_that_has_left_is_an_original_as_soon_as_that_is_started() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    let node = beacons(&store, 1).await.remove(0);
    let mut member = member(&store).await;
    assert_eq!(member.registry.fleet().nodes().len(), 1);
    scripts::leave(&store, node.publisher.identity())
        .await
        .unwrap();
    member.tick().await;
    original_beat(&redis, "n000");
    member.originals.look(&member.registry).await.unwrap();
    assert_eq!(originals_of(&member), ["n000"]);
}

#[tokio::test]
async fn nodes_of_ours_are_no_originals_once_they_are_heard_of() {
    let redis = RedisServer::start();
    let store = open(&redis.url()).await;
    let mut member = member(&store).await;
    // Whoever looked for originals had not heard of it.
    original_beat(&redis, "n000");
    original_beat(&redis, "old");
    member.originals.look(&member.registry).await.unwrap();
    assert_eq!(originals_of(&member), ["n000", "old"]);
    drop(beacons(&store, 1).await);
    member.tick().await;
    assert_eq!(originals_of(&member), ["old"]);
}
