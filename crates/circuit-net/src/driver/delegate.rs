//! Plugins that are run by plugins: address management, and what is named by
//! `delegate`.

use circuit_core::cni::{CniResult, JsonObject};

use super::{Answer, Call, Command};

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
