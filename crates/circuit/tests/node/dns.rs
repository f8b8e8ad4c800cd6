//! Names of containers, on one node.

use circuit_testing::{PATIENCE, Plugins, Ran, TestNode, network, wait_until};
use serde_json::{Value, json};

use crate::node;
use crate::support::{DNS, NETWORK, assert_exactly, assert_names, dnsmasq, error_of, json, said};

/// Asks a C library.
const RESOLVE: &str = include_str!("resolve.c");
const LISTEN: [&str; 2] = ["--dns-listen", "127.0.0.1:5353"];

/// A bridge whose containers ask for names.
fn asking(name: &str, subnet: &str) -> String {
    let mut configuration: Value = serde_json::from_str(&network::bridge(name, subnet)).unwrap();
    configuration[DNS] = json!(true);
    configuration.to_string()
}

/// A node with networks `ctr0` and `ctr1`; containers of the first ask for names.
fn two_networks() -> TestNode {
    let node = node().server(&LISTEN).start();
    node.create_network("ctr0", &asking("ctr0", "10.88.0.0/16"));
    node.create_network("ctr1", &network::bridge("ctr1", "10.99.0.0/16"));
    node
}

/// What a name leads to, by the server on loopback.
fn found(node: &TestNode, name: &str, kind: &str) -> Vec<String> {
    lines(node.dig(&["@127.0.0.1", "-p", "5353", "+short", name, kind]))
}

