//! The registry's scripts: each change of what nodes say is one step in Redis.
//!
//! All keys share one hash tag. A node's lease ends by Redis' own clock, so that
//! no node's clock matters. Every change of a node gets a *revision* that no other
//! change has or ever had: Redis' time in microseconds, or one more than the last.
//! So whoever holds a node's revision holds what the node has, also when Redis
//! came back empty or from an old file; and everybody else reads that node anew.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;
use std::time::Duration;

use crate::redis::answer::{array, bytes, digits, number, pairs, unexpected};
use crate::redis::{Arg, Failure, Script, Store, Value};

/// Leases by the time they end; what nodes say of themselves; the revision of
/// each node's last change; the last revision of all; nodes that are gone by the
/// time they went; how the keys of nodes' records begin; when anybody was heard of
/// last; and whom it was that another node of its name waited for last, and until when.
const KEYS: [&str; 8] = [
    "circuit:{fleet}:leases",
    "circuit:{fleet}:nodes",
    "circuit:{fleet}:changed",
    "circuit:{fleet}:revision",
    "circuit:{fleet}:gone",
    "circuit:{fleet}:records:",
    "circuit:{fleet}:heard",
    "circuit:{fleet}:awaited",
];
/// Where changes are told of.
pub(super) const CHANNEL: &str = "circuit:{fleet}:changes";
/// How many nodes that have changed one tick tells of.
pub(super) const CHANGED: usize = 200;
/// How many nodes one tick tells of whether they changed or not, and how many
/// are listed at a time.
pub(super) const PAGE: usize = 50;

/// What scripts have in common. Node names have no line breaks. Numbers are
/// printed by `%.0f`: Lua by itself leaves digits of a revision out.
macro_rules! with_helpers {
    ($body:literal) => {
        concat!(
            r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function tell(node, kind, change)
    local last = tonumber(redis.call('GET', KEYS[4]) or '0')
    local revision = math.max(last + 1, time[1] * 1000000 + time[2])
    revision = string.format('%.0f', revision)
    local before = redis.call('ZSCORE', KEYS[3], node) or '0'
    redis.call('SET', KEYS[4], revision)
    redis.call('ZADD', KEYS[3], revision, node)
    local head = node .. '\n' .. before .. '\n' .. revision .. '\n' .. kind .. '\n'
    redis.call('PUBLISH', 'circuit:{fleet}:changes', head .. (change or ''))
    return revision
end
local function forget(node, went)
    redis.call('ZREM', KEYS[1], node)
    redis.call('HDEL', KEYS[2], node)
    redis.call('DEL', KEYS[6] .. node)
    redis.call('ZADD', KEYS[5], went, node)
    tell(node, 'gone')
end
local function owner(node)
    local held = redis.call('HGET', KEYS[2], node)
    if not held then return nil end
    return string.match(held, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n')
end
",
            $body
        )
    };
}

/// ARGV: node, id, life, token, word, lease in ms, whether a heartbeat is due,
/// the revision heard of last, how many changed nodes to tell of, the revision
/// behind which to go on in the list of all nodes, and how many of them.
static TICK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_helpers!(
        r"
-- A Redis that takes nothing at the moment tells what it has all the same, and forgets
-- nobody: who is there cannot say so.
local refused = false
local function note(...)
    local done = redis.pcall(...)
    refused = refused or (type(done) == 'table' and done.err ~= nil)
end
local heard = tonumber(redis.call('GET', KEYS[7]) or '') or now
if heard - now >= 1000 then
    -- The clock was set back: leases end as soon as they would have.
    local leases = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
    for at = 1, #leases, 2 do
        note('ZADD', KEYS[1], leases[at + 1] - (heard - now), leases[at])
    end
elseif now - heard > math.max(ARGV[6] / 2, 2000) then
    -- Nobody could be heard: who is there has the time of a lease to say so. Where only one
    -- calls it is always so: whom it takes the name of is waited for once.
    local till = string.format('%.0f', now + tonumber(ARGV[6]))
    local namesake, ends = owner(ARGV[1]), redis.call('ZSCORE', KEYS[1], ARGV[1])
    if namesake == ARGV[2] then namesake = nil end
    local awaited = namesake and redis.call('GET', KEYS[8]) == namesake .. ' ' .. (ends or '')
    for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', till)) do
        if not awaited or node ~= ARGV[1] then note('ZADD', KEYS[1], till, node) end
    end
    if namesake and not awaited then note('SET', KEYS[8], namesake .. ' ' .. till) end
end
if math.abs(now - heard) >= 1000 or heard == now then note('SET', KEYS[7], now) end
local function ended(key, till)
    if refused then return {} end
    return redis.call('ZRANGEBYSCORE', key, '-inf', till, 'LIMIT', 0, 20)
end
for _, dead in ipairs(ended(KEYS[1], now)) do forget(dead, now) end
for _, gone in ipairs(ended(KEYS[5], now - 3600000)) do
    redis.call('ZREM', KEYS[5], gone)
    if redis.call('HEXISTS', KEYS[2], gone) == 0 then redis.call('ZREM', KEYS[3], gone) end
end
local id, life, token = owner(ARGV[1])
local state = 'taken'
if token == ARGV[4] and id == ARGV[2] then
    state = 'held'
elseif not id or (id == ARGV[2] and tonumber(life) < tonumber(ARGV[3])) then
    state = 'claimed'
end
if state == 'claimed' or (state == 'held' and ARGV[7] == '1') then
    local word = ARGV[2] .. '\n' .. ARGV[3] .. '\n' .. ARGV[4] .. '\n' .. ARGV[5]
    redis.call('HSET', KEYS[2], ARGV[1], word)
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[6]), ARGV[1])
end
local changed = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[8], '+inf',
    'WITHSCORES', 'LIMIT', 0, ARGV[9])
