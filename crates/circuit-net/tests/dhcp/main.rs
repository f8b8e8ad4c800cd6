//! The keeper of leases and the driver `dhcp`, with dnsmasq and udhcpd as servers and
//! beside the stock plugin and its daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod lan;
#[path = "../plugins/mod.rs"]
mod plugins;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use circuit_core::cni::ValidAttachment;
use circuit_net::dhcp::{Holder, LeaseKeeper, LeaseRequest, Settings};
use circuit_net::driver::Command::{Add, Check, Del, Gc, Status};
use common::plugin::{Way, Who, who, without_dns};
use common::twin::plain;
use common::{Netns, eventually, on_private_host, shell};
use lan::{Lan, holder, name_of, settings};
use plugins::By;
use serde_json::{Value, json};

const BOTH: [By; 2] = [By::Stock, By::Ours];

#[test]
fn plugins_and_daemons_may_be_either() {
    on_private_host(|| async {
        let ipams = [
            json!({}),
            json!({"priority": 50, "request": [{"option": "routers"}, {"option": "33"}],
                "provide": [{"option": "host-name", "fromArg": "K8S_POD_NAME"}]}),
            json!({"request": [{"option": "121"}, {"option": "subnet-mask"},
                {"skipDefault": true}]}),
        ];
        for ipam in ipams {
            let mut seen = Vec::new();
            for (daemon, socket) in [(By::Stock, "stock.sock"), (By::Ours, "ours.sock")] {
                for plugin in BOTH {
                    let lan = Lan::with_server();
                    let _stock = lan.stock_daemon();
                    let keeper = lan.keeper();
                    let _ours = keeper.listen(&lan.file("ours.sock")).unwrap();
                    let what = format!("{plugin:?} plugin, {daemon:?} daemon, {ipam}");
                    let mut asked = lan.plugin(socket, ipam.clone());
                    asked.args = "IgnoreUnknown=1;K8S_POD_NAME=web-1".to_owned();
                    let result = asked
                        .run(plugin, Add)
                        .unwrap_or_else(|e| panic!("{what}: {e:?}"));
                    let leases = lan.text("leases");
                    assert!(leases.contains("02:00:00:00:00:01"), "{what}: {leases}");
                    // Without the time.
                    let lease = leases.split_once(' ').unwrap().1.to_owned();
                    asked.run(plugin, Check).unwrap();
                    for _ in 0..2 {
                        asked.run(plugin, Del).unwrap();
                    }
                    // The stock daemon's message comes from no address, and
                    // Linux drops such.
                    if daemon == By::Ours {
                        eventually(&what, || lan.text("leases").is_empty()).await;
                    }
                    assert_eq!(lan.kept(), 0);
                    keeper.stop();
                    seen.push((what, result, lease));
                }
            }
            for other in &seen[1..] {
                assert_eq!(
                    (&seen[0].1, &seen[0].2),
                    (&other.1, &other.2),
                    "{}",
                    other.0
                );
            }
        }
    });
}

#[test]
fn the_older_stock_plugin_can_use_the_keeper() {
    on_private_host(|| async {
        let lan = Lan::with_server();
        let keeper = lan.keeper();
        let _listener = keeper.listen(&lan.file("ours.sock")).unwrap();
        let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "dhcp",
            "ipam": {"type": "dhcp", "daemonSocketPath": lan.file("ours.sock")}});
        std::fs::write(lan.file("config"), config.to_string()).unwrap();
        let run = |command: &str| {
            let (netns, config) = (lan.container.path(), lan.file("config"));
            shell(&format!(
                "CNI_COMMAND={command} CNI_CONTAINERID=web CNI_IFNAME=eth0 CNI_PATH=/ \
                 CNI_NETNS={} {}/dhcp < {} || true",
                netns.display(),
                common::STOCK_PLUGINS,
                config.display()
            ))
        };
        let result: Value = serde_json::from_str(&run("ADD")).unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap_or_default();
        assert!(address.starts_with("10.1.0."), "{result}");
        assert_eq!((run("CHECK"), run("DEL")), (String::new(), String::new()));
        eventually("the lease is given back", || lan.text("leases").is_empty()).await;
        keeper.stop();
    });
}

