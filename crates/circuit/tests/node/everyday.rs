//! Daily work without a line of JSON: networks in a few words, wishes by hand, and
//! everything seen.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;

use circuit_api::v1::{ListContainersRequest, containers_client::ContainersClient};
use circuit_testing::{Lan, NodeBuilder, PATIENCE, TestNode, network, wait_until};
use serde_json::{Value, json};

use crate::support::{
    Api, NETWORK, RESTART, assert_exactly, assert_names, create_ctr0, error_of, ips,
    json as listing, member, patient,
};

crate::on_every_data_path!(
    a_network_in_a_few_words,
    wishes_by_hand_are_granted_and_kept
);

/// Serves a page on port 80.
const WEB: [&str; 3] = [
    "sh",
    "-c",
    "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www",
];

fn a_network_in_a_few_words(node: NodeBuilder) {
    let node = node.uplink().start();
    // The uplink's route and the first network's subnet are avoided by themselves.
    let web = ["network", "create", "web", "--ipv6", "--mtu", "1400"];
    let dry = node.circuit(&[&web[..], &["--dry-run"]].concat()).ok();
    let config: Value = serde_json::from_str(&dry).unwrap();
    assert_eq!(config["plugins"][0]["bridge"], "br-web");
    assert_eq!(node.circuit(&["network", "ls"]).ok().lines().count(), 1);
    let made = node.circuit(&web).ok();
    assert_eq!(made, "created web with 10.88.0.0/24 and fd0c:1c:c17::/64\n");
    assert_eq!(node.circuit(&["network", "info", "web"]).ok(), dry);
    let second = node.circuit(&["network", "create", "inner", "--internal"]);
    assert_eq!(second.ok(), "created inner with 10.88.1.0/24\n");

    node.run_container("a", &[], &[]);
    node.circuit(&["network", "connect", "a", "web"]).ok();
    node.circuit(&["network", "connect", "a", "inner"]).ok();
    for gateway in ["10.88.0.1", "10.88.1.1", "fd0c:1c:c17::1"] {
        node.exec("a", &["ping", "-c", "1", "-W", "5", gateway])
            .ok();
    }
    // The uplink's other end is beyond the first network, and not the second.
    let out = ["ping", "-c", "1", "-W", "5", "192.0.2.1"];
    node.exec("a", &out).ok();
    node.circuit(&["network", "disconnect", "a", "web"]).ok();
    let ran = node.exec("a", &["ping", "-c", "1", "-W", "1", "192.0.2.1"]);
    assert!(!ran.worked(), "an internal network leads out: {ran}");
    node.remove_container("a");
    node.assert_nothing_left();
}

fn wishes_by_hand_are_granted_and_kept(node: NodeBuilder) {
    let node = node.uplink().start();
    node.circuit(&["network", "create", "web", "--subnet", "10.88.0.0/24"])
        .ok();
    node.run_container("db", &[(RESTART, "always")], &WEB);
    let wishes = "--ip 10.88.0.77 --mac 02:42:0a:58:00:4d --alias sql --interface data0 -p 8080:80";
    let wishes: Vec<&str> = wishes.split(' ').collect();
    let connect = [&["network", "connect", "db", "web"], &wishes[..]].concat();
    let connected = "connected db to web with ip=10.88.0.77\n";
    assert_eq!(node.circuit(&connect).ok(), connected);
    assert_granted(&node);
    // Once more, with the wishes or without them, changes nothing.
    assert_eq!(node.circuit(&connect).ok(), connected);
    let plain = node.circuit(&["network", "connect", "db", "web"]).ok();
    assert_eq!(plain, connected);
    let other = node.circuit(&["network", "connect", "db", "web", "--ip", "10.88.0.78"]);
    assert_names(
        &error_of(other),
        &["without address 10.88.0.78", "disconnect it first"],
    );

    // They hold when the task ends and is started again, and over the daemon's life.
    node.kill_daemon();
    let old = node.task_pid("db").unwrap();
    node.kill_task("db");
    node.start_daemon();
    node.wait_for_new_task("db", old);
    assert_granted(&node);

    node.circuit(&["network", "disconnect", "db", "web"]).ok();
    assert_eq!(ips(&node, "db"), [[""; 3]; 0]);
    // With the disconnect they are forgotten.
    node.circuit(&["network", "connect", "db", "web"]).ok();
    assert_eq!(ips(&node, "db")[0][2], "eth0");
    node.remove_container("db");
    node.assert_nothing_left();
}

