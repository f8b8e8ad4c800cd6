//! Plugins run in this process, by the drivers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use circuit_core::cni::{
    CniResult, CniVersion, ConfigList, DataPath, ErrorReport, JsonObject, PluginConfig, code,
};
use circuit_core::{Error, Result};
use serde_json::Value;
use tokio::runtime::Handle;

use super::exec::{Command, PluginCall, run};
use super::{CniError, OperationLock, PluginPath};
use crate::driver::delegate::{by_driver, written};
use crate::driver::{Answer, Call, Delegate, Driver, Sockets, Unsupported, dispatch, driver};
use crate::netns::Workers;

/// Which plugins of a list are run in this process, by their place in it. An
/// attachment is taken away the way it was made.
pub type Natives = BTreeSet<usize>;

/// How a plugin of a list is run, and why not by a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By the driver.
    Native,
    /// By the executable, as this program has no such driver or is told to.
    Exec,
    /// By the executable, because of a key that the driver does not do.
    Fallback(Unsupported),
}

/// How a plugin is run on this data path. A driver looks at the configuration
/// as it is written: what a runtime puts in, every driver knows.
pub(super) fn way(data_path: DataPath, plugin: &PluginConfig) -> Way {
    if data_path == DataPath::Exec {
        return Way::Exec;
    }
    way_of(&plugin.kind, plugin)
}

/// How addresses of that type are given out for a plugin that is itself run in
/// this process.
pub(super) fn way_of_ipam(ipam: &str, plugin: &PluginConfig) -> Way {
    way_of(ipam, plugin)
}

fn way_of(kind: &str, plugin: &PluginConfig) -> Way {
    match driver(kind).map(|driver| driver.supports(&plugin.raw)) {
        None => Way::Exec,
        Some(Ok(())) => Way::Native,
        Some(Err(unsupported)) => Way::Fallback(unsupported),
    }
}

/// Decides for each plugin of a list how it is run.
///
/// # Errors
/// When only drivers may run and one does not do a key.
pub(super) fn natives(data_path: DataPath, list: &ConfigList) -> Result<Natives> {
    let mut natives = Natives::new();
    for (index, plugin) in list.plugins.iter().enumerate() {
        match way(data_path, plugin) {
            Way::Native => {
                natives.insert(index);
            }
            Way::Fallback(unsupported) if data_path == DataPath::Native => {
                return Err(Error::precondition(format!(
                    "network {}: the native driver {} cannot do it: {unsupported}: change the \
                     configuration, or set the data path to auto",
                    list.name, plugin.kind
                )));
            }
            Way::Exec if data_path == DataPath::Native => {
                return Err(Error::precondition(format!(
                    "network {}: there is no native driver {}: set the data path to auto",
                    list.name, plugin.kind
                )));
            }
            Way::Exec | Way::Fallback(_) => {}
        }
    }
    Ok(natives)
}

/// One call of a driver, with all that it needs on a thread of its own.
pub(super) struct NativeCall {
    pub(super) kind: String,
    pub(super) command: Command,
    pub(super) container_id: String,
    pub(super) netns: Option<PathBuf>,
    pub(super) ifname: String,
    pub(super) args: Vec<(String, String)>,
    pub(super) config: JsonObject,
    pub(super) version: CniVersion,
    /// What the attachment has outside of the container is to be made again.
    pub(super) mend: bool,
    /// Held until the driver has ended, whoever waits for it.
    pub(super) lock: Option<OperationLock>,
    pub(super) others: Others,
}

/// What drivers run other plugins with.
#[derive(Debug, Clone)]
pub(super) struct Others {
    pub(super) path: PluginPath,
    pub(super) timeout: Duration,
    pub(super) data_path: DataPath,
}

