//! Hearing of what is taken from bridges and pairs of the host, beside what is not
//! told: all that is made, and all that goes with its interface.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use circuit_net::ends::Watch;
use common::{Netns, on_private_host, shell};

const LONG: Duration = Duration::from_secs(10);
/// As long as it takes to be sure that nothing comes.
const SHORT: Duration = Duration::from_millis(200);

/// A host with a bridge that is a gateway and a container's pair in it.
fn host() -> Netns {
    let container = Netns::new();
    let name = container.path();
    let name = name.file_name().unwrap().to_str().unwrap();
    shell(&format!(
        "ip link add br0 type bridge && ip addr add 10.3.0.1/24 dev br0 && ip link set br0 up &&
         ip addr add fd00:3::1/64 dev br0 nodad && ip link add other type bridge &&
         ip link add port0 type veth peer name eth0 netns {name} &&
         ip link set port0 master br0 up"
    ));
    container.ip("link set eth0 up");
    container
}

#[test]
fn what_is_taken_away_is_told() {
    on_private_host(|| async {
        let _container = host();
        shell("echo 1 > /proc/sys/net/ipv4/ip_forward");
        shell("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        let mut watch = Watch::open().unwrap();
        for taken in [
            "ip link set port0 nomaster",
            "ip link set port0 master br0 && ip link set port0 master other",
            "ip link set port0 master br0 && ip link set port0 down",
            "ip addr del 10.3.0.1/24 dev br0",
            "ip addr del fd00:3::1/64 dev br0",
            "ip link set br0 down",
            "echo 0 > /proc/sys/net/ipv4/ip_forward",
            "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
            "ip addr add 10.5.0.1/32 dev port0 && ip addr flush dev port0",
            "ip link set port0 up && ip link del br0",
        ] {
            assert!(!watch.wait(SHORT).unwrap(), "before {taken}");
            shell(taken);
            assert!(watch.wait(LONG).unwrap(), "{taken}");
        }
    });
}

#[test]
fn what_is_made_or_goes_with_its_interface_is_not() {
    on_private_host(|| async {
        let container = host();
        let mut watch = Watch::open().unwrap();
        for other in [
            "ip link add port1 type veth peer name far && ip link set port1 master br0 up &&
             ip link set far up && ip addr add 10.3.0.9/24 dev far",
            "ip addr add 10.4.0.1/24 dev br0; ip link set br0 mtu 1400",
            "ip link set far down; ip link del port1",
            "ip link add tuna type ifb && ip addr add 10.9.0.1/24 dev tuna && ip link set tuna up &&
             ip addr del 10.9.0.1/24 dev tuna && ip link set tuna down",
            "bridge link set dev port0 hairpin on",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "echo 0 > /proc/sys/net/ipv4/conf/br0/forwarding",
            "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter",
            "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter",
        ] {
            shell(other);
            assert!(!watch.wait(SHORT).unwrap(), "{other}");
        }
        container.ip("link set eth0 down");
        assert!(!watch.wait(SHORT).unwrap());
        drop(container);
        assert!(!watch.wait(SHORT).unwrap());
        shell("ip link set br0 down");
        assert!(watch.wait(LONG).unwrap());
    });
}
