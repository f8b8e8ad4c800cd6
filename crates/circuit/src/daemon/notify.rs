//! What systemd is told: that the daemon is ready, that it stops, and, as long as
//! its loops turn, that it is alive.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::pulse::Pulse;

/// Tells the manager, if there is one, what becomes of the daemon.
pub(super) fn start(
    addresses: String,
    pulse: Pulse,
    shutdown: CancellationToken,
) -> JoinHandle<()> {
    let notifier = Notifier::from_environment();
    notifier.ready(&addresses);
    tokio::spawn(async move {
        let stopping = async {
            shutdown.cancelled().await;
            notifier.stopping();
        };
        tokio::join!(stopping, notifier.keep_alive(pulse, &shutdown));
    })
}

/// The service manager that started the daemon, if one did and wants to know.
#[derive(Debug)]
struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants a sign of life.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The manager that the environment names.
    fn from_environment() -> Self {
        Self::of(|name| std::env::var_os(name), std::process::id())
    }

    fn of(environment: impl Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let name = environment("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = name.and_then(|name| match open(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "cannot tell the service manager at {name:?} anything");
                None
            }
        });
        let text = |name| environment(name).and_then(|value| value.into_string().ok());
        // The variables may be meant for a process that this one was started by.
        let ours = text("WATCHDOG_PID").is_none_or(|of| of.parse() == Ok(pid));
        let watchdog = text("WATCHDOG_USEC").and_then(|micros| micros.parse().ok());
        Self {
            watchdog: watchdog
                .filter(|micros| ours && socket.is_some() && *micros > 0)
                .map(Duration::from_micros),
            socket,
        }
    }

    /// The sockets listen, and the reconciler is on its way.
    fn ready(&self, addresses: &str) {
        self.send(&format!("READY=1\nSTATUS=serving on {addresses}"));
    }

    /// What runs comes to its end now.
    fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=waiting for what runs to come to its end");
    }

    /// Says that the daemon is alive, twice in the time that the manager gives it,
    /// each time after every loop has answered. While the daemon stops, its loops
    /// end, and the time for that is limited otherwise.
    async fn keep_alive(&self, mut pulse: Pulse, shutdown: &CancellationToken) {
        let Some(limit) = self.watchdog else { return };
        let half = limit / 2;
        loop {
            let asked = pulse.ask(half / 2, |silent| {
                let names = silent.join(", ");
                tracing::error!(
                    "no sign of life of: {names}; the service manager will not hear of this \
                     daemon until there is one"
                );
            });
            tokio::select! {
                () = asked => {}
                () = shutdown.cancelled() => {}
            }
            self.send("WATCHDOG=1");
            tokio::time::sleep(half).await;
        }
    }

    fn send(&self, text: &str) {
        let Some((socket, to)) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), to) {
            tracing::warn!(%error, "cannot tell the service manager: {}", text.replace('\n', ", "));
        }
    }
}

/// A name that begins with `@` is in the abstract namespace.
fn open(name: &OsStr) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let to = match name.as_bytes().strip_prefix(b"@") {
        Some(rest) => SocketAddr::from_abstract_name(rest)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not stop the daemon.
    socket.set_nonblocking(true)?;
    Ok((socket, to))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    fn notifier(pairs: &[(&str, &str)]) -> Notifier {
        let value = |name: &str| {
            let pair = pairs.iter().find(|pair| pair.0 == name);
            pair.map(|pair| OsString::from(pair.1))
        };
        Notifier::of(value, 7)
    }

    #[test]
    fn both_kinds_of_sockets_hear() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let path = path.to_str().unwrap();
        let name = format!("circuit-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        for (manager, name) in [
            (UnixDatagram::bind(path).unwrap(), path.to_owned()),
            (
                UnixDatagram::bind_addr(&address).unwrap(),
                format!("@{name}"),
            ),
        ] {
            let notifier = notifier(&[("NOTIFY_SOCKET", &name)]);
            notifier.ready("unix:///a");
            notifier.stopping();
            assert_eq!(heard(&manager), "READY=1\nSTATUS=serving on unix:///a");
            assert!(heard(&manager).starts_with("STOPPING=1\n"));
        }
    }

    #[test]
    fn the_watchdog_is_for_one_process() {
        for (pairs, want) in [
            (&[("WATCHDOG_USEC", "2000000")][..], None),
            (&[("NOTIFY_SOCKET", "@a"), ("WATCHDOG_USEC", "x")], None),
            (&[("NOTIFY_SOCKET", "@a"), ("WATCHDOG_USEC", "0")], None),
            (
                &[("NOTIFY_SOCKET", "@a"), ("WATCHDOG_USEC", "2000000")],
                Some(2),
            ),
            (
                &[
                    ("NOTIFY_SOCKET", "@a"),
                    ("WATCHDOG_USEC", "2000000"),
                    ("WATCHDOG_PID", "8"),
                ],
                None,
            ),
            (
                &[
                    ("NOTIFY_SOCKET", "@a"),
                    ("WATCHDOG_USEC", "2000000"),
                    ("WATCHDOG_PID", "7"),
                ],
                Some(2),
            ),
        ] {
            assert_eq!(
                notifier(pairs).watchdog,
                want.map(Duration::from_secs),
                "{pairs:?}"
            );
        }
        // Nobody listens, and nobody wants to know.
        notifier(&[("NOTIFY_SOCKET", "/no/such")]).stopping();
        notifier(&[]).stopping();
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_living_daemon_is_called_alive() {
        let name = format!("circuit-watchdog-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_nonblocking(true).unwrap();
        let name = format!("@{name}");
        let notifier = notifier(&[("NOTIFY_SOCKET", &name), ("WATCHDOG_USEC", "10000000")]);
        let mut pulse = Pulse::default();
        let mut answerer = pulse.answerer("loop");
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let keeping = tokio::spawn(async move { notifier.keep_alive(pulse, &stop).await });
        let count = || {
            let mut bytes = [0; 64];
            std::iter::from_fn(|| manager.recv(&mut bytes).ok()).count()
        };
        // It turns for 21 s, then it is stuck.
        let turning = async {
            loop {
                answerer.answer().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(21), turning).await;
        assert_eq!(count(), 5);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(count(), 0);
        // One that stops on purpose is not killed for it.
        shutdown.cancel();
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(count(), 3);
        keeping.abort();
    }
}
