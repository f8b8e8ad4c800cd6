//! The handle that the rest of Circuit talks to Redis by.

use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ::redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rand::Rng as _;
use tokio::sync::watch;

use super::connect::{Connection, Connector};
use super::{Failure, Subscription, Url, is_short};

/// The time between two attempts to connect. An attempt that takes longer goes
/// on beside the next one: over a link that was just mended, a new one is the
/// faster one.
const BETWEEN: Duration = Duration::from_millis(400);
/// The longest time between two log lines about a Redis that is away.
const QUIET: Duration = Duration::from_secs(300);
/// A connection that is lost earlier was of no use: the server takes connections, and
/// then refuses what is asked of it, as a replica does and a node of a Redis Cluster.
const SETTLED: Duration = Duration::from_secs(5);
/// The shortest and the longest time before the next one after such a one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A Lua script, known to the server by its hash.
pub struct Script {
    code: &'static str,
    hash: LazyLock<String, Box<dyn FnOnce() -> String + Send>>,
}

impl Script {
    /// A script. Every key it touches must be among its keys, or carry the same
    /// hash tag as one of them.
    pub fn new(code: &'static str) -> Self {
        Self {
            code,
            hash: LazyLock::new(Box::new(|| {
                ::redis::Script::new(code).get_hash().to_owned()
            })),
        }
    }

    fn command(&self, by_hash: bool, keys: &[&str], arguments: &[Arg<'_>]) -> Cmd {
        let mut command = if by_hash {
            let mut command = ::redis::cmd("EVALSHA");
            command.arg(self.hash.as_str());
            command
        } else {
            let mut command = ::redis::cmd("EVAL");
            command.arg(self.code);
            command
        };
        command.arg(keys.len());
        for key in keys {
            command.arg(key);
        }
        for argument in arguments {
            match argument {
                Arg::Text(text) => command.arg(text),
                Arg::Bytes(bytes) => command.arg(bytes),
                Arg::Number(number) => command.arg(number),
            };
        }
        command
    }
}

/// An argument of a script.
#[derive(Debug, Clone, Copy)]
pub enum Arg<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A number, which a script reads as its digits.
    Number(u64),
}

impl<'a> From<&'a str> for Arg<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<u64> for Arg<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

/// Whether Redis answers.
#[derive(Debug, Clone)]
pub struct Link {
    /// Counts connections: another number is another connection, and perhaps
    /// another server or an emptied one.
    pub generation: u64,
    /// Why Redis does not answer; none while it does.
    pub failure: Option<Failure>,
    /// Since when it is so.
    pub since: Instant,
}

impl Link {
    /// True while Redis answers.
    pub fn is_up(&self) -> bool {
        self.failure.is_none()
    }
}

/// A Redis, by a connection that comes back by itself. Clones share it; it ends
/// with the last one.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    connector: Arc<Connector>,
    connection: Mutex<Option<(u64, Connection)>>,
    link: watch::Sender<Link>,
}

impl Store {
    /// A handle on the Redis of a URL, which begins to connect. To be called
    /// within a runtime.
    ///
    /// # Errors
    /// When a certificate that the URL names cannot be used. That Redis does
    /// not answer is no error.
    pub fn open(url: &Url) -> Result<Self, Failure> {
        let connector = Arc::new(Connector::new(url)?);
        let (link, _) = watch::channel(Link {
            generation: 0,
            failure: Some(Failure::Unavailable("not connected yet".into())),
            since: Instant::now(),
        });
        let inner = Arc::new(Inner {
            connector,
            connection: Mutex::new(None),
            link,
        });
        tokio::spawn(keep(Arc::downgrade(&inner), inner.link.subscribe()));
        Ok(Self(inner))
    }

    /// The URL, whose text has no password.
    pub fn url(&self) -> &Url {
        self.0.connector.url()
    }

