//! The namespaces of a node, held by one small process.
//!
//! Network: made by name. Mount: private `/run`, `/var/lib/cni`,
//! `/var/lib/circuit`, `resolv.conf` and `machine-id`, so that nodes share no lease,
//! pin, lock, runc state or identity. Pid: when the holder dies, the kernel ends everything in the
//! node. User: that of a rootless node owns all of them. The holder lives until
//! its standard input ends, which also happens when the test process is killed.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};

use crate::{
    cgroup,
    command::{PATIENCE, host, wait_for},
    lan::Place,
    process::{children, signal},
    sweep,
};

/// Bash, because as process 1 it must reap what others leave.
const SCRIPT: &str = r#"
set -eu
dir=$1
hostname node
resolv=$(readlink -f /etc/resolv.conf)
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /var/lib/cni /var/lib/circuit "$(dirname "$resolv")"
[ -e "$resolv" ] || : >"$resolv"
mount --bind "$dir/resolv.conf" "$resolv"
mount --bind "$dir/cni" /var/lib/cni
mount --bind "$dir/circuit" /var/lib/circuit
[ ! -e /etc/machine-id ] || mount --bind "$dir/machine-id" /etc/machine-id
echo ready
while read -r _; do :; done
"#;

/// Waits to be given users, and goes on as root among them.
const USERS: &str = r#"echo ready; read -r _; exec "$@""#;

/// The ids of a rootless node's users. They are the machine's own, so that files are
/// whose they were; all of them would be no user namespace for runc.
const IDS: &str = "0 0 1000000";

/// The namespaces of a node; gone when dropped.
#[derive(Debug)]
pub(crate) struct Holder {
    name: String,
    dir: PathBuf,
    rootless: bool,
    uplink: bool,
    place: Option<Place>,
    unshare: Child,
    input: Option<ChildStdin>,
    pid: u32,
}

/// What has been made so far, removed unless it becomes a [`Holder`].
struct Unfinished<'a>(&'a str);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        sweep::remove_netns(self.0);
        let _ = fs::remove_dir_all(sweep::folder(self.0));
    }
}

impl Holder {
    /// Makes the namespaces; `resolver` is the node's name server. Root of a rootless
    /// node is nobody on the machine: a user namespace owns the others.
    pub(crate) fn start(resolver: &str, rootless: bool) -> Self {
        let name = sweep::new_name();
        let dir = sweep::folder(&name);
        let unfinished = Unfinished(&name);
        for folder in ["cni", "circuit", "containerd", "files"] {
            fs::create_dir_all(dir.join(folder)).expect("a folder in the temporary folder");
        }
        let id = Sha256::digest(&name)
            .iter()
            .take(16)
            .fold(String::new(), |id, byte| format!("{id}{byte:02x}"));
        for (file, text) in [
            ("resolv.conf", format!("nameserver {resolver}\n")),
            ("machine-id", format!("{id}\n")),
        ] {
            fs::write(dir.join(file), text).expect("a file in the temporary folder");
        }
        let (unshare, input, pid) = unshare(&name, &dir, rootless);
        std::mem::forget(unfinished);
        Self {
            name,
            dir,
            rootless,
            uplink: false,
            place: None,
            unshare,
            input,
            pid,
        }
    }