#[track_caller]
fn assert_granted(node: &TestNode) {
    let want = [["web", "10.88.0.77", "data0"].map(str::to_owned)];
    wait_until("the address is there", PATIENCE, || ips(node, "db") == want);
    let inside = node
        .in_netns("db", &["ip", "-o", "link", "show", "data0"])
        .ok();
    assert_names(&inside, &["02:42:0a:58:00:4d"]);
    wait_until("the port answers", PATIENCE, || {
        let url = ["-s", "--max-time", "5", "http://192.0.2.2:8080/"];
        node.outside("curl", &url).stdout == "hello\n"
    });
    let record = node.record("db").unwrap();
    assert_eq!(record["attachments"][0]["aliases"], json!(["sql"]));
}

#[test]
fn wishes_that_cannot_be_granted_leave_nothing() {
    let node = crate::node().start();
    create_ctr0(&node);
    node.run_container("a", &[], &[]);
    for (wish, parts) in [
        (["--ip", "10.1.0.1"], ["10.1.0.1", "outside network ctr0"]),
        (["--ip", "10.255.0"], ["10.255.0", "is no address"]),
        (
            ["--publish", "8080:80"],
            ["ctr0 cannot publish ports", "portmap"],
        ),
        (["--interface", "lo"], ["lo", "taken"]),
        (["--mac", "33:00:00:00:00:01"], ["33:00", "group address"]),
    ] {
        let ran = node.circuit(&[&["network", "connect", "a", "ctr0"], &wish[..]].concat());
        assert_names(&error_of(ran), &parts);
        assert_exactly(&node, &[("a", 0)]);
    }
    // Nothing was asked for by those who were told "no".
    assert!(node.record("a").is_none(), "{:?}", node.record("a"));
    node.remove_container("a");
    node.assert_nothing_left();
}

#[test]
fn everything_is_seen() {
    let node = crate::node().start();
    node.circuit(&["network", "create", "web", "--subnet", "10.88.0.0/24"])
        .ok();
    node.run_container("plain", &[], &[]);
    node.create_container("never", &[], &[]);
    let labels = [
        (NETWORK, "web,lost"),
        (RESTART, "on-failure:3"),
        ("io.circuit.ports", "8080:80"),
    ];
    node.run_container("web1", &labels, &[]);
    node.wait_for_addresses("web1");
    let old = node.task_pid("web1").unwrap();
    node.kill_task("web1");
    let pid = node.wait_for_new_task("web1", old);

    let seen = |words: &[&str]| {
        let listing = listing(&node, words);
        let all = listing["containers"].as_array().unwrap().clone();
        all.into_iter()
            .map(|one| (one["id"].as_str().unwrap().to_owned(), one))
            .collect::<std::collections::BTreeMap<String, Value>>()
    };
    wait_until("the restarted container is whole", PATIENCE, || {
        let all = seen(&["ps"]);
        all["web1"]["networks"][0]["phase"] == "attached" && all["web1"]["problems"] != json!([])
    });
    let all = seen(&["ps"]);
    let ids: Vec<&String> = all.keys().collect();
    assert_eq!(ids, ["plain", "web1"]);
    let web1 = &all["web1"];
    assert_eq!(web1["state"], "running");
    assert_eq!(web1["pid"], pid);
    assert_eq!(
        web1["restart"],
        json!({ "policy": "on-failure:3", "count": 1, "stopped": false })
    );
    let on = &web1["networks"][0];
    assert_eq!(on["network"], "web");
    assert_eq!(on["ports"], json!(["8080:80/tcp"]));
    assert_eq!(on["origin"], "label");
    let ip = node.addresses("web1").remove(0);
    assert!(ip.starts_with(on["ips"][0].as_str().unwrap()), "{ip} {on}");
    assert_names(web1["problems"][0]["message"].as_str().unwrap(), &["lost"]);
    assert_eq!(seen(&["ps", "--all"])["never"]["state"], "absent");
    let table = node.circuit(&["ps"]);
    assert_names(
        &table.stdout,
        &[
            "web1",
            "on-failure:3 (1)",
            "8080:80/tcp",
            "running, problem",
        ],
    );
    assert_names(&table.stderr, &["warning: ", "lost"]);

    node.circuit(&["container", "stop", "--timeout", "1s", "web1"])
        .ok();
    wait_until("it rests", PATIENCE, || {
        let all = seen(&["ps"]);
        all["web1"]["restart"]["stopped"] == true && all["web1"]["networks"] == json!([])
    });
    node.circuit(&["container", "start", "web1"]).ok();
    node.wait_for_addresses("web1");

    let inspected = listing(&node, &["network", "inspect", "web"]);
    assert_eq!(
        inspected["plugins"],
        json!(["bridge", "portmap", "firewall"])
    );
    assert_eq!(inspected["pools"][0]["size"], 253);
    assert_eq!(inspected["pools"][0]["used"], 1);
    assert_eq!(inspected["containers"][0]["container"], "web1");

    // Containerd away: what is remembered is told.
    node.stop_containerd();
    let remembered = seen(&["ps", "--all"]);
    assert_eq!(remembered["web1"]["state"], "unknown");
    assert_eq!(remembered["web1"]["networks"][0]["network"], "web");
    node.start_containerd();
}

