//! The unit that packages install, run by systemd itself: with the unit's
//! capabilities and system calls the daemon does its whole work; it says when it
//! is ready, and is started again when it hangs.
//!
//! The systemd is one for users, which needs not be process 1. Run by root it does
//! to services what the system's own does.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use circuit_testing::{PATIENCE, TestNode, network, wait_until};

use crate::node;
use crate::support::{DNS, NETWORK, RESTART, logged};

const UNIT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../packaging/systemd/circuit.service"
);
/// Where the node's systemd has its sockets.
const RUNTIME_DIR: &str = "/run/manager";

/// It moves into a cgroup of its own, in every hierarchy that there is.
const SCRIPT: &str = r#"
set -eu
cgroup=$1 units=$2
for folder in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ -e "$folder/cgroup.procs" ] || continue
    mkdir -p "$folder$cgroup"
    echo $$ >"$folder$cgroup/cgroup.procs"
done
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
exec env SYSTEMD_UNIT_PATH="$units" /lib/systemd/systemd --user --log-target=console
"#;

/// A node's systemd, and Circuit as its service.
struct Service {
    node: TestNode,
    manager: Child,
}

impl Drop for Service {
    fn drop(&mut self) {
        // This is nsenter's process; systemd ends with the node.
        let _ = self.manager.kill();
        let _ = self.manager.wait();
    }
}

impl Service {
    /// Starts the unit as it is but for the program's place and flags, and for
    /// `changes`.
    fn start(changes: &str) -> Self {
        let node = node().without_daemon().start();
        let folder = node.folder().to_owned();
        let units = folder.join("units");
        let drop_ins = units.join("circuit.service.d");
        fs::create_dir_all(&drop_ins).unwrap();
        fs::copy(UNIT, units.join("circuit.service")).unwrap();
        for target in ["default", "basic", "shutdown", "network"] {
            let text = "[Unit]\nDefaultDependencies=no\n";
            fs::write(units.join(format!("{target}.target")), text).unwrap();
        }
        let mut flags = node.server_arguments();
        flags.push("--debug".to_owned());
        let log = folder.join("circuit.log");
        let (program, flags, log) = (node.program(), flags.join(" "), log.display());
        let text = format!(
            "[Service]\nExecStart=\nExecStart={program} {flags}\n\
             StandardOutput=append:{log}\nStandardError=append:{log}\n{changes}\n"
        );
        fs::write(drop_ins.join("test.conf"), text).unwrap();
        let manager = start_manager(&node, &units);
        let service = Self { node, manager };
        wait_until("systemd serves", PATIENCE, || {
            service
                .node
                .path(&format!("{RUNTIME_DIR}/systemd/private"))
                .exists()
        });
        service.systemctl(&["start", "circuit"]);
        service
    }

    fn systemctl(&self, arguments: &[&str]) -> String {
        let runtime = format!("XDG_RUNTIME_DIR={RUNTIME_DIR}");
        let command = [&[&runtime, "systemctl", "--user", "--no-pager"], arguments].concat();
        self.node.run("env", &command).ok().trim().to_owned()
    }

    fn property(&self, name: &str) -> String {
        self.systemctl(&["show", "--value", "-p", name, "circuit"])
    }

    /// A line of what the kernel says of the daemon's process.
    fn status(&self, key: &str) -> String {
        let path = format!("/proc/{}/status", self.property("MainPID"));
        let status = self.node.run("cat", &[&path]).ok();
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    }
}