local some = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[10], '+inf',
    'WITHSCORES', 'LIMIT', 0, ARGV[11])
local records = redis.pcall('HLEN', KEYS[6] .. ARGV[1])
return {state, redis.call('ZSCORE', KEYS[3], ARGV[1]) or '0',
    redis.call('GET', KEYS[4]) or '0', now, changed, some,
    type(records) == 'number' and records or ''}"
    ))
});

/// ARGV: node, id, token, the change for others, how many puts, whether they take
/// the place of everything, container and record of each, then removed containers.
/// Returns the revision, or 0 when the node is not the caller's.
static PUBLISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_helpers!(
        r"
local id, _, token = owner(ARGV[1])
if id ~= ARGV[2] or token ~= ARGV[3] then return 0 end
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
    redis.call('ZSCORE', KEYS[3], ARGV[1]) or '0',
    redis.call('HGETALL', KEYS[6] .. ARGV[1]),
}",
    )
});

/// ARGV: node, id, token. Gives the lease up, if it is the caller's. It has taken its
/// heartbeat of the original's kind away before: for [`gone`] it went long ago, as an
/// original may have that name from now on.
static LEAVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(with_helpers!(
        r"
local id, _, token = owner(ARGV[1])
if id ~= ARGV[2] or token ~= ARGV[3] then return 0 end
forget(ARGV[1], now - 600000)
return 1"
    ))
});

/// ARGV: behind which end of a lease to go on, how many. The time, and in one row
/// of each lease its node, the time it ends and the word; of those that end at the
/// time of the last one all.
///
/// Leases are renewed meanwhile, which moves them up: by their places some would be
/// passed over, by the time they end none is.
static LIST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local leases = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf',
    'WITHSCORES', 'LIMIT', 0, ARGV[2])
if #leases == 2 * tonumber(ARGV[2]) then
    local last, count = leases[#leases], 0
    for at = 2, #leases, 2 do if leases[at] == last then count = count + 1 end end
    local rest = redis.call('ZRANGEBYSCORE', KEYS[1], last, last,
        'WITHSCORES', 'LIMIT', count, -1)
    for _, value in ipairs(rest) do table.insert(leases, value) end
end
local rows = {}
for at = 1, #leases, 2 do
    local word = redis.call('HGET', KEYS[2], leases[at]) or ''
    table.insert(rows, {leases[at], leases[at + 1], word})
end
return {time[1] * 1000 + math.floor(time[2] / 1000), rows}",
    )
});

/// ARGV: milliseconds. Nodes that went within them.
static GONE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[5], now - ARGV[1], '+inf')",
    )
});

/// Who a node is, to Redis.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// Its name.
    pub(super) name: String,
    /// What it keeps for ever.
    pub(super) id: String,
    /// How often it was started: the later life has the name.
    pub(super) life: u64,
    /// What tells this process from one of a copied disk.
    pub(super) token: String,
}

/// Whose a node's name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The caller's, as before.
    Held,
    /// The caller's since this moment, with the records of its former life, if it
    /// had one: they hold until it publishes what it has now.
    Claimed,
    /// Another node's, or that of a later life of this one.
    Taken,
}

/// The answer to a tick.
#[derive(Debug)]
pub(super) struct Tick {
    pub(super) state: State,
    /// The revision of what Redis has of the caller; 0 when it has nothing.
    pub(super) own: u64,
    /// How many containers Redis has of it, as far as they can be counted.
    pub(super) records: Option<u64>,
    /// The last revision of all.
    pub(super) last: u64,
    /// Redis' clock in milliseconds.
    pub(super) now: u64,
    /// Nodes that changed since, with their revisions, rising.
    pub(super) changed: Vec<(String, u64)>,
    /// Nodes behind the revision that was asked for, by their revisions.
    pub(super) some: Vec<(String, u64)>,
}

