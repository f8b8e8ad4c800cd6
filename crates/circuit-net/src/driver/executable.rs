//! The drivers as CNI executables: the protocol of environment, standard
//! input and standard output, versions 0.3.0 to 1.1.0.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use circuit_core::cni::{
    AnyCase as _, CniResult, CniVersion, ErrorReport, JsonObject, MAX_CONFIG_BYTES, code,
    is_network_name,
};
use circuit_core::labels::check_interface;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::call::Sockets;
use super::delegate::{by_driver, written};
use super::{Answer, Call, Command, Delegate, Driver, driver};
use crate::cni::PluginPath;
use crate::netns::let_this_thread_visit;

/// The release of the stock plugins of which the drivers know every key.
const AS_STOCK: &str = "1.10.0";

/// How long VERSION waits for the question, which its answer repeats the version of.
const QUESTION: Duration = Duration::from_millis(200);

/// The environment of the specification.
#[derive(Debug, Default)]
struct Environment {
    command: String,
    container_id: String,
    netns: Option<PathBuf>,
    ifname: String,
    args: String,
    path: String,
}

/// Serves one invocation as the plugin `kind`, and says how the process is to
/// end.
pub fn run(kind: &str) -> ExitCode {
    let command = std::env::var_os("CNI_COMMAND").unwrap_or_default();
    if command.is_empty() && driver(kind).is_some() {
        // With nobody to read it, it is told all the same.
        let _ = io::stderr().write_all(about(kind).as_bytes());
        return ExitCode::SUCCESS;
    }
    let_this_thread_visit();
    let mut version = CniVersion::LATEST;
    let (output, exit) = match serve(kind, &mut version) {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(report) => (Some(report.to_json(version)), ExitCode::FAILURE),
    };
    let Some(output) = output else { return exit };
    let mut text = output.to_string();
    text.push('\n');
    // A runtime that does not listen any more is told by the exit code.
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What an executable says of itself when it is called for nothing, as the stock plugins
/// do: programs read out of that which keys they may use. nerdctl does, to know whether
/// `firewall` has `ingressPolicy`.
fn about(kind: &str) -> String {
    format!(
        "CNI {kind} plugin v{AS_STOCK}+circuit.{}\nCNI protocol versions supported: {}\n",
        env!("CARGO_PKG_VERSION"),
        spoken().join(", ")
    )
}

fn serve(kind: &str, version: &mut CniVersion) -> Answer<Option<Value>> {
    let env = Environment::read(|name| std::env::var_os(name)?.into_string().ok());
    let Some(driver) = driver(kind) else {
        return Err(ErrorReport::new(
            code::INVALID_ENVIRONMENT,
            format!("circuit has no plugin {kind:?}: it has {}", kinds()),
        ));
    };
    let command = parse_command(&env.command)?;
    if command == Command::Version {
        return Ok(Some(versions(&question())));
    }
    let input = read_input()?;
    env.check(command)?;
    let config = parse_config(&input)?;
    *version = parse_version(&config)?;
    check_command(command, *version)?;
    let prev = parse_prev(&config, *version)?;
    let args = parse_args(&env.args, command)?;
    let sockets = Sockets::default();
    let delegate = Executables {
        path: PluginPath::parse(&env.path),
        env: &env,
    };
    let call = Call {
        command,
        container_id: &env.container_id,
        netns: env.netns.as_deref(),
        ifname: &env.ifname,
        args: &args,
        config: &config,
        version: *version,
        prev: prev.as_ref(),
        delegate: &delegate,
        sockets: &sockets,
    };
    check_keys(driver, kind, &call)?;
    dispatch(driver, &call).map(|result| result.map(|result| result.to_version(*version)))
}

/// Refuses a network that would be another one without a key. What is ours must go
/// all the same: the firewall of the host, or the configuration, may be another since ADD.
fn check_keys(driver: &dyn Driver, kind: &str, call: &Call<'_>) -> Answer<()> {
    if matches!(call.command, Command::Del | Command::Gc) {
        return Ok(());
    }
    match driver.supports(call.config) {
        Err(unsupported) if unsupported.documented => Err(ErrorReport::new(
            code::UNSUPPORTED_FIELD,
            format!("{unsupported}: use the stock plugin {kind} for this network"),
        )),
        _ => Ok(()),
    }
}

/// Has a driver do what the call says.
///
/// # Errors
/// The driver's error object.
pub fn dispatch(driver: &dyn Driver, call: &Call<'_>) -> Answer<Option<CniResult>> {
    match call.command {
        Command::Add => driver.add(call).map(Some),
        Command::Del => driver.del(call).map(|()| None),
        Command::Check => driver.check(call).map(|()| None),
        Command::Status => driver.status(call).map(|()| None),
        Command::Gc => driver.gc(call).map(|()| None),
        Command::Version => Ok(None),
    }
}

fn kinds() -> String {
    let kinds: Vec<&str> = super::DRIVERS.iter().map(|(kind, _)| *kind).collect();
    kinds.join(", ")
}

impl Environment {
    fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name| get(name).unwrap_or_default();
        Self {
            command: text("CNI_COMMAND"),
            container_id: text("CNI_CONTAINERID"),
            netns: get("CNI_NETNS")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            ifname: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
            path: text("CNI_PATH"),
        }
    }

    /// What the command needs must be there and well-formed.
    fn check(&self, command: Command) -> Answer<()> {
        let missing = |name: &str| {
            Err(ErrorReport::new(
                code::INVALID_ENVIRONMENT,
                format!("{name} is missing, and {command} needs it"),
            ))
        };
        if self.path.is_empty() {
            return missing("CNI_PATH");
        }
        if !matches!(command, Command::Add | Command::Del | Command::Check) {
            return Ok(());
        }
        if self.container_id.is_empty() {
            return missing("CNI_CONTAINERID");
        }
        if self.ifname.is_empty() {
            return missing("CNI_IFNAME");
        }
        if self.netns.is_none() && command != Command::Del {
            return missing("CNI_NETNS");
        }
        if !is_network_name(&self.container_id) {
            return Err(ErrorReport::new(
                code::INVALID_ENVIRONMENT,
                format!("CNI_CONTAINERID {:?} is no container id", self.container_id),
            ));
        }
        // The loopback plugin is called for it.
        if self.ifname == "lo" {
            return Ok(());
        }
        check_interface(&self.ifname).map_err(|error| {
            ErrorReport::new(code::INVALID_ENVIRONMENT, error.message()).context("CNI_IFNAME")
        })
    }
}

