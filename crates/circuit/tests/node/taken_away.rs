//! What other programs take away of bridges and of the host's ends of pairs is given
//! back: a moment after where the kernel tells of it, else with the next pass.

use std::{
    thread,
    time::{Duration, Instant},
};

use circuit_testing::{PATIENCE, TestNode, wait_until};
use serde_json::{Value, json};

use crate::support::{NETWORK, assert_exactly, create_ctr0, ips, logged, looked_at_each, tire};

/// Whether each of these containers reaches each of these addresses.
fn reach(node: &TestNode, containers: &[&str], addresses: &[&str]) -> bool {
    containers.iter().all(|container| {
        let reaches = |address: &&str| {
            let ping = ["ping", "-c1", "-W1", address];
            node.exec(container, &ping).worked()
        };
        addresses.iter().all(reaches)
    })
}

/// Runs containers on a network, and waits until all are on record with so many
/// addresses.
fn connected(node: &TestNode, containers: &[&str], network: &str, count: usize) {
    for container in containers {
        node.run_container(container, &[(NETWORK, network)], &[]);
    }
    wait_until("all are on record", PATIENCE, || {
        containers.iter().all(|it| ips(node, it).len() == count)
    });
}

#[test]
fn a_bridge_that_somebody_removes_is_made_again() {
    let node = looked_at_each("1s");
    create_ctr0(&node);
    connected(&node, &["one", "two"], "ctr0", 1);
    let before = [ips(&node, "one"), ips(&node, "two")];
    node.run("ip", &["link", "del", "ctr0"]).ok();
    let reached = || {
        let ping = ["ping", "-c1", "-W1", &before[1][0][1]];
        node.exec("one", &ping).worked()
    };
    wait_until("they reach each other again", PATIENCE, reached);
    assert!(
        node.exec("two", &["ping", "-c1", "-W2", "10.255.0.1"])
            .worked()
    );
    assert_eq!([ips(&node, "one"), ips(&node, "two")], before);
    assert_exactly(&node, &[("one", 1), ("two", 1)]);
    for name in ["one", "two"] {
        node.remove_container(name);
    }
    node.assert_nothing_left();
}

#[test]
fn a_bridge_that_is_no_gateway_any_more_is_one_again() {
    let node = looked_at_each("1s");
    let create = ["network", "create", "a", "--subnet", "10.1.0.0/16"];
    let ipv6 = ["--subnet", "fd00:a::/64"];
    node.circuit(&[&create[..], &ipv6].concat()).ok();
    node.run_container("one", &[(NETWORK, "a")], &[]);
    node.wait_for_addresses("one");
    let index = || {
        node.in_netns("one", &["cat", "/sys/class/net/eth0/ifindex"])
            .ok()
    };
    let before = (ips(&node, "one"), index());
    let reached = || reach(&node, &["one"], &["10.1.0.1", "fd00:a::1"]);
    wait_until("the gateway is there", PATIENCE, reached);
    // Setting it down takes addresses of IPv6 away.
    for (command, told) in [
        ("ip addr flush dev br-a", "no gateway any more"),
        ("ip link set br-a down", "was down"),
        (
            "echo 0 > /proc/sys/net/ipv4/ip_forward",
            "no gateway any more",
        ),
    ] {
        let said = logged(&node, &[told]);
        node.run("sh", &["-c", command]).ok();
        wait_until(command, PATIENCE, || {
            logged(&node, &[told]) > said && reached()
        });
    }
    let forwards = node.run("cat", &["/proc/sys/net/ipv4/ip_forward"]).ok();
    assert_eq!(forwards.trim(), "1");
    assert_eq!(
        (ips(&node, "one"), index()),
        before,
        "it was not attached anew"
    );
    node.remove_container("one");
    node.assert_nothing_left();
}

/// As NetworkManager leaves them when its networking is switched off and on.
const LET_LOOSE: &str = "for port in $(ls /sys/class/net/br-a/brif); do \
     ip link set $port nomaster; done; ip link set br-a down; ip addr flush dev br-a";

