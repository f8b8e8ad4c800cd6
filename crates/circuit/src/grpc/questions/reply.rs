//! What an answer is in frames beside its message: heads in the compression of HTTP/2
//! (HPACK, RFC 7541).

use tonic::Status;
use tonic::body::Body;

use super::frame::{self, flag, kind};

/// The two heads of every answer, which the client's table has after the first.
#[derive(Default)]
pub(super) struct Packed {
    kind: bool,
    status: bool,
}

/// `:status: 200`, from the table that is always there.
const STATUS_200: u8 = 0x88;

impl Packed {
    /// The head before an answer.
    pub(super) fn begin(&mut self, out: &mut Vec<u8>, stream: u32) {
        let head = [STATUS_200, if self.status { 0xbf } else { 0xbe }];
        if self.kind {
            return frame::whole(out, kind::HEADERS, flag::END_HEADERS, stream, &head);
        }
        self.kind = true;
        let head = b"\x88\x5f\x10application/grpc";
        frame::whole(out, kind::HEADERS, flag::END_HEADERS, stream, head);
    }

    /// The head after it.
    pub(super) fn end(&mut self, out: &mut Vec<u8>, stream: u32) {
        let flags = flag::END_HEADERS | flag::END_STREAM;
        if self.status {
            return frame::whole(out, kind::HEADERS, flags, stream, b"\xbe");
        }
        self.status = true;
        frame::whole(
            out,
            kind::HEADERS,
            flags,
            stream,
            b"\x40\x0bgrpc-status\x010",
        );
    }
}

/// Answers with a status alone, in a head that adds nothing to the table.
pub(super) fn refuse(out: &mut Vec<u8>, stream: u32, refused: Status) {
    let response = refused.into_http::<Body>();
    let mut block = vec![STATUS_200];
    for (name, value) in response.headers() {
        block.push(0);
        text(&mut block, name.as_str().as_bytes());
        text(&mut block, value.as_bytes());
    }
    let flags = flag::END_HEADERS | flag::END_STREAM;
    frame::whole(out, kind::HEADERS, flags, stream, &block);
}

/// A text as it is, after its length (RFC 7541, sections 5.1 and 5.2).
fn text(out: &mut Vec<u8>, text: &[u8]) {
    // As long as a head may be.
    let text = &text[..text.len().min(4096)];
    let mut length = text.len();
    if length < 0x7f {
        out.push(length as u8);
    } else {
        out.push(0x7f);
        length -= 0x7f;
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
    }
    out.extend_from_slice(text);
}

/// Ends a stream.
pub(super) fn reset(out: &mut Vec<u8>, stream: u32, code: u32) {
    frame::whole(out, kind::RESET, 0, stream, &code.to_be_bytes());
}
