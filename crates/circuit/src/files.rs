//! Files that are written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Puts a file that only its owner reads in the place of what is there: after a
/// crash or a power cut there is all of it or what was there before, and after the
/// return it is there for good. Its folder must be nobody else's to write.
///
/// # Errors
/// When the disk refuses.
pub fn replace(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".unfinished");
    let unfinished = path.with_file_name(name);
    // What a crash has left has the mode of then.
    let _ = fs::remove_file(&unfinished);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(data)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Writes over a file that is there, which needs no room. A crash may leave half of it, so
/// it is for a few bytes, which a disk takes at once.
///
/// # Errors
/// When there is none, and when the disk refuses.
pub(crate) fn overwrite(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(data)?;
    // Afterwards: what was cut off before might not be given back.
    let end = file.stream_position()?;
    file.set_len(end)?;
    file.sync_all()
}

/// Whether the disk had no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_was_there_is_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(dir.path().join("file.unfinished"), "half").unwrap();
        for text in ["one", "two"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("none/file"), b"").is_err());
    }

    #[test]
    fn what_is_written_over_is_nothing_else_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(overwrite(&path, b"1").is_err());
        replace(&path, b"longer").unwrap();
        for text in ["one", "three"] {
            overwrite(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
