//! When a container comes back, and when it does not.

use std::{fs, process::Command, thread, time::Duration};

use circuit_testing::{Ends, PATIENCE, TestNode, wait_until};

use crate::support::{NETWORK, RESTART, assert_exactly, create_ctr0, error_of, logged};

/// A container that writes a line to `runs` at each start.
fn run_counted(node: &TestNode, name: &str, policy: &str, then: &str) -> String {
    let folder = node.folder().join("files").join(name);
    fs::create_dir_all(&folder).unwrap();
    let mount = format!(
        "type=bind,src={},dst=/runs,options=rbind:rw",
        folder.display()
    );
    let script = format!("echo run >>/runs/runs; {then}");
    node.run_container_with(
        &["--mount", &mount],
        name,
        &[(RESTART, policy)],
        &["sh", "-c", &script],
    );
    folder.join("runs").to_string_lossy().into_owned()
}

fn count(runs: &str) -> usize {
    fs::read_to_string(runs).unwrap_or_default().lines().count()
}

fn settled(node: &TestNode, name: &str, runs: &str, want: usize) {
    wait_until(&format!("{name} ran {want} times"), PATIENCE, || {
        count(runs) >= want
    });
    // Longer than the next delays would be.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(count(runs), want, "{name}");
    assert_eq!(node.task_pid(name), None, "{name}");
}

#[test]
fn policies_end_where_they_should() {
    let node = crate::node().start();
    let no = run_counted(&node, "no", "no", "exit 1");
    let twice = run_counted(&node, "twice", "on-failure:2", "exit 1");
    let once = run_counted(&node, "once", "on-failure:5", "exit 0");
    let some = run_counted(
        &node,
        "some",
        "on-failure",
        "test $(wc -l </runs/runs) -ge 3",
    );
    let bad = run_counted(&node, "bad", "on-failure:many", "exit 1");
    settled(&node, "twice", &twice, 3);
    settled(&node, "some", &some, 3);
    for (name, runs) in [("no", &no), ("once", &once), ("bad", &bad)] {
        assert_eq!(count(runs), 1, "{name}");
        assert_eq!(node.task_pid(name), None, "{name}");
    }
    assert_eq!(logged(&node, &["WARN", "twice", "gives up"]), 1);
    assert_eq!(logged(&node, &["WARN", "bad", "on-failure:N"]), 1);

    // The count of attempts is remembered, and a start by hand begins anew.
    node.kill_daemon();
    node.start_daemon();
    settled(&node, "twice", &twice, 3);
    node.circuit(&["container", "start", "twice"]).ok();
    settled(&node, "twice", &twice, 6);
}

#[test]
fn delays_grow() {
    let node = crate::node().start();
    let runs = run_counted(&node, "web", "always", "exit 1");
    // 100, 200, 400, 800, 1600, 3200, 6400 ms: eight runs take 12.7 s.
    thread::sleep(Duration::from_secs(6));
    let first = count(&runs);
    assert!((3..=7).contains(&first), "{first} runs in 6 s");
    wait_until("it goes on", PATIENCE, || count(&runs) > first);
    let lines = logged(&node, &["web"]);
    assert!(lines < 40, "{lines} lines:\n{}", node.daemon_log());
}

#[test]
fn a_manual_stop_suspends_every_policy() {
    let node = crate::node().start();
    create_ctr0(&node);
    let policies = [
        ("a", "always"),
        ("u", "unless-stopped"),
        ("f", "on-failure"),
    ];
    let restart_daemon: [fn(&TestNode); 2] = [
        |node| {
            assert_eq!(node.stop_daemon(), Some(0));
        },
        TestNode::kill_daemon,
    ];
    for (name, policy) in policies {
        node.run_container(name, &[(NETWORK, "ctr0"), (RESTART, policy)], &[]);
        node.wait_for_addresses(name);
    }
    let stop = ["container", "stop", "a", "u", "f"];
    assert_eq!(
        node.circuit(&stop).ok(),
        "stopped a\nstopped u\nstopped f\n"
    );
    node.assert_nothing_left();
    for end in restart_daemon {
        thread::sleep(Duration::from_secs(2));
        for (name, _) in policies {
            assert_eq!(node.task_pid(name), None, "{name}");
        }
        end(&node);
        node.start_daemon();
    }
    thread::sleep(Duration::from_secs(2));
    for (name, _) in policies {
        assert_eq!(node.task_pid(name), None, "{name}");
        node.circuit(&["container", "start", name]).ok();
        node.wait_for_addresses(name);
        // The policy is in force again.
        let pid = node.task_pid(name).unwrap();
        node.kill_task(name);
        node.wait_for_new_task(name, pid);
    }
    assert_exactly(&node, &[("a", 1), ("u", 1), ("f", 1)]);
}

#[test]
fn a_stop_is_suspended_even_when_the_daemon_dies_right_after() {
    let node = crate::node().start();
    node.run_container("web", &[(RESTART, "always")], &[]);
    node.circuit(&["container", "stop", "web"]).ok();
    node.kill_daemon();
    node.start_daemon();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(node.task_pid("web"), None);
}

