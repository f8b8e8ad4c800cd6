//! Texts for people: one line each, and in the words of the other errors.

use std::io;

/// An input/output error without its number and with a small first letter.
#[must_use]
pub fn io_error(error: &io::Error) -> String {
    let text = error.to_string();
    let text = match text.rfind(" (os error ") {
        Some(at) => &text[..at],
        None => &text,
    };
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "unknown error".into(),
    }
}

/// The text in one line: a line that is not ended by a mark is ended by `;`,
/// and control characters, which could move a terminal's cursor, become `?`.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if !joined.is_empty() {
            joined.push_str(if joined.ends_with([';', ':', ',', '.']) {
                " "
            } else {
                "; "
            });
        }
        joined.push_str(line);
    }
    joined.replace('\t', " ").replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_read_like_the_others() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(io_error(&error), "no such file or directory");
        assert_eq!(io_error(&io::Error::other("")), "unknown error");
    }

    #[test]
    fn lines_are_joined_and_control_characters_are_tamed() {
        assert_eq!(one_line("a\n  b\r\n\nc\t\x1b[1m\n"), "a; b; c ?[1m");
        assert_eq!(one_line("plain"), "plain");
        assert_eq!(one_line("it failed:\nno;\nnever"), "it failed: no; never");
    }
}