#[test]
fn ports_that_are_taken_out_of_their_bridge_come_back() {
    let node = looked_at_each("1s");
    let ipam = json!({"type": "host-local", "subnet": "10.1.0.0/16"});
    let plugin = json!({"type": "bridge", "bridge": "br-a", "isGateway": true,
        "hairpinMode": true, "ipam": ipam});
    let config = json!({"cniVersion": "1.0.0", "name": "a", "plugins": [plugin]});
    node.create_network("a", &config.to_string());
    connected(&node, &["one", "two"], "a", 1);
    let ports = || {
        let listed = node.run("bridge", &["-j", "-d", "link", "show", "master", "br-a"]);
        let listed: Vec<Value> = serde_json::from_str(&listed.ok()).unwrap();
        let port = |it: &Value| (it["ifname"].clone(), it["hairpin"].clone());
        listed.iter().map(port).collect::<Vec<_>>()
    };
    let before = (ips(&node, "one"), ips(&node, "two"), ports());
    assert_eq!(before.2.len(), 2);
    assert!(before.2.iter().all(|(_, hairpin)| *hairpin == json!(true)));
    let reached = || reach(&node, &["one", "two"], &["10.1.0.1"]);
    let let_loose = format!("mount -t sysfs sysfs /sys && {LET_LOOSE}");
    for command in [let_loose.as_str(), "ip link set $0 down"] {
        let port = before.2[0].0.as_str().unwrap();
        let said = logged(&node, &["it is back"]);
        node.run("unshare", &["--mount", "sh", "-c", command, port])
            .ok();
        wait_until(command, PATIENCE, || {
            logged(&node, &["it is back"]) > said && reached()
        });
        let after = (ips(&node, "one"), ips(&node, "two"), ports());
        assert_eq!(after, before, "{command}");
    }
    for name in ["one", "two"] {
        node.remove_container(name);
    }
    node.assert_nothing_left();
}

