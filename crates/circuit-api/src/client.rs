//! Connects to a daemon. The generated clients take the channel:
//!
//! ```no_run
//! use circuit_api::v1::circuit_client::CircuitClient;
//! use circuit_api::{ClientOptions, LARGEST_ANSWER, connect};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let channel = connect(&ClientOptions::default()).await?;
//! let mut circuit = CircuitClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
//! # Ok(()) }
//! ```

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

pub use crate::address::Target;
pub use crate::tls::TlsOptions;

/// How long one attempt to reach a target may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client should take for an answer, in bytes. By itself it takes 4 MiB, and
/// the containers of a large fleet are more.
pub const LARGEST_ANSWER: usize = 256 << 20;

/// Which daemon to talk to, and how.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// The daemon; [`Target::defaults`] are tried in turn when absent.
    pub target: Option<Target>,
    /// Talk TLS to a TCP target. A Unix socket is always plain.
    pub tls: Option<TlsOptions>,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The TLS options cannot be used.
    #[error("{0}")]
    Tls(String),
    /// Nothing answers, or not as a daemon would.
    #[error("cannot reach circuit at {0}; is `circuit server` running?")]
    Unreachable(String),
    /// There is a socket, and this user may not open it.
    #[error("cannot open {0}: permission denied; run this as root, or in the group of the socket")]
    Denied(Target),
    /// Somebody answers, but client and server do not trust each other.
    #[error("cannot talk tls with circuit at {0}; check the certificates, and that it talks tls")]
    Untrusted(String),
}

/// Connects; fails at once when nothing answers. The channel connects again
/// by itself when the connection breaks later.
///
/// # Errors
/// When the TLS options are unusable or no target answers.
pub async fn connect(options: &ClientOptions) -> Result<Channel, ConnectError> {
    let (given, defaults);
    let targets: &[Target] = match &options.target {
        Some(target) => {
            given = [target.clone()];
            &given
        }
        None => {
            defaults = Target::defaults();
            &defaults
        }
    };
    let (mut failures, mut denied) = (Vec::new(), None);
    for target in targets {
        let dialer = Arc::new(Dialer::new(target, options.tls.as_ref())?);
        match open(dialer).await {
            Ok(channel) => return Ok(channel),
            Err(Failure::Untrusted(reason)) => {
                return Err(ConnectError::Untrusted(format!("{target}: {reason}")));
            }
            Err(Failure::Denied) => denied = Some(target.clone()),
            Err(Failure::Unreachable(reason)) => failures.push(format!("{target}: {reason}")),
        }
    }
    Err(match denied {
        // That there is nothing in another place, too, would only mislead.
        Some(target) => ConnectError::Denied(target),
        None => ConnectError::Unreachable(failures.join(", or at ")),
    })
}

/// Why one target cannot be used.
enum Failure {
    Unreachable(String),
    Denied,
    Untrusted(String),
}

async fn open(dialer: Arc<Dialer>) -> Result<Channel, Failure> {
    // The URI only fills the `:authority` header; the dialer knows the way.
    let connector = tower::service_fn(move |_| {
        let dialer = dialer.clone();
        async move { dialer.dial().await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost")
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .connect_with_connector(connector)
        .await
        .map_err(|e| root_cause(&e))
}

fn root_cause(error: &tonic::transport::Error) -> Failure {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            let tls = io
                .get_ref()
                .is_some_and(|inner| inner.is::<rustls::Error>());
            return match io.kind() {
                _ if tls => Failure::Untrusted(io.to_string()),
                io::ErrorKind::ConnectionRefused => {
                    Failure::Unreachable("connection refused".into())
                }
                io::ErrorKind::NotFound => Failure::Unreachable("no such socket".into()),
                io::ErrorKind::PermissionDenied => Failure::Denied,
                _ => Failure::Unreachable(io.to_string()),
            };
        }
        cause = error.source();
    }
    Failure::Unreachable(error.to_string())
}

/// Makes one connection to one target, as often as it is asked to.
struct Dialer {
    target: Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Dialer {
    fn new(target: &Target, options: Option<&TlsOptions>) -> Result<Self, ConnectError> {
        let tls = match (target, options) {
            (Target::Unix(_), _)
            | (
                Target::Tcp {
                    tls: Some(false) | None,
                    ..
                },
                None,
            ) => None,
            (
                Target::Tcp {
                    tls: Some(false), ..
                },
                Some(_),
            ) => {
                return Err(ConnectError::Tls(format!(
                    "tls options were given for http://{target}; use https:// or leave them out"
                )));
            }
            (Target::Tcp { host, .. }, options) => {
                let options = options.cloned().unwrap_or_default();
                let config = crate::tls::client_config(&options).map_err(ConnectError::Tls)?;
                let name = options.server_name.unwrap_or_else(|| host.clone());
                let name = ServerName::try_from(name.clone()).map_err(|_| {
                    ConnectError::Tls(format!("{name:?} cannot stand in a certificate"))
                })?;
                Some((TlsConnector::from(Arc::new(config)), name))
            }
        };
        Ok(Self {
            target: target.clone(),
            tls,
        })
    }

    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        tokio::time::timeout(DIAL_TIMEOUT, self.dial_patiently())
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
    }

    async fn dial_patiently(&self) -> io::Result<Box<dyn Stream>> {
        match &self.target {
            Target::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Target::Tcp { host, port, .. } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                match &self.tls {
                    None => Ok(Box::new(stream)),
                    Some((tls, name)) => Ok(Box::new(tls.connect(name.clone(), stream).await?)),
                }
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_target_is_named_with_the_remedy() {
        let dir = std::env::temp_dir().join("circuit-no-such-socket");
        let target = Some(Target::Unix(dir.clone()));
        let error = connect(&ClientOptions { target, tls: None })
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot reach circuit at {}: no such socket; is `circuit server` running?",
                dir.display()
            )
        );
    }

    #[test]
    fn a_closed_door_is_no_daemon_that_does_not_run() {
        let denied = ConnectError::Denied(Target::Unix("/run/circuit.sock".into()));
        assert_eq!(
            denied.to_string(),
            "cannot open /run/circuit.sock: permission denied; run this as root, or in the group \
             of the socket"
        );
    }

    #[tokio::test]
    async fn a_closed_port_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let target = Some(address.parse().unwrap());
        let error = connect(&ClientOptions { target, tls: None })
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("{address}: connection refused")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn unusable_tls_options_are_named() {
        let with = |tls: TlsOptions, target: &str| ClientOptions {
            target: Some(target.parse().unwrap()),
            tls: Some(tls),
        };
        let lonely = TlsOptions {
            cert: Some("a.pem".into()),
            skip_verify: true,
            ..Default::default()
        };
        let error = connect(&with(lonely, "localhost:1")).await.unwrap_err();
        assert_eq!(error.to_string(), "a client certificate needs its key too");
        let missing = TlsOptions {
            ca: Some("/no/such/ca.pem".into()),
            ..Default::default()
        };
        let error = connect(&with(missing, "localhost:1")).await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot read /no/such/ca.pem: "),
            "{error}"
        );
        let error = connect(&with(TlsOptions::default(), "http://localhost:1"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("use https://"), "{error}");
    }
}
