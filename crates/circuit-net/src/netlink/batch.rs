//! Batches: several changes that netfilter makes as one, or not at all.

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use nix::sys::socket::{setsockopt, sockopt};

use super::message::Message;
use super::socket::{HEADER, NLMSG_ERROR, Netlink, NetlinkError};

/// What a socket sends without asking for more room.
const ROOM: usize = 128 * 1024;

/// Why a batch was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    /// The kernel refuses one of the messages, counted from 0.
    #[error("{}", std::io::Error::from_raw_os_error(*errno))]
    Refused {
        /// Which it is; the first and the last mark the batch's bounds, and a
        /// refusal of the first is one of the batch as a whole.
        message: usize,
        /// Why.
        errno: i32,
    },
    /// The socket fails: whether anything was changed is not known.
    #[error(transparent)]
    Socket(#[from] NetlinkError),
}

impl Netlink {
    /// Sends a batch, whose first and last message mark its bounds.
    ///
    /// # Errors
    /// The first refusal.
    pub(crate) fn batch(&mut self, messages: &[Message]) -> Result<(), BatchError> {
        let first = self.sequence.wrapping_add(1);
        // Refusals are told in any case, so it is enough when one message asks
        // for an answer: the last one that changes something.
        let asks = messages.len().saturating_sub(2);
        let mut bytes = Vec::with_capacity(256 * messages.len());
        for (index, message) in messages.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let ack = if index == asks { NLM_F_ACK } else { 0 };
            message.write_flags(
                message.flags | NLM_F_REQUEST | ack,
                self.sequence,
                &mut bytes,
            )?;
        }
        if bytes.len() > ROOM {
            setsockopt(&self.socket, sockopt::SndBufForce, &(2 * bytes.len()))
                .map_err(|errno| NetlinkError::Io(errno.into()))?;
        }
        self.send(&bytes).map_err(NetlinkError::Io)?;
        self.outcome(first, asks)
    }

    /// Reads answers until the one that was asked for: the kernel writes them
    /// in the order of the messages.
    fn outcome(&mut self, first: u32, asks: usize) -> Result<(), BatchError> {
        let mut refusal = None;
        loop {
            if !self.receive()? {
                return Err(NetlinkError::Lost.into());
            }
            for (sequence, errno) in answers(&self.buffer) {
                let message = sequence.wrapping_sub(first) as usize;
                if message > asks {
                    continue;
                }
                if errno != 0 {
                    refusal.get_or_insert(BatchError::Refused { message, errno });
                }
                if message == asks || (message == 0 && errno != 0) {
                    return refusal.map_or(Ok(()), Err);
                }
            }
        }
    }
}

/// The acknowledgements in one piece: whose they are, and the errno.
fn answers(bytes: &[u8]) -> impl Iterator<Item = (u32, i32)> {
    messages(bytes)
        .filter(|(kind, _, _)| *kind == NLMSG_ERROR)
        .filter_map(|(_, sequence, payload)| {
            let code = i32::from_ne_bytes(*payload.first_chunk()?);
            Some((sequence, code.wrapping_neg()))
        })
}

/// The messages in one piece: kind, sequence number and payload.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let payload = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let sequence = u32::from_ne_bytes([s0, s1, s2, s3]);
        Some((u16::from_ne_bytes([k0, k1]), sequence, payload))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, sequence: u32, code: i32) -> Vec<u8> {
        let mut bytes = 20u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(code.to_ne_bytes());
        bytes
    }

    #[test]
    fn answers_are_told_from_other_messages() {
        let bytes = [
            answer(NLMSG_ERROR, 3, -libc::EEXIST),
            answer(16, 4, -1),
            answer(NLMSG_ERROR, 5, 0),
        ]
        .concat();
        let read: Vec<_> = answers(&bytes).collect();
        assert_eq!(read, [(3, libc::EEXIST), (5, 0)]);
    }

    #[test]
    fn nonsense_ends_the_answers() {
        let mut bytes = answer(NLMSG_ERROR, 3, 0);
        bytes[0] = 200;
        assert_eq!(answers(&bytes).count(), 0);
        assert_eq!(answers(&[1, 2, 3]).count(), 0);
    }
}
