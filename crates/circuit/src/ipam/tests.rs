//! Keepers and their ledgers: the model and the script must say the same, and
//! several keepers on one Redis must never give one address twice.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use circuit_core::ipam::ledger::Ledger as Model;
use circuit_core::ipam::wire::{Question, Reply, Wanted};
use circuit_core::ipam::{AddressSet, Exact, Hello, Span, Timing, User, Wish};
use circuit_core::service::{AddressState, Addressing, Release};
use circuit_core::{Error, Result};
use circuit_testing::History;
use tokio_util::sync::CancellationToken;

use crate::redis::{Store, Url, cmd, pipe};

use super::{Alone, InRedis, Keeper, Ledger, Parts, Scripts, Shared, Value, Wire};

mod copies;
mod stock;
mod suspects;

/// A Redis of its own, on a socket in a folder.
struct Redis {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Redis {
    fn start() -> Self {
        let mut redis = Self {
            dir: tempfile::tempdir().unwrap(),
            child: None,
        };
        redis.up();
        redis
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    fn up(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, which scripts/setup installs");
        self.child = Some(child);
        circuit_testing::wait_until("redis answers", circuit_testing::PATIENCE, || {
            std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
        });
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
            let _ = std::fs::remove_file(self.socket());
        }
    }

    fn client(&self) -> Client {
        let store = self.store();
        Client {
            scripts: Arc::new(InRedis::new(store.clone())),
            store,
            cut: Arc::default(),
        }
    }

    fn store(&self) -> Store {
        let url = format!("unix://{}", self.socket().display());
        Store::open(&Url::parse(&url).unwrap()).unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A way to Redis that can be cut.
#[derive(Clone)]
struct Client {
    store: Store,
    scripts: Arc<InRedis>,
    cut: Arc<AtomicBool>,
}

impl Client {
    async fn up(&self) {
        self.store.wait_up(Duration::from_secs(5)).await.unwrap();
    }
}

#[async_trait]
impl Scripts for Client {
    async fn run(&self, arguments: &[String]) -> Result<Value> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(Error::unavailable("the link is cut"));
        }
        self.scripts.run(arguments).await
    }
}

/// A wire on which these are, how often it was asked, and whether it cannot be.
#[derive(Default)]
struct Lan(std::sync::Mutex<BTreeSet<IpAddr>>, AtomicUsize, AtomicBool);

#[async_trait]
impl Wire for Lan {
    async fn answering(&self, link: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>> {
        if self.2.load(Ordering::Relaxed) {
            return Err(Error::precondition(format!("{link} is down")));
        }
        self.1.fetch_add(1, Ordering::Relaxed);
        let there = self.0.lock().unwrap();
        let found = addresses.iter().filter(|ip| there.contains(ip));
        Ok(found.copied().collect())
    }
}

const QUICK: Timing = Timing {
    lease: 1_000,
    grace: 60_000,
    moment: 300,
};

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, last])
}

fn set(first: u8, last: u8) -> AddressSet {
    AddressSet {
        spans: vec![Span {
            subnet: "10.9.0.0/24".parse().unwrap(),
            first: ip(first),
            last: ip(last),
            gateway: ip(1),
        }],
    }
}

fn user(container: &str) -> User {
    User {
        container: container.into(),
        ifname: "eth0".into(),
    }
}

fn keeper(ledger: Arc<dyn Ledger>, wire: &Arc<Lan>, dir: &Path, name: &str) -> Arc<Keeper> {
    let parts = Parts {
        ledger,
        wire: Arc::clone(wire) as _,
        state_dir: dir.to_owned(),
        node: format!("id-{name}"),
        name: name.to_owned(),
        timing: QUICK,
    };
    Arc::new(Keeper::open(parts).unwrap())
}

async fn add(keeper: &Keeper, container: &str, set: &AddressSet, wish: Option<IpAddr>) -> Reply {
    let wanted = wanted(container, set, wish);
    keeper.answer(Question::Add(wanted)).await
}

