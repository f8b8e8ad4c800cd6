//! Ports that are published at all addresses, and where this process itself listens: a
//! test alone in its process, which says so for all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/attachment.rs"]
mod attachment;
mod common;
#[path = "common/lan.rs"]
mod lan;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use attachment::*;
use circuit_net::driver::{Command, is_left_to_daemon, leave_to_daemon};
use common::{on_private_host, shell};
use lan::*;
use serde_json::json;

const NAMES: [&str; 2] = ["10.77.0.1:53", "[fd77::1]:53"];

fn says(addresses: &[&str]) {
    let addresses = addresses.iter().map(|it| it.parse().unwrap());
    leave_to_daemon(addresses.collect::<BTreeSet<SocketAddr>>()).unwrap();
}

#[test]
fn the_gateways_names_are_not_published_by_containers() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        let inside = [&lan.containers[0], &lan.containers[1]].map(|it| it.path());
        serve_tcp(Some(&inside[0]), "[::]:53", "published");
        serve_udp(Some(&inside[0]), "[::]:53", "published");
        for at in NAMES {
            serve_tcp(None, at, "names");
            serve_udp(None, at, "names");
        }
        let ports = ["tcp", "udp"]
            .map(|protocol| json!({"hostPort": 53, "containerPort": 53, "protocol": protocol}));
        let addresses = [format!("{}/24", ip4(0)), format!("{}/64", ip6(0))];
        let config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "portmap",
            "runtimeConfig": {"portMappings": ports},
            "prevResult": bridge_result(&inside[0], &addresses),
        });
        let attachment = Attachment {
            id: "dns",
            netns: Some(&inside[0]),
        };
        let reached = |at: &str| -> Vec<String> {
            let first = |told: String| told.split(' ').next().unwrap().to_owned();
            let asked = inside.iter().flat_map(|netns| {
                let socket = udp_client(Some(netns), at.starts_with('['));
                [ask_tcp(Some(netns), at), ask_udp(&socket, at)]
            });
            asked.map(|told| first(told.unwrap())).collect()
        };
        // Before there are ports, there is nothing to be said in the firewall.
        says(&NAMES);
        assert!(!shell("nft list tables").contains("circuit"));
        attachment.run(Command::Add, &config).unwrap();
        for at in NAMES {
            assert_eq!(reached(at), ["names"; 4], "{at}");
            assert!(is_left_to_daemon(at.parse().unwrap()));
        }
        let beside = format!("{HOST}:53");
        assert_eq!(reached(&beside), ["published"; 4]);
        assert!(!is_left_to_daemon(beside.parse().unwrap()));
        // What others take away is there again.
        shell("nft flush ruleset");
        attachment.mend(&config).unwrap();
        assert_eq!(reached(NAMES[0]), ["names"; 4]);
        shell("nft flush set inet circuit listeners4");
        says(&NAMES);
        assert_eq!(reached(NAMES[0]), ["names"; 4]);
        // Where nobody listens any more, the port is published too.
        says(&NAMES[1..]);
        assert_eq!(reached(NAMES[0]), ["published"; 4]);
        assert_eq!(reached(NAMES[1]), ["names"; 4]);
        attachment.run(Command::Check, &config).unwrap();
        attachment.run(Command::Del, &config).unwrap();
    });
}
