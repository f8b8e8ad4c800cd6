//! The native drivers as CNI executables, for tests: called under a plugin's
//! name, or with the type as its only argument.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let kind = arguments
        .next()
        .unwrap_or_else(|| name.rsplit('/').next().unwrap_or_default().to_owned());
    circuit_net::driver::executable::run(&kind)
}
