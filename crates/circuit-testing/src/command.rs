//! Commands run to their end, and waiting for things to become true.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::process::{children, signal};

/// How long anything may take before a test calls it broken. Generous, because
/// the machine may be busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// What was run, for messages.
    pub what: String,
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == Some(0), "{self}");
        self.stdout
    }

    /// Standard error of a command that must have failed with this exit code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert!(self.code == Some(code), "wanted exit code {code}: {self}");
        self.stderr
    }

    /// True when it exited with 0.
    pub fn worked(&self) -> bool {
        self.code == Some(0)
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            what,
            code,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "{what}: exit code {code:?}\n--- stdout\n{stdout}--- stderr\n{stderr}---"
        )
    }
}

/// How long a command may run: longer than any of them has ever taken.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs a command to its end with `input` as its standard input.
#[track_caller]
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Ran {
    run_within(command, input, LIMIT)
}

/// The same, killed when it takes longer than that.
#[track_caller]
fn run_within(command: &mut Command, input: &[u8], limit: Duration) -> Ran {
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    let what = format!(
        "{} {}",
        command.get_program().to_string_lossy(),
        arguments.join(" ")
    );
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {what}: {error}: run scripts/setup"));
    let (pid, input) = (child.id(), input.to_owned());
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        // A command that does not read its input closes the pipe: no failure.
        let _ = child.stdin.take().expect("piped").write_all(&input);
        let _ = sender.send(child.wait_with_output());
    });
    let output = ended.recv_timeout(limit).unwrap_or_else(|_| {
        // What runs in a node is a child of the process that entered it.
        for pid in children(pid).into_iter().chain([pid]) {
            signal(pid, Signal::SIGKILL);
        }
        panic!("did not end within {limit:?}: {what}");
    });
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}"));
    Ran {
        what,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a program of the machine to its end.
pub(crate) fn host(program: &str, arguments: &[&str]) -> Ran {
    run(Command::new(program).args(arguments), &[])
}

/// Asks until there is an answer; panics when there is none in `deadline`.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            start.elapsed() < deadline,
            "not within {deadline:?}: {what}"
        );
        thread::sleep(Duration::from_millis(25));
    }
}

/// Asks until the answer is yes; panics when it is not in `deadline`.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut ask: impl FnMut() -> bool) {
    wait_for(what, deadline, || ask().then_some(()));
}

#[cfg(test)]
mod tests {
    use std::{fs, panic::catch_unwind};

    use super::*;

    #[test]
    fn a_command_that_hangs_is_killed_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let hangs = || {
            let mut command = Command::new("sh");
            run_within(command.args(["-c", &script]), &[], Duration::from_secs(1))
        };
        let panic = catch_unwind(hangs).unwrap_err();
        let said = panic.downcast_ref::<String>().unwrap();
        assert!(said.contains("sleep 600"), "{said}");
        let pid = fs::read_to_string(&file).unwrap();
        // Nobody may be there to reap it.
        let command = format!("/proc/{}/cmdline", pid.trim());
        wait_until("what it has started is killed", PATIENCE, || {
            fs::read(&command).unwrap_or_default().is_empty()
        });
    }
}
