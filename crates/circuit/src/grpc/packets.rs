//! `coredns.dns.DnsService/Query` without the general machinery of services: one
//! message in, one message out, as the protocol of gRPC over HTTP/2 has them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes};
use circuit_api::coredns::DnsPacket;
use circuit_core::Error;
use circuit_core::service::Names;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;

use super::status::status;

/// The flag and the length before a message.
const PREFIX: usize = 5;
/// The longest body: a DNS message of 65,535 bytes, with its tag and length.
pub(super) const LONGEST: usize = PREFIX + 65_535 + 4;

/// The body of an answer.
pub(super) enum Reply {
    /// Of a service.
    Routed(Body),
    /// One message, and what is still to be sent of it.
    Packet(Rest),
}

/// What is still to be sent.
pub(super) enum Rest {
    /// The message and the status.
    Message(Bytes),
    /// The status, which says that it went well.
    Status,
    Nothing,
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let rest = match self.get_mut() {
            Self::Routed(body) => return Pin::new(body).poll_frame(cx),
            Self::Packet(rest) => rest,
        };
        let (frame, next) = match std::mem::replace(rest, Rest::Nothing) {
            Rest::Message(message) => (Some(Ok(Frame::data(message))), Rest::Status),
            Rest::Status => (Some(Ok(Frame::trailers(went_well()))), Rest::Nothing),
            Rest::Nothing => (None, Rest::Nothing),
        };
        *rest = next;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Routed(body) => body.is_end_stream(),
            Self::Packet(rest) => matches!(rest, Rest::Nothing),
        }
    }
}

fn went_well() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

/// Answers one call.
pub(super) async fn answer<B>(names: &dyn Names, request: Request<B>) -> Response<Reply>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut out = Vec::new();
    let replied = match whole(request.into_body()).await {
        Ok(body) => reply(names, &body, &mut out),
        Err(refused) => Err(refused),
    };
    match replied {
        Ok(()) => {
            let mut response = Response::new(Reply::Packet(Rest::Message(out.into())));
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(refused) => refused.into_http().map(Reply::Routed),
    }
}

/// The whole body of a call.
async fn whole<B>(mut body: B) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut whole = Bytes::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| Status::cancelled(format!("the call broke: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + data.len() > LONGEST {
            return Err(too_long());
        }
        // Nearly always there is one piece.
        whole = match whole.is_empty() {
            true => data,
            false => [whole, data].concat().into(),
        };
    }
    Ok(whole)
}

/// What is said of a body that is longer than [`LONGEST`].
pub(super) fn too_long() -> Status {
    Status::resource_exhausted(format!("a message has more than {LONGEST} bytes"))
}

/// Answers the body of a call: writes that of the answer behind what is in `out`.
///
/// # Errors
/// When there is no answer; nothing is written then.
pub(super) fn reply(names: &dyn Names, body: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
    let none = || Status::internal("the call has no message");
    let (prefix, message) = body.split_first_chunk::<PREFIX>().ok_or_else(none)?;
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(Status::unimplemented(
            "messages of dns are taken uncompressed",
        ));
    }
    if usize::try_from(u32::from_be_bytes(length)) != Ok(message.len()) {
        return Err(Status::internal("the call has not one whole message"));
    }
    let wrong = |error| Status::internal(format!("the message is broken: {error}"));
    let question = DnsPacket::decode(message).map_err(wrong)?;
    let answer = names.message(&question.msg);
    let msg = answer.ok_or_else(|| status(&Error::invalid("that is no question of dns")))?;
    let answer = DnsPacket { msg };
    let length = answer.encoded_len();
    out.reserve(PREFIX + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is always room: the buffer grows.
    let _ = answer.encode(out);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http_body::Body as _;

    use circuit_core::Result;
    use circuit_core::service::{NameAnswer, NameRecord};
    use tonic::Code;

    use super::*;

    /// Answers every message with itself, backwards; an empty one is no question.
    pub(in crate::grpc) struct Backwards;

    #[async_trait::async_trait]
    impl Names for Backwards {
        async fn query(&self, _: &str, _: &str) -> Result<NameAnswer> {
            Err(Error::invalid("not asked here"))
        }
        fn list(&self) -> Vec<NameRecord> {
            Vec::new()
        }
        fn message(&self, message: &[u8]) -> Option<Vec<u8>> {
            let backwards: Vec<u8> = message.iter().rev().copied().collect();
            Some(backwards).filter(|answer| !answer.is_empty())
        }
    }

    /// A body in pieces.
    struct Pieces(VecDeque<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    /// The answer to a body: the code of its status, its text, its message.
    async fn call(pieces: &[&[u8]]) -> (Code, String, Vec<u8>) {
        let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece));
        let request = Request::new(Pieces(pieces.collect()));
        let response = answer(&Backwards, request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let (head, mut body) = response.into_parts();
        let (mut sent, mut trailers) = (Vec::new(), head.headers);
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            match frame.unwrap().into_data() {
                Ok(data) => sent.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            }
        }
        assert!(body.is_end_stream());
        let status = Status::from_header_map(&trailers).unwrap();
        (status.code(), status.message().to_owned(), sent)
    }

    /// A message with what comes before it on the wire.
    fn framed(flag: u8, length: usize, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(length).unwrap().to_be_bytes();
        [&[flag], &length[..], message].concat()
    }

    fn packet(msg: &[u8]) -> Vec<u8> {
        let msg = msg.to_vec();
        DnsPacket { msg }.encode_to_vec()
    }

    #[tokio::test]
    async fn a_message_is_answered_in_however_many_pieces_it_comes() {
        let message = packet(b"question");
        let whole = framed(0, message.len(), &message);
        let answer = packet(b"noitseuq");
        let want = (Code::Ok, String::new(), framed(0, answer.len(), &answer));
        assert_eq!(call(&[&whole]).await, want);
        for at in 0..whole.len() {
            let (first, rest) = whole.split_at(at);
            assert_eq!(call(&[first, rest]).await, want, "{at}");
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(call(&bytes).await, want);
    }

    #[tokio::test]
    async fn the_longest_message_is_answered() {
        let message = packet(&[7; 65_535]);
        let (code, _, sent) = call(&[&framed(0, message.len(), &message)]).await;
        assert_eq!((code, sent.len()), (Code::Ok, PREFIX + message.len()));
    }

    #[tokio::test]
    async fn what_is_no_question_is_refused() {
        let message = packet(b"question");
        let length = message.len();
        let long = packet(&[7; 70_000]);
        for (body, code, text) in [
            (vec![], Code::Internal, "no message"),
            (vec![0; 4], Code::Internal, "no message"),
            (
                framed(1, length, &message),
                Code::Unimplemented,
                "uncompressed",
            ),
            (framed(0, length + 1, &message), Code::Internal, "one whole"),
            (framed(0, length - 1, &message), Code::Internal, "one whole"),
            (framed(0, 2, &[0xff, 0xff]), Code::Internal, "broken"),
            (
                framed(0, 0, &[]),
                Code::InvalidArgument,
                "no question of dns",
            ),
            (
                framed(0, long.len(), &long),
                Code::ResourceExhausted,
                "more than",
            ),
        ] {
            let (told, said, sent) = call(&[&body]).await;
            assert_eq!(told, code, "{body:?}");
            assert!(said.contains(text), "{said}");
            assert_eq!(sent, b"");
        }
    }
}
