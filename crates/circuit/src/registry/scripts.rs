//! The registry's scripts: each change of what nodes say is one step in Redis.
//!
//! All keys share one hash tag. A node's lease ends by Redis' own clock, so that
//! no node's clock matters. Every change of a node gets the next number of one
//! count, its revision; who knows the revision that a change follows on can take
//! it over, everybody else reads that node anew.

use std::sync::LazyLock;

use crate::redis::{Arg, Failure, Script, Store, Value};

/// Leases by the time they end; what nodes say of themselves; the revision of
/// each node's last change; the count of changes; what tells one life of the data
/// from the next; and how the keys of nodes' records begin.
const KEYS: [&str; 6] = [
    "circuit:{fleet}:leases",
    "circuit:{fleet}:nodes",
    "circuit:{fleet}:changed",
    "circuit:{fleet}:revision",
    "circuit:{fleet}:epoch",
    "circuit:{fleet}:records:",
];
/// Where changes are told of.
pub(super) const CHANNEL: &str = "circuit:{fleet}:changes";
/// How many changed nodes one tick tells of.
pub(super) const PAGE: usize = 200;

/// Tells of a change of a node. Node names have no line breaks.
macro_rules! with_helpers {
    ($body:literal) => {
        concat!(
            r"
local function tell(node, kind, change)
    local revision = redis.call('INCR', KEYS[4])
    local before = redis.call('ZSCORE', KEYS[3], node) or '0'
    redis.call('ZADD', KEYS[3], revision, node)
    local head = node .. '\n' .. before .. '\n' .. revision .. '\n' .. kind .. '\n'
    redis.call('PUBLISH', 'circuit:{fleet}:changes', head .. (change or ''))
    return revision
end
local function forget(node)
    redis.call('ZREM', KEYS[1], node)
    redis.call('HDEL', KEYS[2], node)
    redis.call('DEL', KEYS[6] .. node)
    tell(node, 'gone')
end
local function owner(node)
    local held = redis.call('HGET', KEYS[2], node)
    if not held then return nil end
    return string.match(held, '^([^\n]*)\n([^\n]*)\n')
end
",
            $body
        )
    };
}

/// ARGV: node, id, incarnation, word, lease in ms, whether a heartbeat is due,
/// the revision heard of last, an epoch for empty data, page.
static TICK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_helpers!(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = redis.call('GET', KEYS[5])
if not epoch then
    epoch = ARGV[8]
    redis.call('SET', KEYS[5], epoch)
end
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 20)) do
    forget(dead)
end
local id, incarnation = owner(ARGV[1])
local state = 'held'
if id and id ~= ARGV[2] then
    state = 'taken'
elseif incarnation ~= ARGV[3] then
    state = 'claimed'
end
if state == 'claimed' or (state == 'held' and ARGV[6] == '1') then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. '\n' .. ARGV[3] .. '\n' .. ARGV[4])
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[5]), ARGV[1])
end
local changed = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[7], '+inf',
    'WITHSCORES', 'LIMIT', 0, ARGV[9])
return {state, epoch, tonumber(redis.call('GET', KEYS[4]) or '0'), now, changed}"
    ))
});

/// ARGV: node, id, incarnation, the change for others, how many puts, whether
/// they take the place of everything, container and record of each, then removed
/// containers. Returns 0 when the node is not the caller's.
static PUBLISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_helpers!(
        r"
local id, incarnation = owner(ARGV[1])
if id ~= ARGV[2] or incarnation ~= ARGV[3] then return 0 end
local records, last = KEYS[6] .. ARGV[1], 6 + 2 * tonumber(ARGV[5])
if ARGV[6] == '1' then redis.call('DEL', records) end
for at = 7, last, 2 do redis.call('HSET', records, ARGV[at], ARGV[at + 1]) end
for at = last + 1, #ARGV do redis.call('HDEL', records, ARGV[at]) end
if ARGV[6] == '1' then return tell(ARGV[1], 'word') end
return tell(ARGV[1], 'change', ARGV[4])"
    ))
});

/// ARGV: node. What is known of it.
static READ: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
return {
    redis.call('HGET', KEYS[2], ARGV[1]),
    tonumber(redis.call('ZSCORE', KEYS[3], ARGV[1]) or '0'),
    redis.call('HGETALL', KEYS[6] .. ARGV[1]),
}",
    )
});

/// ARGV: node, id, incarnation. Gives the lease up, if it is the caller's.
static LEAVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_helpers!(
        r"
local id, incarnation = owner(ARGV[1])
if id ~= ARGV[2] or incarnation ~= ARGV[3] then return 0 end
forget(ARGV[1])
return 1"
    ))
});

/// The time, all leases and all words.
static ALL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
return {
    time[1] * 1000 + math.floor(time[2] / 1000),
    redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'),
    redis.call('HGETALL', KEYS[2]),
}",
    )
});

/// Who a node is, to Redis.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// Its name.
    pub(super) name: String,
    /// What it keeps for ever.
    pub(super) id: String,
    /// What tells one of its lives, and of its claims, from the next.
    pub(super) incarnation: String,
}

/// Whose a node's name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The caller's, as before.
    Held,
    /// The caller's since this moment, with the records of its former life, if it
    /// had one: they hold until it publishes what it has now.
    Claimed,
    /// Another node's.
    Taken,
}

/// The answer to a tick.
#[derive(Debug)]
pub(super) struct Tick {
    pub(super) state: State,
    pub(super) epoch: Vec<u8>,
    pub(super) revision: u64,
    /// Redis' clock in milliseconds.
    pub(super) now: u64,
    /// Nodes that changed since, with their revisions, rising.
    pub(super) changed: Vec<(String, u64)>,
}

