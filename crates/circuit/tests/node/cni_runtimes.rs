//! CNI's other runtimes on the drivers as executables: containerd's own for CRI, asked
//! by `crictl`, and `cnitool`. `ctr run --cni` is in [`native`](crate::native).

use circuit_testing::{Containerd, IMAGE, PATIENCE, Plugins, TestNode, network, wait_until};
use serde_json::{Value, json};

use crate::support::{DNS, NETWORK, assert_names};

/// What the runtimes find in their folder of plugins.
const TYPES: [&str; 7] = [
    "bandwidth",
    "bridge",
    "firewall",
    "host-local",
    "loopback",
    "portmap",
    "tuning",
];

const SERVE: &str = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";

/// A network as clusters have it.
fn list(version: &str) -> Value {
    let bridge = json!({
        "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.61.0.0/16"}], [{"subnet": "fd00:61::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    });
    json!({
        "cniVersion": version, "name": "pods",
        "plugins": [
            bridge,
            {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
            {"type": "firewall"},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// A pod of CRI with one container.
struct Pod<'a> {
    node: &'a TestNode,
    id: String,
    container: String,
}

impl<'a> Pod<'a> {
    fn run(node: &'a TestNode, name: &str, ports: &Value, command: &[&str]) -> Self {
        Self::labelled(node, name, ports, &json!({}), command)
    }

    fn labelled(
        node: &'a TestNode,
        name: &str,
        ports: &Value,
        labels: &Value,
        command: &[&str],
    ) -> Self {
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "attempt": 1},
            "log_directory": node.folder(),
            "port_mappings": ports,
            "labels": labels,
            "annotations": {"kubernetes.io/egress-bandwidth": "100M"},
            "linux": {"cgroup_parent": format!("/circuit-test/{}", node.name())},
        });
        let container = json!({
            "metadata": {"name": name},
            "image": {"image": IMAGE},
            "command": command,
            "log_path": format!("{name}.log"),
            "linux": {},
        });
        let pod = node.file(&format!("{name}-pod.json"), pod.to_string());
        let container = node.file(&format!("{name}-container.json"), container.to_string());
        let id = node.crictl(&["runp", &pod]).ok().trim().to_owned();
        let made = node.crictl(&["create", &id, &container, &pod]).ok();
        let container = made.trim().to_owned();
        node.crictl(&["start", &container]).ok();
        Self {
            node,
            id,
            container,
        }
    }

    /// The addresses that CRI tells.
    fn addresses(&self) -> Vec<String> {
        let told = self.node.crictl(&["inspectp", "-o", "json", &self.id]).ok();
        let told: Value = serde_json::from_str(&told).unwrap();
        let network = &told["status"]["network"];
        let more = network["additionalIps"].as_array().into_iter().flatten();
        let all = std::iter::once(&network["ip"]).chain(more.map(|more| &more["ip"]));
        all.map(|ip| ip.as_str().unwrap().to_owned()).collect()
    }

    fn exec(&self, command: &[&str]) -> String {
        let how = ["exec", "--sync", &self.container];
        let said = self.node.crictl(&[&how[..], command].concat()).ok();
        said.trim().to_owned()
    }

    /// Waits until its server is up.
    fn wait_until_it_serves(&self) {
        let url = format!("http://{}/", self.addresses()[0]);
        let fetch = ["-sS", "--max-time", "5", url.as_str()];
        wait_until("the pod serves", PATIENCE, || {
            self.node.run("curl", &fetch).worked()
        });
    }

    fn end(self) {
        self.node.crictl(&["stopp", &self.id]).ok();
        self.node.crictl(&["rmp", &self.id]).ok();
    }
}

#[test]
fn pods_of_cri_run_on_our_executables() {
    pods(Containerd::System);
}

#[test]
fn pods_of_cri_run_on_our_executables_with_a_newer_containerd() {
    pods(Containerd::Newer);
}

fn pods(containerd: Containerd) {
    let node = crate::node()
        .plugins(Plugins::None)
        .containerd(containerd)
        .cri()
        .without_daemon()
        .start();
    node.give_to_runtimes(&TYPES, &list("1.0.0"));
    let ports = json!([{"protocol": 0, "container_port": 80, "host_port": 8061},
        {"protocol": 0, "container_port": 81}]);
    let web = Pod::run(&node, "web", &ports, &["sh", "-c", SERVE]);
    assert_eq!(web.addresses(), ["10.61.0.2", "fd00:61::2"]);
    let leases: Vec<_> = web
        .addresses()
        .iter()
        .map(|ip| format!("pods/{ip}"))
        .collect();
    assert_eq!(node.leases(), leases);
    // What is handed over by the runtime: `HostPort`, `EgressRate`.
    let published = ["tcp 8061 -> 10.61.0.2:80", "tcp 8061 -> fd00:61::2:80"];
    assert_eq!(node.publications(), published);
    let shaped = node.run("tc", &["qdisc", "show"]).ok();
    assert!(shaped.contains("rate 100Mbit"), "{shaped}");
    assert_eq!(web.exec(&["cat", "/proc/sys/net/core/somaxconn"]), "500");

    web.wait_until_it_serves();
    let other = Pod::run(&node, "other", &json!([]), &["sleep", "1000"]);
    for url in [
        "http://10.61.0.2/",
        "http://[fd00:61::2]/",
        "http://10.61.0.1:8061/",
    ] {
        assert_eq!(other.exec(&["wget", "-qO-", url]), "hello", "{url}");
    }
    let fetched = node.run(
        "curl",
        &["-sS", "--max-time", "5", "http://127.0.0.1:8061/"],
    );
    assert_eq!(fetched.ok().trim(), "hello");
    for pod in [web, other] {
        pod.end();
    }
    node.assert_nothing_left();
}

#[test]
fn a_daemon_leaves_pods_of_cri_alone_and_connects_them_when_asked() {
    let node = crate::node()
        .plugins(Plugins::None)
        .cri()
        .server(&["--containerd-namespace", "k8s.io"])
        .start();
    // Both have the network, whose plugins clean up what nobody has.
    node.give_to_runtimes(&TYPES, &list("1.0.0"));
    node.create_network("pods", &list("1.1.0").to_string());
    node.create_network("more", &network::bridge("more", "10.62.0.0/16"));
    let ports = json!([{"protocol": 0, "container_port": 80, "host_port": 8061}]);
    let web = Pod::run(&node, "web", &ports, &["sh", "-c", SERVE]);
    let (leases, published) = (node.leases(), node.publications());
    assert_eq!((leases.len(), published.len()), (2, 2));
    node.kill_daemon();
    node.start_daemon();
    let told = node.circuit(&["doctor", "--fix"]).ok();
    assert_names(&told, &["2 containers", "nothing is left over"]);
    assert_eq!((node.leases(), node.publications()), (leases, published));

    web.wait_until_it_serves();
    node.circuit(&["network", "connect", &web.id, "more"]).ok();
    let inside = web.exec(&["ip", "addr"]);
    assert_names(&inside, &["10.61.0.2/16", "10.62.0.2/16"]);
    assert_eq!(
        node.run("curl", &["-sS", "http://10.62.0.2/"]).ok().trim(),
        "hello"
    );
    node.circuit(&["network", "disconnect", &web.id, "more"])
        .ok();
    assert!(!web.exec(&["ip", "addr"]).contains("10.62"));
    // Pods' labels are those of the container that keeps their namespace.
    let labels = json!({ NETWORK: "more", DNS: "true" });
    let other = Pod::labelled(&node, "other", &json!([]), &labels, &["sleep", "1000"]);
    wait_until("the label is followed", PATIENCE, || {
        other.exec(&["ip", "addr"]).contains("10.62.0.")
    });
    // All containers of a pod have the one file, read-only.
    wait_until("the pod asks for names", PATIENCE, || {
        let file = other.exec(&["cat", "/etc/resolv.conf"]);
        file.contains("nameserver 10.62.0.1")
    });
    other.end();
    // What is connected when the pod ends goes with it.
    node.circuit(&["network", "connect", &web.id, "more"]).ok();
    web.end();
    node.assert_nothing_left();
}

#[test]
fn cnitool_runs_every_operation_of_our_executables() {
    let node = crate::node()
        .plugins(Plugins::None)
        .without_daemon()
        .start();
    node.give_to_runtimes(&TYPES, &list("1.1.0"));
    let netns = "/run/netns/shell";
    node.run("ip", &["netns", "add", "shell"]).ok();
    let cnitool = |operation: &str| node.cnitool(&[operation, "pods", netns]);
    cnitool("status").ok();
    let result: Value = serde_json::from_str(&cnitool("add").ok()).unwrap();
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["ips"][0]["address"], "10.61.0.2/16");
    cnitool("check").ok();
    let inside = [
        "netns",
        "exec",
        "shell",
        "busybox",
        "ping",
        "-c1",
        "-W2",
        "10.61.0.1",
    ];
    node.run("ip", &inside).ok();
    node.run("ip", &["-n", "shell", "link", "set", "eth0", "down"])
        .ok();
    let told = cnitool("check");
    assert!(!told.worked());
    assert_names(&told.stderr, &["10.61.0.0/16"]);
    cnitool("del").ok();
    cnitool("del").ok();
    node.assert_nothing_left();

    // It takes away what it made itself, and does not tell plugins what is in use.
    cnitool("add").ok();
    let refused = cnitool("gc");
    assert!(!refused.worked());
    assert_names(&refused.stderr, &["cni.dev/valid-attachments is missing"]);
    node.assert_nothing_left();
}
