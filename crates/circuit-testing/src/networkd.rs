//! The real systemd-networkd in a node.

use std::{fs, thread};

use crate::{Ends, PATIENCE, TestNode, bus::start_logged, wait_until};

const LOG: &str = "networkd.log";
const PROGRAM: &str = "/lib/systemd/systemd-networkd";

/// The machine's systemd-networkd, for the interfaces of a node. It ends with this
/// value.
pub struct Networkd<'a> {
    node: &'a TestNode,
    _running: Ends,
}

impl<'a> Networkd<'a> {
    /// Starts it with this one file of settings, and waits until it has looked at the
    /// interfaces that are there. It needs [`Udev`](crate::Udev), which tells it of
    /// others.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn start(node: &'a TestNode, file: &str) -> Self {
        let file = node.file("all.network", file);
        node.run("mkdir", &["-p", "/run/systemd/network"]).ok();
        node.run("cp", &[&file, "/run/systemd/network/10-all.network"])
            .ok();
        let networkd = Self {
            node,
            _running: start_logged(node, &mut node.command(PROGRAM), LOG),
        };
        wait_until("systemd-networkd has looked", PATIENCE, || {
            node.run("test", &["-s", "/run/systemd/netif/links/1"])
                .worked()
        });
        networkd
    }
}

impl Drop for Networkd<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.node.folder().join(LOG));
            eprintln!("--- log of systemd-networkd\n{}", log.unwrap_or_default());
        }
    }
}
