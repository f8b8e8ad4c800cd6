//! DNS over UDP, and over TCP by [`streams`](super::streams).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use circuit_core::{Error, Result};
use circuit_net::udp::{self, Batch, Path};
use tokio::io::Interest;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Dns;
use super::answer::{Answered, Client, Door, Pending};
use super::streams::streams;

/// As many batches of datagrams are answered before others have their turn.
const BATCHES: usize = 16;

/// Sockets of one address, by UDP and TCP.
pub struct Listener {
    address: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Listener {
    /// Listens. `early` as for [`udp::listen_udp`]. Takes the runtime.
    ///
    /// # Errors
    /// When the address cannot be had, with the reason.
    pub fn bind(address: SocketAddr, early: bool) -> Result<Self> {
        let bound = udp::listen_udp(address, early).and_then(|udp| {
            // With port 0 the kernel chooses; both have the same one.
            let address = udp.local_addr()?;
            let tcp = TcpListener::from_std(udp::listen_tcp(address, early)?)?;
            Ok((tcp, UdpSocket::from_std(udp)?, address))
        });
        let (tcp, udp, address) = bound.map_err(|error| {
            let reason = crate::text::io_error(&error);
            Error::precondition(format!("cannot listen on {address} for dns: {reason}"))
        })?;
        Ok(Self { address, udp, tcp })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Answers whoever asks there, until `stop`.
///
/// # Errors
/// When the socket fails.
pub async fn serve(
    dns: Arc<Dns>,
    listener: Listener,
    door: Door,
    stop: CancellationToken,
) -> Result<()> {
    let door = Arc::new(door);
    let failed = |error: io::Error| Error::internal(format!("serving dns failed: {error}"));
    let socket = Arc::new(listener.udp);
    let mut tasks = JoinSet::new();
    // Whoever is free takes what has come.
    let takers = match *door {
        Door::Gateway(_) => 1,
        _ => std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(8),
    };
    for _ in 0..takers {
        let (dns, socket, door) = (Arc::clone(&dns), Arc::clone(&socket), Arc::clone(&door));
        tasks.spawn(datagrams(dns, socket, door));
    }
    tasks.spawn(streams(dns, listener.tcp, door));
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = tasks.join_next() => match ended {
            Some(Ok(Err(error))) => Err(failed(error)),
            _ => Err(Error::internal("serving dns hit a defect")),
        }
    }
}

async fn datagrams(dns: Arc<Dns>, socket: Arc<UdpSocket>, door: Arc<Door>) -> io::Result<()> {
    let own = socket.local_addr()?.ip();
    let any = own.is_unspecified();
    let (mut questions, mut answers) = (Batch::new(any), Batch::new(any));
    let mut out = Vec::with_capacity(1500);
    loop {
        socket.readable().await?;
        for _ in 0..BATCHES {
            let receive = || udp::receive(&*socket, &mut questions);
            match socket.try_io(Interest::READABLE, receive) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What befell a former answer, or a signal.
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error),
            }
            for (bytes, path) in (0..questions.len()).filter_map(|at| questions.get(at)) {
                let client = Client {
                    peer: path.peer.ip(),
                    local: path.local.or((!any).then_some(own)),
                    door: &door,
                    stream: false,
                };
                match dns.answer(bytes, &client, &mut out) {
                    Answered::Now => drop(answers.push(&out, path)),
                    Answered::Never => {}
                    Answered::Later(pending) => {
                        tokio::spawn(finish(Arc::clone(&dns), Arc::clone(&socket), pending, path));
                    }
                }
            }
            udp::send(&*socket, &mut answers);
        }
        tokio::task::yield_now().await;
    }
}

async fn finish(dns: Arc<Dns>, socket: Arc<UdpSocket>, pending: Pending, path: Path) {
    let mut out = Vec::new();
    let _ = dns.finish(&pending, &mut out).await;
    if let Err(error) = udp::send_one(&*socket, &out, path) {
        tracing::debug!(peer = %path.peer, %error, "a dns answer was not sent");
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable};
    matches!(
        error.kind(),
        Interrupted | ConnectionRefused | HostUnreachable | NetworkUnreachable
    )
}
