//! Names of containers and networks as labels of DNS (RFC 1035, section 2.3.1).

use std::borrow::Cow;

/// The longest label (RFC 1035, section 2.3.4).
const LONGEST: usize = 63;
/// How much is kept of a name that is longer; a hyphen and eight digits follow.
const KEPT: usize = LONGEST - 9;

/// The label under which DNS knows a name: in small letters, with a hyphen for
/// every character but letters, digits, hyphens and underscores. Of a name that
/// is too long the beginning is kept, and a checksum of all of it.
pub fn label(name: &str) -> Cow<'_, str> {
    if name.len() <= LONGEST && !name.is_empty() && name.bytes().all(is_plain) {
        return Cow::Borrowed(name);
    }
    let mut label: String = name.chars().map(plain).collect();
    if label.is_empty() {
        label.push('-');
    }
    if label.len() > LONGEST {
        label.truncate(KEPT);
        label.push_str(&format!("-{:08x}", checksum(name.as_bytes())));
    }
    Cow::Owned(label)
}

/// A network's name in a name of DNS, where it may be of several labels: as it
/// is, in small letters, or as one [`label`] when it cannot be that.
pub fn network_labels(name: &str) -> Cow<'_, str> {
    let fits = |label: &str| !label.is_empty() && label.len() <= LONGEST;
    let plain = |byte: u8| is_plain(byte) || byte == b'.' || byte.is_ascii_uppercase();
    if !name.bytes().all(plain) || !name.split('.').all(fits) || name.len() > 120 {
        return label(name);
    }
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
}

fn plain(c: char) -> char {
    match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') => c,
        _ => '-',
    }
}

/// FNV-1a: the same on every node, for ever.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}
