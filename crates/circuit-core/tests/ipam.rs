//! Nodes that share pools, with everything that can happen to them: no address
//! is ever given twice, and none is lost for ever.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use circuit_core::ipam::ledger::Ledger;
use circuit_core::ipam::wire::Wanted;
use circuit_core::ipam::{
    AddressSet, Agent, Entry, Exact, Hello, Missing, Refusal, Span, Standing, Timing, User, Wish,
};
use circuit_testing::History;
use proptest::prelude::*;

const NODES: usize = 3;
const POOL: &str = "lan";
const TIMING: Timing = Timing {
    lease: 30_000,
    grace: 600_000,
    moment: 3_000,
};

fn set(last: u8) -> AddressSet {
    AddressSet {
        spans: vec![Span {
            subnet: "10.0.0.0/24".parse().unwrap(),
            first: IpAddr::from([10, 0, 0, 2]),
            last: IpAddr::from([10, 0, 0, last]),
            gateway: IpAddr::from([10, 0, 0, 1]),
        }],
    }
}

struct Node {
    agent: Agent,
    /// What is on its disk.
    journal: Vec<Entry>,
    /// What is on its disk of the ledger's epoch and count.
    known: (String, u64),
    cut: bool,
    up: bool,
    live: BTreeMap<User, IpAddr>,
}

struct World {
    now: u64,
    ledger: Ledger,
    dump: Option<Ledger>,
    nodes: Vec<Node>,
    set: AddressSet,
    history: History,
    epochs: u32,
    containers: u32,
}

impl World {
    fn new(last: u8) -> Self {
        let node = |n: usize| Node {
            agent: Agent::new(hello(n), TIMING),
            journal: Vec::new(),
            known: (String::new(), 0),
            cut: false,
            up: true,
            live: BTreeMap::new(),
        };
        Self {
            now: 1,
            ledger: Ledger::default(),
            dump: None,
            nodes: (0..NODES).map(node).collect(),
            set: set(last),
            history: History::default(),
            epochs: 0,
            containers: 0,
        }
    }

    fn reaches(&self, n: usize) -> bool {
        self.nodes[n].up && !self.nodes[n].cut
    }

    fn hello(&mut self, n: usize) -> Hello {
        self.epochs += 1;
        let mut hello = self.nodes[n].agent.hello.clone();
        hello.fresh = format!("epoch-{}", self.epochs);
        hello
    }

    fn write(&mut self, n: usize, entries: &[Entry]) {
        self.nodes[n].journal.extend_from_slice(entries);
        let hello = &self.nodes[n].agent.hello;
        self.nodes[n].known = (hello.epoch.clone(), hello.count);
    }

    fn tick(&mut self, n: usize) {
        if !self.reaches(n) {
            return;
        }
        let hello = self.hello(n);
        let tick = self.ledger.tick(&hello, &TIMING, self.now);
        let duty = self.nodes[n].agent.heard(&tick, self.now);
        self.write(n, &entries_of(duty.entries));
        for (_, addresses) in duty.give_back {
            self.give_back(n, addresses, false);
        }
        if duty.claim {
            self.claim(n);
        }
    }

    fn give_back(&mut self, n: usize, addresses: Vec<IpAddr>, abandoned: bool) {
        let holding = &self.nodes[n].agent.pools()[POOL].holding;
        let (suspect, sound): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .partition(|ip| holding.is_suspect(*ip));
        for (addresses, doubt) in [(suspect, true), (sound, false)] {
            let entry = Entry::Drop {
                addresses: addresses.clone(),
            };
            self.nodes[n].agent.apply(POOL, &entry);
            self.write(n, &[entry]);
            if self.reaches(n) {
                let id = self.nodes[n].agent.hello.node.clone();
                self.ledger
                    .give_back(&id, POOL, &addresses, doubt || abandoned);
            }
        }
    }

    fn claim(&mut self, n: usize) {
        let id = self.nodes[n].agent.hello.node.clone();
        let all = self.nodes[n].agent.pool(POOL).holding.all();
        let conflicts = self.ledger.claim(&id, POOL, &all);
        let entries = self.nodes[n].agent.claimed(POOL, &conflicts);
        self.write(n, &entries);
        let extra: Vec<IpAddr> = self
            .ledger
            .held_by(&id)
            .into_iter()
            .map(|(_, ip)| ip)
            .filter(|ip| !self.nodes[n].agent.pools()[POOL].holding.holds(*ip))
            .collect();
        self.ledger.give_back(&id, POOL, &extra, true);
        let now = self.now;
        self.nodes[n].agent.all_claimed(now);
    }

