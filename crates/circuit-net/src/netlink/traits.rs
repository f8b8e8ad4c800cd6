//! The traits of one interface that are tuned: looked up by name or index, and
//! set in one message.

use super::attributes::{self as wire, Reply, attributes, u32_of};
use super::message::Message;
use super::socket::{Netlink, NetlinkError};

const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;

const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_TXQLEN: u16 = 13;
const IFLA_IFALIAS: u16 = 20;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_PROMISCUITY: u16 = 30;

/// Leaves the counters out of an answer, which are most of it.
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

/// What is asked about an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traits {
    /// The index.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The hardware address.
    pub mac: Vec<u8>,
    /// Whether it is set up.
    pub up: bool,
    /// The MTU.
    pub mtu: u32,
    /// The length of the transmit queue.
    pub tx_queue: u32,
    /// Whether anything wants to see the frames for others.
    pub promisc: bool,
    /// Whether it was set to take all multicast frames.
    pub allmulti: bool,
    /// The driver's kind, such as `veth`.
    pub kind: String,
    /// The index of its peer, or of the interface below it.
    pub link: Option<u32>,
    /// The text that somebody gave it.
    pub alias: String,
}

/// What is changed about an interface; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The hardware address.
    pub mac: Option<Vec<u8>>,
    /// The MTU.
    pub mtu: Option<u32>,
    /// The length of the transmit queue.
    pub tx_queue: Option<u32>,
    /// Whether it takes the frames for others.
    pub promisc: Option<bool>,
    /// Whether it takes all multicast frames.
    pub allmulti: Option<bool>,
    /// Whether it is set up.
    pub up: Option<bool>,
}

impl Change {
    /// The message that makes the change, in one step.
    pub fn message(&self, index: u32) -> Message {
        let (mut flags, mut mask) = (0, 0);
        let bits = [
            (self.up, libc::IFF_UP),
            (self.promisc, libc::IFF_PROMISC),
            (self.allmulti, libc::IFF_ALLMULTI),
        ];
        for (wanted, bit) in bits {
            let bit = bit as u32;
            mask |= if wanted.is_some() { bit } else { 0 };
            flags |= if wanted == Some(true) { bit } else { 0 };
        }
        Message::new(RTM_SETLINK, 0, &header(index, flags, mask))
            .with_some(self.mac.as_deref(), |m, mac| m.with(IFLA_ADDRESS, mac))
            .with_some(self.mtu, |m, mtu| m.with_u32(IFLA_MTU, mtu))
            .with_some(self.tx_queue, |m, length| m.with_u32(IFLA_TXQLEN, length))
    }
}

/// The interface of that name, if there is one.
///
/// # Errors
/// When the kernel refuses for another reason.
pub fn by_name(socket: &mut Netlink, name: &str) -> Result<Option<Traits>, NetlinkError> {
    found(socket.request(&ask_name(name)))
}

/// The interface of that index, if there is one.
///
/// # Errors
/// As [`by_name`].
pub fn by_index(socket: &mut Netlink, index: u32) -> Result<Option<Traits>, NetlinkError> {
    found(socket.request(&ask(index)))
}

/// The interfaces of a kind.
///
/// # Errors
/// As [`by_name`].
pub fn of_kind(socket: &mut Netlink, kind: &str) -> Result<Vec<Traits>, NetlinkError> {
    let request = Message {
        flags: netlink_packet_core::NLM_F_DUMP,
        ..ask(0)
    };
    let request = request.with_nest(wire::IFLA_LINKINFO, &[], |info| {
        info.with_text(wire::IFLA_INFO_KIND, kind)
    });
    let replies = socket.list(&request)?;
    // A kernel that does not check strictly tells of all kinds.
    let links = replies.iter().filter_map(read);
    Ok(links.filter(|link| link.kind == kind).collect())
}

/// What asks for the interface of that name.
pub(crate) fn ask_name(name: &str) -> Message {
    ask(0).with_text(wire::IFLA_IFNAME, name)
}

/// Reads the answer to [`ask_name`].
pub(crate) fn found(
    answer: Result<Vec<Reply>, NetlinkError>,
) -> Result<Option<Traits>, NetlinkError> {
    match answer {
        Ok(replies) => Ok(replies.iter().find_map(read)),
        Err(NetlinkError::Kernel(libc::ENODEV)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What makes an interface that is nothing but a queue, and sets it up.
pub(crate) fn add_ifb(name: &str, mtu: u32) -> Message {
    use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
    let up = libc::IFF_UP as u32;
    Message::new(
        wire::RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        &header(0, up, up),
    )
    .with_text(wire::IFLA_IFNAME, name)
    .with_u32(IFLA_MTU, mtu)
    .with_u32(IFLA_TXQLEN, 0)
    .with_nest(wire::IFLA_LINKINFO, &[], |info| {
        info.with_text(wire::IFLA_INFO_KIND, "ifb")
    })
}

/// What gives the interface of that name a text.
pub(crate) fn set_alias(name: &str, alias: &str) -> Message {
    Message::new(RTM_SETLINK, 0, &header(0, 0, 0))
        .with_text(wire::IFLA_IFNAME, name)
        .with(IFLA_IFALIAS, alias.as_bytes())
}

/// What removes the interface of that name.
pub(crate) fn del_name(name: &str) -> Message {
    Message::new(RTM_DELLINK, 0, &header(0, 0, 0)).with_text(wire::IFLA_IFNAME, name)
}

fn ask(index: u32) -> Message {
    Message::new(RTM_GETLINK, 0, &header(index, 0, 0))
        .with_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
}

fn header(index: u32, flags: u32, mask: u32) -> [u8; wire::LINK_HEADER] {
    let mut header = [0; wire::LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&mask.to_ne_bytes());
    header
}

fn read(reply: &Reply) -> Option<Traits> {
    let link = reply.link()?;
    let flags = u32_of(reply.payload.get(8..12)?)?;
    let mut traits = Traits {
        index: link.index,
        name: link.name,
        kind: link.kind.unwrap_or_default(),
        mtu: link.mtu.unwrap_or_default(),
        up: link.up,
        allmulti: flags & libc::IFF_ALLMULTI as u32 != 0,
        ..Traits::default()
    };
    for (kind, value) in attributes(reply.payload.get(wire::LINK_HEADER..)?) {
        match kind {
            IFLA_ADDRESS => traits.mac = value.to_vec(),
            IFLA_TXQLEN => traits.tx_queue = u32_of(value)?,
            IFLA_LINK => traits.link = u32_of(value),
            IFLA_PROMISCUITY => traits.promisc = u32_of(value)? != 0,
            IFLA_IFALIAS => {
                let text = value.strip_suffix(&[0]).unwrap_or(value);
                traits.alias = String::from_utf8_lossy(text).into_owned();
            }
            _ => {}
        }
    }
    Some(traits)
}
