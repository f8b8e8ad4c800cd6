//! Where networks are stored.

use std::path::{Path, PathBuf};

use circuit_core::{Error, Result};

/// The folder that a datastore's URL names.
///
/// # Errors
/// When the URL is not `local:///DIRECTORY`.
pub fn directory(url: &str) -> Result<PathBuf> {
    let path = url
        .strip_prefix("local://")
        .filter(|path| path.starts_with('/'));
    match path.map(Path::new) {
        Some(path) if path.components().any(|part| part.as_os_str() == "..") => Err(
            Error::invalid(format!("datastore {url:?} holds ..; give its plain path")),
        ),
        Some(path) => Ok(path.to_owned()),
        None => Err(Error::invalid(format!(
            "datastore {url:?} is of no known kind; give local:///DIRECTORY with an absolute path"
        ))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(
            directory("local:///var/lib/x").unwrap(),
            PathBuf::from("/var/lib/x")
        );
        for url in [
            "",
            "/var/lib",
            "local://rel",
            "local:rel",
            "etcd://a",
            "local:///a/../b",
        ] {
            assert!(directory(url).is_err(), "{url}");
        }
    }
}
