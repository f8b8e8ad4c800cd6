//! Pins, threads in namespaces and netlink, against the kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use circuit_core::{Error, ErrorKind, Result};
use circuit_net::host::overlaps;
use circuit_net::netlink::{self, Link};
use circuit_net::netns::{
    self, Workers, host_identity, identity, in_netns, in_netns_async, is_netns, list_pins, pin,
    pin_fd, unpin,
};
use common::{Netns, eventually, on_private_host, shell};

/// A folder of pins, emptied when dropped.
struct Pins {
    dir: tempfile::TempDir,
}

impl Pins {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("pins").join(name)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for pin in list_pins(self.dir.path().join("pins")).unwrap_or_default() {
            let _ = unpin(&pin.path);
        }
    }
}

/// A process in a network namespace of its own.
struct Task(Child);

impl Task {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut task = Self(child);
        let mut word = [0; 6];
        std::io::Read::read_exact(task.0.stdout.as_mut().unwrap(), &mut word).unwrap();
        task
    }

    fn ns(&self, kind: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.0.id().to_string())
            .join("ns")
            .join(kind)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_pin_outlives_its_task() {
    let (task, pins) = (Task::new(), Pins::new());
    let target = pins.path("deep/er/web");
    let source = task.ns("net");
    let id = pin(&source, &target).unwrap();
    assert_eq!(identity(&source).unwrap(), id);
    assert_eq!(pin(&source, &target).unwrap(), id, "twice is no error");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(
        mounts.matches(&*target.to_string_lossy()).count(),
        1,
        "and no second mount"
    );
    assert_ne!(host_identity().unwrap(), id);
    drop(task);
    assert_eq!(
        pin(&source, &target).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(identity(&target).unwrap(), id);
    assert_eq!(netlink::links(Some(&target)).unwrap()[0].name, "lo");
    for _ in 0..2 {
        unpin(&target).unwrap();
        assert!(!target.exists());
    }
    assert!(!is_netns(&target));
}

#[test]
fn a_pin_is_never_changed_under_its_owner() {
    let (one, two, pins) = (Netns::new(), Netns::new(), Pins::new());
    let target = pins.path("web");
    let id = pin(one.path(), &target).unwrap();
    let error = pin(two.path(), &target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.message().contains("unpin it first"), "{error}");
    assert_eq!(identity(&target).unwrap(), id);
    unpin(&target).unwrap();
    // What a reboot leaves: the file without the mount.
    std::fs::write(&target, "").unwrap();
    assert_ne!(pin(two.path(), &target).unwrap(), id);
}

#[test]
fn stacked_pins_are_all_taken_off() {
    let (one, two, pins) = (Netns::new(), Netns::new(), Pins::new());
    let target = pins.path("web");
    pin(one.path(), &target).unwrap();
    shell(&format!(
        "mount --bind {} {}",
        two.path().display(),
        target.display()
    ));
    shell(&format!(
        "mount --bind {} {}",
        one.path().display(),
        target.display()
    ));
    unpin(&target).unwrap();
    assert!(!target.exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*target.to_string_lossy()));
}

#[test]
fn an_open_namespace_can_be_pinned() {
    let (container, pins) = (Netns::new(), Pins::new());
    let open = File::open(container.path()).unwrap().into();
    let id = identity(container.path()).unwrap();
    drop(container);
    assert_eq!(pin_fd(&open, pins.path("web")).unwrap(), id);
    let file = File::open("/etc/passwd").unwrap().into();
    assert_eq!(
        pin_fd(&file, pins.path("x")).unwrap_err().kind(),
        ErrorKind::FailedPrecondition
    );
    assert!(!pins.path("x").exists());
}

