//! Parameters of the network that the kernel tells by netlink, which is cheaper
//! than files under `/proc/sys` where there are many namespaces.

use super::attributes::{self as wire, Reply, attributes, u32_of};
use super::message::Message;
use super::socket::{Netlink, NetlinkError};

const RTM_NEWNETCONF: u16 = 80;
const RTM_GETNETCONF: u16 = 82;

const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
/// What stands for all interfaces at once.
const NETCONFA_IFINDEX_ALL: i32 = -1;
/// The fixed part: the family, and what fills it up.
const HEADER: usize = 4;

impl Netlink {
    /// Whether the namespace forwards, in IPv4 or in IPv6: `ip_forward`, or
    /// `forwarding` of all interfaces.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or has no such protocol.
    pub fn forwards(&mut self, ipv6: bool) -> Result<bool, NetlinkError> {
        let replies = self.request(&get_forwarding(ipv6))?;
        replies
            .iter()
            .find_map(forwarding)
            .ok_or(NetlinkError::Malformed)
    }
}

fn get_forwarding(ipv6: bool) -> Message {
    let family = if ipv6 { wire::AF_INET6 } else { wire::AF_INET };
    Message::new(RTM_GETNETCONF, 0, &[family, 0, 0, 0])
        .with_u32(NETCONFA_IFINDEX, NETCONFA_IFINDEX_ALL.cast_unsigned())
}

fn forwarding(reply: &Reply) -> Option<bool> {
    reply.header::<HEADER>(RTM_NEWNETCONF)?;
    let mut values = attributes(reply.payload.get(HEADER..)?);
    let (_, value) = values.find(|(kind, _)| *kind == NETCONFA_FORWARDING)?;
    Some(u32_of(value)? != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_the_parameter_says_nothing() {
        let reply = |payload: &[u8]| Reply {
            kind: RTM_NEWNETCONF,
            payload: payload.to_vec(),
        };
        assert_eq!(forwarding(&reply(&[2, 0, 0, 0])), None);
        assert_eq!(forwarding(&reply(&[2])), None);
        let on = [2, 0, 0, 0, 8, 0, 2, 0, 1, 0, 0, 0];
        assert_eq!(forwarding(&reply(&on)), Some(true));
    }

    #[test]
    fn the_kernel_answers_as_its_files_do() {
        let mut socket = Netlink::open(None).unwrap();
        for (ipv6, file) in [
            (false, "ipv4/ip_forward"),
            (true, "ipv6/conf/all/forwarding"),
        ] {
            let told = std::fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap();
            assert_eq!(socket.forwards(ipv6).unwrap(), told.trim() == "1", "{file}");
        }
    }
}
