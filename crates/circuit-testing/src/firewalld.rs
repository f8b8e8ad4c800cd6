//! The real firewalld, on a system bus of its own in a node.

use std::{fs, path::PathBuf};

use crate::{
    Ends, PATIENCE, TestNode,
    bus::{Bus, start_logged},
    plugins::{cache, present},
    wait_until,
};

const LOG: &str = "firewalld.log";

/// Debian's firewalld, which `scripts/firewalld` has unpacked, as it is after its
/// installation, in a node. It ends with this value.
pub struct Firewalld<'a> {
    node: &'a TestNode,
    running: Option<Ends>,
    _bus: Bus,
}

impl<'a> Firewalld<'a> {
    /// Starts a bus and firewalld, and waits until it answers.
    ///
    /// # Panics
    /// When they are not there.
    #[track_caller]
    pub fn start(node: &'a TestNode) -> Self {
        let mut firewalld = Self {
            node,
            running: None,
            _bus: Bus::start(node),
        };
        firewalld.come_back();
        firewalld
    }

    /// Starts it again.
    #[track_caller]
    pub fn come_back(&mut self) {
        let mut daemon = self.node.command(&program("firewalld"));
        daemon.args(["--nofork", "--nopid", "--log-target", "console"]);
        self.running = Some(start_logged(self.node, &mut daemon, LOG));
        wait_until("firewalld runs", PATIENCE, || {
            self.node
                .run(&program("firewall-cmd"), &["--state"])
                .worked()
        });
    }

    /// Ends it as its service does, which takes its rules away.
    #[track_caller]
    pub fn end(&mut self) {
        self.node
            .run("pkill", &["-TERM", "-f", "sbin/firewalld"])
            .ok();
        let mut running = self.running.take().expect("it runs");
        running.0.wait().expect("it ends");
    }

    /// What `firewall-cmd` prints.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> String {
        let told = self.node.run(&program("firewall-cmd"), arguments).ok();
        told.trim().to_owned()
    }

    /// What it has written into its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.node.folder().join(LOG)).expect("a log")
    }
}

fn program(name: &str) -> String {
    let program: PathBuf = cache().join("firewalld").join(name);
    present(&program);
    program.display().to_string()
}
