//! Where settings come from: flags, environment variables, the configuration
//! file, defaults; the first that gives a setting counts.
//!
//! clap reads the command line; what the file and the environment say becomes
//! the defaults of a second reading. So every value passes the same checks, and
//! nothing behind this module knows where it came from.

mod file;
mod print;
mod settings;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command as Definition, CommandFactory, FromArgMatches};

use super::output::print as print_bytes;
use super::{Cli, Command, Failure};
use crate::text;
use file::Entry;
use settings::{Setting, settings};

/// The file that is read when none is named; it may be absent.
pub const FILE: &str = "/etc/circuit/config.toml";
/// The environment variable that names another file.
const FILE_VARIABLE: &str = "CIRCUIT_CONFIG";

/// Where a setting's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag,
    /// An environment variable.
    Variable(String),
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// Nobody gave it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{} line {line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A setting, its values, and where they come from.
#[derive(Debug)]
struct Value {
    setting: Setting,
    values: Vec<String>,
    origin: Origin,
}

/// The command line with all that the file and the environment add.
#[derive(Debug)]
pub struct Loaded {
    /// What to do.
    pub cli: Cli,
    /// Where its settings come from.
    pub settings: Settings,
}

/// Every setting that the command has a use for, with its value and its origin.
#[derive(Debug, Default)]
pub struct Settings(Vec<Value>);

impl Settings {
    /// Prints the settings as a configuration file.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn print(&self) -> Result<(), Failure> {
        print_bytes(print::in_force(&self.0).as_bytes())
    }

    /// Adds to what a flag was refused for where its value was written, if that
    /// was not the command line.
    #[must_use]
    pub fn located(&self, mut error: String) -> String {
        for value in &self.0 {
            let elsewhere = matches!(value.origin, Origin::File(..) | Origin::Variable(_));
            let flag = format!("--{}", value.setting.key);
            let names = |word: &str| word.trim_end_matches([':', ';', ',']) == flag;
            let quotes = |one: &String| error.contains(&format!("{one:?}"));
            if elsewhere && (error.split(' ').any(names) || value.values.iter().any(quotes)) {
                error = format!("{error} ({} is from {})", value.setting.key, value.origin);
            }
        }
        error
    }
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Stop {
    /// Wrong usage, or help that was asked for.
    Usage(clap::Error),
    /// The file or the environment is wrong.
    Message(String),
}

/// Reads the command line, the environment and the configuration file.
///
/// # Errors
/// With what to tell the user.
pub fn load(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Loaded, Stop> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let matches = Cli::command()
        .try_get_matches_from(&arguments)
        .map_err(Stop::Usage)?;
    let cli = Cli::from_arg_matches(&matches).map_err(Stop::Usage)?;
    let is_server = matches!(cli.command, Command::Server(_));
    if !is_server && !cli.command.is_of_a_client() {
        return Ok(Loaded {
            cli,
            settings: Settings::default(),
        });
    }
    let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
    let named = cli.global.config.clone();
    let named = named.or_else(|| environment(FILE_VARIABLE).map(PathBuf::from));
    let settings = settings();
    let (path, entries) = entries(named.as_deref(), is_server, &settings)?;
    let leaf = leaf(&matches);
    let values = settings
        .into_iter()
        .filter(|setting| is_server || setting.of_clients)
        .map(|setting| given(setting, leaf, &environment, &path, &entries))
        .collect::<Result<Vec<_>, _>>();
    let mut values = values.map_err(Stop::Message)?;
    without_conflicts(&mut values).map_err(Stop::Message)?;
    if !is_server {
        one_address(&mut values);
    }
    let definition = with_defaults(Cli::command(), &values);
    let matches = definition
        .try_get_matches_from(arguments)
        .map_err(Stop::Usage)?;
    let cli = Cli::from_arg_matches(&matches).map_err(Stop::Usage)?;
    for value in &mut values {
        value.values = raw(self::leaf(&matches), &value.setting.id);
    }
    Ok(Loaded {
        cli,
        settings: Settings(values),
    })
}

/// What the file says, if there is one.
fn entries(
    named: Option<&Path>,
    is_server: bool,
    settings: &[Setting],
) -> Result<(PathBuf, Vec<Entry>), Stop> {
    let path = named.unwrap_or(Path::new(FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && may_be_skipped(error.kind(), is_server) => String::new(),
        Err(error) => {
            let reason = text::io_error(&error);
            let mut message = format!("cannot read the configuration {}: {reason}", path.display());
            if named.is_none() {
                message += "; give --config FILE for another one, --config /dev/null for none";
            }
            return Err(Stop::Message(message));
        }
    };
    let entries = file::read(&text, settings)
        .map_err(|error| Stop::Message(format!("{} {error}", path.display())))?;
    Ok((path.to_owned(), entries))
}

/// The file may keep a password from users who may well ask the daemon.
fn may_be_skipped(kind: ErrorKind, is_server: bool) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory)
        || (kind == ErrorKind::PermissionDenied && !is_server)
}

