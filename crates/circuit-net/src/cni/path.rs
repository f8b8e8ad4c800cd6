//! Where plugins are.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::CniError;

/// The folders in which plugins are looked for, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginPath {
    dirs: Vec<PathBuf>,
}

impl PluginPath {
    /// A search path of these folders.
    pub fn new(dirs: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self {
            dirs: dirs.into_iter().map(Into::into).collect(),
        }
    }

    /// A search path written with colons.
    pub fn parse(text: &str) -> Self {
        Self::new(text.split(':').filter(|dir| !dir.is_empty()))
    }

    /// The folders.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The path of a plugin's executable.
    ///
    /// # Errors
    /// [`CniError::Missing`] when no folder has it.
    pub fn find(&self, kind: &str) -> Result<PathBuf, CniError> {
        let plain = !kind.is_empty() && !kind.starts_with('.') && !kind.contains('/');
        let found = self
            .dirs
            .iter()
            .map(|dir| dir.join(kind))
            .find(|path| is_executable(path));
        found.filter(|_| plain).ok_or_else(|| CniError::Missing {
            plugin: kind.to_owned(),
            dirs: self.dirs.clone(),
        })
    }

    /// The folders joined with colons, as plugins get them in `CNI_PATH`.
    pub(super) fn joined(&self) -> OsString {
        let mut joined = OsString::new();
        for (index, dir) in self.dirs.iter().enumerate() {
            if index > 0 {
                joined.push(":");
            }
            joined.push(dir);
        }
        joined
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_with_an_executable_wins() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(a.path().join("x"), "").unwrap();
        std::fs::write(b.path().join("x"), "").unwrap();
        let path = PluginPath::new([a.path(), b.path()]);
        let error = path.find("x").unwrap_err().to_string();
        assert!(error.contains("plugin x") && error.contains(&*a.path().to_string_lossy()));
        std::fs::set_permissions(b.path().join("x"), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(path.find("x").unwrap(), b.path().join("x"));
        assert!(path.find("../x").is_err() && path.find("").is_err());
    }

    #[test]
    fn folders_are_joined_with_colons() {
        assert_eq!(
            PluginPath::parse("/a::/b:").joined(),
            OsString::from("/a:/b")
        );
    }
}
