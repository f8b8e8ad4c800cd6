//! One lease on disk: a file named after the address that holds its owner.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

/// What is between the container's id and the interface's name.
pub(super) const BREAK: &str = "\r\n";

/// A file that is longer is no lease.
const LONGEST: u64 = 4096;

/// The address that a file's name stands for.
pub(in crate::driver::ipam) fn address(name: &str) -> Option<IpAddr> {
    let ip: IpAddr = name.parse().ok()?;
    (ip.to_string() == name).then_some(ip)
}

/// The owner in a lease; none when it is empty, which is also what a power
/// failure makes of it.
pub(super) fn read(path: &Path) -> io::Result<Option<String>> {
    // Nothing here may make the reader wait, whatever it is.
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let data = file.metadata()?;
    if !data.is_file() || data.len() > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let text = io::read_to_string(file)?;
    let text = text.trim_matches('\0').trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// Writes a lease that appears complete or not at all, so that nothing that
/// kills this process leaves an address that nobody has.
///
/// It is not waited for until it is on the disk: after a power failure there
/// are no attachments any more, and an empty lease counts as none.
///
/// # Errors
/// [`AlreadyExists`](io::ErrorKind::AlreadyExists) when the address has one.
pub(super) fn write(dir: &Path, ip: IpAddr, owner: &str) -> io::Result<()> {
    let path = dir.join(ip.to_string());
    match write_nameless(dir, &path, owner) {
        // A file system, or a kernel, on which files must have a name.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            write_renamed(dir, ip, &path, owner)
        }
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) && dir.is_dir() => {
            // Without /proc a nameless file gets no name.
            write_renamed(dir, ip, &path, owner)
        }
        other => other,
    }
}

fn write_nameless(dir: &Path, path: &Path, owner: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE);
    let mut file = options.open(dir)?;
    file.write_all(owner.as_bytes())?;
    let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(
        AT_FDCWD,
        Path::new(&nameless),
        AT_FDCWD,
        path,
        AtFlags::AT_SYMLINK_FOLLOW,
    )?;
    Ok(())
}

/// Under a name that no reader of leases takes for an address. What a crash
/// leaves of it has the owner in it and goes with its lease, or is overwritten.
fn write_renamed(dir: &Path, ip: IpAddr, path: &Path, owner: &str) -> io::Result<()> {
    let draft = dir.join(format!(".{ip}"));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(&draft)
        .and_then(|mut file| file.write_all(owner.as_bytes()))
        // Unlike a rename, this does not replace.
        .and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_addresses_as_they_are_written() {
        assert!(address("10.0.0.1").is_some() && address("fd00::1").is_some());
        for name in [
            "lock",
            "last_reserved_ip.0",
            "10.0.0.01",
            "FD00::1",
            ".10.0.0.1",
            "",
        ] {
            assert_eq!(address(name), None, "{name}");
        }
    }

    #[test]
    fn both_ways_of_writing_leave_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().unwrap(), "fd00::2".parse().unwrap());
        write(dir.path(), one, "a\r\neth0").unwrap();
        write_renamed(dir.path(), two, &dir.path().join("fd00::2"), "a\r\neth0").unwrap();
        for ip in [one, two] {
            let path = dir.path().join(ip.to_string());
            assert_eq!(fs::read_to_string(&path).unwrap(), "a\r\neth0");
            assert_eq!(read(&path).unwrap().as_deref(), Some("a\r\neth0"));
            let again = [
                write(dir.path(), ip, "b\r\neth0"),
                write_renamed(dir.path(), ip, &path, "b\r\neth0"),
            ];
            for result in again {
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            }
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(write(&dir.path().join("none"), one, "a").is_err());
    }

    #[test]
    fn what_is_no_lease_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10.0.0.1");
        for (text, owner) in [
            ("", None),
            (" \n", None),
            ("\0\0\0", None),
            ("a", Some("a")),
            ("a\r\neth0\n", Some("a\r\neth0")),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path).unwrap().as_deref(), owner, "{text:?}");
        }
        fs::write(&path, vec![b'a'; 5000]).unwrap();
        assert!(read(&path).is_err() && read(dir.path()).is_err());
    }
}