#[test]
fn a_server_of_another_make_gives_a_lease_and_renews_it() {
    on_private_host(|| async {
        let lan = Lan::with_udhcpd();
        let keeper = lan.keeper();
        let given = keeper.acquire(&lan.request()).unwrap();
        assert_eq!(given.dns.domain.as_deref(), Some("lan.example"));
        let address = given.ips[0].address.to_string();
        assert!(address.starts_with("10.1.0.5"), "{address}");
        lan.container
            .ip(&format!("addr replace {address} dev eth0"));
        let offers = lan.said("sending OFFER");
        eventually("it is renewed twice", || lan.said("sending ACK") >= 3).await;
        keeper.stop();
        let keeper = lan.keeper();
        let before = lan.said("sending ACK");
        eventually("the next keeper renews it", || {
            lan.said("sending ACK") > before
        })
        .await;
        keeper.check(&holder()).unwrap();
        // Not got anew.
        assert_eq!(lan.said("sending OFFER"), offers);
        keeper.release(&holder()).unwrap();
        assert_eq!(lan.kept(), 0);
        keeper.stop();
    });
}

#[test]
fn a_lease_is_renewed_by_its_server() {
    on_private_host(|| async {
        let lan = Lan::with_server();
        let keeper = lan.keeper();
        lan.acquire(&keeper);
        let asked = lan.said("DHCPDISCOVER(srv0)");
        eventually("it is renewed twice", || lan.said("DHCPACK(srv0)") >= 3).await;
        // Not got anew.
        assert_eq!(lan.said("DHCPDISCOVER(srv0)"), asked);
        keeper.stop();
        // Stopping does not give it back.
        assert!(lan.text("leases").contains("10.1.0."));
    });
}

#[test]
fn a_keeper_that_is_started_anew_keeps_the_leases() {
    on_private_host(|| async {
        let lan = Lan::with_server();
        let first = lan.keeper();
        let address = lan.acquire(&first);
        let asked = lan.said("DHCPDISCOVER(srv0)");
        first.stop();
        first.stop();
        assert!(first.acquire(&lan.request()).is_err());
        let second = lan.keeper();
        assert_eq!(second.holders(), [holder()]);
        second.check(&holder()).unwrap();
        let acks = lan.said("DHCPACK(srv0)");
        eventually("the second renews it", || lan.said("DHCPACK(srv0)") > acks).await;
        assert_eq!(lan.acquire(&second), address);
        assert_eq!(lan.said("DHCPDISCOVER(srv0)"), asked);
        second.release(&holder()).unwrap();
        eventually("the lease is given back", || lan.text("leases").is_empty()).await;
        assert_eq!((second.holders(), lan.kept()), (Vec::new(), 0));
        second.check(&holder()).unwrap_err();
        second.stop();
    });
}

#[test]
fn a_server_that_forgot_gives_the_same_address_again() {
    on_private_host(|| async {
        let mut lan = Lan::with_server();
        let keeper = lan.keeper();
        let address = lan.acquire(&keeper);
        let address = address.split('/').next().unwrap();
        lan.stop();
        std::fs::remove_file(lan.file("leases")).unwrap();
        // Renewals go unanswered meanwhile.
        std::thread::sleep(Duration::from_millis(3500));
        lan.start(&[]);
        // The next try is a while away; the next keeper begins at once.
        keeper.stop();
        let keeper = lan.keeper();
        eventually("it knows the lease", || {
            lan.text("leases").contains(address)
        })
        .await;
        keeper.stop();
    });
}

#[test]
fn a_server_that_moved_is_found_again() {
    on_private_host(|| async {
        let mut lan = Lan::new();
        lan.start(&["--dhcp-option=59,5s"]);
        let keeper = lan.keeper();
        lan.acquire(&keeper);
        let asked = lan.said("DHCPDISCOVER(srv0)");
        // What is sent to its former hardware address, it does not get.
        lan.server.ip("link set srv0 address 02:00:00:00:00:99");
        eventually("any server renews it", || lan.said("DHCPACK(srv0)") >= 2).await;
        eventually("its server renews it", || lan.said("DHCPACK(srv0)") >= 3).await;
        assert_eq!(lan.said("DHCPDISCOVER(srv0)"), asked);
        keeper.stop();
    });
}

