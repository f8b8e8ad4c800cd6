//! One connection on which only questions of CoreDNS come: HTTP/2 (RFC 9113) as far
//! as they need it, without any input or output of its own.

use std::sync::Arc;

use circuit_core::service::Names;

use super::frame::{self, Frame, code, flag, kind};
use super::head::Heads;
use super::peer::{MOST, Peer};
use super::reply::{Packed, reset};
use crate::grpc::drive::{MAX_CALLS, WINDOW};
use crate::grpc::packets;

/// Bytes of data that are taken before the client may send as many more. They are not
/// held back for questions that are long in coming: there are [`MAX_CALLS`] of those,
/// each with less than a stream has room for.
const CREDIT: usize = WINDOW as usize / 4;
/// Bytes to be sent that are enough for once.
const ENOUGH: usize = 1 << 16;

/// Why a connection cannot go on: a code of HTTP/2.
struct Fault(u32);

type Result<T> = std::result::Result<T, Fault>;

/// What is known of a connection between two of its frames.
pub(super) struct Session {
    names: Arc<dyn Names>,
    peer: Peer,
    heads: Heads,
    /// The last stream that was begun.
    last: u32,
    /// Questions that are not whole yet.
    open: Vec<Open>,
    /// Answers that the client has not enough room for, in their order.
    waiting: Vec<Waiting>,
    /// The head that goes on in the next frame.
    begun: Option<Begun>,
    /// Bytes of data that came since the client last got credit.
    came: usize,
    packed: Packed,
    /// The answer that is being written.
    reply: Vec<u8>,
    /// No stream is taken any more.
    leaving: bool,
    mixed: bool,
    over: bool,
}

/// A question that is not whole yet.
struct Open {
    stream: u32,
    body: Vec<u8>,
    /// Bytes of an answer that the client has room for on this stream.
    room: i64,
}

/// What is still to be sent of an answer.
struct Waiting {
    stream: u32,
    reply: Vec<u8>,
    sent: usize,
    room: i64,
}

/// A head that came in pieces.
struct Begun {
    stream: u32,
    ends: bool,
    block: Vec<u8>,
}

impl Session {
    /// Of a client of which so much is known already, before its first stream.
    pub(super) fn new(names: Arc<dyn Names>, peer: Peer) -> Self {
        Self {
            names,
            peer,
            heads: Heads::default(),
            last: 0,
            open: Vec::new(),
            waiting: Vec::new(),
            begun: None,
            came: 0,
            packed: Packed::default(),
            reply: Vec::new(),
            leaving: false,
            mixed: false,
            over: false,
        }
    }

