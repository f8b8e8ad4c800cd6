//! One run of one plugin.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use circuit_core::cni::ErrorReport;
use circuit_core::{Error, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::time::{Instant, timeout, timeout_at};

use super::lock::Started;
use super::{CniError, OperationLock, PluginPath};

/// How much of a plugin's output is kept; the rest is read and dropped.
pub const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// How much of standard error goes into an error text.
const STDERR_IN_ERRORS: usize = 2048;

/// How long output is awaited from processes that outlive their plugin.
const DRAIN: Duration = Duration::from_millis(500);

/// How long a killed plugin may take to be gone.
const REAP: Duration = Duration::from_secs(5);

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Say whether an attachment is as it was made.
    Check,
    /// Say which versions are spoken.
    Version,
    /// Say whether ADD could be served.
    Status,
    /// Remove what belongs to no attachment in use.
    Gc,
}

impl Command {
    /// The command as it stands in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Version => "VERSION",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one plugin is given for one run.
#[derive(Debug, Clone, Copy)]
pub struct PluginCall<'a> {
    /// The plugin's type.
    pub kind: &'a str,
    /// What it is to do.
    pub command: Command,
    /// `CNI_CONTAINERID`, empty when the command concerns no container.
    pub container_id: &'a str,
    /// `CNI_NETNS`.
    pub netns: Option<&'a Path>,
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// `CNI_ARGS`.
    pub args: &'a [(String, String)],
    /// The network configuration.
    pub stdin: &'a [u8],
}

/// Runs a plugin and returns what it wrote on standard output.
///
/// The plugin is a process group of its own, killed as a whole when `limit`
/// has passed. It goes on, under the same limit, when the returned future is
/// dropped: half an ADD is worse than one nobody waits for.
///
/// # Errors
/// A [`CniError`] that names the plugin.
pub async fn run(
    path: &PluginPath,
    call: &PluginCall<'_>,
    limit: Duration,
    lock: Option<&OperationLock>,
) -> Result<Vec<u8>, CniError> {
    let child = start(path, call, lock).await?;
    let (plugin, command) = (call.kind.to_owned(), call.command);
    let stdin = call.stdin.to_vec();
    let started = lock.map(OperationLock::started);
    let watched = tokio::spawn(watch(child, stdin, limit, started));
    let ended = match watched.await {
        Ok(ended) => ended,
        // The runtime is shutting down: what the plugin did is not known.
        Err(e) => {
            let status = format!("nobody waited for its end: {e}");
            return Err(CniError::Failed {
                plugin,
                command,
                status,
                stderr: String::new(),
            });
        }
    };
    judge(plugin, command, limit, ended)
}

async fn start(
    path: &PluginPath,
    call: &PluginCall<'_>,
    lock: Option<&OperationLock>,
) -> Result<Child, CniError> {
    let executable = path.find(call.kind)?;
    let args = join_args(call.args).map_err(CniError::NotRun)?;
    let mut tries = 0;
    loop {
        let process = process(path, &executable, call, &args);
        match spawn(process, lock) {
            Ok(child) => return Ok(child),
            // Being installed at this moment, or held open by a process that has
            // not come to its exec yet: over in an instant.
            Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) && tries < 10 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(e) => return Err(CniError::NotRun(spawn_error(&executable, &e))),
        }
    }
}

