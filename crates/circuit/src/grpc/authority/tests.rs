//! What is changed on the socket, and what is not.

use std::collections::VecDeque;
use std::task::Waker;

use proptest::prelude::*;
use tonic::codegen::http::uri::Authority;

use super::*;

const SENT: &[u8] = b"run%2Fcircuit%2Fcircuit.sock";
const TAKEN: &[u8] = b"run-2Fcircuit-2Fcircuit.sock";

/// A client that sends these chunks, with a pause before each, and goes.
struct Chunks(VecDeque<Vec<u8>>, bool);

impl AsyncRead for Chunks {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.1 = !self.1;
        if self.1 {
            return Poll::Pending;
        }
        if let Some(mut chunk) = self.0.pop_front() {
            let rest = chunk.split_off(chunk.len().min(buf.remaining()));
            buf.put_slice(&chunk);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What h2 reads, `space` bytes at a time, of what a client sends.
fn read(chunks: Vec<Vec<u8>>, space: usize) -> Vec<u8> {
    let chunks = chunks.into_iter().filter(|c| !c.is_empty()).collect();
    let mut readable = Readable::new(Chunks(chunks, false));
    let mut cx = Context::from_waker(Waker::noop());
    let (mut all, mut space) = (Vec::new(), vec![0; space]);
    loop {
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(&mut readable).poll_read(&mut cx, &mut buf) {
            Poll::Pending => {}
            Poll::Ready(result) => {
                result.unwrap();
                if buf.filled().is_empty() {
                    return all;
                }
                all.extend_from_slice(buf.filled());
            }
        }
    }
}

fn cut(mut bytes: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    for length in lengths {
        let (chunk, rest) = bytes.split_at(bytes.len().min(*length));
        chunks.push(chunk.to_vec());
        bytes = rest;
    }
    chunks.push(bytes.to_vec());
    chunks
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    [&head, payload].concat()
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE.to_vec(), frames.concat()].concat()
}

fn string(value: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    if value.len() < 0x7f {
        coded.push(u8::try_from(value.len()).unwrap());
    } else {
        let rest = value.len() - 0x7f;
        coded.extend([
            0x7f,
            u8::try_from(rest % 128).unwrap() | 0x80,
            u8::try_from(rest / 128).unwrap(),
        ]);
    }
    coded.extend_from_slice(value);
    coded
}

/// What Python's grpcio 1.85.1 sends, with this authority.
fn grpc_core(authority: &[u8]) -> Vec<u8> {
    [
        b"\x40\x05:path\x06/a.B/C\x40\x0a:authority".to_vec(),
        string(authority),
        b"\x83\x86\x40\x0ccontent-type\x10application/grpc\x40\x02te\x08trailers".to_vec(),
        b"\x40\x14grpc-accept-encoding\x17identity, deflate, gzip".to_vec(),
        b"\x40\x0cgrpc-timeout\x021S\x00\x01k\x03v%/".to_vec(),
    ]
    .concat()
}

fn rewritten(fields: &[u8]) -> Vec<u8> {
    let mut fields = fields.to_vec();
    rewrite(&mut fields, END_HEADERS);
    fields
}

/// One request between other frames, whose payload looks like a request.
fn conversation(authority: &[u8]) -> Vec<u8> {
    let fields = grpc_core(SENT);
    connection(&[
        frame(4, 0, &[0, 2, 0, 0, 0, 0]),
        frame(8, 0, &[0, 0x3f, 0, 1]),
        frame(4, 1, &[]),
        frame(HEADERS, END_HEADERS, &grpc_core(authority)),
        frame(0, END_HEADERS, &fields),
        frame(HEADERS, END_HEADERS, &[]),
        frame(9, END_HEADERS, &fields),
        frame(HEADERS, 0, &fields),
        frame(HEADERS, END_HEADERS | 1, &[0xc4, 0xc3, 0x83]),
        frame(HEADERS, END_HEADERS, &grpc_core(authority)),
    ])
}

#[test]
fn h2_takes_the_authority_of_a_socket() {
    assert!(Authority::try_from(SENT).is_err());
    assert!(Authority::try_from(TAKEN).is_ok());
    assert_eq!(rewritten(&grpc_core(SENT)), grpc_core(TAKEN));
    assert_eq!(
        rewritten(&grpc_core(b"/a?b#c d\xff")).len(),
        grpc_core(b"12345678").len() + 1
    );
    assert_eq!(
        rewritten(&grpc_core(b"/a?b#c d\xff")),
        grpc_core(b"-a-b-c-d-")
    );
    for fine in [
        &b"localhost"[..],
        b"[::1]:80",
        b"u:p@a-b.c_d~e",
        b"!$&'()*+,;=",
        b"",
    ] {
        assert_eq!(rewritten(&grpc_core(fine)), grpc_core(fine));
    }
}

#[test]
fn every_byte_boundary() {
    let (sent, taken) = (conversation(SENT), conversation(TAKEN));
    for space in [1, 2, 7, 64, 1 << 16] {
        assert_eq!(read(vec![sent.clone()], space), taken);
        assert_eq!(read(cut(&sent, &vec![1; sent.len()]), space), taken);
        for at in 0..=sent.len() {
            assert_eq!(read(cut(&sent, &[at]), space), taken, "cut at {at}");
        }
    }
}

#[test]
fn the_end_at_every_byte() {
    let sent = connection(&[frame(HEADERS, END_HEADERS, &grpc_core(SENT))]);
    for at in 0..sent.len() {
        assert_eq!(read(vec![sent[..at].to_vec()], 50), &sent[..at]);
        assert_eq!(read(cut(&sent[..at], &[at / 2]), 50), &sent[..at]);
    }
}

#[test]
fn every_representation() {
    for (name, changes) in [
        (&b"\x41"[..], true),          // Indexed name: to be indexed,
        (b"\x01", true),               // not to be,
        (b"\x11", true),               // never.
        (b"\x40\x0a:authority", true), // Literal name.
        (b"\x00\x0a:authority", true),
        (b"\x10\x0a:authority", true),
        (b"\x44", false), // Other names.
        (b"\x04", false),
        (b"\x14", false),
        (b"\x7f\x01", false),
        (b"\x0f\x80\x01", false),
        (b"\x1f\x00", false),
        (b"\x40\x05:path", false),
        (b"\x40\x8a:authority", false), // Huffman coded.
    ] {
        // Between indexed fields and sizes of the table, short and long.
        let block = |value: &[u8]| {
            [
                b"\x20\x3f\xe1\x1f\x82\xff\x80\x01",
                name,
                value,
                b"\x86\x84",
            ]
            .concat()
        };
        for (sent, taken) in [
            (SENT, TAKEN),
            (&[b'/'; 127], &[b'-'; 127]),
            (&[b'%'; 500], &[b'-'; 500]),
        ] {
            let wanted = if changes { taken } else { sent };
            assert_eq!(
                rewritten(&block(&string(sent))),
                block(&string(wanted)),
                "{name:?}"
            );
        }
    }
    let huffman = b"\x41\x83%/%".to_vec();
    assert_eq!(rewritten(&huffman), huffman);
}

#[test]
fn padding_and_priority() {
    for (flags, before) in [
        (PADDED, &b"\x07"[..]),
        (PRIORITY, b"\0\0\0\0\x10"),
        (PADDED | PRIORITY, b"\x07\x80\0\0\0\x10"),
    ] {
        let after = if flags & PADDED != 0 {
            &b"\x41\x02%%\0\0\0"[..]
        } else {
            b""
        };
        let block = |value| [before, &grpc_core(value), after].concat();
        let whole = |value| connection(&[frame(HEADERS, flags | END_HEADERS, &block(value))]);
        assert_eq!(read(vec![whole(SENT)], 4096), whole(TAKEN));
        assert_eq!(read(cut(&whole(SENT), &[60]), 4096), whole(TAKEN));
    }
}

#[test]
fn what_is_malformed_passes() {
    let fields = grpc_core(SENT);
    let with = |more: &[u8]| [&fields, more].concat();
    for block in [
        with(b"\x80"),                         // Index 0.
        with(b"\xff\xff\xff\xff\xff\xff\x01"), // An endless integer.
        with(b"\xff\x80"),                     // An integer cut off.
        with(b"\x41"),                         // No value.
        with(b"\x41\x05%%"),                   // A value cut off.
        with(b"\x41\x7f\xff\xff\xff\x7f"),     // A value of 256 MiB.
        with(b"\x40\x0a:auth"),                // A name cut off.
        with(b"\x41\x02%%"),                   // A second authority.
    ] {
        assert_eq!(rewritten(&block), block);
    }
    for (flags, payload) in [(PADDED, &b"\xff\x41\x02%%"[..]), (PRIORITY, b"\x41\x02%%")] {
        let mut block = payload.to_vec();
        rewrite(&mut block, flags);
        assert_eq!(block, payload);
    }
    let mut http1 = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    http1.extend(frame(HEADERS, END_HEADERS, &fields));
    assert_eq!(read(vec![http1.clone()], 10), http1);
}

#[test]
fn only_frames_of_usual_size_are_held() {
    let sized = |more: usize, value| {
        let fill = string(&vec![b'%'; MAX_FRAME - 200 + more]);
        let block = [&grpc_core(value), &b"\x00\x01k"[..], &fill].concat();
        (
            block.len(),
            connection(&[frame(HEADERS, END_HEADERS, &block)]),
        )
    };
    let most = 200 - (sized(0, SENT).0 - (MAX_FRAME - 200));
    for (more, wanted) in [(most, TAKEN), (most + 1, SENT)] {
        let (length, sent) = sized(more, SENT);
        assert_eq!(length, MAX_FRAME - most + more);
        assert_eq!(read(cut(&sent, &[100, 9000]), 4096), sized(more, wanted).1);
    }
}

/// A frame as a client sends it, and as h2 shall read it.
fn frames() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let name = prop::sample::select(vec![&b"\x41"[..], b"\x01", b"\x10\x0a:authority"]);
    let request = (name, "[a-z/%.-]{0,200}").prop_map(|(name, value)| {
        let block =
            |value: &str| [b"\x82", name, &string(value.as_bytes()), b"\x04\x02/%"].concat();
        let taken = value.replace(['/', '%'], "-");
        let whole = |value| frame(HEADERS, END_HEADERS, &block(value));
        (whole(&value), whole(&taken))
    });
    let other = (
        any::<u8>(),
        any::<u8>(),
        prop::collection::vec(any::<u8>(), 0..300),
    );
    let other = other.prop_map(|(kind, flags, payload)| {
        let kind = if kind == HEADERS { 0 } else { kind };
        (frame(kind, flags, &payload), frame(kind, flags, &payload))
    });
    prop_oneof![request, other]
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..100_usize, 0..60)
}

