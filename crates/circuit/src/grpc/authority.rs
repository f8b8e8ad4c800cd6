//! Makes the authority of requests on a Unix socket one that h2 takes.
//!
//! Clients built on grpc-core (Python, C++, Ruby, PHP) name the socket's path
//! there: `:authority: run%2Fcircuit%2Fcircuit.sock`. h2 refuses that as
//! malformed, with a reset of the stream before tonic sees the request, and has
//! no setting for it. So [`Readable`] puts `-` in place of each byte that no
//! authority has. Lengths stay, and with them the framing and the HPACK tables;
//! later requests refer to the changed value by its index.
//!
//! grpc-core sends the name as a literal, and the value not Huffman coded, in
//! one HEADERS frame. Whatever looks different, or is malformed, passes as it is.

use std::io;
use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const HEADERS: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The default of SETTINGS_MAX_FRAME_SIZE; h2 refuses what is larger.
const MAX_FRAME: usize = 16 * 1024;
const NAME: &[u8] = b":authority";
/// The index of that name in HPACK's static table.
const NAME_INDEX: usize = 1;

/// A connection whose requests have authorities that h2 takes.
pub(super) struct Readable<S> {
    stream: S,
    frames: Frames,
    held: Held,
}

impl<S> Readable<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Frames::Preface { seen: 0 },
            held: Held::default(),
        }
    }
}

/// Where in the client's bytes the next one is.
enum Frames {
    Preface { seen: usize },
    Head { head: [u8; HEAD], seen: usize },
    Payload { left: usize },
    NotHttp2,
}

impl Frames {
    const START: Self = Self::Head {
        head: [0; HEAD],
        seen: 0,
    };

    /// Follows `bytes` and rewrites the header blocks in it. Tells how many of
    /// the bytes are done; the rest begin a header block, now in `held`.
    fn follow(&mut self, bytes: &mut [u8], held: &mut Held) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match self {
                Self::NotHttp2 => return bytes.len(),
                Self::Preface { seen } => {
                    if PREFACE.get(*seen) != rest.first() {
                        *self = Self::NotHttp2;
                        continue;
                    }
                    *seen += 1;
                    at += 1;
                    if *seen == PREFACE.len() {
                        *self = Self::START;
                    }
                }
                Self::Payload { left } => {
                    let count = rest.len().min(*left);
                    *left -= count;
                    at += count;
                    if *left == 0 {
                        *self = Self::START;
                    }
                }
                Self::Head { head, seen } => {
                    let count = rest.len().min(HEAD - *seen);
                    head[*seen..*seen + count].copy_from_slice(&rest[..count]);
                    *seen += count;
                    at += count;
                    if *seen < HEAD {
                        continue;
                    }
                    let (length, flags, block) = meaning(*head);
                    *self = if length == 0 {
                        Self::START
                    } else {
                        Self::Payload { left: length }
                    };
                    if !block {
                        continue;
                    }
                    match rest.get_mut(count..count + length) {
                        Some(payload) => rewrite(payload, flags),
                        None => {
                            // It is all held, so the next byte is a frame's.
                            held.begin(&rest[count..], length, flags);
                            *self = Self::START;
                            return at;
                        }
                    }
                }
            }
        }
        at
    }
}

/// The length and flags of a frame, and whether it is one whole header block.
fn meaning(head: [u8; HEAD]) -> (usize, u8, bool) {
    let [high, middle, low, kind, flags, ..] = head;
    let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    let whole = kind == HEADERS && flags & END_HEADERS != 0;
    (length, flags, whole && (1..=MAX_FRAME).contains(&length))
}

/// A header block that came in pieces.
#[derive(Default)]
struct Held {
    block: Vec<u8>,
    flags: u8,
    /// How much of it came, and how much was passed on.
    came: usize,
    passed: usize,
}

impl Held {
    fn begin(&mut self, start: &[u8], length: usize, flags: u8) {
        let mut block = start.to_vec();
        block.resize(length, 0);
        *self = Self {
            block,
            flags,
            came: start.len(),
            passed: 0,
        };
    }

    /// Whether more of it is to come.
    fn lacks(&self) -> bool {
        self.came < self.block.len()
    }

