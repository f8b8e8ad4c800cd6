//! Other programs of the host that use the same networks: another daemon for
//! another namespace of containerd, `ctr run --cni`, nerdctl.

use circuit_testing::{IMAGE, PATIENCE, Plugins, Ran, TestNode, wait_until};
use serde_json::{Value, json};

use crate::support::{assert_names, error_of};

const NETWORK: &str = "shared";

fn plugins() -> [Value; 2] {
    let subnet = json!([[{ "subnet": "10.88.0.0/16" }]]);
    [
        json!({"type": "bridge", "bridge": "shared0", "isGateway": true, "ipMasq": true,
            "ipam": {"type": "host-local", "ranges": subnet,
                "routes": [{ "dst": "0.0.0.0/0" }]}}),
        json!({"type": "portmap", "capabilities": { "portMappings": true }}),
    ]
}

/// A node with a network of the version by which runtimes clean up, whose plugins
/// do: the stock ones say yes, and do nothing.
fn node() -> TestNode {
    let node = crate::node().plugins(Plugins::None).start();
    let list = json!({"cniVersion": "1.1.0", "name": NETWORK, "plugins": plugins()});
    node.create_network(NETWORK, &list.to_string());
    node
}

/// Runs the plugins as another runtime, that publishes a port.
fn by_another(node: &TestNode, operation: &str, id: &str, netns: &str, port: u16) {
    let environment = [
        ("CNI_COMMAND", operation),
        ("CNI_CONTAINERID", id),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/nonexistent"),
    ];
    let mut result = Value::Null;
    for mut plugin in plugins() {
        plugin["cniVersion"] = json!("1.1.0");
        plugin["name"] = json!(NETWORK);
        plugin["runtimeConfig"] = json!({"portMappings":
            [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]});
        if !result.is_null() {
            plugin["prevResult"] = result.clone();
        }
        let kind = plugin["type"].as_str().unwrap().to_owned();
        let input = plugin.to_string();
        let arguments = ["cni", kind.as_str()];
        let program = node.program();
        let ran = node.run_with(&program, &arguments, &environment, input.as_bytes());
        let told = ran.ok();
        if operation == "ADD" {
            result = serde_json::from_str(&told).unwrap();
        }
    }
}

/// A lease of the network that nobody has any more.
fn stray(node: &TestNode, address: &str, owner: &str) -> std::path::PathBuf {
    let lease = node.path(&format!("/var/lib/cni/networks/{NETWORK}/{address}"));
    std::fs::write(&lease, format!("{owner}\r\neth0")).unwrap();
    lease
}

fn leaks(node: &TestNode, arguments: &[&str]) -> String {
    let told = node.circuit(&[&["doctor"], arguments].concat());
    let line = told.stdout.lines().find(|line| line.contains("leaks"));
    line.expect("a line about leaks").to_owned()
}