/// Has a lease on disk be of long ago.
fn grow_old(lan: &Lan) {
    let entries = std::fs::read_dir(lan.file("state")).unwrap();
    let path = entries.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut lease: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    lease["grant"]["since"] = json!(lease["grant"]["since"].as_u64().unwrap() - 100_000);
    std::fs::write(path, lease.to_string()).unwrap();
}

#[test]
fn an_expired_lease_takes_the_interface_down() {
    on_private_host(|| async {
        for answered in [true, false] {
            let mut lan = Lan::with_server();
            let keeper = lan.keeper();
            lan.acquire(&keeper);
            keeper.stop();
            grow_old(&lan);
            if !answered {
                lan.stop();
            }
            let acks = lan.said("DHCPACK(srv0)");
            let keeper = lan.keeper();
            let up = || lan.container.ip("link show dev eth0 up").contains("eth0");
            if answered {
                // The same address can be had once more.
                eventually("it is got anew", || lan.said("DHCPACK(srv0)") > acks).await;
                eventually("it is kept", || keeper.check(&holder()).is_ok()).await;
                assert!(up());
            } else {
                eventually("the interface is down", || !up()).await;
                eventually("the lease is gone", || lan.kept() == 0).await;
            }
            keeper.stop();
        }
    });
}

#[test]
fn a_lease_that_is_refused_is_over_and_told_of() {
    on_private_host(|| async {
        let mut lan = Lan::with_server();
        let keeper = lan.keeper();
        lan.acquire(&keeper);
        let ended = Arc::new(Mutex::new(Vec::new()));
        let its = Arc::clone(&ended);
        keeper.on_end(move |holder| its.lock().unwrap().push(holder.clone()));
        // The network got other addresses.
        lan.stop();
        std::fs::remove_file(lan.file("leases")).unwrap();
        lan.start_with("10.1.0.100,10.1.0.110", &[]);
        eventually("it is told of", || *ended.lock().unwrap() == [holder()]).await;
        assert!(lan.said("DHCPNAK(srv0)") > 0);
        assert!(!lan.container.ip("link show dev eth0 up").contains("eth0"));
        keeper.check(&holder()).unwrap_err();
        assert!(keeper.has_ended(&holder()));
        assert_eq!(lan.kept(), 0);
        // One that is given back is not.
        lan.container.ip("link set eth0 up");
        assert!(lan.acquire(&keeper).starts_with("10.1.0.1"));
        assert!(!keeper.has_ended(&holder()));
        keeper.release(&holder()).unwrap();
        assert_eq!(ended.lock().unwrap().len(), 1);
        keeper.stop();
    });
}

#[test]
fn leases_of_what_is_gone_are_forgotten() {
    on_private_host(|| async {
        let lan = Lan::with_server();
        let keeper = lan.keeper();
        lan.acquire(&keeper);
        lan.container.ip("link del eth0");
        eventually("the renewal finds it gone", || keeper.holders().is_empty()).await;
        assert_eq!(lan.kept(), 0);
        keeper.release(&holder()).unwrap();
        keeper.stop();
        // A namespace that goes while no keeper runs.
        let lan = Lan::with_server();
        let keeper = lan.keeper();
        lan.acquire(&keeper);
        keeper.stop();
        drop(keeper);
        shell(&format!(
            "ip netns del {0} && ip netns add {0}",
            name_of(&lan.container)
        ));
        let keeper = lan.keeper();
        assert_eq!((keeper.holders(), lan.kept()), (Vec::new(), 0));
        keeper.stop();
    });
}

#[test]
fn a_lease_is_given_back_when_the_namespaces_path_is_gone() {
    on_private_host(|| async {
        let lan = Lan::with_server();
        let keeper = lan.keeper();
        lan.acquire(&keeper);
        shell(&format!("ip netns del {}", name_of(&lan.container)));
        keeper.release(&holder()).unwrap();
        eventually("the lease is given back", || lan.text("leases").is_empty()).await;
        keeper.stop();
    });
}

