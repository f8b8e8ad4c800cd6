//! Whether a name server is reached from a container.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use circuit_core::{Error, Result};
use circuit_net::netns::in_netns_async;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};

use super::PORT;

/// How long an answer is waited for, before the question is put once more.
const PATIENCE: Duration = Duration::from_millis(700);
const TRIES: usize = 2;

/// Whether the server at an address answers on port 53 to somebody in a network
/// namespace, whatever it says.
///
/// # Errors
/// When it cannot be asked: the namespace is gone, or nothing leads there.
pub async fn answers_to(netns: PathBuf, server: IpAddr) -> Result<bool> {
    // It stays where it was made, whoever uses it.
    let made = in_netns_async(netns, move || connected(server).map_err(refused));
    let socket = tokio::net::UdpSocket::from_std(made.await?).map_err(refused)?;
    let question = question()?;
    let mut answer = [0; 512];
    for _ in 0..TRIES {
        // A refusal by the network is told with the next call.
        let _ = socket.send(&question).await;
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await;
        if matches!(received, Ok(Ok(_))) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn refused(error: io::Error) -> Error {
    Error::precondition(error.to_string())
}

fn connected(server: IpAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect((server, PORT))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// One that no other server is asked.
fn question() -> Result<Vec<u8>> {
    let mut message = Message::query();
    message.metadata.recursion_desired = false;
    let root = Query::query(Name::root(), RecordType::SOA);
    message.queries.push(root);
    let failed = |error| Error::internal(format!("a question cannot be written: {error}"));
    message.to_vec().map_err(failed)
}