#[test]
fn traffic_is_counted_as_containers_see_it() {
    let node = crate::node().start();
    node.circuit(&["network", "create", "web", "--subnet", "10.88.0.0/24"])
        .ok();
    node.run_container("a", &[(NETWORK, "web")], &[]);
    node.wait_for_addresses("a");
    let api = Api::of(&node);
    let counted = || {
        let mut client = ContainersClient::new(api.channel.clone());
        let request = patient(ListContainersRequest {
            here: true,
            traffic: true,
        });
        let mut listing = api.run(client.list(request)).unwrap().into_inner();
        let on = listing.containers.remove(0).networks.remove(0);
        (on.received_bytes.unwrap(), on.sent_bytes.unwrap())
    };
    let before = counted();
    let ping = ["ping", "-c", "5", "-i", "0.2", "-s", "1000", "10.88.0.1"];
    node.exec("a", &ping).ok();
    let after = counted();
    let passed = (after.0 - before.0, after.1 - before.1);
    // Five answers to five questions, each of 1000 bytes and its headers.
    for bytes in [passed.0, passed.1] {
        assert!((5_000..10_000).contains(&bytes), "{passed:?}");
    }
    // What only one side does is not on both: a packet that nobody answers.
    let lost = [
        "ping",
        "-c",
        "1",
        "-W",
        "1",
        "-s",
        "1400",
        "-I",
        "eth0",
        "203.0.113.1",
    ];
    let _ = node.exec("a", &lost);
    let then = counted();
    assert!(then.1 - after.1 > then.0 - after.0, "{after:?} {then:?}");
    let frames = node.circuit(&["top", "--count", "2", "--interval", "200ms"]);
    assert_names(&frames.ok(), &["web=10.88.0.2", "B/s"]);
}

#[test]
fn a_network_that_is_made_again_takes_what_is_free() {
    let node = crate::node().start();
    let create = ["network", "create", "web"];
    let bridge = || node.run("ip", &["link", "show", "br-web"]).worked();
    let made = node.circuit(&create).ok();
    node.run_container("a", &[], &[]);
    node.circuit(&["network", "connect", "a", "web"]).ok();
    node.circuit(&["network", "disconnect", "a", "web"]).ok();
    assert!(bridge(), "a bridge stays as long as its network");
    node.circuit(&["network", "delete", "web"]).ok();
    assert!(!bridge(), "the bridge of a network that is gone");
    assert_eq!(node.circuit(&create).ok(), made);
    node.circuit(&["network", "connect", "a", "web"]).ok();
    // What somebody else has put on it keeps it.
    let port = ["link", "add", "hand", "master", "br-web", "type", "veth"];
    node.run("ip", &port).ok();
    node.circuit(&["network", "delete", "--force", "web"]).ok();
    assert!(bridge(), "a bridge with a port of somebody else");
    node.run("ip", &["link", "del", "hand"]).ok();
    node.run("ip", &["link", "del", "br-web"]).ok();
    node.remove_container("a");
    node.assert_nothing_left();
}

