//! A system bus of a node's own, for programs that cannot do without one.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use crate::{Ends, PATIENCE, TestNode, wait_until};

/// Where programs look for it.
const SOCKET: &str = "/run/dbus/system_bus_socket";

/// It lets everybody do everything.
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC
  "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// A bus, which ends with this value.
pub(crate) struct Bus {
    _running: Ends,
}

impl Bus {
    /// Starts it, and waits until it is there.
    #[track_caller]
    pub(crate) fn start(node: &TestNode) -> Self {
        node.run("mkdir", &["-p", "/run/dbus"]).ok();
        let file = node.file("bus.conf", CONFIG);
        let bus = node
            .command("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--config-file", &file])
            .stdout(Stdio::null())
            .stderr(log(node, "bus.log"))
            .spawn()
            .expect("dbus-daemon: run scripts/setup");
        let running = Ends(bus);
        wait_until("the system bus is there", PATIENCE, || {
            node.run("test", &["-S", SOCKET]).worked()
        });
        Self { _running: running }
    }
}

/// Starts a program, with all that it says in a file of that name in the node's folder.
#[track_caller]
pub(crate) fn start_logged(node: &TestNode, program: &mut Command, name: &str) -> Ends {
    program.stdout(log(node, name)).stderr(log(node, name));
    let started = program.spawn();
    Ends(started.unwrap_or_else(|e| panic!("{program:?}: {e}: run scripts/setup")))
}

/// A file in the node's folder to write behind what is there.
fn log(node: &TestNode, name: &str) -> File {
    let path = node.folder().join(name);
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("a log")
}
