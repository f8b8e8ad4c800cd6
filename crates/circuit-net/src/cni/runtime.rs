//! The operations of the specification on whole configuration lists.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use circuit_core::cni::{
    CniResult, CniVersion, ConfigList, DataPath, Invocation, JsonObject, PluginConfig,
    ValidAttachment, code, plugin_config,
};
use circuit_core::{Error, Result};
use serde_json::Value;
use tracing::{Instrument as _, field};

use super::answers::{add_error, bad_output, keep_first, read_result};
use super::exec::{Command, PluginCall, run};
use super::keeper::name_keeper;
use super::names::check_args;
use super::native::{self, NativeCall, Natives, Others, Way};
use super::probe::Executable;
use super::{AddError, CniError, OperationLock, PluginPath};
use crate::driver::Sockets;
use crate::netns::Workers;

/// What an attachment's plugins are told besides the network's configuration.
/// The same must be given to ADD, CHECK and DEL.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AttachmentArgs {
    /// The container id.
    pub container_id: String,
    /// The path of the network namespace; `None` on DEL when it is gone.
    pub netns: Option<PathBuf>,
    /// The interface's name in the container.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub cni_args: Vec<(String, String)>,
    /// Values for capabilities, such as `portMappings`.
    pub capability_args: JsonObject,
    /// Entries of `args.cni` in the configuration, such as `ips`.
    pub config_args: JsonObject,
    /// The plugins of the list that are run in this process, as
    /// [`CniRuntime::natives`] said before ADD.
    pub natives: Natives,
}

/// Runs configuration lists.
#[derive(Debug, Clone)]
pub struct CniRuntime {
    pub(super) path: PluginPath,
    pub(super) timeout: Duration,
    data_path: DataPath,
    /// The keeper of address pools, where the configuration does not name it.
    keeper: Option<PathBuf>,
    workers: Workers,
    /// What plugins answered to VERSION, by what tells one executable from
    /// another.
    pub(super) spoken: Arc<Mutex<HashMap<Executable, Vec<CniVersion>>>>,
}

impl CniRuntime {
    /// A runtime that finds plugins in `path` and gives each run of one
    /// `timeout` to end. All of them are executables.
    pub fn new(path: PluginPath, timeout: Duration) -> Self {
        Self {
            path,
            timeout,
            data_path: DataPath::Exec,
            keeper: None,
            workers: Workers::default(),
            spoken: Arc::default(),
        }
    }

    /// The same runtime on another data path, for the networks that do not say
    /// themselves.
    #[must_use]
    pub fn on(self, data_path: DataPath) -> Self {
        Self { data_path, ..self }
    }

    /// The same runtime with the keeper of address pools at this socket, for the
    /// networks that do not name one themselves.
    #[must_use]
    pub fn asking(self, keeper: &Path) -> Self {
        Self {
            keeper: Some(keeper.to_owned()),
            ..self
        }
    }

    /// Which plugins of a list are to be run in this process.
    ///
    /// # Errors
    /// [`FailedPrecondition`](circuit_core::ErrorKind::FailedPrecondition) when
    /// all must be and one cannot.
    pub fn natives(&self, list: &ConfigList) -> Result<Natives> {
        native::natives(self.data_path_of(list), list)
    }

    /// How each plugin of a list is run, with its type; address management too,
    /// as far as it is for Circuit to run.
    pub fn ways(&self, list: &ConfigList) -> Vec<(String, Way)> {
        let data_path = self.data_path_of(list);
        let mut ways = Vec::new();
        for plugin in &list.plugins {
            let way = native::way(data_path, plugin);
            let ipam = plugin.ipam().and_then(|ipam| ipam.kind());
            let ipam = ipam.filter(|_| way == Way::Native);
            ways.push((plugin.kind.clone(), way));
            ways.extend(ipam.map(|kind| (kind.to_owned(), native::way_of_ipam(kind, plugin))));
        }
        ways
    }

    fn data_path_of(&self, list: &ConfigList) -> DataPath {
        list.data_path.unwrap_or(self.data_path)
    }

