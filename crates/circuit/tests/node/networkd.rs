//! Hosts with systemd-networkd that is told to take every interface: it takes a port
//! out of its bridge a moment after it is made.

use circuit_testing::{Networkd, PATIENCE, Udev, wait_until};

use crate::support::{NETWORK, logged, looked_at_each};

#[test]
fn ports_that_it_takes_are_given_back_without_a_pass() {
    let node = looked_at_each("1h");
    let _udev = Udev::start(&node);
    let settings = "[Match]\nName=*\n\n[Network]\nLinkLocalAddressing=no\n";
    let _networkd = Networkd::start(&node, settings);
    let create = ["network", "create", "a", "--subnet", "10.1.0.0/16"];
    node.circuit(&create).ok();
    for container in ["one", "two"] {
        let said = logged(&node, &["it is back"]);
        node.run_container(container, &[(NETWORK, "a")], &[]);
        node.wait_for_addresses(container);
        // Were nothing taken, there would be nothing to be seen here.
        wait_until("a port was taken and given back", PATIENCE, || {
            logged(&node, &["it is back"]) > said
        });
        wait_until("the gateway is reached", PATIENCE, || {
            let ping = ["ping", "-c1", "-W1", "10.1.0.1"];
            node.exec(container, &ping).worked()
        });
    }
}
