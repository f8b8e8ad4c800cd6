//! Which way a network's plugins are run.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// How plugins are run of which this program has native drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DataPath {
    /// By the driver when it means the same by the configuration, else by the
    /// executable.
    #[default]
    Auto,
    /// By the driver, or not at all.
    Native,
    /// By the executable.
    Exec,
}

impl DataPath {
    /// The key of a configuration list that says it for one network.
    pub const KEY: &'static str = "io.circuit.data-path";

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Exec => "exec",
        }
    }
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DataPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Auto, Self::Native, Self::Exec]
            .into_iter()
            .find(|path| path.as_str() == text)
            .ok_or_else(|| Error::invalid(format!("{text:?} is not auto, native or exec")))
    }
}
