//! Running one plugin, in each of the ways there are.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use circuit_core::cni::{CniResult, CniVersion, ErrorReport, JsonObject};
use circuit_net::driver::{Answer, Call, Command, Delegate, Sockets, driver, executable};
use serde_json::Value;

use super::STOCK_PLUGINS;

/// Ways of running a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The distribution's plugin.
    Stock11,
    /// The newer plugin in the cache.
    Stock19,
    /// The newest plugin in the cache: tests that need it have `cni_plugins` in their
    /// name.
    Stock110,
    /// Ours as an executable.
    Ours,
    /// Ours within this process, which remembers.
    InProcess,
}

/// Who is to be attached, and what `CNI_ARGS` says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Who {
    pub(crate) id: String,
    pub(crate) ifname: String,
    pub(crate) args: String,
    pub(crate) netns: Option<PathBuf>,
}

pub(crate) fn who(id: &str) -> Who {
    Who {
        id: id.to_owned(),
        ifname: "eth0".to_owned(),
        ..Who::default()
    }
}

/// Runs drivers of this process.
pub(crate) struct Drivers;

impl Delegate for Drivers {
    fn run(
        &self,
        kind: &str,
        command: Command,
        config: &JsonObject,
        call: &Call<'_>,
    ) -> Answer<Option<CniResult>> {
        let driver = driver(kind).unwrap_or_else(|| panic!("there is no driver {kind}"));
        let call = Call {
            command,
            config,
            ..*call
        };
        executable::dispatch(driver, &call)
    }
}

impl Way {
    pub(crate) fn executable(self, kind: &str) -> PathBuf {
        let cached = |folder: &str| {
            let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache");
            let cache = std::env::var_os("CIRCUIT_CACHE").map_or_else(here, PathBuf::from);
            cache.join(folder)
        };
        let (path, remedy) = match self {
            Self::Stock11 => (Path::new(STOCK_PLUGINS).join(kind), "scripts/setup test"),
            Self::Stock19 => (cached("cni-1.9/bin").join(kind), "scripts/fetch-test-deps"),
            Self::Stock110 => (cached("cni-1.10/bin").join(kind), "scripts/cni-plugins"),
            Self::Ours | Self::InProcess => {
                let test = std::env::current_exe().unwrap();
                let profile = test.parent().and_then(Path::parent).unwrap();
                (
                    profile.join("examples/cni"),
                    "cargo build -p circuit-net --examples",
                )
            }
        };
        assert!(path.exists(), "{} is missing: {remedy}", path.display());
        path
    }

    /// Runs the plugin `kind`; the plugins that it runs are of the same way.
    pub(crate) fn run(
        self,
        kind: &str,
        command: Command,
        config: &Value,
        who: &Who,
    ) -> Result<Value, ErrorReport> {
        match self {
            Self::InProcess => in_process(kind, command, config, who),
            _ => self.run_process(kind, command, config, who),
        }
    }

    fn run_process(
        self,
        kind: &str,
        command: Command,
        config: &Value,
        who: &Who,
    ) -> Result<Value, ErrorReport> {
        let executable = self.executable(kind);
        let mut process = Process::new(&executable);
        if self == Self::Ours {
            process.arg(kind);
        }
        let nobody = Path::new("/proc/1/ns/net-of-nobody");
        let netns = match (&who.netns, command) {
            (None, Command::Del) => Path::new(""),
            (netns, _) => netns.as_deref().unwrap_or(nobody),
        };
        let mut child = process
            .env("CNI_COMMAND", command.as_str())
            .env("CNI_CONTAINERID", &who.id)
            .env("CNI_IFNAME", &who.ifname)
            .env("CNI_NETNS", netns)
            .env("CNI_NETNS_OVERRIDE", "1")
            .env("CNI_ARGS", &who.args)
            .env("CNI_PATH", executable.parent().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(config.to_string().as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Err(ErrorReport::parse(&output.stdout).unwrap_or_else(|| panic!("{self:?}: {text}")))
    }
}

fn in_process(
    kind: &str,
    command: Command,
    config: &Value,
    who: &Who,
) -> Result<Value, ErrorReport> {
    let args: Vec<(String, String)> = who
        .args
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let version: CniVersion = config["cniVersion"].as_str().unwrap().parse().unwrap();
    let prev = config.get("prevResult");
    let prev = prev.map(|prev| CniResult::parse(prev).unwrap());
    let call = Call {
        command,
        container_id: &who.id,
        netns: who.netns.as_deref(),
        ifname: &who.ifname,
        args: &args,
        config: config.as_object().unwrap(),
        version,
        prev: prev.as_ref(),
        delegate: &Drivers,
        sockets: &Sockets::default(),
    };
    let result = executable::dispatch(driver(kind).unwrap(), &call)?;
    Ok(result.map_or(Value::Null, |result| result.to_version(version)))
}

/// An empty `dns` means the same as none.
pub(crate) fn without_dns(mut result: Value) -> Value {
    if let Some(result) = result.as_object_mut()
        && result.get("dns") == Some(&serde_json::json!({}))
    {
        result.remove("dns");
    }
    result
}
