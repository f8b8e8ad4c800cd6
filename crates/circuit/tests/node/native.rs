//! The native data path: which way a network goes, and what others do to it.

use circuit_testing::{PATIENCE, Plugins, TestNode, network, wait_until};
use serde_json::{Value, json};

use crate::support::{NETWORK, assert_exactly, assert_names, create_ctr0, ips, logged, way_out};

/// A bridge of a masqueraded network, with further keys.
fn with_keys(name: &str, subnet: &str, top: &Value, bridge: &Value) -> String {
    let text = network::bridge(name, subnet);
    let mut list: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in top.as_object().unwrap() {
        list[key] = value.clone();
    }
    for (key, value) in bridge.as_object().unwrap() {
        list["plugins"][0][key] = value.clone();
    }
    list.to_string()
}

fn is_native(node: &TestNode, container: &str) -> bool {
    let record = node.record(container).unwrap();
    record["attachments"][0]["natives"] == json!([0])
}

#[test]
fn each_network_goes_its_way() {
    let node = crate::node().start();
    let none = json!({});
    node.create_network("auto", &network::bridge("auto", "10.1.0.0/16"));
    let exec = json!({"io.circuit.data-path": "exec"});
    node.create_network("exec", &with_keys("exec", "10.2.0.0/16", &exec, &none));
    // A key that no driver knows is for the executable to judge.
    let odd = json!({"vendorKey": 1});
    node.create_network("odd", &with_keys("odd", "10.3.0.0/16", &none, &odd));
    for (container, native) in [("auto", true), ("exec", false), ("odd", false)] {
        node.run_container(container, &[(NETWORK, container)], &[]);
        node.wait_for_addresses(container);
        assert_eq!(is_native(&node, container), native, "{container}");
    }
    node.run_container("odd2", &[(NETWORK, "odd")], &[]);
    node.wait_for_addresses("odd2");
    let told = ["network odd: bridge runs as an executable", "vendorKey"];
    assert_eq!(logged(&node, &told), 1);

    let native = json!({"io.circuit.data-path": "native"});
    let file = node.file("no.json", with_keys("no", "10.4.0.0/16", &native, &odd));
    let refused = node.circuit(&["network", "create", "no", &file]);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("vendorKey"), "{refused}");
    for container in ["auto", "exec", "odd", "odd2"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

#[test]
fn what_an_executable_made_it_takes_away_after_a_change_of_the_data_path() {
    let node = crate::node().start();
    node.kill_daemon();
    node.start_daemon_with(&["--data-path", "exec"]);
    create_ctr0(&node);
    node.run_container("old", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("old");
    assert!(!is_native(&node, "old"));
    node.kill_daemon();
    node.start_daemon();
    node.run_container("new", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("new");
    assert!(is_native(&node, "new"));
    assert_exactly(&node, &[("old", 1), ("new", 1)]);
    // And on one bridge, out of one pool, they reach each other.
    let old = ips(&node, "old")[0][1].clone();
    assert!(node.exec("new", &["ping", "-c1", "-W2", &old]).worked());
    node.remove_container("old");
    node.remove_container("new");
    node.assert_nothing_left();
}

#[test]
fn rules_that_others_take_away_are_made_again() {
    let node = crate::node().plugins(Plugins::None).start();
    node.create_network("a", &network::full("a", "10.1.0.0/16"));
    let labels = [(NETWORK, "a"), ("io.circuit.ports", "8081:80")];
    node.run_container("web", &labels, &[]);
    node.wait_for_addresses("web");
    let before = node.native_rules();
    assert_eq!(before.len(), 2, "{before:?}");
    for _ in 0..3 {
        node.run("nft", &["flush", "ruleset"]).ok();
        wait_until("the rules are made again", PATIENCE, || {
            node.native_rules() == before
        });
    }
    assert!(logged(&node, &["took firewall rules away"]) >= 1);
    // While no daemon is there to notice.
    node.kill_daemon();
    node.run("nft", &["flush", "ruleset"]).ok();
    assert!(node.native_rules().is_empty());
    node.start_daemon();
    wait_until("a start makes the rules again", PATIENCE, || {
        node.native_rules() == before
    });
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn keys_may_be_written_in_any_letters() {
    let node = crate::node().plugins(Plugins::None).start();
    let list = json!({
        "cniVersion": "1.0.0", "name": "ours",
        "plugins": [{"type": "bridge", "BRIDGE": "ours0", "isgateway": true, "IPMasq": true,
            "ipam": {"Type": "host-local", "Ranges": [[{"Subnet": "10.6.0.0/16"}]],
                     "routes": [{"Dst": "0.0.0.0/0"}]}}],
    });
    node.create_network("ours", &list.to_string());
    node.run_container("web", &[], &[]);
    node.circuit(&["network", "connect", "web", "ours"]).ok();
    assert!(is_native(&node, "web"));
    assert_eq!(node.addresses("web"), ["10.6.0.2/16"]);
    let reached = node.exec("web", &["ping", "-c1", "-W2", "10.6.0.1"]);
    assert!(reached.worked(), "{reached}");
    assert_eq!(node.native_rules(), ["masquerade of network ours"]);
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn ctr_runs_containers_on_our_executables() {
    let node = crate::node()
        .plugins(Plugins::None)
        .without_daemon()
        .start();
    let list = json!({
        "cniVersion": "1.0.0", "name": "ours",
        "plugins": [
            {"type": "bridge", "bridge": "ours0", "isGateway": true, "ipMasq": true,
             "ipam": {"type": "host-local", "subnet": "10.6.0.0/16",
                      "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    // What the machine has there is hidden inside the node.
    let script = format!(
        "set -e; mkdir -p /run/etc/upper /run/etc/work\n\
         mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc\n\
         mount -t tmpfs tmpfs /opt; mkdir -p /opt/cni/bin /etc/cni/net.d; rm -f /etc/cni/net.d/*\n\
         for type in bridge host-local portmap loopback; do ln -s {} /opt/cni/bin/$type; done\n\
         cat > /etc/cni/net.d/10-ours.conflist <<'LIST'\n{list}\nLIST",
        node.program()
    );
    node.run("sh", &["-c", &script]).ok();
    node.run_container_with(&["--cni"], "web", &[], &[]);
    assert_eq!(node.addresses("web"), ["10.6.0.2/16"]);
    a_further_network_is_a_fall_back(&node);
    assert!(
        node.exec("web", &["ping", "-c1", "-W2", "10.6.0.1"])
            .worked()
    );
    assert_eq!(node.leases(), ["ours/10.6.0.2"]);
    assert_eq!(node.native_rules(), ["masquerade of network ours"]);
}

/// The network that `ctr` gave the container keeps the default route, unless a further
/// one has a priority.
fn a_further_network_is_a_fall_back(node: &TestNode) {
    node.start_daemon_with(&["--reconcile-interval", "1s"]);
    node.create_network("more", &network::bridge("more", "10.7.0.0/16"));
    let priority = json!({"io.circuit.gw-priority": 1});
    let main = with_keys("main", "10.8.0.0/16", &priority, &json!({}));
    node.create_network("main", &main);
    node.circuit(&["network", "connect", "web", "more"]).ok();
    assert_names(&way_out(node, "web"), &["via 10.6.0.1"]);
    node.circuit(&["network", "connect", "web", "main"]).ok();
    assert_names(&way_out(node, "web"), &["via 10.8.0.1"]);
    // Looks at everything leave it so.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_names(&way_out(node, "web"), &["via 10.8.0.1"]);
    node.circuit(&["network", "disconnect", "web", "main"]).ok();
    assert_names(&way_out(node, "web"), &["via 10.6.0.1"]);
    node.circuit(&["network", "disconnect", "web", "more"]).ok();
    for network in ["main", "more"] {
        node.circuit(&["network", "delete", network]).ok();
    }
    node.stop_daemon();
}

#[test]
fn a_host_that_drops_what_is_forwarded_lets_in_what_its_owner_says() {
    let node = crate::node().plugins(Plugins::None).uplink().start();
    node.run("iptables", &["-P", "FORWARD", "DROP"]).ok();
    let create = ["network", "create", "a", "--subnet", "10.1.0.0/16"];
    node.circuit(&create).ok();
    let serve = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";
    node.run_container("web", &[], &["sh", "-c", serve]);
    let connect = ["network", "connect", "web", "a", "-p", "8088:80"];
    node.circuit(&connect).ok();
    let ping = ["ping", "-c1", "-W5", "192.0.2.1"];
    assert!(node.exec("web", &ping).worked());
    let outside = || {
        let url = ["-s", "--max-time", "2", "http://192.0.2.2:8088/"];
        node.outside("curl", &url).stdout
    };
    assert_eq!(outside(), "");
    // As the doctor has it.
    let told = node.circuit(&["doctor"]).ok();
    let (_, remedy) = told.split_once("such as iptables ").expect("a remedy");
    let rule = remedy.lines().next().unwrap_or_default();
    node.run("sh", &["-c", &format!("iptables {rule}")]).ok();
    assert_eq!(outside(), "hello\n");
    node.remove_container("web");
}

#[test]
fn a_ruleset_that_is_loaded_over_that_of_containers_does_not_cut_them_off() {
    let later = ["--reconcile-interval", "1h"];
    let node = crate::node().plugins(Plugins::None).uplink();
    let node = node.server(&later).start();
    node.run("iptables", &["-P", "FORWARD", "DROP"]).ok();
    let kept = node.file("rules", "");
    let script = |script: &str| drop(node.run("sh", &["-c", script]).ok());
    script(&format!("iptables-save > {kept}"));
    let create = ["network", "create", "a", "--subnet", "10.1.0.0/16"];
    node.circuit(&create).ok();
    let reach_out = || {
        let ping = ["ping", "-c1", "-W1", "192.0.2.1"];
        ["one", "two"].map(|it| node.exec(it, &ping).worked()) == [true; 2]
    };
    for container in ["one", "two"] {
        node.run_container(container, &[(NETWORK, "a")], &[]);
        node.wait_for_addresses(container);
    }
    wait_until("they reach out", PATIENCE, reach_out);
    // A second time, too.
    for _ in 0..2 {
        script(&format!("iptables-restore < {kept}"));
        wait_until("they reach out again", PATIENCE, reach_out);
    }
    for container in ["one", "two"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

#[test]
fn a_doctor_knows_of_firewalls_that_no_plugin_can_open() {
    let node = crate::node().plugins(Plugins::None).uplink().start();
    let create = ["network", "create", "a", "--subnet", "10.1.0.0/16"];
    node.circuit(&create).ok();
    node.run_container("web", &[(NETWORK, "a")], &[]);
    node.wait_for_addresses("web");
    let reaches = || {
        let ping = ["ping", "-c1", "-W1", "192.0.2.1"];
        node.exec("web", &ping).worked()
    };
    assert!(reaches());
    // As in an administrator's /etc/nftables.conf.
    let chain = "{ type filter hook forward priority filter; policy drop; }";
    let table = format!("add table inet filter; add chain inet filter forward {chain}");
    node.run("nft", &[&table]).ok();
    assert!(!reaches());
    let told = node.circuit(&["doctor"]).ok();
    assert_names(
        &told,
        &[
            "chain inet filter forward drops",
            "whatever a firewall plugin says",
        ],
    );
    for rule in ["iifname br-a accept", "ct state established,related accept"] {
        let rule = format!("insert rule inet filter forward {rule}");
        node.run("nft", &[&rule]).ok();
    }
    assert!(reaches());
    node.remove_container("web");
}

#[test]
fn a_host_without_ipv6_is_told_how_to_have_it() {
    let node = crate::node().plugins(Plugins::None).start();
    let switch = |value: &str| {
        for which in ["all", "default"] {
            let setting = format!("net.ipv6.conf.{which}.disable_ipv6={value}");
            node.run("sysctl", &["-w", &setting]).ok();
        }
    };
    switch("1");
    for (name, driver, subnets) in [
        ("a", "bridge", ["10.1.0.0/24", "fd00:a::/64"]),
        ("b", "ptp", ["10.2.0.0/24", "fd00:b::/64"]),
    ] {
        let ranges = subnets.map(|subnet| json!([{"subnet": subnet}]));
        let ipam = json!({"type": "host-local", "ranges": ranges});
        let plugin = json!({"type": driver, "bridge": "br-a", "isGateway": true, "ipam": ipam});
        let plugin = match driver {
            "ptp" => json!({"type": driver, "ipam": ipam}),
            _ => plugin,
        };
        let list = json!({"cniVersion": "1.0.0", "name": name, "plugins": [plugin]});
        node.create_network(name, &list.to_string());
    }
    node.run_container("web", &[], &[]);
    for network in ["a", "b"] {
        let told = node.circuit(&["network", "connect", "web", network]);
        let told = told.fails(1);
        assert_names(&told, &["IPv6 is switched off", "disable_ipv6=0"]);
    }
    let told = node.circuit(&["doctor"]).stdout;
    assert_names(&told, &["IPv6 is switched off on this host"]);
    switch("0");
    for network in ["a", "b"] {
        // A bridge that was made without stays so.
        node.run("ip", &["link", "delete", "br-a"]);
        node.circuit(&["network", "connect", "web", network]).ok();
    }
    assert!(!node.circuit(&["doctor"]).stdout.contains("switched off"));
    node.remove_container("web");
}
