//! Which versions plugins speak, and whether a list can be run.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use circuit_core::cni::{CniVersion, ConfigList, supported_versions};
use circuit_core::{Error, Result};
use serde_json::Value;

use super::CniError;
use super::answers::bad_output;
use super::exec::{Command, PluginCall, run};
use super::native::{self, Natives, Way};
use super::runtime::CniRuntime;

/// What tells one executable from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Executable {
    path: PathBuf,
    inode: u64,
    modified: (i64, i64),
}

impl CniRuntime {
    /// The versions known here that a plugin speaks. An executable is asked
    /// once, until it is replaced.
    ///
    /// # Errors
    /// A [`CniError`] when it cannot be run or does not answer.
    pub async fn versions(&self, plugin: &str) -> Result<Vec<CniVersion>, CniError> {
        let executable = self.executable(plugin)?;
        if let Some(known) = self.spoken().get(&executable) {
            return Ok(known.clone());
        }
        // Plugins made for old versions check the other variables even here.
        let call = PluginCall {
            kind: plugin,
            command: Command::Version,
            container_id: "dummy",
            netns: Some(Path::new("dummy")),
            ifname: "dummy",
            args: &[],
            stdin: br#"{"cniVersion":"1.0.0"}"#,
        };
        let stdout = run(&self.path, &call, self.timeout, None).await?;
        let versions = supported_versions(&stdout)
            .map_err(|e| bad_output(plugin, Command::Version, e.message()))?;
        self.spoken().insert(executable, versions.clone());
        Ok(versions)
    }

    /// Makes sure that a list can be run: every plugin, and every executable
    /// of address management, is there, and all of them speak one of the
    /// list's versions. Returns the highest such version.
    ///
    /// # Errors
    /// [`FailedPrecondition`](circuit_core::ErrorKind::FailedPrecondition) that
    /// says what to do.
    pub async fn probe(&self, list: &ConfigList) -> Result<CniVersion> {
        let natives = self.natives(list)?;
        self.find_all(list, &natives, true)?;
        let mut common = list.versions.clone();
        // Drivers speak every version.
        for kind in executables(list, &natives, true) {
            let spoken = self.versions(kind).await?;
            if CniVersion::highest_common(&common, &spoken).is_none() {
                let text = |versions: &[CniVersion]| {
                    versions
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                };
                return Err(Error::precondition(format!(
                    "cni plugin {kind} speaks {}, not {}: change cniVersion or install another version of the plugin",
                    if spoken.is_empty() {
                        "no known version".to_owned()
                    } else {
                        text(&spoken)
                    },
                    text(&common),
                )));
            }
            common.retain(|version| spoken.contains(version));
        }
        common
            .first()
            .copied()
            .ok_or_else(|| Error::precondition("no usable cniVersion"))
    }

    /// Makes sure that every executable is there that a list needs, with those
    /// of address management on request.
    pub(super) fn find_all(
        &self,
        list: &ConfigList,
        natives: &Natives,
        with_ipam: bool,
    ) -> Result<(), CniError> {
        for kind in executables(list, natives, with_ipam) {
            self.path.find(kind)?;
        }
        Ok(())
    }

    /// The list in the highest version that it and all its plugins know. Only
    /// a list that offers a choice costs runs of VERSION.
    pub(super) async fn negotiated<'a>(
        &self,
        list: &'a ConfigList,
    ) -> Result<Cow<'a, ConfigList>, CniError> {
        if list.versions.len() < 2 {
            return Ok(Cow::Borrowed(list));
        }
        let version = self.probe(list).await.map_err(CniError::NotRun)?;
        Ok(Cow::Owned(list.at_version(version)))
    }

    /// The list in the version in which the attachment was made.
    pub(super) async fn list_for<'a>(
        &self,
        list: &'a ConfigList,
        prev: Option<&Value>,
    ) -> Cow<'a, ConfigList> {
        let made = prev.and_then(|prev| prev.get("cniVersion")?.as_str()?.parse().ok());
        match made {
            Some(version) if list.versions.contains(&version) => {
                Cow::Owned(list.at_version(version))
            }
            // Detaching must be tried even when a plugin is gone.
            _ => self.negotiated(list).await.unwrap_or(Cow::Borrowed(list)),
        }
    }

    fn executable(&self, plugin: &str) -> Result<Executable, CniError> {
        let path = self.path.find(plugin)?;
        let meta = path.metadata().map_err(|e| {
            CniError::NotRun(Error::precondition(format!(
                "cannot read {}: {e}",
                path.display()
            )))
        })?;
        Ok(Executable {
            path,
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }

    fn spoken(&self) -> std::sync::MutexGuard<'_, HashMap<Executable, Vec<CniVersion>>> {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The executables that a list needs, with those of address management on request.
fn executables<'a>(list: &'a ConfigList, natives: &Natives, with_ipam: bool) -> Vec<&'a str> {
    let mut kinds = Vec::new();
    for (index, plugin) in list.plugins.iter().enumerate() {
        let native = natives.contains(&index);
        kinds.extend((!native).then_some(plugin.kind.as_str()));
        // A driver gives out addresses itself, where it can.
        let ipam = plugin.ipam().and_then(|ipam| ipam.kind());
        let by_driver = |ipam: &&str| native && native::way_of_ipam(ipam, plugin) == Way::Native;
        kinds.extend(ipam.filter(|ipam| with_ipam && !by_driver(ipam)));
    }
    kinds
}
