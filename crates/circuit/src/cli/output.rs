//! What commands write, and how they fail.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::{Value, json};

use circuit_api::v1;

use crate::text;

/// How a listing is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people.
    #[default]
    Table,
    /// One JSON object for programs.
    Json,
}

/// The flag that every listing has.
#[derive(Debug, Clone, clap::Args)]
pub struct FormatArg {
    /// How to print the listing.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// What to tell the user.
    Message(String),
    /// Nobody reads standard output any more; nothing is left to be said.
    Unread,
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}

/// Writes to standard output.
pub(super) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Unread),
        Err(e) => Err(format!("cannot write to standard output: {}", text::io_error(&e)).into()),
    }
}

/// Writes a line to standard output.
pub(super) fn print_line(line: &str) -> Result<(), Failure> {
    print(format!("{}\n", text::one_line(line)).as_bytes())
}

/// That nobody reads what was done is no reason to leave the rest undone, nor to
/// keep the outcome back.
pub(super) fn though_unread(printed: Result<(), Failure>) -> Result<(), Failure> {
    match printed {
        Err(Failure::Unread) => Ok(()),
        printed => printed,
    }
}

/// Writes a JSON value to standard output.
pub(super) fn print_json(value: &Value) -> Result<(), Failure> {
    print(format!("{value:#}\n").as_bytes())
}

/// Tells the user on standard error why the command failed, in one line.
pub fn print_error(message: &str) {
    labelled("error", "31", message);
}

/// Tells the user on standard error what is wrong without being a failure.
pub(super) fn print_warning(message: &str) {
    labelled("warning", "33", message);
}

fn labelled(label: &str, colour: &str, message: &str) {
    let mut err = io::stderr().lock();
    let message = text::one_line(message);
    // Nothing can be done about a standard error that cannot be written to.
    let _ = if colourful(&err) {
        writeln!(err, "\x1b[1;{colour}m{label}:\x1b[0m {message}")
    } else {
        writeln!(err, "{label}: {message}")
    };
}

fn colourful(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints the problems that came with an answer.
pub(super) fn print_problems(problems: &[v1::Problem]) {
    for problem in problems {
        print_warning(&describe(problem));
    }
}

/// The problem in one line that names what it is about.
fn describe(problem: &v1::Problem) -> String {
    let about = [
        ("container", &problem.container),
        ("network", &problem.network),
    ];
    let unnamed = about.iter().filter(|(_, name)| !name.is_empty());
    let unnamed = unnamed.filter(|(_, name)| !names(&problem.message, name));
    let prefix: Vec<String> = unnamed
        .map(|(kind, name)| format!("{kind} {name}"))
        .collect();
    if prefix.is_empty() {
        problem.message.clone()
    } else {
        format!("{}: {}", prefix.join(", "), problem.message)
    }
}

/// Whether a text has a name as a word of its own: `ro` is none of `root`.
pub(super) fn names(text: &str, name: &str) -> bool {
    let is_of_name = |c: char| c.is_alphanumeric() || ['-', '_', '.'].contains(&c);
    let mut words = text.split(|c| !is_of_name(c));
    words.any(|word| word == name || word.trim_end_matches('.') == name)
}

/// The problems as they stand in a JSON listing.
pub(super) fn problems_json(problems: &[v1::Problem]) -> Value {
    let one = |p: &v1::Problem| json!({ "container": p.container, "network": p.network, "message": p.message });
    problems.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_what_it_is_about_once() {
        let problem = |message: &str| v1::Problem {
            container: "shell".into(),
            network: "ctr0".into(),
            message: message.into(),
        };
        assert_eq!(
            describe(&problem("no address")),
            "container shell, network ctr0: no address"
        );
        assert_eq!(
            describe(&problem("ctr0 is full")),
            "container shell: ctr0 is full"
        );
        assert_eq!(
            describe(&problem("a seashell cannot join ctr01")),
            "container shell, network ctr0: a seashell cannot join ctr01"
        );
        assert_eq!(
            describe(&problem("shell cannot join ctr0")),
            "shell cannot join ctr0"
        );
    }
}
