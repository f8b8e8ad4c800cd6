//! Nodes of the original Circuit in the same fleet: their questions are answered,
//! they are asked, and they see this node in their list.
//!
//! The original asks everybody on one channel and waits for as many answers as
//! there are nodes. Ours know each other's containers; so only originals are
//! waited for, and one that does not answer is not waited for again before the
//! next look at who is there.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use circuit_api::v1;
use circuit_core::fleet::Snapshot;
use circuit_core::service::{ContainerIp, NodeInfo};
use prost::Message;
use prost_types::Any;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{Local, Registry, scripts};
use crate::redis::{Event, Failure, Store, Subscription, Value, cmd, pipe};

/// Where the original's questions are asked.
const QUESTIONS: &str = "circuit.cluster";
/// How the channels begin that answers are given on.
const ANSWERS: &str = "circuit.reply.";
/// How the keys of the original's heartbeats begin.
const NODES: &str = "nodes:";
/// The original's own time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Who looks for originals at the moment, for all of ours.
const PROBER: &str = "circuit:{fleet}:prober";
/// What was found.
const FOUND: &str = "circuit:{fleet}:originals";
/// How long such a key of ours lasts, whatever the lease: originals wait for an answer of
/// each that is there. A node of ours that is gone may have one for so long.
const LASTS: Duration = Duration::from_secs(20);
/// How long answers are waited for.
const PATIENCE: Duration = Duration::from_millis(300);
/// Answers that wait for whoever asked.
const WAITING: usize = 1024;

/// An answer, and the channel it came on.
type Reply = (String, Vec<u8>);

/// What is said on the original's channels. It names types without the prefix of
/// a URL.
trait Said: Message + Default {
    const NAME: &'static str;
}

impl Said for v1::ClusterRequest {
    const NAME: &'static str = "io.circuit.v1.ClusterRequest";
}

impl Said for v1::ContainerIpQuery {
    const NAME: &'static str = "io.circuit.v1.ContainerIPQuery";
}

impl Said for v1::ContainerIp {
    const NAME: &'static str = "io.circuit.v1.ContainerIP";
}

impl Said for v1::OpComplete {
    const NAME: &'static str = "io.circuit.v1.OpComplete";
}

impl Said for v1::NodeInfo {
    const NAME: &'static str = "io.circuit.v1.NodeInfo";
}

/// The originals that were found.
#[derive(Clone, PartialEq, Message)]
struct Found {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<v1::NodeInfo>,
}

/// The originals of the fleet.
pub(super) struct Originals {
    store: Store,
    name: String,
    local: Arc<dyn Local>,
    known: ArcSwap<Vec<v1::NodeInfo>>,
    /// Originals that did not answer since the last look.
    silent: Mutex<HashSet<String>>,
    replies: broadcast::Sender<Reply>,
    /// Since when no answer is missed; none while answers are not listened to.
    listening: Mutex<Option<Instant>>,
}

impl Originals {
    pub(super) fn new(registry: &Registry, local: Arc<dyn Local>) -> Self {
        Self {
            store: registry.store().clone(),
            name: registry.settings().name.clone(),
            local,
            known: ArcSwap::default(),
            silent: Mutex::default(),
            replies: broadcast::channel(WAITING).0,
            listening: Mutex::default(),
        }
    }

    /// The originals, as they tell of themselves. Whoever looked for them may not
    /// have known yet who is in the fleet.
    pub(super) fn nodes(&self, fleet: &Snapshot) -> Vec<NodeInfo> {
        let node = |node: &v1::NodeInfo| NodeInfo {
            name: node.name.clone(),
            version: node.version.clone(),
            cpus: node.cpus,
            memory: node.memory,
            uptime: node.uptime,
            kernel_version: node.kernel_version.clone(),
        };
        let ours = self.ours(fleet);
        let known = self.known.load();
        let known = known.iter().filter(|node| !ours.contains(&*node.name));
        known.map(node).collect()
    }

    /// The names that are none of an original.
    fn ours<'a>(&'a self, fleet: &'a Snapshot) -> HashSet<&'a str> {
        let others = fleet.nodes().map(|(name, _)| &**name);
        others.chain([&*self.name]).collect()
    }