#[test]
fn a_start_without_circuit_ends_the_rest_too() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("web", &[(NETWORK, "ctr0"), (RESTART, "always")], &[]);
    node.wait_for_addresses("web");
    node.circuit(&["container", "stop", "web"]).ok();
    node.start_task("web");
    node.wait_for_addresses("web");
    let pid = node.task_pid("web").unwrap();
    node.kill_task("web");
    node.wait_for_new_task("web", pid);
    assert_exactly(&node, &[("web", 1)]);
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_in_time() {
    let node = crate::node().start();
    node.run_container("web", &[(RESTART, "always")], &["sleep", "1000"]);
    let stop = ["container", "stop", "--timeout", "1s", "web"];
    assert_eq!(node.circuit(&stop).ok(), "stopped web\n");
    assert_eq!(node.task_pid("web"), None);
    let restart = ["container", "restart", "-t", "1s", "web"];
    node.circuit(&restart).ok();
    assert!(node.task_pid("web").is_some());
}

#[test]
fn containers_of_containerds_own_restarter_are_left_alone() {
    let node = crate::node()
        .server(&["--reconcile-interval", "1s"])
        .start();
    create_ctr0(&node);
    let labels = [
        (NETWORK, "ctr0"),
        (RESTART, "always"),
        ("containerd.io/restart.status", "running"),
    ];
    node.run_container("web", &labels, &[]);
    node.wait_for_addresses("web");
    node.kill_task("web");
    node.assert_nothing_left();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(node.task_pid("web"), None);
    assert_eq!(logged(&node, &["web", "containerd.io/restart.status"]), 1);
    let error = error_of(node.circuit(&["container", "start", "web"]));
    assert!(error.contains("containerd.io/restart.status"), "{error}");
    // Whoever starts it, its networks are Circuit's.
    node.end_task("web");
    node.start_task("web");
    node.wait_for_addresses("web");
}

/// Images say which signal their program wants to be ended by.
#[test]
fn a_container_is_stopped_by_its_own_signal() {
    let node = crate::node().start();
    let folder = node.folder().join("files");
    fs::create_dir_all(&folder).unwrap();
    let mount = format!(
        "type=bind,src={},dst=/told,options=rbind:rw",
        folder.display()
    );
    let script = "trap '' TERM; trap 'echo asked >/told/told; exit 0' QUIT; \
                  touch /told/ready; while :; do sleep 0.1; done";
    node.run_container_with(&["--mount", &mount], "web", &[], &["sh", "-c", script]);
    node.run_container("other", &[], &[]);
    // As `ctr run` takes it from the image.
    for (container, signal) in [("web", "SIGQUIT"), ("other", "LOUD")] {
        let label = format!("io.containerd.image.config.stop-signal={signal}");
        node.ctr(&["containers", "label", container, &label]).ok();
    }
    wait_until("it listens", PATIENCE, || folder.join("ready").exists());
    node.circuit(&["container", "stop", "web"]).ok();
    assert_eq!(fs::read_to_string(folder.join("told")).unwrap(), "asked\n");
    // One that means nothing is passed over.
    node.circuit(&["container", "stop", "--timeout", "1s", "other"])
        .ok();
}

/// Tools ask daemons by it to read their settings anew.
#[test]
fn sighup_ends_nothing() {
    let node = crate::node().start();
    let daemon = node.daemon_pid();
    let ended = Command::new("kill")
        .args(["-HUP", &daemon.to_string()])
        .status();
    assert!(ended.unwrap().success());
    wait_until("it is told of", PATIENCE, || {
        logged(&node, &["SIGHUP"]) == 1
    });
    node.circuit(&["ps"]).ok();
    assert_eq!(node.daemon_pid(), daemon);
    assert_eq!(node.stop_daemon(), Some(0));
}

/// The signals that a process hears, as a bit each.
fn heard(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    line.map_or(0, |bits| u64::from_str_radix(bits.trim(), 16).unwrap())
}

/// A start that waits, here for a Redis that says nothing, can be ended, and SIGHUP does
/// not end it.
#[test]
fn signals_are_heard_from_the_start_on() {
    let node = crate::node().start();
    assert_eq!(node.stop_daemon(), Some(0));
    let silent =
        "my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1:6379', Listen => 9) or die; sleep";
    let mut perl = node.command("perl");
    let _silent = Ends(
        perl.args(["-MIO::Socket::INET", "-e", silent])
            .spawn()
            .unwrap(),
    );
    wait_until("something listens there", PATIENCE, || {
        node.run("ss", &["-Hltn", "sport = :6379"])
            .stdout
            .contains("6379")
    });
    let log = node.folder().join("second");
    let mut arguments = node.server_arguments();
    arguments.extend(["--redis-url", "redis://127.0.0.1:6379"].map(str::to_owned));
    let mut daemon = node
        .command(env!("CARGO_BIN_EXE_circuit"))
        .args(arguments)
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let told = || fs::read_to_string(&log).unwrap_or_default();
    let children = format!("/proc/{0}/task/{0}/children", daemon.id());
    let mut pid = daemon.id();
    wait_until("it hears signals", PATIENCE, || {
        let children = fs::read_to_string(&children).unwrap_or_default();
        pid = children
            .split_whitespace()
            .next()
            .map_or(pid, |pid| pid.parse().unwrap());
        heard(pid) & 1 != 0
    });
    assert!(!told().contains("serves node"), "{}", told());
    let kill = |signal: &str| {
        let words = [signal, &pid.to_string()];
        assert!(Command::new("kill").args(words).status().unwrap().success());
    };
    kill("-HUP");
    wait_until("it is told of", PATIENCE, || told().contains("SIGHUP"));
    kill("-TERM");
    let ended = daemon.wait().unwrap();
    assert!(ended.success(), "{ended}, {}", told());
    node.start_daemon();
}
