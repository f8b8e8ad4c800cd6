//! The connection to Redis: what a URL means, connections of every kind that
//! come back by themselves, scripts, and subscriptions.
//!
//! [`Url::parse`] says where Redis is, [`Store::open`] is a handle that can be
//! cloned. A call never waits for a Redis that is away: it fails at once with
//! [`Failure::Unavailable`], while a task of the store goes on trying.
//!
//! ```no_run
//! # async fn f() -> Result<(), circuit::redis::Failure> {
//! use circuit::redis::{Script, Store, Url};
//! let url = Url::parse("redis://127.0.0.1:6379/0").map_err(circuit::redis::Failure::Refused)?;
//! let store = Store::open(&url)?;
//! store.wait_up(std::time::Duration::from_secs(3)).await?;
//! let script = Script::new("return redis.call('INCR', KEYS[1])");
//! let value = store.script(&script, &["circuit:{fleet}:n"], &[]).await?;
//! # Ok(()) }
//! ```

pub mod answer;
mod connect;
mod store;
mod subscription;
mod tls;
mod url;

use std::fmt;

use ::redis::{ErrorKind, RedisError, ServerErrorKind};
use circuit_core::Error;

pub use ::redis::{Cmd, Pipeline, Value, cmd, pipe};
pub use store::{Arg, Link, Script, Store};
pub use subscription::{Event, Subscription};
pub use url::{Kind, Login, Url};

/// Why Redis did not do something. The text never holds a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Redis does not answer, or is not ready: trying again helps.
    Unavailable(String),
    /// Redis answered, and refused: trying the same again does not help.
    Refused(String),
}

impl Failure {
    /// True when trying again may help.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// What the client library says, in our kinds.
    fn of(error: &RedisError) -> Self {
        let text = told(error);
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Refused(format!(
                "redis refuses the user or the password: check them in the url ({text})"
            )),
            ErrorKind::InvalidClientConfig => Self::Refused(text),
            ErrorKind::Server(kind) => match kind {
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::TryAgain
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask => Self::Unavailable(text),
                ServerErrorKind::NoPerm => Self::Refused(format!(
                    "the user of redis may not do that: it needs ~circuit:* ~nodes:* &circuit* \
                     and +@all ({text})"
                )),
                _ => Self::Refused(text),
            },
            ErrorKind::Extension if is_about_credentials(error) => Self::Refused(format!(
                "redis refuses the user or the password: check them in the url ({text})"
            )),
            ErrorKind::Extension if is_short(error) || is_alone(error) => Self::Unavailable(text),
            ErrorKind::Extension | ErrorKind::UnexpectedReturnType => Self::Refused(text),
            ErrorKind::MasterNameNotFoundBySentinel => Self::Unavailable(format!(
                "the sentinels know no master of that name: check the path of the url ({text})"
            )),
            _ => Self::Unavailable(text),
        }
    }

    /// The same for what is said to a new connection. Only what is wrong with the URL or
    /// with the rights of its user is refused for good: nothing else was asked yet, so the
    /// server speaks of its own state.
    fn of_connecting(error: &RedisError) -> Self {
        let of_url = match error.kind() {
            ErrorKind::AuthenticationFailed
            | ErrorKind::InvalidClientConfig
            | ErrorKind::Server(ServerErrorKind::NoPerm) => true,
            _ => is_about_credentials(error) || is_about_database(error),
        };
        match Self::of(error) {
            Self::Refused(text) if !of_url => Self::Unavailable(text),
            failure => failure,
        }
    }
}

/// Error codes that servers answer to wrong or missing credentials.
fn is_about_credentials(error: &RedisError) -> bool {
    matches!(error.code(), Some("WRONGPASS" | "NOAUTH"))
}

/// Whether a server says that it has fewer databases; a node of a Redis Cluster has one.
fn is_about_database(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    ["DB index", "SELECT is not allowed"]
        .iter()
        .any(|words| detail.contains(words))
}

/// Error codes of a server that is there and cannot do it now: it is short of disk, of
/// memory or of time. Another connection would be told the same.
fn is_short(error: &RedisError) -> bool {
    matches!(error.code(), Some("MISCONF" | "OOM" | "BUSY"))
}

/// Whether a master has lost its replicas. Another one may be in its place by now, to which
/// a new connection leads.
fn is_alone(error: &RedisError) -> bool {
    error.code() == Some("NOREPLICAS")
}

fn told(error: &RedisError) -> String {
    let text = error.to_string();
    let text = text.trim().trim_end_matches('.');
    let mut characters = text.chars();
    let first = characters.next().unwrap_or('?').to_lowercase();
    first.chain(characters).collect()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unavailable(text) | Self::Refused(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable(text) => Self::unavailable(text),
            Failure::Refused(text) => Self::precondition(text),
        }
    }
}
