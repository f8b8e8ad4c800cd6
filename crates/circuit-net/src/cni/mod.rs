//! Running CNI plugins by the specification.

mod answers;
mod error;
mod exec;
mod keeper;
mod lock;
mod names;
mod native;
mod path;
mod probe;
mod runtime;

pub use error::{AddError, CniError};
pub use exec::{Command, MAX_OUTPUT_BYTES, PluginCall, run};
pub use lock::OperationLock;
pub use native::{Natives, Way};
pub use path::PluginPath;
pub use runtime::{AttachmentArgs, CniRuntime};