impl NativeCall {
    /// Has the driver do it on a thread that may block; it goes on to its end
    /// when nobody waits any more. `sockets` is given back with the answer.
    pub(super) async fn run(
        self,
        workers: &Workers,
        sockets: &mut Sockets,
    ) -> std::result::Result<Option<Value>, CniError> {
        let (plugin, command, limit) = (self.kind.clone(), self.command, self.others.timeout);
        let Some(driver) = driver(&self.kind) else {
            return Err(CniError::NotRun(Error::internal(format!(
                "there is no native driver {plugin}"
            ))));
        };
        let lent = std::mem::take(sockets);
        let handle = Handle::current();
        let work = workers.run(move || {
            let answer = self.serve(driver, &lent, handle);
            (answer, lent)
        });
        let (answer, lent) = match tokio::time::timeout(limit, work).await {
            Ok(Ok(done)) => done,
            Ok(Err(defect)) => {
                return Err(CniError::Failed {
                    plugin,
                    command,
                    status: format!("the driver hit a defect: {defect}"),
                    stderr: String::new(),
                });
            }
            Err(_) => {
                return Err(CniError::Timeout {
                    plugin,
                    command,
                    timeout: limit,
                    stderr: String::new(),
                });
            }
        };
        *sockets = lent;
        answer.map_err(|report| CniError::Report {
            plugin,
            command,
            report,
            stderr: String::new(),
        })
    }

    fn serve(
        self,
        driver: &dyn Driver,
        sockets: &Sockets,
        handle: Handle,
    ) -> Answer<Option<Value>> {
        let prev = self.config.get("prevResult").filter(|prev| !prev.is_null());
        let prev = prev
            .map(|prev| CniResult::parse_or(prev, self.version))
            .transpose()
            .map_err(|e| ErrorReport::new(code::DECODING_FAILURE, format!("prevResult: {e}")))?;
        let delegate = Delegation {
            others: &self.others,
            lock: self.lock.as_ref(),
            handle,
        };
        let call = Call {
            command: self.command,
            container_id: &self.container_id,
            netns: self.netns.as_deref(),
            ifname: &self.ifname,
            args: &self.args,
            config: &self.config,
            version: self.version,
            prev: prev.as_ref(),
            delegate: &delegate,
            sockets,
        };
        let result = match self.mend {
            true => driver.mend(&call).map(|()| None),
            false => dispatch(driver, &call),
        }?;
        Ok(result.map(|result| result.to_version(self.version)))
    }
}

/// Runs other plugins for a driver.
struct Delegation<'a> {
    others: &'a Others,
    lock: Option<&'a OperationLock>,
    handle: Handle,
}

impl Delegate for Delegation<'_> {
    fn run(
        &self,
        kind: &str,
        command: Command,
        config: &JsonObject,
        call: &Call<'_>,
    ) -> Answer<Option<CniResult>> {
        if self.others.data_path != DataPath::Exec
            && let Some(answer) = by_driver(self, kind, command, config, call)
        {
            return answer;
        }
        let stdin = Value::Object(config.clone()).to_string();
        let plugin_call = PluginCall {
            kind,
            command,
            container_id: call.container_id,
            netns: call.netns,
            ifname: call.ifname,
            args: call.args,
            stdin: stdin.as_bytes(),
        };
        let others = self.others;
        let run = run(&others.path, &plugin_call, others.timeout, self.lock);
        let stdout = self.handle.block_on(run).map_err(|error| match error {
            CniError::Report { report, .. } => report,
            other => ErrorReport::new(code::OTHER, other.to_string()),
        })?;
        written(kind, command, &stdout, call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_plugin_with_keys_of_a_list_is_native() {
        for key in [
            r#""io.circuit.data-path":"native""#,
            r#""io.circuit.dns":true"#,
            r#""io.circuit.gw-priority":3"#,
            r#""disableCheck":true"#,
            r#""disableGC":true"#,
            r#""loadOnlyInlinedPlugins":true"#,
            r#""cniVersions":["1.0.0"]"#,
        ] {
            let text = format!(
                r#"{{"cniVersion":"1.0.0","name":"web","type":"bridge",{key},
                     "ipam":{{"type":"host-local","subnet":"10.1.0.0/16"}}}}"#
            );
            let list = ConfigList::parse(text.as_bytes()).unwrap();
            assert_eq!(
                way(DataPath::Native, &list.plugins[0]),
                Way::Native,
                "{key}"
            );
        }
        let list = br#"{"cniVersion":"1.0.0","name":"web","type":"bridge","mystery":1}"#;
        let list = ConfigList::parse(list).unwrap();
        assert!(matches!(
            way(DataPath::Auto, &list.plugins[0]),
            Way::Fallback(_)
        ));
    }
}
