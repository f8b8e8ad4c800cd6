//! What plugins answered, read.

use circuit_core::cni::ConfigList;
use serde_json::Value;

use super::exec::Command;
use super::{AddError, CniError};

/// The first failure is told, the others are logged.
pub(super) fn keep_first(first: &mut Option<CniError>, error: CniError) {
    if first.is_none() {
        *first = Some(error);
    } else {
        tracing::warn!(%error, "another plugin failed too");
    }
}

/// Whether the plugins up to and with this one may have left something; `so_far` is the
/// result of those before it.
pub(super) fn add_error(index: usize, so_far: Option<Value>, error: CniError) -> AddError {
    let nothing_done = error.never_ran() || error.report().is_some_and(|r| !r.owes_cleanup());
    AddError {
        cleanup_owed: index > 0 || !nothing_done,
        so_far,
        error,
    }
}

/// What an executable wrote as its result, with the version that it left out.
pub(super) fn read_result(kind: &str, list: &ConfigList, stdout: &[u8]) -> Result<Value, CniError> {
    let mut value: Value = match serde_json::from_slice(stdout) {
        Ok(value) => value,
        Err(_) if stdout.trim_ascii().is_empty() => {
            return Err(bad_output(kind, Command::Add, "wrote no result"));
        }
        Err(e) => {
            return Err(bad_output(
                kind,
                Command::Add,
                &format!("result is not json: {e}"),
            ));
        }
    };
    let Some(object) = value.as_object_mut() else {
        return Err(bad_output(kind, Command::Add, "result is not an object"));
    };
    let said = object
        .get("cniVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if said.is_empty() {
        object.insert("cniVersion".to_owned(), list.cni_version.as_str().into());
    }
    Ok(value)
}

/// The failure of a plugin that answered with what is no answer.
pub(super) fn bad_output(plugin: &str, command: Command, reason: &str) -> CniError {
    CniError::BadOutput {
        plugin: plugin.to_owned(),
        command,
        reason: reason.to_owned(),
    }
}