    /// Answers, is seen, and looks for originals until `stop`.
    pub(super) async fn run(&self, registry: &Registry, stop: CancellationToken) {
        let mut questions = self.store.subscribe(&[QUESTIONS], &[]);
        let mut answers: Option<Subscription> = None;
        let mut timer = tokio::time::interval(HEARTBEAT);
        loop {
            let answer = async {
                match &mut answers {
                    Some(answers) => answers.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                event = questions.next() => match event {
                    Some(Event::Message { payload, .. }) => self.told(self.answer(&payload).await),
                    Some(Event::Resumed) => self.told(self.beat().await),
                    None => break,
                },
                event = answer => match event {
                    Some(event) => self.hear(event),
                    None => break,
                },
                _ = timer.tick() => {
                    self.told(self.beat().await);
                    self.told(self.look(registry).await);
                    let any = !self.known.load().is_empty();
                    if any != answers.is_some() {
                        answers = any.then(|| self.answers());
                        *self.listening() = None;
                    }
                }
            }
        }
        if registry.settings().leave_on_stop {
            let mut gone = cmd("DEL");
            gone.arg(format!("{NODES}{}", self.name));
            self.told(self.store.query(&gone).await.map(drop));
        }
    }

    /// What originals answer.
    pub(super) fn answers(&self) -> Subscription {
        self.store.subscribe(&[], &[&format!("{ANSWERS}*")])
    }

    fn listening(&self) -> MutexGuard<'_, Option<Instant>> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what came of the [`answers`](Self::answers).
    pub(super) fn hear(&self, event: Event) {
        match event {
            Event::Message { channel, payload } => {
                // Nobody may be waiting.
                let _ = self.replies.send((channel, payload));
            }
            // Who was silent before may have been missed.
            Event::Resumed => {
                *self.listening() = Some(Instant::now());
                self.forget_silence();
            }
        }
    }

    fn told(&self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            tracing::debug!(%failure, "nothing was said to nodes of the original");
        }
    }

    /// The original's kind of heartbeat.
    async fn beat(&self) -> Result<(), Failure> {
        let mut set = cmd("SET");
        set.arg(format!("{NODES}{}", self.name))
            .arg(heartbeat(self.local.info()))
            .arg("EX")
            .arg(LASTS.as_secs());
        self.store.query(&set).await.map(drop)
    }

    /// Answers a question with what this node has.
    async fn answer(&self, payload: &[u8]) -> Result<(), Failure> {
        let Some((channel, container)) = question(payload) else {
            return Ok(());
        };
        let mut said = pipe();
        for record in self.local.containers() {
            if *record.container != *container {
                continue;
            }
            for network in &record.attached {
                for ip in &network.ips {
                    let answer = v1::ContainerIp {
                        network: network.network.to_string(),
                        ip: ip.to_string(),
                        interface: network.interface.to_string(),
                        node: String::new(),
                    };
                    said.cmd("PUBLISH").arg(&channel).arg(packed(&answer));
                }
            }
        }
        let complete = v1::OpComplete {
            node: self.name.clone(),
        };
        said.cmd("PUBLISH").arg(&channel).arg(packed(&complete));
        self.store.pipeline(&said).await.map(drop)
    }

