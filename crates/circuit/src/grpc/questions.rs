//! Connections of CoreDNS, which asks thousands of questions a second: from its
//! first call on such a connection is not hyper's but served here, with as much of
//! HTTP/2 as its questions need. A client that asks for anything else on the same
//! connection is sent to a new one.

mod frame;
mod head;
mod peer;
mod reply;
mod session;
mod tap;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use circuit_core::service::{NameAnswer, NameRecord, Names};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use session::Session;

use super::drive::KEEPALIVE;
use super::front::Front;
pub(super) use head::PATH;
pub(super) use tap::{Hold, Taken, Tap, watch};

/// Bytes that are read at once.
const READ: usize = 64 * 1024;
/// How long the client may take to close what is over.
const LINGER: Duration = Duration::from_secs(1);

/// A client that asks for other things comes again at once, perhaps on another connection
/// that it has: those of questions are told to end so long before its own.
const BEFORE: Duration = Duration::from_millis(50);

/// Serves a connection to its end. After `stop` or `end` it takes no more
/// calls.
///
/// # Errors
/// When the connection breaks.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    taken: Taken<S>,
    front: &Front,
    [stop, end]: [CancellationToken; 2],
) -> io::Result<()> {
    let mut it = Serving {
        stream: taken.stream,
        session: Session::new(front.names(), taken.peer),
        input: taken.rest,
        out: Vec::new(),
        front,
        mixed: false,
    };
    let mut ended = pin!(async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = end.cancelled() => {}
        }
    });
    let mut silence = pin!(sleep(KEEPALIVE));
    let (mut heard, mut asked) = (true, false);
    loop {
        it.work().await?;
        if it.session.is_over() {
            return close(it.stream).await;
        }
        it.input.reserve(READ);
        tokio::select! {
            biased;
            read = it.stream.read_buf(&mut it.input) => {
                if read? == 0 {
                    return Ok(());
                }
                heard = true;
            }
            () = &mut ended, if !it.session.is_leaving() => it.session.leave(&mut it.out),
            () = &mut silence => {
                if asked && !heard {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                asked = !heard;
                if asked {
                    Session::ping(&mut it.out);
                }
                heard = false;
                silence.as_mut().reset(Instant::now() + KEEPALIVE);
            }
        }
    }
}

/// A connection that is served.
struct Serving<'a, S> {
    stream: S,
    session: Session,
    /// What came and is not worked on.
    input: BytesMut,
    out: Vec<u8>,
    front: &'a Front,
    /// The client asked for something else, and the others know.
    mixed: bool,
}

impl<S: AsyncWrite + Unpin> Serving<'_, S> {
    /// Works on everything that came, and sends what comes of it.
    async fn work(&mut self) -> io::Result<()> {
        loop {
            let done = self.session.take(&self.input, &mut self.out);
            self.input.advance(done);
            if self.session.is_mixed() && !self.mixed {
                self.mixed = true;
                self.front.mixed();
                sleep(BEFORE).await;
            }
            send(&mut self.stream, &mut self.out).await?;
            if done == 0 {
                return Ok(());
            }
        }
    }
}

/// Closes a connection after everything is sent.
async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.shutdown().await?;
    // What is not read here would take the last answers away from the client.
    let mut left = BytesMut::with_capacity(READ);
    let reading = async {
        while stream.read_buf(&mut left).await? > 0 {
            left.clear();
        }
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, reading).await;
    Ok(())
}

/// Serves whatever these bytes are, for a fuzzer: in pieces of a size that the first
/// one says.
pub(super) fn fuzz(bytes: &[u8]) {
    struct Nobody;
    #[async_trait::async_trait]
    impl Names for Nobody {
        async fn query(&self, _: &str, _: &str) -> circuit_core::Result<NameAnswer> {
            Err(circuit_core::Error::invalid("nothing is looked up"))
        }
        fn list(&self) -> Vec<NameRecord> {
            Vec::new()
        }
        fn message(&self, message: &[u8]) -> Option<Vec<u8>> {
            Some(message.repeat(3))
        }
    }
    let Some((size, bytes)) = bytes.split_first() else {
        return;
    };
    let mut session = Session::new(Arc::new(Nobody), peer::Peer::default());
    let (mut held, mut out) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(usize::from(*size) + 1) {
        held.extend_from_slice(piece);
        let done = session.take(&held, &mut out);
        held.drain(..done);
        out.clear();
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), out: &mut Vec<u8>) -> io::Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    timeout(KEEPALIVE, async {
        stream.write_all(out).await?;
        // Of TLS.
        stream.flush().await
    })
    .await??;
    out.clear();
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
