//! Whether pins outlive the process that makes them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether what is mounted below a folder is there for the host too, whose first
/// process is this one's as well, and stays when this process ends. It does not where
/// a service or a container has mounts of its own that it only gets from the host.
/// Where that cannot be told, nothing is said against it.
pub fn pins_last(dir: &Path) -> bool {
    let namespace = |process: &str| fs::metadata(format!("/proc/{process}/ns/mnt"));
    let (Ok(own), Ok(host)) = (namespace("self"), namespace("1")) else {
        return true;
    };
    if (own.dev(), own.ino()) == (host.dev(), host.ino()) {
        return true;
    }
    let mounts = |process: &str| fs::read_to_string(format!("/proc/{process}/mountinfo"));
    let (Ok(own), Ok(host)) = (mounts("self"), mounts("1")) else {
        return true;
    };
    is_shared(&own, &host, dir)
}

/// Whether the mount that a folder is on is one of a group that the host has too
/// (proc_pid_mountinfo(5)).
fn is_shared(own: &str, host: &str, dir: &Path) -> bool {
    let dir = escaped(dir);
    let below = |mount: &str| {
        let rest = dir.strip_prefix(mount.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mounts = own.lines().filter_map(Mount::read);
    // Of those at one place the last one is seen.
    let over = mounts.filter(|mount| below(mount.at));
    let Some(over) = over.max_by_key(|mount| mount.at.trim_end_matches('/').len()) else {
        return true;
    };
    let groups: HashSet<&str> = host
        .lines()
        .filter_map(|line| Mount::read(line)?.group)
        .collect();
    over.group.is_some_and(|group| groups.contains(group))
}

/// A line of a process' mounts.
struct Mount<'a> {
    at: &'a str,
    /// Mounts are passed on among those of a group.
    group: Option<&'a str>,
}

impl<'a> Mount<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        let at = words.nth(4)?;
        let optional = words.skip(1).take_while(|word| *word != "-");
        let group = optional
            .filter_map(|word| word.strip_prefix("shared:"))
            .next();
        Some(Self { at, group })
    }
}

/// A path as the kernel writes it there.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for c in path.to_string_lossy().chars() {
        match c {
            ' ' | '\t' | '\n' | '\\' => text.push_str(&format!("\\{:03o}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "\
        22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
        24 22 0:21 / /run rw,nosuid shared:5 - tmpfs tmpfs rw\n\
        25 24 0:30 / /run/lock rw shared:6 - tmpfs tmpfs rw";

    #[test]
    fn the_group_of_the_mount_tells() {
        let with = |own: &str| is_shared(own, HOST, Path::new("/run/circuit/netns"));
        let root = "50 1 0:40 / / rw,relatime - overlay overlay rw\n";
        assert!(with(&format!(
            "{root}51 50 0:21 / /run rw shared:5 - tmpfs tmpfs rw"
        )));
        for other in [
            "51 50 0:21 / /run rw shared:9 master:5 - tmpfs tmpfs rw",
            "51 50 0:21 / /run rw master:5 - tmpfs tmpfs rw",
            "51 50 0:21 / /run rw - tmpfs tmpfs rw",
            "51 50 0:21 / /runs rw shared:5 - tmpfs tmpfs rw",
            "51 50 0:21 / /run rw shared:5 - tmpfs tmpfs rw\n\
             52 51 0:22 / /run/circuit rw - tmpfs tmpfs rw",
            "51 50 0:21 / /run rw shared:5 - tmpfs tmpfs rw\n\
             52 50 0:22 / /run rw - tmpfs tmpfs rw",
        ] {
            assert!(!with(&format!("{root}{other}")), "{other}");
        }
        assert!(is_shared(
            "50 1 0:20 / / rw shared:1 - ext4 x rw",
            HOST,
            Path::new("/a")
        ));
        let spaced = "50 1 0:20 / /a\\040b rw shared:1 - ext4 x rw";
        assert!(is_shared(spaced, HOST, Path::new("/a b/c")));
        assert!(is_shared("nonsense\n", HOST, Path::new("/a")));
    }

    #[test]
    fn on_the_host_itself_they_last() {
        assert!(pins_last(Path::new("/run")));
    }
}
