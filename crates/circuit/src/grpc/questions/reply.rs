//! What an answer is in frames beside its message: heads in the compression of HTTP/2
//! (HPACK, RFC 7541).

use tonic::Status;
use tonic::body::Body;

use super::frame::{self, flag, kind};

/// The two heads of every answer, which the client's table has after the first.
#[derive(Default)]
pub(super) struct Packed {
    table: Table,
    kind: bool,
    status: bool,
}

/// The client's table for heads.
#[derive(Default, PartialEq, Eq)]
enum Table {
    #[default]
    Kept,
    /// Not any more, of which the next head has to tell.
    GivenUp,
    /// Nothing is added to it, nor is in it.
    Empty,
}

/// `:status: 200`, from the table that is always there.
const STATUS_200: u8 = 0x88;
/// `content-type: application/grpc` and `grpc-status: 0` after the byte that says
/// whether they are added to the table.
const KIND: &[u8] = b"\x10application/grpc";
const STATUS: &[u8] = b"\x0bgrpc-status\x010";

impl Packed {
    /// The client has no room for the table any more.
    pub(super) fn give_up_table(&mut self) {
        if self.table == Table::Kept {
            self.table = Table::GivenUp;
        }
    }

    /// The head before an answer.
    pub(super) fn begin(&mut self, out: &mut Vec<u8>, stream: u32) {
        let flags = flag::END_HEADERS;
        if self.table != Table::Kept {
            let mut head = self.start();
            head.extend_from_slice(b"\x88\x0f\x10");
            head.extend_from_slice(KIND);
            return frame::whole(out, kind::HEADERS, flags, stream, &head);
        }
        if self.kind {
            let head = [STATUS_200, if self.status { 0xbf } else { 0xbe }];
            return frame::whole(out, kind::HEADERS, flags, stream, &head);
        }
        self.kind = true;
        let head = [b"\x88\x5f", KIND].concat();
        frame::whole(out, kind::HEADERS, flags, stream, &head);
    }

    /// The head after it.
    pub(super) fn end(&mut self, out: &mut Vec<u8>, stream: u32) {
        let flags = flag::END_HEADERS | flag::END_STREAM;
        if self.table != Table::Kept {
            let mut head = self.start();
            head.push(0);
            head.extend_from_slice(STATUS);
            return frame::whole(out, kind::HEADERS, flags, stream, &head);
        }
        if self.status {
            return frame::whole(out, kind::HEADERS, flags, stream, b"\xbe");
        }
        self.status = true;
        frame::whole(
            out,
            kind::HEADERS,
            flags,
            stream,
            &[b"\x40", STATUS].concat(),
        );
    }

    /// Answers with a status alone, in a head that adds nothing to the table.
    pub(super) fn refuse(&mut self, out: &mut Vec<u8>, stream: u32, refused: Status) {
        let response = refused.into_http::<Body>();
        let mut block = self.start();
        block.push(STATUS_200);
        for (name, value) in response.headers() {
            block.push(0);
            text(&mut block, name.as_str().as_bytes());
            text(&mut block, value.as_bytes());
        }
        let flags = flag::END_HEADERS | flag::END_STREAM;
        frame::whole(out, kind::HEADERS, flags, stream, &block);
    }

    /// What a head begins with: that the table is empty, when that is to be told
    /// (RFC 7541, section 4.2).
    fn start(&mut self) -> Vec<u8> {
        match self.table {
            Table::GivenUp => {
                self.table = Table::Empty;
                vec![0x20]
            }
            Table::Kept | Table::Empty => Vec::new(),
        }
    }
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