    fn poll_fill(
        &mut self,
        stream: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut space = ReadBuf::new(&mut self.block[self.came..]);
        ready!(stream.poll_read(cx, &mut space))?;
        let count = space.filled().len();
        self.came += count;
        if count == 0 {
            // The client went: h2 gets what came.
            self.block.truncate(self.came);
        } else if !self.lacks() {
            rewrite(&mut self.block, self.flags);
        }
        Poll::Ready(Ok(()))
    }

    fn pass(&mut self, to: &mut ReadBuf<'_>) {
        let rest = &self.block[self.passed..];
        let count = rest.len().min(to.remaining());
        to.put_slice(&rest[..count]);
        self.passed += count;
        if self.passed == self.block.len() {
            drop(mem::take(self));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Readable<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            while this.held.lacks() {
                ready!(this.held.poll_fill(Pin::new(&mut this.stream), cx))?;
            }
            if !this.held.block.is_empty() {
                this.held.pass(buf);
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let came = &mut buf.filled_mut()[before..];
            let end_of_stream = came.is_empty();
            let done = this.frames.follow(came, &mut this.held);
            buf.set_filled(before + done);
            // Nothing read would mean the end.
            if done > 0 || end_of_stream {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Readable<S> {
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

/// Rewrites the authority in the payload of a HEADERS frame.
fn rewrite(payload: &mut [u8], flags: u8) {
    let Some(fields) = fragment(payload, flags) else {
        return;
    };
    let Some(fields) = payload.get_mut(fields) else {
        return;
    };
    let Some(value) = authority(fields) else {
        return;
    };
    for byte in &mut fields[value] {
        if !allowed(*byte) {
            *byte = b'-';
        }
    }
}

/// RFC 3986's authority, but for `%`, which is no part of a host to h2.
fn allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@[]".contains(&byte)
}

/// Where in the payload of a HEADERS frame its fields are.
fn fragment(payload: &[u8], flags: u8) -> Option<Range<usize>> {
    let (mut start, mut end) = (0, payload.len());
    if flags & PADDED != 0 {
        start += 1;
        end = end.checked_sub(usize::from(*payload.first()?))?;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    (start <= end).then_some(start..end)
}

/// Where among the fields the value of the authority is; there is none if they
/// are malformed, or name two.
fn authority(fields: &[u8]) -> Option<Range<usize>> {
    let mut block = Block { fields, at: 0 };
    let mut found = None;
    while block.at < fields.len() {
        if let Some(value) = block.field()?
            && found.replace(value).is_some()
        {
            return None;
        }
    }
    found
}

/// Reads the fields of a header block, RFC 7541 section 6. No table is needed
/// to tell where each ends.
struct Block<'a> {
    fields: &'a [u8],
    at: usize,
}

impl Block<'_> {
    /// Skips one field; tells where the value is if it is a plain authority.
    fn field(&mut self) -> Option<Option<Range<usize>>> {
        let first = *self.fields.get(self.at)?;
        let prefix = match first {
            // Indexed, and never index 0.
            0x80.. => return (self.integer(7)? != 0).then_some(None),
            // Literal, to be indexed.
            0x40..=0x7f => 6,
            // A new size of the table.
            0x20..=0x3f => return self.integer(5).map(|_| None),
            // Literal, not to be indexed, or never.
            0x00..=0x1f => 4,
        };
        let named = match self.integer(prefix)? {
            0 => {
                let (name, huffman) = self.string()?;
                !huffman && self.fields.get(name) == Some(NAME)
            }
            index => index == NAME_INDEX,
        };
        let (value, huffman) = self.string()?;
        Some((named && !huffman).then_some(value))
    }

    /// Skips a string; tells where it is and whether it is Huffman coded.
    fn string(&mut self) -> Option<(Range<usize>, bool)> {
        let huffman = self.fields.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let value = self.at..self.at.checked_add(length)?;
        self.fields.get(value.clone())?;
        self.at = value.end;
        Some((value, huffman))
    }

    /// An integer whose first byte has `prefix` bits of it, 7 at most.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let full = (1_usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & full;
        if value < full {
            return Some(value);
        }
        // No length or index in a frame needs more.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.fields.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
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
}
