//! Programs of this host that listen, as the kernel lists their sockets: proc(5),
//! `/proc/net/tcp` and the others.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use circuit_core::{Error, Result};

/// The states of sockets that wait for anybody: `TCP_LISTEN`, and `TCP_CLOSE` of UDP
/// sockets that are not connected.
const WAITING: [(&str, &str); 2] = [("tcp", "0A"), ("udp", "07")];

/// A socket that waits for anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Where; unspecified when at each address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// Everything that listens in the namespace of the calling thread.
///
/// # Errors
/// When the kernel's lists cannot be read.
pub fn listening() -> Result<Vec<Listening>> {
    let mut all = Vec::new();
    for (protocol, state) in WAITING {
        for family in ["", "6"] {
            let path = format!("/proc/thread-self/net/{protocol}{family}");
            let text = match fs::read_to_string(&path) {
                // A kernel without IPv6 has no such lists.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                text => text.map_err(|e| Error::internal(format!("cannot read {path}: {e}")))?,
            };
            let lines = text.lines().skip(1);
            all.extend(lines.filter_map(|line| read(protocol, state, line)));
        }
    }
    Ok(all)
}

fn read(protocol: &'static str, state: &str, line: &str) -> Option<Listening> {
    let mut words = line.split_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    (words.nth(1)? == state).then_some(())?;
    Some(Listening {
        protocol,
        address: address_of(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
    })
}

/// Each four bytes of an address are written as a number of this machine.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn sockets_that_wait_are_listed() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let caller = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let all = listening().unwrap();
        for (protocol, at) in [("tcp", tcp.local_addr()), ("udp", udp.local_addr())] {
            let at = at.unwrap();
            let wanted = Listening {
                protocol,
                address: at.ip(),
                port: at.port(),
            };
            assert!(all.contains(&wanted), "no {wanted:?} in {all:?}");
        }
        let port = caller.local_addr().unwrap().port();
        assert!(!all.iter().any(|l| l.port == port && l.protocol == "tcp"));
    }

    #[test]
    fn addresses_of_both_families() {
        let number = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let four = number([192, 0, 2, 7]);
        assert_eq!(address_of(&four), Some("192.0.2.7".parse().unwrap()));
        let six: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let octets = six.octets();
        let (words, _) = octets.as_chunks::<4>();
        let text: String = words.iter().map(|word| number(*word)).collect();
        assert_eq!(address_of(&text), Some(six.into()));
        for wrong in ["", "0", "0000000g", "00000000000000000000000000000000é"] {
            assert_eq!(address_of(wrong), None, "{wrong}");
        }
        for line in ["", " 0:", " 0: 00000000:0050", " 0: 00000000 0 0A"] {
            assert_eq!(read("tcp", "0A", line), None, "{line}");
        }
    }
}
