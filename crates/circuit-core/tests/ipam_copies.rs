//! Two hosts that are one node, for one is a copy of the other.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use circuit_core::ipam::ledger::Ledger;
use circuit_core::ipam::wire::Wanted;
use circuit_core::ipam::{AddressSet, Agent, Entry, Hello, Span, Timing, Trust, User, Wish};

const TIMING: Timing = Timing {
    lease: 30_000,
    grace: 600_000,
    moment: 0,
};

fn set() -> AddressSet {
    AddressSet {
        spans: vec![Span {
            subnet: "10.0.0.0/24".parse().unwrap(),
            first: IpAddr::from([10, 0, 0, 2]),
            last: IpAddr::from([10, 0, 0, 20]),
            gateway: IpAddr::from([10, 0, 0, 1]),
        }],
    }
}

fn hello(place: &str) -> Hello {
    Hello {
        node: "id".into(),
        name: "host".into(),
        epoch: String::new(),
        count: 0,
        fresh: "epoch".into(),
        place: place.into(),
    }
}

/// An address for a container, on this wire.
fn wanted(link: Option<&str>, unasked: bool) -> Wanted {
    Wanted {
        pool: "lan".into(),
        network: "net".into(),
        user: User {
            container: "c".into(),
            ifname: "eth0".into(),
        },
        sets: vec![set()],
        wishes: Vec::new(),
        link: link.map(str::to_owned),
        unasked,
    }
}

#[test]
fn a_copy_of_a_node_is_given_nothing_while_the_other_lives() {
    let (mut ledger, all) = (Ledger::default(), set());
    let mut copy = Agent::new(hello("copy"), TIMING);
    let (lease, other, own) = (TIMING.lease, copy.hello.clone(), hello("here"));
    assert_eq!(ledger.tick(&own, &TIMING, 1).standing.taken, None);
    let wish = Wish {
        pool: "lan",
        set: &all,
        want: 1,
        abandoned: 1,
    };
    let ip = IpAddr::from([10, 0, 0, 7]);
    for step in 1..=3 {
        let now = step * (lease - 10);
        let tick = ledger.tick(&other, &TIMING, now);
        assert_eq!(tick.standing.taken.as_deref(), Some("host"));
        copy.heard(&tick, now);
        assert_eq!(copy.trust(now), Trust::Lost);
        let taken = ledger.take(&other, &TIMING, now, &wish);
        assert_eq!(taken.addresses, [] as [IpAddr; 0]);
        let (standing, _) = ledger.exact(&other, &TIMING, now, ("lan", ip));
        assert!(standing.taken.is_some());
        assert!(ledger.held_by(&own.node).is_empty());
        // The same from the same place is the same, whenever it was started.
        assert_eq!(ledger.tick(&own, &TIMING, now).standing.taken, None);
    }
    // It may have been this host before a start.
    assert_eq!(copy.taken(), Some(("host", false)));
    let mut now = 4 * (lease - 10);
    copy.heard(&ledger.tick(&other, &TIMING, now), now);
    assert_eq!(copy.taken(), Some(("host", true)));
    // A host that is there no more is this one: what it holds is asked for for a while.
    now = 4 * lease - 30;
    let tick = ledger.tick(&other, &TIMING, now);
    assert!(tick.standing.taken.is_none() && tick.moved);
    copy.heard(&tick, now);
    assert_eq!(copy.trust(now), Trust::Lost, "it was told for good");
    let mut again = Agent::new(other, TIMING);
    again.heard(&tick, now);
    again.all_claimed(now);
    let addresses = vec![ip];
    let suspect = false;
    again.apply("lan", &Entry::Hold { addresses, suspect });
    let wanted = wanted(None, false);
    assert_eq!(again.give(&wanted, now).unwrap().suspect, [ip]);
}