#[test]
fn the_end_of_a_pair_leads_to_its_container_again() {
    let node = looked_at_each("1s");
    let ranges = json!([[{"subnet": "10.2.0.0/16"}], [{"subnet": "fd00:2::/64"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
    let config = json!({"cniVersion": "1.0.0", "name": "p",
        "plugins": [{"type": "ptp", "ipam": ipam}]});
    node.create_network("p", &config.to_string());
    connected(&node, &["one", "two"], "p", 2);
    let reached = || reach(&node, &["one", "two"], &["10.2.0.1", "fd00:2::1"]);
    wait_until("the gateways are there", PATIENCE, reached);
    let before = (ips(&node, "one"), ips(&node, "two"));
    let routes = node.run("ip", &["-j", "route", "show", "10.2.0.2"]).ok();
    let routes: Value = serde_json::from_str(&routes).unwrap();
    let end = routes[0]["dev"].as_str().unwrap();
    for command in [
        "ip addr flush dev $0",
        "ip link set $0 down",
        "ip link set $0 down && ip link set $0 up",
        "ip route del 10.2.0.2",
        "ip -6 route del fd00:2::2",
    ] {
        let said = logged(&node, &["led to its container no more"]);
        node.run("sh", &["-c", command, end]).ok();
        wait_until(command, PATIENCE, || {
            logged(&node, &["led to its container no more"]) > said && reached()
        });
        let after = (ips(&node, "one"), ips(&node, "two"));
        assert_eq!(after, before, "{command}");
    }
    // Once all is well, nothing is said.
    let said = logged(&node, &["led to its container no more"]);
    thread::sleep(Duration::from_secs(3));
    let now = logged(&node, &["led to its container no more"]);
    assert_eq!(now, said);
    for name in ["one", "two"] {
        node.remove_container(name);
    }
    node.assert_nothing_left();
}

/// Work on one container, which may last, keeps nothing from the others.
#[test]
fn rules_are_made_again_while_one_container_is_worked_on() {
    let node = looked_at_each("1h");
    node.create_network(
        "ctr0",
        &circuit_testing::network::full("ctr0", "10.255.0.0/16"),
    );
    let labels = |port: &'static str| [(NETWORK, "ctr0"), ("io.circuit.ports", port)];
    let ports = ["8081:80", "8082:80", "8083:80", "8084:80"];
    for port in ports {
        node.run_container(&port[..4], &labels(port), &[]);
    }
    // Hears no SIGTERM.
    for name in ["busy", "idle"] {
        let port = if name == "busy" { "9091:80" } else { "9092:80" };
        node.run_container(name, &labels(port), &["sleep", "1000"]);
    }
    wait_until("all are published", PATIENCE, || {
        node.publications().len() == ports.len() + 2
    });
    thread::scope(|scope| {
        let stop = ["container", "stop", "-t", "60s", "busy"];
        let node = &node;
        let call = scope.spawn(move || node.circuit(&stop));
        wait_until("it is being stopped", PATIENCE, || {
            let record = node.record("busy");
            record.is_some_and(|it| it["restart"]["stopped"] == true)
        });
        for _ in 0..2 {
            node.run("nft", &["flush", "ruleset"]).ok();
            wait_until("the others are published again", PATIENCE, || {
                let published = node.publications().len();
                published > ports.len() && !call.is_finished()
            });
        }
        node.kill_task("busy");
        call.join().expect("the command ends").ok();
    });
    assert_eq!(node.publications().len(), ports.len() + 1);
}

/// A program that takes the rules away again and again is not fought all the time.
#[test]
fn a_quarrel_over_rules_is_not_fought() {
    let node = looked_at_each("1h");
    let web = circuit_testing::network::full("ctr0", "10.255.0.0/16");
    node.create_network("ctr0", &web);
    let labels = [(NETWORK, "ctr0"), ("io.circuit.ports", "8081:80")];
    node.run_container("web", &labels, &[]);
    let published = || node.publications().len() == 1;
    wait_until("it is published", PATIENCE, published);
    let said = || logged(&node, &["another program took firewall rules away"]);
    let quarrel = Instant::now();
    while quarrel.elapsed() < Duration::from_secs(5) {
        node.run("nft", &["flush", "ruleset"]).ok();
        thread::sleep(Duration::from_millis(50));
    }
    let times = said();
    assert!((1..=4).contains(&times), "it was mended {times} times");
    wait_until("it is published again", PATIENCE, published);
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn the_doctor_puts_a_port_back() {
    let node = crate::node().start();
    create_ctr0(&node);
    connected(&node, &["one"], "ctr0", 1);
    let reached = || reach(&node, &["one"], &["10.255.0.1"]);
    wait_until("the gateway is there", PATIENCE, reached);
    let port = node.in_netns("one", &["ip", "-j", "link", "show", "eth0"]);
    let port: Value = serde_json::from_str(&port.ok()).unwrap();
    let index = port[0]["link_index"].as_u64().unwrap();
    let links: Value = serde_json::from_str(&node.run("ip", &["-j", "link"]).ok()).unwrap();
    let mut links = links.as_array().unwrap().iter();
    let port = links.find(|link| link["ifindex"] == index).unwrap();
    let port = port["ifname"].as_str().unwrap();
    let take_out = || {
        node.run("ip", &["link", "set", port, "nomaster"]).ok();
    };
    tire(|| logged(&node, &["it is back"]), take_out);
    let told = node.circuit(&["doctor"]);
    assert!(told.stdout.contains("is no port of bridge"), "{told:?}");
    assert!(!reached());
    let fixed = node.circuit(&["doctor", "--fix"]);
    assert!(fixed.stdout.contains("fixed"), "{fixed:?}");
    assert!(reached());
}

#[test]
fn what_the_kernel_tells_of_is_given_back_without_a_pass() {
    let node = looked_at_each("1h");
    let create = ["network", "create", "a", "--subnet", "10.1.0.0/16"];
    node.circuit(&[&create[..], &["--subnet", "fd00:a::/64"]].concat())
        .ok();
    let ipam = json!({"type": "host-local", "subnet": "10.2.0.0/16",
        "routes": [{"dst": "10.0.0.0/8"}]});
    let config = json!({"cniVersion": "1.0.0", "name": "p",
        "plugins": [{"type": "ptp", "ipam": ipam}]});
    node.create_network("p", &config.to_string());
    connected(&node, &["one", "two"], "a", 2);
    connected(&node, &["pair"], "p", 1);
    let all = || {
        let gateways = ["10.1.0.1", "fd00:a::1"];
        reach(&node, &["one", "two"], &gateways) && reach(&node, &["pair"], &["10.2.0.1"])
    };
    wait_until("the gateways are there", PATIENCE, all);
    let before = (ips(&node, "one"), ips(&node, "two"), ips(&node, "pair"));
    let route = node
        .run("ip", &["-j", "route", "show", &before.2[0][1]])
        .ok();
    let route: Value = serde_json::from_str(&route).unwrap();
    let end = route[0]["dev"].as_str().unwrap();
    for (command, told) in [
        ("ip link set br-a down; ip addr flush dev br-a", "was down"),
        ("ip addr flush dev $0", "led to its container no more"),
        ("ip link del br-a", "connected one to a"),
    ] {
        let said = logged(&node, &[told]);
        node.run("sh", &["-c", command, end]).ok();
        wait_until(command, PATIENCE, || logged(&node, &[told]) > said && all());
    }
    let forwarding = "/proc/sys/net/ipv4/ip_forward";
    node.run("sh", &["-c", &format!("echo 0 > {forwarding}")])
        .ok();
    wait_until("the host forwards again", PATIENCE, || {
        node.run("cat", &[forwarding]).ok().trim() == "1"
    });
    assert_eq!(
        (ips(&node, "one"), ips(&node, "two"), ips(&node, "pair")),
        before
    );
    for name in ["one", "two", "pair"] {
        node.remove_container(name);
    }
    node.assert_nothing_left();
}
