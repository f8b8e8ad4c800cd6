//! One plugin of a chain, by our driver or the newer stock executable.

#![allow(dead_code, reason = "every test binary uses another part")]

use std::path::{Path, PathBuf};

use circuit_core::cni::ErrorReport;
use circuit_net::driver::{Command, driver};
use serde_json::{Value, json};

use crate::common::plugin::{Way, Who, who, without_dns};

/// Who does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The driver, in the thread of the test.
    Ours,
    /// The newer stock plugin, from the cache of test dependencies.
    Stock,
    /// The newest stock plugin.
    Newest,
}

/// One attachment's plugin.
pub(crate) struct Plugin {
    pub(crate) kind: &'static str,
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
            netns: Some(netns.to_owned()),
            args: String::new(),
            config,
        }
    }

    /// Runs one command; what it writes, or the error object.
    pub(crate) fn run(&self, by: By, command: Command) -> Result<Value, ErrorReport> {
        let way = match by {
            By::Ours => Way::InProcess,
            By::Stock => Way::Stock19,
            By::Newest => Way::Stock110,
        };
        let driver = driver(self.kind).unwrap();
        assert_eq!(driver.supports(self.config.as_object().unwrap()), Ok(()));
        let who = Who {
            netns: self.netns.clone(),
            args: self.args.clone(),
            ..who("web")
        };
        way.run(self.kind, command, &self.config, &who)
            .map(without_dns)
    }
}

/// The folder of the newer stock plugins.
pub(crate) fn stock_plugins() -> PathBuf {
    let path = Way::Stock19.executable("bridge");
    path.parent().unwrap().to_owned()
}
