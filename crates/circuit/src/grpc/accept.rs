//! Accepts connections of every listener into one stream. Nothing a client
//! does, and no shortage of descriptors, ends it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
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

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection of whatever kind.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: impl Stream + 'static, permit: OwnedSemaphorePermit) -> Self {
        Self {
            stream: Box::new(stream),
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
        Pin::new(&mut self.stream).poll_read(cx, buf)
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
