//! Messages for the kernel, put together attribute by attribute.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};

use super::attributes::put;
use super::socket::{HEADER, NetlinkError};

/// The nested attribute's mark.
const NLA_F_NESTED: u16 = 0x8000;

/// A request without its netlink header: kind, flags, the fixed part and the
/// attributes.
#[derive(Debug, Clone)]
pub struct Message {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// A message of this kind whose fixed part is `header`. `flags` come
    /// beside REQUEST and ACK, which every request has.
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        Self {
            kind,
            flags,
            body: header.to_vec(),
        }
    }

    /// Writes the message behind its netlink header.
    pub(super) fn write(&self, sequence: u32, bytes: &mut Vec<u8>) -> Result<(), NetlinkError> {
        self.write_flags(self.flags | NLM_F_REQUEST | NLM_F_ACK, sequence, bytes)
    }

    /// As [`write`](Self::write), with these flags and no others.
    pub(super) fn write_flags(
        &self,
        flags: u16,
        sequence: u32,
        bytes: &mut Vec<u8>,
    ) -> Result<(), NetlinkError> {
        let length = u32::try_from(HEADER + self.body.len());
        let length = length.map_err(|_| NetlinkError::Malformed)?;
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // The kernel knows the sender.
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(&self.body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Ok(())
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.body, kind, value);
        self
    }

    /// Adds a number in the byte order of this machine.
    #[must_use]
    pub fn with_u32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// Adds a number in the byte order of the network, as netfilter has them.
    #[must_use]
    pub fn with_be32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_be_bytes())
    }

    /// Adds a number of 64 bits in the byte order of the network.
    #[must_use]
    pub fn with_be64(self, kind: u16, value: u64) -> Self {
        self.with(kind, &value.to_be_bytes())
    }

    /// Adds attributes that are written already.
    #[must_use]
    pub(crate) fn with_raw(mut self, attributes: &[u8]) -> Self {
        self.body.extend(attributes);
        self
    }

    /// The fixed part and the attributes.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Adds a text with the zero byte at its end.
    #[must_use]
    pub fn with_text(self, kind: u16, text: &str) -> Self {
        self.with(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Adds an address.
    #[must_use]
    pub fn with_ip(self, kind: u16, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.with(kind, &ip.octets()),
            IpAddr::V6(ip) => self.with(kind, &ip.octets()),
        }
    }

    /// Adds an attribute that holds attributes, as `fill` adds them to a
    /// message whose fixed part is `header`; most have none.
    #[must_use]
    pub fn with_nest(self, kind: u16, header: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
        let inner = fill(Self::new(0, 0, header));
        self.with(kind | NLA_F_NESTED, &inner.body)
    }

    /// Adds what `fill` adds, if there is a value.
    #[must_use]
    pub fn with_some<T>(self, value: Option<T>, fill: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => fill(self, value),
            None => self,
        }
    }
}
