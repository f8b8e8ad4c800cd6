//! Adding, removing and listing addresses.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::Address;
use super::attributes::{self as wire, RTM_NEWADDR, Reply};
use super::message::Message;
use super::socket::{Netlink, NetlinkError};

const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFA_BROADCAST: u16 = 4;

/// An address that an interface is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressSpec {
    /// The address with its prefix length.
    pub address: IpNet,
    /// The address of the other end, on links between two points.
    pub peer: Option<IpAddr>,
    /// The scope: 0 is global, 253 link, 254 host.
    pub scope: u8,
    /// Not to look whether somebody else has it (`IFA_F_NODAD`); IPv6 only.
    pub nodad: bool,
    /// Not to make the route to its network (`IFA_F_NOPREFIXROUTE`).
    pub noprefixroute: bool,
}

impl From<IpNet> for AddressSpec {
    fn from(address: IpNet) -> Self {
        Self {
            address,
            peer: None,
            scope: 0,
            nodad: false,
            noprefixroute: false,
        }
    }
}

impl AddressSpec {
    /// The request that adds it to the interface of that index: `EEXIST` when
    /// it has it. IPv4 addresses get the broadcast address of their network,
    /// where that has one, as `ip` does with `brd +` and the stock plugins do.
    pub fn add(&self, index: u32) -> Message {
        let message = self.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, index);
        message.with_some(self.broadcast(), |m, ip| {
            m.with_ip(IFA_BROADCAST, ip.into())
        })
    }

    /// The request that removes it from the interface of that index:
    /// `EADDRNOTAVAIL` when it does not have it.
    pub fn remove(&self, index: u32) -> Message {
        self.message(RTM_DELADDR, 0, index)
    }

    fn message(&self, kind: u16, flags: u16, index: u32) -> Message {
        let mut given = 0;
        for (flag, set) in [
            (libc::IFA_F_NODAD, self.nodad),
            (libc::IFA_F_NOPREFIXROUTE, self.noprefixroute),
        ] {
            given |= if set { flag } else { 0 };
        }
        let family = family_of(self.address.addr());
        let mut header = [family, self.address.prefix_len(), 0, self.scope, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let local = self.address.addr();
        Message::new(kind, flags, &header)
            .with_ip(wire::IFA_LOCAL, local)
            .with_ip(wire::IFA_ADDRESS, self.peer.unwrap_or(local))
            .with_some((given != 0).then_some(given), |m, flags| {
                m.with_u32(wire::IFA_FLAGS, flags)
            })
    }

    fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.address {
            IpNet::V4(address) if address.prefix_len() < 31 => {
                Some(Ipv4Net::broadcast(&address)).filter(|ip| !ip.is_unspecified())
            }
            _ => None,
        }
    }
}

/// The number of the family of an address.
pub(super) fn family_of(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => wire::AF_INET,
        IpAddr::V6(_) => wire::AF_INET6,
    }
}

impl Netlink {
    /// The addresses of the interface of that index.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Address>, NetlinkError> {
        self.addresses_of(index, libc::AF_UNSPEC)
    }

    /// The addresses of every interface.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn all_addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let every = Message::new(RTM_GETADDR, 0, &[0; 8]);
        let replies = self.list(&every)?;
        Ok(replies.iter().filter_map(Reply::address).collect())
    }

    /// As [`addresses`](Self::addresses), those of IPv6 or of IPv4 alone. The kernel
    /// tells them while it makes or removes an interface, too, for which it keeps
    /// others waiting.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn addresses_by(&mut self, index: u32, ipv6: bool) -> Result<Vec<Address>, NetlinkError> {
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        let mut found = self.addresses_of(index, family)?;
        // A kernel without that family tells others.
        found.retain(|found| found.address.addr().is_ipv6() == ipv6);
        Ok(found)
    }

    fn addresses_of(&mut self, index: u32, family: i32) -> Result<Vec<Address>, NetlinkError> {
        let mut header = [0; 8];
        header[0] = u8::try_from(family).unwrap_or_default();
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let replies = match self.list(&Message::new(RTM_GETADDR, 0, &header)) {
            // What is gone has none.
            Err(NetlinkError::Kernel(libc::ENODEV, _)) => return Ok(Vec::new()),
            other => other?,
        };
        let addresses = replies.iter().filter_map(Reply::address);
        // Old kernels tell those of all interfaces.
        Ok(addresses.filter(|found| found.index == index).collect())
    }

    /// Adds an address, if the interface does not have it.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_address(&mut self, index: u32, address: &AddressSpec) -> Result<(), NetlinkError> {
        self.carry_out(&[address.add(index)], &[libc::EEXIST])
    }

    /// Removes an address, if the interface has it.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_address(
        &mut self,
        index: u32,
        address: &AddressSpec,
    ) -> Result<(), NetlinkError> {
        let gone = [libc::EADDRNOTAVAIL, libc::ENODEV];
        self.carry_out(&[address.remove(index)], &gone)
    }
}
