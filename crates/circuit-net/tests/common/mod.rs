//! What the kernel tests share. None of them touches the machine's network: a
//! test's "host" is a namespace of its own, and so is its container.

#![allow(dead_code, reason = "every test binary uses another part")]

pub(crate) mod plugin;
pub(crate) mod twin;

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use circuit_core::cni::ConfigList;
use circuit_net::cni::{AttachmentArgs, CniRuntime, PluginPath};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// Where the distribution keeps the stock plugins.
pub(crate) const STOCK_PLUGINS: &str = "/usr/lib/cni";

/// Runs a test on a thread in a network namespace of its own; everything that
/// the test starts is in it too.
pub(crate) fn on_private_host<F>(body: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: tests run as root");
        shell("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a shell command that must succeed, and returns what it wrote.
pub(crate) fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A named namespace, removed when dropped; one of a test run that was killed is
/// removed by the next.
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn new() -> Self {
        let name = circuit_testing::new_name();
        shell(&format!("ip netns add {name}"));
        Self { name }
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        shell(&format!("ip -n {} {arguments}", self.name))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// Plugins written as shell scripts, and a place for what they record.
pub(crate) struct Scripts {
    dir: tempfile::TempDir,
}

impl Scripts {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Adds a plugin; `$D` in its text is the folder of records.
    pub(crate) fn plugin(&self, kind: &str, body: &str) -> &Self {
        let path = self.dir.path().join(kind);
        let text = format!("#!/bin/sh\nD={}\n{body}\n", self.dir.path().display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        self
    }

    /// Adds a plugin that records its runs in the file `log`, one a line, each
    /// run's input in `KIND.COMMAND.json`, its environment in
    /// `KIND.COMMAND.env`, and passes the previous result on.
    pub(crate) fn recorder(&self, kind: &str) -> &Self {
        self.plugin(
            kind,
            &format!(
                r#"echo "{kind} $CNI_COMMAND" >> $D/log
env > $D/{kind}.$CNI_COMMAND.env
cat > $D/{kind}.$CNI_COMMAND.json
case $CNI_COMMAND in
VERSION) echo '{{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}}' ;;
ADD) echo '{{"ips":[{{"address":"10.9.9.9/24"}}],"from":"{kind}"}}' ;;
esac"#
            ),
        )
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).unwrap()
    }

    /// A runtime that finds these plugins and the stock ones.
    pub(crate) fn runtime(&self, timeout: Duration) -> CniRuntime {
        CniRuntime::new(
            PluginPath::new([self.dir.path(), Path::new(STOCK_PLUGINS)]),
            timeout,
        )
    }
}

/// A configuration list of these plugins.
pub(crate) fn list(version: &str, plugins: &[Value]) -> ConfigList {
    list_with(json!({"cniVersion": version, "name": "net", "plugins": plugins}))
}

pub(crate) fn list_with(top: Value) -> ConfigList {
    ConfigList::parse(top.to_string().as_bytes()).unwrap()
}

/// What attaches the container in a namespace.
pub(crate) fn attach(netns: &Path) -> AttachmentArgs {
    AttachmentArgs {
        container_id: "default-web".to_owned(),
        netns: Some(netns.to_owned()),
        ifname: "eth0".to_owned(),
        ..AttachmentArgs::default()
    }
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "not within 10 s: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
