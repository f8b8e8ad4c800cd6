//! What a daemon tells a collector of traces.

use std::net::TcpListener;

use circuit_net::netns;
use circuit_testing::{Collector, PATIENCE, Span, TestNode, wait_until};

use crate::node;
use crate::support::{NETWORK, RESTART, create_ctr0, logged};

const TRACES: [&str; 2] = ["--traces", "http://127.0.0.1:4317"];

/// A collector where the node's daemon looks for it.
fn collector(node: &TestNode) -> Collector {
    let netns = format!("/proc/{}/ns/net", node.daemon_pid());
    let bound = netns::in_netns(netns, || Ok(TcpListener::bind("127.0.0.1:4317")));
    Collector::serve(bound.unwrap().unwrap())
}

/// The names of a span and all around it, the outermost first.
fn path(spans: &[Span], span: &Span) -> String {
    let around = spans.iter().find(|other| other.id == span.parent);
    match around {
        Some(around) => format!("{}/{}", path(spans, around), span.name),
        None => span.name.clone(),
    }
}

/// The first span that lies so.
#[track_caller]
fn at<'a>(spans: &'a [Span], wanted: &str) -> &'a Span {
    let found = spans.iter().find(|span| path(spans, span) == wanted);
    found.unwrap_or_else(|| {
        let paths: Vec<String> = spans.iter().map(|span| path(spans, span)).collect();
        panic!("no {wanted} among {paths:#?}")
    })
}

#[test]
fn steps_of_changes_and_looks_arrive_at_a_collector() {
    let node = node().server(&TRACES).start();
    let collector = collector(&node);
    create_ctr0(&node);
    node.run_container("asked", &[], &[]);
    node.circuit(&["network", "connect", "asked", "ctr0"]).ok();
    node.circuit(&["network", "connect", "asked", "nowhere"])
        .fails(1);
    node.run_container("labelled", &[(NETWORK, "ctr0"), (RESTART, "always")], &[]);
    node.wait_for_addresses("labelled");
    let old = node.task_pid("labelled").expect("it runs");
    node.kill_task("labelled");
    let new = node.wait_for_new_task("labelled", old);
    node.wait_for_addresses("labelled");
    node.circuit(&["container", "restart", "labelled"]).ok();
    assert_ne!(node.task_pid("labelled"), Some(new));
    node.circuit(&["network", "disconnect", "asked", "ctr0"])
        .ok();
    for container in ["asked", "labelled"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
    // The last are sent when the daemon ends.
    assert_eq!(node.stop_daemon(), Some(0));
    let spans = collector.spans();
    for wanted in [
        "Connect/connect/attach/pin",
        "Connect/connect/attach/ADD/plugin",
        "Connect/connect/attach/sync",
        "Connect/connect/routes",
        "Disconnect/disconnect/detach/DEL/plugin",
        "look/attach/ADD/plugin",
        "look/publish",
        "look/restart/start/create task",
        "look/restart/start/attach/ADD/plugin",
        "look/restart/start/start task",
        "look/detach/DEL/plugin",
        "Restart/restart/end task",
        "Restart/restart/start/create task",
        "CreateNetwork",
    ] {
        let span = at(&spans, wanted);
        assert!(span.times.0 <= span.times.1, "{span:?}");
        assert_eq!(span.resource["service.name"], "circuit");
    }
    let connect = at(&spans, "Connect/connect");
    assert_eq!(connect.attributes["container"], "asked");
    assert_eq!(connect.attributes["network"], "ctr0");
    assert_eq!(connect.error, None);
    let plugin = at(&spans, "Connect/connect/attach/ADD/plugin");
    assert_eq!(plugin.attributes["plugin"], "bridge");
    assert_eq!(plugin.attributes["native"], "true");
    let look = at(&spans, "look/restart");
    assert_eq!(look.attributes["cause"], "policy");
    let failed = |span: &&Span| span.name == "Connect" && span.error.is_some();
    let failed = spans.iter().find(failed).expect("the connect that failed");
    assert!(failed.error.as_ref().unwrap().contains("nowhere"));
}

#[test]
fn a_collector_may_come_late_and_go() {
    let node = node().server(&TRACES).start();
    create_ctr0(&node);
    node.run_container("asked", &[], &[]);
    node.circuit(&["network", "connect", "asked", "ctr0"]).ok();
    let complaint = ["the collector of traces at http://127.0.0.1:4317 "];
    let told = || logged(&node, &complaint) == 1;
    wait_until("one line says that it is away", PATIENCE, told);
    let why = [complaint[0], " fails: Unavailable: ", "onnection refused"];
    assert_eq!(logged(&node, &why), 1);
    let collector = collector(&node);
    let arrived = || {
        // Something must happen for there to be something to tell.
        node.circuit(&["network", "ls"]).ok();
        let spans = collector.spans();
        spans.iter().any(|span| span.name == "ListNetworks")
    };
    wait_until("spans arrive", PATIENCE, arrived);
    wait_until("a line says that it is there", PATIENCE, || {
        logged(&node, &complaint) == 2
    });
    node.remove_container("asked");
    node.assert_nothing_left();
}
