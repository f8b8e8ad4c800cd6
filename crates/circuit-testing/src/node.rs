//! A node: namespaces, containerd and daemon put together.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use nix::sys::signal::Signal;

use crate::{
    command::{self, Ran, host},
    containerd::{self, Containerd},
    daemon::{self, Daemon},
    holder::Holder,
    image,
    lan::{Lan, Place},
    leftovers::{RUN_DIR, STATE_DIR},
    plugins::Plugins,
};

/// The folder of the tests' own CNI plugins, in the node's folder.
const SCRIPT_PLUGINS: &str = "plugins";

/// What a node shall be like.
#[derive(Debug, Clone)]
pub struct NodeBuilder {
    program: PathBuf,
    plugins: Plugins,
    containerd: Containerd,
    cri: bool,
    rootless: bool,
    resolver: String,
    uplink: bool,
    place: Option<Place>,
    daemon: bool,
    server: Vec<String>,
}

impl NodeBuilder {
    /// Runs the tests on these CNI plugins; Debian's by default.
    #[must_use]
    pub fn plugins(mut self, plugins: Plugins) -> Self {
        self.plugins = plugins;
        self
    }

    /// Runs this containerd; Debian's by default.
    #[must_use]
    pub fn containerd(mut self, version: Containerd) -> Self {
        self.containerd = version;
        self
    }

    /// Lets containerd serve CRI too: see [`TestNode::crictl`].
    #[must_use]
    pub fn cri(mut self) -> Self {
        self.cri = true;
        self
    }

    /// Puts the node into a user namespace: its root has no power over the machine, as
    /// when a user runs containerd. So are all nodes where `CIRCUIT_TEST_ROOTLESS` is set.
    #[must_use]
    pub fn rootless(mut self) -> Self {
        self.rootless = true;
        self
    }

    /// The name server in the node's `resolv.conf`; 192.0.2.53 by default.
    #[must_use]
    pub fn resolver(mut self, address: &str) -> Self {
        address.clone_into(&mut self.resolver);
        self
    }

    /// Gives the node (192.0.2.2) a default gateway (192.0.2.1) outside, from
    /// which [`TestNode::outside`] runs commands.
    #[must_use]
    pub fn uplink(mut self) -> Self {
        self.uplink = true;
        self
    }

    /// Plugs the node into a LAN, by its interface `lan0`.
    #[must_use]
    pub fn lan(mut self, lan: &Lan) -> Self {
        self.place = Some(lan.place());
        self
    }

    /// Starts no daemon.
    #[must_use]
    pub fn without_daemon(mut self) -> Self {
        self.daemon = false;
        self
    }

    /// Further arguments of `circuit server`.
    #[must_use]
    pub fn server(mut self, arguments: &[&str]) -> Self {
        self.server
            .extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Makes the node and waits until it serves.
    pub fn start(self) -> TestNode {
        let mut holder = Holder::start(&self.resolver, self.rootless);
        if self.uplink {
            holder.add_uplink();
        }
        if let Some(place) = &self.place {
            holder.join(place.clone());
        }
        let containerd = containerd::Running::start(&holder, self.containerd, self.cri);
        let node = TestNode {
            daemon: Mutex::new(None),
            containerd: Mutex::new(Some(containerd)),
            counter: AtomicU32::new(0),
            builder: self,
            holder,
        };
        let image = image::write(node.holder.dir());
        node.ctr(&["image", "import", &image.to_string_lossy()])
            .ok();
        if node.builder.cri {
            node.import_for_cri();
        }
        if node.builder.daemon {
            node.start_daemon();
        }
        node
    }
}

/// A node of a test. Everything in it ends when it is dropped; after a failure
/// the daemon's log is printed first.
#[derive(Debug)]
pub struct TestNode {
    // Processes are dropped before what holds them.
    daemon: Mutex<Option<Daemon>>,
    containerd: Mutex<Option<containerd::Running>>,
    counter: AtomicU32,
    builder: NodeBuilder,
    holder: Holder,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl TestNode {
    /// A node whose daemon and CLI are the given `circuit` binary.
    pub fn builder(circuit: impl Into<PathBuf>) -> NodeBuilder {
        NodeBuilder {
            program: circuit.into(),
            plugins: Plugins::System,
            containerd: Containerd::System,
            cri: false,
            rootless: std::env::var_os("CIRCUIT_TEST_ROOTLESS").is_some(),
            resolver: "192.0.2.53".to_owned(),
            uplink: false,
            place: None,
            daemon: true,
            server: Vec::new(),
        }
    }

    pub(crate) fn place(&self) -> &Place {
        let place = self.builder.place.as_ref();
        place.expect("a node on a LAN: build it with lan()")
    }

    /// The node's address on its LAN.
    pub fn address(&self) -> String {
        self.place().address()
    }

    /// Stops the daemon's process for a while, or lets it go on: it notices
    /// nothing.
    pub fn freeze_daemon(&self, freeze: bool) {
        let signal = if freeze {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        crate::process::signal(self.daemon_pid(), signal);
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.holder.name()
    }

    /// Where a path of the node is found from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.holder.path(inside)
    }

    /// A command that will run in the node, not started yet.
    pub fn command(&self, program: &str) -> Command {
        self.holder.command(program)
    }

    /// Runs a program of the machine in the node.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Ran {
        command::run(self.command(program).args(arguments), &[])
    }

