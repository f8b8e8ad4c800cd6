//! The cluster registry in Redis: what this node has is published under a lease
//! of its own, and what all nodes have is held in memory, kept fresh by messages
//! and put right by what Redis says has changed. Look-ups of addresses are answered
//! from memory; they wait neither for Redis nor for another node of ours.
//!
//! Redis is not the truth about containers: each node is, about its own. Whatever
//! Redis loses is published again.

mod follow;
mod lookup;
mod original;
mod publish;
mod scripts;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use circuit_core::fleet::{Record, Snapshot};
use circuit_core::service::{Attachments, NodeInfo};
use circuit_core::{Error, Result};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::redis::{Event, Failure, Store};
use follow::Follower;
pub use lookup::FleetLookup;
use original::Originals;
use publish::Publisher;
use scripts::Asked;

/// How often Redis is asked what has changed.
const TICK: Duration = Duration::from_secs(1);
/// A view of the fleet that was not compared for so long is told of as stale.
const FRESH: Duration = Duration::from_secs(5);
/// The shortest and the longest time between two log lines about a name that
/// two nodes have.
const COMPLAINTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The containers of this node, which are the registry's to tell others of.
pub trait Local: Send + Sync {
    /// Every container that is connected to something.
    fn containers(&self) -> Vec<Arc<Record>>;

    /// Changes whenever [`containers`](Self::containers) does.
    fn changes(&self) -> watch::Receiver<u64>;

    /// What this node is.
    fn info(&self) -> NodeInfo;
}

/// Who this node is, and how long its word holds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's name, unique in the fleet.
    pub name: String,
    /// What it keeps for ever: another id with the same name is another node.
    pub id: String,
    /// How often it was started, this time too. Of two processes with one id the
    /// later life has the name; equal ones are of a copied disk.
    pub life: u64,
    /// The time between two heartbeats.
    pub heartbeat: Duration,
    /// How long the word holds after a heartbeat.
    pub lease: Duration,
    /// Whether the word ends with the daemon; else it ends with the lease.
    pub leave_on_stop: bool,
}

/// What is known of the registry.
#[derive(Debug, Clone)]
pub struct Status {
    /// When what this node knows was last compared with Redis.
    pub compared: Option<Instant>,
    /// How long that took.
    pub took: Duration,
    /// Why it is not compared now; none while all is well.
    pub failure: Option<String>,
    /// Whether another node has this one's name, so that nothing is published.
    pub taken: bool,
    /// Messages and records that made no sense.
    pub nonsense: u64,
}

/// What others may know of the registry.
pub struct Registry {
    settings: Settings,
    store: Store,
    fleet: ArcSwap<Snapshot>,
    status: ArcSwap<Status>,
}

impl Registry {
    /// The fleet as last heard of, without this node.
    pub fn fleet(&self) -> Arc<Snapshot> {
        self.fleet.load_full()
    }

    /// How well it is known.
    pub fn status(&self) -> Arc<Status> {
        self.status.load_full()
    }

    /// For how long the fleet has not been compared with Redis; none while it is
    /// fresh.
    pub fn stale_for(&self) -> Option<Duration> {
        let status = self.status.load();
        let age = status.compared.map_or(Duration::MAX, |at| at.elapsed());
        let failed = status.failure.is_some() && age > TICK;
        (failed || age > FRESH).then_some(age)
    }

    /// Redis, whose text has no password.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// This node's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// A node that is heard of and hears nothing: what benchmarks make a large fleet
/// of.
pub struct Beacon {
    store: Store,
    settings: Settings,
    publisher: Publisher,
    local: Arc<dyn Local>,
}

impl Beacon {
    /// A node of these containers.
    pub fn new(store: Store, settings: Settings, local: Arc<dyn Local>) -> Self {
        Self {
            publisher: Publisher::new(&settings),
            store,
            settings,
            local,
        }
    }

    /// Renews the lease, and publishes what has changed.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn beat(&mut self) -> std::result::Result<(), Failure> {
        /// No change is later.
        const NEVER: u64 = 1 << 52;
        let asked = Asked {
            word: &word(&self.settings, self.local.as_ref()),
            lease: millis(self.settings.lease),
            beat: true,
            since: NEVER,
            from: NEVER,
        };
        let tick = scripts::tick(&self.store, self.publisher.identity(), &asked).await?;
        self.publisher.heard(&tick);
        self.publisher
            .publish(&self.store, self.local.as_ref())
            .await
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a node says of itself.
fn word(settings: &Settings, local: &dyn Local) -> Vec<u8> {
    let (heartbeat, lease) = (millis(settings.heartbeat), millis(settings.lease));
    wire::word(&local.info(), heartbeat, lease)
}

/// The part of the daemon that keeps the registry.
pub struct Member {
    registry: Arc<Registry>,
    publisher: Publisher,
    follower: Follower,
    local: Arc<dyn Local>,
    originals: Arc<Originals>,
    /// What was said of this node last, and when.
    beat: Option<(Instant, Vec<u8>)>,
    complained: Option<(Instant, Duration)>,
}

impl Member {
    /// Joins the fleet: the first claim is made here, when Redis answers within
    /// `patience`. Without Redis a node works alone until it comes.
    ///
    /// # Errors
    /// When another node has this one's name, or Redis refuses.
    pub async fn join(
        store: Store,
        settings: Settings,
        local: Arc<dyn Local>,
        patience: Duration,
    ) -> Result<Self> {
        let registry = Arc::new(Registry {
            store: store.clone(),
            fleet: ArcSwap::default(),
            status: ArcSwap::from_pointee(Status {
                compared: None,
                took: Duration::ZERO,
                failure: Some("redis has not answered yet".into()),
                taken: false,
                nonsense: 0,
            }),
            settings: settings.clone(),
        });
        let originals = Arc::new(Originals::new(&registry, Arc::clone(&local)));
        let mut member = Self {
            originals,
            publisher: Publisher::new(&settings),
            follower: Follower::new(&settings),
            local,
            registry: Arc::clone(&registry),
            beat: None,
            complained: None,
        };
        match store.wait_up(patience).await {
            Ok(()) => member.tick().await,
            Err(failure) if failure.is_unavailable() => tracing::warn!(
                "redis at {} does not answer: this node works alone until it does",
                store.url()
            ),
            Err(failure) => return Err(Error::from(failure).context("--redis-url")),
        }
        if registry.status().taken {
            return Err(Error::already_exists(format!(
                "another node of the fleet is called {}: give this one another name with \
                 --node-name, or wait for the other's lease to end if it is gone",
                settings.name
            )));
        }
        Ok(member)
    }