#[test]
fn without_a_server_it_fails_in_time_or_when_it_is_released() {
    on_private_host(|| async {
        let lan = Lan::new();
        let keeper = lan.keeper();
        let start = Instant::now();
        let error = keeper.acquire(&lan.request()).unwrap_err();
        assert!(error.msg.contains("no dhcp server answers"), "{error:?}");
        assert!(
            start.elapsed() < Duration::from_secs(9),
            "{:?}",
            start.elapsed()
        );
        assert_eq!((keeper.holders(), lan.kept()), (Vec::new(), 0));
        let start = Instant::now();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| keeper.acquire(&lan.request()).unwrap_err());
            std::thread::sleep(Duration::from_millis(500));
            keeper.release(&holder()).unwrap();
            assert!(waiting.join().unwrap().msg.contains("stopped"));
        });
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "{:?}",
            start.elapsed()
        );
        keeper.stop();
    });
}

#[test]
fn many_containers_get_and_keep_leases_at_once() {
    on_private_host(|| async {
        let mut lan = Lan::new();
        lan.server.ip("link add br0 type bridge");
        lan.server.ip("link set br0 up");
        lan.server.ip("addr flush dev srv0");
        lan.server.ip("link set srv0 master br0");
        lan.server.ip("link set br0 name srv1");
        lan.server.ip("addr add 10.1.0.1/24 dev srv1");
        lan.start(&["--interface=srv1"]);
        let containers: Vec<Netns> = (0..8).map(|_| Netns::new()).collect();
        for (number, container) in containers.iter().enumerate() {
            let name = name_of(container);
            lan.server.ip(&format!(
                "link add p{number} master srv1 type veth peer name eth0 netns {name}"
            ));
            lan.server.ip(&format!("link set p{number} up"));
        }
        let settings = Settings {
            broadcast: true,
            ..settings()
        };
        let keeper = LeaseKeeper::start(&lan.file("state"), settings).unwrap();
        let request = |number: usize| LeaseRequest {
            holder: Holder {
                container_id: format!("c{number}"),
                ..holder()
            },
            netns: containers[number].path(),
            ..lan.request()
        };
        let addresses: Vec<String> = std::thread::scope(|scope| {
            let ask = |number| {
                let (keeper, request) = (keeper.clone(), request(number));
                scope.spawn(move || keeper.acquire(&request).unwrap().ips[0].address.to_string())
            };
            let asked: Vec<_> = (0..containers.len()).map(ask).collect();
            asked.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let mut distinct = addresses.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), containers.len(), "{addresses:?}");
        for (container, address) in containers.iter().zip(&addresses) {
            container.ip(&format!("addr add {address} dev eth0"));
        }
        eventually("all are renewed", || lan.said("DHCPACK(srv1)") >= 16).await;
        for number in 0..containers.len() {
            keeper.release(&request(number).holder).unwrap();
        }
        eventually("the leases are given back", || {
            lan.text("leases").is_empty()
        })
        .await;
        assert_eq!((keeper.holders(), lan.kept()), (Vec::new(), 0));
        keeper.stop();
    });
}

#[test]
fn gc_gives_back_what_is_not_in_use() {
    on_private_host(|| async {
        let lan = Lan::with_server();
        let keeper = lan.keeper();
        let _listener = keeper.listen(&lan.file("ours.sock")).unwrap();
        lan.acquire(&keeper);
        let valid = |id: &str| ValidAttachment {
            container_id: id.to_owned(),
            ifname: "eth0".to_owned(),
        };
        keeper.gc("another", &[]).unwrap();
        keeper.gc("net", &[valid("web")]).unwrap();
        keeper.check(&holder()).unwrap();
        let mut plugin = lan.plugin("ours.sock", json!({}));
        plugin.config["cni.dev/valid-attachments"] = json!([]);
        plugin.run(By::Ours, Gc).unwrap();
        eventually("the lease is given back", || lan.text("leases").is_empty()).await;
        keeper.stop();
        // The stock daemon cannot be told, which is no error.
        let _stock = lan.stock_daemon();
        let mut plugin = lan.plugin("stock.sock", json!({}));
        plugin.config["cni.dev/valid-attachments"] = json!([]);
        plugin.run(By::Ours, Gc).unwrap();
    });
}

