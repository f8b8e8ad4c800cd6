//! Calling drivers in this process, as the executable does.

#![allow(dead_code, reason = "every test binary uses another part")]

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use circuit_core::cni::{CniResult, CniVersion, ErrorReport, JsonObject};
use circuit_net::driver::executable::dispatch;
use circuit_net::driver::{Answer, Call, Command, Delegate, Driver, Sockets, driver};
use serde_json::{Value, json};

struct Nobody;

impl Delegate for Nobody {
    fn run(
        &self,
        kind: &str,
        _: Command,
        _: &JsonObject,
        _: &Call<'_>,
    ) -> Answer<Option<CniResult>> {
        Err(ErrorReport::new(999, format!("no {kind} here")))
    }
}

/// An attachment of a container to the network `net`.
#[derive(Clone, Copy)]
pub(crate) struct Attachment<'a> {
    pub(crate) id: &'a str,
    pub(crate) netns: Option<&'a Path>,
}

impl Attachment<'_> {
    /// Runs a command with a configuration.
    pub(crate) fn run(&self, command: Command, config: &Value) -> Answer<Option<CniResult>> {
        self.call(command, config, dispatch)
    }

    /// Has the driver make again what others took away.
    pub(crate) fn mend(&self, config: &Value) -> Answer<()> {
        self.call(Command::Check, config, |driver, call| driver.mend(call))
    }

    fn call<T>(
        &self,
        command: Command,
        config: &Value,
        run: impl FnOnce(&'static dyn Driver, &Call<'_>) -> T,
    ) -> T {
        let config = config.as_object().unwrap();
        let version = CniVersion::LATEST;
        let prev = config
            .get("prevResult")
            .map(|prev| CniResult::parse_or(prev, version).unwrap());
        let sockets = Sockets::default();
        let call = Call {
            command,
            container_id: self.id,
            netns: self.netns,
            ifname: "eth0",
            args: &[],
            config,
            version,
            prev: prev.as_ref(),
            delegate: &Nobody,
            sockets: &sockets,
        };
        let kind = config["type"].as_str().unwrap();
        run(driver(kind).unwrap(), &call)
    }
}

/// The result of a bridge plugin for a container with these addresses.
pub(crate) fn bridge_result(netns: &Path, addresses: &[String]) -> Value {
    let ips: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"address": address, "interface": 2}))
        .collect();
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "br0", "mac": "02:00:00:00:00:01"},
            {"name": "veth1", "mac": "02:00:00:00:00:02"},
            {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": netns},
        ],
        "ips": ips,
        "dns": {},
    })
}

/// The stock plugin 1.9.1, as `scripts/fetch-test-deps` unpacks it.
pub(crate) fn stock_plugin(kind: &str) -> PathBuf {
    let cache = std::env::var_os("CIRCUIT_CACHE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache"),
        PathBuf::from,
    );
    let plugin = cache.join("cni-1.9/bin").join(kind);
    assert!(
        plugin.exists(),
        "{} is missing: run scripts/fetch-test-deps",
        plugin.display()
    );
    plugin
}

/// The executable of the drivers.
pub(crate) fn executable() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/cni");
    // Cargo builds it by itself only when it builds all tests.
    if !path.exists() {
        let cargo = std::env::var("CARGO").unwrap_or("cargo".to_owned());
        let built = Process::new(cargo)
            .args(["build", "-q", "-p", "circuit-net", "--example", "cni"])
            .status();
        assert!(built.unwrap().success());
    }
    path
}
