//! Making, changing and removing interfaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::attributes::{self as wire, LINK_HEADER, RTM_NEWLINK};
use super::link::{IFLA_AF_SPEC, IFLA_TXQLEN, Link, get_link, header};
use super::mac::Mac;
use super::message::Message;
use super::socket::{Netlink, NetlinkError};

const RTM_DELLINK: u16 = 17;
const RTM_SETLINK: u16 = 19;

const IFLA_LINK: u16 = 5;
const IFLA_IFALIAS: u16 = 20;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
/// The number of `arp_notify` among the parameters of IPv4.
const IPV4_DEVCONF_ARP_NOTIFY: u16 = 22;

/// What an interface is to be, or to become: what is not said is left to the
/// kernel, or as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkSpec<'a> {
    /// The name.
    pub name: Option<&'a str>,
    /// The MTU.
    pub mtu: Option<u32>,
    /// The hardware address.
    pub mac: Option<Mac>,
    /// The index of the bridge or bond to be in; 0 takes it out.
    pub master: Option<u32>,
    /// The index of the interface to lie on (`IFLA_LINK`).
    pub parent: Option<u32>,
    /// The number of the namespace in which [`parent`](Self::parent) is, when
    /// that is another than the socket's.
    pub parent_netns: Option<i32>,
    /// The namespace to be in, when that is another than the socket's.
    pub netns: Option<BorrowedFd<'a>>,
    /// Whether to be up.
    pub up: Option<bool>,
    /// Whether to take in all traffic.
    pub promisc: Option<bool>,
    /// Whether to take in all multicasts.
    pub allmulti: Option<bool>,
    /// The length of the transmit queue.
    pub tx_queue: Option<u32>,
    /// The group.
    pub group: Option<u32>,
    /// The alias; the kernel takes it for an interface that is there only.
    pub alias: Option<&'a str>,
    /// Whether to tell neighbours of addresses when it is set up; the kernel
    /// takes it for an interface that is there only, and after setting it up.
    pub arp_notify: Option<bool>,
}

impl<'a> LinkSpec<'a> {
    /// One of that name.
    pub fn named(name: &'a str) -> Self {
        Self {
            name: Some(name),
            ..Self::default()
        }
    }

    /// The request that makes it, of a kind such as `macvlan`; `data` adds the
    /// kind's own attributes (`IFLA_INFO_DATA`). It is refused with `EEXIST`
    /// when the name is taken.
    pub fn create(&self, kind: &str, data: impl FnOnce(Message) -> Message) -> Message {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let message = Message::new(RTM_NEWLINK, flags, &self.header(0));
        self.fill(message).with_nest(wire::IFLA_LINKINFO, &[], |m| {
            m.with_text(wire::IFLA_INFO_KIND, kind)
                .with_nest(IFLA_INFO_DATA, &[], data)
        })
    }

    /// The request that makes a pair of veth. The other end is made straight
    /// in the namespace that it names, with its final name.
    pub fn create_veth(&self, peer: &LinkSpec<'_>) -> Message {
        self.create("veth", |m| {
            m.with_nest(VETH_INFO_PEER, &peer.header(0), |m| peer.fill(m))
        })
    }

    /// The request that makes the interface of that index become so.
    pub fn change(&self, index: u32) -> Message {
        self.fill(Message::new(RTM_SETLINK, 0, &self.header(index)))
    }

    fn header(&self, index: u32) -> [u8; LINK_HEADER] {
        let (mut flags, mut mask) = (0, 0);
        let flags_wanted = [
            (libc::IFF_UP, self.up),
            (libc::IFF_PROMISC, self.promisc),
            (libc::IFF_ALLMULTI, self.allmulti),
        ];
        for (flag, wanted) in flags_wanted {
            if let Some(wanted) = wanted {
                mask |= flag.cast_unsigned();
                flags |= if wanted { flag.cast_unsigned() } else { 0 };
            }
        }
        let mut header = header(libc::AF_UNSPEC, index);
        header[8..12].copy_from_slice(&u32::to_ne_bytes(flags));
        header[12..16].copy_from_slice(&u32::to_ne_bytes(mask));
        header
    }

