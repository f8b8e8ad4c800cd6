//! The checker of Prometheus' own formats.

use std::{path::Path, process::Command};

use crate::{
    command::{Ran, run},
    plugins::{cache, present},
};

/// Runs Debian's `promtool`, which `scripts/promtool` has unpacked, in a folder.
///
/// # Panics
/// When it is not there: a check that is not made must not pass.
#[track_caller]
pub fn promtool(folder: &Path, arguments: &[&str], input: &str) -> Ran {
    let program = cache().join("promtool/promtool");
    present(&program);
    let mut command = Command::new(program);
    run(
        command.current_dir(folder).args(arguments),
        input.as_bytes(),
    )
}
