//! Pages over HTTP, for browsers and monitoring programs: so many clients at a time,
//! and none for longer than it has something to say.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::clients::{Clients, is_from_afar};

/// What clients of one listener may do.
#[derive(Clone, Copy)]
struct Limits {
    /// How many there are at a time; more of them wait.
    clients: usize,
    /// For so long one may be silent, or ask, and be told nothing.
    silence: Duration,
    /// For so long one that does not come to an end holds up the end.
    drain: Duration,
}

const LIMITS: Limits = Limits {
    clients: 256,
    silence: Duration::from_secs(60),
    drain: Duration::from_secs(2),
};

/// Serves these pages until `stop`.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    pages: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    serve_within(LIMITS, listener, pages, stop).await
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    pages: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let bounded = Bounded {
        listener,
        clients: Clients::new(limits.clients),
        silence: limits.silence,
    };
    let over = stop.clone();
    let serving = axum::serve(bounded, pages).with_graceful_shutdown(stop.cancelled_owned());
    tokio::select! {
        ended = async { serving.await } => ended,
        () = async { over.cancelled().await; sleep(limits.drain).await } => Ok(()),
    }
}

/// Whether a question names this machine by itself. Other sites' names may lead to
/// loopback addresses, too, and their pages could then read what is there.
pub(crate) fn is_of_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = host(headers) else {
        return false;
    };
    let ip = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// The host that the client believes to talk to, without the port.
fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map(|(inside, _)| inside);
    }
    Some(host.split_once(':').map_or(host, |(name, _)| name))
}

struct Bounded {
    listener: TcpListener,
    clients: Clients,
    silence: Duration,
}

impl Listener for Bounded {
    type Io = Client;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Client, SocketAddr) {
        let at = self.listener.local_addr();
        let (place, stream, address) = loop {
            let next = self.clients.next(|| self.listener.accept()).await;
            let Some((place, (stream, address))) = next else {
                // Nobody takes the places away.
                return pending().await;
            };
            if !at.as_ref().is_ok_and(|at| is_from_afar(*at, address)) {
                break (place, stream, address);
            }
        };
        let client = Client {
            stream,
            silence: self.silence,
            patience: Box::pin(sleep(self.silence)),
            asks: false,
            _place: place,
        };
        (client, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing has passed it for long, or a question that comes
/// bit by bit.
struct Client {
    stream: TcpStream,
    silence: Duration,
    patience: Pin<Box<Sleep>>,
    /// Whether something came since it was last told something.
    asks: bool,
    _place: OwnedSemaphorePermit,
}

impl Client {
    fn is_alive(&mut self) {
        let until = Instant::now() + self.silence;
        self.patience.as_mut().reset(until);
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            if !self.asks {
                self.asks = true;
                self.is_alive();
            }
            return Poll::Ready(read);
        }
        ready!(self.patience.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, buf) {
            self.asks = false;
            self.is_alive();
            return Poll::Ready(written);
        }
        ready!(self.patience.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderValue;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Served {
        address: SocketAddr,
        stop: CancellationToken,
        serving: JoinHandle<io::Result<()>>,
    }

    impl Served {
        async fn start(limits: Limits) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let pages = Router::new().route("/", get(|| async { "a page" }));
            let stop = CancellationToken::new();
            let serving = tokio::spawn(serve_within(limits, listener, pages, stop.clone()));
            Self {
                address,
                stop,
                serving,
            }
        }

        async fn client(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        /// Asks by a new connection, which is ended with the answer.
        async fn ask(&self) -> String {
            let mut client = self.client().await;
            let question = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            client.write_all(question.as_bytes()).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn who_is_silent_makes_room_for_others() {
        let served = Served::start(Limits {
            clients: 2,
            silence: Duration::from_millis(300),
            ..LIMITS
        })
        .await;
        let mut silent = [served.client().await, served.client().await];
        silent[1].write_all(b"GET / HT").await.unwrap();
        let answer = timeout(PATIENCE, served.ask()).await.unwrap();
        assert!(answer.ends_with("a page"), "{answer}");
        for client in &mut silent {
            let mut rest = Vec::new();
            let ended = timeout(PATIENCE, client.read_to_end(&mut rest)).await;
            assert!(ended.is_ok(), "it goes on");
        }
    }

    #[tokio::test]
    async fn who_asks_without_an_end_makes_room_for_others() {
        let served = Served::start(Limits {
            clients: 1,
            silence: Duration::from_millis(300),
            ..LIMITS
        })
        .await;
        let mut trickles = served.client().await;
        let asking = tokio::spawn(async move {
            let mut part: &[u8] = b"GET / HTTP/1.1\r\nHost: a";
            while trickles.write_all(part).await.is_ok() {
                part = b"a";
                sleep(Duration::from_millis(50)).await;
            }
        });
        let answer = timeout(PATIENCE, served.ask()).await;
        assert!(answer.is_ok_and(|answer| answer.ends_with("a page")));
        timeout(PATIENCE, asking).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_asks_again_and_again_is_answered() {
        let served = Served::start(Limits {
            silence: Duration::from_millis(600),
            ..LIMITS
        })
        .await;
        let mut client = served.client().await;
        let begun = Instant::now();
        // For longer than it may be silent.
        while begun.elapsed() < Duration::from_secs(1) {
            let question = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
            client.write_all(question).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"a page") {
                let read = timeout(PATIENCE, client.read_buf(&mut answer)).await;
                assert_ne!(read.unwrap().unwrap(), 0, "it was cut off");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    #[tokio::test]
    async fn there_is_room_for_so_many() {
        let served = Served::start(Limits {
            clients: 2,
            ..LIMITS
        })
        .await;
        let first = served.client().await;
        let _second = served.client().await;
        let mut asked = Box::pin(served.ask());
        let early = timeout(Duration::from_millis(200), &mut asked).await;
        assert!(early.is_err(), "{early:?}");
        drop(first);
        let answer = timeout(PATIENCE, asked).await.unwrap();
        assert!(answer.ends_with("a page"), "{answer}");
    }

    #[tokio::test]
    async fn who_asks_half_a_question_does_not_hold_up_the_end() {
        let served = Served::start(Limits {
            drain: Duration::from_millis(100),
            ..LIMITS
        })
        .await;
        let mut client = served.client().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        assert!(served.ask().await.ends_with("a page"));
        served.stop.cancel();
        let ended = timeout(PATIENCE, served.serving).await;
        ended.unwrap().unwrap().unwrap();
    }

    #[test]
    fn names_of_others_are_not_this_machine() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(text));
            is_of_this_machine(&headers)
        };
        for good in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8081",
            "127.8.8.8",
            "[::1]",
            "[::1]:1",
        ] {
            assert!(of(good), "{good}");
        }
        for bad in [
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com:80",
            "10.0.0.1",
            "[::2]:1",
            "::1",
            "",
            "[::1",
        ] {
            assert!(!of(bad), "{bad}");
        }
        assert!(!is_of_this_machine(&HeaderMap::new()));
    }
}