    fn on_the_wire(&self, ip: IpAddr) -> bool {
        self.nodes
            .iter()
            .any(|node| node.live.values().any(|has| *has == ip))
    }

    fn connect(&mut self, n: usize, wish: Option<u8>) -> bool {
        if !self.nodes[n].up {
            return false;
        }
        self.containers += 1;
        let user = User {
            container: format!("c{}", self.containers),
            ifname: "eth0".into(),
        };
        let wanted = Wanted {
            pool: POOL.into(),
            network: "net".into(),
            user: user.clone(),
            sets: vec![self.set.clone()],
            wishes: wish
                .map(|n| IpAddr::from([10, 0, 0, n]))
                .into_iter()
                .collect(),
            link: None,
            unasked: false,
        };
        for _ in 0..40 {
            let now = self.now;
            match self.nodes[n].agent.give(&wanted, now) {
                Ok(given) => {
                    self.write(n, &given.entries);
                    let ip = given.addresses[0];
                    if given.suspect.contains(&ip) {
                        if self.on_the_wire(ip) {
                            let entries = self.nodes[n].agent.release(POOL, &user);
                            self.write(n, &entries);
                            self.give_back(n, vec![ip], true);
                            continue;
                        }
                        self.nodes[n]
                            .agent
                            .apply(POOL, &Entry::Clear { address: ip });
                        self.write(n, &[Entry::Clear { address: ip }]);
                    }
                    self.history
                        .given_at(now, ip, &format!("{n}/{}", user.container));
                    self.nodes[n].live.insert(user, ip);
                    return true;
                }
                Err(Refusal::Missing(Missing::Any(_))) => {
                    if !self.take(n) {
                        return false;
                    }
                }
                Err(Refusal::Missing(Missing::Exact(_, ip))) => {
                    if !self.exact(n, ip) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        false
    }

    fn take(&mut self, n: usize) -> bool {
        if !self.reaches(n) {
            return false;
        }
        let hello = self.hello(n);
        let set = self.set.clone();
        let wish = Wish {
            pool: POOL,
            set: &set,
            want: set.batch(),
            abandoned: set.batch(),
        };
        let taken = self.ledger.take(&hello, &TIMING, self.now, &wish);
        let learnt = self.nodes[n].agent.learn(&taken.standing, self.now);
        self.write(n, &entries_of(learnt));
        self.hold(n, taken.addresses.clone(), taken.standing.suspect);
        if !taken.addresses.is_empty() {
            return true;
        }
        if let Some(ip) = taken.abandoned.first() {
            return self.exact(n, *ip);
        }
        self.ledger.want(POOL, self.now);
        false
    }

    fn exact(&mut self, n: usize, ip: IpAddr) -> bool {
        if !self.reaches(n) {
            return false;
        }
        let hello = self.hello(n);
        let (standing, exact) = self.ledger.exact(&hello, &TIMING, self.now, (POOL, ip));
        let learnt = self.nodes[n].agent.learn(&standing, self.now);
        self.write(n, &entries_of(learnt));
        match exact {
            Exact::Yours { suspect } => {
                self.hold(n, vec![ip], suspect || standing.suspect);
                true
            }
            Exact::Held(_) => {
                self.ledger.want(POOL, self.now);
                false
            }
            Exact::Settling => false,
        }
    }

    fn hold(&mut self, n: usize, addresses: Vec<IpAddr>, suspect: bool) {
        if addresses.is_empty() {
            return;
        }
        let entry = Entry::Hold { addresses, suspect };
        self.nodes[n].agent.apply(POOL, &entry);
        self.write(n, &[entry]);
    }

    fn end(&mut self, n: usize, user: &User) {
        if let Some(ip) = self.nodes[n].live.remove(user) {
            self.history
                .released_at(self.now, ip, &format!("{n}/{}", user.container));
        }
    }

    fn disconnect(&mut self, n: usize, which: usize) {
        let users: Vec<User> = self.nodes[n].live.keys().cloned().collect();
        if !self.nodes[n].up || users.is_empty() {
            return;
        }
        let user = users[which % users.len()].clone();
        self.end(n, &user);
        let entries = self.nodes[n].agent.release(POOL, &user);
        self.write(n, &entries);
    }

    /// The daemon ends; containers live on, and may end meanwhile.
    fn crash(&mut self, n: usize) {
        self.nodes[n].up = false;
    }

    fn reboot(&mut self, n: usize) {
        self.nodes[n].up = false;
        let users: Vec<User> = self.nodes[n].live.keys().cloned().collect();
        for user in users {
            self.end(n, &user);
        }
        self.restart(n, false);
    }

    fn restart(&mut self, n: usize, same_boot: bool) {
        let node = &mut self.nodes[n];
        if same_boot && node.up {
            return;
        }
        let confirmed = node.agent.confirmed().filter(|_| same_boot);
        let place = node.agent.hello.place.clone();
        node.agent = Agent::new(hello(n), TIMING);
        // Another boot is another place.
        node.agent.hello.place = if same_boot { place } else { place + "+" };
        node.agent.hello.epoch.clone_from(&node.known.0);
        node.agent.hello.count = node.known.1;
        for entry in &node.journal {
            node.agent.apply(POOL, entry);
        }
        node.agent.set_confirmed(confirmed);
        node.up = true;
        let valid: Vec<User> = node.live.keys().cloned().collect();
        let entries = node.agent.retain(POOL, "net", &valid);
        self.write(n, &entries);
    }

    fn do_step(&mut self, step: &Step) {
        match *step {
            Step::Connect(n, wish) => {
                self.connect(n, wish);
            }
            Step::Disconnect(n, which) => self.disconnect(n, which),
            Step::Wait(ms) => self.wait(ms),
            Step::Tick(n) => self.tick(n),
            Step::Round => {
                for n in 0..NODES {
                    self.now += 300;
                    self.tick(n);
                }
            }
            Step::Cut(n) => self.nodes[n].cut = true,
            Step::Join(n) => self.nodes[n].cut = false,
            Step::Crash(n) => self.crash(n),
            Step::Restart(n) => self.restart(n, true),
            Step::Reboot(n) => self.reboot(n),
            Step::Flush => {
                self.ledger = Ledger::default();
                self.up_again();
            }
            Step::Dump => self.dump = Some(self.ledger.clone()),
            Step::Restore => {
                if let Some(dump) = self.dump.clone() {
                    self.ledger = dump;
                    self.up_again();
                }
            }
        }
    }

    /// Time goes by; nodes that reach the ledger call it each second.
    fn wait(&mut self, ms: u64) {
        let first = ms.min(1_000);
        for part in [first, ms - first] {
            self.now += part;
            for n in 0..NODES {
                self.tick(n);
            }
        }
    }

    /// Redis is up again. Nodes that reach it call within a moment.
    fn up_again(&mut self) {
        self.ledger.restarted(&TIMING, self.now);
    }
}

fn entries_of(entries: Vec<(String, Entry)>) -> Vec<Entry> {
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn hello(n: usize) -> Hello {
    Hello {
        node: format!("id-{n}"),
        name: format!("node-{n}"),
        epoch: String::new(),
        count: 0,
        fresh: String::new(),
        place: format!("place-{n}"),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Connect(usize, Option<u8>),
    Disconnect(usize, usize),
    Wait(u64),
    Tick(usize),
    Round,
    Cut(usize),
    Join(usize),
    Crash(usize),
    Restart(usize),
    Reboot(usize),
    Flush,
    Dump,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        8 => (node(), proptest::option::weighted(0.2, 2..20_u8))
            .prop_map(|(n, wish)| Step::Connect(n, wish)),
        5 => (node(), 0..8_usize).prop_map(|(n, which)| Step::Disconnect(n, which)),
        2 => (1..5_000_u64).prop_map(Step::Wait),
        1 => (20_000..900_000_u64).prop_map(Step::Wait),
        4 => node().prop_map(Step::Tick),
        6 => Just(Step::Round),
        1 => node().prop_map(Step::Cut),
        2 => node().prop_map(Step::Join),
        1 => node().prop_map(Step::Crash),
        2 => node().prop_map(Step::Restart),
        1 => node().prop_map(Step::Reboot),
        1 => Just(Step::Flush),
        1 => Just(Step::Dump),
        1 => Just(Step::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    })]

    #[test]
    fn no_address_is_given_twice_and_none_is_lost(
        steps in proptest::collection::vec(step(), 1..80),
        last in prop_oneof![Just(7_u8), Just(20), Just(120)],
    ) {
        let mut world = World::new(last);
        // Whoever never called knows nothing, and is nobody's witness.
        world.do_step(&Step::Round);
        for step in &steps {
            world.do_step(step);
            let overlaps = world.history.overlaps();
            prop_assert!(overlaps.is_empty(), "after {step:?}: {}", overlaps[0]);
        }
        // Everybody is well again, and after a while everything can be used.
        for n in 0..NODES {
            world.nodes[n].cut = false;
            world.restart(n, true);
        }
        for _ in 0..200 {
            world.do_step(&Step::Round);
        }
        world.now += TIMING.lease;
        let size = usize::from(last) - 1;
        for round in 0..(4 * size + 200) {
            world.do_step(&Step::Connect(round % NODES, None));
            world.do_step(&Step::Round);
        }
        world.history.assert_sound();
        let live: usize = world.nodes.iter().map(|node| node.live.len()).sum();
        prop_assert_eq!(live, size);
    }
}

#[test]
fn a_node_that_was_cut_off_while_redis_lost_everything_gives_nothing_twice() {
    let mut world = World::new(7);
    let steps = [
        Step::Round,
        Step::Wait(2_400),
        Step::Connect(2, None),
        Step::Cut(2),
        Step::Flush,
        Step::Wait(31_000),
        Step::Disconnect(2, 0),
        // The other node has its address for a while, and keeps it in stock.
        Step::Connect(0, None),
        Step::Reboot(0),
        Step::Connect(2, None),
    ];
    for step in &steps {
        world.do_step(step);
    }
    for _ in 0..8 {
        world.do_step(&Step::Connect(0, None));
        world.do_step(&Step::Round);
    }
    world.history.assert_sound();
}

#[test]
fn a_redis_that_comes_back_from_an_old_file_gives_nothing_until_all_had_their_time() {
    let mut world = World::new(7);
    let steps = [
        Step::Round,
        Step::Dump,
        Step::Round,
        Step::Wait(1_500),
        Step::Connect(0, None),
        Step::Flush,
        Step::Wait(23_106),
        Step::Cut(0),
        Step::Restore,
        Step::Wait(2_994),
        Step::Disconnect(0, 0),
        Step::Round,
    ];
    for step in &steps {
        world.do_step(step);
    }
    for _ in 0..8 {
        world.do_step(&Step::Connect(1, None));
        world.do_step(&Step::Connect(0, None));
        world.do_step(&Step::Round);
    }
    world.history.assert_sound();
}

#[test]
fn a_node_that_was_down_while_redis_forgot_what_it_gave_gives_nothing_twice() {
    let mut world = World::new(120);
    let steps = [
        Step::Round,
        Step::Connect(0, None),
        Step::Round,
        Step::Round,
        Step::Dump,
        Step::Round,
        Step::Connect(0, None),
        Step::Crash(0),
        Step::Restore,
        Step::Round,
        Step::Round,
        Step::Round,
        Step::Round,
        Step::Connect(1, None),
        Step::Restart(0),
        Step::Connect(0, None),
    ];
    for step in &steps {
        world.do_step(step);
    }
    world.history.assert_sound();
}

#[test]
fn a_new_fleet_waits_for_a_moment_only() {
    let mut world = World::new(20);
    world.tick(0);
    assert!(!world.connect(0, None));
    world.now += TIMING.moment;
    world.tick(1);
    assert!(world.connect(0, None));
    assert!(world.connect(1, None));
}

#[test]
fn a_ledger_that_comes_back_empty_gives_nothing_until_all_had_their_time() {
    let mut world = World::new(20);
    world.do_step(&Step::Round);
    world.now += TIMING.moment;
    for n in [0, 1] {
        assert!(world.connect(n, None));
        world.tick(n);
    }
    // A newcomer is the first to call.
    world.do_step(&Step::Flush);
    world.nodes[2].known = (String::new(), 0);
    world.reboot(2);
    world.tick(2);
    world.now += 1_000;
    world.tick(0);
    world.now += TIMING.moment;
    assert!(!world.connect(2, None), "node 1 has not claimed yet");
    world.tick(1);
    world.now += TIMING.lease;
    assert!(world.connect(2, None));
    world.history.assert_sound();
}

#[test]
fn a_dead_nodes_addresses_come_back_after_the_grace_period_and_its_live_ones_do_not() {
    let mut world = World::new(3);
    world.do_step(&Step::Round);
    world.now += TIMING.moment;
    assert!(world.connect(0, None) && world.connect(0, None));
    world.crash(0);
    let user = world.nodes[0].live.keys().next().unwrap().clone();
    world.end(0, &user);
    for _ in 0..5 {
        world.do_step(&Step::Round);
        world.now += TIMING.lease;
    }
    assert!(!world.connect(1, None), "within the grace period");
    world.now += TIMING.claim();
    world.do_step(&Step::Round);
    world.now += TIMING.lease;
    world.do_step(&Step::Round);
    assert!(world.connect(1, None));
    assert!(!world.connect(1, None), "the other one answers on the wire");
    world.history.assert_sound();
}

#[test]
fn a_ledger_that_has_lost_its_memory_is_doubted_for_good() {
    let hello = Hello {
        node: "a".into(),
        name: "a".into(),
        epoch: "one".into(),
        count: 0,
        fresh: String::new(),
        place: String::new(),
    };
    let (mut agent, ip) = (Agent::new(hello, TIMING), IpAddr::from([10, 0, 0, 2]));
    let mut standing = Standing {
        epoch: "one".into(),
        ..Standing::default()
    };
    agent.learn(&standing, 500);
    assert_eq!(agent.withheld_for(POOL, ip, 1_000_000), None);
    standing.suspect = true;
    agent.learn(&standing, 1_000);
    // Whoever is cut off has given what it held until then.
    let end = 1_000 + TIMING.trusted();
    assert_eq!(agent.withheld_for(POOL, ip, end - 1), Some(1));
    assert_eq!(agent.doubts_for(end - 1), Some(1));
    assert_eq!(agent.withheld_for(POOL, ip, end), Some(0));
    // That it tells of it with each answer changes nothing.
    standing.age = 5_000;
    agent.learn(&standing, 6_000);
    assert_eq!(agent.withheld_for(POOL, ip, end), Some(0));
    // It has lost its memory once more, which was missed.
    standing.age = 40_000;
    agent.learn(&standing, 10 * end);
    let again = 10 * end + TIMING.trusted() - standing.age;
    assert_eq!(agent.doubts_for(again - 1), Some(1));
    assert_eq!(agent.withheld_for(POOL, ip, again), Some(0));
}

#[test]
fn a_daemon_that_is_started_anew_doubts_no_ledger_that_lost_its_memory_long_ago() {
    let mut agent = Agent::new(hello(0), TIMING);
    let standing = Standing {
        epoch: "one".into(),
        suspect: true,
        age: TIMING.trusted() - 10,
        ..Standing::default()
    };
    agent.learn(&standing, 1_000);
    assert_eq!(agent.doubts_for(1_000), Some(10));
    let ip = IpAddr::from([10, 0, 0, 2]);
    assert_eq!(agent.withheld_for(POOL, ip, 1_010), Some(0));
}

#[test]
fn a_clock_that_is_set_back_stops_nobody() {
    let mut world = World::new(20);
    world.now = 50_000_000;
    world.do_step(&Step::Round);
    assert!(!world.connect(0, None), "the ledger settles");
    world.now -= 40_000_000;
    world.do_step(&Step::Round);
    world.now += TIMING.lease;
    assert!(world.connect(0, None));
    // Nor those who come back with another memory, nor what is called for, nor what a
    // dead node had.
    world.ledger.want(POOL, world.now);
    world.now += 40_000_000;
    world.up_again();
    world.do_step(&Step::Round);
    world.now -= 30_000_000;
    world.do_step(&Step::Round);
    world.now += TIMING.lease;
    assert!(world.connect(1, None));
    world.history.assert_sound();
}

#[test]
fn a_clock_that_is_set_back_keeps_no_address_for_a_dead_node() {
    const DAY: u64 = 86_400_000;
    let [dead, other] = [0, 1].map(|n| Hello {
        fresh: "one".into(),
        ..hello(n)
    });
    let place = (POOL, set(20).spans[0].first);
    let mut ledger = Ledger::default();
    ledger.tick(&dead, &TIMING, 9 * DAY);
    let (_, exact) = ledger.exact(&dead, &TIMING, 9 * DAY + TIMING.moment, place);
    assert_eq!(exact, Exact::Yours { suspect: false });
    ledger.tick(&other, &TIMING, 2 * DAY);
    // Marked first.
    for (later, abandoned) in [(0, false), (TIMING.lease, true)] {
        let now = 2 * DAY + TIMING.claim() + later;
        ledger.tick(&other, &TIMING, now);
        assert_eq!(ledger.list(None, now)[0].abandoned, abandoned);
    }
}
