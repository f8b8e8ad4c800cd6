//! The names of the interfaces in a namespace.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use circuit_core::{Error, Result};

use super::in_netns;

/// A line for each interface of the thread's namespace. Reading it needs no
/// lock of the kernel's, for which a list by netlink would wait behind every
/// interface that is made or removed.
const TABLE: &str = "/proc/thread-self/net/dev";

/// The names of the interfaces in the namespace at a path.
///
/// # Errors
/// When the namespace cannot be entered, or the kernel does not tell.
pub fn interface_names(netns: impl AsRef<Path>) -> Result<Vec<String>> {
    in_netns(netns, || {
        // Enough for a few dozen at once; the kernel has more to do for each part.
        let mut table = Vec::with_capacity(4096);
        File::open(TABLE)
            .and_then(|mut file| file.read_to_end(&mut table))
            .map_err(|e| Error::unavailable(format!("cannot read {TABLE}: {e}")))?;
        Ok(names(&String::from_utf8_lossy(&table)))
    })
}

/// Names have no colon and no space; only interfaces have one behind the name.
fn names(table: &str) -> Vec<String> {
    let name = |line: &str| Some(line.split_once(':')?.0.trim().to_owned());
    table.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headings_are_no_interfaces() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes    packets|bytes\n    \
                     lo:       0 0\nveth12345678: 12 1\neth0.5:0 0\n";
        assert_eq!(names(table), ["lo", "veth12345678", "eth0.5"]);
        assert_eq!(names(""), [""; 0]);
    }
}
