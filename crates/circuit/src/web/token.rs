//! The secret that a browser has to know.

use std::fmt;
use std::hint::black_box;

/// Shorter ones could be guessed.
const SHORTEST: usize = 16;

/// A token of `--web-token-file`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Reads a token; white space around it does not count.
    ///
    /// # Errors
    /// Says what a token must be, and not what was given.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() < SHORTEST {
            return Err(format!(
                "a token has at least {SHORTEST} characters; `openssl rand -hex 16` makes one"
            ));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a token is one word of ASCII characters".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether that is the token, in a time that does not tell how much of it is.
    pub(super) fn is(&self, given: &[u8]) -> bool {
        let wanted = self.0.as_bytes();
        let mut differs = u8::from(wanted.len() != given.len());
        for (at, byte) in wanted.iter().enumerate() {
            let other = given.get(at).copied().unwrap_or_default();
            differs |= black_box(byte ^ other);
        }
        black_box(differs) == 0
    }

    /// In characters that a cookie may have.
    pub(super) fn in_hex(&self) -> String {
        self.0.bytes().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The bytes that hexadecimal digits stand for.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        (byte as char)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

/// A value of a query without its escapes. A plus stays one: tokens have no blanks.
pub(super) fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut read = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = (*byte == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(from_hex);
        match escaped.as_deref() {
            Some([escaped]) => {
                read.push(*escaped);
                at += 3;
            }
            _ => {
                read.push(*byte);
                at += 1;
            }
        }
    }
    read
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_the_token() {
        let token = Token::parse(" 0123456789abcdef\n").unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for other in [
            "",
            "0123456789abcdeF",
            "0123456789abcde",
            "0123456789abcdef0",
        ] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
        assert_eq!(from_hex(&token.in_hex()).unwrap(), b"0123456789abcdef");
        assert!(!format!("{token:?}").contains("0123"));
    }

    #[test]
    fn a_token_is_one_long_word() {
        for (text, part) in [
            ("", "at least 16"),
            ("0123456789abcde", "at least 16"),
            ("0123456789 abcdef", "one word"),
            ("0123456789abcdefé", "one word"),
        ] {
            let error = Token::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(unescaped("a%2Bb+c%3d"), b"a+b+c=");
        assert_eq!(unescaped("%"), b"%");
        assert_eq!(unescaped("%zz%2"), b"%zz%2");
        assert_eq!(unescaped("%é"), "%é".as_bytes());
        assert_eq!(from_hex("abc"), None);
    }
}
