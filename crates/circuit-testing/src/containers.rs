//! Containers of a node, by `ctr`, as a person would run them.

use serde_json::Value;

use crate::{
    cgroup,
    command::{PATIENCE, Ran, wait_for, wait_until},
    node::TestNode,
};

/// The image's name.
pub const IMAGE: &str = "docker.io/test/busybox:latest";

/// Runs until it is killed; ends at once on SIGTERM, which a plain `sleep` as
/// process 1 would not.
pub(crate) const FOREVER: [&str; 3] = [
    "sh",
    "-c",
    "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done",
];

/// A network interface inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Its addresses with prefix length, link-local ones left out.
    pub addresses: Vec<String>,
}

impl TestNode {
    /// Runs `ctr`.
    pub fn ctr(&self, arguments: &[&str]) -> Ran {
        self.run(&self.containerd_version().program("ctr"), arguments)
    }

    /// Creates a container and starts its task; without a command it runs until
    /// it is killed.
    #[track_caller]
    pub fn run_container(&self, name: &str, labels: &[(&str, &str)], command: &[&str]) {
        self.run_container_with(&[], name, labels, command);
    }

    /// The same with further flags of `ctr run`.
    #[track_caller]
    pub fn run_container_with(
        &self,
        flags: &[&str],
        name: &str,
        labels: &[(&str, &str)],
        command: &[&str],
    ) {
        let cgroup = cgroup::path(self.name(), name);
        let how = [&["run", "-d", "--null-io", "--cgroup", &cgroup], flags].concat();
        self.new_container(&how, name, labels, command);
    }

    /// Creates a container without a task.
    #[track_caller]
    pub fn create_container(&self, name: &str, labels: &[(&str, &str)], command: &[&str]) {
        self.create_container_with(&[], name, labels, command);
    }

    /// The same with further flags of `ctr container create`.
    #[track_caller]
    pub fn create_container_with(
        &self,
        flags: &[&str],
        name: &str,
        labels: &[(&str, &str)],
        command: &[&str],
    ) {
        let how = [&["container", "create"], flags].concat();
        self.new_container(&how, name, labels, &["true"]);
        // Of containerd 1.6 only `ctr run` takes a cgroup, and `create` takes
        // the command's flags for its own.
        let command = if command.is_empty() {
            &FOREVER
        } else {
            command
        };
        let cgroup = cgroup::path(self.name(), name);
        self.change_spec(name, |spec| {
            spec["linux"]["cgroupsPath"] = cgroup.into();
            spec["process"]["args"] = command.into();
        });
    }

    #[track_caller]
    fn new_container(&self, how: &[&str], name: &str, labels: &[(&str, &str)], command: &[&str]) {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut arguments = how.to_vec();
        for label in &labels {
            arguments.extend(["--label", label]);
        }
        arguments.extend([IMAGE, name]);
        arguments.extend(if command.is_empty() {
            &FOREVER
        } else {
            command
        });
        self.ctr(&arguments).ok();
    }

    /// Starts a task for a container that has none.
    #[track_caller]
    pub fn start_task(&self, name: &str) {
        self.ctr(&["task", "start", "-d", "--null-io", name]).ok();
    }

