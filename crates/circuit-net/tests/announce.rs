//! Announcements, against the kernels of the neighbours.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{read_dir, read_link};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use circuit_core::ErrorKind;
use circuit_net::announce::{announce, announce_soon, answering};
use circuit_net::netns::in_netns;
use common::{Netns, eventually, shell};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use tokio::time::timeout;

const OLD: &str = "02:00:00:00:00:0a";
const NEW: &str = "02:00:00:00:00:0b";
const NEW_BYTES: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const WEB: [&str; 2] = ["10.7.0.2", "fd00:7::2"];

fn web() -> [IpAddr; 2] {
    WEB.map(|address| address.parse().unwrap())
}

/// Two containers on a bridge, which is in a namespace of its own.
struct Net {
    bridge: Netns,
    web: Netns,
    peer: Netns,
}

impl Net {
    async fn new() -> Self {
        let net = Self {
            bridge: Netns::new(),
            web: Netns::new(),
            peer: Netns::new(),
        };
        net.bridge.ip("link add br0 type bridge");
        net.bridge.ip("link set br0 up");
        net.plug(&net.peer, "peer", "02:00:00:00:00:01", 1).await;
        net.plug(&net.web, "web", OLD, 2).await;
        net
    }

    /// Puts an interface that has this hardware address into a container.
    async fn plug(&self, container: &Netns, port: &str, mac: &str, host: u8) {
        let path = container.path();
        self.bridge.ip(&format!(
            "link add {port} master br0 type veth peer name eth0 address {mac} netns {}",
            path.display()
        ));
        self.bridge.ip(&format!("link set {port} up"));
        container.ip(&format!("addr add 10.7.0.{host}/24 dev eth0"));
        container.ip(&format!("-6 addr add fd00:7::{host}/64 dev eth0 nodad"));
        container.ip("link set eth0 up");
        eventually("the port forwards", || {
            let link = self.bridge.ip(&format!("-d link show {port}"));
            link.contains("state forwarding") && container.ip("link show eth0").contains("state UP")
        })
        .await;
    }

    /// Replaces the interface of the one container by one with the same
    /// addresses that the other has not heard of.
    async fn replace(&self) {
        self.web.ip("link del eth0");
        self.plug(&self.web, "web", NEW, 2).await;
    }

    /// What the peer believes of an address.
    fn entry(&self, address: &str) -> String {
        self.peer
            .ip(&format!("neigh show {address} dev eth0 nud all"))
    }

    /// Whether a datagram from the peer comes to the address.
    fn reaches(&self, address: &str) -> bool {
        let address: IpAddr = address.parse().unwrap();
        let bound = |netns: &Netns, to: IpAddr| {
            in_netns(netns.path(), || Ok(UdpSocket::bind((to, 0)).unwrap())).unwrap()
        };
        let any = match address {
            IpAddr::V4(_) => "0.0.0.0",
            IpAddr::V6(_) => "::",
        };
        let server = bound(&self.web, address);
        let client = bound(&self.peer, any.parse().unwrap());
        client
            .send_to(b"hello", server.local_addr().unwrap())
            .unwrap();
        server
            .set_read_timeout(Some(Duration::from_millis(400)))
            .unwrap();
        server.recv(&mut [0; 8]).is_ok()
    }

    /// Makes the peer know the addresses, and replaces the interface: nothing
    /// but an announcement tells the peer.
    async fn outdate(&self) {
        for address in WEB {
            eventually("the peer reaches the address", || self.reaches(address)).await;
            let entry = self.entry(address);
            assert!(
                entry.contains(OLD) && entry.contains("REACHABLE"),
                "{entry}"
            );
        }
        self.replace().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        for address in WEB {
            assert!(!self.reaches(address), "{address} needs no announcement");
            let entry = self.entry(address);
            assert!(
                entry.contains(OLD) && entry.contains("REACHABLE"),
                "{entry}"
            );
        }
    }

    async fn is_told(&self) {
        for address in WEB {
            let told = format!("the peer is told of {address}");
            eventually(&told, || self.entry(address).contains(NEW)).await;
            eventually("the peer reaches the address", || self.reaches(address)).await;
        }
    }
}

#[tokio::test]
async fn neighbours_learn_a_new_hardware_address() {
    let net = Net::new().await;
    net.outdate().await;
    announce(&net.web.path(), "eth0", &web()).unwrap();
    net.is_told().await;
}

