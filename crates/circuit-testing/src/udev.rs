//! The real udev in a node.

use std::fs;

use crate::{
    Ends, PATIENCE, TestNode, bus::start_logged, plugins::cache, resolved::program, wait_until,
};

/// Shows the devices of the node.
const SYSFS: &str = "mount -t sysfs sysfs /sys";

/// Debian's udev with its rules, which `scripts/systemd` has unpacked, for the
/// interfaces of a node. It ends with this value.
pub struct Udev<'a> {
    node: &'a TestNode,
    _running: Ends,
}

impl<'a> Udev<'a> {
    /// Starts it, and waits until it follows what the kernel tells.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn start(node: &'a TestNode) -> Self {
        let root = cache().join("systemd/root");
        for (from, to) in [
            ("lib/udev", "/usr/lib/udev"),
            ("lib/systemd/network", "/usr/lib/systemd/network"),
        ] {
            let from = fs::canonicalize(root.join(from)).expect("udev: run scripts/setup");
            node.run("mkdir", &["-p", to]).ok();
            node.run("mount", &["--bind", &from.to_string_lossy(), to])
                .ok();
        }
        node.run("mkdir", &["-p", "/run/udev"]).ok();
        // Its own view of the devices, beside that of whoever keeps cgroups there.
        let start = format!("{SYSFS} && exec {}", program("systemd-udevd"));
        let mut daemon = node.command("unshare");
        daemon.args(["--mount", "sh", "-c", &start]);
        let udev = Self {
            node,
            _running: start_logged(node, &mut daemon, "udev.log"),
        };
        wait_until("udev answers", PATIENCE, || {
            node.run(&program("udevadm"), &["control", "--ping"])
                .worked()
        });
        udev
    }

    /// Whether an interface has a hardware address that somebody has set, and not the
    /// kernel's.
    #[track_caller]
    pub fn has_set_address(&self, interface: &str) -> bool {
        let read = format!("{SYSFS} && cat /sys/class/net/{interface}/addr_assign_type");
        let ran = self.node.run("unshare", &["--mount", "sh", "-c", &read]);
        ran.ok().trim() == "3"
    }

    /// Has it do nothing until [`settle`](Self::settle), as on a slow machine.
    #[track_caller]
    pub fn hold(&self) {
        self.node
            .run(&program("udevadm"), &["control", "--stop-exec-queue"])
            .ok();
    }

    /// Waits until it has done all that there is to do.
    #[track_caller]
    pub fn settle(&self) {
        self.node
            .run(&program("udevadm"), &["control", "--start-exec-queue"])
            .ok();
        self.node
            .run(&program("udevadm"), &["settle", "--timeout=30"])
            .ok();
    }
}