    /// The same with standard input and further environment.
    pub fn run_with(
        &self,
        program: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        input: &[u8],
    ) -> Ran {
        let mut command = self.command(program);
        command.args(arguments).envs(environment.iter().copied());
        command::run(&mut command, input)
    }

    /// Runs a program of the machine outside of the node, beyond its uplink.
    pub fn outside(&self, program: &str, arguments: &[&str]) -> Ran {
        let namespace = format!("--net=/run/netns/{}", self.holder.outside());
        host(
            "nsenter",
            &[&[namespace.as_str(), "--", program], arguments].concat(),
        )
    }

    /// Runs the CLI.
    pub fn circuit(&self, arguments: &[&str]) -> Ran {
        self.run(&self.program(), arguments)
    }

    /// Runs the CLI with standard input.
    pub fn circuit_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        self.run_with(&self.program(), arguments, &[], input)
    }

    /// The path of the `circuit` binary.
    pub fn program(&self) -> String {
        self.builder.program.to_string_lossy().into_owned()
    }

    /// The folder of the node's CNI plugins.
    pub fn plugin_folder(&self) -> PathBuf {
        self.builder.plugins.folder()
    }

    /// Writes a file that the node sees, and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.holder.dir().join("files").join(name);
        fs::write(&path, content).expect("a file in the node's folder");
        path.to_string_lossy().into_owned()
    }

    /// Puts a CNI plugin of the test's own beside the stock ones. `%STOCK%` in
    /// the script becomes the folder of those.
    pub fn script_plugin(&self, name: &str, script: &str) {
        let folder = self.holder.dir().join(SCRIPT_PLUGINS);
        fs::create_dir_all(&folder).expect("a folder in the node's folder");
        let path = folder.join(name);
        let script = script.replace("%STOCK%", &self.plugin_folder().to_string_lossy());
        fs::write(&path, script).expect("a file in the node's folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its owner");
    }

    /// The folders that the daemon searches for CNI plugins, as its flag has
    /// them.
    fn plugin_path(&self) -> String {
        let scripts = self.holder.dir().join(SCRIPT_PLUGINS);
        format!("{}:{}", self.plugin_folder().display(), scripts.display())
    }

    /// Creates a network by the CLI.
    #[track_caller]
    pub fn create_network(&self, name: &str, configuration: &str) {
        let file = self.file(&format!("{name}.json"), configuration);
        self.circuit(&["network", "create", name, &file]).ok();
    }

    /// A number that was not given out before.
    pub(crate) fn next_number(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn containerd_version(&self) -> Containerd {
        self.builder.containerd
    }

    /// The arguments the daemon is started with.
    pub fn server_arguments(&self) -> Vec<String> {
        let plugins = self.plugin_path();
        let store = "local:///var/lib/circuit/networks";
        let given = |flag: &str| self.builder.server.iter().any(|argument| argument == flag);
        let mut all = vec!["server".to_owned()];
        for (flag, value) in [
            ("--containerd", containerd::SOCKET),
            ("--datastore", store),
            ("--state-dir", STATE_DIR),
            ("--run-dir", RUN_DIR),
            ("--cni-path", plugins.as_str()),
        ] {
            if !given(flag) {
                all.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        all.extend(self.builder.server.iter().cloned());
        all
    }

    /// Starts the daemon and waits until it takes connections.
    pub fn start_daemon(&self) {
        self.start_daemon_with(&[]);
    }

    /// The same with further arguments, for this start only.
    pub fn start_daemon_with(&self, arguments: &[&str]) {
        let mut slot = lock(&self.daemon);
        assert!(slot.is_none(), "the daemon is there already");
        let mut all = self.server_arguments();
        all.extend(arguments.iter().map(ToString::to_string));
        *slot = Some(Daemon::start(&self.holder, &self.builder.program, &all));
    }

    fn end_daemon(&self, with: Signal) -> Option<i32> {
        let daemon = lock(&self.daemon)
            .take()
            .expect("a daemon that was started");
        daemon.end(with)
    }

    /// Kills the daemon as a crash would.
    pub fn kill_daemon(&self) {
        self.end_daemon(Signal::SIGKILL);
    }

    /// Ends the daemon by SIGTERM and returns its exit code.
    pub fn stop_daemon(&self) -> Option<i32> {
        self.end_daemon(Signal::SIGTERM)
    }

    /// Ends the daemon by SIGINT and returns its exit code.
    pub fn interrupt_daemon(&self) -> Option<i32> {
        self.end_daemon(Signal::SIGINT)
    }

    /// True while the daemon that was started runs.
    pub fn daemon_runs(&self) -> bool {
        lock(&self.daemon).as_mut().is_some_and(Daemon::runs)
    }

    /// The daemon's pid, as the machine sees it.
    pub fn daemon_pid(&self) -> u32 {
        lock(&self.daemon)
            .as_ref()
            .expect("a daemon that was started")
            .pid()
    }

    /// What the node's daemons have written so far.
    pub fn daemon_log(&self) -> String {
        fs::read(daemon::log(&self.holder))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Ends containerd; shims and containers live on.
    pub fn stop_containerd(&self) {
        let running = lock(&self.containerd)
            .take()
            .expect("a containerd that was started");
        running.end(Signal::SIGTERM);
    }

    /// Kills containerd as a crash would; shims and containers live on.
    pub fn kill_containerd(&self) {
        let running = lock(&self.containerd)
            .take()
            .expect("a containerd that was started");
        running.end(Signal::SIGKILL);
    }

    /// Starts containerd again.
    pub fn start_containerd(&self) {
        let mut slot = lock(&self.containerd);
        assert!(slot.is_none(), "containerd is there already");
        *slot = Some(containerd::Running::start(
            &self.holder,
            self.builder.containerd,
            self.builder.cri,
        ));
    }

    /// Loses power and comes up again: processes, namespaces, mounts,
    /// interfaces, firewall rules and `/run` are gone, `/var` and containerd's
    /// store are there. Containerd runs again, the daemon does not.
    pub fn reboot(&mut self) {
        // The holder's end kills what is in the node; these only reap.
        let daemon = lock(&self.daemon).take();
        let containerd = lock(&self.containerd).take();
        self.holder.power_off();
        if let Some(daemon) = daemon {
            daemon.reap();
        }
        if let Some(containerd) = containerd {
            containerd.reap();
        }
        self.holder.power_on();
        self.start_containerd();
    }

    /// Runs a CNI plugin by hand, as another runtime would.
    pub fn run_plugin(
        &self,
        operation: &str,
        configuration: &str,
        container: &str,
        netns: &str,
        interface: &str,
    ) -> Ran {
        let folder = self.plugin_folder();
        let configured: serde_json::Value =
            serde_json::from_str(configuration).expect("a single plugin's configuration");
        let plugin = configured["type"].as_str().expect("a plugin's type");
        let environment = [
            ("CNI_COMMAND", operation),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", interface),
            ("CNI_PATH", folder.to_str().expect("a path in UTF-8")),
        ];
        let program = folder.join(plugin);
        self.run_with(
            &program.to_string_lossy(),
            &[],
            &environment,
            configuration.as_bytes(),
        )
    }

    /// The daemon's folder of stored networks, from outside.
    pub fn store(&self) -> PathBuf {
        self.path("/var/lib/circuit/networks")
    }

    /// A folder that is at the same place inside and outside.
    pub fn folder(&self) -> &Path {
        self.holder.dir()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "--- log of the daemon of {}\n{}---",
                self.name(),
                self.daemon_log()
            );
            // A second panic while one unwinds would end the whole test process.
            if let Ok(left) = catch_unwind(AssertUnwindSafe(|| self.leftovers())) {
                eprintln!("--- attachments hold\n{left}---");
            }
            if let Ok(tasks) = catch_unwind(AssertUnwindSafe(|| self.ctr(&["task", "ls"]))) {
                eprintln!("{tasks}");
            }
        }
    }
}