#[tokio::test]
async fn neighbours_learn_it_soon() {
    let net = Net::new().await;
    net.outdate().await;
    let soon = announce_soon(net.web.path(), "eth0".to_owned(), web().into());
    tokio::spawn(soon).await.unwrap();
    net.is_told().await;
}

#[tokio::test]
async fn a_port_that_joins_its_bridge_late_is_no_obstacle() {
    let net = Net::new().await;
    net.outdate().await;
    net.bridge.ip("link set web nomaster");
    let soon = announce_soon(net.web.path(), "eth0".to_owned(), web().into());
    let open = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(net.entry(WEB[0]).contains(OLD));
        net.bridge.ip("link set web master br0");
    };
    tokio::join!(soon, open);
    net.is_told().await;
}

#[tokio::test]
async fn who_is_on_the_wire_is_found() {
    let net = Net::new().await;
    let addresses = [
        "10.7.0.1",
        "10.7.0.2",
        "10.7.0.9",
        "fd00:7::1",
        "fd00:7::2",
        "fd00:7::9",
    ];
    let addresses = addresses.map(|address| address.parse::<IpAddr>().unwrap());
    let mut there = in_netns(net.bridge.path(), || answering("br0", &addresses)).unwrap();
    there.sort();
    assert_eq!(
        there,
        [addresses[0], addresses[1], addresses[3], addresses[4]]
    );
    let own = in_netns(net.web.path(), || answering("eth0", &web())).unwrap();
    assert!(own.is_empty(), "{own:?}");
    let none = in_netns(net.web.path(), || answering("none", &web()));
    assert_eq!(none.unwrap_err().kind(), ErrorKind::NotFound);
    let never = in_netns(net.web.path(), || answering("lo", &web()));
    assert_eq!(never.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn nobody_is_said_to_be_there_when_no_question_got_out() {
    let net = Net::new().await;
    let ask = || in_netns(net.web.path(), || answering("eth0", &web()));
    assert_eq!(ask(), Ok(Vec::new()));
    let path = net.web.path();
    let name = path.file_name().unwrap().display();
    shell(&format!(
        "tc -n {name} qdisc add dev eth0 root pfifo limit 0"
    ));
    assert_eq!(ask().unwrap_err().kind(), ErrorKind::Unavailable);
    net.web.ip("link set eth0 down");
    assert_eq!(ask().unwrap_err().kind(), ErrorKind::FailedPrecondition);
}

/// Two namespaces with a cable between them, and what comes out at the end.
struct Cable {
    web: Netns,
    peer: Netns,
    end: OwnedFd,
}

impl Cable {
    async fn new() -> Self {
        let (web, peer) = (Netns::new(), Netns::new());
        web.ip(&format!(
            "link add eth0 address {NEW} type veth peer name eth0 netns {}",
            peer.path().display()
        ));
        peer.ip("link set eth0 up");
        web.ip("link set eth0 up");
        eventually("the cable works", || {
            web.ip("link show eth0").contains("state UP")
        })
        .await;
        let end = in_netns(peer.path(), || {
            let (packets, all) = (AddressFamily::Packet, SockProtocol::EthAll);
            let end = socket(packets, SockType::Raw, SockFlag::SOCK_CLOEXEC, all).unwrap();
            setsockopt(&end, sockopt::ReceiveTimeout, &TimeVal::milliseconds(200)).unwrap();
            Ok(end)
        })
        .unwrap();
        Self { web, peer, end }
    }

    /// The announcements that came out so far.
    fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok(length) = recv(self.end.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let frame = &buffer[..length];
            let is_arp = frame[12..14] == [0x08, 0x06];
            // Behind an IPv6 header without extensions.
            let is_advertisement =
                frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 136;
            if is_arp || is_advertisement {
                frames.push(frame.to_vec());
            }
        }
        frames
    }

    /// Whether the other end is there.
    fn is_whole(&self) -> bool {
        self.peer.ip("link").contains("eth0")
    }
}

/// Adds up the words: all ones, if a checksum is among them and correct.
fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2);
    assert!(words.remainder().is_empty());
    words.fold(0, |sum: u16, word| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word[1]]));
        sum + u16::from(carry)
    })
}