/// Who gives the setting, and what.
fn given(
    setting: Setting,
    leaf: &ArgMatches,
    environment: &impl Fn(&str) -> Option<OsString>,
    path: &Path,
    entries: &[Entry],
) -> Result<Value, String> {
    if leaf.value_source(&setting.id) == Some(ValueSource::CommandLine) {
        return Ok(Value {
            values: raw(leaf, &setting.id),
            setting,
            origin: Origin::Flag,
        });
    }
    let variable = setting.variable();
    if let Some(text) = environment(&variable) {
        // A path may be no text; none of ours has reason to be.
        let text = text
            .into_string()
            .map_err(|_| format!("{variable} is not UTF-8"))?;
        let checked = setting.of_variable(&text).and_then(|values| {
            values.iter().try_for_each(|one| setting.check(one))?;
            Ok(values)
        });
        return Ok(Value {
            values: checked.map_err(|error| format!("{variable}: {error}"))?,
            setting,
            origin: Origin::Variable(variable),
        });
    }
    let entry = entries.iter().find(|entry| entry.key == setting.key);
    Ok(Value {
        values: entry.map_or_else(Vec::new, |entry| entry.values.clone()),
        setting,
        origin: entry.map_or(Origin::Default, |entry| {
            Origin::File(path.to_owned(), entry.line)
        }),
    })
}

/// Of two settings that exclude each other, the one from nearer counts.
fn without_conflicts(values: &mut [Value]) -> Result<(), String> {
    let rank = |origin: &Origin| match origin {
        Origin::Flag => 3,
        Origin::Variable(_) => 2,
        Origin::File(..) => 1,
        Origin::Default => 0,
    };
    for at in 0..values.len() {
        for other in 0..values.len() {
            let (one, two) = (&values[at], &values[other]);
            if !one.setting.conflicts.contains(&two.setting.key) {
                continue;
            }
            let loser = match rank(&one.origin).cmp(&rank(&two.origin)) {
                std::cmp::Ordering::Less => at,
                std::cmp::Ordering::Greater => other,
                std::cmp::Ordering::Equal if rank(&one.origin) == 0 => continue,
                std::cmp::Ordering::Equal => {
                    return Err(format!(
                        "{} ({}) and {} ({}) exclude each other; give one of them",
                        one.setting.key, one.origin, two.setting.key, two.origin
                    ));
                }
            };
            values[loser].values.clear();
            values[loser].origin = Origin::Default;
        }
    }
    Ok(())
}

/// A file that says where the server listens says where a client finds it: at its
/// socket, if it has one, which asks for no certificate.
fn one_address(values: &mut [Value]) {
    let addresses = values
        .iter_mut()
        .find(|one| one.setting.key == "address" && matches!(one.origin, Origin::File(..)));
    if let Some(address) = addresses {
        let socket = address
            .values
            .iter()
            .position(|one| one.starts_with("unix:"));
        let chosen = socket.unwrap_or_default();
        address.values = address.values.drain(..).skip(chosen).take(1).collect();
    }
}

/// The definition with other defaults.
fn with_defaults(definition: Definition, values: &[Value]) -> Definition {
    let change = |arg: clap::Arg| {
        let id = arg.get_id().as_str();
        let value = values.iter().find(|one| one.setting.id == id);
        match value {
            Some(value) if matches!(value.origin, Origin::Variable(_) | Origin::File(..)) => {
                arg.default_values(value.values.clone())
            }
            _ => arg,
        }
    };
    definition
        .mut_args(change)
        .mut_subcommand("server", |server| server.mut_args(change))
}

/// The matches of the command itself, below its nouns.
fn leaf(matches: &ArgMatches) -> &ArgMatches {
    match matches.subcommand() {
        Some((_, below)) => leaf(below),
        None => matches,
    }
}

fn raw(matches: &ArgMatches, id: &str) -> Vec<String> {
    let values = matches.get_raw(id).into_iter().flatten();
    let values = values.map(|one| one.to_string_lossy().into_owned());
    values.filter(|one| !one.is_empty()).collect()
}