    /// Where plugins are looked for.
    pub fn path(&self) -> &PluginPath {
        &self.path
    }

    /// The threads on which drivers run.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// How long one run of a plugin may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Attaches: runs the plugins in order and returns the final result, read
    /// and as it was written. Nothing is undone on failure.
    ///
    /// # Errors
    /// An [`AddError`] that says whether a DEL is owed.
    pub async fn add(
        &self,
        list: &ConfigList,
        args: &AttachmentArgs,
        lock: Option<&OperationLock>,
    ) -> Result<(CniResult, Value), AddError> {
        let untouched = |error| AddError {
            error,
            cleanup_owed: false,
            so_far: None,
        };
        let list = self.prepare_add(list, args).await.map_err(untouched)?;
        let mut prev: Option<Value> = None;
        let mut sockets = Sockets::default();
        for (index, plugin) in list.plugins.iter().enumerate() {
            let call = Call {
                command: Command::Add,
                args,
                prev: prev.as_ref(),
                valid: None,
            };
            let added = match self.call(&list, index, &call, &mut sockets, lock).await {
                Ok(Output::Written(stdout)) => read_result(&plugin.kind, &list, &stdout),
                Ok(Output::Returned(result)) => Ok(result.unwrap_or_default()),
                Err(error) => Err(error),
            };
            prev = match added {
                Ok(result) => Some(result),
                Err(error) => return Err(add_error(index, prev, error)),
            };
        }
        let raw = prev.unwrap_or_default();
        match CniResult::parse_or(&raw, list.cni_version) {
            Ok(result) => Ok((result, raw)),
            Err(e) => Err(AddError {
                error: bad_output(last_kind(&list), Command::Add, e.message()),
                cleanup_owed: true,
                so_far: None,
            }),
        }
    }