#[test]
fn networks_that_nobody_wants_are_pruned() {
    let node = crate::node().start();
    for name in ["used", "labelled", "asked", "left"] {
        node.circuit(&["network", "create", name]).ok();
    }
    node.run_container("a", &[], &[]);
    node.circuit(&["network", "connect", "a", "used"]).ok();
    // They do not run, and will want their networks when they do.
    node.create_container("b", &[(NETWORK, "labelled")], &[]);
    node.run_container("c", &[], &[]);
    node.circuit(&["network", "connect", "c", "asked"]).ok();
    node.end_task("c");
    let dry = node.circuit(&["network", "prune", "--dry-run"]).ok();
    assert_names(
        &dry,
        &[
            "asked: kept, asked for by container c",
            "labelled: kept, asked for by container b",
            "left: would be deleted",
            "used: kept, used by container a",
        ],
    );
    assert_eq!(node.circuit(&["network", "prune"]).ok(), "left\n");
    assert_eq!(node.circuit(&["network", "prune"]).ok(), "");
    let table = node.circuit(&["network", "ls"]).ok();
    assert_eq!(table.lines().count(), 4, "{table}");
}

#[test]
fn many_are_connected_by_one_command() {
    let node = crate::node().start();
    create_ctr0(&node);
    let names = crate::support::names(12);
    crate::support::run_containers(&node, &names, &[]);
    let ids = names.join("\n");
    let connect = ["network", "connect", "-", "ctr0"];
    let connected = node.circuit_with_input(&connect, ids.as_bytes()).ok();
    assert_eq!(connected.lines().count(), 12, "{connected}");
    let wanted: Vec<(&str, usize)> = names.iter().map(|name| (&**name, 1)).collect();
    assert_exactly(&node, &wanted);
    let some = node.circuit(&["network", "disconnect", "c0,nobody,c1", "ctr0"]);
    assert_eq!(some.stdout.lines().count(), 2, "{some}");
    assert_names(&some.fails(1), &["nobody"]);
}

/// A bridge that takes its time, and tells for whom it has begun.
const SLOW: &str = "#!/bin/sh\n\
     case $CNI_COMMAND in ADD) mkdir -p /run/began; touch /run/began/$CNI_CONTAINERID; sleep 1 ;; esac\n\
     exec %STOCK%/bridge\n";

#[test]
fn a_command_that_is_ended_leaves_nothing_half_done() {
    let node = crate::node().start();
    node.script_plugin("slow", SLOW);
    let config = network::by_plugin("slow", "slow0", "10.4.0.0/16");
    let config = config.replace("\"name\": \"slow0\"", "\"name\": \"slow\"");
    node.create_network("slow", &config);
    let names = ["a", "b", "c", "d"];
    for name in names {
        node.run_container(name, &[], &[]);
    }
    let connect = ["network", "connect", "a,b,c,d", "slow"];
    // By one signal, by two, and without a word.
    for signals in [&["-INT"][..], &["-INT", "-INT"], &["-KILL"]] {
        let kills: String = signals
            .iter()
            .map(|signal| format!("kill {signal} $pid; sleep 0.1; "))
            .collect();
        let script = format!(
            "rm -rf /run/began; {} {} & pid=$!; \
             until [ \"$(ls /run/began 2>/dev/null | wc -l)\" = 4 ]; do sleep 0.05; done; \
             {kills}wait $pid",
            node.program(),
            connect.join(" "),
        );
        let ran = node.run("sh", &["-c", &script]);
        assert_eq!(
            ran.worked(),
            signals.len() == 1 && signals[0] == "-INT",
            "{ran}"
        );
        // What had begun, which is all of them, comes to its end.
        assert_exactly(&node, &names.map(|name| (name, 1)));
        node.circuit(&["network", "disconnect", "a,b,c,d", "slow"])
            .ok();
        assert_exactly(&node, &names.map(|name| (name, 0)));
    }
    for name in names {
        node.remove_container(name);
    }
    node.assert_nothing_left();
}

/// `circuit events`, read line by line.
struct Watching {
    child: Child,
    lines: mpsc::Receiver<Value>,
    kept: RefCell<Vec<Value>>,
}

