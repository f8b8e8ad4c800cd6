//! Traffic: who reaches whom, and which address is seen at the other end.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::world::World;

/// What is not answered within this time never is, also on a busy machine: all is on
/// one kernel.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connects from one namespace to an address, behind which a port of another
/// namespace is, and says which address is seen there.
pub(crate) fn tcp(world: &World, from: &str, to: SocketAddr, at: (&str, u16)) -> String {
    let any = SocketAddr::new(any(to.ip()), at.1);
    let listener = match world.inside(at.0, || patiently(|| TcpListener::bind(any))) {
        Ok(listener) => listener,
        Err(e) => return format!("cannot listen: {}", e.kind()),
    };
    let client = world.inside(from, || TcpStream::connect_timeout(&to, PATIENCE));
    if let Err(e) = client {
        return failed(&e);
    }
    listener.set_nonblocking(true).unwrap();
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((_, peer)) => return format!("from {}", plain(peer.ip())),
            Err(_) if start.elapsed() > PATIENCE => return "answered by another".to_owned(),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// As [`tcp`], with a datagram there and one back.
pub(crate) fn udp(world: &World, from: &str, to: SocketAddr, at: (&str, u16)) -> String {
    let any_port = |port| SocketAddr::new(any(to.ip()), port);
    let server = match world.inside(at.0, || patiently(|| UdpSocket::bind(any_port(at.1)))) {
        Ok(server) => server,
        Err(e) => return format!("cannot listen: {}", e.kind()),
    };
    let client = world.inside(from, || {
        let socket = UdpSocket::bind(any_port(0))?;
        socket.connect(to)?;
        socket.send(b"there")?;
        Ok(socket)
    });
    let client = match client {
        Ok(client) => client,
        Err(e) => return failed(&e),
    };
    let mut bytes = [0; 16];
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let Ok((_, peer)) = server.recv_from(&mut bytes) else {
        return "lost".to_owned();
    };
    let seen = format!("from {}", plain(peer.ip()));
    let answered = server.send_to(b"back", peer).is_ok() && client.recv(&mut bytes).is_ok();
    if answered {
        seen
    } else {
        format!("{seen}, the answer is lost")
    }
}

/// Binds again while the port is in use: what another thread starts has all of
/// our sockets for a moment, those that are closed here too.
fn patiently<T>(bind: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    let start = Instant::now();
    loop {
        match bind() {
            Err(e) if e.kind() == ErrorKind::AddrInUse && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(2));
            }
            bound => return bound,
        }
    }
}

fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn failed(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer".to_owned(),
        kind => kind.to_string(),
    }
}
