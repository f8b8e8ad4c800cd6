//! Running CNI plugins by the specification.

mod error;
mod exec;
mod lock;
mod path;
mod runtime;

pub use error::{AddError, CniError};
pub use exec::{Command, MAX_OUTPUT_BYTES, PluginCall, run};
pub use lock::OperationLock;
pub use path::PluginPath;
pub use runtime::{AttachmentArgs, CniRuntime};