fn parse_command(text: &str) -> Answer<Command> {
    let commands = [
        Command::Add,
        Command::Del,
        Command::Check,
        Command::Version,
        Command::Status,
        Command::Gc,
    ];
    let known = commands
        .into_iter()
        .find(|command| command.as_str() == text);
    known.ok_or_else(|| {
        ErrorReport::new(
            code::INVALID_ENVIRONMENT,
            format!("CNI_COMMAND {text:?} is not known"),
        )
    })
}

/// The pairs of `CNI_ARGS`. What is none is passed over where nothing is made of it.
fn parse_args(text: &str, command: Command) -> Answer<Vec<(String, String)>> {
    let matters = matches!(command, Command::Add | Command::Check);
    let mut pairs = Vec::new();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some((key, value)) => pairs.push((key.to_owned(), value.to_owned())),
            None if matters => {
                return Err(ErrorReport::new(
                    code::INVALID_ENVIRONMENT,
                    format!("CNI_ARGS: {pair:?} is no pair of key=value"),
                ));
            }
            None => {}
        }
    }
    Ok(pairs)
}

/// What VERSION is asked with, as far as it is there: the stock plugins answer without,
/// and whoever asks by hand leaves a terminal or an open pipe.
fn question() -> Vec<u8> {
    let (mut input, stdin) = (Vec::new(), io::stdin());
    if stdin.is_terminal() {
        return input;
    }
    let end = Instant::now() + QUESTION;
    let mut part = [0; 4096];
    while input.len() < MAX_CONFIG_BYTES {
        let rest = end.saturating_duration_since(Instant::now());
        let mut asked = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        let rest = PollTimeout::try_from(rest).unwrap_or(PollTimeout::ZERO);
        match poll(&mut asked, rest) {
            Ok(1..) => {}
            Err(Errno::EINTR) => continue,
            _ => break,
        }
        match nix::unistd::read(&stdin, &mut part) {
            Ok(0) | Err(_) => break,
            Ok(length) => input.extend_from_slice(part.get(..length).unwrap_or_default()),
        }
    }
    input
}