    /// Finds out which originals there are: one of ours looks, at a time, and
    /// tells the others.
    pub(super) async fn look(&self, registry: &Registry) -> Result<(), Failure> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut turn = cmd("SET");
        let held = millis(HEARTBEAT - Duration::from_secs(1));
        turn.arg(PROBER)
            .arg(&self.name)
            .arg("NX")
            .arg("PX")
            .arg(held);
        if self.store.query(&turn).await? != Value::Nil {
            let found = self.scan(registry).await?;
            let mut set = cmd("SET");
            set.arg(FOUND).arg(Found { nodes: found }.encode_to_vec());
            set.arg("PX").arg(millis(HEARTBEAT * 3));
            self.store.query(&set).await?;
        }
        let mut get = cmd("GET");
        get.arg(FOUND);
        let found = match self.store.query(&get).await? {
            Value::BulkString(bytes) => Found::decode(bytes.as_slice()).unwrap_or_default().nodes,
            _ => Vec::new(),
        };
        self.known.store(Arc::new(found));
        // One that was late once may be in time now: an original tells nothing from
        // which that could be seen.
        self.forget_silence();
        Ok(())
    }

    fn forget_silence(&self) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.clear();
    }

    /// The heartbeats of nodes that are none of ours.
    async fn scan(&self, registry: &Registry) -> Result<Vec<v1::NodeInfo>, Failure> {
        let fleet = registry.fleet();
        let (ours, gone) = (self.ours(&fleet), scripts::gone(&self.store, LASTS).await?);
        let (mut cursor, mut keys) = (b"0".to_vec(), HashSet::new());
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(format!("{NODES}*"));
            scan.arg("COUNT").arg(1000);
            let Value::Array(answer) = self.store.query(&scan).await? else {
                break;
            };
            let [Value::BulkString(next), Value::Array(found)] = answer.as_slice() else {
                break;
            };
            keys.extend(found.iter().filter_map(|key| match key {
                Value::BulkString(key) => String::from_utf8(key.clone()).ok(),
                _ => None,
            }));
            cursor.clone_from(next);
            if cursor == b"0" {
                break;
            }
        }
        let mut values = pipe();
        for key in &keys {
            let name = key.strip_prefix(NODES).unwrap_or_default();
            if !ours.contains(name) && !gone.contains(name) {
                values.cmd("GET").arg(key);
            }
        }
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.store.pipeline(&values).await?;
        let node = |value: &Value| match value {
            Value::BulkString(bytes) => unpacked::<v1::NodeInfo>(bytes),
            _ => None,
        };
        Ok(values.iter().filter_map(node).collect())
    }

    /// What originals have of a container.
    pub(super) async fn ask(&self, container: &str, fleet: &Snapshot) -> Vec<ContainerIp> {
        let mut waiting = self.to_wait_for(fleet);
        let listening = *self.listening();
        if waiting.is_empty() || listening.is_none() {
            return Vec::new();
        }
        let (mut replies, mut missed) = (self.replies.subscribe(), false);
        let channel = channel();
        let mut publish = cmd("PUBLISH");
        publish.arg(QUESTIONS).arg(asked(&channel, container));
        let mut ips = Vec::new();
        let gather = async {
            if self.store.query(&publish).await.is_err() {
                return;
            }
            while !waiting.is_empty() {
                match replies.recv().await {
                    Ok((on, payload)) if on == channel => {
                        if let Some(done) = unpacked::<v1::OpComplete>(&payload) {
                            waiting.remove(&done.node);
                        } else if let Some(ip) = unpacked::<v1::ContainerIp>(&payload) {
                            ips.extend(read(ip));
                        }
                    }
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => missed = true,
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, gather).await.is_ok();
        if !in_time && !missed && *self.listening() == listening {
            self.not_heard(&waiting);
        }
        ips
    }

    pub(super) fn to_wait_for(&self, fleet: &Snapshot) -> HashSet<String> {
        let known = self.known.load();
        // Most fleets have none, and every look-up asks.
        if known.is_empty() {
            return HashSet::new();
        }
        let ours = self.ours(fleet);
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let names = known.iter().map(|node| &node.name);
        let wanted = names.filter(|name| !silent.contains(*name) && !ours.contains(&***name));
        wanted.cloned().collect()
    }

    fn not_heard(&self, names: &HashSet<String>) {
        let known = self.known.load();
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        for node in known.iter().filter(|node| names.contains(&node.name)) {
            tracing::debug!(node = node.name, "a node of the original does not answer");
            silent.insert(node.name.clone());
        }
    }
}

/// What a node says of itself, as the original does.
pub(super) fn heartbeat(info: NodeInfo) -> Vec<u8> {
    packed(&v1::NodeInfo {
        name: info.name,
        version: info.version,
        cpus: info.cpus,
        memory: info.memory,
        uptime: info.uptime,
        kernel_version: info.kernel_version,
        ..v1::NodeInfo::default()
    })
}

/// A channel that nobody else uses, named as the original names them.
fn channel() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.as_nanos());
    // Several of ours may ask in the same moment.
    format!("{ANSWERS}{}", nanos + u128::from(rand::random::<u32>()))
}