fn process(
    path: &PluginPath,
    executable: &Path,
    call: &PluginCall<'_>,
    args: &str,
) -> std::process::Command {
    let mut process = std::process::Command::new(executable);
    process
        .env("CNI_COMMAND", call.command.as_str())
        .env("CNI_CONTAINERID", call.container_id)
        .env("CNI_NETNS", call.netns.unwrap_or(Path::new("")))
        .env("CNI_IFNAME", call.ifname)
        .env("CNI_ARGS", args)
        .env("CNI_PATH", path.joined())
        .env("PATH", with_system_folders(std::env::var_os("PATH")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_own(name)) {
        process.env_remove(name);
    }
    process
}

/// Whether a variable is for the daemon alone: settings, of which one may be a password,
/// and what systemd gives it. What a plugin says to `NOTIFY_SOCKET` would be taken for the
/// daemon's word.
fn is_own(name: &OsStr) -> bool {
    const OWN: [&[u8]; 4] = [b"CIRCUIT_", b"NOTIFY_", b"WATCHDOG_", b"CREDENTIALS_"];
    OWN.iter().any(|own| name.as_bytes().starts_with(own))
}

fn spawn_error(executable: &Path, error: &io::Error) -> Error {
    let text = format!("cannot run cni plugin {}: {error}", executable.display());
    match error.raw_os_error() {
        Some(libc::ENOEXEC | libc::ETXTBSY | libc::EACCES | libc::ENOENT) => {
            Error::precondition(text)
        }
        _ => Error::unavailable(text),
    }
}

/// Starts a process that keeps the lock's descriptor. What could be done between
/// fork and exec would have to be done in a copy of the daemon's memory: it costs
/// more than the start itself, and every page that is changed afterwards once more.
/// So the descriptor is left open for the moment, in which nothing else is started.
fn spawn(process: std::process::Command, lock: Option<&OperationLock>) -> io::Result<Child> {
    static STARTING: Mutex<()> = Mutex::new(());
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let _inherited = lock.map(OperationLock::inherited).transpose()?;
    tokio::process::Command::from(process).spawn()
}

fn join_args(args: &[(String, String)]) -> Result<String> {
    let mut joined = String::new();
    for (key, value) in args {
        let bad = |text: &str| text.contains([';', '\0']);
        if key.is_empty() || key.contains('=') || bad(key) || bad(value) {
            return Err(Error::invalid(format!(
                "cni argument {key:?}={value:?} cannot be passed on: \
                 leave out ';', and '=' in its name"
            )));
        }
        if !joined.is_empty() {
            joined.push(';');
        }
        joined.push_str(&format!("{key}={value}"));
    }
    Ok(joined)
}

/// Plugins call iptables and its like, which service managers' and users'
/// `PATH` often lack.
fn with_system_folders(path: Option<OsString>) -> OsString {
    let mut path = path.unwrap_or_default();
    for dir in ["/usr/sbin", "/sbin", "/usr/bin", "/bin"] {
        if std::env::split_paths(&path).any(|have| have == Path::new(dir)) {
            continue;
        }
        if !path.is_empty() {
            path.push(":");
        }
        path.push(dir);
    }
    path
}

/// How a run ended, before anybody judges it.
struct Ended {
    /// `None` when it was killed at the limit.
    status: Option<io::Result<ExitStatus>>,
    stdout: Output,
    stderr: Output,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    truncated: bool,
}

async fn watch(
    mut child: Child,
    stdin: Vec<u8>,
    limit: Duration,
    started: Option<Started>,
) -> Ended {
    let deadline = Instant::now() + limit;
    let writer = child
        .stdin
        .take()
        .map(|pipe| tokio::spawn(feed(pipe, stdin)));
    let (mut stdout, mut stderr) = (Output::default(), Output::default());
    let (mut out_pipe, mut err_pipe) = (child.stdout.take(), child.stderr.take());
    let status = {
        let output = async {
            tokio::join!(
                collect(&mut out_pipe, &mut stdout),
                collect(&mut err_pipe, &mut stderr)
            );
        };
        tokio::pin!(output);
        let exit = async {
            tokio::select! {
                status = child.wait() => (status, false),
                () = &mut output => (child.wait().await, true),
            }
        };
        match timeout_at(deadline, exit).await {
            Ok((status, drained)) => {
                if !drained {
                    // What a background process writes later is nobody's result.
                    let _ = timeout(DRAIN, output).await;
                }
                Some(status)
            }
            Err(_) => None,
        }
    };
    let is_gone = match &status {
        Some(status) => status.is_ok(),
        None => kill(&mut child).await,
    };
    if is_gone && let Some(started) = started {
        started.ended();
    }
    if let Some(writer) = writer {
        writer.abort();
    }
    Ended {
        status,
        stdout,
        stderr,
    }
}

/// Kills the plugin's process group. The leader is not reaped yet, so its
/// number cannot be anybody else's. Returns whether it has ended.
async fn kill(child: &mut Child) -> bool {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
    }
    // A process stuck in the kernel is reaped by the runtime when it ends.
    let reaped = timeout(REAP, child.wait()).await;
    reaped.is_ok_and(|status| status.is_ok())
}

