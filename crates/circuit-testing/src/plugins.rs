//! CNI plugins to run the tests on, and where downloads are kept.

use std::path::{Path, PathBuf};

/// A version of the stock CNI plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugins {
    /// Debian 12's package: 1.1.1.
    System,
    /// 1.9.1, unpacked by `scripts/fetch-test-deps`.
    Newer,
    /// 1.10.0, built by `scripts/cni-plugins`. Tests that need them have `cni_plugins`
    /// in their name.
    Newest,
    /// No executables at all.
    None,
}

impl Plugins {
    /// The folder with the executables.
    pub fn folder(self) -> PathBuf {
        let folder = match self {
            Self::System => PathBuf::from("/usr/lib/cni"),
            Self::Newer => cache().join("cni-1.9/bin"),
            Self::Newest => cache().join("cni-1.10/bin"),
            Self::None => return PathBuf::from("/nonexistent"),
        };
        present(&folder.join("bridge"));
        folder
    }
}

/// Where `scripts/fetch-test-deps` keeps what it unpacks.
pub(crate) fn cache() -> PathBuf {
    match std::env::var_os("CIRCUIT_CACHE") {
        Some(folder) => folder.into(),
        None => {
            let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
            crates
                .and_then(Path::parent)
                .expect("a folder in crates/")
                .join(".cache")
        }
    }
}

pub(crate) fn present(file: &Path) {
    assert!(
        file.exists(),
        "{} is missing: run scripts/setup",
        file.display()
    );
}