fn lines(ran: Ran) -> Vec<String> {
    let mut lines: Vec<String> = ran.ok().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The result code of an answer.
fn status(ran: Ran) -> String {
    let text = ran.ok();
    let (_, rest) = text.split_once("status: ").expect("an answer");
    rest.split(',').next().unwrap_or_default().to_owned()
}

fn resolv_conf(node: &TestNode, container: &str) -> String {
    said(node, container, &["cat", "/etc/resolv.conf"])
}

#[test]
fn containers_find_each_other_by_name() {
    let node = two_networks();
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    let aliases = ("io.circuit.network.ctr0.aliases", "store,My.DB");
    node.run_container("db", &[(NETWORK, "ctr0,ctr1"), aliases], &[]);
    assert_exactly(&node, &[("web", 1), ("db", 2)]);
    let (web, db) = (node.addresses("web"), node.addresses("db"));
    let bare = |address: &str| address.split('/').next().unwrap().to_owned();
    let (web, [db0, db1]) = (bare(&web[0]), [bare(&db[0]), bare(&db[1])]);
    for (name, expected) in [
        ("web.ctr0", vec![&web]),
        ("web.ctr0.circuit.internal", vec![&web]),
        ("WEB.circuit.internal", vec![&web]),
        ("db.ctr0", vec![&db0]),
        ("db.ctr1", vec![&db1]),
        ("db.circuit.internal", vec![&db0, &db1]),
        ("store.ctr0", vec![&db0]),
        ("my-db.ctr0", vec![&db0]),
        ("store.ctr1", vec![]),
        ("gone.ctr0", vec![]),
    ] {
        assert_eq!(
            found(&node, name, "A").iter().collect::<Vec<_>>(),
            expected,
            "{name}"
        );
    }
    let name = format!("{}.{}.{}.{}.in-addr.arpa", 2, 0, 88, 10);
    assert_eq!(found(&node, &name, "PTR"), ["web.ctr0.circuit.internal."]);
    // From inside, by nothing but the name.
    wait_until("a resolver in web", PATIENCE, || {
        resolv_conf(&node, "web").contains("nameserver 10.88.0.1")
    });
    let conf = resolv_conf(&node, "web");
    assert_names(
        &conf,
        &[
            "search ctr0.circuit.internal circuit.internal",
            "nameserver 10.88.0.1",
        ],
    );
    let told = node.exec("web", &["nslookup", "db"]).ok();
    assert_names(&told, &["10.88.0.1:53", &db0]);
    assert_names(
        &node
            .exec("web", &["ping", "-c", "1", "-W", "5", "store"])
            .ok(),
        &["1 packets received"],
    );
    // What is on another network is not seen through the gateway, but by who is
    // on it too.
    node.run_container("far", &[(NETWORK, "ctr1")], &[]);
    let far = bare(&node.wait_for_addresses("far")[0]);
    let code = |container: &str, name: &str| status(node.dig_in(container, &["@10.88.0.1", name]));
    assert_eq!(code("web", "far.ctr1"), "NXDOMAIN");
    assert_eq!(code("web", "far.circuit.internal"), "NXDOMAIN");
    assert_eq!(code("web", "web.ctr0"), "NOERROR");
    assert_eq!(code("db", "far.ctr1"), "NOERROR");
    let told = node.dig_in("db", &["@10.88.0.1", "+short", "+tcp", "far.ctr1"]);
    assert_eq!(lines(told), [far]);
    for container in ["web", "db", "far"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

#[test]
fn a_name_comes_with_a_connect_and_goes_with_a_disconnect() {
    let node = two_networks();
    node.run_container("web", &[], &[]);
    assert!(found(&node, "web.ctr0", "A").is_empty());
    let before = resolv_conf_or_none(&node, "web");
    for _ in 0..5 {
        node.circuit(&["network", "connect", "web", "ctr0"]).ok();
        // At once: nothing is waited for.
        assert_eq!(found(&node, "web.ctr0", "A").len(), 1);
        assert_names(&resolv_conf(&node, "web"), &["nameserver 10.88.0.1"]);
        node.circuit(&["network", "disconnect", "web", "ctr0"]).ok();
        assert!(found(&node, "web.ctr0", "A").is_empty());
        assert_eq!(resolv_conf_or_none(&node, "web"), before);
    }
    node.remove_container("web");
    node.assert_nothing_left();
}

fn resolv_conf_or_none(node: &TestNode, container: &str) -> Option<String> {
    let ran = node.exec(container, &["cat", "/etc/resolv.conf"]);
    ran.worked().then(|| ran.ok())
}

#[test]
fn people_ask_the_daemon() {
    let node = two_networks();
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    assert_exactly(&node, &[("web", 1)]);
    let told = node.circuit(&["dns", "query", "web.ctr0"]).ok();
    assert_names(
        &told,
        &["web.ctr0", "10.88.0.2", "NOERROR: from containers on "],
    );
    let told = json(&node, &["dns", "query", "10.88.0.2"]);
    assert_eq!(told["records"][0]["data"], "web.ctr0.circuit.internal");
    // It is looked now and then which networks there are.
    wait_until("the network is known", PATIENCE, || {
        node.circuit(&["dns", "query", "ctr0", "SOA"]).worked()
    });
    let missing = node.circuit(&["dns", "query", "gone.ctr0"]);
    assert_eq!(missing.fails(1), "error: gone.ctr0 does not exist\n");
    let wrong = error_of(node.circuit(&["dns", "query", "web", "NONSENSE"]));
    assert_names(&wrong, &["NONSENSE", "AAAA"]);
    let list = json(&node, &["dns", "dump", "ctr0.circuit.internal"]);
    assert_eq!(list["records"][0]["data"], "10.88.0.2");
    assert_names(
        &node.circuit(&["dns", "dump"]).ok(),
        &["web.ctr0.circuit.internal", "NODE"],
    );
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn a_doctor_says_when_nobody_answers_for_other_names() {
    let node = node().server(&["--dns-upstream", "127.0.0.1:5399"]).start();
    node.create_network("ctr0", &asking("ctr0", "10.88.0.0/16"));
    let told = || node.circuit(&["doctor"]).stdout;
    let silence = "no server answers for names";
    assert_names(&told(), &[silence, "--dns-upstream"]);
    let arguments = [
        "--port=5399",
        "--no-resolv",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--local=/example/",
    ];
    let _server = dnsmasq(node.command("dnsmasq"), &arguments);
    wait_until("the doctor hears it", PATIENCE, || {
        !told().contains(silence)
    });
}

#[test]
fn a_doctor_says_when_containers_do_not_reach_their_name_server() {
    let node = two_networks();
    let labels = [(NETWORK, "ctr0,ctr1"), (DNS, "true")];
    node.run_container("web", &labels, &[]);
    let wait = || resolv_conf_or_none(&node, "web").is_some_and(|it| it.contains("10.99.0.1"));
    wait_until("a resolver", PATIENCE, wait);
    let told = || node.circuit(&["doctor"]).stdout;
    let silent =
        |server: &str| format!("the name server {server} of container web does not answer");
    let both = ["10.88.0.1", "10.99.0.1"].map(silent);
    assert!(!told().contains("does not answer"), "{}", told());
    // As ufw and many others have it.
    node.run("iptables", &["-P", "INPUT", "DROP"]).ok();
    assert_names(
        &told(),
        &[&both[0], &both[1], "firewall let UDP and TCP port 53 in"],
    );
    for rule in ["-i ctr0 -p udp --dport 53 -j ACCEPT", "-i lo -j ACCEPT"] {
        let rule = rule.split(' ').collect::<Vec<_>>();
        node.run("iptables", &[&["-I", "INPUT"], &rule[..]].concat())
            .ok();
    }
    let told = told();
    assert!(
        !told.contains(&both[0]) && told.contains(&both[1]),
        "{told}"
    );
    node.remove_container("web");
}

#[test]
fn a_label_says_whether_a_container_asks_for_names() {
    let node = two_networks();
    node.run_container("on", &[(NETWORK, "ctr1"), (DNS, "true")], &[]);
    node.run_container("off", &[(NETWORK, "ctr0"), (DNS, "false")], &[]);
    node.run_container("odd", &[(NETWORK, "ctr0"), (DNS, "maybe")], &[]);
    for container in ["on", "off", "odd"] {
        node.wait_for_addresses(container);
    }
    wait_until("a resolver", PATIENCE, || {
        resolv_conf_or_none(&node, "on").is_some_and(|it| it.contains("nameserver 10.99.0.1"))
    });
    let told = resolv_conf_or_none(&node, "off").unwrap_or_default();
    assert!(!told.contains("10.88.0.1"), "{told}");
    let problem = |container: &str| {
        let told = json(&node, &["network", "ips", container]);
        told["problems"].to_string()
    };
    wait_until("the label is named", PATIENCE, || {
        problem("odd").contains("neither true nor false")
    });
    for container in ["on", "off", "odd"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

#[test]
fn a_network_without_a_gateway_here_asks_where_the_daemon_listens() {
    let node = node().start();
    let lonely = network::bridge("ctr0", "10.88.0.0/16")
        .replace("\"isGateway\": true", "\"isGateway\": false");
    node.create_network("ctr0", &lonely);
    let labels = [(NETWORK, "ctr0"), (DNS, "true")];
    node.run_container("web", &labels, &[]);
    node.wait_for_addresses("web");
    wait_until("the remedy is named", PATIENCE, || {
        let told = json(&node, &["network", "ips", "web"]);
        told["problems"].to_string().contains("--dns-listen")
    });
    // On all addresses, gateways too.
    node.create_network("ctr1", &network::bridge("ctr1", "10.99.0.0/16"));
    node.stop_daemon();
    node.start_daemon_with(&["--dns-listen", "0.0.0.0:53"]);
    node.run_container("db", &[(NETWORK, "ctr1"), (DNS, "true")], &[]);
    wait_until("a resolver", PATIENCE, || {
        resolv_conf_or_none(&node, "db").is_some_and(|it| it.contains("nameserver 10.99.0.1"))
    });
    assert_names(
        &node.exec("db", &["nslookup", "db"]).ok(),
        &["10.99.0.1:53", "10.99.0.2"],
    );
    node.remove_container("web");
    node.remove_container("db");
    node.assert_nothing_left();
}

#[test]
fn a_file_that_is_not_the_containers_is_left_alone_and_told_of() {
    let node = two_networks();
    let mine = node.file("mine.conf", "nameserver 203.0.113.5\n");
    let mount = format!("type=bind,src={mine},dst=/etc/resolv.conf,options=rbind:rw");
    node.run_container_with(&["--mount", &mount], "mounted", &[(NETWORK, "ctr0")], &[]);
    node.run_container_with(&["--read-only"], "fixed", &[(NETWORK, "ctr0")], &[]);
    for (container, reason) in [
        ("mounted", "is mounted from elsewhere"),
        ("fixed", "read-only"),
    ] {
        node.wait_for_addresses(container);
        wait_until(reason, PATIENCE, || {
            let told = json(&node, &["network", "ips", container]);
            told["problems"].to_string().contains(reason)
        });
    }
    assert_eq!(
        std::fs::read_to_string(&mine).unwrap(),
        "nameserver 203.0.113.5\n"
    );
    node.remove_container("mounted");
    node.remove_container("fixed");
    node.assert_nothing_left();
}

#[test]
fn a_resolver_outlives_tasks_and_daemons_and_is_taken_back() {
    let node = two_networks();
    node.create_container("web", &[(NETWORK, "ctr0")], &[]);
    node.start_task("web");
    node.wait_for_addresses("web");
    let told = || {
        wait_until("a resolver", PATIENCE, || {
            resolv_conf_or_none(&node, "web").is_some_and(|it| it.contains("nameserver 10.88.0.1"))
        });
    };
    told();
    node.kill_daemon();
    node.start_daemon();
    wait_until("names again", PATIENCE, || {
        let ran = node.dig_in(
            "web",
            &["@10.88.0.1", "+short", "+time=1", "+tries=1", "web.ctr0"],
        );
        ran.worked() && ran.stdout.contains("10.88.")
    });
    let old = node.task_pid("web").unwrap();
    node.end_task("web");
    node.ctr(&["task", "delete", "web"]);
    node.start_task("web");
    node.wait_for_new_task("web", old);
    node.wait_for_addresses("web");
    told();
    // One who adds to the file keeps what it is then.
    let add = "echo options ndots:1 >> /etc/resolv.conf";
    node.exec("web", &["sh", "-c", add]).ok();
    let added = resolv_conf(&node, "web");
    assert_names(&added, &["nameserver 10.88.0.1\n", "options ndots:1\n"]);
    node.circuit(&["network", "disconnect", "web", "ctr0"]).ok();
    assert_eq!(resolv_conf(&node, "web"), added);
    node.circuit(&["network", "connect", "web", "ctr0"]).ok();
    // One who writes the file keeps it.
    let own = "nameserver 203.0.113.5\nsearch corp.example\noptions ndots:2\n";
    let write = format!("printf '{own}' > /etc/resolv.conf");
    node.exec("web", &["sh", "-c", &write]).ok();
    node.circuit(&["network", "disconnect", "web", "ctr0"]).ok();
    assert_eq!(resolv_conf(&node, "web"), own);
    node.circuit(&["network", "connect", "web", "ctr0"]).ok();
    let expected = [
        "nameserver 10.88.0.1\n",
        "search ctr0.circuit.internal circuit.internal corp.example\n",
        "options timeout:2 attempts:3 ndots:2\n",
    ];
    assert_names(&resolv_conf(&node, "web"), &expected);
    node.circuit(&["network", "disconnect", "web", "ctr0"]).ok();
    assert_eq!(resolv_conf(&node, "web"), own);
    node.remove_container("web");
    node.assert_nothing_left();
}

/// A node with a network of both families whose containers ask for names.
fn of_both_families() -> TestNode {
    let node = node().server(&LISTEN).start();
    let configuration = network::dual("ctr0", "10.88.0.0/16", "fd00:88::/64");
    let mut configuration: Value = serde_json::from_str(&configuration).unwrap();
    configuration[DNS] = json!(true);
    node.create_network("ctr0", &configuration.to_string());
    node
}

/// The other C library of containers' images, which asks all servers at once, and is
/// told nothing by files: these containers have no `/etc/hosts`.
#[test]
fn musl_finds_names_of_both_families() {
    let node = of_both_families();
    let (source, program) = (node.file("resolve.c", RESOLVE), node.file("resolve", ""));
    let compiler = ["-static", "-O1", "-o", &program, &source];
    node.run("musl-gcc", &compiler).ok();
    let mount = format!("type=bind,src={program},dst=/bin/resolve,options=rbind:ro");
    node.run_container_with(&["--mount", &mount], "web", &[(NETWORK, "ctr0")], &[]);
    wait_until("a resolver", PATIENCE, || {
        resolv_conf_or_none(&node, "web").is_some_and(|it| it.contains("nameserver 10.88.0.1"))
    });
    let both = "10.88.0.2=web.ctr0.circuit.internal fd00:88::2=web.ctr0.circuit.internal";
    let names = [
        "web",
        "WEB.ctr0",
        "web.circuit.internal",
        "none.ctr0",
        "localhost",
    ];
    let told = said(&node, "web", &[&["resolve"], &names[..]].concat());
    let expected = format!(
        "web: {both}\nWEB.ctr0: {both}\nweb.circuit.internal: {both}\n\
         none.ctr0: Name does not resolve\nlocalhost: ::1=localhost 127.0.0.1=localhost\n"
    );
    assert_eq!(told, expected);
    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn the_c_library_finds_names_of_both_families() {
    let node = of_both_families();
    // The machine's own getent with what it is linked to.
    let shown = [
        ("/usr/bin/getent", "/bin/getent"),
        ("/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu"),
        ("/lib64", "/lib64"),
    ]
    .map(|(from, to)| (std::fs::canonicalize(from).unwrap(), to))
    .map(|(from, to)| format!("type=bind,src={},dst={to},options=rbind:ro", from.display()));
    let flags: Vec<&str> = shown.iter().flat_map(|mount| ["--mount", mount]).collect();
    node.run_container_with(&flags, "web", &[(NETWORK, "ctr0")], &[]);
    node.run_container("db", &[(NETWORK, "ctr0")], &[]);
    wait_until("db has its name", PATIENCE, || {
        let told = node.circuit(&["dns", "query", "db.ctr0"]);
        told.worked() && told.stdout.contains("NOERROR")
    });
    let addresses = node.addresses("db");
    wait_until("a resolver", PATIENCE, || {
        resolv_conf_or_none(&node, "web").is_some_and(|it| it.contains("nameserver 10.88.0.1"))
    });
    assert_names(&resolv_conf(&node, "web"), &["nameserver fd00:88::1"]);
    let getent = |words: &[&str]| said(&node, "web", &[&["getent"], words].concat());
    for address in &addresses {
        let ip = address.split('/').next().unwrap();
        let kind = if ip.contains(':') {
            "ahostsv6"
        } else {
            "ahostsv4"
        };
        assert_names(&getent(&[kind, "db"]), &[ip]);
        assert_names(&getent(&["hosts", ip]), &["db.ctr0.circuit.internal"]);
        assert_names(&getent(&[kind, "db.ctr0"]), &[ip]);
    }
    let by_v6 = node.dig_in("web", &["@fd00:88::1", "+short", "db.ctr0", "AAAA"]);
    assert_names(&by_v6.ok(), &["fd00:88::"]);
    node.remove_container("web");
    node.remove_container("db");
    node.assert_nothing_left();
}

/// As of a resolver in a container, whose port the host's users ask.
#[test]
fn a_published_port_53_takes_no_names_from_the_gateway() {
    let node = node().plugins(Plugins::None).start();
    let mut configuration: Value =
        serde_json::from_str(&network::full("ctr0", "10.88.0.0/16")).unwrap();
    configuration[DNS] = json!(true);
    node.create_network("ctr0", &configuration.to_string());
    let ports = ("io.circuit.ports", "53:53/udp,53:53");
    node.run_container("hole", &[(NETWORK, "ctr0"), ports], &[]);
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    assert_exactly(&node, &[("hole", 1), ("web", 1)]);
    for container in ["hole", "web"] {
        wait_until("a resolver", PATIENCE, || {
            resolv_conf(&node, container).contains("nameserver 10.88.0.1")
        });
    }
    let short = ["@10.88.0.1", "+short", "+time=1", "+tries=1", "web.ctr0"];
    let answered = || {
        ["hole", "web"].iter().all(|container| {
            ["+notcp", "+tcp"].iter().all(|by| {
                let ran = node.dig_in(container, &[&short[..], &[by]].concat());
                ran.worked() && ran.ok().trim().starts_with("10.88.0.")
            })
        })
    };
    assert!(answered());
    let told = node.circuit(&["doctor", "--format", "json"]);
    assert!(!format!("{told:?}").contains("goes before"), "{told:?}");
    node.run("nft", &["flush", "ruleset"]).ok();
    let ports = || node.run("nft", &["list", "map", "inet", "circuit", "ports4"]);
    wait_until("the ports are there again", PATIENCE, || {
        ports().worked() && ports().ok().contains("udp . 53")
    });
    wait_until("names are answered again", PATIENCE, answered);
    // Nor where the daemon is told to listen there.
    for listen in ["10.88.0.1:53", "0.0.0.0:53"] {
        node.stop_daemon();
        node.start_daemon_with(&["--dns-listen", listen]);
        wait_until(listen, PATIENCE, answered);
    }
    node.remove_container("hole");
    node.remove_container("web");
    node.assert_nothing_left();
}
