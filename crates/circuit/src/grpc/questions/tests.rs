//! Connections as a client of the library meets them: one that says it is CoreDNS'.

use circuit_api::coredns::{DnsPacket, dns_service_client::DnsServiceClient};
use hyper_util::rt::TokioIo;
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::super::drive;
use super::super::front::Front;
use super::super::packets::tests::Backwards;
use tokio_util::task::TaskTracker;

use super::*;

/// A server and its clients, of this user agent.
struct Server {
    front: Front,
    stop: CancellationToken,
    serving: TaskTracker,
}

impl Server {
    fn new() -> Self {
        let mut routes = tonic::service::Routes::builder();
        let (reporter, health) = tonic_health::server::health_reporter();
        drop(reporter);
        routes.add_service(health);
        Self {
            front: Front::new(routes.routes(), Arc::new(Backwards)),
            stop: CancellationToken::new(),
            serving: TaskTracker::new(),
        }
    }

    fn open(&self) -> DuplexStream {
        let (client, stream) = duplex(100_000);
        let served = drive::serve(stream, self.front.clone(), self.stop.clone());
        self.serving.spawn(served);
        client
    }

    async fn client(&self, agent: &str) -> Channel {
        let stream = self.open();
        let mut stream = Some(stream);
        let endpoint = Endpoint::from_static("http://circuit")
            .user_agent(agent)
            .unwrap();
        let connect = tower::service_fn(move |_| {
            let stream = stream.take().map(TokioIo::new);
            std::future::ready(stream.ok_or(io::Error::from(io::ErrorKind::NotConnected)))
        });
        endpoint.connect_with_connector(connect).await.unwrap()
    }
}

const LIBRARY: &str = "grpc-go/1.79.1";

async fn ask(channel: &Channel, msg: &[u8]) -> std::result::Result<Vec<u8>, tonic::Status> {
    let mut client = DnsServiceClient::new(channel.clone());
    let asked = DnsPacket { msg: msg.to_vec() };
    client
        .query(asked)
        .await
        .map(|answer| answer.into_inner().msg)
}

#[tokio::test]
async fn a_client_of_the_library_is_answered_as_every_other() {
    let server = Server::new();
    for agent in [LIBRARY, "another"] {
        let channel = server.client(agent).await;
        assert_eq!(ask(&channel, b"abc").await.unwrap(), b"cba");
        let refused = ask(&channel, b"").await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.message(), "that is no question of dns");
        // More than a frame has, and at last more than a stream has room for.
        for length in [16_384, 65_535] {
            let long: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8).collect();
            let backwards: Vec<u8> = long.iter().rev().copied().collect();
            assert!(ask(&channel, &long).await.unwrap() == backwards);
        }
        let too_long = ask(&channel, &[7; 65_536]).await.unwrap_err();
        assert_eq!(too_long.code(), Code::ResourceExhausted, "{too_long}");
        // Many at once, for longer than a window lasts.
        let mut asking = JoinSet::new();
        for at in 0..500u32 {
            let channel = channel.clone();
            asking.spawn(async move {
                let msg = [&at.to_be_bytes()[..], &[7; 5000]].concat();
                let backwards: Vec<u8> = msg.iter().rev().copied().collect();
                assert!(ask(&channel, &msg).await.unwrap() == backwards, "{at}");
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked.unwrap();
        }
    }
}

async fn health(channel: &Channel) -> std::result::Result<(), tonic::Status> {
    let mut client = HealthClient::new(channel.clone());
    let asked = client.check(HealthCheckRequest::default()).await;
    asked.map(drop)
}

