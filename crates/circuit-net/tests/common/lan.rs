//! A host with a client outside and containers on a bridge, and servers that
//! say who they are and whom they talk to. Everything is in namespaces.

#![allow(dead_code, reason = "every test binary uses another part")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::Duration;

use circuit_core::Error;
use circuit_net::netns::in_netns;

use super::common::{Netns, shell};

/// How long an answer may take, also on a busy machine; and so long it takes to see
/// that none comes.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) const HOST: &str = "192.0.2.1";
pub(crate) const HOST6: &str = "2001:db8:1::1";
pub(crate) const CLIENT: &str = "192.0.2.2";
pub(crate) const CLIENT6: &str = "2001:db8:1::2";

/// The calling thread's namespace as a host: interface `up0` leads to the
/// client, bridge `br0` to the containers.
pub(crate) struct Lan {
    pub(crate) client: Netns,
    pub(crate) containers: Vec<Netns>,
}

/// The IPv4 address of container `n`; the first is 0.
pub(crate) fn ip4(n: usize) -> IpAddr {
    format!("10.77.0.{}", n + 2).parse().unwrap()
}

/// The IPv6 address of container `n`.
pub(crate) fn ip6(n: usize) -> IpAddr {
    format!("fd77::{}", n + 2).parse().unwrap()
}

impl Lan {
    /// Makes it of the namespace of this thread.
    pub(crate) fn new(containers: usize) -> Self {
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
        set_bridge_netfilter(false);
        let client = Netns::new();
        join(&client, "up0", "eth0");
        client.ip(&format!("addr add {CLIENT}/24 dev eth0"));
        client.ip(&format!("-6 addr add {CLIENT6}/64 dev eth0 nodad"));
        // The way back to the containers shows what is not masqueraded.
        client.ip(&format!("route add 10.77.0.0/24 via {HOST}"));
        client.ip(&format!("-6 route add fd77::/64 via {HOST6}"));
        shell(&format!("ip addr add {HOST}/24 dev up0"));
        shell(&format!("ip -6 addr add {HOST6}/64 dev up0 nodad"));
        shell("ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up");
        shell("ip addr add 10.77.0.1/24 dev br0 && ip -6 addr add fd77::1/64 dev br0 nodad");
        let containers: Vec<Netns> = (0..containers).map(container).collect();
        for n in 0..containers.len() {
            wait_for(ip4(n));
            wait_for(ip6(n));
        }
        Self { client, containers }
    }
}

/// Waits until an address answers, if only to say that nobody listens: it
/// takes a while until a new interface carries anything.
fn wait_for(address: IpAddr) {
    let address = SocketAddr::new(address, 9);
    for _ in 0..50 {
        match TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => return,
            _ => {}
        }
    }
    panic!("{address} does not answer");
}

/// Whether packets that a bridge only passes on go through netfilter too.
pub(crate) fn set_bridge_netfilter(on: bool) {
    for setting in ["iptables", "ip6tables"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{setting}");
        std::fs::write(path, if on { "1" } else { "0" }).unwrap();
    }
}

fn container(n: usize) -> Netns {
    let netns = Netns::new();
    let outside = format!("c{n}");
    join(&netns, &outside, "eth0");
    // As the bridge plugin has it with hairpinMode, which one's own host port
    // needs.
    shell(&format!(
        "ip link set {outside} master br0 && ip link set {outside} type bridge_slave hairpin on"
    ));
    netns.ip(&format!("addr add {}/24 dev eth0", ip4(n)));
    netns.ip(&format!("-6 addr add {}/64 dev eth0 nodad", ip6(n)));
    netns.ip("route add default via 10.77.0.1");
    netns.ip("-6 route add default via fd77::1");
    netns
}

fn join(netns: &Netns, outside: &str, inside: &str) {
    let path = netns.path();
    let name = path.file_name().unwrap().to_str().unwrap();
    shell(&format!(
        "ip link add {outside} type veth peer name {inside} netns {name} && ip link set {outside} up"
    ));
    netns.ip("link set lo up");
    netns.ip(&format!("link set {inside} up"));
}

fn inside<T: Send>(
    netns: Option<&Path>,
    f: impl FnOnce() -> std::io::Result<T> + Send,
) -> Result<T, String> {
    match netns {
        Some(path) => in_netns(path, || f().map_err(|e| Error::internal(e.to_string())))
            .map_err(|e| e.to_string()),
        None => f().map_err(|e| e.to_string()),
    }
}

/// Serves TCP at an address of a namespace: says a name and the peer.
pub(crate) fn serve_tcp(netns: Option<&Path>, address: &str, name: &'static str) {
    let address: SocketAddr = address.parse().unwrap();
    let listener = inside(netns, || TcpListener::bind(address)).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = write!(stream, "{name} {}", peer.ip());
        }
    });
}

/// Serves UDP in the same way.
pub(crate) fn serve_udp(netns: Option<&Path>, address: &str, name: &'static str) {
    let address: SocketAddr = address.parse().unwrap();
    let socket = inside(netns, || UdpSocket::bind(address)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// What the server at an address says to a client in a namespace.
pub(crate) fn ask_tcp(netns: Option<&Path>, address: &str) -> Result<String, String> {
    let address: SocketAddr = address.parse().unwrap();
    inside(netns, || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

/// A UDP client's socket, which keeps its port.
pub(crate) fn udp_client(netns: Option<&Path>, v6: bool) -> UdpSocket {
    let any = if v6 { "[::]:0" } else { "0.0.0.0:0" };
    let socket = inside(netns, || UdpSocket::bind(any)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// What the server at an address says to that socket.
pub(crate) fn ask_udp(socket: &UdpSocket, address: &str) -> Result<String, String> {
    let ask = || {
        socket.send_to(b"?", address)?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    ask().map_err(|e: std::io::Error| e.to_string())
}
