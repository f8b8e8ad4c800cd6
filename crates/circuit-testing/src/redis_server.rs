//! A real Redis for one test, on a Unix socket in a folder of its own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::{PATIENCE, wait_until};

/// A Redis that keeps nothing on disk: one that was killed comes back empty.
/// It ends with this value.
pub struct RedisServer {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one, and waits until it answers.
    pub fn start() -> Self {
        let mut server = Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
            child: None,
        };
        server.come_back();
        server
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_file(self.socket());
        }
    }

    /// Starts it again after [`kill`](Self::kill), empty.
    pub fn come_back(&mut self) {
        self.kill();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, which scripts/setup installs");
        self.child = Some(child);
        wait_until("redis answers", PATIENCE, || {
            UnixStream::connect(self.socket()).is_ok()
        });
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