fn wanted(container: &str, set: &AddressSet, wish: Option<IpAddr>) -> Wanted {
    Wanted {
        pool: "lan".into(),
        network: "net".into(),
        user: user(container),
        sets: vec![set.clone()],
        wishes: wish.into_iter().collect(),
        link: Some("eth1".into()),
        unasked: false,
    }
}

async fn del(keeper: &Keeper, container: &str) {
    let question = Question::Del {
        pool: "lan".into(),
        user: user(container),
    };
    assert_eq!(keeper.answer(question).await, Reply::Done);
}

fn one(reply: Reply) -> IpAddr {
    match reply {
        Reply::Addresses(ips) => ips[0],
        other => panic!("{other:?}"),
    }
}

fn text(reply: Reply) -> String {
    match reply {
        Reply::Failed(text) | Reply::Later(text) => text,
        other => panic!("{other:?}"),
    }
}

/// The same steps on the model and on the script have the same answers.
#[tokio::test]
async fn the_script_does_what_the_model_does() {
    let redis = Redis::start();
    let client = redis.client();
    client.up().await;
    let shared = Shared::new(client, SLOW);
    let mut model = Model::default();
    let wide = AddressSet {
        spans: vec![
            Span {
                subnet: "fd00:7::/64".parse().unwrap(),
                first: "fd00:7::ffff:0:fffe".parse().unwrap(),
                last: "fd00:7::ffff:1:3".parse().unwrap(),
                gateway: "fd00:7::1".parse().unwrap(),
            },
            Span {
                subnet: "fd00:7::/64".parse().unwrap(),
                first: "fd00:7:0:0:1::5".parse().unwrap(),
                last: "fd00:7::ffff:ffff:ffff:ffff".parse().unwrap(),
                gateway: "fd00:7::1".parse().unwrap(),
            },
        ],
    };
    let sets = [("lan", set(2, 11)), ("six", wide), ("lan", set(5, 20))];
    let mut random = 7_u64;
    let mut next = move |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    let mut epochs = vec![(String::new(), 0_u64); 3];
    for step in 0..1500 {
        let n = usize::try_from(next(3)).unwrap();
        let (pool, set) = &sets[usize::try_from(next(3)).unwrap()];
        let hello = Hello {
            node: format!("id-{n}"),
            name: format!("node-{n}"),
            epoch: epochs[n].0.clone(),
            count: epochs[n].1,
            fresh: format!("epoch-{step}"),
            place: if next(20) == 0 { "copy" } else { "here" }.into(),
        };
        let some: Vec<IpAddr> = (0..next(4))
            .map(|_| ip(u8::try_from(next(20)).unwrap()))
            .collect();
        match next(9) {
            0 => {
                let a = model.tick(&hello, &SLOW, 1);
                let mut b = shared.tick(&hello).await.unwrap();
                // The model's clock stands still.
                b.standing.age = a.standing.age;
                if b.standing.taken.is_none() {
                    epochs[n] = (b.standing.epoch.clone(), b.standing.count);
                }
                assert_eq!(a, b);
            }
            1..=3 => {
                let want = usize::try_from(next(5)).unwrap();
                let wish = Wish {
                    pool,
                    set,
                    want,
                    abandoned: usize::try_from(next(5)).unwrap(),
                };
                let a = model.take(&hello, &SLOW, 1, &wish);
                let mut b = shared.take(&hello, &wish).await.unwrap();
                b.standing.age = a.standing.age;
                assert_eq!(a, b, "step {step}");
            }
            4 => {
                let ip = set.spans[0].first;
                let a = model.exact(&hello, &SLOW, 1, (pool, ip));
                let mut b = shared.exact(&hello, pool, ip).await.unwrap();
                b.0.age = a.0.age;
                let named = |exact: Exact| match exact {
                    Exact::Held(node) => Exact::Held(node.replace("node-", "id-")),
                    exact => exact,
                };
                assert_eq!((a.0, a.1), (b.0, named(b.1)), "step {step}");
            }
            5 => {
                let a = model.claim(&hello.node, pool, &some);
                let b = shared.claim(&hello.node, pool, &some).await.unwrap();
                let b: Vec<_> = b
                    .into_iter()
                    .map(|(ip, n)| (ip, n.replace("node-", "id-")))
                    .collect();
                assert_eq!(a, b);
            }
            6 => {
                let abandoned = next(2) == 0;
                model.give_back(&hello.node, pool, &some, abandoned);
                shared
                    .give_back(&hello.node, pool, &some, abandoned)
                    .await
                    .unwrap();
            }
            7 => {
                let uses: Vec<_> = some.iter().map(|ip| (*ip, "{}".to_owned())).collect();
                model.note(&hello.node, pool, &uses);
                shared.note(&hello.node, pool, &uses).await.unwrap();
            }
            _ => {
                let a = model.release(&hello.node, pool, &some);
                let b = shared.release(&hello.node, pool, &some).await.unwrap();
                assert_eq!(a, b);
            }
        }
        let mut held = shared.held_by(&hello.node).await.unwrap();
        held.sort();
        let of_model: Vec<_> = model.held_by(&hello.node).into_iter().collect();
        assert_eq!(held, of_model, "step {step}");
    }
    let mut a = model.list(None, 1);
    let mut b = shared.list(None).await.unwrap();
    for row in a.iter_mut().chain(&mut b) {
        row.claim = 0;
    }
    assert_eq!(a, b);
    assert!(a.len() > 20);
}

