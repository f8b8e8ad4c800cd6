//! The binary as a CNI plugin: called under a plugin's name, as runtimes call
//! plugins, or as `circuit cni TYPE`. Nothing else of the program is touched,
//! so that it starts as fast as a small one.

use std::{ffi::OsStr, path::Path, process::ExitCode};

use circuit_net::driver;

/// The plugin that bears the program's own name.
const OWN: &str = "circuit";

/// The plugin that is called by this command line: its first word's file name,
/// or what follows `cni`. Under the program's own name it is the plugin of that
/// name only when nothing follows and a runtime `calls`.
pub fn called(
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    calls: bool,
) -> Option<String> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next()?;
    let name = Path::new(program.as_ref()).file_name()?.to_str()?;
    if name != OWN && driver::driver(name).is_some() {
        return Some(name.to_owned());
    }
    let Some(noun) = arguments.next() else {
        return (name == OWN && calls).then(|| OWN.to_owned());
    };
    let kind = arguments.next()?.as_ref().to_str()?.to_owned();
    let is_call = noun.as_ref() == "cni" && !kind.starts_with('-') && arguments.next().is_none();
    is_call.then_some(kind)
}

/// Serves the call as the specification says: the environment and standard
/// input in, a result or an error object out.
pub fn serve(kind: &str) -> ExitCode {
    driver::executable::run(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_command_lines_are_no_calls() {
        for line in [
            "circuit",
            "circuit network ls",
            "circuit cni --help",
            "circuit cni",
            "",
        ] {
            assert_eq!(called(line.split(' '), false), None, "{line}");
        }
        assert_eq!(called([] as [&str; 0], true), None);
        assert_eq!(called(["circuit", "network"], true), None);
    }

    #[test]
    fn a_call_names_the_plugin() {
        assert_eq!(
            called(["circuit", "cni", "bridge"], false).as_deref(),
            Some("bridge")
        );
        for (kind, _) in driver::DRIVERS {
            assert_eq!(
                called([format!("/opt/cni/bin/{kind}")], true).as_deref(),
                Some(*kind)
            );
        }
    }
}
