//! What a client says of itself in HTTP/2 (RFC 9113, sections 5.2 and 6.5).

use super::frame::{self, code};

/// The most that a window may have.
pub(super) const MOST: u32 = u32::MAX >> 1;
/// What a client has room for that says nothing.
const ROOM: i64 = 65_535;
/// The table for heads of one that says nothing, in bytes.
const TABLE: u32 = 4096;

mod setting {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
}

/// What a client has room for.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Bytes of data, on all streams together.
    pub(super) room: i64,
    /// Bytes of data on a new stream.
    pub(super) room_of_stream: i64,
    /// The longest payload of a frame.
    pub(super) longest: usize,
    /// It keeps a table for heads that is as large as one that it says nothing of.
    pub(super) keeps_table: bool,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            room: ROOM,
            room_of_stream: ROOM,
            longest: frame::LONGEST,
            keeps_table: true,
        }
    }
}

impl Peer {
    /// Takes settings, each a name and a value.
    ///
    /// # Errors
    /// The code of HTTP/2 that says what is wrong with them.
    pub(super) fn set(&mut self, settings: impl Iterator<Item = (u16, u32)>) -> Result<(), u32> {
        for (name, value) in settings {
            match name {
                setting::HEADER_TABLE_SIZE if value < TABLE => self.keeps_table = false,
                setting::INITIAL_WINDOW_SIZE if value > MOST => {
                    return Err(code::FLOW_CONTROL_ERROR);
                }
                setting::INITIAL_WINDOW_SIZE => self.room_of_stream = i64::from(value),
                setting::MAX_FRAME_SIZE => {
                    let longest = usize::try_from(value).unwrap_or(usize::MAX);
                    if !(frame::LONGEST..1 << 24).contains(&longest) {
                        return Err(code::PROTOCOL_ERROR);
                    }
                    self.longest = longest;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
