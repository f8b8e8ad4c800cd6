//! Names that mean the same everywhere, which no other server is to be asked for (RFC
//! 6761, sections 6.3 and 6.4; RFC 6303, sections 4.2 and 4.4; RFC 7686).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::addresses;
use super::reverse::Place;
use super::{Asked, Data, Found};

const LOCALHOST: &str = "localhost";
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// What a special name leads to, given by its labels in small letters; none when it is
/// no such name. Containers without an `/etc/hosts` ask for `localhost` too.
pub fn special(labels: &[&str], asked: Asked) -> Option<Found> {
    if let Some(Place::Address(address)) = Place::read(labels) {
        return address
            .is_loopback()
            .then(|| reverse(labels, address, asked));
    }
    match *labels.last()? {
        LOCALHOST => {
            let mut found = Found::new(LOCALHOST, true);
            found.data = addresses(LOOPBACK.into_iter(), asked);
            Some(found)
        }
        apex @ ("invalid" | "onion") => Some(Found::new(apex, false)),
        _ => None,
    }
}

fn reverse(labels: &[&str], address: IpAddr, asked: Asked) -> Found {
    let mut found = Found::new(labels.join("."), LOOPBACK.contains(&address));
    if found.exists && matches!(asked, Asked::Pointer | Asked::Any) {
        found.data.push(Data::Pointer(LOCALHOST.to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str, asked: Asked) -> Option<(bool, Vec<Data>)> {
        let labels: Vec<&str> = name.split('.').collect();
        special(&labels, asked).map(|found| (found.exists, found.data))
    }

    #[test]
    fn localhost_is_the_asker_itself() {
        let [v4, v6] = LOOPBACK.map(Data::Address);
        for name in ["localhost", "web.localhost"] {
            assert_eq!(told(name, Asked::V4), Some((true, vec![v4.clone()])));
            assert_eq!(told(name, Asked::V6), Some((true, vec![v6.clone()])));
            assert_eq!(told(name, Asked::Service), Some((true, vec![])));
        }
        let pointer = Some((true, vec![Data::Pointer("localhost".to_owned())]));
        assert_eq!(told("1.0.0.127.in-addr.arpa", Asked::Pointer), pointer);
        let v6 = format!("1.{}ip6.arpa", "0.".repeat(31));
        assert_eq!(told(&v6, Asked::Pointer), pointer);
        assert_eq!(told(&v6, Asked::V4), Some((true, vec![])));
        let other = told("2.0.0.127.in-addr.arpa", Asked::Pointer);
        assert_eq!(other, Some((false, vec![])));
    }

    #[test]
    fn what_never_exists_is_told_so() {
        for name in ["invalid", "a.invalid", "x.onion"] {
            assert_eq!(told(name, Asked::V4), Some((false, vec![])), "{name}");
        }
        for name in ["localhost.example", "example", "1.0.0.10.in-addr.arpa", ""] {
            assert_eq!(told(name, Asked::V4), None, "{name}");
        }
    }
}
