//! The commands against a server whose services are made up: what is printed,
//! which code ends them, how they are protected. No root, no containerd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod api;
mod config;
mod fake;
mod generate;
mod interrupt;
mod printed;
mod tls;
mod transfer;

use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What a command left behind.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn new(output: Output) -> Self {
        Self {
            code: output.status.code().expect("an exit code"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The output of a command that worked and said nothing else.
    fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        self.stdout
    }

    /// The one line of a command that failed.
    fn error(&self) -> &str {
        assert_eq!(self.code, 1, "{self:?}");
        let line = self.stderr.strip_suffix('\n').expect("a whole line");
        assert!(!line.contains('\n'), "{self:?}");
        line.strip_prefix("error: ").expect("an error")
    }
}

fn circuit(target: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_circuit"));
    command.arg("--address").arg(target).args(arguments);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(target: &str, arguments: &[&str]) -> Ran {
    Ran::new(circuit(target, arguments).output().await.unwrap())
}

async fn run_with_input(target: &str, arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = circuit(target, arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).await.unwrap();
    Ran::new(child.wait_with_output().await.unwrap())
}
