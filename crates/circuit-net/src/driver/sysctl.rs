//! Kernel parameters, of the namespace of the calling thread.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where a parameter is, such as `net/ipv4/ip_forward`. Slashes are between
/// its parts, as names of interfaces may have dots.
fn path_of(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

/// Sets a parameter.
pub(super) fn set(key: &str, value: &str) -> io::Result<()> {
    fs::write(path_of(key), value)
}

/// Sets a parameter, where there is one and it may be set.
pub(super) fn try_set(key: &str, value: &str) {
    if let Err(error) = set(key, value) {
        tracing::debug!(key, value, %error, "a kernel parameter stays as it is");
    }
}

/// Reads a parameter.
pub(super) fn get(key: &str) -> io::Result<String> {
    fs::read_to_string(path_of(key)).map(|text| text.trim().to_owned())
}
