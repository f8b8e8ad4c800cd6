//! The sysctls that the machine's owner allows.

use std::fs;
use std::io;
use std::path::Path;

use circuit_core::cni::{ErrorReport, code};
use regex::Regex;

use super::super::Answer;

/// Refuses a sysctl that no line of the file allows: each is a regular
/// expression that is looked for in the key. Without a file, all are allowed.
pub(super) fn check<'a>(path: &Path, keys: impl Iterator<Item = &'a String>) -> Answer<()> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => {
            return Err(ErrorReport::new(
                code::IO_FAILURE,
                format!("cannot read {}: {e}", path.display()),
            ));
        }
    };
    let mut keys = keys.peekable();
    if keys.peek().is_none() {
        return Ok(());
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let allowed: Vec<Regex> = lines
        .map(|line| {
            Regex::new(line).map_err(|_| {
                ErrorReport::new(
                    code::OTHER,
                    format!("{}: {line:?} is no regular expression", path.display()),
                )
            })
        })
        .collect::<Answer<_>>()?;
    match keys.find(|key| !allowed.iter().any(|line| line.is_match(key))) {
        None => Ok(()),
        Some(key) => Err(ErrorReport::new(
            code::OTHER,
            format!("sysctl {key} is not allowed: add it to {}", path.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_needs_a_line_when_there_are_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("allowlist.conf");
        let keys = ["net.core.somaxconn".to_owned()];
        assert!(check(&path, keys.iter()).is_ok());
        for (text, allowed) in [
            ("", false),
            ("net.ipv4", false),
            ("\n ^net\\.core\\..*$ \nx\n", true),
            ("somaxconn", true),
            ("(", false),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(check(&path, keys.iter()).is_ok(), allowed, "{text:?}");
            assert!(check(&path, [].iter()).is_ok());
        }
    }
}