    /// The look-ups of addresses and nodes; this node's containers are those of
    /// `attachments`.
    pub fn lookup(&self, attachments: Arc<dyn Attachments>) -> FleetLookup {
        FleetLookup::new(
            Arc::clone(&self.registry),
            attachments,
            Arc::clone(&self.local),
            Arc::clone(&self.originals),
        )
    }

    /// What others may know of the registry.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// Keeps the registry until `stop`, then leaves the fleet.
    pub async fn run(mut self, stop: CancellationToken) {
        let beside = {
            let (originals, registry) = (Arc::clone(&self.originals), Arc::clone(&self.registry));
            let stop = stop.clone();
            tokio::spawn(async move { originals.run(&registry, stop).await })
        };
        let mut messages = self.registry.store.subscribe(&[scripts::CHANNEL], &[]);
        let mut changes = self.local.changes();
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = timer.tick() => self.tick().await,
                event = messages.next() => match event {
                    Some(Event::Resumed) => self.tick().await,
                    Some(Event::Message { payload, .. }) => self.hear(&payload).await,
                    None => break,
                },
                changed = changes.changed() => match changed {
                    Ok(()) => self.publish().await,
                    Err(_) => break,
                },
            }
        }
        if beside.await.is_err() {
            tracing::error!("the part for nodes of the original hit a defect");
        }
        if self.registry.settings.leave_on_stop {
            let left = scripts::leave(&self.registry.store, self.publisher.identity()).await;
            if let Err(failure) = left {
                tracing::debug!(%failure, "the lease ends by itself");
            }
        }
    }

    /// Renews the lease when it is time, hears what has changed, and puts right
    /// what differs.
    async fn tick(&mut self) {
        let start = Instant::now();
        let outcome = self.compare().await;
        let old = self.registry.status();
        let (compared, took, failure) = match outcome {
            Ok(()) => (Some(Instant::now()), start.elapsed(), None),
            Err(failure) => (old.compared, old.took, Some(failure.to_string())),
        };
        self.registry.status.store(Arc::new(Status {
            compared,
            took,
            failure,
            taken: self.publisher.is_taken(),
            nonsense: self.follower.nonsense(),
        }));
        if self.publisher.is_taken() {
            self.complain();
        }
    }

    async fn compare(&mut self) -> std::result::Result<(), Failure> {
        let (registry, store) = (Arc::clone(&self.registry), self.registry.store.clone());
        let settings = &registry.settings;
        loop {
            let last = self.beat.take();
            let fresh = last.filter(|(at, _)| at.elapsed() < settings.heartbeat);
            let beat = fresh.is_none();
            let (at, word) =
                fresh.unwrap_or_else(|| (Instant::now(), word(settings, self.local.as_ref())));
            let asked = Asked {
                word: &word,
                lease: millis(settings.lease),
                beat,
                since: self.follower.since(),
                from: self.follower.from(),
            };
            let tick = scripts::tick(&store, self.publisher.identity(), &asked).await?;
            self.beat = Some((at, word));
            self.publisher.heard(&tick);
            self.follower.take(&store, &tick).await?;
            if tick.changed.len() < scripts::CHANGED {
                break;
            }
        }
        self.show();
        self.publisher.publish(&store, self.local.as_ref()).await
    }

    async fn publish(&mut self) {
        let store = self.registry.store.clone();
        let published = self.publisher.publish(&store, self.local.as_ref()).await;
        if let Err(failure) = published {
            // The next tick goes on with it.
            tracing::debug!(%failure, "a change was not published yet");
        }
    }

    async fn hear(&mut self, payload: &[u8]) {
        let store = self.registry.store.clone();
        if let Err(failure) = self.follower.hear(&store, payload).await {
            tracing::debug!(%failure, "a change was not read yet");
        }
        self.show();
    }

    fn show(&self) {
        self.registry
            .fleet
            .store(Arc::new(self.follower.snapshot()));
    }

    /// Says that another node has this one's name, once and then ever more
    /// seldom.
    fn complain(&mut self) {
        let (first, longest) = COMPLAINTS;
        let wait = match self.complained {
            Some((last, wait)) if last.elapsed() < wait => return,
            Some((_, wait)) => (wait * 2).min(longest),
            None => first,
        };
        self.complained = Some((Instant::now(), wait));
        tracing::error!(
            "another node of the fleet is called {}: nobody hears of this one's containers; give \
             one of them another name with --node-name",
            self.registry.settings.name
        );
    }
}
