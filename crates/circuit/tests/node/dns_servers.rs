//! Names that are not of containers: other servers are asked for them, for those
//! who may.

use circuit_testing::{Ends, Lan, PATIENCE, TestNode, network, wait_until};

use crate::node;
use crate::support::{DNS, NETWORK, dnsmasq};

/// A dnsmasq that answers on port 53 of that address, and knows those names.
fn server(node: &TestNode, address: &str, knows: &[&str]) -> Ends {
    let listen = format!("--listen-address={address}");
    let fixed = ["--no-resolv", "--no-hosts", "--bind-interfaces", &listen];
    let running = dnsmasq(node.command("dnsmasq"), &[&fixed, knows].concat());
    let server = format!("@{address}");
    wait_until("dnsmasq answers", PATIENCE, || {
        node.dig(&[&server, "+time=1", "+tries=1", "probe.test"])
            .worked()
    });
    running
}

fn asked(node: &TestNode, name: &str) -> String {
    let words = [
        "@127.0.0.1",
        "-p",
        "5353",
        "+short",
        "+time=8",
        "+tries=1",
        name,
    ];
    node.dig(&words).ok().trim().to_owned()
}

fn status_by(ran: circuit_testing::Ran) -> String {
    let text = ran.ok();
    let (_, rest) = text.split_once("status: ").expect("an answer");
    rest.split(',').next().unwrap_or_default().to_owned()
}

fn set_resolvers(node: &TestNode, addresses: &[&str]) {
    let lines: String = addresses
        .iter()
        .map(|address| format!("nameserver {address}\n"))
        .collect();
    let write = format!("printf '{lines}' > /etc/resolv.conf");
    node.run("sh", &["-c", &write]).ok();
}