    /// Ends everything in the node, and its namespaces; its folder stays.
    pub(crate) fn power_off(&mut self) {
        // The end of its input ends the holder, that ends everything in the
        // node, and only then unshare returns.
        drop(self.input.take());
        let start = Instant::now();
        while !matches!(self.unshare.try_wait(), Ok(Some(_)) | Err(_)) {
            if start.elapsed() > Duration::from_secs(10) {
                signal(self.pid, Signal::SIGKILL);
                let _ = self.unshare.kill();
                let _ = self.unshare.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        sweep::remove_netns(&self.name);
        if self.uplink {
            sweep::remove_netns(&outside_of(&self.name));
        }
        cgroup::remove(&self.name);
    }

    /// Makes the namespaces again.
    pub(crate) fn power_on(&mut self) {
        (self.unshare, self.input, self.pid) = unshare(&self.name, &self.dir, self.rootless);
        if self.uplink {
            self.add_uplink();
        }
        if let Some(place) = self.place.take() {
            self.join(place);
        }
    }

    /// Plugs the node into a LAN.
    pub(crate) fn join(&mut self, place: Place) {
        place.plug(&self.name);
        self.place = Some(place);
    }

    /// The node's name: of its network namespace, its folder and its cgroup.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A folder that is at the same place inside and outside.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a path of the node is found from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// A command that will run in the node. `ip netns exec` would hide the
    /// cgroup mounts, and runc would fail.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(self.rootless.then_some("-U"))
            .args([
                "-t",
                &self.pid.to_string(),
                "-m",
                "-u",
                "-n",
                "-p",
                "--",
                program,
            ])
            .env_remove("NO_COLOR")
            .env_remove("RUST_LOG");
        command
    }

    /// Joins the node to an outside: a namespace with one host, 192.0.2.1, the
    /// node's default gateway. The node is 192.0.2.2.
    pub(crate) fn add_uplink(&mut self) {
        let node = self.name.clone();
        let outside = outside_of(&node);
        host("ip", &["netns", "add", &outside]).ok();
        self.uplink = true;
        let veth = ["link", "add", "up0", "netns", &node, "type", "veth"];
        let peer = ["peer", "name", "out0", "netns", &outside];
        host("ip", &[veth.as_slice(), peer.as_slice()].concat()).ok();
        for (namespace, device, address) in [
            (&node, "up0", "192.0.2.2/24"),
            (&outside, "out0", "192.0.2.1/24"),
        ] {
            host(
                "ip",
                &["-n", namespace, "addr", "add", address, "dev", device],
            )
            .ok();
            host("ip", &["-n", namespace, "link", "set", device, "up"]).ok();
            host("ip", &["-n", namespace, "link", "set", "lo", "up"]).ok();
        }
        host(
            "ip",
            &["-n", &node, "route", "add", "default", "via", "192.0.2.1"],
        )
        .ok();
    }

    /// The namespace on the other side of the uplink.
    pub(crate) fn outside(&self) -> String {
        assert!(
            self.uplink,
            "this node has no uplink: build it with uplink()"
        );
        outside_of(&self.name)
    }
}

/// The namespace beyond a node's uplink.
fn outside_of(name: &str) -> String {
    format!("{name}-outside")
}

/// Makes the namespaces and the process that holds them: what to wait for, what
/// keeps it, and its pid.
fn unshare(name: &str, dir: &Path, rootless: bool) -> (Child, Option<ChildStdin>, u32) {
    let mut command = if rootless {
        let mut command = Command::new("unshare");
        command.args(["--user", "bash", "-c", USERS, "users", "unshare", "--net"]);
        command
    } else {
        host("ip", &["netns", "add", name]).ok();
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/run/netns/{name}"), "unshare"]);
        command
    };
    let mut unshare = command
        .args(["--mount", "--uts", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--propagation", "private"])
        .args(["bash", "-c", SCRIPT, "holder"])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(dir.join("holder.log")).expect("a log"))
        .spawn()
        .expect("nsenter and unshare (run scripts/setup)");
    let mut input = unshare.stdin.take();
    let parent = unshare.id();
    let mut output = BufReader::new(unshare.stdout.take().expect("piped"));
    let ready = (|| {
        if let Some(input) = input.as_mut().filter(|_| rootless) {
            wait_for_ready(&mut output)?;
            for ids in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{parent}/{ids}"), IDS)?;
            }
            input.write_all(b"go on\n")?;
        }
        wait_for_ready(&mut output)
    })();
    if let Err(error) = ready {
        let _ = unshare.kill();
        let _ = unshare.wait();
        let log = fs::read_to_string(dir.join("holder.log")).unwrap_or_default();
        panic!("cannot make a node's namespaces (it takes root): {error}: {log}");
    }
    let pid = wait_for("the holder's process", PATIENCE, || {
        children(parent).first().copied()
    });
    if rootless {
        // It belongs to the user namespace, so it is made there and named afterwards.
        host("ip", &["netns", "attach", name, &pid.to_string()]).ok();
    }
    host("ip", &["-n", name, "link", "set", "lo", "up"]).ok();
    (unshare, input, pid)
}

fn wait_for_ready(output: &mut BufReader<ChildStdout>) -> io::Result<()> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    match line.as_str() {
        "ready\n" => Ok(()),
        _ => Err(io::Error::other("it is not ready")),
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.power_off();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