    /// Whether Redis answers, and every change of that.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.0.link.subscribe()
    }

    /// True while Redis answers, as far as is known.
    pub fn is_up(&self) -> bool {
        self.0.link.borrow().is_up()
    }

    /// Waits until Redis answers.
    ///
    /// # Errors
    /// At once when Redis refuses the URL, as with a wrong password; else when it does
    /// not answer within `patience`. The store goes on trying either way.
    pub async fn wait_up(&self, patience: Duration) -> Result<(), Failure> {
        let mut link = self.link();
        let settled = link.wait_for(|link| {
            let refused = matches!(link.failure, Some(Failure::Refused(_)));
            link.is_up() || refused
        });
        let outcome = tokio::time::timeout(patience, settled).await;
        let failure = match outcome {
            Ok(Ok(link)) => link.failure.clone(),
            _ => None,
        };
        if self.is_up() {
            return Ok(());
        }
        Err(failure
            .or_else(|| self.0.link.borrow().failure.clone())
            .unwrap_or_else(|| Failure::Unavailable("redis does not answer".into())))
    }

    /// Runs a script.
    ///
    /// # Errors
    /// `Unavailable`, at once, while Redis is away; `Refused` when the script
    /// fails. After `Unavailable` it may have run all the same.
    pub async fn script(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: &[Arg<'_>],
    ) -> Result<Value, Failure> {
        self.with(async |connection: &mut Connection| {
            let command = script.command(true, keys, arguments);
            match connection.query(&command).await {
                Err(error) if is_unknown_script(&error) => {
                    let command = script.command(false, keys, arguments);
                    connection.query(&command).await
                }
                answer => answer,
            }
        })
        .await
    }

    /// Runs one script several times in one exchange: for each its keys and
    /// arguments. Other commands may come in between. For scripts that may run
    /// twice: when a server of several does not know one, all are sent again.
    ///
    /// # Errors
    /// As [`script`](Self::script); the first one counts.
    pub async fn scripts(
        &self,
        script: &Script,
        calls: &[(&[&str], &[Arg<'_>])],
    ) -> Result<Vec<Value>, Failure> {
        let pipeline = |by_hash: bool| {
            let mut pipeline = ::redis::pipe();
            for (keys, arguments) in calls {
                pipeline.add_command(script.command(by_hash, keys, arguments));
            }
            pipeline
        };
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        self.with(async |connection: &mut Connection| {
            match connection.pipeline(&pipeline(true)).await {
                Err(error) if is_unknown_script(&error) => {
                    connection.pipeline(&pipeline(false)).await
                }
                answer => answer,
            }
        })
        .await
    }

    /// Runs a command.
    ///
    /// # Errors
    /// As [`script`](Self::script).
    pub async fn query(&self, command: &Cmd) -> Result<Value, Failure> {
        self.with(async |connection: &mut Connection| connection.query(command).await)
            .await
    }

    /// Runs commands in one exchange, with one answer each.
    ///
    /// # Errors
    /// As [`script`](Self::script); the first one counts.
    pub async fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        self.with(async |connection: &mut Connection| connection.pipeline(pipeline).await)
            .await
    }

    /// Listens to channels and patterns, over a connection of its own that comes
    /// back together with the store's. Subscribers are told when it did: what
    /// was said in between, they missed.
    pub fn subscribe(&self, channels: &[&str], patterns: &[&str]) -> Subscription {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Subscription::start(
            Arc::clone(&self.0.connector),
            self.link(),
            owned(channels),
            owned(patterns),
        )
    }

    async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, RedisError>,
    ) -> Result<T, Failure> {
        let Some((generation, mut connection)) = self.0.connection() else {
            let failure = self.0.link.borrow().failure.clone();
            return Err(failure.unwrap_or_else(|| Failure::Unavailable("redis is away".into())));
        };
        work(&mut connection).await.map_err(|error| {
            let failure = Failure::of(&error);
            if failure.is_unavailable() && !is_short(&error) {
                self.0.lose(generation, &failure);
            }
            failure
        })
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(self.url()).finish()
    }
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

impl Inner {
    fn connection(&self) -> Option<(u64, Connection)> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Gives a connection up, unless another one took its place.
    fn lose(&self, generation: u64, failure: &Failure) {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if connection.as_ref().is_some_and(|(is, _)| *is == generation) {
            *connection = None;
            self.tell(Some(failure.clone()), false);
        }
    }

    fn gain(&self, new: Connection) {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let generation = self.link.borrow().generation + 1;
        *connection = Some((generation, new));
        self.tell(None, true);
    }

    fn tell(&self, failure: Option<Failure>, new: bool) {
        self.link.send_modify(|link| {
            if link.failure.is_none() != failure.is_none() {
                link.since = Instant::now();
            }
            link.generation += u64::from(new);
            link.failure = failure;
        });
    }
}

/// Connects whenever there is no connection, until the store is gone.
async fn keep(store: Weak<Inner>, mut link: watch::Receiver<Link>) {
    let mut outage = Outage::first();
    loop {
        let Some(inner) = store.upgrade() else { return };
        let connector = Arc::clone(&inner.connector);
        drop(inner);
        let Some(connection) = reconnect(&store, &connector, &mut outage).await else {
            return;
        };
        let Some(inner) = store.upgrade() else { return };
        inner.gain(connection);
        drop(inner);
        if outage.rounds == 0 {
            outage.over(connector.url());
        }
        let lost = match tokio::time::timeout(SETTLED, down(&mut link)).await {
            Ok(lost) => {
                outage.rounds = outage.rounds.saturating_add(1);
                lost
            }
            Err(_) => {
                outage.over(connector.url());
                let lost = down(&mut link).await;
                outage = Outage::new();
                lost
            }
        };
        let Some(failure) = lost else { return };
        outage.complain(connector.url(), &failure);
        tokio::time::sleep(outage.pause()).await;
    }
}

/// Why the connection is lost, once it is; none when the store is gone.
async fn down(link: &mut watch::Receiver<Link>) -> Option<Failure> {
    let link = link.wait_for(|link| !link.is_up()).await.ok()?;
    link.failure.clone()
}

/// Tries until a connection comes about; none when the store is gone.
async fn reconnect(
    store: &Weak<Inner>,
    connector: &Arc<Connector>,
    outage: &mut Outage,
) -> Option<Connection> {
    let mut attempts = FuturesUnordered::new();
    let mut next = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                let connector = Arc::clone(connector);
                attempts.push(async move { connector.connection().await });
                // All nodes of a fleet lose the same server at the same time.
                let spread = rand::rng().random_range(0..150);
                next = tokio::time::Instant::now() + BETWEEN + Duration::from_millis(spread);
            }
            Some(outcome) = attempts.next() => match outcome {
                Ok(connection) => return Some(connection),
                Err(failure) => {
                    let inner = store.upgrade()?;
                    outage.complain(connector.url(), &failure);
                    inner.tell(Some(failure), false);
                }
            },
        }
        store.upgrade()?;
    }
}

