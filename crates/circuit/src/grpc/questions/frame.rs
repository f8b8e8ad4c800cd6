//! Frames of HTTP/2 (RFC 9113, section 4.1).

/// Bytes before each frame's payload.
pub(super) const HEAD: usize = 9;
/// The longest payload that is taken: what a server says that says nothing.
pub(super) const LONGEST: usize = 16_384;

pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const PRIORITY: u8 = 2;
    pub(in super::super) const RESET: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const PUSH_PROMISE: u8 = 5;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const GOAWAY: u8 = 7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

pub(super) mod flag {
    /// Of settings and pings.
    pub(in super::super) const ACK: u8 = 1;
    /// Of data and headers.
    pub(in super::super) const END_STREAM: u8 = 1;
    pub(in super::super) const END_HEADERS: u8 = 4;
    pub(in super::super) const PADDED: u8 = 8;
    pub(in super::super) const PRIORITY: u8 = 32;
}

/// Codes that say why a stream or a connection ends (section 7).
pub(super) mod code {
    pub(in super::super) const NO_ERROR: u32 = 0;
    pub(in super::super) const PROTOCOL_ERROR: u32 = 1;
    pub(in super::super) const FLOW_CONTROL_ERROR: u32 = 3;
    pub(in super::super) const FRAME_SIZE_ERROR: u32 = 6;
    pub(in super::super) const REFUSED_STREAM: u32 = 7;
    pub(in super::super) const COMPRESSION_ERROR: u32 = 9;
    pub(in super::super) const ENHANCE_YOUR_CALM: u32 = 11;
}

/// One whole frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame that `bytes` begin with, when it is whole.
    ///
    /// # Errors
    /// When it is longer than [`LONGEST`].
    pub(super) fn read(bytes: &'a [u8]) -> Result<Option<Self>, TooLong> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let [high, middle, low, kind, flags, stream @ ..] = *head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length > LONGEST {
            return Err(TooLong);
        }
        Ok(rest.get(..length).map(|payload| Self {
            kind,
            flags,
            // The highest bit means nothing.
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
            payload,
        }))
    }

    /// Bytes of the whole frame.
    pub(super) fn length(&self) -> usize {
        HEAD + self.payload.len()
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding and, of headers, priority; none where they do
    /// not fit in.
    pub(super) fn content(&self) -> Option<&'a [u8]> {
        let mut content = self.payload;
        let mut padding = 0;
        if self.has(flag::PADDED) {
            let (length, rest) = content.split_first()?;
            (padding, content) = (usize::from(*length), rest);
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            content = content.get(5..)?;
        }
        content.get(..content.len().checked_sub(padding)?)
    }

    /// The payload as one number; none where it is of another length.
    pub(super) fn number(&self) -> Option<u32> {
        let number: [u8; 4] = self.payload.try_into().ok()?;
        Some(u32::from_be_bytes(number))
    }

    /// The pairs that settings are.
    pub(super) fn settings(&self) -> impl Iterator<Item = (u16, u32)> + 'a {
        let (pairs, _) = self.payload.as_chunks::<6>();
        pairs.iter().map(|[a, b, value @ ..]| {
            let name = u16::from_be_bytes([*a, *b]);
            (name, u32::from_be_bytes(*value))
        })
    }
}

/// A frame is longer than it may be.
#[derive(Debug)]
pub(super) struct TooLong;

/// Writes the head of a frame whose payload has so many bytes.
pub(super) fn head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, _, _, _, _, high, middle, low] = (length as u64).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    out.extend_from_slice(&[high, middle, low, kind, flags, a, b, c, d]);
}

/// Writes a whole frame.
pub(super) fn whole(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    head(out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
}
