//! Accepts connections of every listener into one stream. Nothing a client
//! does, and no shortage of descriptors, ends it.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::authority;
use super::listen::{Listeners, UnixSocket};
use crate::clients::{Clients, is_from_afar};

/// Connections of one listener at a time; more of them wait. A listener's own
/// limit keeps strangers on a port from shutting out the Unix socket.
const MAX_CONNECTIONS: usize = 512;
/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take for HTTP/2's preface, of so many bytes. Only from then
/// on it is asked for signs of life.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// What is accepted.
pub(super) type Accepted = mpsc::Receiver<Connection>;

type Sender = mpsc::Sender<Connection>;

/// Accepts until `shutdown`, then closes the listeners.
pub(super) fn accept(listeners: Listeners, shutdown: &CancellationToken) -> Accepted {
    let (sender, accepted) = mpsc::channel(64);
    let tls = listeners.tls.map(TlsAcceptor::from);
    for listener in listeners.tcp {
        let accepting = accept_tcp(listener, tls.clone(), sender.clone());
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(accepting));
    }
    for socket in listeners.unix {
        let accepting = accept_unix(socket, sender.clone());
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(accepting));
    }
    accepted
}

async fn accept_unix(socket: UnixSocket, sender: Sender) {
    let mut clients = Clients::new(MAX_CONNECTIONS);
    while let Some((permit, (stream, _))) = clients.next(|| socket.listener.accept()).await {
        let stream = authority::Readable::new(stream);
        if sender.send(Connection::new(stream, permit)).await.is_err() {
            return;
        }
    }
}

async fn accept_tcp(listener: TcpListener, tls: Option<TlsAcceptor>, sender: Sender) {
    let mut clients = Clients::new(MAX_CONNECTIONS);
    let at = listener.local_addr();
    while let Some((permit, (stream, peer))) = clients.next(|| listener.accept()).await {
        if at.as_ref().is_ok_and(|at| is_from_afar(*at, peer)) {
            tracing::debug!("a connection of {peer} to a loopback address is closed");
            continue;
        }
        if stream.set_nodelay(true).is_err() {
            // Closed before it was opened.
            continue;
        }
        match &tls {
            // A slow handshake must not keep others waiting.
            Some(tls) => drop(tokio::spawn(handshake(
                tls.clone(),
                stream,
                permit,
                sender.clone(),
            ))),
            None if sender.send(Connection::new(stream, permit)).await.is_err() => {
                return;
            }
            None => {}
        }
    }
}

async fn handshake(tls: TlsAcceptor, stream: TcpStream, permit: OwnedSemaphorePermit, to: Sender) {
    let peer = stream
        .peer_addr()
        .map_or_else(|_| "a client".to_owned(), |at| at.to_string());
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => drop(to.send(Connection::new(stream, permit)).await),
        Ok(Err(e)) => tracing::debug!("no tls with {peer}: {e}"),
        Err(_) => tracing::debug!("no tls with {peer}: the handshake took too long"),
    }
}

/// What bytes come and go by.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection of whatever kind.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    preface: Option<Preface>,
    _permit: OwnedSemaphorePermit,
}

/// What is missing of the preface, and until when it may be.
struct Preface {
    left: usize,
    patience: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(stream: impl Stream + 'static, permit: OwnedSemaphorePermit) -> Self {
        Self {
            stream: Box::new(stream),
            preface: Some(Preface {
                left: PREFACE,
                patience: Box::pin(tokio::time::sleep(PREFACE_TIMEOUT)),
            }),
            _permit: permit,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(preface) = &mut this.preface {
            let came = buf.filled().len().saturating_sub(before);
            preface.left = preface.left.saturating_sub(came);
            if preface.left == 0 {
                this.preface = None;
            } else if read.is_pending() && preface.patience.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client said nothing",
                )));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Semaphore;
    use tokio::time::{Instant, timeout};

    use super::*;

    fn connection() -> (tokio::io::DuplexStream, Connection) {
        let (client, stream) = tokio::io::duplex(64);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        (client, Connection::new(stream, permit))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_not_kept() {
        let (mut client, mut connection) = connection();
        let start = Instant::now();
        // Nor is one that says little.
        client.write_all(&[0; PREFACE - 1]).await.unwrap();
        connection.read_exact(&mut [0; PREFACE - 1]).await.unwrap();
        let silent = timeout(PREFACE_TIMEOUT * 2, connection.read_u8()).await;
        let error = silent.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= PREFACE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_begun_may_be_silent() {
        let (mut client, mut connection) = connection();
        client.write_all(&[0; PREFACE]).await.unwrap();
        connection.read_exact(&mut [0; PREFACE]).await.unwrap();
        let silent = timeout(PREFACE_TIMEOUT * 20, connection.read_u8()).await;
        assert!(silent.is_err(), "{silent:?}");
    }
}
