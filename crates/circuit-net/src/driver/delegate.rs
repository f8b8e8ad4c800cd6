//! Plugins that are run by plugins: address management, and what is named by
//! `delegate`.

use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};
use serde_json::Value;

use super::{Answer, Call, Command, Driver, dispatch, driver};

/// Runs another plugin for a driver, in this process or as an executable.
pub trait Delegate {
    /// Runs `command` of the plugin `kind` with `config`, for the attachment
    /// of `call`. The result is that of ADD; other commands have none.
    ///
    /// # Errors
    /// The plugin's error object, or one that says why it could not be run.
    fn run(
        &self,
        kind: &str,
        command: Command,
        config: &JsonObject,
        call: &Call<'_>,
    ) -> Answer<Option<CniResult>>;
}

/// The driver of a plugin that another one runs, if there is one that does this
/// configuration.
pub(crate) fn driver_for(kind: &str, config: &JsonObject) -> Option<&'static dyn Driver> {
    driver(kind).filter(|driver| driver.supports(config).is_ok())
}

/// Runs the plugin by its driver, for the attachment of `call`; `None` when
/// there is no driver that does this configuration.
pub(crate) fn by_driver(
    delegate: &dyn Delegate,
    kind: &str,
    command: Command,
    config: &JsonObject,
    call: &Call<'_>,
) -> Option<Answer<Option<CniResult>>> {
    let driver = driver_for(kind, config)?;
    let call = Call {
        command,
        config,
        delegate,
        ..*call
    };
    Some(dispatch(driver, &call))
}

/// Reads what an executable wrote for `call`: the result of ADD; other commands
/// have none.
///
/// # Errors
/// Code 6 when it is no result.
pub(crate) fn written(
    kind: &str,
    command: Command,
    stdout: &[u8],
    call: &Call<'_>,
) -> Answer<Option<CniResult>> {
    if command != Command::Add {
        return Ok(None);
    }
    let unreadable = |e: &dyn std::fmt::Display| {
        ErrorReport::new(code::DECODING_FAILURE, format!("result of {kind}: {e}"))
    };
    let value: Value = serde_json::from_slice(stdout).map_err(|e| unreadable(&e))?;
    CniResult::parse_or(&value, call.version)
        .map(Some)
        .map_err(|e| unreadable(&e))
}
