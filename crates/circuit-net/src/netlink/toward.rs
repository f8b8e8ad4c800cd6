//! Which interface leads to an address.

use std::net::IpAddr;

use super::attributes::{
    AF_INET, AF_INET6, IFLA_IFNAME, LINK_HEADER, ROUTE_HEADER, RTA_OIF, RTM_NEWLINK, RTM_NEWROUTE,
    attributes, u32_of,
};
use super::message::Message;
use super::socket::{Netlink, NetlinkError};

const RTM_GETLINK: u16 = 18;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;

/// The name of the interface by which packets leave for an address, if there
/// is a way.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn interface_toward(
    socket: &mut Netlink,
    address: IpAddr,
) -> Result<Option<String>, NetlinkError> {
    let Some(index) = index_toward(socket, address)? else {
        return Ok(None);
    };
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let question = Message::new(RTM_GETLINK, 0, &header);
    let name = value(socket, &question, RTM_NEWLINK, LINK_HEADER, IFLA_IFNAME)?;
    Ok(name.map(|name| {
        let name = name.strip_suffix(&[0]).unwrap_or(&name);
        String::from_utf8_lossy(name).into_owned()
    }))
}

/// The index of the interface by which packets leave for an address, if there
/// is a way.
///
/// # Errors
/// As [`interface_toward`].
pub fn index_toward(socket: &mut Netlink, address: IpAddr) -> Result<Option<u32>, NetlinkError> {
    let (family, bits) = match address {
        IpAddr::V4(_) => (AF_INET, 32),
        IpAddr::V6(_) => (AF_INET6, 128),
    };
    let mut header = [0; ROUTE_HEADER];
    [header[0], header[1]] = [family, bits];
    let question = Message::new(RTM_GETROUTE, 0, &header).with_ip(RTA_DST, address);
    let index = value(socket, &question, RTM_NEWROUTE, ROUTE_HEADER, RTA_OIF)?;
    index
        .map(|index| u32_of(&index).ok_or(NetlinkError::Malformed))
        .transpose()
}

/// One attribute of the answer to a question.
fn value(
    socket: &mut Netlink,
    question: &Message,
    kind: u16,
    header: usize,
    attribute: u16,
) -> Result<Option<Vec<u8>>, NetlinkError> {
    let replies = match socket.request(question) {
        Ok(replies) => replies,
        Err(NetlinkError::Kernel(
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENODEV | libc::EAFNOSUPPORT,
            _,
        )) => return Ok(None),
        Err(error) => return Err(error),
    };
    let reply = replies.iter().find(|reply| reply.kind == kind);
    let values = reply.and_then(|reply| reply.payload.get(header..));
    let found = attributes(values.unwrap_or_default()).find(|(kind, _)| *kind == attribute);
    Ok(found.map(|(_, value)| value.to_vec()))
}
