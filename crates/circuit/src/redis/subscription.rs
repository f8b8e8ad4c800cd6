//! Messages from Redis, over a connection that comes back by itself.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::{mpsc, watch};

use super::connect::Connector;
use super::{Failure, Link};

/// Messages that wait for the subscriber; beyond them the server keeps them for
/// a while, then ends the connection, which the subscriber is told of.
const WAITING: usize = 4096;

/// What a subscription tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It listens, for the first time or again: anything may have been said
    /// before that.
    Resumed,
    /// Something was said.
    Message {
        /// The channel it was said on.
        channel: String,
        /// What was said.
        payload: Vec<u8>,
    },
}

/// A subscription; it ends when dropped.
pub struct Subscription {
    events: mpsc::Receiver<Event>,
    task: tokio::task::JoinHandle<()>,
}

impl Subscription {
    pub(super) fn start(
        connector: Arc<Connector>,
        link: watch::Receiver<Link>,
        channels: Vec<String>,
        patterns: Vec<String>,
    ) -> Self {
        let (told, events) = mpsc::channel(WAITING);
        let task = tokio::spawn(async move {
            follow(&connector, link, &channels, &patterns, &told).await;
        });
        Self { events, task }
    }

    /// The next event; none when the store is gone.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Takes the events that are there already, for whom one look is enough for all.
    pub fn drain(&mut self) {
        while self.events.try_recv().is_ok() {}
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens whenever the store is connected.
async fn follow(
    connector: &Connector,
    mut link: watch::Receiver<Link>,
    channels: &[String],
    patterns: &[String],
    told: &mpsc::Sender<Event>,
) {
    loop {
        let generation = match link.wait_for(Link::is_up).await {
            Ok(link) => link.generation,
            Err(_) => return,
        };
        let another = async {
            let another = |link: &Link| link.generation != generation || !link.is_up();
            link.wait_for(another).await.is_ok()
        };
        let outcome = tokio::select! {
            alive = another => if alive { Ok(()) } else { return },
            outcome = listen(connector, channels, patterns, told) => outcome,
        };
        if told.is_closed() {
            return;
        }
        if let Err(failure) = outcome {
            tracing::debug!("cannot listen to redis: {failure}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Listens until the connection ends.
async fn listen(
    connector: &Connector,
    channels: &[String],
    patterns: &[String],
    told: &mpsc::Sender<Event>,
) -> Result<(), Failure> {
    let mut connection = connector.subscription().await?;
    if !channels.is_empty() {
        let subscribed = connection.subscribe(channels).await;
        subscribed.map_err(|e| Failure::of(&e))?;
    }
    if !patterns.is_empty() {
        let subscribed = connection.psubscribe(patterns).await;
        subscribed.map_err(|e| Failure::of(&e))?;
    }
    if told.send(Event::Resumed).await.is_err() {
        return Ok(());
    }
    let mut messages = connection.on_message();
    while let Some(message) = messages.next().await {
        let event = Event::Message {
            channel: message.get_channel_name().to_owned(),
            payload: message.get_payload_bytes().to_vec(),
        };
        if told.send(event).await.is_err() {
            break;
        }
    }
    Err(Failure::Unavailable("the connection ended".into()))
}
