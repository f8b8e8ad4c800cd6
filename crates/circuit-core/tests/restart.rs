//! When a container is started again.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use circuit_core::restart::{
    Decision, FIRST_DELAY, LONGEST_DELAY, LastRun, NEVER_SEEN_GRACE, Policy, RestartState, decide,
    delay,
};
use proptest::prelude::*;

const NOW: Duration = Duration::ZERO;

fn ended(status: u32) -> LastRun {
    LastRun::Ended {
        status,
        ran: NOW,
        ago: NOW,
    }
}

fn fresh() -> RestartState {
    RestartState::default()
}

#[test]
fn every_value_of_old_means_always() {
    for value in ["", "true", "always", "yes", "1", "anything", "never"] {
        assert_eq!(Policy::parse(value).unwrap(), Policy::Always, "{value:?}");
    }
    assert_eq!(Policy::parse("no").unwrap(), Policy::No);
    assert_eq!(
        Policy::parse(" Unless-Stopped ").unwrap(),
        Policy::UnlessStopped
    );
    assert_eq!(
        Policy::parse("on-failure").unwrap(),
        Policy::OnFailure(None)
    );
    assert_eq!(
        Policy::parse("on-failure:3").unwrap(),
        Policy::OnFailure(Some(3))
    );
    assert!(Policy::parse("on-failure:many").is_err());
    assert!(Policy::parse("on-failure:-1").is_err());
}

#[test]
fn delays_double_from_a_tenth_of_a_second_to_a_minute() {
    let seen: Vec<u128> = (0..12).map(|streak| delay(streak).as_millis()).collect();
    assert_eq!(
        seen,
        [
            100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000
        ]
    );
}

#[test]
fn policies() {
    let first = Decision::StartIn(FIRST_DELAY);
    assert_eq!(decide(Policy::No, &fresh(), ended(1), 0), Decision::Stay);
    assert_eq!(decide(Policy::Always, &fresh(), ended(0), 0), first);
    assert_eq!(decide(Policy::UnlessStopped, &fresh(), ended(0), 0), first);
    assert_eq!(
        decide(Policy::OnFailure(None), &fresh(), ended(0), 0),
        Decision::Stay
    );
    assert_eq!(
        decide(Policy::OnFailure(None), &fresh(), ended(2), 0),
        first
    );
    // How it ended is not known after the machine went down.
    assert_eq!(
        decide(Policy::OnFailure(None), &fresh(), LastRun::Unknown(NOW), 0),
        Decision::Stay
    );
    assert_eq!(
        decide(Policy::Always, &fresh(), LastRun::Unknown(NOW), 0),
        first
    );
}

#[test]
fn a_task_that_is_missed_is_started_when_the_delay_is_over() {
    let missed = LastRun::Unknown(FIRST_DELAY);
    assert_eq!(
        decide(Policy::Always, &fresh(), missed, 0),
        Decision::StartIn(NOW)
    );
}

#[test]
fn on_failure_counts() {
    let tried = |failures| RestartState {
        failures,
        ..fresh()
    };
    let policy = Policy::OnFailure(Some(2));
    assert_eq!(
        decide(policy, &tried(1), ended(1), 1),
        Decision::StartIn(delay(1))
    );
    assert_eq!(decide(policy, &tried(2), ended(1), 2), Decision::GiveUp);
    assert_eq!(
        decide(Policy::OnFailure(Some(0)), &fresh(), ended(1), 0),
        Decision::GiveUp
    );
}

#[test]
fn time_that_has_passed_counts() {
    let last = LastRun::Ended {
        status: 1,
        ran: NOW,
        ago: Duration::from_millis(70),
    };
    assert_eq!(
        decide(Policy::Always, &fresh(), last, 0),
        Decision::StartIn(Duration::from_millis(30))
    );
    let long_ago = LastRun::Ended {
        status: 1,
        ran: NOW,
        ago: Duration::from_secs(70),
    };
    assert_eq!(
        decide(Policy::Always, &fresh(), long_ago, 30),
        Decision::StartIn(NOW)
    );
}