/// No moment: the model's clock stands still.
const SLOW: Timing = Timing {
    lease: 100_000_000,
    grace: 100_000_000,
    moment: 0,
};

#[tokio::test]
async fn a_node_without_redis_gives_addresses_and_remembers_them() {
    let dir = tempfile::tempdir().unwrap();
    let wire = Arc::new(Lan::default());
    let alone = |epoch: &str| Arc::new(Alone::new(epoch.into(), QUICK));
    let pool = set(2, 5);
    {
        let keeper = keeper(alone("a"), &wire, dir.path(), "node-1");
        assert_eq!(one(add(&keeper, "c1", &pool, None).await), ip(2));
        assert_eq!(one(add(&keeper, "c2", &pool, Some(ip(4))).await), ip(4));
        let again = text(add(&keeper, "c1", &pool, None).await);
        assert!(again.contains("has 10.9.0.2 already"), "{again}");
        let taken = text(add(&keeper, "c3", &pool, Some(ip(4))).await);
        assert!(taken.contains("c2 has it on this node"), "{taken}");
        let outside = text(add(&keeper, "c3", &pool, Some(ip(9))).await);
        assert!(outside.contains("in no range set"), "{outside}");
    }
    let keeper = keeper(alone("b"), &wire, dir.path(), "node-1");
    assert_eq!(one(add(&keeper, "c3", &pool, None).await), ip(3));
    assert_eq!(one(add(&keeper, "c4", &pool, None).await), ip(5));
    let full = text(add(&keeper, "c5", &pool, None).await);
    assert!(
        full.contains("no address of pool lan is left in 10.9.0.2-10.9.0.5"),
        "{full}"
    );
    del(&keeper, "c1").await;
    del(&keeper, "c1").await;
    assert_eq!(one(add(&keeper, "c5", &pool, None).await), ip(2));
    let gc = Question::Gc {
        pool: "lan".into(),
        network: "net".into(),
        valid: vec![user("c5")],
    };
    assert_eq!(keeper.answer(gc).await, Reply::Done);
    let check = |container: &str| Question::Check {
        pool: "lan".into(),
        user: user(container),
    };
    assert_eq!(
        keeper.answer(check("c5")).await,
        Reply::Addresses(vec![ip(2)])
    );
    assert_eq!(keeper.answer(check("c2")).await, Reply::Addresses(vec![]));
    keeper.call().await.unwrap();
    let listed = keeper.list(None).await.unwrap();
    let used: Vec<_> = listed
        .iter()
        .filter(|row| row.state == AddressState::Used)
        .collect();
    assert_eq!((listed.len(), used.len()), (1, 1), "others were asked for");
    assert_eq!(
        (used[0].container.as_str(), used[0].node.as_str()),
        ("c5", "node-1")
    );
    let what = Release::Address {
        pool: None,
        address: ip(2),
    };
    let refused = keeper.release(what, false).await.unwrap_err();
    assert!(
        refused.message().contains("in use by c5 on node node-1"),
        "{refused}"
    );
}

