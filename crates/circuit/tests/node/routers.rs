//! Hosts that have IPv6 from a router of their LAN.

use circuit_testing::{Ends, Lan, NodeBuilder, PATIENCE, TestNode, wait_until};

use crate::support::{assert_names, dnsmasq};

/// The router at fd00:9::1, which tells of itself and of the prefix.
fn router(lan: &Lan) -> Ends {
    let add = ["-6", "addr", "add", "fd00:9::1/64", "dev", "lan", "nodad"];
    let added = lan.command("ip").args(add).status();
    assert!(added.expect("ip").success());
    let arguments = [
        "--port=0",
        "--interface=lan",
        "--enable-ra",
        "--dhcp-range=fd00:9::,ra-only,64,30m",
        "--dhcp-leasefile=/dev/null",
        "--ra-param=lan,4,1800",
    ];
    dnsmasq(lan.command("dnsmasq"), &arguments)
}

/// The way that a router has told of.
fn way(node: &TestNode) -> String {
    let show = ["-6", "route", "show", "default", "dev", "lan0"];
    node.run("ip", &show).ok()
}

crate::on_every_data_path!(a_host_keeps_its_router_when_it_begins_to_forward);

fn a_host_keeps_its_router_when_it_begins_to_forward(node: NodeBuilder) {
    let lan = Lan::new();
    let node = node.lan(&lan).start();
    let accepts = || {
        let read = ["/proc/sys/net/ipv6/conf/lan0/accept_ra"];
        node.run("cat", &read).ok().trim().to_owned()
    };
    assert_eq!(accepts(), "1");
    let _router = router(&lan);
    let told = || way(&node).contains("proto ra");
    wait_until("the router has told of itself", PATIENCE, told);

    let pair = |number: u8| format!("10.{number}.0.0/24,fd00:{number}::/64");
    for (name, subnets) in [("four", "10.3.0.0/24"), ("six", &*pair(4))] {
        node.circuit(&["network", "create", name, "--subnet", subnets])
            .ok();
    }
    node.run_container("web", &[], &[]);
    node.circuit(&["network", "connect", "web", "four"]).ok();
    assert_eq!(accepts(), "1", "IPv4 is nothing to routers of IPv6");
    node.circuit(&["network", "connect", "web", "six"]).ok();
    let forwards = ["/proc/sys/net/ipv6/conf/all/forwarding"];
    assert_eq!(node.run("cat", &forwards).ok().trim(), "1");
    assert_eq!(accepts(), "2");
    assert!(told(), "{}", way(&node));
    assert_names(
        &node.daemon_log(),
        &["lan0 goes on listening to its routers"],
    );
    // The next advertisement counts too.
    node.run("ip", &["-6", "route", "flush", "default", "dev", "lan0"])
        .ok();
    wait_until("the router has told of itself again", PATIENCE, told);
    node.remove_container("web");
}
