//! A small container runtime, written for this suite alone: it calls the
//! plugins of a configuration list as the specification says.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use crate::world::netns_path;

/// A container and the interface it is to get.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    /// `CNI_CONTAINERID`.
    pub(crate) id: String,
    /// `CNI_NETNS`; `None` leaves it out.
    pub(crate) netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub(crate) ifname: String,
    /// `CNI_ARGS`.
    pub(crate) args: String,
    /// The arguments of capabilities.
    pub(crate) capabilities: Value,
}

impl Attachment {
    /// The container in the namespace of that name.
    pub(crate) fn of(netns: &str, ifname: &str) -> Self {
        Self {
            id: format!("container-{netns}"),
            netns: Some(netns_path(netns)),
            ifname: ifname.to_owned(),
            args: String::new(),
            capabilities: json!({}),
        }
    }
}

/// What a plugin did.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ran {
    /// How it ended.
    pub(crate) exit: Option<i32>,
    /// What it wrote to standard output.
    pub(crate) stdout: String,
    /// And to standard error.
    pub(crate) stderr: String,
}

impl Ran {
    /// Whether it says that it succeeded.
    pub(crate) fn is_ok(&self) -> bool {
        self.exit == Some(0)
    }

    /// What it wrote, as JSON; `null` when it wrote nothing, or something else.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_default()
    }

    /// The code of its error object.
    pub(crate) fn code(&self) -> Option<u64> {
        self.json().get("code")?.as_u64()
    }

    /// What is compared: the answer; of an error its code, and whether it
    /// comes with words.
    pub(crate) fn seen(&self) -> Value {
        if self.is_ok() {
            let text = if self.stdout.trim().is_empty() {
                Value::Null
            } else {
                serde_json::from_str(&self.stdout).unwrap_or_else(|_| self.stdout.clone().into())
            };
            return json!({"exit": 0, "answer": text});
        }
        let words = self
            .json()
            .get("msg")
            .and_then(Value::as_str)
            .is_some_and(|msg| !msg.is_empty());
        json!({"exit": self.exit, "code": self.code(), "words": words})
    }
}

/// Runs one plugin; it sees of the environment only what is given.
pub(crate) fn run(executable: &Path, env: &[(&str, &str)], input: &str) -> Ran {
    let mut child = Command::new(executable)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin",
        )
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", executable.display()));
    // A plugin may end without having read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        exit: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The plugins of a configuration list, found in one folder.
pub(crate) struct Runtime {
    folder: PathBuf,
    list: Value,
}

/// Answers of plugins by type, in the order they were called.
pub(crate) type Answers = Vec<(String, Ran)>;

impl Runtime {
    pub(crate) fn new(folder: PathBuf, list: &Value) -> Self {
        Self {
            folder,
            list: list.clone(),
        }
    }

    fn plugins(&self) -> Vec<Map<String, Value>> {
        let plugins = self.list["plugins"].as_array().unwrap().iter();
        plugins
            .map(|plugin| plugin.as_object().unwrap().clone())
            .collect()
    }

    /// A plugin's configuration with what the runtime owes it.
    fn config(&self, mut plugin: Map<String, Value>, capabilities: &Value) -> Map<String, Value> {
        for key in ["cniVersion", "name"] {
            plugin.insert(key.to_owned(), self.list[key].clone());
        }
        let wanted = plugin.remove("capabilities").unwrap_or_default();
        let mut given = Map::new();
        for (key, value) in capabilities.as_object().into_iter().flatten() {
            if wanted[key.as_str()] == true {
                given.insert(key.clone(), value.clone());
            }
        }
        if !given.is_empty() {
            plugin.insert("runtimeConfig".to_owned(), given.into());
        }
        plugin
    }

    fn call(&self, command: &str, config: Map<String, Value>, to: Option<&Attachment>) -> Ran {
        let kind = config["type"].as_str().unwrap().to_owned();
        let folder = self.folder.to_str().unwrap();
        let mut env = vec![("CNI_COMMAND", command), ("CNI_PATH", folder)];
        if let Some(to) = to {
            env.extend([
                ("CNI_CONTAINERID", to.id.as_str()),
                ("CNI_IFNAME", to.ifname.as_str()),
                ("CNI_ARGS", to.args.as_str()),
            ]);
            if let Some(netns) = &to.netns {
                env.push(("CNI_NETNS", netns.to_str().unwrap()));
            }
        }
        let input = Value::Object(config).to_string();
        run(&self.folder.join(kind), &env, &input)
    }

    /// Calls plugins in turn, until one fails.
    fn each(
        &self,
        plugins: Vec<Map<String, Value>>,
        mut call: impl FnMut(Map<String, Value>) -> Ran,
    ) -> Answers {
        let mut answers = Answers::new();
        for plugin in plugins {
            let kind = plugin["type"].as_str().unwrap().to_owned();
            let ran = call(plugin);
            let go_on = ran.is_ok();
            answers.push((kind, ran));
            if !go_on {
                break;
            }
        }
        answers
    }

    /// ADD of all plugins, each with the last one's result.
    pub(crate) fn add(&self, to: &Attachment) -> Answers {
        let mut prev = Value::Null;
        self.each(self.plugins(), |plugin| {
            let mut config = self.config(plugin, &to.capabilities);
            if !prev.is_null() {
                config.insert("prevResult".to_owned(), prev.clone());
            }
            let ran = self.call("ADD", config, Some(to));
            prev = ran.json();
            ran
        })
    }

    /// CHECK of all plugins, with the result of the attachment.
    pub(crate) fn check(&self, to: &Attachment, result: &Value) -> Answers {
        self.each(self.plugins(), |plugin| {
            self.call("CHECK", self.config_after(plugin, to, result), Some(to))
        })
    }

    /// DEL of all plugins, the last one first.
    pub(crate) fn del(&self, to: &Attachment, result: &Value) -> Answers {
        let mut plugins = self.plugins();
        plugins.reverse();
        self.each(plugins, |plugin| {
            self.call("DEL", self.config_after(plugin, to, result), Some(to))
        })
    }

    fn config_after(
        &self,
        plugin: Map<String, Value>,
        to: &Attachment,
        result: &Value,
    ) -> Map<String, Value> {
        let mut config = self.config(plugin, &to.capabilities);
        if !result.is_null() && self.list["cniVersion"] != "0.3.1" {
            config.insert("prevResult".to_owned(), result.clone());
        }
        config
    }

    /// VERSION or STATUS of each plugin.
    pub(crate) fn ask(&self, command: &str) -> Answers {
        self.each(self.plugins(), |plugin| {
            self.call(command, self.config(plugin, &Value::Null), None)
        })
    }

    /// GC of all plugins: what is not of these attachments may go.
    pub(crate) fn gc(&self, valid: &[&Attachment]) -> Answers {
        let valid: Vec<Value> = valid
            .iter()
            .map(|to| json!({"containerID": to.id, "ifname": to.ifname}))
            .collect();
        self.each(self.plugins(), |plugin| {
            let mut config = self.config(plugin, &Value::Null);
            config.insert("cni.dev/valid-attachments".to_owned(), json!(valid));
            self.call("GC", config, None)
        })
    }
}

/// The last result, or `null` when there is none.
pub(crate) fn result_of(answers: &Answers) -> Value {
    match answers.last() {
        Some((_, ran)) if ran.is_ok() => ran.json(),
        _ => Value::Null,
    }
}