#[tokio::test]
async fn where_the_wire_cannot_be_asked_others_than_suspects_are_given() {
    let dir = tempfile::tempdir().unwrap();
    let wire = Arc::new(Lan::default());
    let ledger = Arc::new(Alone::new("a".into(), QUICK));
    let keeper = keeper(ledger, &wire, dir.path(), "node-1");
    let pool = set(2, 5);
    for (container, last) in [("c1", 2), ("c2", 3)] {
        assert_eq!(one(add(&keeper, container, &pool, None).await), ip(last));
    }
    del(&keeper, "c2").await;
    // A node that is away had it.
    let entry = circuit_core::ipam::Entry::Hold {
        addresses: vec![ip(3)],
        suspect: true,
    };
    keeper.agent().apply("lan", &entry);
    let unasked = async |container: &str, wish| {
        let wanted = Wanted {
            link: None,
            unasked: true,
            ..wanted(container, &pool, wish)
        };
        keeper.answer(Question::Add(wanted)).await
    };
    assert_eq!(one(unasked("c2", None).await), ip(4));
    assert_eq!(one(unasked("c3", None).await), ip(5));
    for wish in [Some(ip(3)), None] {
        let refused = text(unasked("c4", wish).await);
        let told = "10.9.0.3 of pool lan may be in use by a node that is away";
        assert!(refused.contains(told), "{refused}");
    }
    // Nothing is held for whom it was refused to, and who can ask is given it.
    assert_eq!(one(add(&keeper, "c4", &pool, None).await), ip(3));
    del(&keeper, "c4").await;
    assert_eq!(one(unasked("c4", None).await), ip(3));
}

/// Nodes that share a Redis, each with a keeper that runs.
struct Fleet {
    redis: Redis,
    wire: Arc<Lan>,
    dirs: Vec<tempfile::TempDir>,
    nodes: Vec<(Arc<Keeper>, CancellationToken, Client)>,
    history: Arc<History>,
}

impl Fleet {
    async fn start(count: usize) -> Self {
        let mut fleet = Self {
            redis: Redis::start(),
            wire: Arc::default(),
            dirs: (0..count).map(|_| tempfile::tempdir().unwrap()).collect(),
            nodes: Vec::new(),
            history: Arc::default(),
        };
        for n in 0..count {
            let node = fleet.node(n);
            node.2.up().await;
            fleet.nodes.push(node);
        }
        tokio::time::sleep(Duration::from_millis(QUICK.moment + 50)).await;
        fleet
    }

    fn node(&self, n: usize) -> (Arc<Keeper>, CancellationToken, Client) {
        let client = self.redis.client();
        let ledger = Arc::new(Shared::new(client.clone(), QUICK));
        let keeper = keeper(
            ledger,
            &self.wire,
            self.dirs[n].path(),
            &format!("node-{n}"),
        );
        let stop = CancellationToken::new();
        let (running, stopped) = (Arc::clone(&keeper), stop.clone());
        tokio::spawn(async move { running.run(stopped).await });
        (keeper, stop, client)
    }

    /// As after a `kill -9`: nothing of it is left but its disk.
    fn restart(&mut self, n: usize) {
        self.nodes[n].1.cancel();
        self.nodes[n] = self.node(n);
    }

    async fn flush(&self) {
        let store = self.redis.store();
        store.wait_up(Duration::from_secs(5)).await.unwrap();
        store.query(&cmd("FLUSHALL")).await.unwrap();
    }

