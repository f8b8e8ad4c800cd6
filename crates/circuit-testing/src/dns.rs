//! Asking name servers, and a stock CoreDNS to ask.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    thread,
};

use nix::sys::signal::Signal;

use crate::{
    Lan, PATIENCE, Ran, TestNode, command,
    plugins::{cache, present},
    process::{children, signal},
    wait_for,
};

/// The version that `scripts/coredns` builds.
const VERSION: &str = "1.14.7";

/// `dig` must not depend on the settings of whoever runs the tests.
const DIG: [&str; 2] = ["dig", "-r"];

impl TestNode {
    /// Asks a name server by `dig` from the node. It exits with 0 for every
    /// answer, whatever it says, and with 9 when there is none.
    pub fn dig(&self, arguments: &[&str]) -> Ran {
        self.run(DIG[0], &[&DIG[1..], arguments].concat())
    }

    /// The same from a running container's network namespace. Its `resolv.conf`
    /// is not used: name the server, or ask by `nslookup` and
    /// [`exec`](Self::exec), as a program in the container would.
    #[track_caller]
    pub fn dig_in(&self, container: &str, arguments: &[&str]) -> Ran {
        self.in_netns(container, &[&DIG[..], arguments].concat())
    }
}

/// A stock CoreDNS. It ends with this value; after a failure its log is printed.
#[derive(Debug)]
pub struct CoreDns {
    dir: tempfile::TempDir,
    child: Child,
}

impl CoreDns {
    /// Starts one in a node, and waits until it answers by UDP on this port, which
    /// its configuration names.
    #[track_caller]
    pub fn start(node: &TestNode, corefile: &str, port: u16) -> Self {
        Self::start_with(node, corefile, port, &[])
    }

    /// The same with further environment.
    #[track_caller]
    pub fn start_with(
        node: &TestNode,
        corefile: &str,
        port: u16,
        environment: &[(&str, &str)],
    ) -> Self {
        let command = |program: &str| {
            let mut command = node.command(program);
            command.envs(environment.iter().copied());
            command
        };
        Self::start_by(command, corefile, port)
    }

    /// The same on the host of a LAN: 192.0.2.1.
    #[track_caller]
    pub fn on_lan(lan: &Lan, corefile: &str, port: u16) -> Self {
        Self::start_by(|program| lan.command(program), corefile, port)
    }

    #[track_caller]
    fn start_by(command: impl Fn(&str) -> Command, corefile: &str, port: u16) -> Self {
        let program = cache().join(format!("coredns-{VERSION}/coredns"));
        present(&program);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let configuration = dir.path().join("Corefile");
        fs::write(&configuration, corefile).expect("a configuration");
        let log = File::create(dir.path().join("log")).expect("a log");
        let child = command(&program.to_string_lossy())
            .arg("-conf")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .expect("nsenter");
        let mut server = Self { dir, child };
        let what = format!("coredns answers on port {port}");
        wait_for(&what, PATIENCE, || {
            if let Ok(Some(status)) = server.child.try_wait() {
                panic!("coredns ended with {status}");
            }
            answers(&command, port).then_some(())
        });
        server
    }

    /// Its pid, as the machine sees it.
    pub fn pid(&self) -> u32 {
        let entered = children(self.child.id());
        entered.first().copied().unwrap_or(self.child.id())
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read(self.dir.path().join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

/// Whether CoreDNS listens on this port, and answers. The question is of a class
/// that no plugin is asked for, so that a server behind it is not troubled.
fn answers(command: &impl Fn(&str) -> Command, port: u16) -> bool {
    let filter = format!("sport = :{port}");
    let sockets = command::run(command("ss").args(["-Hlunp", &filter]), &[]).ok();
    let Some(socket) = sockets.lines().find(|line| line.contains("\"coredns\"")) else {
        return false;
    };
    let local = socket.split_whitespace().nth(3).unwrap_or_default();
    let (address, _) = local.rsplit_once(':').expect("an address and a port");
    let address = match address.trim_matches(['[', ']']) {
        "*" | "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        address => address,
    };
    let server = format!("@{address}");
    let port = port.to_string();
    let question = ["-p", &port, "+time=1", "+tries=1", ".", "CH", "TXT"];
    let mut dig = command(DIG[0]);
    dig.args(&DIG[1..]).arg(server).args(question);
    command::run(&mut dig, &[]).worked()
}

impl Drop for CoreDns {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of coredns\n{}---", self.log());
        }
        // In a node it is a child of the process that entered the namespaces, which
        // ends when its child does.
        let entered = children(self.child.id());
        for pid in &entered {
            signal(*pid, Signal::SIGKILL);
        }
        if entered.is_empty() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
