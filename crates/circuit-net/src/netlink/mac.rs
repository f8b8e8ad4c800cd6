//! Hardware addresses.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;

use circuit_core::Error;

/// The hardware address of an Ethernet interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// One of nobody's, another each time: locally administered, of one interface
    /// (IEEE 802). The kernel gives such too; but those, udev replaces a moment
    /// later, by its `MACAddressPolicy=`.
    pub fn random() -> Self {
        // The state is random, and another each time.
        let number = RandomState::new().build_hasher().finish();
        let [a, b, c, d, e, f, ..] = number.to_ne_bytes();
        Self([a & 0xfe | 0x02, b, c, d, e, f])
    }
}

impl FromStr for Mac {
    type Err = Error;

    /// Reads `02:00:00:00:00:01`, the same with `-`, and `0200.0000.0001`.
    fn from_str(text: &str) -> Result<Self, Error> {
        read(text).map(Self).ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is no hardware address: write six bytes as 02:00:00:00:00:01"
            ))
        })
    }
}

fn read(text: &str) -> Option<[u8; 6]> {
    let (separator, digits) = match text.as_bytes().get(2)? {
        b':' => (':', 2),
        b'-' => ('-', 2),
        _ => ('.', 4),
    };
    let mut hex = String::with_capacity(12);
    for group in text.split(separator) {
        if group.len() != digits || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        hex.push_str(group);
    }
    if hex.len() != 12 {
        return None;
    }
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(mac)
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_ways_of_writing_are_read() {
        let mac = Mac([2, 0xab, 0, 0, 0, 1]);
        for text in ["02:ab:00:00:00:01", "02-AB-00-00-00-01", "02ab.0000.0001"] {
            assert_eq!(text.parse::<Mac>().unwrap(), mac, "{text}");
        }
        for text in [
            "",
            "02",
            "02:ab:00:00:00",
            "02:ab:00:00:00:01:02",
            "2:ab:0:0:0:1",
            "02:ab:00:00:00:0g",
            "02:ab-00:00:00:01",
            "02ab00000001",
            "+2:ab:00:00:00:01",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn random_ones_differ_and_are_nobodys() {
        let some: std::collections::HashSet<Mac> = (0..100).map(|_| Mac::random()).collect();
        assert_eq!(some.len(), 100);
        assert!(some.iter().all(|mac| mac.0[0] & 3 == 2));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in any::<[u8; 6]>()) {
            prop_assert_eq!(Mac(bytes).to_string().parse::<Mac>().unwrap(), Mac(bytes));
        }

        #[test]
        fn arbitrary_texts_never_panic(text in ".{0,24}") {
            let _ = text.parse::<Mac>();
        }
    }
}