#[test]
fn only_network_namespaces_pass() {
    let (task, pins) = (Task::new(), Pins::new());
    assert!(is_netns(task.ns("net")));
    for other in [
        task.ns("uts"),
        task.ns("mnt"),
        "/etc/passwd".into(),
        "/proc".into(),
    ] {
        assert!(!is_netns(&other), "{}", other.display());
        let error = pin(&other, pins.path("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert!(in_netns(&other, || Ok(())).is_err());
    }
    let gone = identity("/run/netns/none-of-that-name").unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    shell(&format!("mkdir -p {}", pins.path("").display()));
    shell(&format!("mkfifo {}", pins.path("fifo").display()));
    assert!(!is_netns(pins.path("fifo")), "and is not waited for");
}

#[test]
fn what_is_no_pin_is_left_alone() {
    let pins = Pins::new();
    std::fs::create_dir_all(pins.path("dir")).unwrap();
    std::fs::write(pins.path("file"), "precious").unwrap();
    for name in ["dir", "file"] {
        let error = unpin(pins.path(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert!(pins.path(name).exists());
    }
    assert!(pin("/proc/self/ns/net", pins.path("dir")).is_err());
}

#[test]
fn pins_are_listed() {
    let (one, pins) = (Netns::new(), Pins::new());
    let dir = pins.dir.path().join("pins");
    assert_eq!(list_pins(&dir).unwrap(), []);
    let id = pin(one.path(), pins.path("b")).unwrap();
    std::fs::write(pins.path("a-stale"), "").unwrap();
    std::fs::write(pins.path("c-other"), "text").unwrap();
    let listed = list_pins(&dir).unwrap();
    let expected = [
        netns::Pin {
            path: pins.path("a-stale"),
            id: None,
        },
        netns::Pin {
            path: pins.path("b"),
            id: Some(id),
        },
    ];
    assert_eq!(listed, expected);
}

fn here() -> Result<netns::NetnsId, Error> {
    host_identity()
}

#[test]
fn work_is_done_inside_and_nobody_else_moves() {
    let container = Netns::new();
    let (outside, inside) = (here().unwrap(), identity(container.path()).unwrap());
    assert_ne!(outside, inside);
    let borrowed = String::from("kept");
    let seen = in_netns(container.path(), || Ok((here()?, borrowed.len()))).unwrap();
    assert_eq!(seen, (inside, 4));
    let error = in_netns(container.path(), || Err::<(), _>(Error::not_found("told"))).unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::NotFound, "told")
    );
    let error = in_netns(container.path(), || -> Result<(), Error> {
        panic!("on {}", "purpose")
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.message().ends_with("panicked: on purpose"), "{error}");
    assert_eq!(here().unwrap(), outside);
}

#[tokio::test]
async fn work_inside_does_not_hold_up_the_runtime() {
    let container = Netns::new();
    let (outside, inside) = (here().unwrap(), identity(container.path()).unwrap());
    let slow = in_netns_async(container.path(), || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        here()
    });
    let quick = tokio::time::sleep(std::time::Duration::from_millis(10));
    tokio::pin!(slow, quick);
    tokio::select! {
        biased;
        _ = &mut slow => panic!("this single thread was held up"),
        () = &mut quick => {}
    }
    assert_eq!(slow.await.unwrap(), inside);
    let panicked = in_netns_async(container.path(), || -> Result<(), Error> { panic!("x") }).await;
    assert!(panicked.unwrap_err().message().ends_with("panicked: x"));
    let gone = in_netns_async("/run/netns/none-of-that-name", here)
        .await
        .unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(here().unwrap(), outside);
}

#[tokio::test]
async fn dropped_work_still_ends() {
    let container = Netns::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("done");
    let written = file.clone();
    let work = in_netns_async(container.path(), move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        std::fs::write(&written, "").map_err(|e| Error::internal(e.to_string()))
    });
    let _ = tokio::time::timeout(std::time::Duration::from_millis(10), work).await;
    eventually("the work is done", || file.exists()).await;
}

/// A veth pair with its end in another namespace and some addresses.
fn wired() -> (Netns, Netns) {
    let (one, two) = (Netns::new(), Netns::new());
    one.ip("link set lo up");
    one.ip("link add br7 type bridge");
    one.ip(&format!(
        "link add v0 mtu 1400 address 02:00:00:00:00:0a type veth peer name v1 netns {}",
        two.path().display()
    ));
    one.ip("addr add 10.7.0.1/24 dev v0");
    one.ip("-6 addr add fd00:7::1/64 dev v0 nodad");
    one.ip("link set v0 up");
    two.ip("link set v1 up");
    (one, two)
}

#[test]
fn interfaces_and_addresses_are_read() {
    let (one, _two) = wired();
    let path = one.path();
    let links = netlink::links(Some(&path)).unwrap();
    let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
    assert!(names.starts_with(&["lo"]) && names.len() == 3, "{names:?}");
    let v0 = links.iter().find(|link| link.name == "v0").unwrap();
    assert_eq!(v0.mac.as_deref(), Some("02:00:00:00:00:0a"));
    assert_eq!(
        (v0.mtu, v0.up, v0.kind.as_deref()),
        (Some(1400), true, Some("veth"))
    );
    let br7 = links.iter().find(|link| link.name == "br7").unwrap();
    assert_eq!(
        (br7.up, br7.kind.as_deref(), br7.master),
        (false, Some("bridge"), None)
    );
    one.ip("link set v0 master br7");
    let links = netlink::links(Some(&path)).unwrap();
    let v0 = links.iter().find(|link| link.name == "v0").unwrap();
    assert_eq!(v0.master, Some(br7.index));

    let texts = |ifname| -> Vec<String> {
        let found = netlink::addresses_of(Some(&path), ifname).unwrap();
        found
            .iter()
            .map(ToString::to_string)
            .filter(|ip| !ip.starts_with("fe80"))
            .collect()
    };
    assert_eq!(texts("v0"), ["10.7.0.1/24", "fd00:7::1/64"]);
    assert_eq!(texts("lo"), ["127.0.0.1/8", "::1/128"]);
    assert!(texts("none").is_empty());
    // The own end is the address, not the peer's.
    one.ip("addr add 10.8.0.1 peer 10.8.0.2/32 dev br7");
    assert_eq!(texts("br7"), ["10.8.0.1/32"]);
}

#[test]
fn routes_of_the_main_tables_are_read() {
    let (one, _two) = wired();
    one.ip("route add default via 10.7.0.254");
    one.ip("route add 10.20.0.0/16 metric 77 nexthop via 10.7.0.2 nexthop via 10.7.0.3");
    one.ip("route add blackhole 10.30.0.0/16");
    one.ip("route add 10.40.0.0/16 via inet6 fd00:7::9 dev v0");
    one.ip("route add 10.50.0.0/16 via 10.7.0.2 table 100");
    one.ip("-6 route add default via fd00:7::fe");
    let routes = netlink::routes(Some(&one.path())).unwrap();
    let texts: Vec<String> = routes
        .iter()
        .filter(|route| !route.dst.to_string().starts_with("fe80"))
        .map(|r| {
            let oif = r.oif.as_deref().unwrap_or("-");
            let gateway = r.gateway.map_or("-".to_owned(), |gw| gw.to_string());
            format!("{} {gateway} {oif} {} {}", r.dst, r.priority, r.unicast)
        })
        .collect();
    let expected = [
        "0.0.0.0/0 10.7.0.254 v0 0 true",
        "10.7.0.0/24 - v0 0 true",
        "10.20.0.0/16 10.7.0.2 v0 77 true",
        "10.20.0.0/16 10.7.0.3 v0 77 true",
        "10.30.0.0/16 - - 0 false",
        "10.40.0.0/16 fd00:7::9 v0 0 true",
        "fd00:7::/64 - v0 256 true",
        "::/0 fd00:7::fe v0 1024 true",
    ];
    for line in expected {
        assert!(
            texts.iter().any(|text| text == line),
            "{line} in {texts:#?}"
        );
    }
    assert!(
        !texts.iter().any(|text| text.starts_with("10.50.")),
        "another table's"
    );
    assert_eq!(texts.len(), expected.len(), "{texts:#?}");

    let clash = |subnet: &str| -> Vec<String> {
        overlaps(&[subnet.parse().unwrap()], &routes, &[], &["br7"])
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(clash("10.20.3.0/24"), ["route 10.20.0.0/16 dev v0"]);
    assert_eq!(clash("10.30.3.0/24"), ["route 10.30.0.0/16"]);
    assert!(clash("10.99.0.0/16").is_empty());
}

#[test]
fn long_lists_come_whole() {
    let (one, _two) = wired();
    let routes: String = (0..3000)
        .map(|n| {
            format!(
                "route add 10.{}.{}.0/24 via 10.7.0.2\n",
                100 + n / 256,
                n % 256
            )
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("batch"), routes).unwrap();
    one.ip(&format!("-batch {}", dir.path().join("batch").display()));
    let found = netlink::routes(Some(&one.path())).unwrap();
    assert_eq!(found.iter().filter(|r| r.gateway.is_some()).count(), 3000);
}

#[test]
fn without_a_path_the_callers_namespace_is_read() {
    on_private_host(async || {
        let names = |links: Vec<Link>| links.into_iter().map(|l| l.name).collect::<Vec<_>>();
        assert_eq!(names(netlink::links(None).unwrap()), ["lo"]);
        shell("ip link add only-here type bridge");
        let links = netlink::links(None).unwrap();
        assert_eq!(
            netlink::first_free_interface(&links, "only-here"),
            "only-here0"
        );
        assert_eq!(names(links), ["lo", "only-here"]);
        assert_eq!(netlink::addresses(None).unwrap().len(), 2);
        assert_eq!(netlink::routes(None).unwrap(), []);
    });
}

#[test]
fn workers_visit_namespaces_and_come_back() {
    on_private_host(|| async {
        let (workers, there) = (Workers::default(), Netns::new());
        let home = netns::host_identity().unwrap();
        let wanted = netns::identity(there.path()).unwrap();
        let visit = |path: std::path::PathBuf, fail: bool| {
            workers.run(move || {
                let seen = netns::in_netns(&path, || {
                    let seen = netns::host_identity()?;
                    match fail {
                        true => Err(Error::internal("no")),
                        false => Ok(seen),
                    }
                });
                (seen, netns::host_identity())
            })
        };
        let (seen, after) = visit(there.path(), false).await.unwrap();
        assert_eq!((seen.unwrap(), after.unwrap()), (wanted, home));
        // After an error, in the work or on the way, it is back as well.
        for (path, fail) in [(there.path(), true), ("/nowhere".into(), false)] {
            let (seen, after) = visit(path, fail).await.unwrap();
            assert!(seen.is_err());
            assert_eq!(after.unwrap(), home);
        }
        // One that panics there serves nobody any more.
        let path = there.path();
        let panicked = workers.run(move || {
            let _ = netns::in_netns(&path, || -> Result<()> { panic!("oops") });
        });
        assert!(panicked.await.is_err());
        for _ in 0..4 {
            let after = workers.run(netns::host_identity).await.unwrap();
            assert_eq!(after.unwrap(), home);
        }
    });
}