/// The time without a connection that lasts, and what was told of it: the first
/// failure, then others after growing intervals.
struct Outage {
    since: Instant,
    /// Whether there is something to take back.
    told: bool,
    last: Option<Instant>,
    wait: Duration,
    /// How many connections in a row were lost at once.
    rounds: u32,
}

impl Outage {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            told: false,
            last: None,
            wait: Duration::ZERO,
            rounds: 0,
        }
    }

    /// Before the first connection, which is told of in any case.
    fn first() -> Self {
        Self {
            told: true,
            ..Self::new()
        }
    }

    fn complain(&mut self, url: &Url, failure: &Failure) {
        if self.last.is_some_and(|last| last.elapsed() < self.wait) {
            return;
        }
        self.last = Some(Instant::now());
        self.wait = (self.wait * 2).clamp(Duration::from_secs(1), QUIET);
        self.told = true;
        tracing::warn!("no connection to redis at {url}, still trying: {failure}");
    }

    /// A connection is there.
    fn over(&mut self, url: &Url) {
        if std::mem::take(&mut self.told) {
            let after = self.since.elapsed().as_secs_f32();
            tracing::info!("connected to redis at {url} after {after:.1} s");
        }
    }

    /// The time until the next connection.
    fn pause(&self) -> Duration {
        let (first, longest) = PAUSES;
        (first * 2_u32.saturating_pow(self.rounds)).min(longest)
    }
}
