//! Looks at what a client sends until its first call, while hyper serves the
//! connection. When that call is a question of CoreDNS, hyper never sees it: the
//! connection is taken from it between two frames, before any stream.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{Frame, flag, kind};
use super::head::Heads;
use super::peer::Peer;

/// What every client of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes that are read at once.
const READ: usize = 4096;

/// A connection for hyper.
pub(in crate::grpc) struct Tap<S>(Arc<Mutex<Inner<S>>>);

/// The other end of a [`Tap`].
pub(in crate::grpc) struct Hold<S>(Arc<Mutex<Inner<S>>>);

/// A connection that was taken from hyper.
pub(in crate::grpc) struct Taken<S> {
    pub(super) stream: S,
    /// What the client said of itself.
    pub(super) peer: Peer,
    /// What it has sent since.
    pub(super) rest: BytesMut,
}

struct Inner<S> {
    /// There until it is taken.
    stream: Option<S>,
    looked: Looked,
    /// Something that hyper wrote is not with the kernel.
    blocked: bool,
}

/// How far the client's bytes were looked at.
enum Looked {
    /// Not to its first call.
    Before(Before),
    /// It is a question of CoreDNS.
    Question { peer: Peer, rest: BytesMut },
    /// It is anything else.
    Over,
}

#[derive(Default)]
struct Before {
    peer: Peer,
    begun: bool,
    /// What came, and how much of it hyper may have.
    came: BytesMut,
    clear: usize,
    found: Option<Found>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Question,
    Other,
}

/// Both ends of a connection. One that is not `watched` is never taken.
pub(in crate::grpc) fn watch<S>(stream: S, watched: bool) -> (Tap<S>, Hold<S>) {
    let looked = match watched {
        true => Looked::Before(Before::default()),
        false => Looked::Over,
    };
    let inner = Arc::new(Mutex::new(Inner {
        stream: Some(stream),
        looked,
        blocked: false,
    }));
    (Tap(Arc::clone(&inner)), Hold(inner))
}

fn lock<S>(inner: &Mutex<Inner<S>>) -> MutexGuard<'_, Inner<S>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> Hold<S> {
    /// Whether the first call is a question of CoreDNS.
    pub(in crate::grpc) fn has_question(&self) -> bool {
        matches!(lock(&self.0).looked, Looked::Question { .. })
    }

    /// Takes the connection from hyper, if its first call is a question of CoreDNS
    /// and hyper has sent everything.
    pub(in crate::grpc) fn take(&self) -> Option<Taken<S>> {
        let mut inner = lock(&self.0);
        if inner.blocked || !matches!(inner.looked, Looked::Question { .. }) {
            return None;
        }
        let stream = inner.stream.take()?;
        match std::mem::replace(&mut inner.looked, Looked::Over) {
            Looked::Question { peer, rest } => Some(Taken { stream, peer, rest }),
            Looked::Before(_) | Looked::Over => None,
        }
    }

    /// Leaves the connection to hyper.
    pub(in crate::grpc) fn leave(&self) {
        let inner = &mut *lock(&self.0);
        let came = match &mut inner.looked {
            Looked::Before(before) => std::mem::take(&mut before.came),
            Looked::Question { rest, .. } => std::mem::take(rest),
            Looked::Over => return,
        };
        inner.looked = Looked::Before(Before {
            clear: came.len(),
            came,
            found: Some(Found::Other),
            ..Before::default()
        });
    }
}

impl Before {
    /// Looks at what came, and says how it goes on; none when more has to come.
    fn look(&mut self) -> Option<Found> {
        if !self.begun {
            let (start, _) = self.came.split_at_checked(PREFACE.len())?;
            if start != PREFACE {
                return Some(Found::Other);
            }
            self.clear = PREFACE.len();
            self.begun = true;
        }
        loop {
            let Ok(frame) = Frame::read(&self.came[self.clear..]) else {
                return Some(Found::Other);
            };
            let frame = frame?;
            match frame.kind {
                kind::SETTINGS if !frame.has(flag::ACK) => {
                    // Hyper complains of those that are wrong.
                    if self.peer.set(frame.settings()).is_err() {
                        return Some(Found::Other);
                    }
                }
                kind::WINDOW_UPDATE if frame.stream == 0 => {
                    self.peer.room += i64::from(frame.number().unwrap_or(0));
                }
                kind::SETTINGS | kind::PING | kind::PRIORITY => {}
                kind::HEADERS if self.is_question(&frame) => return Some(Found::Question),
                _ => return Some(Found::Other),
            }
            self.clear += frame.length();
        }
    }

