//! A node's own `circuit server`.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use nix::sys::signal::Signal;

use crate::{
    command::{PATIENCE, wait_for, wait_until},
    holder::Holder,
    process::{children, signal},
};

/// The daemon's socket inside a node; also its default.
pub(crate) const SOCKET: &str = "/run/circuit/circuit.sock";

/// A running daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    nsenter: Child,
    pid: u32,
}

/// Where a node's daemons write, one after the other.
pub(crate) fn log(holder: &Holder) -> PathBuf {
    holder.dir().join("circuit.log")
}

impl Daemon {
    /// Starts it and waits until its socket takes connections.
    pub(crate) fn start(holder: &Holder, program: &Path, arguments: &[String]) -> Self {
        let path = log(holder);
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .expect("a log in the node's folder");
        let _ = writeln!(file, "--- circuit {}", arguments.join(" "));
        let socket = holder.path(SOCKET);
        // The one of a killed daemon would look ready.
        let _ = fs::remove_file(&socket);
        let nsenter = holder
            .command(&program.to_string_lossy())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle of the log"))
            .stderr(file)
            .spawn()
            .expect("nsenter");
        let parent = nsenter.id();
        let mut daemon = Self { nsenter, pid: 0 };
        wait_until("the daemon listens", PATIENCE, || {
            if let Ok(Some(status)) = daemon.nsenter.try_wait() {
                let log = fs::read_to_string(&path).unwrap_or_default();
                panic!("the daemon ended with {status}:\n{log}");
            }
            UnixStream::connect(&socket).is_ok()
        });
        daemon.pid = wait_for("the daemon's process", PATIENCE, || {
            children(parent).first().copied()
        });
        daemon
    }

    /// Its pid, as the machine sees it.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal and waits for its end: its exit code, none when the
    /// signal ended it.
    pub(crate) fn end(mut self, with: Signal) -> Option<i32> {
        signal(self.pid, with);
        let status = wait_for("the daemon ends", PATIENCE, || {
            self.nsenter.try_wait().expect("a child of this process")
        });
        status.code()
    }

    /// Waits for the end of one that was killed together with its node.
    pub(crate) fn reap(mut self) {
        let _ = self.nsenter.wait();
    }

    /// True while it runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.nsenter.try_wait(), Ok(None))
    }
}
