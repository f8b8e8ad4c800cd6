//! Whose executables run.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use circuit_net::driver::DRIVERS;
use circuit_testing::Plugins;

/// Whose executables a world runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The stock plugins 1.1.1.
    Old,
    /// The stock plugins 1.9.1.
    New,
    /// The stock plugins 1.10.0.
    Newest,
    /// The native drivers as executables.
    Ours,
}

impl Side {
    /// `CNI_PATH`; called within the world, where that of ours is made.
    pub(crate) fn folder(self) -> PathBuf {
        match self {
            Self::Old => Plugins::System.folder(),
            Self::New => Plugins::Newer.folder(),
            Self::Newest => Plugins::Newest.folder(),
            Self::Ours => ours(Path::new("/run/native")),
        }
    }

    /// The version of the stock plugins, or whose they are.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Old => "1.1.1",
            Self::New => "1.9.1",
            Self::Newest => "1.10.0",
            Self::Ours => "ours",
        }
    }
}

/// The types that are native.
pub(crate) fn native_kinds() -> Vec<&'static str> {
    DRIVERS.iter().map(|(kind, _)| *kind).collect()
}

/// A folder with the native drivers under the names of their types.
fn ours(folder: &Path) -> PathBuf {
    let executable = executable();
    std::fs::create_dir_all(folder).unwrap();
    for kind in native_kinds() {
        let link = folder.join(kind);
        if !link.exists() {
            symlink(&executable, link).unwrap();
        }
    }
    folder.to_owned()
}

/// The example that serves the drivers, which `cargo test` builds beside the
/// tests unless it is told which of them to build.
fn executable() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples/cni");
    let remedy = "run cargo build -p circuit-net --example cni";
    assert!(path.exists(), "{} is missing: {remedy}", path.display());
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    assert!(
        newest(&sources) <= changed(&path),
        "{} is older than its source: {remedy}",
        path.display()
    );
    path
}

fn newest(folder: &Path) -> SystemTime {
    let entries = std::fs::read_dir(folder).unwrap();
    let times = entries.map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            newest(&path)
        } else {
            changed(&path)
        }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn changed(path: &Path) -> SystemTime {
    path.metadata().unwrap().modified().unwrap()
}