    async fn connect(&self, n: usize, container: &str, pool: &AddressSet) -> Option<IpAddr> {
        let Reply::Addresses(ips) = add(&self.nodes[n].0, container, pool, None).await else {
            return None;
        };
        self.history.given(ips[0], &format!("{n}/{container}"));
        self.wire.0.lock().unwrap().insert(ips[0]);
        Some(ips[0])
    }

    async fn disconnect(&self, n: usize, container: &str, ip: IpAddr) {
        self.wire.0.lock().unwrap().remove(&ip);
        self.history.released(ip, &format!("{n}/{container}"));
        del(&self.nodes[n].0, container).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_pool_is_used_to_the_last_address_by_three_nodes() {
    let fleet = Fleet::start(3).await;
    let pool = set(2, 14);
    let mut got = Vec::new();
    for n in 0..13 {
        let ip = fleet.connect(n % 3, &format!("c{n}"), &pool).await;
        got.push(ip.unwrap_or_else(|| panic!("container {n}")));
    }
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 13);
    let full = text(add(&fleet.nodes[0].0, "more", &pool, None).await);
    assert!(full.contains("no address of pool lan is left"), "{full}");
    let other = fleet.nodes[1].0.agent().pools()["lan"]
        .holding
        .used()
        .keys()
        .next()
        .copied();
    let wish = text(add(&fleet.nodes[0].0, "more", &pool, other).await);
    assert!(wish.contains("node node-1 has it"), "{wish}");
    fleet.history.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_comes_back_empty_and_nodes_that_are_cut_off_give_nothing_twice() {
    let mut fleet = Fleet::start(3).await;
    let pool = set(2, 120);
    let mut live = Vec::new();
    for round in 0..60_usize {
        for n in 0..3 {
            let name = format!("c{round}");
            if let Some(ip) = fleet.connect(n, &name, &pool).await {
                live.push((n, name, ip));
            }
        }
        if live.len() > 40 {
            let (n, name, ip) = live.remove(round % 20);
            fleet.disconnect(n, &name, ip).await;
            let (n, name, ip) = live.remove(round % 20);
            fleet.disconnect(n, &name, ip).await;
            let (n, name, ip) = live.remove(round % 20);
            fleet.disconnect(n, &name, ip).await;
        }
        match round {
            10 => fleet.nodes[2].2.cut.store(true, Ordering::Relaxed),
            20 => {
                fleet.redis.kill();
                fleet.redis.up();
            }
            25 => tokio::time::sleep(Duration::from_millis(1500)).await,
            30 => fleet.nodes[2].2.cut.store(false, Ordering::Relaxed),
            35 => fleet.restart(1),
            45 => {
                fleet.flush().await;
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fleet.history.assert_sound();
    assert!(fleet.history.len() > 50, "{}", fleet.history.len());
    // All is known again, and nobody is in conflict.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let listed = fleet.nodes[0].0.list(Some("lan")).await.unwrap();
    for (_, name, ip) in &live {
        let row = listed.iter().find(|row| row.address == *ip).unwrap();
        assert_eq!(
            (row.state, &row.container),
            (AddressState::Used, name),
            "{row:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_what_is_held_is_still_given() {
    let mut fleet = Fleet::start(2).await;
    let pool = set(2, 120);
    assert!(fleet.connect(0, "c1", &pool).await.is_some());
    tokio::time::sleep(Duration::from_millis(1200)).await;
    fleet.redis.kill();
    assert!(fleet.connect(0, "c2", &pool).await.is_some());
    let none = text(add(&fleet.nodes[1].0, "c1", &pool, None).await);
    assert!(
        none.contains("no free address of pool lan is left on this node"),
        "{none}"
    );
    fleet.restart(0);
    // It is the same boot.
    let third = one(add(&fleet.nodes[0].0, "c3", &pool, None).await);
    fleet.history.given(third, "0/c3");
    fleet.history.assert_sound();
}