#[test]
fn whoever_made_a_container_has_time_to_start_it() {
    let young = LastRun::NeverSeen(Duration::from_secs(1));
    assert_eq!(
        decide(Policy::Always, &fresh(), young, 0),
        Decision::StartIn(NEVER_SEEN_GRACE - Duration::from_secs(1))
    );
    let old = LastRun::NeverSeen(Duration::from_secs(1000));
    assert_eq!(
        decide(Policy::Always, &fresh(), old, 0),
        Decision::StartIn(NOW)
    );
}

#[test]
fn a_stop_by_hand_holds_until_a_start_by_hand() {
    let mut state = RestartState {
        stopped: true,
        stopped_pid: Some(7),
        ..fresh()
    };
    for policy in [
        Policy::Always,
        Policy::UnlessStopped,
        Policy::OnFailure(None),
    ] {
        assert_eq!(decide(policy, &state, ended(1), 0), Decision::Stay);
        assert_eq!(
            decide(policy, &state, LastRun::Unknown(NOW), 0),
            Decision::Stay
        );
    }
    state.saw_task(7);
    assert!(state.stopped, "the task that was stopped is still ending");
    state.saw_task(8);
    assert!(!state.stopped, "somebody started it");
}

#[test]
fn a_start_by_hand_makes_attempts_count_anew() {
    let mut state = RestartState {
        failures: 3,
        pid: Some(7),
        ..fresh()
    };
    state.saw_task(7);
    assert_eq!(state.failures, 3);
    state.saw_task(8);
    assert_eq!(state.failures, 0);
    assert!(state.seen);
}

proptest! {
    #[test]
    fn no_delay_leaves_its_bounds(streak: u32, ago_ms: u64, status: u32) {
        prop_assert!((FIRST_DELAY..=LONGEST_DELAY).contains(&delay(streak)));
        let last = LastRun::Ended { status, ran: NOW, ago: Duration::from_millis(ago_ms) };
        if let Decision::StartIn(wait) = decide(Policy::Always, &fresh(), last, streak) {
            prop_assert!(wait <= delay(streak));
        }
    }

    #[test]
    fn a_policy_is_read_as_it_is_written(count: Option<u32>) {
        for policy in [Policy::No, Policy::Always, Policy::UnlessStopped, Policy::OnFailure(count)] {
            prop_assert_eq!(Policy::parse(&policy.to_string()).unwrap(), policy);
        }
    }

    #[test]
    fn no_label_panics(value in ".{0,40}") {
        let _ = Policy::parse(&value);
    }
}

#[test]
fn a_start_by_somebody_else_ends_what_was_begun() {
    let begun = |restarting: bool| RestartState {
        stopped: !restarting,
        restarting,
        stopped_pid: Some(7),
        failures: 2,
        ..fresh()
    };
    for restarting in [true, false] {
        let mut state = begun(restarting);
        // The task that is to end.
        state.saw_task(7);
        assert_eq!((state.stopped, state.restarting), (!restarting, restarting));
        state.saw_task(8);
        assert_eq!((state.stopped, state.restarting), (false, false));
        assert_eq!(state.stopped_pid, None);
    }
    let mut state = begun(true);
    state.begin_anew();
    assert_eq!(
        state,
        RestartState {
            seen: false,
            ..fresh()
        }
    );
}

#[test]
fn attempts_are_counted_through_a_crash_in_the_middle_of_one() {
    let mut state = RestartState {
        failures: 2,
        count: 5,
        pid: Some(7),
        launching: true,
        ..fresh()
    };
    // Made by the policy, though its pid was not written down any more.
    state.saw_task(8);
    assert_eq!((state.failures, state.count), (2, 5));
    state.launching = false;
    state.saw_task(9);
    assert_eq!((state.failures, state.count), (0, 0));
}