/// A question of the original's: the channel for the answers and the container.
fn question(payload: &[u8]) -> Option<(String, String)> {
    let request: v1::ClusterRequest = unpacked(payload)?;
    let query = request.request?;
    (query.type_url == v1::ContainerIpQuery::NAME).then_some(())?;
    let query = v1::ContainerIpQuery::decode(query.value.as_slice()).ok()?;
    // An answer is given nowhere else, whoever asks.
    let channel = Some(request.channel).filter(|channel| channel.starts_with(ANSWERS));
    Some((channel?, query.container))
}

/// A question as the original asks it.
fn asked(channel: &str, container: &str) -> Vec<u8> {
    let query = v1::ContainerIpQuery {
        channel: String::new(),
        container: container.to_owned(),
    };
    packed(&v1::ClusterRequest {
        channel: channel.to_owned(),
        request: Some(any(&query)),
    })
}

fn any<M: Said>(message: &M) -> Any {
    Any {
        type_url: M::NAME.to_owned(),
        value: message.encode_to_vec(),
    }
}

fn packed<M: Said>(message: &M) -> Vec<u8> {
    any(message).encode_to_vec()
}

/// A message of this type; none when it is another, or none at all.
fn unpacked<M: Said>(bytes: &[u8]) -> Option<M> {
    let any = Any::decode(bytes).ok()?;
    (any.type_url == M::NAME).then_some(())?;
    M::decode(any.value.as_slice()).ok()
}

fn read(ip: v1::ContainerIp) -> Option<ContainerIp> {
    Some(ContainerIp {
        network: ip.network,
        ip: ip.ip.parse().ok()?,
        interface: ip.interface,
        node: ip.node,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Answers a question as an original of that name, which has one address.
    pub(in super::super) async fn answer(store: &Store, payload: &[u8], name: &str) {
        let (channel, _) = question(payload).unwrap();
        let ip = v1::ContainerIp {
            network: "ctr0".into(),
            ip: "10.77.0.3".into(),
            interface: "eth0".into(),
            node: name.into(),
        };
        let node = name.into();
        let mut said = pipe();
        for answer in [packed(&ip), packed(&v1::OpComplete { node })] {
            said.cmd("PUBLISH").arg(&channel).arg(answer);
        }
        store.pipeline(&said).await.unwrap();
    }

    /// Bytes recorded from the original.
    fn recorded(name: &str) -> Vec<u8> {
        let all = include_str!("../../tests/vectors/original-wire.json");
        let all: serde_json::Value = serde_json::from_str(all).unwrap();
        let found = all.as_array().unwrap().iter().find(|v| v["name"] == name);
        let hex = found.unwrap()["hex"].as_str().unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    #[test]
    fn questions_are_the_originals_to_the_byte() {
        let bytes = recorded("cluster-request");
        let (channel, container) = question(&bytes).unwrap();
        assert_eq!(container, "auto2");
        assert_eq!(asked(&channel, &container), bytes);
    }

    #[test]
    fn answers_are_the_originals_to_the_byte() {
        let bytes = recorded("cluster-ip");
        let ip: v1::ContainerIp = unpacked(&bytes).unwrap();
        assert_eq!(packed(&ip), bytes);
        let bytes = recorded("cluster-complete");
        let done: v1::OpComplete = unpacked(&bytes).unwrap();
        assert_eq!((packed(&done), &*done.node), (bytes, "node3"));
    }

    #[test]
    fn heartbeats_are_the_originals_to_the_byte() {
        let info = NodeInfo {
            name: "node1".into(),
            version: "master-dev (HEAD)".into(),
            cpus: 2,
            memory: 25_276_510_208,
            uptime: 2168,
            kernel_version: "6.18.44-fc-v657".into(),
        };
        assert_eq!(heartbeat(info), recorded("node-heartbeat"));
    }

    #[test]
    fn answers_are_given_nowhere_else() {
        let question_on = |channel: &str| question(&asked(channel, "c"));
        assert!(question_on("circuit.reply.1").is_some());
        assert!(question_on("circuit.cluster").is_none());
        assert!(question(b"nonsense").is_none());
    }
}