#[test]
fn the_socket_is_one_daemons_only() {
    on_private_host(|| async {
        let lan = Lan::new();
        let keeper = lan.keeper();
        let path = lan.file("run/ours.sock");
        let plugin = lan.plugin("run/ours.sock", json!({}));
        assert_eq!(plugin.run(By::Ours, Status).unwrap_err().code, 50);
        assert!(plugin.run(By::Ours, Del).is_err());
        // One that is left of a daemon that was killed.
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = keeper.listen(&path).unwrap();
        plugin.run(By::Ours, Status).unwrap();
        assert!(keeper.listen(&path).is_err());
        drop(listener);
        assert!(!path.exists());
        for by in BOTH {
            plugin.run(by, Add).unwrap_err();
        }
        keeper.stop();
    });
}

/// Joins the server of `lan` to the test's host by a veth pair, `up0` here.
fn join(lan: &mut Lan) {
    let server = name_of(&lan.server);
    lan.server.ip("link del srv0");
    shell(&format!(
        "ip link add up0 type veth peer name srv0 netns {server} && ip link set up0 up"
    ));
    lan.server.ip("addr add 10.1.0.1/24 dev srv0");
    lan.server.ip("link set srv0 up");
    lan.start_with("10.1.0.77,10.1.0.77", &[]);
}

#[test]
fn bridge_and_macvlan_get_their_addresses_from_it() {
    for plugin in [
        json!({"type": "bridge", "bridge": "br0"}),
        json!({"type": "macvlan", "master": "up0"}),
    ] {
        let seen = [Way::Stock19, Way::InProcess].map(|way| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let mut config = plugin.clone();
            on_private_host(move || async move {
                let mut lan = Lan::new();
                join(&mut lan);
                shell("ip link add br0 type bridge && ip link set br0 up");
                if config["type"] == "bridge" {
                    shell("ip link set up0 master br0");
                }
                let keeper = lan.keeper();
                let _listener = keeper.listen(&lan.file("ours.sock")).unwrap();
                let container = Netns::new();
                let who = Who {
                    netns: Some(container.path()),
                    ..who("web")
                };
                (config["cniVersion"], config["name"]) = (json!("1.1.0"), json!("net"));
                config["ipam"] = json!({"type": "dhcp", "daemonSocketPath": lan.file("ours.sock")});
                let kind = config["type"].as_str().unwrap().to_owned();
                let run = |command, config: &Value| way.run(&kind, command, config, &who);
                let result = run(Add, &config).unwrap();
                let routes = container.ip("-4 route show");
                assert!(container.ip("addr show dev eth0").contains("10.1.0.77/24"));
                assert!(lan.text("leases").contains("10.1.0.77"), "{way:?}");
                config["prevResult"] = result.clone();
                run(Check, &config).unwrap();
                for _ in 0..2 {
                    run(Del, &config).unwrap();
                }
                // The stock bridge removes the interface first, from where it
                // could be given back.
                if kind == "macvlan" || way == Way::InProcess {
                    eventually("the lease is given back", || lan.text("leases").is_empty()).await;
                }
                assert!(!container.ip("link").contains("eth0"));
                assert_eq!(lan.kept(), 0);
                keeper.stop();
                sender.send((plain(&without_dns(result)), routes)).unwrap();
            });
            receiver.recv().unwrap()
        });
        let text = seen[0].0.to_string();
        assert!(text.contains("10.1.0.77/24"), "{text}");
        assert_eq!(seen[0].1, seen[1].1);
        assert_eq!(seen[0].0["ips"], seen[1].0["ips"]);
        assert_eq!(seen[0].0["routes"], seen[1].0["routes"]);
    }
}

#[test]
fn no_thread_or_socket_is_kept_for_a_lease() {
    on_private_host(|| async {
        let lan = Lan::with_server();
        let keeper = lan.keeper();
        lan.acquire(&keeper);
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let inside = format!("net:[{}]", inode(&lan.container.path()));
        assert_ne!(own.to_str().unwrap(), inside);
        eventually("no thread is in the container's namespace", || {
            let threads = std::fs::read_dir("/proc/self/task").unwrap();
            !threads.flatten().any(|thread| {
                let namespace = std::fs::read_link(thread.path().join("ns/net"));
                namespace.is_ok_and(|ns| ns.to_str() == Some(&inside))
            })
        })
        .await;
        keeper.release(&holder()).unwrap();
        keeper.stop();
    });
}

fn inode(path: &Path) -> u64 {
    circuit_net::netns::identity(path).unwrap().inode
}
