//! A record as a line of the journal: a checksum, a space, the JSON.

use circuit_core::attachment::ContainerRecord;

/// What tells which version of the journal this is; the first line.
pub(super) const HEADER: &str = "circuit-journal 1\n";

/// What a journal says.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// The records, later lines after earlier ones.
    pub(super) records: Vec<ContainerRecord>,
    /// Lines that cannot be read although they were written to their end, with the
    /// reason.
    pub(super) damaged: Vec<(usize, String)>,
    /// Where the last whole line ends.
    pub(super) end: u64,
}

pub(super) fn encode(record: &ContainerRecord) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_vec(record)?;
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

/// Reads everything up to the zeros that are written ahead. A line without an end is
/// what a crash leaves of something nobody was told of.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let end = bytes.iter().position(|byte| *byte == 0);
    let text = &bytes[..end.unwrap_or(bytes.len())];
    let whole = text.iter().rposition(|byte| *byte == b'\n');
    let mut parsed = Parsed {
        end: whole.map_or(0, |at| at as u64 + 1),
        ..Parsed::default()
    };
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    for (number, line) in lines.enumerate().skip(1) {
        let ended = line.strip_suffix(b"\n");
        if ended == Some(b"") {
            continue;
        }
        match decode(ended.unwrap_or(line)) {
            Ok(record) => parsed.records.push(record),
            Err(reason) if ended.is_some() => parsed.damaged.push((number + 1, reason)),
            Err(_) => {}
        }
    }
    parsed
}

fn decode(line: &[u8]) -> Result<ContainerRecord, String> {
    let (sum, json) = line
        .split_at_checked(9)
        .ok_or_else(|| "it is cut short".to_owned())?;
    let sum = std::str::from_utf8(sum)
        .ok()
        .and_then(|sum| u32::from_str_radix(sum.trim_end(), 16).ok());
    if sum != Some(crc32fast::hash(json)) {
        return Err("its checksum is wrong".to_owned());
    }
    serde_json::from_slice(json).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn journal(names: &[&str]) -> Vec<u8> {
        let mut bytes = HEADER.as_bytes().to_vec();
        for name in names {
            bytes.extend(encode(&ContainerRecord::new(*name)).unwrap());
        }
        bytes
    }

    fn names(parsed: &Parsed) -> Vec<&str> {
        parsed
            .records
            .iter()
            .map(|r| r.container.as_str())
            .collect()
    }

    #[test]
    fn lines_are_read_up_to_the_zeros() {
        let mut bytes = journal(&["a", "b"]);
        bytes.extend([0; 100]);
        bytes.extend(b"of a longer journal before this one\n");
        let parsed = parse(&bytes);
        assert_eq!(names(&parsed), ["a", "b"]);
        assert!(parsed.damaged.is_empty());
    }

    #[test]
    fn a_damaged_line_spoils_only_itself() {
        let mut bytes = journal(&["a", "b", "c"]);
        let at = bytes.windows(3).position(|w| w == b"\"b\"").unwrap();
        bytes[at + 1] = b'x';
        let parsed = parse(&bytes);
        assert_eq!(names(&parsed), ["a", "c"]);
        assert_eq!(parsed.damaged, [(3, "its checksum is wrong".to_owned())]);
    }

    #[test]
    fn a_damaged_last_line_is_told_of_too() {
        let mut bytes = journal(&["a", "b"]);
        let at = bytes.windows(3).position(|w| w == b"\"b\"").unwrap();
        bytes[at + 1] = b'x';
        bytes.extend([0; 100]);
        let parsed = parse(&bytes);
        assert_eq!(names(&parsed), ["a"]);
        assert_eq!(parsed.damaged, [(3, "its checksum is wrong".to_owned())]);
    }

    proptest! {
        #[test]
        fn whatever_is_cut_off_the_rest_is_read(cut in 0..400usize) {
            let whole = journal(&["a", "b", "c"]);
            let cut = cut.min(whole.len());
            let parsed = parse(&whole[..whole.len() - cut]);
            prop_assert!(parsed.damaged.is_empty());
            prop_assert!(["a", "b", "c"].starts_with(&names(&parsed)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
