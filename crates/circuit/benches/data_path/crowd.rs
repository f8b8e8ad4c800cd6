//! The thousandth attachment beside the tenth. The others are made by this
//! program's CNI executable in namespaces of their own: they hold leases, ports
//! of the bridge and rules as containers would.

use std::path::Path;

use crate::{
    common::{Api, Executable, Goal, Times, namespace, node, row, run_inside, single, table},
    executables::ours,
    floor::Floor,
    one::network,
};

const ROUNDS: usize = 20;
const FEW: usize = 10;
const MANY: usize = 1000;

pub(crate) fn outside(part: &str) {
    let node = node();
    node.create_network("native", &network("native", 71, "native"));
    node.run_container("one", &[], &[]);
    run_inside(&node, &[part]);
}

pub(crate) fn inside() {
    let folder = ours();
    let mut api = Api::open();
    let mut times = Times::default();
    occupy(&folder, 1, FEW);
    let mut floor = Floor::new("bench71", &namespace("floor"), "floor");
    measure(&mut api, &mut floor, &mut times, "of few");
    occupy(&folder, FEW, MANY);
    measure(&mut api, &mut floor, &mut times, "of many");
    table(&format!(
        "attachment {MANY} of a network, p50 of {ROUNDS} rounds"
    ));
    for (what, operation, goal) in [
        ("connect over gRPC, native", "connect", Goal::AtMost(1.2)),
        (
            "disconnect over gRPC, native",
            "disconnect",
            Goal::AtMost(1.2),
        ),
        ("kernel floor, attaching", "floor add", Goal::None),
        ("kernel floor, removal", "floor remove", Goal::None),
    ] {
        let (few, many) = (
            format!("{operation} of few"),
            format!("{operation} of many"),
        );
        let beside = format!("attachment {FEW}");
        row(what, times.p50(&many), &beside, times.p50(&few), "ms", goal);
    }
}

/// Makes attachments until the next one is the one of that number.
fn occupy(folder: &Path, from: usize, until: usize) {
    let config = single(&network("native", 71, "native"));
    for number in from..until {
        let name = format!("other{number}");
        let other = Executable {
            folder,
            config: &config,
            netns: &namespace(&name),
            container: &name,
            ifname: "eth0",
        };
        other.run("ADD", None);
    }
    // New interfaces and namespaces leave the kernel something to do.
    std::thread::sleep(std::time::Duration::from_secs(3));
}

fn measure(api: &mut Api, floor: &mut Floor, times: &mut Times, which: &str) {
    let (address, gateway) = (
        "10.71.200.1/16".parse().unwrap(),
        "10.71.0.1".parse().unwrap(),
    );
    let name = |operation: &str| format!("{operation} {which}");
    for _ in 0..ROUNDS {
        times.take(&name("connect"), || api.connect("one", "native"));
        times.take(&name("disconnect"), || api.disconnect("one", "native"));
        times.take(&name("floor add"), || floor.add(address, gateway));
        times.take(&name("floor remove"), || floor.remove());
    }
}