    fn fill(&self, message: Message) -> Message {
        let netns = self.netns.map(|fd| fd.as_raw_fd().cast_unsigned());
        message
            .with_some(self.name, |m, name| m.with_text(wire::IFLA_IFNAME, name))
            .with_some(self.mtu, |m, mtu| m.with_u32(wire::IFLA_MTU, mtu))
            .with_some(self.mac, |m, mac| m.with(wire::IFLA_ADDRESS, &mac.0))
            .with_some(self.master, |m, index| m.with_u32(wire::IFLA_MASTER, index))
            .with_some(self.parent, |m, index| m.with_u32(IFLA_LINK, index))
            .with_some(self.parent_netns, |m, id| {
                m.with_u32(IFLA_LINK_NETNSID, id.cast_unsigned())
            })
            .with_some(netns, |m, fd| m.with_u32(IFLA_NET_NS_FD, fd))
            .with_some(self.tx_queue, |m, length| m.with_u32(IFLA_TXQLEN, length))
            .with_some(self.group, |m, group| m.with_u32(IFLA_GROUP, group))
            .with_some(self.alias, |m, alias| m.with_text(IFLA_IFALIAS, alias))
            .with_some(self.arp_notify, |m, on| {
                m.with_nest(IFLA_AF_SPEC, &[], |families| {
                    families.with_nest(wire::AF_INET.into(), &[], |four| {
                        four.with_nest(IFLA_INET_CONF, &[], |conf| {
                            conf.with_u32(IPV4_DEVCONF_ARP_NOTIFY, on.into())
                        })
                    })
                })
            })
    }
}

/// The request that removes the interface of that index, and with a veth its
/// other end.
pub fn delete_link(index: u32) -> Message {
    Message::new(RTM_DELLINK, 0, &header(libc::AF_UNSPEC, index))
}

/// The request that removes the interface of that name.
pub fn delete_link_named(name: &str) -> Message {
    Message::new(RTM_DELLINK, 0, &header(libc::AF_UNSPEC, 0)).with_text(wire::IFLA_IFNAME, name)
}

impl Netlink {
    /// Makes an interface by what [`LinkSpec::create`] or
    /// [`LinkSpec::create_veth`] returned, and looks it up in the same breath.
    /// For one that stays in the namespace of this socket.
    ///
    /// # Errors
    /// The kernel's refusal: `EEXIST` when its name, or its peer's, is taken.
    pub fn create(&mut self, name: &str, message: Message) -> Result<Link, NetlinkError> {
        let mut answers = self.pipeline(&[message, get_link(name)])?.into_iter();
        answers.next().unwrap_or(Err(NetlinkError::Lost))?;
        let made = super::link::found(answers.next().unwrap_or(Err(NetlinkError::Lost)))?;
        made.ok_or(NetlinkError::kernel(libc::ENODEV))
    }

    /// Changes the interface of that index.
    ///
    /// # Errors
    /// The kernel's refusal: `ENODEV` when there is none.
    pub fn set_link(&mut self, index: u32, spec: &LinkSpec<'_>) -> Result<(), NetlinkError> {
        self.request(&spec.change(index)).map(drop)
    }

    /// Removes interfaces; those that are gone are no error. The kernel waits
    /// for each until nobody looks at it any more (some 16 ms), so they are
    /// asked for together.
    ///
    /// # Errors
    /// The first refusal; the others are removed.
    pub fn delete_links(&mut self, indices: &[u32]) -> Result<(), NetlinkError> {
        let messages: Vec<Message> = indices.iter().map(|index| delete_link(*index)).collect();
        accept(self.pipeline(&messages)?, &[libc::ENODEV])
    }

    /// Sends requests at once. Refusals with one of these errnos are what was
    /// wanted already.
    ///
    /// # Errors
    /// The first other refusal; the requests behind it are carried out too.
    pub fn carry_out(
        &mut self,
        messages: &[Message],
        accepted: &[i32],
    ) -> Result<(), NetlinkError> {
        accept(self.pipeline(messages)?, accepted)
    }
}

fn accept<T>(answers: Vec<Result<T, NetlinkError>>, errnos: &[i32]) -> Result<(), NetlinkError> {
    for answer in answers {
        match answer {
            Err(NetlinkError::Kernel(errno, _)) if errnos.contains(&errno) => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Ok(())
}