#[test]
fn the_hosts_servers_are_asked_as_they_are_now() {
    let node = node()
        .resolver("127.0.0.8")
        .server(&["--dns-listen", "127.0.0.1:5353"])
        .start();
    let _one = server(&node, "127.0.0.8", &["--address=/one.test/203.0.113.1"]);
    assert_eq!(asked(&node, "host.one.test"), "203.0.113.1");
    // Others, from now on.
    let _two = server(&node, "127.0.0.9", &["--address=/one.test/203.0.113.2"]);
    set_resolvers(&node, &["127.0.0.9"]);
    wait_until("the new server is asked", PATIENCE, || {
        asked(&node, "host.one.test") == "203.0.113.2"
    });
    // One that is silent does not keep the others from being asked.
    let _three = server(&node, "127.0.0.10", &["--address=/one.test/203.0.113.3"]);
    set_resolvers(&node, &["127.0.0.77", "127.0.0.10"]);
    wait_until("the second server is asked", PATIENCE, || {
        asked(&node, "host.one.test") == "203.0.113.3"
    });
    // Ours are still ours.
    node.create_network("ctr0", &network::bridge("ctr0", "10.88.0.0/16"));
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("web");
    assert_eq!(asked(&node, "web.ctr0"), "10.88.0.2");
    let told = node.circuit(&["dns", "query", "host.one.test"]).ok();
    assert!(told.contains("NOERROR: from another server"), "{told}");
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn long_answers_come_by_tcp() {
    let node = node()
        .server(&[
            "--dns-listen",
            "127.0.0.1:5353",
            "--dns-upstream",
            "127.0.0.8",
        ])
        .start();
    let long = vec!["x".repeat(250); 8].join(",");
    let _server = server(
        &node,
        "127.0.0.8",
        &[&format!("--txt-record=long.test,{long}")],
    );
    let words = [
        "@127.0.0.1",
        "-p",
        "5353",
        "long.test",
        "TXT",
        "+bufsize=1232",
    ];
    let cut = node.dig(&[&words[..], &["+ignore"]].concat()).ok();
    assert!(cut.contains(" tc") && cut.contains("ANSWER: 0"), "{cut}");
    let whole = node.dig(&words).ok();
    assert!(
        whole.contains("(TCP)") && whole.matches("xxxx").count() >= 8,
        "{whole}"
    );
}

#[test]
fn strangers_are_answered_about_containers_only() {
    let lan = Lan::new();
    let node = node()
        .lan(&lan)
        .server(&[
            "--dns-listen",
            "0.0.0.0:5353",
            "--dns-upstream",
            "127.0.0.8",
        ])
        .start();
    let _server = server(&node, "127.0.0.8", &["--address=/one.test/203.0.113.1"]);
    node.create_network("ctr0", &network::bridge("ctr0", "10.88.0.0/16"));
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("web");
    let server = format!("@{}", node.address());
    let stranger = |words: &[&str]| {
        let mut dig = lan.command("dig");
        dig.args(["-r", &server, "-p", "5353", "+time=8", "+tries=1"])
            .args(words);
        String::from_utf8(dig.output().expect("dig").stdout).unwrap()
    };
    assert_eq!(stranger(&["+short", "web.ctr0"]).trim(), "10.88.0.2");
    assert_eq!(
        stranger(&["+short", "+tcp", "web.ctr0"]).trim(),
        "10.88.0.2"
    );
    let refused = stranger(&["host.one.test"]);
    assert!(refused.contains("status: REFUSED"), "{refused}");
    // Containers and the host itself are no strangers, whatever address they ask.
    let own = |words: &[&str]| node.dig(&[&[&*server, "-p", "5353"], words].concat());
    assert_eq!(own(&["+short", "host.one.test"]).ok().trim(), "203.0.113.1");
    let inside = node.dig_in(
        "web",
        &["@10.88.0.1", "-p", "5353", "+short", "host.one.test"],
    );
    assert_eq!(inside.ok().trim(), "203.0.113.1");
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn a_server_that_asks_us_does_not_go_on_for_ever() {
    let node = node()
        .server(&[
            "--dns-listen",
            "127.0.0.1:5353",
            "--dns-upstream",
            "127.0.0.8",
            "--dns-upstream",
            "127.0.0.9",
        ])
        .start();
    let back = ["--server=127.0.0.1#5353", "--cache-size=0"];
    let _loop = server(&node, "127.0.0.8", &back);
    let _good = server(&node, "127.0.0.9", &["--address=/one.test/203.0.113.1"]);
    wait_until("the loop is noticed", PATIENCE, || {
        node.daemon_log().contains("127.0.0.8:53 asks this one")
    });
    assert_eq!(asked(&node, "host.one.test"), "203.0.113.1");
    let refused = node.dig(&["@127.0.0.1", "-p", "5353", "nobody.example"]);
    assert_eq!(status_by(refused), "REFUSED");
}

/// A program of the host that asks a gateway does so from the gateway's address.
#[test]
fn a_server_that_asks_a_gateway_does_not_go_on_for_ever() {
    let node = node()
        .server(&["--dns-listen", "127.0.0.1:5353"])
        .server(&["--dns-upstream", "127.0.0.8"])
        .start();
    node.create_network("ctr0", &network::bridge("ctr0", "10.88.0.0/16"));
    node.run_container("web", &[(NETWORK, "ctr0"), (DNS, "true")], &[]);
    node.wait_for_addresses("web");
    let gateway = ["@10.88.0.1", "+time=1", "+tries=1", "web.ctr0"];
    wait_until("the gateway answers", PATIENCE, || {
        node.dig(&gateway).worked()
    });
    let back = ["--server=10.88.0.1", "--cache-size=0"];
    let _loop = server(&node, "127.0.0.8", &back);
    wait_until("the loop is noticed", PATIENCE, || {
        node.daemon_log().contains("127.0.0.8:53 asks this one")
    });
    let words = ["@127.0.0.1", "-p", "5353", "+time=8", "+tries=1"];
    let refused = node.dig(&[&words[..], &["nobody.example"]].concat());
    assert_eq!(status_by(refused), "REFUSED");
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let node = node().without_daemon().start();
    let taken = node.run(
        "timeout",
        &[
            "30",
            &node.program(),
            "server",
            "--dns-listen",
            "203.0.113.5:53",
        ],
    );
    let text = taken.fails(1);
    assert!(
        text.contains("203.0.113.5:53") && text.contains("dns"),
        "{text}"
    );
    let wrong = node.circuit(&["server", "--dns-domain", "no domain"]);
    assert!(wrong.fails(2).contains("--dns-domain"), "usage");
}