fn read_input() -> Answer<Vec<u8>> {
    let mut input = Vec::new();
    let limit = MAX_CONFIG_BYTES as u64 * 4;
    io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut input)
        .map_err(|e| {
            ErrorReport::new(code::IO_FAILURE, format!("cannot read standard input: {e}"))
        })?;
    Ok(input)
}

fn parse_config(input: &[u8]) -> Answer<JsonObject> {
    let config: JsonObject = serde_json::from_slice(input).map_err(|e| {
        ErrorReport::new(
            code::DECODING_FAILURE,
            format!("the configuration on standard input is no json object: {e}"),
        )
    })?;
    check_name(config.find("name"))?;
    Ok(config)
}

/// The network's name becomes part of paths and rules.
fn check_name(name: Option<&Value>) -> Answer<()> {
    let wrong = |code, text| Err(ErrorReport::new(code, text));
    match name {
        None | Some(Value::Null) => wrong(
            code::INVALID_CONFIG,
            "the network has no name: give it one".to_owned(),
        ),
        Some(Value::String(name)) if is_network_name(name) => Ok(()),
        Some(Value::String(name)) => wrong(
            code::INVALID_CONFIG,
            format!("{name:?} is no name for a network: use letters, digits, '_', '.' and '-'"),
        ),
        Some(other) => wrong(
            code::DECODING_FAILURE,
            format!("name is {other}, not a string"),
        ),
    }
}

fn parse_version(config: &JsonObject) -> Answer<CniVersion> {
    let text = match config.find("cniVersion") {
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text,
        Some(other) => {
            return Err(ErrorReport::new(
                code::DECODING_FAILURE,
                format!("cniVersion is {other}, not a string"),
            ));
        }
    };
    text.parse()
        .ok()
        .filter(|version: &CniVersion| version.is_supported())
        .ok_or_else(|| {
            ErrorReport::new(
                code::INCOMPATIBLE_VERSION,
                format!(
                    "cniVersion {text:?} is not spoken here: use one of {}",
                    spoken().join(", ")
                ),
            )
        })
}

fn check_command(command: Command, version: CniVersion) -> Answer<()> {
    let exists = match command {
        Command::Check => version.has_check(),
        Command::Status | Command::Gc => version.has_status_and_gc(),
        Command::Add | Command::Del | Command::Version => true,
    };
    if exists {
        return Ok(());
    }
    Err(ErrorReport::new(
        code::INCOMPATIBLE_VERSION,
        format!("cniVersion {version} has no {command}"),
    ))
}

fn parse_prev(config: &JsonObject, version: CniVersion) -> Answer<Option<CniResult>> {
    match config.find("prevResult") {
        None | Some(Value::Null) => Ok(None),
        Some(prev) => CniResult::parse_or(prev, version)
            .map(Some)
            .map_err(|e| ErrorReport::new(code::DECODING_FAILURE, format!("prevResult: {e}"))),
    }
}

fn spoken() -> Vec<&'static str> {
    CniVersion::SUPPORTED.iter().map(|v| v.as_str()).collect()
}

/// The answer to VERSION, in the version of the question.
fn versions(input: &[u8]) -> Value {
    let asked = serde_json::from_slice::<JsonObject>(input).ok();
    let asked = asked
        .as_ref()
        .and_then(|config| config.find("cniVersion")?.as_str());
    json!({
        "cniVersion": asked.unwrap_or(CniVersion::LATEST.as_str()),
        "supportedVersions": spoken(),
    })
}

/// Runs other plugins: drivers of this process, else executables of `CNI_PATH`.
struct Executables<'a> {
    path: PluginPath,
    env: &'a Environment,
}

impl Delegate for Executables<'_> {
    fn run(
        &self,
        kind: &str,
        command: Command,
        config: &JsonObject,
        call: &Call<'_>,
    ) -> Answer<Option<CniResult>> {
        if let Some(answer) = by_driver(self, kind, command, config, call) {
            return answer;
        }
        let output = self.execute(kind, command, config)?;
        written(kind, command, &output, call)
    }
}

