//! Calling drivers as a runtime does, and the stock plugins beside them.

#![allow(dead_code, reason = "every test binary uses another part")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use circuit_core::cni::{CniResult, CniVersion, ErrorReport, JsonObject, code};
use circuit_net::driver::executable::dispatch;
use circuit_net::driver::{Answer, Call, Command, Delegate, Sockets, driver};
use serde_json::{Value, json};

/// Who does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The driver, in the thread of the test.
    Ours,
    /// The newer stock plugin, from the cache of test dependencies.
    Stock,
}

/// One attachment's plugin.
pub(crate) struct Plugin {
    pub(crate) kind: &'static str,
    pub(crate) container_id: String,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) args: String,
    pub(crate) config: Value,
}

impl Plugin {
    /// The plugin of a chain whose configuration has these keys.
    pub(crate) fn new(kind: &'static str, netns: &Path, keys: Value) -> Self {
        let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": kind});
        for (key, value) in keys.as_object().unwrap() {
            config[key] = value.clone();
        }
        Self {
            kind,
            container_id: "web".to_owned(),
            netns: Some(netns.to_owned()),
            args: String::new(),
            config,
        }
    }

    /// Runs one command; what it writes, or the error object.
    pub(crate) fn run(&self, by: By, command: Command) -> Result<Value, ErrorReport> {
        match by {
            By::Ours => self.ours(command),
            By::Stock => self.stock(command),
        }
    }

    fn ours(&self, command: Command) -> Result<Value, ErrorReport> {
        let config: JsonObject = self.config.as_object().unwrap().clone();
        let driver = driver(self.kind).unwrap();
        assert_eq!(driver.supports(&config), Ok(()));
        let version: CniVersion = config["cniVersion"].as_str().unwrap().parse().unwrap();
        let prev = config
            .get("prevResult")
            .map(|prev| CniResult::parse_or(prev, version).unwrap());
        let pairs = self.args.split(';').filter_map(|pair| pair.split_once('='));
        let args: Vec<(String, String)> =
            pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let sockets = Sockets::default();
        let call = Call {
            command,
            container_id: &self.container_id,
            netns: self.netns.as_deref(),
            ifname: "eth0",
            args: &args,
            config: &config,
            version,
            prev: prev.as_ref(),
            delegate: &NoDelegate,
            sockets: &sockets,
        };
        let result = dispatch(driver, &call)?;
        let mut result = result.map_or(Value::Null, |result| result.to_version(version));
        // The stock plugins leave an empty one out.
        if result["dns"] == json!({}) {
            result.as_object_mut().unwrap().remove("dns");
        }
        Ok(result)
    }

    fn stock(&self, command: Command) -> Result<Value, ErrorReport> {
        let mut child = Process::new(stock_plugins().join(self.kind))
            .env_clear()
            .env("CNI_COMMAND", command.as_str())
            .env("CNI_CONTAINERID", &self.container_id)
            .env("CNI_NETNS", self.netns.as_deref().unwrap_or(Path::new("")))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", &self.args)
            .env("CNI_PATH", stock_plugins())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}: run scripts/fetch-test-deps", self.kind));
        let text = self.config.to_string();
        let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout);
            return Err(ErrorReport::parse(&output.stdout)
                .unwrap_or_else(|| ErrorReport::new(code::OTHER, text)));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }
}

/// The folder of the newer stock plugins.
pub(crate) fn stock_plugins() -> PathBuf {
    let cache = std::env::var_os("CIRCUIT_CACHE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache"),
        PathBuf::from,
    );
    cache.join("cni-1.9/bin")
}

struct NoDelegate;

impl Delegate for NoDelegate {
    fn run(
        &self,
        kind: &str,
        _: Command,
        _: &JsonObject,
        _: &Call<'_>,
    ) -> Answer<Option<CniResult>> {
        Err(ErrorReport::new(
            code::OTHER,
            format!("{kind} is not expected here"),
        ))
    }
}
