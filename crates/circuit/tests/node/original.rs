//! Attachments that the original program made: CNI id = the task's pid, no
//! record but the extension.

use std::collections::BTreeMap;
use std::fs::{File, FileTimes};
use std::time::UNIX_EPOCH;

use circuit_api::v1::{ContainerNetworkConfig, NetworkConfig};
use circuit_testing::{Lan, NodeBuilder, PATIENCE, TestNode, network, wait_until};
use prost::Message as _;

use crate::support::{Api, NETWORK, RESTART, create_ctr0, error_of, ips, logged, member};

crate::on_both_plugins!(
    listed_and_disconnected,
    cleaned_when_its_task_ends,
    cleaned_when_its_task_is_gone_already,
    disconnected_from_a_network_without_a_version,
    what_it_forgot_of_a_running_container_is_found,
    what_it_left_of_tasks_that_are_gone_is_freed,
);

pub(crate) fn config() -> String {
    network::single_bridge("ctr0", "10.255.0.0/16")
}

/// Connects a running container as the original did.
pub(crate) fn connect_as_original(node: &TestNode, container: &str) -> String {
    connect_by(node, container, "ctr0", &config())
}

pub(crate) fn connect_by(node: &TestNode, container: &str, network: &str, config: &str) -> String {
    let pid = node.task_pid(container).unwrap().to_string();
    let netns = format!("/proc/{pid}/ns/net");
    let added = node.run_plugin("ADD", config, &pid, &netns, "eth0").ok();
    let result: serde_json::Value = serde_json::from_str(&added).unwrap();
    let address = result["ips"][0]["address"].as_str();
    let address = address.or(result["ip4"]["ip"].as_str()).unwrap();
    let ip = address.split('/').next().unwrap().to_owned();
    tell_of(node, container, network, &ip);
    ip
}

/// Has a container's extension tell of an address on `eth0`.
fn tell_of(node: &TestNode, container: &str, network: &str, ip: &str) {
    let entry = ContainerNetworkConfig {
        interface: "eth0".to_owned(),
        ip: ip.to_owned(),
    };
    let networks = BTreeMap::from([(network.to_owned(), entry)]);
    node.set_extension(container, NetworkConfig { networks }.encode_to_vec());
}

pub(crate) fn store(node: &TestNode) {
    std::fs::create_dir_all(node.store()).unwrap();
    std::fs::write(node.store().join("ctr0.json"), config()).unwrap();
}

fn disconnected_from_a_network_without_a_version(node: NodeBuilder) {
    let node = node.without_daemon().start();
    let mut config: serde_json::Value = serde_json::from_str(&config()).unwrap();
    config.as_object_mut().unwrap().remove("cniVersion");
    let config = config.to_string();
    std::fs::create_dir_all(node.store()).unwrap();
    std::fs::write(node.store().join("ctr0.json"), &config).unwrap();
    node.run_container("shell", &[], &[]);
    node.run_container("web", &[], &[]);
    connect_by(&node, "shell", "ctr0", &config);
    node.start_daemon();
    wait_until("it is listed", PATIENCE, || ips(&node, "shell").len() == 1);
    node.circuit(&["network", "connect", "web", "ctr0"]).ok();
    assert_eq!(ips(&node, "web").len(), 1);
    for container in ["shell", "web"] {
        let disconnect = ["network", "disconnect", container, "ctr0"];
        node.circuit(&disconnect).ok();
        assert_eq!(node.interfaces(container), []);
    }
    node.assert_nothing_left();
}

fn is_empty(node: &TestNode, container: &str) -> bool {
    node.extension(container)
        .is_none_or(|(_, value)| value.is_empty())
}

fn listed_and_disconnected(node: NodeBuilder) {
    let node = node.without_daemon().start();
    store(&node);
    node.run_container("shell", &[], &[]);
    let ip = connect_as_original(&node, "shell");
    let before = node.interfaces("shell");
    node.start_daemon();
    let row = ["ctr0", ip.as_str(), "eth0"].map(str::to_owned);
    wait_until("it is listed", PATIENCE, || {
        ips(&node, "shell") == [row.clone()]
    });

    // Connected it is already.
    let api = Api::of(&node);
    assert_eq!(api.connect("shell", "ctr0").unwrap().ip, ip);
    assert_eq!(node.interfaces("shell"), before);
    assert_eq!(node.leases().len(), 1);
    // In use it is, too.
    node.circuit(&["network", "delete", "ctr0"]).fails(1);

    node.circuit(&["network", "disconnect", "shell", "ctr0"])
        .ok();
    assert_eq!(node.interfaces("shell"), []);
    node.assert_nothing_left();
    wait_until("the extension is empty", PATIENCE, || {
        is_empty(&node, "shell")
    });
}