proptest! {
    #[test]
    fn authorities_change_and_nothing_else(
        frames in prop::collection::vec(frames(), 0..8), lengths in lengths(), space in 1..300_usize,
    ) {
        let (sent, taken): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
        let came = read(cut(&connection(&sent), &lengths), space);
        prop_assert_eq!(came, connection(&taken));
    }

    #[test]
    fn any_bytes_keep_their_length(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        (kind, flags) in prop_oneof![Just((HEADERS, END_HEADERS)), any::<(u8, u8)>()],
        preface in any::<bool>(), lengths in lengths(), space in 1..300_usize,
    ) {
        let sent = if preface {
            connection(&[frame(kind, flags, &bytes), bytes.clone()])
        } else {
            bytes
        };
        let came = read(cut(&sent, &lengths), space);
        prop_assert_eq!(came.len(), sent.len());
        prop_assert_eq!(&came, &read(vec![sent.clone()], 1 << 16));
        for (came, sent) in came.iter().zip(&sent) {
            prop_assert!(came == sent || preface && *came == b'-' && !allowed(*sent));
        }
    }

    #[test]
    fn any_header_block_is_read(mut block in prop::collection::vec(any::<u8>(), 0..200), flags: u8) {
        let sent = block.clone();
        rewrite(&mut block, flags);
        prop_assert_eq!(block.len(), sent.len());
    }
}