#[test]
fn what_a_copy_has_in_stock_too_is_suspect_where_no_wire_can_be_asked() {
    let moves = |unasked: bool, born: u64| {
        let mut ledger = Ledger::default();
        let mut agent = Agent::new(hello("here"), TIMING);
        let (first, ip) = (ledger.tick(&agent.hello, &TIMING, 1), [10, 0, 0, 7].into());
        agent.heard(&first, 1);
        if born > 1 {
            ledger.restarted(&TIMING, born);
        }
        let mut now = born + TIMING.trusted();
        agent.heard(&ledger.tick(&agent.hello, &TIMING, now), now);
        agent.all_claimed(now);
        ledger.exact(&agent.hello, &TIMING, now, ("lan", ip));
        let addresses = vec![ip];
        let suspect = false;
        agent.apply("lan", &Entry::Hold { addresses, suspect });
        // The copy of it.
        agent.hello.place = "copy".into();
        now += 2 * TIMING.lease;
        let tick = ledger.tick(&agent.hello, &TIMING, now);
        assert!(tick.moved);
        let marked = Entry::Hold {
            addresses: vec![ip],
            suspect: true,
        };
        let told = agent.heard(&tick, now).entries;
        assert_eq!(told, [("lan".to_owned(), marked)]);
        let wanted = wanted((!unasked).then_some("eth1"), unasked);
        let given = agent.give(&wanted, now).unwrap();
        assert_eq!(given.suspect, [ip]);
        agent.release("lan", &wanted.user);
        let withheld = agent.withheld_for("lan", ip, now);
        assert_eq!(withheld, Some(TIMING.trusted()), "{born}");
        let is_suspect = |agent: &Agent| agent.pools()["lan"].holding.is_suspect(ip);
        now += TIMING.trusted() - 1;
        agent.heard(&ledger.tick(&agent.hello, &TIMING, now), now);
        assert!(is_suspect(&agent));
        assert_eq!(agent.withheld_for("lan", ip, now), Some(1));
        now += 1;
        assert_eq!(agent.withheld_for("lan", ip, now), Some(0));
        let told = agent.heard(&ledger.tick(&agent.hello, &TIMING, now), now);
        (told.entries, is_suspect(&agent))
    };
    let clear = Entry::Clear {
        address: [10, 0, 0, 7].into(),
    };
    // Whether Redis was ever started anew, or not.
    for born in [1, 100_000] {
        let cleared = (vec![("lan".to_owned(), clear.clone())], false);
        assert_eq!(moves(true, born), cleared, "{born}");
        // Where it can be asked, it is.
        assert_eq!(moves(false, born), (Vec::new(), true), "{born}");
    }
}

#[test]
fn stock_that_others_call_for_goes_back_where_no_container_has_come_since_a_reboot() {
    let mut ledger = Ledger::default();
    let (ip, trusted) = (IpAddr::from([10, 0, 0, 7]), TIMING.trusted());
    let mut agent = Agent::new(hello("before"), TIMING);
    agent.heard(&ledger.tick(&agent.hello, &TIMING, 1), 1);
    ledger.exact(&agent.hello, &TIMING, 1, ("lan", ip));
    let addresses = vec![ip];
    let suspect = false;
    agent.apply("lan", &Entry::Hold { addresses, suspect });
    agent.hello.place = "after".into();
    let moved = 2 * TIMING.lease;
    let mut at = |now: u64| {
        ledger.want("lan", now);
        let duty = agent.heard(&ledger.tick(&agent.hello, &TIMING, now), now);
        agent.all_claimed(now);
        let holding = &agent.pools()["lan"].holding;
        (duty.give_back, holding.is_suspect(ip))
    };
    // Where the wire cannot be asked nobody could ever give it, as long as it is suspect.
    assert_eq!(at(moved), (Vec::new(), true));
    assert_eq!(at(moved + trusted - 1), (Vec::new(), true));
    let back = vec![("lan".to_owned(), vec![ip])];
    assert_eq!(at(moved + trusted), (back, false));
}