    /// Detaches: runs the plugins in reverse order, each with the final result
    /// of ADD, or what a failed one had so far. A plugin's failure does not keep the
    /// others from running.
    ///
    /// # Errors
    /// The first [`CniError`]: the DEL must be repeated.
    pub async fn del(
        &self,
        list: &ConfigList,
        args: &AttachmentArgs,
        prev: Option<&Value>,
        lock: Option<&OperationLock>,
    ) -> Result<(), CniError> {
        check_args(args)?;
        let list = self.list_for(list, prev).await;
        let mut first = None;
        let mut sockets = Sockets::default();
        for index in (0..list.plugins.len()).rev() {
            // Old versions have it not, which drivers need not mind.
            let told = list.cni_version.has_check() || args.natives.contains(&index);
            let call = Call {
                command: Command::Del,
                args,
                prev: prev.filter(|_| told),
                valid: None,
            };
            match self.call(&list, index, &call, &mut sockets, lock).await {
                Ok(_) => {}
                Err(e) if e.code() == Some(code::UNKNOWN_CONTAINER) => {}
                Err(e) => keep_first(&mut first, e),
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Asks every plugin whether the attachment is as ADD left it. Lists that
    /// have no CHECK, or disable it, always are.
    ///
    /// # Errors
    /// The [`CniError`] of the first plugin that says no.
    pub async fn check(
        &self,
        list: &ConfigList,
        args: &AttachmentArgs,
        prev: &Value,
        lock: Option<&OperationLock>,
    ) -> Result<(), CniError> {
        check_args(args)?;
        let list = self.list_for(list, Some(prev)).await;
        if !list.cni_version.has_check() || list.disable_check {
            return Ok(());
        }
        let call = Call {
            command: Command::Check,
            args,
            prev: Some(prev),
            valid: None,
        };
        let mut sockets = Sockets::default();
        for index in 0..list.plugins.len() {
            self.call(&list, index, &call, &mut sockets, lock).await?;
        }
        Ok(())
    }

    /// Makes again what other programs may have taken away of an attachment's
    /// firewall rules and of its gateway, as far as drivers made them.
    ///
    /// # Errors
    /// The first [`CniError`]; the other plugins are asked all the same.
    pub async fn mend(
        &self,
        list: &ConfigList,
        args: &AttachmentArgs,
        prev: &Value,
        lock: Option<&OperationLock>,
    ) -> Result<(), CniError> {
        check_args(args)?;
        let list = self.list_for(list, Some(prev)).await;
        let call = Call {
            command: Command::Add,
            args,
            prev: Some(prev),
            valid: None,
        };
        let (mut first, mut sockets) = (None, Sockets::default());
        for index in args.natives.iter().copied() {
            let (plugin, config) = self.configuration(&list, index, &call)?;
            let mut native = self.native_call(&list, plugin, &call, config, lock);
            native.mend = true;
            if let Err(e) = native.run(&self.workers, &mut sockets).await {
                keep_first(&mut first, e);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Asks every plugin whether it could serve an ADD. Lists that have no
    /// STATUS always can.
    ///
    /// # Errors
    /// The [`CniError`] of the first plugin that could not.
    pub async fn status(&self, list: &ConfigList) -> Result<(), CniError> {
        let list = self.negotiated(list).await?;
        if !list.cni_version.has_status_and_gc() {
            return Ok(());
        }
        let args = self.without_container(&list)?;
        let call = Call {
            command: Command::Status,
            args: &args,
            prev: None,
            valid: None,
        };
        let mut sockets = Sockets::default();
        for index in 0..list.plugins.len() {
            self.call(&list, index, &call, &mut sockets, None).await?;
        }
        Ok(())
    }

    /// Tells every plugin what is still in use, as pairs of container id and
    /// interface name, so that it removes the rest. Lists that have no GC, or
    /// disable it, are left alone.
    ///
    /// # Errors
    /// The first [`CniError`]; the other plugins are run all the same.
    pub async fn gc(
        &self,
        list: &ConfigList,
        valid: &[(String, String)],
        lock: Option<&OperationLock>,
    ) -> Result<(), CniError> {
        let list = self.negotiated(list).await?;
        if !list.cni_version.has_status_and_gc() || list.disable_gc {
            return Ok(());
        }
        let valid: Vec<ValidAttachment> = valid
            .iter()
            .map(|(container_id, ifname)| ValidAttachment {
                container_id: container_id.clone(),
                ifname: ifname.clone(),
            })
            .collect();
        let args = self.without_container(&list)?;
        let call = Call {
            command: Command::Gc,
            args: &args,
            prev: None,
            valid: Some(&valid),
        };
        let mut first = None;
        let mut sockets = Sockets::default();
        for index in 0..list.plugins.len() {
            if let Err(e) = self.call(&list, index, &call, &mut sockets, lock).await {
                keep_first(&mut first, e);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// What plugins are told when no container is concerned.
    fn without_container(&self, list: &ConfigList) -> Result<AttachmentArgs, CniError> {
        Ok(AttachmentArgs {
            natives: self.natives(list).map_err(CniError::NotRun)?,
            ..AttachmentArgs::default()
        })
    }

    async fn prepare_add<'a>(
        &self,
        list: &'a ConfigList,
        args: &AttachmentArgs,
    ) -> Result<Cow<'a, ConfigList>, CniError> {
        check_args(args)?;
        if args.netns.is_none() {
            return Err(CniError::NotRun(Error::invalid(
                "adding needs a network namespace",
            )));
        }
        self.find_all(list, &args.natives, false)?;
        self.negotiated(list).await
    }

    /// Runs a plugin, in a span of the daemon's traces.
    async fn call(
        &self,
        list: &ConfigList,
        index: usize,
        call: &Call<'_>,
        sockets: &mut Sockets,
        lock: Option<&OperationLock>,
    ) -> Result<Output, CniError> {
        let span = tracing::info_span!(
            target: "circuit_traces",
            "plugin",
            plugin = list.plugins[index].kind,
            native = call.args.natives.contains(&index),
            otel.status_code = field::Empty,
            otel.status_description = field::Empty,
        );
        let done = self.run(list, index, call, sockets, lock);
        let done = done.instrument(span.clone()).await;
        if let Err(error) = &done {
            span.record("otel.status_code", "ERROR");
            span.record("otel.status_description", field::display(error));
        }
        done
    }

    async fn run(
        &self,
        list: &ConfigList,
        index: usize,
        call: &Call<'_>,
        sockets: &mut Sockets,
        lock: Option<&OperationLock>,
    ) -> Result<Output, CniError> {
        let (plugin, config) = self.configuration(list, index, call)?;
        if call.args.natives.contains(&index) {
            let native = self.native_call(list, plugin, call, config, lock);
            return native
                .run(&self.workers, sockets)
                .await
                .map(Output::Returned);
        }
        let stdin = Value::Object(config).to_string();
        let call = PluginCall {
            kind: &plugin.kind,
            command: call.command,
            container_id: &call.args.container_id,
            netns: call.args.netns.as_deref(),
            ifname: &call.args.ifname,
            args: &call.args.cni_args,
            stdin: stdin.as_bytes(),
        };
        let stdout = run(&self.path, &call, self.timeout, lock).await?;
        Ok(Output::Written(stdout))
    }

    /// A plugin of a list, and what it is told.
    fn configuration<'a>(
        &self,
        list: &'a ConfigList,
        index: usize,
        call: &Call<'_>,
    ) -> Result<(&'a PluginConfig, JsonObject), CniError> {
        let invocation = Invocation {
            capability_args: Some(&call.args.capability_args),
            config_args: Some(&call.args.config_args),
            prev_result: call.prev,
            valid_attachments: call.valid,
        };
        let mut config = plugin_config(list, index, &invocation);
        if let Some((config, keeper)) = config.as_mut().zip(self.keeper.as_deref()) {
            name_keeper(config, keeper);
        }
        list.plugins
            .get(index)
            .zip(config)
            .ok_or_else(|| CniError::NotRun(Error::internal(format!("list has no plugin {index}"))))
    }

    fn native_call(
        &self,
        list: &ConfigList,
        plugin: &PluginConfig,
        call: &Call<'_>,
        config: JsonObject,
        lock: Option<&OperationLock>,
    ) -> NativeCall {
        NativeCall {
            kind: plugin.kind.clone(),
            command: call.command,
            container_id: call.args.container_id.clone(),
            netns: call.args.netns.clone(),
            ifname: call.args.ifname.clone(),
            args: call.args.cni_args.clone(),
            config,
            version: list.cni_version,
            mend: false,
            lock: lock.map(OperationLock::share),
            others: Others {
                path: self.path.clone(),
                timeout: self.timeout,
                data_path: self.data_path_of(list),
            },
        }
    }
}

/// What a plugin answers.
enum Output {
    /// What an executable wrote on standard output.
    Written(Vec<u8>),
    /// What a driver returned.
    Returned(Option<Value>),
}

/// What all plugins of a list are asked.
struct Call<'a> {
    command: Command,
    args: &'a AttachmentArgs,
    prev: Option<&'a Value>,
    valid: Option<&'a [ValidAttachment]>,
}

fn last_kind(list: &ConfigList) -> &str {
    list.plugins
        .last()
        .map_or("", |plugin| plugin.kind.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plugins_are_told_where_the_keeper_of_pools_is() {
        let told = |ipam: Value| {
            let list = json!({"cniVersion": "1.0.0", "name": "lan",
                "plugins": [{"type": "bridge", "ipam": ipam}]});
            let list = ConfigList::parse(list.to_string().as_bytes()).unwrap();
            let runtime = CniRuntime::new(PluginPath::new(["/x"]), Duration::ZERO);
            let args = AttachmentArgs::default();
            let call = Call {
                command: Command::Add,
                args: &args,
                prev: None,
                valid: None,
            };
            let runtime = runtime.asking(Path::new("/run/own.sock"));
            let (_, config) = runtime.configuration(&list, 0, &call).unwrap();
            config["ipam"].clone()
        };
        assert_eq!(
            told(json!({"Type": "circuit"})),
            json!({"Type": "circuit", "socket": "/run/own.sock"})
        );
        for as_it_is in [
            json!({"type": "circuit", "Socket": "/run/other.sock"}),
            json!({"type": "host-local"}),
        ] {
            assert_eq!(told(as_it_is.clone()), as_it_is);
        }
    }
}
