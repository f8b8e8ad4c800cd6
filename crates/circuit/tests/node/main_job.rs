//! The main job, from a CNI file to a container that comes back connected.

use circuit_testing::{Containerd, NodeBuilder, PATIENCE, network, wait_until};

crate::on_every_data_path!(by_hand, by_label, comes_back_connected);

fn by_hand(node: NodeBuilder) {
    let node = node.start();
    let config = network::bridge("ctr0", "10.255.0.0/16");
    node.create_network("ctr0", &config);
    node.run_container("shell", &[], &[]);

    let printed = node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    assert_eq!(printed, "connected shell to ctr0 with ip=10.255.0.2\n");
    let interfaces = node.interfaces("shell");
    assert_eq!(interfaces.len(), 1);
    assert_eq!(interfaces[0].name, "eth0");
    assert_eq!(interfaces[0].addresses, ["10.255.0.2/16"]);
    node.exec("shell", &["ping", "-c", "1", "-W", "5", "10.255.0.1"])
        .ok();

    let printed = node
        .circuit(&["network", "disconnect", "shell", "ctr0"])
        .ok();
    assert_eq!(printed, "disconnected shell from ctr0\n");
    assert_eq!(node.interfaces("shell"), []);
    node.assert_nothing_left();
}

fn by_label(node: NodeBuilder) {
    let node = node.start();
    node.create_network("ctr0", &network::bridge("ctr0", "10.255.0.0/16"));
    node.run_container("web", &[("io.circuit.network", "ctr0")], &[]);
    assert_eq!(node.wait_for_addresses("web"), ["10.255.0.2/16"]);
    node.remove_container("web");
    node.assert_nothing_left();
}

fn comes_back_connected(node: NodeBuilder) {
    let node = node.start();
    node.create_network("ctr0", &network::bridge("ctr0", "10.255.0.0/16"));
    let labels = [
        ("io.circuit.network", "ctr0"),
        ("io.circuit.restart", "true"),
    ];
    node.run_container("web", &labels, &[]);
    let before = node.wait_for_addresses("web");
    let pid = node.task_pid("web").unwrap();

    node.kill_task("web");
    wait_until("web runs again", PATIENCE, || {
        node.task_pid("web").is_some_and(|new| new != pid)
    });
    assert_eq!(node.wait_for_addresses("web"), before);

    node.remove_container("web");
    node.assert_nothing_left();
}

#[test]
fn on_a_newer_containerd() {
    let newer = || crate::node().containerd(Containerd::Newer);
    by_hand(newer());
    by_label(newer());
    comes_back_connected(newer());
}