    /// Works on whole frames that `bytes` begin with, until there is enough to be
    /// sent. Returns how many of the bytes are done.
    pub(super) fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut done = 0;
        while !self.over && out.len() < ENOUGH {
            let worked = match Frame::read(&bytes[done..]) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    done += frame.length();
                    self.frame(frame, out)
                }
                Err(frame::TooLong) => Err(Fault(code::FRAME_SIZE_ERROR)),
            };
            if let Err(Fault(code)) = worked {
                self.goodbye(code, out);
                self.over = true;
            }
            self.over |= self.leaving && self.open.is_empty() && self.waiting.is_empty();
        }
        done
    }

    /// Takes no more calls; answers what was begun.
    pub(super) fn leave(&mut self, out: &mut Vec<u8>) {
        if !self.leaving {
            self.goodbye(code::NO_ERROR, out);
            self.over |= self.open.is_empty() && self.waiting.is_empty();
        }
    }

    /// Asks the client for a sign of life.
    pub(super) fn ping(out: &mut Vec<u8>) {
        frame::whole(out, kind::PING, 0, 0, b"circuit?");
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Nothing is to be done any more.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the client asked for something else on this connection.
    pub(super) fn is_mixed(&self) -> bool {
        self.mixed
    }

    fn goodbye(&mut self, code: u32, out: &mut Vec<u8>) {
        self.leaving = true;
        frame::head(out, 8, kind::GOAWAY, 0, 0);
        out.extend_from_slice(&self.last.to_be_bytes());
        out.extend_from_slice(&code.to_be_bytes());
    }

    fn frame(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
        if self.begun.is_some() != (frame.kind == kind::CONTINUATION) {
            return Err(Fault(code::PROTOCOL_ERROR));
        }
        match frame.kind {
            kind::DATA => self.data(frame, out),
            kind::HEADERS | kind::CONTINUATION => self.headers(frame, out),
            kind::RESET => self.reset(frame),
            kind::SETTINGS => self.settings(frame, out),
            kind::PING => ping(frame, out),
            kind::WINDOW_UPDATE => self.window_update(frame, out),
            kind::PUSH_PROMISE => Err(Fault(code::PROTOCOL_ERROR)),
            // What has no meaning here, and what nobody knows yet.
            _ => Ok(()),
        }
    }

    fn headers(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
        let wrong = Fault(code::PROTOCOL_ERROR);
        let Some(mut begun) = self.begun.take() else {
            let content = frame.content().ok_or(wrong)?;
            let ends = frame.has(flag::END_STREAM);
            if frame.has(flag::END_HEADERS) {
                return self.head(frame.stream, ends, content, out);
            }
            self.begun = Some(Begun {
                stream: frame.stream,
                ends,
                block: content.to_vec(),
            });
            return Ok(());
        };
        if frame.stream != begun.stream {
            return Err(wrong);
        }
        // One that comes in many empty pieces is no better than one that is long.
        if frame.payload.is_empty() || begun.block.len() + frame.payload.len() > frame::LONGEST {
            return Err(Fault(code::ENHANCE_YOUR_CALM));
        }
        begun.block.extend_from_slice(frame.payload);
        if frame.has(flag::END_HEADERS) {
            return self.head(begun.stream, begun.ends, &begun.block, out);
        }
        self.begun = Some(begun);
        Ok(())
    }

    fn head(&mut self, stream: u32, ends: bool, block: &[u8], out: &mut Vec<u8>) -> Result<()> {
        // Whatever becomes of the stream, what the head adds to the table counts.
        let head = self.heads.read(block);
        let head = head.map_err(|_| Fault(code::COMPRESSION_ERROR))?;
        if stream.is_multiple_of(2) {
            return Err(Fault(code::PROTOCOL_ERROR));
        }
        if stream <= self.last {
            return self.trailers(stream, ends, out);
        }
        if self.leaving {
            return Ok(());
        }
        if !head.is_question {
            // The client asks again elsewhere, as this stream was not begun.
            self.mixed = true;
            self.goodbye(code::NO_ERROR, out);
            return Ok(());
        }
        self.last = stream;
        let room = self.peer.room_of_stream;
        if self.open.len() + self.waiting.len() >= MAX_CALLS as usize {
            reset(out, stream, code::REFUSED_STREAM);
        } else if ends {
            self.answer(stream, room, &[], out);
        } else {
            self.open.push(Open {
                stream,
                body: Vec::new(),
                room,
            });
        }
        Ok(())
    }

    /// A head on a stream that was begun: the end of its question.
    fn trailers(&mut self, stream: u32, ends: bool, out: &mut Vec<u8>) -> Result<()> {
        if !ends {
            return Err(Fault(code::PROTOCOL_ERROR));
        }
        // None where the stream has ended here: the client did not know yet.
        if let Some(at) = self.place(stream) {
            let open = self.open.swap_remove(at);
            self.answer(stream, open.room, &open.body, out);
        }
        Ok(())
    }

    fn place(&self, stream: u32) -> Option<usize> {
        // The newest is asked for nearly always.
        self.open.iter().rposition(|open| open.stream == stream)
    }

    fn data(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
        let known = frame.stream != 0 && (frame.stream <= self.last || self.leaving);
        let content = frame.content().filter(|_| known);
        let content = content.ok_or(Fault(code::PROTOCOL_ERROR))?;
        self.came += frame.payload.len();
        if self.came >= CREDIT {
            let came = u32::try_from(self.came).unwrap_or(MOST);
            frame::whole(out, kind::WINDOW_UPDATE, 0, 0, &came.to_be_bytes());
            self.came = 0;
        }
        let Some(at) = self.place(frame.stream) else {
            return Ok(());
        };
        let body = &mut self.open[at].body;
        let length = body.len() + content.len();
        if length > packets::LONGEST {
            let open = self.open.swap_remove(at);
            self.packed.refuse(out, open.stream, packets::too_long());
            reset(out, open.stream, code::NO_ERROR);
        } else if !frame.has(flag::END_STREAM) {
            body.extend_from_slice(content);
        } else {
            let mut open = self.open.swap_remove(at);
            // Nearly always there is one piece.
            let body = match open.body.is_empty() {
                true => content,
                false => {
                    open.body.extend_from_slice(content);
                    &open.body
                }
            };
            self.answer(frame.stream, open.room, body, out);
        }
        Ok(())
    }

    fn reset(&mut self, frame: Frame<'_>) -> Result<()> {
        frame.number().ok_or(Fault(code::FRAME_SIZE_ERROR))?;
        if frame.stream == 0 || (frame.stream > self.last && !self.leaving) {
            return Err(Fault(code::PROTOCOL_ERROR));
        }
        self.open.retain(|open| open.stream != frame.stream);
        self.waiting.retain(|answer| answer.stream != frame.stream);
        Ok(())
    }

    fn settings(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
        let answers = frame.has(flag::ACK);
        if frame.stream != 0 {
            return Err(Fault(code::PROTOCOL_ERROR));
        }
        if !frame.payload.len().is_multiple_of(6) || (answers && !frame.payload.is_empty()) {
            return Err(Fault(code::FRAME_SIZE_ERROR));
        }
        if answers {
            return Ok(());
        }
        let before = self.peer.room_of_stream;
        self.peer.set(frame.settings()).map_err(Fault)?;
        let more = self.peer.room_of_stream - before;
        let rooms = self.open.iter_mut().map(|open| &mut open.room);
        for room in rooms.chain(self.waiting.iter_mut().map(|answer| &mut answer.room)) {
            *room += more;
            if *room > i64::from(MOST) {
                return Err(Fault(code::FLOW_CONTROL_ERROR));
            }
        }
        frame::whole(out, kind::SETTINGS, flag::ACK, 0, &[]);
        if !self.peer.keeps_table {
            self.packed.give_up_table();
        }
        self.send(out);
        Ok(())
    }

    fn window_update(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
        let more = frame.number().ok_or(Fault(code::FRAME_SIZE_ERROR))? & MOST;
        if more == 0 {
            return Err(Fault(code::PROTOCOL_ERROR));
        }
        let of = frame.stream;
        let mut opened = self
            .open
            .iter_mut()
            .map(|open| (open.stream, &mut open.room));
        let mut waiting = self.waiting.iter_mut();
        let room = match of {
            0 => Some(&mut self.peer.room),
            _ => opened.find(|(stream, _)| *stream == of).map_or_else(
                || {
                    let answer = waiting.find(|answer| answer.stream == of)?;
                    Some(&mut answer.room)
                },
                |(_, room)| Some(room),
            ),
        };
        // None where the answer is sent.
        let Some(room) = room else {
            return Ok(());
        };
        *room += i64::from(more);
        if *room > i64::from(MOST) {
            return Err(Fault(code::FLOW_CONTROL_ERROR));
        }
        self.send(out);
        Ok(())
    }

    /// Answers a whole question, as far as the client has room for it.
    fn answer(&mut self, stream: u32, room: i64, question: &[u8], out: &mut Vec<u8>) {
        self.reply.clear();
        if let Err(refused) = packets::reply(&*self.names, question, &mut self.reply) {
            return self.packed.refuse(out, stream, refused);
        }
        let length = self.reply.len();
        self.packed.begin(out, stream);
        let fits = self.waiting.is_empty() && length <= self.peer.longest;
        let left = i64::try_from(length).map_or(-1, |length| self.peer.room.min(room) - length);
        if fits && left >= 0 {
            self.peer.room -= length as i64;
            frame::whole(out, kind::DATA, 0, stream, &self.reply);
            self.packed.end(out, stream);
        } else {
            self.waiting.push(Waiting {
                stream,
                reply: self.reply.clone(),
                sent: 0,
                room,
            });
            self.send(out);
        }
    }

    /// Sends of the answers that wait what the client has room for.
    fn send(&mut self, out: &mut Vec<u8>) {
        let (peer, packed) = (&mut self.peer, &mut self.packed);
        self.waiting.retain_mut(|answer| {
            loop {
                let left = answer.reply.len() - answer.sent;
                let room = usize::try_from(peer.room.min(answer.room)).unwrap_or(0);
                let now = left.min(room).min(peer.longest);
                if now == 0 {
                    return true;
                }
                let piece = &answer.reply[answer.sent..answer.sent + now];
                frame::whole(out, kind::DATA, 0, answer.stream, piece);
                answer.sent += now;
                answer.room -= now as i64;
                peer.room -= now as i64;
                if now == left {
                    packed.end(out, answer.stream);
                    return false;
                }
            }
        });
    }
}

fn ping(frame: Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
    if frame.stream != 0 {
        return Err(Fault(code::PROTOCOL_ERROR));
    }
    if frame.payload.len() != 8 {
        return Err(Fault(code::FRAME_SIZE_ERROR));
    }
    if !frame.has(flag::ACK) {
        frame::whole(out, kind::PING, flag::ACK, 0, frame.payload);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
