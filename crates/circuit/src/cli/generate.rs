//! What is made out of the definition of the commands: completions of shells and
//! manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueEnum};

use super::output::print;
use super::{Cli, Failure};
use crate::text;

/// A shell that can be taught circuit's commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash, with bash-completion.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// The arguments of `circuit completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  circuit completions bash > /etc/bash_completion.d/circuit
  circuit completions fish > ~/.config/fish/completions/circuit.fish")]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// The arguments of `circuit man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for every command into this folder, instead of printing the
    /// first.
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

/// Prints the completions.
///
/// # Errors
/// When standard output cannot be written to.
pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "circuit", &mut script);
    print(&script)
}

/// Prints the manual page of `circuit`, or writes all.
///
/// # Errors
/// When they cannot be written.
pub fn man(args: &ManArgs) -> Result<(), Failure> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.map_err(|e| text::io_error(&e))?;
        return print(&page);
    };
    let written =
        std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    let reason = |e| {
        format!(
            "cannot write pages to {}: {}",
            dir.display(),
            text::io_error(&e)
        )
    };
    Ok(written.map_err(reason)?)
}

#[cfg(test)]
mod tests;