/// What a tick is about.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// What the node says of itself.
    pub(super) word: &'a [u8],
    /// Milliseconds that it holds.
    pub(super) lease: u64,
    /// Whether a heartbeat is due.
    pub(super) beat: bool,
    /// The revision that was heard of last.
    pub(super) since: u64,
    /// The revision behind which to go on in the list of all nodes.
    pub(super) from: u64,
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
    asked: &Asked<'_>,
) -> Result<Tick, Failure> {
    let arguments = [
        own.name.as_str().into(),
        own.id.as_str().into(),
        own.life.into(),
        own.token.as_str().into(),
        asked.word.into(),
        asked.lease.into(),
        u64::from(asked.beat).into(),
        asked.since.into(),
        (CHANGED as u64).into(),
        asked.from.into(),
        (PAGE as u64).into(),
    ];
    let answer = store.script(&TICK, &KEYS, &arguments).await?;
    read_tick(&answer).ok_or_else(|| unexpected(&answer))
}

fn read_tick(answer: &Value) -> Option<Tick> {
    let [state, own, last, now, changed, some, records] = array(answer)? else {
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
        own: number(own)?,
        records: number(records),
        last: number(last)?,
        now: number(now)?,
        changed: scores(changed),
        some: scores(some),
    })
}

fn scores(value: &Value) -> Vec<(String, u64)> {
    let read = |(node, score): (String, Vec<u8>)| Some((node, digits(&score)?));
    pairs(value).filter_map(read).collect()
}

/// Publishes a change, or everything that the node has. Returns its revision; none
/// when the node is not the caller's any more.
pub(super) async fn publish(
    store: &Store,
    own: &Identity,
    all: bool,
    puts: &[(String, Vec<u8>)],
    removes: &[String],
) -> Result<Option<u64>, Failure> {
    // Everything is read anew by those who hear of it.
    let change = match all {
        true => Vec::new(),
        false => super::wire::changes(puts, removes),
    };
    let mut arguments: Vec<Arg<'_>> = vec![
        own.name.as_str().into(),
        own.id.as_str().into(),
        own.token.as_str().into(),
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
    Ok((revision > 0).then_some(revision))
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
        own.token.as_str().into(),
    ];
    store.script(&LEAVE, &KEYS, &arguments).await.map(drop)
}

/// Every node that has a lease: its name, the milliseconds that are left of it,
/// and its word.
pub(super) async fn list(store: &Store) -> Result<Vec<Listed>, Failure> {
    let (mut nodes, mut from) = (BTreeMap::new(), b"0".to_vec());
    loop {
        let arguments = [from.as_slice().into(), (PAGE as u64).into()];
        let answer = store.script(&LIST, &KEYS, &arguments).await?;
        let some = read_list(&answer).ok_or_else(|| unexpected(&answer))?;
        // One that was renewed meanwhile comes twice.
        nodes.extend(some.nodes.into_iter().map(|node| (node.0.clone(), node)));
        match some.last {
            Some(last) if some.rows >= PAGE => from = last,
            _ => return Ok(nodes.into_values().collect()),
        }
    }
}

/// Nodes whose leases ended within so much time, of minutes at most; some may be back.
pub(super) async fn gone(store: &Store, within: Duration) -> Result<HashSet<String>, Failure> {
    let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let answer = store.script(&GONE, &KEYS, &[within.into()]).await?;
    let names = array(&answer).ok_or_else(|| unexpected(&answer))?;
    let name = |name: &Value| String::from_utf8(bytes(name)?.to_vec()).ok();
    Ok(names.iter().filter_map(name).collect())
}

type Listed = (String, u64, Vec<u8>);

/// Some of the leases.
struct Page {
    /// How many there were.
    rows: usize,
    /// When the last of them ends, as Redis says it: it may be no number of ours.
    last: Option<Vec<u8>>,
    /// Those of nodes with a word.
    nodes: Vec<Listed>,
}

fn read_list(answer: &Value) -> Option<Page> {
    let [now, rows] = array(answer)? else {
        return None;
    };
    let (now, rows) = (number(now)?, array(rows)?);
    let node = |row: &Value| {
        let [node, ends, word] = array(row)? else {
            return None;
        };
        let node = String::from_utf8(bytes(node)?.to_vec()).ok()?;
        let left = number(ends)?.saturating_sub(now);
        Some((node, left, spoken(bytes(word)?)?))
    };
    let last = rows
        .last()
        .and_then(|row| Some(bytes(array(row)?.get(1)?)?.to_vec()));
    Some(Page {
        rows: rows.len(),
        last,
        // What makes no sense is somebody else's.
        nodes: rows.iter().filter_map(node).collect(),
    })
}

/// The word behind id, life and token.
fn spoken(held: &[u8]) -> Option<Vec<u8>> {
    let mut parts = held.splitn(4, |byte| *byte == b'\n');
    parts.nth(3).map(<[u8]>::to_vec)
}
