//! How running a plugin fails.

use std::path::PathBuf;
use std::time::Duration;

use circuit_core::cni::{ErrorReport, code};
use circuit_core::{Error, ErrorKind};
use serde_json::Value;

use super::Command;

/// A failure to run a plugin, or a plugin's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CniError {
    /// No folder of the search path has the plugin.
    #[error(
        "cni plugin {plugin} is not in {}: install it there or set --cni-path",
        folders(dirs)
    )]
    Missing {
        /// The plugin's type.
        plugin: String,
        /// The folders that were searched.
        dirs: Vec<PathBuf>,
    },
    /// The plugin was not started: something given to it is wrong, or the
    /// system refused.
    #[error("{0}")]
    NotRun(Error),
    /// The plugin said what went wrong.
    #[error("cni plugin {plugin} {command}: {}{}", report.text(), quoted(stderr))]
    Report {
        /// The plugin's type.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// What it said.
        report: ErrorReport,
        /// The end of what it wrote on standard error.
        stderr: String,
    },
    /// The plugin failed without saying why in the way of the specification.
    #[error("cni plugin {plugin} {command}: {status}{}", quoted(stderr))]
    Failed {
        /// The plugin's type.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// How it ended.
        status: String,
        /// The end of what it wrote on standard error, or else on standard
        /// output.
        stderr: String,
    },
    /// The plugin did not end in time and was killed.
    #[error(
        "cni plugin {plugin} {command}: killed after {timeout:?}{}",
        quoted(stderr)
    )]
    Timeout {
        /// The plugin's type.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// The time it had.
        timeout: Duration,
        /// The end of what it wrote on standard error.
        stderr: String,
    },
    /// The plugin ended well, but what it wrote cannot be used.
    #[error("cni plugin {plugin} {command}: {reason}")]
    BadOutput {
        /// The plugin's type.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// What is wrong with it.
        reason: String,
    },
}

impl CniError {
    /// What the plugin reported, if it did.
    pub fn report(&self) -> Option<&ErrorReport> {
        match self {
            Self::Report { report, .. } => Some(report),
            _ => None,
        }
    }

    /// The code that the plugin reported, if it did.
    pub fn code(&self) -> Option<u64> {
        self.report().map(|report| report.code)
    }

    /// Whether the plugin asks to try again later.
    pub fn is_try_again(&self) -> bool {
        self.code() == Some(code::TRY_AGAIN_LATER)
    }

    /// Whether the plugin's executable never started.
    pub fn never_ran(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NotRun(_))
    }

    /// What kind of failure this is to a caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::FailedPrecondition,
            Self::NotRun(error) => error.kind(),
            Self::Report { report, .. } => report.kind(),
            Self::Timeout { .. } => ErrorKind::DeadlineExceeded,
            Self::Failed { .. } | Self::BadOutput { .. } => ErrorKind::Internal,
        }
    }
}

impl From<CniError> for Error {
    fn from(error: CniError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

/// A failed ADD.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct AddError {
    /// Why.
    pub error: CniError,
    /// Whether something may have been made, so that a DEL must follow.
    pub cleanup_owed: bool,
    /// The result of the plugins before the one that failed, for that DEL: some find
    /// what they have to remove by it alone.
    pub so_far: Option<Value>,
}

impl From<AddError> for Error {
    fn from(error: AddError) -> Self {
        error.error.into()
    }
}

fn folders(dirs: &[PathBuf]) -> String {
    if dirs.is_empty() {
        return "an empty search path".to_owned();
    }
    dirs.iter()
        .map(|dir| dir.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn quoted(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!(", stderr: {stderr}")
    }
}