    fn is_question(&self, frame: &Frame<'_>) -> bool {
        let whole = frame.has(flag::END_HEADERS) && self.peer.keeps_table;
        let block = frame.content().filter(|_| whole);
        let head = block.and_then(|block| Heads::default().read(block).ok());
        head.is_some_and(|head| head.is_question && head.of_library && !head.has_others)
    }
}

impl<S: AsyncRead + Unpin> Inner<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Pending;
        };
        loop {
            let before = match &mut self.looked {
                Looked::Over => return Pin::new(stream).poll_read(cx, to),
                // Whoever polls hyper takes the connection now.
                Looked::Question { .. } => return Poll::Pending,
                Looked::Before(before) => before,
            };
            if before.clear > 0 {
                let count = before.clear.min(to.remaining());
                to.put_slice(&before.came[..count]);
                before.came.advance(count);
                before.clear -= count;
                return Poll::Ready(Ok(()));
            }
            match before.found {
                Some(Found::Other) if before.came.is_empty() => self.looked = Looked::Over,
                Some(Found::Other) => before.clear = before.came.len(),
                Some(Found::Question) => {
                    self.looked = Looked::Question {
                        peer: before.peer.clone(),
                        rest: std::mem::take(&mut before.came),
                    };
                }
                None => {
                    before.found = before.look();
                    if before.found.is_some() || before.clear > 0 {
                        continue;
                    }
                    let mut space = [0; READ];
                    let mut space = ReadBuf::new(&mut space);
                    ready!(Pin::new(&mut *stream).poll_read(cx, &mut space))?;
                    if space.filled().is_empty() {
                        before.found = Some(Found::Other);
                    }
                    before.came.extend_from_slice(space.filled());
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        lock(&self.0).poll_read(cx, to)
    }
}

impl<S: AsyncWrite + Unpin> Tap<S> {
    fn write<T>(
        &self,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let inner = &mut *lock(&self.0);
        let Some(stream) = &mut inner.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let written = write(Pin::new(stream));
        inner.blocked = written.is_pending();
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(|stream| stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        let inner = lock(&self.0);
        inner
            .stream
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::task::noop_waker;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::task::yield_now;

    use super::super::{frame, head::PATH};
    use super::*;

    fn made(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::whole(&mut out, kind, flags, stream, payload);
        out
    }

    /// The head of a call, in fields that add nothing to the table.
    fn call(path: &str, agent: &str) -> Vec<u8> {
        call_with(path, agent, &[("te", "trailers"), ("grpc-timeout", "5S")])
    }

    fn call_with(path: &str, agent: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let field = |name: &str, value: &str| {
            let text =
                |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            [vec![0], text(name), text(value)].concat()
        };
        let mut block = [field(":path", path), field("user-agent", agent)].concat();
        block.extend(more.iter().flat_map(|(name, value)| field(name, value)));
        made(kind::HEADERS, flag::END_HEADERS, 1, &block)
    }

    /// What a client says before its first call: it has room for 5 more bytes than
    /// others, and for 7 on each stream.
    fn before() -> Vec<u8> {
        let settings = [&[0, 4][..], &7u32.to_be_bytes()].concat();
        let more = made(kind::WINDOW_UPDATE, 0, 0, &5u32.to_be_bytes());
        let ack = made(kind::SETTINGS, flag::ACK, 0, &[]);
        [PREFACE, &made(kind::SETTINGS, 0, 0, &settings), &more, &ack].concat()
    }

    fn tapped(watched: bool) -> (DuplexStream, Tap<DuplexStream>, Hold<DuplexStream>) {
        let (client, stream) = duplex(100_000);
        let (tap, hold) = watch(stream, watched);
        (client, tap, hold)
    }

    /// What hyper would read now, in pieces of this size. A task may do only so much of
    /// it before it yields.
    fn readable(tap: &mut Tap<DuplexStream>, size: usize) -> Vec<u8> {
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut all = Vec::new();
        loop {
            let mut space = vec![0; size];
            let mut space = ReadBuf::new(&mut space);
            let read = Pin::new(&mut *tap).poll_read(&mut cx, &mut space);
            if read.is_pending() || space.filled().is_empty() {
                return all;
            }
            all.extend_from_slice(space.filled());
        }
    }

    #[tokio::test]
    async fn a_connection_of_questions_is_taken_before_the_first() {
        for size in [1, 10, 10_000] {
            let (mut client, mut tap, hold) = tapped(true);
            let all = [before(), call(PATH, "grpc-go/1.79.1"), b"and more".to_vec()].concat();
            let mut seen = Vec::new();
            for piece in all.chunks(size) {
                client.write_all(piece).await.unwrap();
                yield_now().await;
                seen.append(&mut readable(&mut tap, size));
            }
            assert_eq!(seen, before(), "{size}");
            let mut taken = hold.take().unwrap();
            assert_eq!((taken.peer.room, taken.peer.room_of_stream), (65_540, 7));
            let mut rest = taken.rest.to_vec();
            drop(client);
            taken.stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, all[before().len()..], "{size}");
            // Nothing goes to or comes from where it was.
            assert_eq!(readable(&mut tap, 10), b"");
            assert!(tap.write_all(b"late").await.is_err());
        }
    }

    #[tokio::test]
    async fn any_other_connection_is_left_as_it_is() {
        let split = made(kind::HEADERS, 0, 1, b"\0");
        let small = made(kind::SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 9]);
        let wrong = made(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 9]);
        let question = || call(PATH, "grpc-go/1.79.1");
        let by_proxy = call_with(PATH, "grpc-go/1.79.1", &[("x-forwarded-proto", "http")]);
        for (what, all) in [
            (
                "another call",
                [before(), call("/health", "grpc-go/1.79.1")].concat(),
            ),
            ("a call by a proxy", [before(), by_proxy].concat()),
            (
                "another library",
                [before(), call(PATH, "tonic/0.14")].concat(),
            ),
            ("a head in pieces", [before(), split].concat()),
            ("a small table", [before(), small, question()].concat()),
            ("wrong settings", [before(), wrong, question()].concat()),
            (
                "a strange frame",
                [before(), made(kind::DATA, 0, 1, b"abc"), question()].concat(),
            ),
            (
                "no http/2",
                b"GET / HTTP/1.1\r\nHost: of a kind\r\n\r\n".to_vec(),
            ),
            ("an endless frame", [before(), vec![0xff; 100]].concat()),
            ("less than it takes", before()[..40].to_vec()),
        ] {
            for size in [1, 10, 10_000] {
                let (mut client, mut tap, hold) = tapped(true);
                let mut seen = Vec::new();
                for piece in all.chunks(size) {
                    client.write_all(piece).await.unwrap();
                    yield_now().await;
                    seen.append(&mut readable(&mut tap, size));
                    assert!(hold.take().is_none(), "{what}");
                }
                // What is cut off is passed on as well.
                drop(client);
                seen.append(&mut readable(&mut tap, size));
                assert!(seen == all, "{what}, {size}");
            }
        }
    }

    #[tokio::test]
    async fn one_that_is_not_watched_or_left_is_not_taken() {
        let all = [before(), call(PATH, "grpc-go/1.79.1")].concat();
        let (mut client, mut tap, hold) = tapped(false);
        client.write_all(&all).await.unwrap();
        assert_eq!(readable(&mut tap, 100), all);
        assert!(hold.take().is_none());
        // At every time before it is taken.
        for at in 0..=all.len() {
            let (mut client, mut tap, hold) = tapped(true);
            let (first, second) = all.split_at(at);
            client.write_all(first).await.unwrap();
            yield_now().await;
            let mut seen = readable(&mut tap, 100);
            hold.leave();
            client.write_all(second).await.unwrap();
            seen.append(&mut readable(&mut tap, 100));
            assert_eq!(seen, all, "{at}");
            assert!(hold.take().is_none());
        }
    }

    #[tokio::test]
    async fn it_is_not_taken_while_something_is_to_be_sent() {
        let (mut client, stream) = duplex(1000);
        let (mut tap, hold) = watch(stream, true);
        let all = [before(), call(PATH, "grpc-go/1.79.1")].concat();
        client.write_all(&all).await.unwrap();
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        while Pin::new(&mut tap).poll_write(&mut cx, &[0; 100]).is_ready() {}
        readable(&mut tap, 1000);
        assert!(hold.take().is_none());
        client.read_exact(&mut [0; 1000]).await.unwrap();
        tap.write_all(b"rest").await.unwrap();
        assert!(hold.take().is_some());
    }
}
