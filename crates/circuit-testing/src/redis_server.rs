//! Real Redis servers for tests, each in a folder of its own.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::plugins::cache;
use crate::{PATIENCE, wait_until};

/// A Redis that keeps nothing on disk: one that was killed comes back empty. It
/// listens on a Unix socket, and on what its arguments say. It ends with this
/// value.
pub struct RedisServer {
    dir: tempfile::TempDir,
    program: PathBuf,
    arguments: Vec<OsString>,
    /// The network namespace that it is in, when not this process'.
    netns: Option<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one, and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further arguments; `DIR` in them is its folder.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_as(Path::new("redis-server"), arguments, None)
    }

    /// Starts a Valkey, which scripts/fetch-test-deps brings.
    pub fn valkey() -> Self {
        Self::start_as(&cache().join("valkey/valkey-server"), &[], None)
    }

    /// Starts one at the usual port of every address of a namespace.
    pub(crate) fn on_lan(netns: &str) -> Self {
        let arguments = ["--port", "6379", "--protected-mode", "no"];
        Self::start_as(Path::new("redis-server"), &arguments, Some(netns))
    }

    /// The same with other arguments.
    pub(crate) fn with_on_lan(netns: &str, arguments: &[&str]) -> Self {
        Self::start_as(Path::new("redis-server"), arguments, Some(netns))
    }

    /// The same with Valkey.
    pub(crate) fn valkey_on_lan(netns: &str) -> Self {
        let program = cache().join("valkey/valkey-server");
        let arguments = ["--port", "6379", "--protected-mode", "no"];
        Self::start_as(&program, &arguments, Some(netns))
    }

    fn start_as(program: &Path, arguments: &[&str], netns: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().display().to_string();
        let mut server = Self {
            program: program.to_owned(),
            arguments: arguments
                .iter()
                .map(|argument| argument.replace("DIR", &folder).into())
                .collect(),
            dir,
            netns: netns.map(str::to_owned),
            child: None,
        };
        server.come_back();
        server
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The server's answer to a command, without its last line break.
    pub fn cli(&self, command: &[&str]) -> String {
        let ran = Command::new("redis-cli")
            .arg("-s")
            .arg(self.socket())
            .args(command)
            .output()
            .expect("redis-cli, which scripts/setup installs");
        assert!(ran.status.success(), "{command:?}: {ran:?}");
        String::from_utf8_lossy(&ran.stdout).trim_end().to_owned()
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
        // The command line of a sentinel has to name a file it can write.
        let configuration = self.dir.path().join("redis.conf");
        if !configuration.exists() {
            fs::File::create(&configuration)
                .and_then(|mut file| writeln!(file, "port 0"))
                .expect("a configuration");
        }
        let mut command = match &self.netns {
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{netns}"));
                command.arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        let child = command
            .arg(&configuration)
            .args(["--save", "", "--unixsocket"])
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.arguments)
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

/// Ports of the loopback address that nobody uses, for servers that are about to
/// start.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| {
        TcpListener::bind(("127.0.0.1", 0)).expect("a port of the loopback address")
    });
    listeners.map(|listener| listener.local_addr().expect("its port").port())
}