impl Executables<'_> {
    fn execute(&self, kind: &str, command: Command, config: &JsonObject) -> Answer<Vec<u8>> {
        let executable = self
            .path
            .find(kind)
            .map_err(|e| ErrorReport::new(code::INVALID_ENVIRONMENT, e.to_string()))?;
        let failed = |e: io::Error| {
            ErrorReport::new(
                code::IO_FAILURE,
                format!("cannot run {}: {e}", executable.display()),
            )
        };
        let variables = BTreeMap::from([
            ("CNI_COMMAND", command.as_str()),
            ("CNI_CONTAINERID", &self.env.container_id),
            ("CNI_IFNAME", &self.env.ifname),
            ("CNI_PATH", &self.env.path),
        ]);
        let mut child = std::process::Command::new(&executable)
            .envs(variables)
            .env(
                "CNI_NETNS",
                self.env.netns.as_deref().unwrap_or(Path::new("")),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let text = Value::Object(config.clone()).to_string();
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin may end without having read everything.
            let _ = stdin.write_all(text.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(ErrorReport::parse(&output.stdout).unwrap_or_else(|| {
            ErrorReport::new(code::OTHER, format!("{kind} {command}: {}", output.status))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::read(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_is_checked_by_command() {
        let path = ("CNI_PATH", "/bin");
        let env = environment(&[("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0"), path]);
        assert!(env.check(Command::Del).is_ok());
        assert_eq!(
            env.check(Command::Add).unwrap_err().code,
            code::INVALID_ENVIRONMENT
        );
        assert!(environment(&[path]).check(Command::Gc).is_ok());
        assert!(environment(&[]).check(Command::Gc).is_err());
        for (id, ifname) in [("", "eth0"), ("a", ""), ("a/b", "eth0"), ("a", "a/b")] {
            let env = environment(&[("CNI_CONTAINERID", id), ("CNI_IFNAME", ifname), path]);
            assert!(env.check(Command::Del).is_err(), "{id:?} {ifname:?}");
        }
        let lo = environment(&[("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "lo"), path]);
        assert!(lo.check(Command::Del).is_ok());
    }

    #[test]
    fn networks_have_proper_names() {
        assert!(parse_config(br#"{"name":"a-net_1.x"}"#).is_ok());
        for (config, expected) in [
            ("{}", code::INVALID_CONFIG),
            (r#"{"name":""}"#, code::INVALID_CONFIG),
            (r#"{"name":"../up"}"#, code::INVALID_CONFIG),
            (r#"{"name":7}"#, code::DECODING_FAILURE),
            ("[]", code::DECODING_FAILURE),
        ] {
            let error = parse_config(config.as_bytes()).unwrap_err();
            assert_eq!(error.code, expected, "{config}");
        }
    }

    #[test]
    fn arguments_are_pairs() {
        let read = |text| parse_args(text, Command::Add);
        let pairs = [("A".into(), "1".into()), ("B".into(), "x=y".into())];
        assert_eq!(read("A=1;B=x=y;").unwrap(), pairs);
        assert!(read("oops").is_err());
        assert_eq!(parse_args("A=1;oops;B=x=y", Command::Del).unwrap(), pairs);
    }

    #[test]
    fn versions_are_told_and_checked() {
        let told = versions(br#"{"cniVersion":"0.4.0"}"#);
        assert_eq!(told["cniVersion"], "0.4.0");
        assert!(
            told["supportedVersions"]
                .as_array()
                .unwrap()
                .contains(&json!("1.1.0"))
        );
        assert_eq!(versions(b"")["cniVersion"], "1.1.0");
        let version = |text: &str| parse_version(&serde_json::from_str(text).unwrap());
        assert_eq!(
            version(r#"{"cniVersion":"0.4.0"}"#).unwrap(),
            CniVersion::V0_4_0
        );
        for text in ["{}", r#"{"cniVersion":"0.2.0"}"#, r#"{"cniVersion":"x"}"#] {
            assert_eq!(version(text).unwrap_err().code, code::INCOMPATIBLE_VERSION);
        }
        assert!(check_command(Command::Gc, CniVersion::V1_0_0).is_err());
        assert!(check_command(Command::Check, CniVersion::V0_3_1).is_err());
    }
}