impl Watching {
    #[track_caller]
    fn of(node: &TestNode, arguments: &[&str]) -> Self {
        let mut child = node
            .command(&node.program())
            .args(["events", "--format", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("circuit events runs");
        let out = BufReader::new(child.stdout.take().expect("an output"));
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("a json object a line");
                if tell.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            kept: RefCell::default(),
        }
    }

    /// The next event of this kind about this container, network or node; others are
    /// kept, for their order is not what is asked about.
    #[track_caller]
    fn next(&self, kind: &str, about: &str) -> Value {
        let is = |event: &Value| {
            let named = ["container", "network", "node"].iter();
            event["kind"] == kind && named.map(|key| &event[*key]).any(|name| name == about)
        };
        let mut kept = self.kept.borrow_mut();
        if let Some(at) = kept.iter().position(is) {
            return kept.remove(at);
        }
        loop {
            let Ok(event) = self.lines.recv_timeout(PATIENCE) else {
                panic!("no {kind} of {about}, but {kept:?}");
            };
            if is(&event) {
                return event;
            }
            kept.push(event);
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_happens_is_told_as_it_happens() {
    let node = crate::node().start();
    let watching = Watching::of(&node, &[]);
    // The watch may begin a moment later than the program.
    wait_until("the watch has begun", PATIENCE, || {
        node.circuit(&["network", "create", "probe"]).ok();
        node.circuit(&["network", "delete", "probe"]).ok();
        watching
            .lines
            .recv_timeout(std::time::Duration::from_millis(300))
            .is_ok()
    });
    node.circuit(&["network", "create", "web", "--subnet", "10.88.0.0/24"])
        .ok();
    assert_eq!(watching.next("network.created", "web")["node"], "node");
    node.run_container("a", &[(NETWORK, "web,late"), (RESTART, "always")], &[]);
    watching.next("task.started", "a");
    let connected = watching.next("container.connected", "a");
    assert_eq!(connected["network"], "web");
    assert_eq!(connected["interface"], "eth0");
    assert_eq!(
        json!([node.addresses("a")[0].split('/').next()]),
        connected["ips"]
    );
    let problem = watching.next("container.problem", "a");
    assert_names(problem["message"].as_str().unwrap(), &["late"]);
    node.create_network("late", &network::bridge("late", "10.7.0.0/16"));
    let late = watching.next("container.connected", "a");
    assert_eq!(late["network"], "late");
    watching.next("container.solved", "a");

    let old = node.task_pid("a").unwrap();
    node.kill_task("a");
    watching.next("task.exited", "a");
    watching.next("container.disconnected", "a");
    let restarted = watching.next("task.restarted", "a");
    let pid = node.wait_for_new_task("a", old);
    assert_names(restarted["message"].as_str().unwrap(), &[&pid.to_string()]);
    node.remove_container("a");
    node.circuit(&["network", "delete", "web"]).ok();
    watching.next("network.deleted", "web");

    // Ids grow, and what was can be asked for once more.
    let again = Watching::of(&node, &["--last", "500", "--kind", "task.restarted"]);
    let seen = again.next("task.restarted", "a");
    assert_eq!(seen["id"], restarted["id"]);
    // The end of the daemon ends the watch.
    node.stop_daemon();
    let mut watching = watching;
    assert_eq!(watching.child.wait().unwrap().code(), Some(1));
}

#[test]
fn events_of_other_nodes_are_told_too() {
    let lan = Lan::new();
    let redis = lan.redis();
    let [one, two] = ["n1", "n2"].map(|name| member(&lan, name, 3).start());
    wait_until("they know each other", PATIENCE, || {
        let nodes = listing(&one, &["cluster", "nodes"]);
        nodes["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.len() == 2)
    });
    let watching = Watching::of(&one, &["--last", "100"]);
    create_ctr0(&two);
    two.run_container("there", &[(NETWORK, "ctr0")], &[]);
    let connected = watching.next("container.connected", "there");
    assert_eq!(connected["node"], "n2");
    assert_eq!(connected["network"], "ctr0");
    let all = listing(&one, &["ps", "--cluster"]);
    assert_eq!(all["containers"][0]["node"], "n2");
    assert_eq!(all["containers"][0]["networks"][0]["ips"], connected["ips"]);
    assert_eq!(listing(&one, &["ps"])["containers"], json!([]));
    two.remove_container("there");
    assert_eq!(
        watching.next("container.disconnected", "there")["node"],
        "n2"
    );
    two.stop_daemon();
    watching.next("node.left", "n2");
    drop(redis);
    watching.next("registry.lost", "n1");
    let _redis = lan.redis();
    watching.next("registry.back", "n1");
}
