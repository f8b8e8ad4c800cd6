//! One attachment at a time: the floor, the daemon on either data path, the
//! stock plugins.

use circuit_testing::Plugins;
use serde_json::{Value, json};

use crate::{
    common::{Api, Executable, Goal, Times, namespace, node, row, run_inside, single, table},
    floor::Floor,
};

/// Rounds of every operation on each side, in turn.
const ROUNDS: usize = 40;
/// Rounds that make bridges and warm caches.
const WARM: usize = 3;

/// A network of a bridge with masquerade, on one data path. Each has its own
/// bridge and subnet.
pub(crate) fn network(name: &str, number: u8, data_path: &str) -> String {
    let list = json!({
        "cniVersion": "1.0.0",
        "name": name,
        "io.circuit.data-path": data_path,
        "plugins": [plugin(number)],
    });
    list.to_string()
}

/// Its one plugin.
pub(crate) fn plugin(number: u8) -> Value {
    json!({
        "type": "bridge", "bridge": format!("bench{number}"), "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "subnet": format!("10.{number}.0.0/16"),
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    })
}

/// A node with a network for each data path. Each has one container for good,
/// so that those that come and go do not start and end the network with it.
pub(crate) fn outside(part: &str) {
    let node = node();
    for (name, number) in [("native", 71), ("exec", 72)] {
        node.create_network(name, &network(name, number, name));
        node.run_container(&format!("stays-{name}"), &[], &[]);
        let stays = format!("stays-{name}");
        node.circuit(&["network", "connect", &stays, name]).ok();
    }
    node.run_container("one", &[], &[]);
    run_inside(&node, &[part]);
}

pub(crate) fn inside() {
    let folder = Plugins::Newer.folder();
    let config = single(&network("stock", 73, "exec"));
    let at = |netns, container| Executable {
        folder: &folder,
        config: &config,
        netns,
        container,
        ifname: "eth0",
    };
    let stays = namespace("stays");
    at(&stays, "stays").run("ADD", None);
    let stock_netns = namespace("stock");
    let stock = at(&stock_netns, "by-hand");
    let floor_netns = namespace("floor");
    let mut floor = Floor::new("bench71", &floor_netns, "floor");
    let (address, gateway) = (
        "10.71.200.1/16".parse().unwrap(),
        "10.71.0.1".parse().unwrap(),
    );
    let mut api = Api::open();
    let mut times = Times::default();
    for round in 0..WARM + ROUNDS {
        if round == WARM {
            times.clear();
        }
        times.take("floor add", || floor.add(address, gateway));
        times.take("floor remove", || floor.remove());
        for network in ["native", "exec"] {
            let (joins, leaves) = (
                format!("{network} connect"),
                format!("{network} disconnect"),
            );
            times.take(&joins, || api.connect("one", network));
            times.take(&leaves, || api.disconnect("one", network));
        }
        let result = times.take("stock ADD", || stock.run("ADD", None));
        times.take("stock DEL", || stock.run("DEL", Some(&result)));
    }
    print(&times);
}

fn print(times: &Times) {
    table(&format!(
        "one attachment at a time: bridge + masquerade, p50 of {ROUNDS} rounds"
    ));
    let p50 = |what: &str| times.p50(what);
    let compare = |what: &str, ours: &str, beside: &str, theirs: &str, goal| {
        row(what, p50(ours), beside, p50(theirs), "ms", goal);
    };
    let connect = "connect over gRPC, native";
    let disconnect = "disconnect over gRPC, native";
    compare(
        connect,
        "native connect",
        "kernel floor",
        "floor add",
        Goal::AtMost(1.5),
    );
    compare(
        connect,
        "native connect",
        "stock plugins 1.9.1 exec'd",
        "stock ADD",
        Goal::AtMost(0.1),
    );
    compare(
        connect,
        "native connect",
        "connect over gRPC, exec",
        "exec connect",
        Goal::None,
    );
    compare(
        "connect over gRPC, exec",
        "exec connect",
        "stock plugins 1.9.1 exec'd",
        "stock ADD",
        Goal::None,
    );
    compare(
        disconnect,
        "native disconnect",
        "kernel floor",
        "floor remove",
        Goal::AtMost(1.2),
    );
    compare(
        disconnect,
        "native disconnect",
        "stock plugins 1.9.1 exec'd",
        "stock DEL",
        Goal::None,
    );
    compare(
        disconnect,
        "native disconnect",
        "disconnect over gRPC, exec",
        "exec disconnect",
        Goal::None,
    );
}