fn cleaned_when_its_task_ends(node: NodeBuilder) {
    let node = node.start();
    create_ctr0(&node);
    // Made while ours is away, as on a node that changes over.
    node.stop_daemon();
    store(&node);
    node.run_container("shell", &[], &[]);
    connect_as_original(&node, "shell");
    node.start_daemon();
    wait_until("it is listed", PATIENCE, || ips(&node, "shell").len() == 1);
    node.kill_task("shell");
    node.assert_nothing_left();
    wait_until("the extension is empty", PATIENCE, || {
        is_empty(&node, "shell")
    });
}

fn cleaned_when_its_task_is_gone_already(node: NodeBuilder) {
    let node = node.without_daemon().start();
    store(&node);
    for (container, labels) in [("shell", &[][..]), ("web", &[(NETWORK, "ctr0")])] {
        node.run_container(container, labels, &[]);
        connect_as_original(&node, container);
        node.end_task(container);
    }
    assert_eq!(node.leases().len(), 2);
    node.start_daemon();
    node.assert_nothing_left();
    for container in ["shell", "web"] {
        wait_until("the extension is empty", PATIENCE, || {
            is_empty(&node, container)
        });
    }
}

/// The original took the end of a process exec'd in a labelled container for the task's.
fn what_it_forgot_of_a_running_container_is_found(node: NodeBuilder) {
    let node = node.without_daemon().start();
    store(&node);
    let labels = [
        (NETWORK, "ctr0"),
        (&format!("{NETWORK}.ctr0.interface"), "eth0"),
    ];
    let known: Vec<_> = [("web", &labels[..]), ("shell", &[])]
        .into_iter()
        .map(|(container, labels)| {
            node.run_container(container, labels, &[]);
            let ip = connect_as_original(&node, container);
            node.set_extension(container, Vec::new());
            (container, ip, node.interfaces(container))
        })
        .collect();
    node.start_daemon();
    let connected = node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    assert!(connected.contains(&known[1].1), "{connected}");
    for (container, ip, interfaces) in known {
        let row = ["ctr0", ip.as_str(), "eth0"].map(str::to_owned);
        wait_until("it is listed", PATIENCE, || {
            ips(&node, container) == [row.clone()]
        });
        assert_eq!(node.interfaces(container), interfaces);
        assert!(!is_empty(&node, container));
        node.end_task(container);
    }
    node.assert_nothing_left();
}

/// It kept the addresses of containers connected by hand. Others' stay.
fn what_it_left_of_tasks_that_are_gone_is_freed(node: NodeBuilder) {
    let node = node.without_daemon().start();
    store(&node);
    for container in ["shell", "web", "alive"] {
        node.run_container(container, &[], &[]);
        connect_as_original(&node, container);
        node.set_extension(container, Vec::new());
    }
    let pid = node.task_pid("alive").unwrap().to_string();
    let netns = format!("/proc/{pid}/ns/net");
    node.run_plugin("ADD", &config(), "theirs", &netns, "eth1")
        .ok();
    for container in ["shell", "web"] {
        node.remove_container(container);
    }
    assert_eq!(node.leases().len(), 4);
    node.start_daemon();
    wait_until("two are freed", PATIENCE, || node.leases().len() == 2);
    let others = node.interfaces("alive").into_iter();
    let others = others.flat_map(|interface| interface.addresses);
    let others: Vec<String> = others
        .map(|address| format!("ctr0/{}", address.split('/').next().unwrap()))
        .collect();
    assert_eq!(node.leases(), others);
    for (id, interface) in [(pid.as_str(), "eth0"), ("theirs", "eth1")] {
        node.run_plugin("DEL", &config(), id, &netns, interface)
            .ok();
    }
    node.assert_nothing_left();
}

