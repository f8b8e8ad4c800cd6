//! What rules, chains, sets and elements carry for people and for us: their
//! comments, which `nft list ruleset` shows, and for rules a digest, by which
//! they are known again.

/// The type under which `nft` keeps comments, of everything but sets.
const COMMENT: u8 = 0;

/// The type of digests, which `nft` passes over.
const DIGEST: u8 = 0x7f;

/// The longest comment that `nft` reads from a file.
pub const COMMENT_MAX: usize = 127;

/// A comment, cut where `nft` would refuse it.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut end = text.len().min(COMMENT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut value = text.as_bytes()[..end].to_vec();
    value.push(0);
    entry(COMMENT, &value)
}

/// The orders of the bytes of a set's keys and of what they lead to.
pub(super) fn byte_orders(orders: [u32; 2]) -> Vec<u8> {
    let [keys, data] = orders.map(u32::to_ne_bytes);
    [entry(0, &keys), entry(1, &data)].concat()
}

/// A digest of what was written.
pub(super) fn digest(digest: u64) -> Vec<u8> {
    entry(DIGEST, &digest.to_be_bytes())
}

pub(super) fn read_comment(bytes: &[u8]) -> Option<String> {
    let value = find(bytes, COMMENT)?;
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    Some(String::from_utf8_lossy(value).into_owned())
}

pub(super) fn read_digest(bytes: &[u8]) -> Option<u64> {
    let bytes = find(bytes, DIGEST)?.try_into().ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// FNV-1a: the same in every version of this program, unlike the hashes of the
/// standard library.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn entry(kind: u8, value: &[u8]) -> Vec<u8> {
    // Values are shorter than what a byte counts: see `COMMENT_MAX`.
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    [&[kind, length], value].concat()
}

fn find(mut bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == wanted {
            return Some(value);
        }
        bytes = rest.get(value.len()..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn comments_are_read_back(text in "\\PC{0,60}") {
            prop_assume!(text.len() <= COMMENT_MAX);
            let bytes = [comment(&text), digest(7)].concat();
            prop_assert_eq!(read_comment(&bytes), Some(text));
            prop_assert_eq!(read_digest(&bytes), Some(7));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = (read_comment(&bytes), read_digest(&bytes));
        }
    }

    #[test]
    fn long_comments_are_cut_between_characters() {
        let text = "ä".repeat(100);
        let read = read_comment(&comment(&text)).unwrap();
        assert_eq!(read, "ä".repeat(COMMENT_MAX / 2));
    }
}
