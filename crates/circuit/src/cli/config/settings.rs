//! Every setting of the configuration file and of the environment, read off the
//! definition of `circuit server`: a new flag is a new key by itself.

use std::any::TypeId;
use std::error::Error as _;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, CommandFactory};

use super::super::Cli;

/// Flags that say what the command does, and are no settings.
const NO_SETTINGS: [&str; 3] = ["help", "config", "print_config"];
/// What only the server has a use for among the flags of every command. A client
/// would take the server's certificate for one to trust.
const OF_THE_SERVER: [&str; 3] = ["tls-server-cert", "tls-server-key", "tls-client-ca"];

/// The list whose values are lists of keys: base=SUBNET,size=BITS.
const POOLS: &str = "default-pools";

/// What a setting's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number,
    /// Text in quotes.
    Text,
    /// A list of texts.
    List,
}

/// A flag that the file and the environment may give as well.
#[derive(Debug)]
pub(super) struct Setting {
    /// The flag's long name.
    pub(super) key: String,
    /// What clap knows it by.
    pub(super) id: String,
    /// What its value looks like.
    pub(super) kind: Kind,
    /// The keys that may not be given together with it.
    pub(super) conflicts: Vec<String>,
    /// Whether commands other than the server use it.
    pub(super) of_clients: bool,
    pub(super) arg: Arg,
}

impl Setting {
    /// The environment variable that gives it.
    pub(super) fn variable(&self) -> String {
        format!("CIRCUIT_{}", self.key.to_uppercase().replace('-', "_"))
    }

    /// The value of the environment variable as values of the flag.
    pub(super) fn of_variable(&self, text: &str) -> Result<Vec<String>, String> {
        match self.kind {
            Kind::List => Ok(self.list(text)),
            Kind::Switch => match text {
                "true" | "1" => Ok(vec!["true".into()]),
                "false" | "0" => Ok(vec!["false".into()]),
                _ => Err(format!("{text:?} is not true or false")),
            },
            Kind::Number | Kind::Text => Ok(vec![text.to_owned()]),
        }
    }

    /// The values of a list with commas, some of whose values have commas themselves.
    fn list(&self, text: &str) -> Vec<String> {
        let mut values: Vec<String> = Vec::new();
        let key = |part: &str| part.split_once('=').map(|(key, _)| format!("{key}="));
        for part in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
            let of_pools = key(part).filter(|_| self.key == POOLS);
            match values.last_mut() {
                // A pool has each of its keys once.
                Some(last) if of_pools.is_some_and(|key| !last.contains(&key)) => {
                    last.push(',');
                    last.push_str(part);
                }
                _ => values.push(part.to_owned()),
            }
        }
        values
    }

    /// Whether the flag would take the value; else what is wrong with it.
    pub(super) fn check(&self, value: &str) -> Result<(), String> {
        let arg = Arg::new("value").long("value").action(ArgAction::Set);
        let command = Command::new("check")
            .no_binary_name(true)
            .arg(arg.value_parser(self.arg.get_value_parser().clone()));
        let line = [OsString::from(format!("--value={value}"))];
        let Err(error) = command.try_get_matches_from(line) else {
            return Ok(());
        };
        let reason = match (error.get(ContextKind::ValidValue), error.source()) {
            (Some(ContextValue::Strings(choice)), _) if !choice.is_empty() => {
                format!("give one of {}", choice.join(", "))
            }
            (_, Some(reason)) => reason.to_string(),
            _ => "the flag would not take it either".to_owned(),
        };
        Err(format!("bad value {value:?}: {reason}"))
    }

    fn new(command: &Command, arg: &Arg) -> Option<Self> {
        let key = arg.get_long()?.to_owned();
        let parser = arg.get_value_parser();
        let is = |one: TypeId| parser.type_id() == one;
        let kind = match arg.get_action() {
            ArgAction::SetTrue => Kind::Switch,
            ArgAction::Append => Kind::List,
            _ if is(TypeId::of::<bool>()) => Kind::Switch,
            _ if is(TypeId::of::<u32>()) => Kind::Number,
            _ => Kind::Text,
        };
        let conflicts = command.get_arg_conflicts_with(arg).into_iter();
        Some(Self {
            id: arg.get_id().to_string(),
            kind,
            conflicts: conflicts
                .filter_map(|other| other.get_long().map(str::to_owned))
                .collect(),
            of_clients: arg.is_global_set() && !OF_THE_SERVER.contains(&key.as_str()),
            arg: arg.clone(),
            key,
        })
    }
}

/// All settings, the server's own first.
pub(super) fn settings() -> Vec<Setting> {
    let mut command = Cli::command();
    command.build();
    let Some(server) = command.find_subcommand("server") else {
        return Vec::new();
    };
    let (mut own, mut shared) = (Vec::new(), Vec::new());
    for arg in server.get_arguments() {
        if NO_SETTINGS.contains(&arg.get_id().as_str()) {
            continue;
        }
        let list = if arg.is_global_set() {
            &mut shared
        } else {
            &mut own
        };
        list.extend(Setting::new(server, arg));
    }
    own.append(&mut shared);
    own
}