    /// The task's status (`RUNNING`, `STOPPED`, …) and pid; none without a task.
    pub fn task(&self, name: &str) -> Option<(String, u32)> {
        let list = self.ctr(&["task", "ls"]).ok();
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name))?;
        let mut fields = line.split_whitespace().skip(1);
        let pid = fields.next()?.parse().ok()?;
        Some((fields.next()?.to_owned(), pid))
    }

    /// The pid of a running task, as the node sees it.
    pub fn task_pid(&self, name: &str) -> Option<u32> {
        self.task(name)
            .filter(|(status, _)| status == "RUNNING")
            .map(|(_, pid)| pid)
    }

    /// Waits until a task runs whose pid is not `old`, and returns its pid.
    #[track_caller]
    pub fn wait_for_new_task(&self, name: &str, old: u32) -> u32 {
        wait_for(&format!("{name} runs again"), PATIENCE, || {
            self.task_pid(name).filter(|new| *new != old)
        })
    }

    /// Kills a task's process; the stopped task stays, as containerd has it.
    #[track_caller]
    pub fn kill_task(&self, name: &str) {
        self.ctr(&["task", "kill", "-s", "KILL", name]).ok();
    }

    /// Kills a container's task and deletes the task.
    #[track_caller]
    pub fn end_task(&self, name: &str) {
        wait_until(&format!("the task of {name} is gone"), PATIENCE, || {
            let _ = self.ctr(&["task", "kill", "-s", "KILL", name]);
            let _ = self.ctr(&["task", "rm", name]);
            self.task(name).is_none()
        });
    }

    /// Ends and deletes a container. One with a restart policy may come back
    /// while that is done, hence the loop.
    #[track_caller]
    pub fn remove_container(&self, name: &str) {
        wait_until(&format!("container {name} is gone"), PATIENCE, || {
            let _ = self.ctr(&["task", "kill", "-s", "KILL", name]);
            let _ = self.ctr(&["task", "rm", name]);
            let removed = self.ctr(&["container", "rm", name]);
            removed.worked() || removed.stderr.contains("not found")
        });
    }

    /// Runs a command inside a running container.
    pub fn exec(&self, name: &str, command: &[&str]) -> Ran {
        let id = format!("exec-{}", self.next_number());
        let mut arguments = vec!["task", "exec", "--exec-id", &id, name];
        arguments.extend(command);
        self.ctr(&arguments)
    }

    /// Runs a program of the machine in a container's network namespace.
    #[track_caller]
    pub fn in_netns(&self, name: &str, command: &[&str]) -> Ran {
        let pid = wait_for(&format!("{name} runs"), PATIENCE, || self.task_pid(name)).to_string();
        let mut arguments = vec!["-t", &pid, "-n", "--"];
        arguments.extend(command);
        self.run("nsenter", &arguments)
    }

    /// The interfaces inside a running container, `lo` left out.
    #[track_caller]
    pub fn interfaces(&self, name: &str) -> Vec<Interface> {
        parse_links(&self.in_netns(name, &["ip", "-j", "addr", "show"]).ok())
    }

    /// The addresses inside a container with prefix length; none while it does
    /// not run, so that a test can wait for them.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        let Some(pid) = self.task_pid(name) else {
            return Vec::new();
        };
        let pid = pid.to_string();
        let show = self.run(
            "nsenter",
            &["-t", &pid, "-n", "--", "ip", "-j", "addr", "show"],
        );
        if !show.worked() {
            return Vec::new();
        }
        parse_links(&show.stdout)
            .into_iter()
            .flat_map(|link| link.addresses)
            .collect()
    }

    /// Waits until a container has addresses, and returns them.
    #[track_caller]
    pub fn wait_for_addresses(&self, name: &str) -> Vec<String> {
        wait_for(&format!("{name} has an address"), PATIENCE, || {
            Some(self.addresses(name)).filter(|all| !all.is_empty())
        })
    }

    /// Containerd's record of a container.
    #[track_caller]
    pub fn container_info(&self, name: &str) -> Value {
        let text = self.ctr(&["container", "info", name]).ok();
        serde_json::from_str(&text).expect("the output of ctr container info")
    }
}

fn parse_links(text: &str) -> Vec<Interface> {
    let links: Value = serde_json::from_str(text).expect("the output of ip -j");
    let links = links.as_array().expect("a list of interfaces");
    links
        .iter()
        .map(interface)
        .filter(|link| link.name != "lo")
        .collect()
}

fn interface(link: &Value) -> Interface {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let addresses = link["addr_info"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    Interface {
        name: text(&link["ifname"]),
        mac: text(&link["address"]),
        addresses: addresses
            .iter()
            .filter(|a| a["scope"] != "link")
            .map(|a| format!("{}/{}", text(&a["local"]), a["prefixlen"]))
            .collect(),
    }
}