/// What Redis knows of a node.
#[derive(Debug)]
pub(super) struct Said {
    /// Its word, without who said it; none when it is gone.
    pub(super) word: Option<Vec<u8>>,
    pub(super) revision: u64,
    /// Containers with their records.
    pub(super) records: Vec<(String, Vec<u8>)>,
}

pub(super) async fn tick(
    store: &Store,
    own: &Identity,
    word: &[u8],
    (lease, beat): (u64, bool),
    since: u64,
    epoch: &str,
) -> Result<Tick, Failure> {
    let arguments = [
        own.name.as_str().into(),
        own.id.as_str().into(),
        own.incarnation.as_str().into(),
        word.into(),
        lease.into(),
        u64::from(beat).into(),
        since.into(),
        epoch.into(),
        (PAGE as u64).into(),
    ];
    let answer = store.script(&TICK, &KEYS, &arguments).await?;
    read_tick(&answer).ok_or_else(|| unexpected(&answer))
}

fn read_tick(answer: &Value) -> Option<Tick> {
    let [state, epoch, revision, now, changed] = array(answer)? else {
        return None;
    };
    let state = match bytes(state)? {
        b"held" => State::Held,
        b"claimed" => State::Claimed,
        b"taken" => State::Taken,
        _ => return None,
    };
    Some(Tick {
        state,
        epoch: bytes(epoch)?.to_vec(),
        revision: number(revision)?,
        now: number(now)?,
        changed: pairs(changed)
            .filter_map(|(node, score)| Some((node, number_in(&score)?)))
            .collect(),
    })
}

/// Publishes a change, or everything that the node has; false when the node is
/// not the caller's any more.
pub(super) async fn publish(
    store: &Store,
    own: &Identity,
    all: bool,
    puts: &[(String, Vec<u8>)],
    removes: &[String],
) -> Result<bool, Failure> {
    // Everything is read anew by those who hear of it.
    let change = match all {
        true => Vec::new(),
        false => super::wire::changes(puts, removes),
    };
    let mut arguments: Vec<Arg<'_>> = vec![
        own.name.as_str().into(),
        own.id.as_str().into(),
        own.incarnation.as_str().into(),
        change.as_slice().into(),
        (puts.len() as u64).into(),
        u64::from(all).into(),
    ];
    for (container, record) in puts {
        arguments.push(container.as_str().into());
        arguments.push(record.as_slice().into());
    }
    arguments.extend(
        removes
            .iter()
            .map(|container| Arg::from(container.as_str())),
    );
    let answer = store.script(&PUBLISH, &KEYS, &arguments).await?;
    let revision = number(&answer).ok_or_else(|| unexpected(&answer))?;
    Ok(revision > 0)
}

/// What Redis knows of these nodes, in their order.
pub(super) async fn read(store: &Store, nodes: &[String]) -> Result<Vec<Said>, Failure> {
    let arguments: Vec<[Arg<'_>; 1]> = nodes.iter().map(|node| [node.as_str().into()]).collect();
    let calls: Vec<(&[&str], &[Arg<'_>])> = arguments
        .iter()
        .map(|arguments| (KEYS.as_slice(), arguments.as_slice()))
        .collect();
    let answers = store.scripts(&READ, &calls).await?;
    let said = |answer: &Value| read_said(answer).ok_or_else(|| unexpected(answer));
    answers.iter().map(said).collect()
}

fn read_said(answer: &Value) -> Option<Said> {
    let [word, revision, records] = array(answer)? else {
        return None;
    };
    Some(Said {
        word: bytes(word).and_then(spoken),
        revision: number(revision)?,
        records: pairs(records).collect(),
    })
}

/// Gives the lease up.
pub(super) async fn leave(store: &Store, own: &Identity) -> Result<(), Failure> {
    let arguments = [
        own.name.as_str().into(),
        own.id.as_str().into(),
        own.incarnation.as_str().into(),
    ];
    store.script(&LEAVE, &KEYS, &arguments).await.map(drop)
}

/// Every node that has a lease: its name, the milliseconds that are left of it,
/// and its word.
pub(super) async fn all(store: &Store) -> Result<Vec<(String, u64, Vec<u8>)>, Failure> {
    let answer = store.script(&ALL, &KEYS, &[]).await?;
    let read = || {
        let [now, leases, words] = array(&answer)? else {
            return None;
        };
        let now = number(now)?;
        let leases: std::collections::HashMap<String, u64> = pairs(leases)
            .filter_map(|(node, ends)| Some((node, number_in(&ends)?.saturating_sub(now))))
            .collect();
        let node = |(node, word): (String, Vec<u8>)| {
            let left = *leases.get(&node)?;
            Some((node, left, spoken(&word)?))
        };
        Some(pairs(words).filter_map(node).collect())
    };
    read().ok_or_else(|| unexpected(&answer))
}

/// The word behind id and incarnation.
fn spoken(held: &[u8]) -> Option<Vec<u8>> {
    let mut parts = held.splitn(3, |byte| *byte == b'\n');
    parts.nth(2).map(<[u8]>::to_vec)
}

fn array(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::Double(number) if *number >= 0.0 => number_in(number.to_string().as_bytes()),
        _ => number_in(bytes(value)?),
    }
}

fn number_in(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Names with bytes; what is no such pair is left out.
fn pairs(value: &Value) -> impl Iterator<Item = (String, Vec<u8>)> {
    array(value)
        .unwrap_or_default()
        .chunks_exact(2)
        .filter_map(|pair| {
            let [name, value] = pair else { return None };
            let name = String::from_utf8(bytes(name)?.to_vec()).ok()?;
            Some((name, bytes(value)?.to_vec()))
        })
}

fn unexpected(value: &Value) -> Failure {
    Failure::Refused(format!(
        "redis answers {value:?}, which makes no sense here"
    ))
}