#[test]
fn others_keep_what_they_have() {
    let node = node();
    node.run_container("web", &[], &[]);
    let connect = ["network", "connect", "web", NETWORK, "-p", "8080:80"];
    node.circuit(&connect).ok();
    // Of a namespace that another daemon looks after.
    node.run("ip", &["netns", "add", "theirs"]).ok();
    by_another(&node, "ADD", "other-web", "/run/netns/theirs", 8081);
    // Of the same namespace, as `ctr run --cni` and nerdctl name it.
    node.run_container("theirs", &[], &[]);
    let theirs = format!("/proc/{}/ns/net", node.task_pid("theirs").unwrap());
    by_another(&node, "ADD", "default-theirs", &theirs, 8082);
    let (leases, ports) = (node.leases(), node.publications());
    assert_eq!((leases.len(), ports.len()), (3, 3), "{ports:?}");

    assert_names(&leaks(&node, &[]), &["fine"]);
    let gone = stray(&node, "10.88.0.77", "default-gone");
    assert_names(&leaks(&node, &[]), &["warning", "1 addresses"]);
    assert_names(&leaks(&node, &["--fix"]), &["fixed"]);
    assert!(!gone.exists());
    assert_eq!(
        (node.leases(), node.publications()),
        (leases.clone(), ports.clone())
    );

    // One namespace's name may begin with another's.
    node.ctr(&["namespace", "create", "default-eu"]).ok();
    let elsewhere = stray(&node, "10.88.0.99", "default-eu-web");
    let (leases, ports) = (node.leases(), node.publications());
    // As a start does by itself. Of the former program tasks have their pids.
    let strays = [
        stray(&node, "10.88.0.77", "default-gone"),
        stray(&node, "10.88.0.78", "4194999"),
    ];
    node.kill_daemon();
    node.start_daemon();
    wait_until("what nobody has is free", PATIENCE, || {
        !strays.iter().any(|lease| lease.exists())
    });
    assert_eq!(
        (node.leases(), node.publications()),
        (leases.clone(), ports.clone())
    );
    // It may be on the network once more by us.
    node.circuit(&["network", "connect", "theirs", NETWORK])
        .ok();
    assert_eq!(node.interfaces("theirs").len(), 2);
    node.circuit(&["network", "disconnect", "theirs", NETWORK])
        .ok();
    assert_eq!((node.leases(), node.publications()), (leases, ports));

    std::fs::remove_file(elsewhere).unwrap();
    by_another(&node, "DEL", "other-web", "/run/netns/theirs", 8081);
    by_another(&node, "DEL", "default-theirs", &theirs, 8082);
    for container in ["web", "theirs"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

/// What pruning says of each network, and does not do.
fn pruned(node: &TestNode) -> String {
    assert_eq!(node.circuit(&["network", "prune"]).ok(), "");
    node.circuit(&["network", "prune", "--dry-run"]).ok()
}

#[test]
fn what_others_hold_keeps_a_network() {
    let node = node();
    node.run("ip", &["netns", "add", "theirs"]).ok();
    by_another(&node, "ADD", "other-web", "/run/netns/theirs", 8081);
    node.run_container("theirs", &[], &[]);
    let theirs = format!("/proc/{}/ns/net", node.task_pid("theirs").unwrap());
    by_another(&node, "ADD", "default-theirs", &theirs, 8082);
    // What nobody has keeps nothing.
    stray(&node, "10.88.0.77", "default-gone");
    stray(&node, "10.88.0.78", "4194999");
    let refused = error_of(node.circuit(&["network", "rm", NETWORK]));
    let by = "used by containers default-theirs of another program, other-web of another program;";
    assert_names(&refused, &[by, "--force"]);
    let other = json!({"cniVersion": "1.1.0", "name": NETWORK, "plugins": [
        {"type": "bridge", "bridge": "shared1"}]});
    let replace = ["network", "create", "--force", NETWORK, "-"];
    let replaced = node.circuit_with_input(&replace, other.to_string().as_bytes());
    assert_names(&error_of(replaced), &[by]);
    let pruned = pruned(&node);
    assert_names(
        &pruned,
        &["shared: kept, used by containers default-theirs"],
    );
    assert_names(&node.circuit(&["network", "ls"]).ok(), &[NETWORK]);

    by_another(&node, "DEL", "other-web", "/run/netns/theirs", 8081);
    by_another(&node, "DEL", "default-theirs", &theirs, 8082);
    let left = node.leases();
    assert_eq!(left, ["shared/10.88.0.77", "shared/10.88.0.78"]);
    node.circuit(&["network", "rm", NETWORK]).ok();
    for address in ["10.88.0.77", "10.88.0.78"] {
        let lease = format!("/var/lib/cni/networks/{NETWORK}/{address}");
        std::fs::remove_file(node.path(&lease)).unwrap();
    }
    node.remove_container("theirs");
    node.assert_nothing_left();
}

/// nerdctl attaches a container in the middle of the making of its task, of which the
/// runtime does not know yet.
#[test]
fn what_is_about_to_start_keeps_what_it_has() {
    let node = node();
    node.create_container("theirs", &[], &[]);
    node.run("ip", &["netns", "add", "theirs"]).ok();
    by_another(&node, "ADD", "default-theirs", "/run/netns/theirs", 8082);
    let (leases, ports) = (node.leases(), node.publications());
    assert_eq!((leases.len(), ports.len()), (1, 1), "{ports:?}");
    let gone = stray(&node, "10.88.0.77", "default-gone");
    node.kill_daemon();
    node.start_daemon();
    wait_until("what nobody has is free", PATIENCE, || !gone.exists());
    assert_eq!((node.leases(), node.publications()), (leases, ports));
    by_another(&node, "DEL", "default-theirs", "/run/netns/theirs", 8082);
    node.remove_container("theirs");
    node.assert_nothing_left();
}

/// A daemon for the containers of another namespace, beside the node's own.
struct Second<'a> {
    node: &'a TestNode,
    pid: String,
}

impl<'a> Second<'a> {
    const SOCKET: &'static str = "unix:///run/circuit-other/circuit.sock";

    fn start(node: &'a TestNode) -> Self {
        Self::start_with(node, "")
    }

    fn start_with(node: &'a TestNode, arguments: &str) -> Self {
        let program = node.program();
        let script = format!(
            "{program} server --containerd-namespace other --state-dir /var/lib/circuit/other \
             --run-dir /run/circuit-other --address {} --cni-path /nonexistent \
             --datastore local:///var/lib/circuit/networks {arguments} >> /run/second.log 2>&1 &\n\
             echo $!",
            Self::SOCKET
        );
        let pid = node.run("sh", &["-c", &script]).ok().trim().to_owned();
        let second = Self { node, pid };
        wait_until("the second daemon answers", PATIENCE, || {
            second.circuit(&["network", "ls"]).worked()
        });
        second
    }

    fn circuit(&self, arguments: &[&str]) -> Ran {
        let address = ["--address", Self::SOCKET];
        self.node.circuit(&[&address, arguments].concat())
    }

    fn kill(self) {
        self.node.run("kill", &["-9", &self.pid]).ok();
    }
}

#[test]
fn two_daemons_look_after_a_namespace_each() {
    let node = node();
    let image = node.folder().join("image.tar");
    let image = image.to_str().unwrap();
    node.ctr(&["-n", "other", "image", "import", image]).ok();
    let cgroup = format!("/circuit-test/{}/other-web", node.name());
    let run = ["-n", "other", "run", "-d", "--null-io", "--cgroup", &cgroup];
    node.ctr(&[&run[..], &[IMAGE, "web", "sleep", "600"]].concat())
        .ok();
    node.run_container("web", &[], &[]);
    let second = Second::start(&node);
    node.circuit(&["network", "connect", "web", NETWORK, "-p", "8080:80"])
        .ok();
    let told = second.circuit(&["network", "connect", "web", NETWORK, "-p", "8081:80"]);
    assert_names(&told.ok(), &["10.88.0.3"]);
    let there = node.leases();
    assert_eq!(there, ["shared/10.88.0.2", "shared/10.88.0.3"]);
    let ports = node.publications();
    assert_eq!(ports.len(), 2, "{ports:?}");
    let reached = || {
        node.exec("web", &["ping", "-c1", "-W5", "10.88.0.3"])
            .worked()
    };
    assert!(reached());
    let refused = error_of(second.circuit(&["network", "rm", NETWORK]));
    assert_names(
        &refused,
        &["containers web, default-web of another program"],
    );

    // Each starts anew, and cleans up.
    second.kill();
    let strays = ["default-gone", "other-gone"];
    let [first, last] = strays.map(|owner| {
        let address = format!("10.88.0.{}", 70 + owner.len());
        stray(&node, &address, owner)
    });
    node.kill_daemon();
    node.start_daemon();
    wait_until("the first has cleaned up", PATIENCE, || !first.exists());
    assert!(last.exists());
    let second = Second::start(&node);
    wait_until("the second has cleaned up", PATIENCE, || !last.exists());
    assert_eq!((node.leases(), node.publications()), (there, ports));
    assert!(reached());
    for daemon in [node.circuit(&["doctor"]), second.circuit(&["doctor"])] {
        assert_names(&daemon.stdout, &["nothing is left over"]);
    }

    // What one lets go of the other keeps.
    node.circuit(&["network", "disconnect", "web", NETWORK])
        .ok();
    let rules = node.native_rules();
    assert_names(&rules.join("\n"), &["masquerade of network shared", "8081"]);
    let told = second.circuit(&["network", "ips", "web"]).ok();
    assert_names(&told, &["10.88.0.3"]);
    let refused = error_of(node.circuit(&["network", "rm", NETWORK]));
    assert_names(&refused, &["container other-web of another program"]);
    let kept = pruned(&node);
    assert_names(&kept, &["shared: kept", "other-web"]);
    second
        .circuit(&["network", "disconnect", "web", NETWORK])
        .ok();
    assert!(node.leases().is_empty());
    second.kill();
    node.ctr(&["-n", "other", "task", "kill", "-s", "KILL", "web"])
        .ok();
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn two_daemons_have_a_keeper_of_pools_each() {
    let node = crate::node().plugins(Plugins::None).start();
    let pool = |name: &str, subnet: &str| {
        let plugin = json!({"type": "bridge", "bridge": name,
            "ipam": {"type": "circuit", "subnet": subnet}});
        let list = json!({"cniVersion": "1.1.0", "name": name, "plugins": [plugin]});
        node.create_network(name, &list.to_string());
    };
    pool("first", "10.91.0.0/24");
    pool("second", "10.92.0.0/24");
    node.run_container("web", &[], &[]);
    node.circuit(&["network", "connect", "web", "first"]).ok();
    let image = node.folder().join("image.tar");
    let image = image.to_str().unwrap();
    node.ctr(&["-n", "other", "image", "import", image]).ok();
    let run = ["-n", "other", "run", "-d", "--null-io", IMAGE, "web"];
    node.ctr(&[&run[..], &["sleep", "600"]].concat()).ok();

    let second = Second::start_with(&node, "--ipam-socket /run/circuit-other/ipam.sock");
    let told = second.circuit(&["network", "connect", "web", "second"]);
    assert_names(&told.ok(), &["10.92.0.2"]);
    second.circuit(&["doctor", "--fix"]);
    assert_names(&second.circuit(&["ipam", "ls"]).ok(), &["other-web"]);
    let kept = node.circuit(&["ipam", "ls"]).ok();
    assert_names(&kept, &["10.91.0.2", "default-web"]);
    assert!(!kept.contains("10.92.0"), "{kept}");

    second
        .circuit(&["network", "disconnect", "web", "second"])
        .ok();
    second.kill();
    node.ctr(&["-n", "other", "task", "kill", "-s", "KILL", "web"])
        .ok();
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn a_daemon_without_the_keeper_does_not_take_networks_from_under_others() {
    let node = crate::node().plugins(Plugins::None).start();
    let plugin = json!({"type": "bridge", "bridge": "first",
        "ipam": {"type": "circuit", "subnet": "10.91.0.0/24"}});
    let list = json!({"cniVersion": "1.1.0", "name": "first", "plugins": [plugin]});
    node.create_network("first", &list.to_string());
    node.run_container("web", &[], &[]);
    node.circuit(&["network", "connect", "web", "first"]).ok();
    let second = Second::start(&node);
    let refused = error_of(second.circuit(&["network", "rm", "first"]));
    assert_names(&refused, &["another daemon of this host", "--force"]);
    assert_eq!(second.circuit(&["network", "prune"]).ok(), "");
    let kept = second.circuit(&["network", "prune", "--dry-run"]).ok();
    assert_names(&kept, &["first: kept", "another daemon of this host"]);
    second.kill();
    node.remove_container("web");
    node.circuit(&["network", "rm", "first"]).ok();
    node.assert_nothing_left();
}
