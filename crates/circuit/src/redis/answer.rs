//! Reading what scripts answer: either protocol, and nothing that others may have
//! written is taken for granted.

use ::redis::Value;

use super::Failure;

/// The values of an array.
pub fn array(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// Bytes.
pub fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.as_bytes()),
        _ => None,
    }
}

/// A number that is not negative, also as its digits.
pub fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => digits(bytes(value)?),
    }
}

/// The number that these digits are.
pub fn digits(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The pairs of a hash or of a sorted set; what is no pair of bytes whose first
/// are UTF-8 is left out.
pub fn pairs(value: &Value) -> impl Iterator<Item = (String, Vec<u8>)> {
    let pair = |(name, value): (&Value, &Value)| {
        let name = String::from_utf8(bytes(name)?.to_vec()).ok()?;
        Some((name, bytes(value)?.to_vec()))
    };
    let flat: Vec<_> = match value {
        Value::Map(items) => items
            .iter()
            .map(|(name, value)| pair((name, value)))
            .collect(),
        other => array(other)
            .unwrap_or_default()
            .chunks_exact(2)
            .map(|two| pair((two.first()?, two.get(1)?)))
            .collect(),
    };
    flat.into_iter().flatten()
}

/// The failure about an answer that makes no sense.
pub fn unexpected(value: &Value) -> Failure {
    Failure::Refused(format!(
        "redis answers {value:?}, which makes no sense here"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_in_either_form_and_nonsense_is_left_out() {
        let text = |text: &[u8]| Value::BulkString(text.to_vec());
        let flat = Value::Array(vec![
            text(b"a"),
            text(b"1"),
            text(b"\xff"),
            text(b"2"),
            text(b"c"),
        ]);
        let map = Value::Map(vec![(text(b"a"), text(b"1")), (text(b"b"), Value::Nil)]);
        for value in [flat, map] {
            let read: Vec<_> = pairs(&value).collect();
            assert_eq!(read, [("a".to_owned(), b"1".to_vec())]);
        }
        assert_eq!(pairs(&Value::Nil).count(), 0);
    }

    #[test]
    fn numbers_are_not_negative() {
        assert_eq!(number(&Value::Int(-1)), None);
        assert_eq!(
            number(&Value::BulkString(b"1795581985091932".to_vec())),
            Some(1_795_581_985_091_932)
        );
        assert_eq!(number(&Value::BulkString(b"1e3".to_vec())), None);
    }
}