async fn feed(mut pipe: ChildStdin, stdin: Vec<u8>) {
    // A plugin may end without having read everything.
    let _ = pipe.write_all(&stdin).await;
}

async fn collect(pipe: &mut Option<impl AsyncRead + Unpin>, output: &mut Output) {
    let Some(pipe) = pipe else { return };
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = pipe.read(&mut chunk).await {
        let room = MAX_OUTPUT_BYTES.saturating_sub(output.bytes.len());
        output.truncated |= n > room;
        output.bytes.extend_from_slice(&chunk[..n.min(room)]);
    }
}

fn judge(
    plugin: String,
    command: Command,
    limit: Duration,
    ended: Ended,
) -> Result<Vec<u8>, CniError> {
    let stderr = tail(&ended.stderr.bytes);
    let status = match ended.status {
        None => {
            return Err(CniError::Timeout {
                plugin,
                command,
                timeout: limit,
                stderr,
            });
        }
        Some(Ok(status)) => status,
        Some(Err(e)) => {
            let status = format!("cannot tell how it ended: {e}");
            return Err(CniError::Failed {
                plugin,
                command,
                status,
                stderr,
            });
        }
    };
    if status.success() {
        return succeeded(plugin, command, ended.stdout, &stderr);
    }
    if let Some(report) = ErrorReport::parse(&ended.stdout.bytes) {
        return Err(CniError::Report {
            plugin,
            command,
            report,
            stderr,
        });
    }
    let status = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    };
    let stderr = if stderr.is_empty() {
        tail(&ended.stdout.bytes)
    } else {
        stderr
    };
    Err(CniError::Failed {
        plugin,
        command,
        status,
        stderr,
    })
}

fn succeeded(
    plugin: String,
    command: Command,
    stdout: Output,
    stderr: &str,
) -> Result<Vec<u8>, CniError> {
    if stdout.truncated {
        let reason = format!("wrote more than {MAX_OUTPUT_BYTES} bytes");
        return Err(CniError::BadOutput {
            plugin,
            command,
            reason,
        });
    }
    if !stderr.is_empty() {
        tracing::debug!(%plugin, %command, stderr, "plugin wrote on standard error");
    }
    Ok(stdout.bytes)
}

/// The end of a plugin's output, on one line.
fn tail(bytes: &[u8]) -> String {
    let bytes = &bytes[bytes.len().saturating_sub(STDERR_IN_ERRORS)..];
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines
        .join("; ")
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_folders_are_added_once() {
        let path = with_system_folders(Some("/opt/bin:/usr/sbin".into()));
        assert_eq!(
            path,
            OsString::from("/opt/bin:/usr/sbin:/sbin:/usr/bin:/bin")
        );
        assert_eq!(with_system_folders(Some(path.clone())), path);
        assert_eq!(
            with_system_folders(None),
            OsString::from("/usr/sbin:/sbin:/usr/bin:/bin")
        );
    }

    #[test]
    fn what_the_daemon_was_given_is_its_own() {
        for own in [
            "CIRCUIT_REDIS_URL",
            "NOTIFY_SOCKET",
            "WATCHDOG_PID",
            "CREDENTIALS_DIRECTORY",
        ] {
            assert!(is_own(OsStr::new(own)), "{own}");
        }
        for of_all in ["PATH", "CNI_ARGS", "HTTP_PROXY", "MY_CIRCUIT_"] {
            assert!(!is_own(OsStr::new(of_all)), "{of_all}");
        }
    }

    #[test]
    fn arguments_are_joined_and_checked() {
        let args = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect();
            join_args(&pairs)
        };
        assert_eq!(args(&[("A", "1"), ("B", "x=y")]).unwrap(), "A=1;B=x=y");
        assert_eq!(args(&[]).unwrap(), "");
        assert!(args(&[("A", "1;B=2")]).is_err());
        assert!(args(&[("A=B", "1")]).is_err());
    }

    #[test]
    fn the_end_of_standard_error_is_kept_on_one_line() {
        assert_eq!(tail(b"a\n\n b \x1b[0m\n"), "a; b [0m");
        assert_eq!(tail(&vec![b'x'; 5000]).len(), STDERR_IN_ERRORS);
    }
}