fn start_manager(node: &TestNode, units: &Path) -> Child {
    let cgroup = format!("/circuit-test/{}/systemd", node.name());
    let log = fs::File::create(node.folder().join("systemd.log")).unwrap();
    node.command("sh")
        .args(["-c", SCRIPT, "systemd", &cgroup])
        .arg(units)
        .env("XDG_RUNTIME_DIR", RUNTIME_DIR)
        .env("HOME", RUNTIME_DIR)
        .env_remove("DBUS_SESSION_BUS_ADDRESS")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The capabilities that the unit keeps.
fn capabilities() -> Vec<String> {
    let unit = fs::read_to_string(UNIT).unwrap();
    let lines = unit.lines();
    lines
        .filter_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect()
}

/// What the daemon is for; the first thing that does not work is the error.
fn whole_work(node: &TestNode) -> Result<(), String> {
    let worked = |what: &str, ran: circuit_testing::Ran| match ran.worked() {
        true => Ok(ran.stdout),
        false => Err(format!("{what}: {ran}")),
    };
    let configuration = |name: &str, subnet: &str, way: &str| {
        let text = network::full(name, subnet);
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["io.circuit.data-path"] = way.into();
        value[DNS] = true.into();
        value.to_string()
    };
    for (name, subnet, way) in [
        ("ctr0", "10.255.0.0/16", "native"),
        ("ctr1", "10.254.0.0/16", "exec"),
    ] {
        let file = node.file(
            &format!("{name}.conflist"),
            configuration(name, subnet, way),
        );
        worked("create", node.circuit(&["network", "create", name, &file]))?;
    }
    // Its folder of settings belongs to somebody else.
    node.run_container("shell", &[(DNS, "true")], &[]);
    let owned = ["chown", "-R", "1000:1000", "/etc"];
    worked("chown", node.exec("shell", &owned))?;
    for name in ["ctr0", "ctr1"] {
        worked(name, node.circuit(&["network", "connect", "shell", name]))?;
    }
    worked(
        "ping",
        node.exec("shell", &["ping", "-c", "1", "-W", "5", "10.255.0.1"]),
    )?;
    worked(
        "ping",
        node.exec("shell", &["ping", "-c", "1", "-W", "5", "10.254.0.1"]),
    )?;
    let labels = [
        (NETWORK, "ctr0"),
        (RESTART, "always"),
        (DNS, "true"),
        ("io.circuit.ports", "8080:80/tcp"),
    ];
    node.run_container("web", &labels, &[]);
    node.wait_for_addresses("web");
    let pid = node.task_pid("web").unwrap();
    node.kill_task("web");
    wait_until("web runs again", PATIENCE, || {
        node.task_pid("web").is_some_and(|new| new != pid)
    });
    node.wait_for_addresses("web");
    for container in ["web", "shell"] {
        worked("dns", node.exec(container, &["nslookup", "web.ctr0"]))?;
    }
    worked(
        "disconnect",
        node.circuit(&["network", "disconnect", "shell", "ctr1"]),
    )?;
    let log = node.daemon_log();
    let complaint = log.lines().find(|line| {
        line.contains(" WARN ") || line.contains("ERROR") || line.contains("were not told")
    });
    complaint.map_or(Ok(()), |line| Err(line.to_owned()))
}

fn cleaned(node: &TestNode) {
    node.remove_container("web");
    node.remove_container("shell");
    node.assert_nothing_left();
}

#[test]
fn it_is_enough_for_the_whole_work() {
    let service = Service::start("");
    assert_eq!(service.property("ActiveState"), "active");
    assert!(service.property("StatusText").starts_with("serving on "));
    let wanted: Vec<String> = capabilities()
        .iter()
        .map(|one| one.to_lowercase())
        .collect();
    let mut told: Vec<String> = service
        .property("CapabilityBoundingSet")
        .split(' ')
        .map(str::to_owned)
        .collect();
    told.sort();
    let mut sorted = wanted.clone();
    sorted.sort();
    assert_eq!(told, sorted);
    let count = u64::from_str_radix(&service.status("CapEff"), 16)
        .unwrap()
        .count_ones();
    assert_eq!(count as usize, wanted.len());
    assert_eq!(service.status("NoNewPrivs"), "1");
    assert_eq!(service.status("Seccomp"), "2");
    let node = &service.node;
    whole_work(node).unwrap();
    let log = node.daemon_log();
    assert!(!is_forbidden(&log), "{log}");

    // Attachments and their pins outlive the daemon.
    let (pins, addresses) = (node.pins(), node.wait_for_addresses("shell"));
    assert!(!pins.is_empty());
    service.systemctl(&["stop", "circuit"]);
    assert_eq!(service.property("Result"), "success");
    assert_eq!(node.pins(), pins);
    service.systemctl(&["start", "circuit"]);
    assert_eq!(node.wait_for_addresses("shell"), addresses);
    node.exec("shell", &["ping", "-c", "1", "-W", "5", "10.255.0.1"])
        .ok();
    cleaned(node);
}

#[test]
fn one_with_mounts_of_its_own_is_told_that_its_pins_end_with_it() {
    let service = Service::start("ReadOnlyPaths=/usr/share");
    let told = ["pinned namespaces end with the daemon"];
    assert_eq!(logged(&service.node, &told), 1);
}

#[test]
fn one_that_hangs_is_started_again() {
    let service = Service::start("WatchdogSec=10s\nTimeoutAbortSec=1s");
    let pid = service.property("MainPID");
    // It is called alive for as long as it lives.
    std::thread::sleep(std::time::Duration::from_secs(12));
    assert_eq!(
        (service.property("MainPID"), service.property("NRestarts")),
        (pid.clone(), "0".into())
    );
    service.node.run("kill", &["-STOP", &pid]).ok();
    wait_until("it is started again", PATIENCE, || {
        service.property("NRestarts") != "0" && service.property("ActiveState") == "active"
    });
    assert_ne!(service.property("MainPID"), pid);
    service.node.circuit(&["network", "ls"]).ok();
}

/// Whether the kernel did not let the daemon do something.
fn is_forbidden(told: &str) -> bool {
    let told = told.to_lowercase();
    let words = ["operation not permitted", "permission denied"];
    words.iter().any(|words| told.contains(words))
}

#[test]
fn each_capability_is_needed() {
    let all = capabilities();
    for one in &all {
        let rest = all.iter().filter(|other| *other != one);
        let rest: Vec<_> = rest.map(String::as_str).collect();
        let without = rest.join(" ");
        let changes = format!("CapabilityBoundingSet=\nCapabilityBoundingSet={without}");
        let service = Service::start(&changes);
        let worked = whole_work(&service.node);
        let told = worked.expect_err(&format!("everything works without {one}"));
        let told = format!("{told}\n{}", service.node.daemon_log());
        assert!(is_forbidden(&told), "without {one} something else: {told}");
    }
}
