//! The definitions in Redis: scripts, so that each change is one step.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::entry::{Entries, Entry};
use crate::redis::answer::{array, bytes, digits, number, pairs, unexpected};
use crate::redis::{Arg, Failure, Script, Store, Subscription, Value};

/// Name to configuration; name to revision, of those and of deleted ones; the
/// count of changes.
const KEYS: [&str; 4] = [
    "circuit:{fleet}:networks",
    "circuit:{fleet}:networks:revisions",
    "circuit:{fleet}:networks:deleted",
    "circuit:{fleet}:networks:revision",
];
/// Where changes are told of.
const CHANNEL: &str = "circuit:{fleet}:networks";

/// ARGV: name, configuration, whether to replace, the highest revision the
/// caller has heard of, channel, the count of changes that the caller has looked at,
/// or '' when that does not matter. Returns the revision, 0 when there is one of that
/// name, or 'changed' when there were more changes.
static WRITE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local name = ARGV[1]
local seen = tonumber(ARGV[6])
if seen and tonumber(redis.call('GET', KEYS[4]) or '0') > seen then return 'changed' end
if ARGV[3] == '0' and redis.call('HEXISTS', KEYS[1], name) == 1 then return 0 end
local known = tonumber(redis.call('GET', KEYS[4]) or '0')
local revision = math.max(known, tonumber(ARGV[4])) + 1
redis.call('SET', KEYS[4], revision)
redis.call('HSET', KEYS[1], name, ARGV[2])
redis.call('HSET', KEYS[2], name, revision)
redis.call('HDEL', KEYS[3], name)
redis.call('PUBLISH', ARGV[5], name)
return revision",
    )
});

/// ARGV: name, the highest revision the caller has heard of, channel. Returns
/// the revision.
static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local name = ARGV[1]
local known = tonumber(redis.call('GET', KEYS[4]) or '0')
local revision = math.max(known, tonumber(ARGV[2])) + 1
redis.call('SET', KEYS[4], revision)
redis.call('HDEL', KEYS[1], name)
redis.call('HDEL', KEYS[2], name)
redis.call('HSET', KEYS[3], name, revision)
redis.call('PUBLISH', ARGV[3], name)
return revision",
    )
});

/// Everything there is, and the count of changes.
static READ: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
return {
    redis.call('HGETALL', KEYS[1]),
    redis.call('HGETALL', KEYS[2]),
    redis.call('HGETALL', KEYS[3]),
    redis.call('GET', KEYS[4]) or '0',
}",
    )
});

/// ARGV: name, revision or '' for the next one, '1' and the configuration or
/// '0' and nothing for a deleted one, channel. Changes nothing when what is
/// there is as new.
static RESTORE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local name = ARGV[1]
local there = redis.call('HGET', KEYS[2], name) or redis.call('HGET', KEYS[3], name)
local known = tonumber(redis.call('GET', KEYS[4]) or '0')
local revision = tonumber(ARGV[2])
if revision == nil then
    if there then return 0 end
    revision = known + 1
elseif there and tonumber(there) >= revision then
    return 0
end
if revision > known then redis.call('SET', KEYS[4], revision) end
if ARGV[3] == '1' then
    redis.call('HSET', KEYS[1], name, ARGV[4])
    redis.call('HSET', KEYS[2], name, revision)
    redis.call('HDEL', KEYS[3], name)
else
    redis.call('HDEL', KEYS[1], name)
    redis.call('HDEL', KEYS[2], name)
    redis.call('HSET', KEYS[3], name, revision)
end
redis.call('PUBLISH', ARGV[5], name)
return revision",
    )
});

/// What became of a definition that was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// It has this revision.
    As(u64),
    /// There is one of that name, and it is not to be replaced.
    Taken,
    /// There were more changes than the writer has looked at.
    Changed,
}

/// The definitions that a fleet shares.
#[derive(Clone)]
pub(super) struct Definitions(pub(super) Store);

impl Definitions {
    /// Writes one; `seen` is the count of changes that were looked at before, where
    /// that matters.
    pub(super) async fn write(
        &self,
        name: &str,
        data: &[u8],
        replace: bool,
        heard: u64,
        seen: Option<u64>,
    ) -> Result<Written, Failure> {
        let seen = seen.map(|seen| seen.to_string()).unwrap_or_default();
        let arguments = [
            name.into(),
            data.into(),
            u64::from(replace).into(),
            heard.into(),
            CHANNEL.into(),
            seen.as_str().into(),
        ];
        let answer = self.0.script(&WRITE, &KEYS, &arguments).await?;
        if bytes(&answer) == Some(b"changed") {
            return Ok(Written::Changed);
        }
        Ok(match count(&answer)? {
            0 => Written::Taken,
            revision => Written::As(revision),
        })
    }

    /// Removes one; that there is none is no error.
    pub(super) async fn remove(&self, name: &str, heard: u64) -> Result<u64, Failure> {
        let arguments = [name.into(), heard.into(), CHANNEL.into()];
        count(&self.0.script(&REMOVE, &KEYS, &arguments).await?)
    }

    /// All of them, and the count of changes that made them. What is no definition is
    /// left out.
    pub(super) async fn read(&self) -> Result<(Entries, u64), Failure> {
        let answer = self.0.script(&READ, &KEYS, &[]).await?;
        let Some([data, revisions, deleted, changes]) = array(&answer) else {
            return Err(unexpected(&answer));
        };
        let data: Vec<(String, Vec<u8>)> = pairs(data).collect();
        let revision = |(name, text): (String, Vec<u8>)| Some((name, digits(&text)?));
        let revisions: HashMap<String, u64> = pairs(revisions).filter_map(revision).collect();
        let mut entries = Entries::new();
        for (name, text) in pairs(deleted) {
            let revision = digits(&text);
            entries.insert(
                name,
                Entry {
                    revision,
                    data: None,
                },
            );
        }
        for (name, data) in data {
            // One that somebody wrote by hand counts as the oldest.
            let revision = Some(revisions.get(&name).copied().unwrap_or_default());
            let data = Some(data);
            entries.insert(name, Entry { revision, data });
        }
        Ok((entries, count(changes)?))
    }

    /// Brings back what Redis has lost, unless it has something newer.
    pub(super) async fn restore(&self, entries: &Entries) -> Result<(), Failure> {
        let revisions: Vec<String> = entries
            .values()
            .map(|entry| entry.revision.map(|n| n.to_string()).unwrap_or_default())
            .collect();
        let arguments: Vec<[Arg<'_>; 5]> = entries
            .iter()
            .zip(&revisions)
            .map(|((name, entry), revision)| {
                let data = entry.data.as_deref();
                [
                    name.as_str().into(),
                    revision.as_str().into(),
                    u64::from(data.is_some()).into(),
                    data.unwrap_or_default().into(),
                    CHANNEL.into(),
                ]
            })
            .collect();
        let calls: Vec<(&[&str], &[Arg<'_>])> = arguments
            .iter()
            .map(|arguments| (KEYS.as_slice(), arguments.as_slice()))
            .collect();
        self.0.scripts(&RESTORE, &calls).await.map(drop)
    }

    /// What tells that something has changed.
    pub(super) fn changes(&self) -> Subscription {
        self.0.subscribe(&[CHANNEL], &[])
    }
}

fn count(answer: &Value) -> Result<u64, Failure> {
    number(answer).ok_or_else(|| unexpected(answer))
}
