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
mod tests;
