//! Interfaces as the kernel tells of them, and looking one up.

use super::attributes::{
    self as wire, LINK_HEADER, RTM_NEWLINK, Reply, attributes, mac, text, u32_of,
};
use super::message::Message;
use super::socket::{Netlink, NetlinkError};

pub(super) const RTM_GETLINK: u16 = 18;

const IFLA_LINK: u16 = 5;
pub(super) const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_IFALIAS: u16 = 20;
pub(super) const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_ALT_IFNAME: u16 = 53;
/// The room of an alternative name, with the zero at its end.
const ALTIFNAMSIZ: usize = 128;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_INET6_CONF: u16 = 2;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;

/// Leaves the counters out of an answer: they are most of it.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
/// The place of `accept_ra` among the parameters of IPv6.
const DEVCONF_ACCEPT_RA: usize = 3;
/// The operational state of an interface that carries traffic.
const IF_OPER_UP: u8 = 6;

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The index, unique in the namespace.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The hardware address in hexadecimal, if the kind has one.
    pub mac: Option<String>,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it is set up and carries traffic.
    pub running: bool,
    /// Whether it is a loopback interface.
    pub loopback: bool,
    /// The MTU.
    pub mtu: Option<u32>,
    /// The driver's kind, such as `veth` or `bridge`.
    pub kind: Option<String>,
    /// The index of the bridge or bond that it is in.
    pub master: Option<u32>,
    /// The index of the interface that it lies on; of a veth, its other end.
    pub parent: Option<u32>,
    /// The number that this namespace has for that of [`parent`](Self::parent);
    /// nothing when it is this one.
    pub parent_netns: Option<i32>,
    /// How many users want it promiscuous.
    pub promiscuity: u32,
    /// Whether it takes in all multicasts.
    pub allmulti: bool,
    /// The length of its transmit queue.
    pub tx_queue: u32,
    /// The group.
    pub group: u32,
    /// The alias.
    pub alias: Option<String>,
    /// Whether routers on it may make routes (`accept_ra`); nothing when it has
    /// no IPv6.
    pub accept_ra: Option<bool>,
    /// What the kind tells of itself: attributes `IFLA_INFO_DATA`, for
    /// [`attributes`](super::attributes()).
    pub data: Vec<u8>,
    /// What its bridge tells of it as a port: attributes
    /// `IFLA_INFO_SLAVE_DATA`.
    pub port: Vec<u8>,
}

impl Link {
    /// Whether it is of this kind.
    pub fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// Whether it is one end of a pair whose other end is in another namespace.
    pub fn is_half(&self) -> bool {
        self.is("veth") && self.parent_netns.is_some()
    }

    /// Whether it is in no bridge, or in this one but down.
    pub fn is_loose(&self, bridge: &Self) -> bool {
        match self.master {
            None => true,
            Some(master) => master == bridge.index && !self.up,
        }
    }

    /// The value of an attribute of the kind.
    pub fn detail(&self, kind: u16) -> Option<&[u8]> {
        find(&self.data, kind)
    }

    /// Of a bridge: whether it keeps VLANs apart.
    pub fn vlan_filtering(&self) -> bool {
        byte(self.detail(IFLA_BR_VLAN_FILTERING)) != 0
    }

    /// Of a bridge: the VLAN that a new port is in, if there is one.
    pub fn default_pvid(&self) -> Option<u16> {
        let value = self.detail(IFLA_BR_VLAN_DEFAULT_PVID)?.first_chunk()?;
        Some(u16::from_ne_bytes(*value)).filter(|vid| *vid != 0)
    }

    /// Of a port of a bridge: whether traffic may leave where it came from.
    pub fn hairpin(&self) -> bool {
        byte(find(&self.port, IFLA_BRPORT_MODE)) != 0
    }

    /// Of a port of a bridge: whether it is kept apart from other such ports.
    pub fn isolated(&self) -> bool {
        byte(find(&self.port, IFLA_BRPORT_ISOLATED)) != 0
    }

    fn read(&mut self, kind: u16, value: &[u8]) {
        match kind {
            wire::IFLA_IFNAME => self.name = text(value),
            wire::IFLA_ADDRESS => self.mac = mac(value),
            wire::IFLA_MTU => self.mtu = u32_of(value),
            wire::IFLA_MASTER => self.master = u32_of(value),
            IFLA_LINK => self.parent = u32_of(value).filter(|index| *index != 0),
            IFLA_LINK_NETNSID => self.parent_netns = u32_of(value).map(u32::cast_signed),
            IFLA_OPERSTATE => self.running = value.first() == Some(&IF_OPER_UP),
            IFLA_PROMISCUITY => self.promiscuity = u32_of(value).unwrap_or_default(),
            IFLA_TXQLEN => self.tx_queue = u32_of(value).unwrap_or_default(),
            IFLA_GROUP => self.group = u32_of(value).unwrap_or_default(),
            IFLA_IFALIAS => self.alias = Some(text(value)),
            IFLA_AF_SPEC => self.accept_ra = accept_ra(value),
            wire::IFLA_LINKINFO => {
                self.kind = find(value, wire::IFLA_INFO_KIND).map(text);
                self.data = bytes(find(value, IFLA_INFO_DATA));
                self.port = bytes(find(value, IFLA_INFO_SLAVE_DATA));
            }
            _ => {}
        }
    }
}