fn check_arp(frame: &[u8], address: [u8; 4]) {
    assert_eq!(frame.len(), 42);
    assert_eq!(frame[..6], [0xff; 6], "to all");
    assert_eq!(frame[6..12], NEW_BYTES);
    assert_eq!(frame[12..14], [0x08, 0x06], "ARP");
    assert_eq!(frame[14..20], [0, 1, 8, 0, 6, 4], "Ethernet and IPv4");
    assert_eq!(frame[20..22], [0, 1], "a request");
    assert_eq!(frame[22..28], NEW_BYTES, "sender");
    assert_eq!(frame[28..32], address, "sender");
    assert_eq!(frame[32..38], [0; 6], "target");
    assert_eq!(frame[38..42], address, "target");
}

fn check_advertisement(frame: &[u8], address: Ipv6Addr, flags: u8) {
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    assert_eq!(frame.len(), 86);
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1], "to all nodes");
    assert_eq!(frame[6..12], NEW_BYTES);
    assert_eq!(frame[12..14], [0x86, 0xdd], "IPv6");
    assert_eq!(frame[14..18], [0x60, 0, 0, 0], "version, class and flow");
    assert_eq!(frame[18..20], [0, 32], "length");
    assert_eq!(frame[20..22], [58, 255], "ICMPv6, hop limit");
    assert_eq!(frame[22..38], address.octets(), "source");
    assert_eq!(frame[38..54], all_nodes.octets(), "destination");
    assert_eq!(frame[54..56], [136, 0], "type and code");
    assert_eq!(frame[58..62], [flags, 0, 0, 0], "flags");
    assert_eq!(frame[62..78], address.octets(), "target");
    assert_eq!(frame[78..80], [2, 1], "target link-layer address");
    assert_eq!(frame[80..86], NEW_BYTES);
    let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &frame[54..]].concat();
    assert_eq!(ones_complement_sum(&pseudo), 0xffff, "checksum");
}

#[tokio::test]
async fn announcements_are_as_the_standards_want_them() {
    let cable = Cable::new().await;
    cable.frames();
    let others = ["10.8.0.9", "fd00:8::abcd"].map(|address| address.parse().unwrap());
    let pointless = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "::", "::1", "ff02::1"];
    let pointless = pointless.map(|address| address.parse().unwrap());
    let all = [&web()[..], &others, &pointless].concat();
    announce(&cable.web.path(), "eth0", &all).unwrap();
    let frames = cable.frames();
    assert_eq!(frames.len(), 4, "{frames:02x?}");
    check_arp(&frames[0], [10, 7, 0, 2]);
    check_advertisement(&frames[1], WEB[1].parse().unwrap(), 0x20);
    check_arp(&frames[2], [10, 8, 0, 9]);
    check_advertisement(&frames[3], "fd00:8::abcd".parse().unwrap(), 0x20);

    in_netns(cable.web.path(), || {
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/forwarding", "1").unwrap();
        Ok(())
    })
    .unwrap();
    announce(&cable.web.path(), "eth0", &web()[1..]).unwrap();
    check_advertisement(&cable.frames()[0], WEB[1].parse().unwrap(), 0xa0);
    announce(&cable.web.path(), "eth0", &[]).unwrap();
    assert!(cable.frames().is_empty());
}

