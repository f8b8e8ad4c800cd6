//! DNS over TCP (RFC 7766).

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::Dns;
use super::answer::{Answered, Client, Door};
use super::limit::Shares;

/// A stream on which nothing is asked for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// As many streams are open at once; more wait to be taken.
const STREAMS: usize = 256;
/// As many of them one source has; further ones are closed.
const OF_ONE: usize = 16;
/// As many questions of a stream are under way; before the next is read, one of them is
/// answered.
const UNDER_WAY: usize = 32;

/// Answers who asks by streams, for ever.
pub(super) async fn streams(
    dns: Arc<Dns>,
    listener: TcpListener,
    door: Arc<Door>,
) -> io::Result<()> {
    let (room, shares) = (Arc::new(Semaphore::new(STREAMS)), Shares::new(OF_ONE));
    let mut tasks = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // One that went away, or no more files: both pass.
                tracing::debug!(%error, "a dns stream was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        let Some(share) = shares.take(peer.ip()) else {
            tracing::debug!(%peer, "a dns stream was closed: its source has enough of them");
            continue;
        };
        let (dns, door) = (Arc::clone(&dns), Arc::clone(&door));
        tasks.spawn(async move {
            if let Err(error) = stream_of(dns, stream, door).await {
                tracing::trace!(%peer, %error, "a dns stream ended");
            }
            drop((place, share));
        });
    }
}

/// Answers come as they are found, in whatever order: a slow name keeps nobody waiting
/// who asks for another on the same stream.
async fn stream_of(dns: Arc<Dns>, stream: TcpStream, door: Arc<Door>) -> io::Result<()> {
    let here = (stream.peer_addr()?.ip(), stream.local_addr()?.ip());
    let (from, to) = stream.into_split();
    let (answers, found) = mpsc::channel(1);
    tokio::try_join!(read(&dns, &door, here, from, answers), write(to, found))?;
    Ok(())
}

/// Reads questions, and has them answered, until there are no more.
async fn read(
    dns: &Arc<Dns>,
    door: &Door,
    (peer, local): (IpAddr, IpAddr),
    mut stream: OwnedReadHalf,
    answers: mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let client = Client {
        peer,
        local: Some(local),
        door,
        stream: true,
    };
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let (mut tasks, mut question) = (JoinSet::new(), Vec::new());
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let next = async {
            let length = stream.read_u16().await?;
            question.resize(length.into(), 0);
            stream.read_exact(&mut question).await
        };
        match tokio::time::timeout(IDLE, next).await {
            Ok(Ok(_)) => {}
            // Whoever has asked everything waits for the rest of the answers.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Ok(Err(error)) => return Err(error),
            Err(_) => break,
        }
        let mut out = Vec::new();
        match dns.answer(&question, &client, &mut out) {
            Answered::Now => answers.send(out).await.map_err(io::Error::other)?,
            // Whoever sends nonsense is not worth a stream.
            Answered::Never => break,
            Answered::Later(pending) => {
                let (dns, answers) = (Arc::clone(dns), answers.clone());
                tasks.spawn(async move {
                    let _ = dns.finish(&pending, &mut out).await;
                    // Nobody takes it where the stream has ended.
                    let _ = answers.send(out).await;
                    drop(place);
                });
            }
        }
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Writes answers as they are found, until there are no more.
async fn write(mut stream: OwnedWriteHalf, mut found: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(answer) = found.recv().await {
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut whole = length.to_be_bytes().to_vec();
        whole.extend_from_slice(&answer);
        tokio::time::timeout(IDLE, stream.write_all(&whole)).await??;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;

    use hickory_proto::op::{Message, ResponseCode};
    use hickory_proto::rr::RecordType;
    use tokio::net::TcpSocket;

    use super::super::tests::{dns_with, question};
    use super::*;

    /// A server of ours that passes on what it does not know.
    async fn serving(upstream: Vec<SocketAddr>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dns = Arc::new(dns_with(upstream, 1000));
        tokio::spawn(streams(dns, listener, Arc::new(Door::Open)));
        address
    }

    /// A name's question under a number, as it is on a stream.
    fn asked(number: u16, name: &str) -> Vec<u8> {
        let mut message = question(name, RecordType::A);
        message.metadata.id = number;
        let bytes = message.to_vec().unwrap();
        let length = u16::try_from(bytes.len()).unwrap();
        [&length.to_be_bytes()[..], &bytes].concat()
    }

    async fn answer(stream: &mut TcpStream) -> Option<(u16, ResponseCode)> {
        let mut bytes = vec![0; stream.read_u16().await.ok()?.into()];
        stream.read_exact(&mut bytes).await.ok()?;
        let metadata = Message::from_vec(&bytes).unwrap().metadata;
        Some((metadata.id, metadata.response_code))
    }

    #[tokio::test]
    async fn a_slow_name_does_not_keep_the_next_one_waiting() {
        // It takes questions, and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let us = serving(vec![silent.local_addr().unwrap()]).await;
        let mut stream = TcpStream::connect(us).await.unwrap();
        for (number, name) in [(1, "example.com."), (2, "web.ctr0."), (3, "gone.ctr0.")] {
            stream.write_all(&asked(number, name)).await.unwrap();
        }
        // Everything is asked, and answered nevertheless.
        stream.shutdown().await.unwrap();
        assert_eq!(answer(&mut stream).await, Some((2, ResponseCode::NoError)));
        assert_eq!(answer(&mut stream).await, Some((3, ResponseCode::NXDomain)));
        assert_eq!(answer(&mut stream).await, Some((1, ResponseCode::ServFail)));
        assert_eq!(answer(&mut stream).await, None);
    }

    #[tokio::test]
    async fn nothing_is_read_while_much_is_under_way() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let us = serving(vec![silent.local_addr().unwrap()]).await;
        let mut stream = TcpStream::connect(us).await.unwrap();
        for number in 0..32 {
            let question = asked(number, "example.com.");
            stream.write_all(&question).await.unwrap();
        }
        stream.write_all(&asked(99, "web.ctr0.")).await.unwrap();
        let (_, first) = answer(&mut stream).await.unwrap();
        assert_eq!(first, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn one_source_has_some_of_the_streams_only() {
        let us = serving(Vec::new()).await;
        let open = async |from: &str| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from.parse().unwrap()).unwrap();
            let mut stream = socket.connect(us).await.unwrap();
            // One that is closed takes nothing more.
            let _ = stream.write_all(&asked(1, "web.ctr0.")).await;
            let answered = answer(&mut stream).await.is_some();
            answered.then_some(stream)
        };
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(open("127.0.0.1:0").await.unwrap());
        }
        assert!(open("127.0.0.1:0").await.is_none());
        assert!(open("127.0.0.2:0").await.is_some());
        held.pop();
        let again = async { while open("127.0.0.1:0").await.is_none() {} };
        tokio::time::timeout(Duration::from_secs(30), again)
            .await
            .unwrap();
    }
}
