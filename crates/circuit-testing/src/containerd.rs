//! A node's own containerd.

use std::{
    fs::{self, OpenOptions},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Stdio},
};

use nix::sys::signal::Signal;

use crate::{
    command::{PATIENCE, wait_for, wait_until},
    cri,
    holder::Holder,
    plugins::{cache, present},
    process::{children, signal},
};

/// Where containerd listens inside a node; also its default.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// A version of containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containerd {
    /// Debian 12's package: 1.6.
    System,
    /// 2.1, unpacked by `scripts/fetch-test-deps`.
    Newer,
}

impl Containerd {
    fn folder(self) -> PathBuf {
        match self {
            Self::System => PathBuf::from("/usr/bin"),
            Self::Newer => cache().join("containerd-2.1/bin"),
        }
    }

    pub(crate) fn program(self, name: &str) -> String {
        let program = self.folder().join(name);
        present(&program);
        program.to_string_lossy().into_owned()
    }
}

/// The configuration. NRI is of no use here, nor CRI but where it is asked for;
/// containerd's own restarts would race with those under test, and the `opt` plugin
/// would make folders on the machine.
fn configuration(holder: &Holder, cri: bool) -> String {
    let dir = holder.dir().join("containerd");
    let dir = dir.display();
    let (without, with) = match cri {
        true => (String::new(), cri::configuration(holder)),
        false => (cri::DISABLED.to_owned(), String::new()),
    };
    format!(
        r#"version = 2
root = "{dir}/root"
state = "/run/containerd"
disabled_plugins = [{without}
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.restart",
  "io.containerd.monitor.container.v1.restart", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.blockfile",
]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
{with}"#
    )
}

/// A running containerd.
#[derive(Debug)]
pub(crate) struct Running {
    nsenter: Child,
    pid: u32,
}

impl Running {
    pub(crate) fn start(holder: &Holder, version: Containerd, cri: bool) -> Self {
        let dir = holder.dir().join("containerd");
        let config = dir.join("config.toml");
        fs::write(&config, configuration(holder, cri)).expect("a file in the node's folder");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .expect("a log in the node's folder");
        // Its shim is looked for on PATH.
        let path = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            version.folder().display()
        );
        let mut nsenter = holder
            .command(&version.program("containerd"))
            .arg("--config")
            .arg(&config)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .expect("nsenter");
        let socket = holder.path(SOCKET);
        wait_until("containerd serves", PATIENCE, || {
            if let Ok(Some(status)) = nsenter.try_wait() {
                let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                panic!("containerd ended with {status}:\n{log}");
            }
            UnixStream::connect(&socket).is_ok()
        });
        let parent = nsenter.id();
        let pid = wait_for("containerd's process", PATIENCE, || {
            children(parent).first().copied()
        });
        Self { nsenter, pid }
    }

    /// Waits for the end of one that was killed together with its node.
    pub(crate) fn reap(mut self) {
        let _ = self.nsenter.wait();
    }

    /// Ends it; its shims and containers live on.
    pub(crate) fn end(mut self, with: Signal) {
        signal(self.pid, with);
        let _ = self.nsenter.wait();
    }
}