#[test]
fn a_labelled_container_of_the_original_keeps_its_address() {
    let node = crate::node().without_daemon().start();
    store(&node);
    let labels = [(NETWORK, "ctr0"), (RESTART, "true")];
    node.run_container("web", &labels, &[]);
    let ip = connect_as_original(&node, "web");
    let pid = node.task_pid("web").unwrap();
    node.start_daemon();
    wait_until("it is listed", PATIENCE, || ips(&node, "web").len() == 1);
    assert_eq!(node.addresses("web"), [format!("{ip}/16")]);
    assert_eq!(node.leases(), [format!("ctr0/{ip}")]);
    // Its next task is ours.
    node.kill_task("web");
    node.wait_for_new_task("web", pid);
    node.wait_for_addresses("web");
    wait_until("one lease", PATIENCE, || node.leases().len() == 1);
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn a_daemon_that_restarts_still_knows_it() {
    let node = crate::node().without_daemon().start();
    store(&node);
    node.run_container("shell", &[], &[]);
    connect_as_original(&node, "shell");
    for _ in 0..2 {
        node.start_daemon();
        wait_until("it is listed", PATIENCE, || ips(&node, "shell").len() == 1);
        node.kill_daemon();
    }
    node.start_daemon();
    node.circuit(&["network", "disconnect", "shell", "ctr0"])
        .ok();
    node.assert_nothing_left();
}

/// An address that a stale extension tells of may be another's by now.
#[test]
fn nothing_of_another_running_container_is_taken_over() {
    let node = crate::node().without_daemon().start();
    store(&node);
    for container in ["web", "shell", "ended"] {
        node.run_container(container, &[], &[]);
    }
    let ip = connect_as_original(&node, "web");
    let netns = format!("/proc/{}/ns/net", node.task_pid("shell").unwrap());
    node.run_plugin("ADD", &config(), "theirs", &netns, "eth0")
        .ok();
    let theirs = node.interfaces("shell");
    for container in ["shell", "ended"] {
        tell_of(&node, container, "ctr0", &ip);
    }
    node.end_task("ended");
    node.start_daemon();
    for container in ["shell", "ended"] {
        wait_until("the extension is empty", PATIENCE, || {
            is_empty(&node, container)
        });
    }
    let disconnect = ["network", "disconnect", "shell", "ctr0"];
    let told = error_of(node.circuit(&disconnect));
    assert!(told.contains("is not connected"), "{told}");
    assert_eq!(node.interfaces("shell"), theirs);
    let lease = format!("ctr0/{ip}");
    assert!(node.leases().contains(&lease), "{:?}", node.leases());
    let row = ["ctr0", ip.as_str(), "eth0"].map(str::to_owned);
    assert_eq!(ips(&node, "web"), [row]);
    node.run_plugin("DEL", &config(), "theirs", &netns, "eth0")
        .ok();
    node.end_task("web");
    node.assert_nothing_left();
}

/// Runs a container that has an interface of which no network here knows.
fn run_with_foreign(node: &TestNode, container: &str) {
    node.run_container(container, &[], &[]);
    for made in [
        "link add eth0 type bridge",
        "addr add 10.254.0.2/16 dev eth0",
        "link set eth0 up",
    ] {
        let command: Vec<&str> = ["ip"].into_iter().chain(made.split(' ')).collect();
        node.in_netns(container, &command).ok();
    }
}

/// The original held an address for a task that is gone, and another has its pid now.
#[test]
fn an_interface_without_the_address_that_is_held_is_not_taken_over() {
    let node = crate::node().start();
    create_ctr0(&node);
    run_with_foreign(&node, "shell");
    let leases = node.path("/var/lib/cni/networks/ctr0");
    std::fs::create_dir_all(&leases).unwrap();
    let (lease, pid) = (leases.join("10.255.0.9"), node.task_pid("shell").unwrap());
    std::fs::write(&lease, format!("{pid}\r\neth0")).unwrap();
    let theirs = node.interfaces("shell");
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    let row = ["ctr0", "10.255.0.2", "eth1"].map(str::to_owned);
    assert_eq!(ips(&node, "shell"), [row]);
    node.circuit(&["network", "disconnect", "shell", "ctr0"])
        .ok();
    assert_eq!(node.interfaces("shell"), theirs);
    assert_eq!(node.leases(), ["ctr0/10.255.0.9"]);
    std::fs::remove_file(lease).unwrap();
    node.assert_nothing_left();
}

/// There may be thousands of leases, and many containers with interfaces of others.
#[test]
fn leases_of_others_are_not_read_to_tell_whose_an_interface_is() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("web", &[], &[]);
    node.circuit(&["network", "connect", "web", "ctr0"]).ok();
    run_with_foreign(&node, "shell");
    let lease = node.path("/var/lib/cni/networks/ctr0/10.255.0.2");
    let unread = FileTimes::new().set_accessed(UNIX_EPOCH);
    File::open(&lease).unwrap().set_times(unread).unwrap();
    let read = || lease.metadata().unwrap().accessed().unwrap();
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    assert_eq!(read(), UNIX_EPOCH);
    // It would have been seen.
    std::fs::read(&lease).unwrap();
    assert_ne!(read(), UNIX_EPOCH);
    for container in ["web", "shell"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

/// What cannot be taken over yet stays as it is, and stays told of.
#[test]
fn its_network_may_come_later() {
    let node = crate::node().without_daemon().start();
    node.run_container("shell", &[], &[]);
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    let [shell, web] = ["shell", "web"].map(|container| {
        let ip = connect_as_original(&node, container);
        (node.interfaces(container), node.extension(container), ip)
    });
    node.start_daemon();
    for container in ["shell", "web"] {
        wait_until("it is told of", PATIENCE, || {
            logged(&node, &[container, "cannot be taken over"]) > 0
        });
    }
    for (container, (interfaces, extension, ip)) in [("shell", &shell), ("web", &web)] {
        let row = ["ctr0", ip.as_str(), "eth0"].map(str::to_owned);
        assert_eq!(ips(&node, container), [row]);
        assert_eq!(node.interfaces(container), *interfaces);
        assert_eq!(node.extension(container), *extension);
        let told = error_of(node.circuit(&["network", "connect", container, "ctr0"]));
        assert!(told.contains("network ctr0 does not exist"), "{told}");
    }
    // Restarted or not.
    node.kill_daemon();
    node.start_daemon();
    node.create_network("ctr0", &config());
    for (container, (interfaces, _, ip)) in [("shell", &shell), ("web", &web)] {
        let row = ["ctr0", ip.as_str(), "eth0"].map(str::to_owned);
        wait_until("it is taken over", PATIENCE, || {
            ips(&node, container) == [row.clone()]
        });
        assert_eq!(node.interfaces(container), *interfaces);
        node.circuit(&["network", "disconnect", container, "ctr0"])
            .ok();
    }
    node.assert_nothing_left();
}

/// Whoever is asked, this node or another, answers for a task that lives.
#[test]
fn its_address_is_known_before_its_network_is() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let node = member(&lan, "node0", 15).without_daemon().start();
    let other = member(&lan, "node1", 15).start();
    node.run_container("shell", &[], &[]);
    let ip = connect_as_original(&node, "shell");
    node.start_daemon();
    let row = ["ctr0", ip.as_str(), "eth0"].map(str::to_owned);
    for asked in [&node, &other] {
        wait_until("it is known", PATIENCE, || {
            let listed = asked.circuit(&["network", "ips", "shell"]);
            listed.worked() && ips(asked, "shell") == [row.clone()]
        });
    }
    node.kill_task("shell");
    wait_until("it is known no more", PATIENCE, || {
        ips(&node, "shell").is_empty() && !other.circuit(&["network", "ips", "shell"]).worked()
    });
    node.create_network("ctr0", &config());
    node.assert_nothing_left();
}

/// A task that cannot be looked at has not ended.
#[test]
fn a_task_that_cannot_be_looked_at_keeps_its_address() {
    let node = crate::node()
        .server(&["--reconcile-interval", "1s"])
        .without_daemon()
        .start();
    store(&node);
    node.run_container("shell", &[], &[]);
    let ip = connect_as_original(&node, "shell");
    let namespaces = format!("/proc/{}/ns", node.task_pid("shell").unwrap());
    node.run("mount", &["-t", "tmpfs", "hidden", &namespaces])
        .ok();
    node.start_daemon();
    wait_until("it is told of", PATIENCE, || {
        logged(&node, &["WARN", "shell"]) > 0
    });
    let stays = ["network", "disconnect", "shell", "ctr0"];
    node.circuit(&stays).fails(1);
    assert_eq!(node.leases(), [format!("ctr0/{ip}")]);
    assert!(!is_empty(&node, "shell"));
    node.run("umount", &[&namespaces]).ok();
    wait_until("it is taken over", PATIENCE, || {
        ips(&node, "shell").len() == 1
    });
    node.circuit(&stays).ok();
    node.assert_nothing_left();
}
