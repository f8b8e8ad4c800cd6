//! Published ports: many beside one.

use std::time::Duration;

use circuit_testing::wait_until;
use serde_json::json;

use crate::{
    common::{Api, Goal, Times, node, row, run, run_inside, table},
    one::plugin,
};

const ROUNDS: usize = 30;
const WARM: usize = 3;
/// Every how many rounds the side that executes plugins has its turn: it takes
/// seconds.
const SELDOM: usize = 6;
const PATIENCE: Duration = Duration::from_secs(30);
/// The containers, and the ports they publish.
const CONTAINERS: [(&str, Option<&str>); 3] = [
    ("ports-0", None),
    ("ports-1", Some("10000:80")),
    ("ports-100", Some("11000-11099:1000-1099")),
];

pub(crate) fn outside(part: &str) {
    let node = node();
    for (name, number) in [("native", 71), ("exec", 72)] {
        let list = json!({
            "cniVersion": "1.0.0",
            "name": name,
            "io.circuit.data-path": name,
            "plugins": [plugin(number), {"type": "portmap", "capabilities": {"portMappings": true}}],
        });
        node.create_network(name, &list.to_string());
    }
    for (container, ports) in CONTAINERS {
        // Ports come with the networks that labels name.
        let mut labels = vec![("io.circuit.network", "native,exec")];
        labels.extend(ports.map(|ports| ("io.circuit.ports", ports)));
        node.run_container(container, &labels, &[]);
        wait_until("it is on both networks", PATIENCE, || {
            node.addresses(container).len() == 2
        });
        for network in ["native", "exec"] {
            node.circuit(&["network", "disconnect", container, network])
                .ok();
        }
    }
    run_inside(&node, &[part]);
}

pub(crate) fn inside() {
    let mut api = Api::open();
    for network in ["native", "exec"] {
        api.connect("ports-100", network);
        assert!(
            rules().contains("11099"),
            "the last port is published on {network}"
        );
        api.disconnect("ports-100", network);
    }
    let mut times = Times::default();
    for round in 0..WARM + ROUNDS {
        if round == WARM {
            times.clear();
        }
        for network in ["native", "exec"] {
            if network == "exec" && round % SELDOM != 0 {
                continue;
            }
            for (container, _) in CONTAINERS {
                let name = |operation: &str| format!("{network} {operation} {container}");
                times.take(&name("connect"), || api.connect(container, network));
                times.take(&name("disconnect"), || api.disconnect(container, network));
            }
        }
    }
    table(&format!(
        "published ports: bridge + masquerade + portmap, p50 of {ROUNDS} rounds"
    ));
    for network in ["native", "exec"] {
        print(&times, network);
    }
}

/// Of nftables, those of iptables among them.
fn rules() -> String {
    run("nft", &["list", "ruleset"])
}

fn print(times: &Times, network: &str) {
    let goal = match network {
        "native" => Goal::AtMost(1.2),
        _ => Goal::None,
    };
    for operation in ["connect", "disconnect"] {
        let [none, one, many] = CONTAINERS
            .map(|(container, _)| times.p50(&format!("{network} {operation} {container}")));
        let what = format!("{operation} over gRPC with 100 ports, {network}");
        row(&what, many, "with 1 port", one, "ms", goal);
        if operation == "disconnect" {
            continue;
        }
        let each = format!("  beyond none, each of the 100, {network}");
        let (cost, only) = ((many - none) * 10.0, (one - none) * 1000.0);
        row(
            &each,
            cost,
            "beyond none, the only one",
            only,
            "us",
            Goal::None,
        );
    }
}
