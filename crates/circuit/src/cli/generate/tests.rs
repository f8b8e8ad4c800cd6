//! The page of all commands has what they know.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory};

use crate::cli::Cli;

const END: &str = "<!-- end -->";

fn page(name: &str) -> PathBuf {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    docs.join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(page(name)).unwrap()
}

/// The commands that do something, with their names from `circuit` on.
fn commands(command: &Command, above: &str, all: &mut Vec<(String, Command)>) {
    for one in command.get_subcommands() {
        let name = format!("{above} {}", one.get_name());
        match one.has_subcommands() {
            _ if one.get_name() == "help" => {}
            true => commands(one, &name, all),
            false => all.push((name.trim().to_owned(), one.clone())),
        }
    }
}

fn in_one_line(text: impl ToString) -> String {
    let text = text.to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    // clap takes the full stop off where it is the only one.
    format!("{}.", line.trim_end_matches('.')).replace('|', "\\|")
}

/// A flag or an argument as it is written.
fn written(arg: &Arg) -> String {
    let takes = arg.get_action().takes_values();
    let names = arg.get_value_names().unwrap_or_default();
    let value = names.first().map(|name| name.to_string());
    let value = value.unwrap_or_else(|| arg.get_id().as_str().to_uppercase());
    let Some(long) = arg.get_long() else {
        let many = arg.get_num_args().is_some_and(|n| n.max_values() > 1);
        return format!("`{value}{}`", if many { "…" } else { "" });
    };
    let short = arg.get_short().map(|short| format!("`-{short}`, "));
    let value = if takes {
        format!(" {value}")
    } else {
        String::new()
    };
    format!("{}`--{long}{value}`", short.unwrap_or_default())
}

/// What it does, what it may be, and what it is when nobody gives it.
fn meaning(arg: &Arg) -> String {
    let mut text = in_one_line(arg.get_long_help().or_else(|| arg.get_help()).unwrap());
    let takes = arg.get_action().takes_values();
    let choice = arg.get_possible_values();
    let choice: Vec<_> = choice
        .iter()
        .map(|one| format!("`{}`", one.get_name()))
        .collect();
    if takes && !choice.is_empty() {
        let _ = write!(text, " One of {}.", choice.join(", "));
    }
    let defaults = arg.get_default_values().iter();
    let defaults: Vec<_> = defaults
        .map(|one| format!("`{}`", one.to_string_lossy()))
        .collect();
    if takes && !arg.is_hide_default_value_set() && !defaults.is_empty() {
        let _ = write!(text, " Default: {}.", defaults.join(", "));
    }
    text
}

fn table<'a>(args: impl Iterator<Item = &'a Arg>) -> String {
    let mut text = String::new();
    for arg in args {
        if text.is_empty() {
            text.push_str("\n| | |\n|---|---|\n");
        }
        let _ = writeln!(text, "| {} | {} |", written(arg), meaning(arg));
    }
    text
}

/// What the page says of one command: flags that are settings have a page of theirs.
fn section(command: &Command) -> String {
    let mut command = command.clone();
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let about = command
        .get_long_about()
        .or_else(|| command.get_about())
        .unwrap();
    let settings = read("configuration.md");
    let own = command.get_arguments().filter(|arg| {
        let long = arg.get_long().unwrap_or_default();
        !arg.is_global_set() && long != "help" && !settings.contains(&format!("\n| `{long}` |"))
    });
    let aliases: Vec<String> = command
        .get_visible_aliases()
        .map(|alias| format!(" Also `{alias}`."))
        .collect();
    format!(
        "{}{}\n\n```\n{usage}\n```\n{}",
        in_one_line(about),
        aliases.concat(),
        table(own)
    )
}

/// The page with its generated parts as they should be.
fn wanted(page: &str) -> String {
    let mut root = Cli::command();
    root.build();
    let mut all = vec![];
    commands(&root, "", &mut all);
    let globals = root.get_arguments().filter(|arg| arg.is_global_set());
    let globals = table(globals.filter(|arg| arg.get_long() != Some("help")));
    let mut parts: Vec<(String, String)> = all
        .iter()
        .map(|(name, command)| (format!("<!-- command: {name} -->\n"), section(command)))
        .collect();
    parts.push(("<!-- flags of all commands -->\n".to_owned(), globals));
    let mut page = page.to_owned();
    for (start, text) in parts {
        let Some((before, rest)) = page.split_once(&start) else {
            panic!("docs/commands.md lacks the line {start}");
        };
        let (_, after) = rest.split_once(END).unwrap();
        page = format!("{before}{start}{text}{END}{after}");
    }
    assert_eq!(
        page.matches("<!-- command: ").count(),
        all.len(),
        "a command is gone"
    );
    page
}

#[test]
fn the_page_of_commands_is_as_they_are() {
    let path = page("commands.md");
    let page = read("commands.md");
    let want = wanted(&page);
    if std::env::var_os("WRITE_DOCUMENTS").is_some() {
        std::fs::write(&path, want).unwrap();
        return;
    }
    assert!(
        page == want,
        "{} is out of date: run this test with WRITE_DOCUMENTS=1 to bring it up to date",
        path.display()
    );
}
