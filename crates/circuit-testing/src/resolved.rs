//! The real systemd-resolved in a node.

use std::{fs, path::PathBuf, thread};

use crate::{
    Ends, PATIENCE, TestNode,
    bus::{Bus, start_logged},
    plugins::{cache, present},
    wait_until,
};

const LOG: &str = "resolved.log";

/// Its user, whom it becomes.
const USER: &str = "systemd-resolve";

/// Debian's systemd-resolved, which `scripts/systemd` has unpacked. It ends with
/// this value.
pub struct Resolved<'a> {
    node: &'a TestNode,
    _running: Ends,
    _bus: Bus,
}

impl<'a> Resolved<'a> {
    /// Starts it with these lines of `resolved.conf`, and waits until it answers on
    /// 127.0.0.53.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn start(node: &'a TestNode, lines: &str) -> Self {
        add_user(node);
        let settings = format!("[Resolve]\n{lines}\n");
        let settings = node.file("resolved.conf", settings);
        node.run("mkdir", &["-p", "/run/systemd"]).ok();
        node.run("mount", &["-t", "tmpfs", "tmpfs", "/etc/systemd"])
            .ok();
        node.run("cp", &[&settings, "/etc/systemd/resolved.conf"])
            .ok();
        let bus = Bus::start(node);
        let mut daemon = node.command(&program("systemd-resolved"));
        let resolved = Self {
            node,
            _running: start_logged(node, &mut daemon, LOG),
            _bus: bus,
        };
        wait_until("systemd-resolved answers", PATIENCE, || {
            node.dig(&["@127.0.0.53", "+time=1", "+tries=1", "localhost"])
                .worked()
        });
        resolved
    }

    /// Runs `resolvectl`.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> String {
        self.node.run(&program("resolvectl"), arguments).ok()
    }
}

impl Drop for Resolved<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.node.folder().join(LOG));
            eprintln!("--- log of systemd-resolved\n{}", log.unwrap_or_default());
        }
    }
}

/// It takes nobody else's rights.
fn add_user(node: &TestNode) {
    for (file, line) in [
        ("/etc/passwd", format!("{USER}:x:64999:64999::/:/bin/false")),
        ("/etc/group", format!("{USER}:x:64999:")),
    ] {
        let add = format!(
            "mount -t tmpfs tmpfs /mnt && {{ cat {file}; echo {line}; }} > /mnt/file && \
             mount --bind /mnt/file {file} && umount /mnt"
        );
        node.run("sh", &["-c", &add]).ok();
    }
}

pub(crate) fn program(name: &str) -> String {
    let program: PathBuf = cache().join("systemd").join(name);
    present(&program);
    program.display().to_string()
}