#[tokio::test]
async fn a_tentative_address_is_announced_when_it_is_certain() {
    let cable = Cable::new().await;
    cable.web.ip("-6 addr add fd00:7::2/64 dev eth0");
    assert!(cable.web.ip("-6 addr show dev eth0").contains("tentative"));
    announce(&cable.web.path(), "eth0", &web()).unwrap();
    let frames = cable.frames();
    assert_eq!(frames.len(), 1, "{frames:02x?}");
    check_arp(&frames[0], [10, 7, 0, 2]);
    eventually("the address is certain", || {
        !cable.web.ip("-6 addr show dev eth0").contains("tentative")
    })
    .await;
    cable.frames();
    announce(&cable.web.path(), "eth0", &web()[1..]).unwrap();
    assert_eq!(cable.frames().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_announced_is_an_error() {
    let cable = Cable::new().await;
    let (path, other) = (cable.web.path(), Path::new("/run/netns/none-of-that-name"));
    let fails = |netns: &Path, ifname: &str| {
        let error = announce(netns, ifname, &web()).unwrap_err();
        (error.kind(), error.message().to_owned())
    };
    for name in [
        "eth7",
        "",
        "../eth0",
        "a-name-that-is-longer-than-any-can-be",
    ] {
        let (kind, text) = fails(&path, name);
        assert_eq!(kind, ErrorKind::NotFound, "{text}");
    }
    let (kind, text) = fails(&path, "lo");
    assert_eq!(kind, ErrorKind::FailedPrecondition);
    assert!(text.contains("is no ethernet"), "{text}");
    cable.web.ip("link set eth0 down");
    let (kind, text) = fails(&path, "eth0");
    assert_eq!(kind, ErrorKind::FailedPrecondition);
    assert!(
        text.contains("cannot announce 10.7.0.2: interface eth0"),
        "{text}"
    );
    assert!(text.ends_with("is down: set it up first"), "{text}");
    cable.web.ip("link del eth0");
    let (kind, text) = fails(&path, "eth0");
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(
        text.contains("interface eth0 of network namespace"),
        "{text}"
    );
    assert_eq!(fails(other, "eth0").0, ErrorKind::NotFound);
    for (path, name) in [
        (path.as_path(), "eth0"),
        (path.as_path(), "lo"),
        (other, "eth0"),
    ] {
        announce_soon(path.to_owned(), name.to_owned(), web().into()).await;
    }
}

#[tokio::test]
async fn an_interface_that_comes_up_meanwhile_is_announced() {
    let cable = Cable::new().await;
    cable.web.ip("link set eth0 down");
    cable.frames();
    let soon = announce_soon(cable.web.path(), "eth0".to_owned(), web()[..1].into());
    let up = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        cable.web.ip("link set eth0 up");
    };
    tokio::join!(soon, up);
    assert!(!cable.frames().is_empty());
}

#[tokio::test]
async fn later_announcements_need_no_path_and_keep_nothing() {
    let cable = Cable::new().await;
    cable.frames();
    let path = cable.web.path();
    let namespace = read_namespace(&path);
    let soon = announce_soon(path, "eth0".to_owned(), web()[..1].into());
    let (Cable { web, peer, end }, start) = (cable, Instant::now());
    let cut = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!threads_in(namespace), "the thread has ended");
        drop(web);
    };
    tokio::join!(soon, cut);
    assert!(start.elapsed() >= Duration::from_millis(1200));
    let cable = Cable {
        web: Netns::new(),
        peer,
        end,
    };
    assert_eq!(cable.frames().len(), 2);
    eventually("the namespace is gone", || !cable.is_whole()).await;
}

#[tokio::test]
async fn a_dropped_future_announces_no_more_and_keeps_nothing() {
    let cable = Cable::new().await;
    cable.frames();
    let path = cable.web.path();
    let soon = || announce_soon(path.clone(), "eth0".to_owned(), web()[..1].into());
    for patience in [0, 500] {
        assert!(
            timeout(Duration::from_millis(patience), soon())
                .await
                .is_err()
        );
        let sent = cable.frames().len();
        assert!(patience == 0 || sent > 0, "dropped after the first");
        tokio::time::sleep(Duration::from_millis(1300)).await;
        assert!(cable.frames().is_empty());
    }
    let namespace = read_namespace(&path);
    assert!(!threads_in(namespace));
    let Cable { web, peer, end } = cable;
    drop(web);
    let web = Netns::new();
    let cable = Cable { web, peer, end };
    eventually("the namespace is gone", || !cable.is_whole()).await;
}

#[tokio::test]
async fn an_interface_that_goes_ends_it() {
    let cable = Cable::new().await;
    let soon = announce_soon(cable.web.path(), "eth0".to_owned(), web().into());
    let cut = async {
        cable.web.ip("link del eth0");
        Instant::now()
    };
    let ((), gone) = tokio::join!(soon, cut);
    assert!(gone.elapsed() < Duration::from_millis(1000));
}

/// The inode of a namespace.
fn read_namespace(path: &Path) -> u64 {
    circuit_net::netns::identity(path).unwrap().inode
}

/// Whether a thread of this process is in a namespace.
fn threads_in(namespace: u64) -> bool {
    let link = format!("net:[{namespace}]");
    read_dir("/proc/self/task").unwrap().any(|task| {
        let path = task.unwrap().path().join("ns/net");
        read_link(path).is_ok_and(|target| target.to_string_lossy() == link)
    })
}