/// A client that asks for other things besides has connections which are there, and one
/// that it opens upon the refusal, before the first one has ended: all serve it.
#[tokio::test]
async fn other_calls_are_answered_by_every_other_connection() {
    let server = Server::new();
    let (first, there) = (server.client(LIBRARY).await, server.client(LIBRARY).await);
    let idle = server.client(LIBRARY).await;
    for channel in [&first, &there] {
        ask(channel, b"abc").await.unwrap();
    }
    // This library does not ask again by itself, as the one of CoreDNS does.
    health(&first).await.unwrap_err();
    for channel in [
        idle,
        server.client(LIBRARY).await,
        server.client(LIBRARY).await,
    ] {
        for _ in 0..2 {
            ask(&channel, b"abc").await.unwrap();
            health(&channel).await.unwrap();
        }
    }
    // One of questions was told to end: nobody asks for other things there.
    ask(&there, b"abc").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn the_others_are_told_before_the_one_that_asked_for_more() {
    let server = Server::new();
    let mut raw = server.open();
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let call = |out: &mut Vec<u8>, stream, path: &str| {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let agent = [&[0x0f, 43][..], &text(LIBRARY)].concat();
        let block = [vec![4], text(path), agent].concat();
        let flags = frame::flag::END_HEADERS;
        frame::whole(out, frame::kind::HEADERS, flags, stream, &block);
    };
    frame::whole(&mut frames, frame::kind::SETTINGS, 0, 0, &[]);
    call(&mut frames, 1, PATH);
    // Its first question is not whole yet: the connection stays for it.
    call(&mut frames, 3, "/health");
    let other = server.client(LIBRARY).await;
    ask(&other, b"abc").await.unwrap();
    let watched = server.front.watches().unwrap();
    raw.write_all(&frames).await.unwrap();
    watched.cancelled().await;
    assert!(server.front.watches().is_none());
    let told = Instant::now();
    let mut came = Vec::new();
    let goodbye = [0, 0, 8, frame::kind::GOAWAY, 0];
    while !came.windows(5).any(|bytes| bytes == goodbye) {
        raw.read_buf(&mut came).await.unwrap();
    }
    assert!(told.elapsed() >= BEFORE);
    ask(&other, b"abc").await.unwrap_err();
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(server.front.watches().is_some());
}

#[tokio::test]
async fn an_end_of_the_server_ends_it() {
    let server = Server::new();
    let (quiet, asking) = (server.client(LIBRARY).await, server.client(LIBRARY).await);
    ask(&asking, b"abc").await.unwrap();
    server.stop.cancel();
    server.serving.close();
    let ended = timeout(Duration::from_secs(10), server.serving.wait()).await;
    ended.unwrap();
    for channel in [quiet, asking] {
        ask(&channel, b"abc").await.unwrap_err();
    }
}

/// Serves a connection that was taken, of which nothing has come.
async fn serve_alone(stream: DuplexStream) -> io::Result<()> {
    let taken = Taken {
        stream,
        peer: peer::Peer::default(),
        rest: BytesMut::new(),
    };
    serve(taken, &Server::new().front, Default::default()).await
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_asked_for_a_sign_of_life() {
    let (mut client, stream) = duplex(1000);
    let serving = tokio::spawn(serve_alone(stream));
    let mut ping = [0; frame::HEAD + 8];
    for _ in 0..3 {
        client.read_exact(&mut ping).await.unwrap();
        let frame = frame::Frame::read(&ping).unwrap().unwrap();
        assert_eq!((frame.kind, frame.flags), (frame::kind::PING, 0));
        ping[4] = frame::flag::ACK;
        client.write_all(&ping).await.unwrap();
    }
    let start = Instant::now();
    client.read_exact(&mut ping).await.unwrap();
    let ended = timeout(KEEPALIVE * 5, serving).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(start.elapsed() >= KEEPALIVE);
}

#[tokio::test(start_paused = true)]
async fn one_that_reads_nothing_is_not_kept() {
    let (mut client, stream) = duplex(10);
    let serving = tokio::spawn(serve_alone(stream));
    let mut ping = Vec::new();
    frame::whole(&mut ping, frame::kind::PING, 0, 0, &[0; 8]);
    let ended = timeout(KEEPALIVE * 5, async {
        while client.write_all(&ping).await.is_ok() {}
        serving.await.unwrap()
    });
    let ended = ended.await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
}