impl Reply {
    /// The interface that this tells of.
    pub fn link(&self) -> Option<Link> {
        let header = self.header::<LINK_HEADER>(RTM_NEWLINK)?;
        let flags = u32_of(header.get(8..12)?)?;
        let mut link = Link {
            index: u32_of(header.get(4..8)?)?,
            up: flags & libc::IFF_UP.cast_unsigned() != 0,
            loopback: flags & libc::IFF_LOOPBACK.cast_unsigned() != 0,
            allmulti: flags & libc::IFF_ALLMULTI.cast_unsigned() != 0,
            ..Link::default()
        };
        for (kind, value) in attributes(self.payload.get(LINK_HEADER..)?) {
            link.read(kind, value);
        }
        (!link.name.is_empty()).then_some(link)
    }
}

/// The request for the interface of that name; [`Reply::link`] reads the
/// answer.
pub fn get_link(name: &str) -> Message {
    get(0).with_text(wire::IFLA_IFNAME, name)
}

/// The request for the interface of that index.
pub fn get_link_at(index: u32) -> Message {
    get(index)
}

fn get(index: u32) -> Message {
    Message::new(RTM_GETLINK, 0, &header(libc::AF_UNSPEC, index))
        .with_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
}

/// The fixed part of a message on an interface, without flags.
pub(super) fn header(family: i32, index: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[0] = u8::try_from(family).unwrap_or_default();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

impl Netlink {
    /// The interface of that name, if there is one.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        // The kernel would take an empty name for a missing one.
        if name.is_empty() || name.len() >= ALTIFNAMSIZ {
            return Ok(None);
        }
        if name.len() < libc::IFNAMSIZ {
            return found(self.request(&get_link(name)));
        }
        // Too long for a name, but not for a further one.
        match found(self.request(&get(0).with_text(IFLA_ALT_IFNAME, name))) {
            // Kernels before 5.5 have none.
            Err(NetlinkError::Kernel(libc::EINVAL, _)) => Ok(None),
            found => found,
        }
    }

    /// The interface of that index, if there is one.
    ///
    /// # Errors
    /// As [`link`](Self::link).
    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let answer = self.request(&get_link_at(index));
        found(answer)
    }

    /// The interfaces that are in this bridge or bond.
    ///
    /// # Errors
    /// As [`link`](Self::link).
    pub fn ports(&mut self, master: u32) -> Result<Vec<Link>, NetlinkError> {
        let replies = self.list(&ports_of(master))?;
        let links = replies.iter().filter_map(Reply::link);
        Ok(links.filter(|link| link.master == Some(master)).collect())
    }

    /// Whether one of the interfaces in this bridge or bond is such. The list
    /// is read up to the first one, for which the socket is used up.
    ///
    /// # Errors
    /// As [`link`](Self::link).
    pub fn any_port(
        self,
        master: u32,
        is_such: impl Fn(&Link) -> bool,
    ) -> Result<bool, NetlinkError> {
        self.any(&ports_of(master), |reply| {
            let link = reply.link().filter(|link| link.master == Some(master));
            link.is_some_and(|link| is_such(&link))
        })
    }

    /// The interfaces of a kind, such as `ifb`.
    ///
    /// # Errors
    /// As [`link`](Self::link).
    pub fn links_of_kind(&mut self, kind: &str) -> Result<Vec<Link>, NetlinkError> {
        let request = get(0).with_nest(wire::IFLA_LINKINFO, &[], |info| {
            info.with_text(wire::IFLA_INFO_KIND, kind)
        });
        // A kernel that has none of it tells of all.
        let replies = self.list(&request)?;
        let links = replies.iter().filter_map(Reply::link);
        Ok(links.filter(|link| link.is(kind)).collect())
    }
}

/// Asks for the interfaces in a bridge or bond.
fn ports_of(master: u32) -> Message {
    Message::new(RTM_GETLINK, 0, &header(libc::AF_UNSPEC, 0))
        .with_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        .with_u32(wire::IFLA_MASTER, master)
}

/// The interface in the answer to a look-up.
///
/// # Errors
/// The kernel's refusal, but for that there is none.
pub fn found(answer: Result<Vec<Reply>, NetlinkError>) -> Result<Option<Link>, NetlinkError> {
    match answer {
        Ok(replies) => Ok(replies.iter().find_map(Reply::link)),
        Err(NetlinkError::Kernel(libc::ENODEV, _)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn find(values: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(values).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

fn accept_ra(families: &[u8]) -> Option<bool> {
    let conf = find(find(families, wire::AF_INET6.into())?, IFLA_INET6_CONF)?;
    let value = conf.chunks_exact(4).nth(DEVCONF_ACCEPT_RA)?;
    Some(u32_of(value)? != 0)
}

fn byte(value: Option<&[u8]>) -> u8 {
    value
        .and_then(|value| value.first())
        .copied()
        .unwrap_or_default()
}

fn bytes(value: Option<&[u8]>) -> Vec<u8> {
    value.map(<[u8]>::to_vec).unwrap_or_default()
}
