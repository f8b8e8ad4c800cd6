//! The ledger in Redis: one script, whose every run is one step.

use std::net::IpAddr;

use async_trait::async_trait;
use circuit_core::ipam::ledger::LOOKED_AT;
use circuit_core::ipam::{
    Exact, Hello, Listed, Span, Standing, Taken, Tick, Timing, Wish, from_key, key,
};
use circuit_core::{Error, Result};

use super::ledger::Ledger;
use crate::redis::{self, Arg, Script, Store};

/// What is run in Redis.
const SCRIPT: &str = include_str!("ledger.lua");

/// What all keys of the ledger begin with; one hash slot of a Redis Cluster.
const KEY: &str = "circuit:{fleet}:ipam";

/// As many addresses go into one run of the script.
const AT_ONCE: usize = 256;

/// What a script answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// Several values.
    List(Vec<Value>),
}

/// Runs the script.
#[async_trait]
pub trait Scripts: Send + Sync {
    /// Runs it with these arguments.
    ///
    /// # Errors
    /// When Redis does not answer in time, or refuses.
    async fn run(&self, arguments: &[String]) -> Result<Value>;
}

/// Runs the script in a Redis.
pub struct InRedis {
    store: Store,
    script: Script,
}

impl InRedis {
    /// Runs it in this one.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            script: Script::new(SCRIPT),
        }
    }
}

#[async_trait]
impl Scripts for InRedis {
    async fn run(&self, arguments: &[String]) -> Result<Value> {
        let arguments: Vec<Arg<'_>> = arguments.iter().map(|text| text.as_str().into()).collect();
        let value = self.store.script(&self.script, &[KEY], &arguments).await?;
        read(value)
    }
}

fn read(value: redis::Value) -> Result<Value> {
    Ok(match value {
        redis::Value::Array(values) => {
            let values = values.into_iter().map(read).collect::<Result<_>>();
            Value::List(values?)
        }
        redis::Value::BulkString(bytes) => {
            Value::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
        redis::Value::SimpleString(text) => Value::Text(text),
        redis::Value::Int(number) => Value::Text(number.to_string()),
        redis::Value::Nil => Value::Text(String::new()),
        _ => return Err(strange()),
    })
}

/// The ledger in Redis.
pub struct Shared<S> {
    scripts: S,
    timing: Timing,
}

impl<S: Scripts> Shared<S> {
    /// The ledger that this runs scripts for.
    pub fn new(scripts: S, timing: Timing) -> Self {
        Self { scripts, timing }
    }

    async fn run(&self, arguments: &[String]) -> Result<Answer> {
        let value = self.scripts.run(arguments).await?;
        match value {
            Value::List(values) => Ok(Answer(values.into_iter())),
            Value::Text(_) => Err(strange()),
        }
    }

    fn hello(&self, what: &str, hello: &Hello) -> Vec<String> {
        let Timing {
            lease,
            grace,
            moment,
        } = self.timing;
        vec![
            what.to_owned(),
            hello.node.clone(),
            hello.name.clone(),
            hello.epoch.clone(),
            hello.count.to_string(),
            hello.fresh.clone(),
            hello.place.clone(),
            lease.to_string(),
            grace.to_string(),
            moment.to_string(),
        ]
    }

    async fn list_pool(&self, pool: &str) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut answer = self.run(&words(["list", pool, &cursor])).await?;
            cursor = answer.text()?;
            for row in answer.0 {
                let Value::List(row) = row else {
                    return Err(strange());
                };
                // What cannot be read is somebody else's.
                listed.extend(row_of(pool, Answer(row.into_iter())).ok());
            }
            if cursor == "0" {
                break;
            }
        }
        listed.sort_by_key(|row| row.address);
        listed.dedup_by_key(|row| row.address);
        Ok(listed)
    }
}

fn row_of(pool: &str, mut row: Answer) -> Result<Listed> {
    Ok(Listed {
        pool: pool.to_owned(),
        address: row.address()?,
        node: row.text()?,
        name: row.text()?,
        abandoned: row.text()? == "1",
        claim: row.number()?,
        used: row.text()?,
    })
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

/// A span as the script takes it: the digits above its numbers, its first and
/// its last number, and how many digits an address has.
fn span(span: &Span) -> [String; 4] {
    let (first, last) = (key(span.first), key(span.last_numbered()));
    let width = first.len();
    let high = width.saturating_sub(12).min(20);
    let number = |digits: &str| u64::from_str_radix(&digits[high..], 16).unwrap_or_default();
    [
        first[..high].to_owned(),
        number(&first).to_string(),
        number(&last).to_string(),
        width.to_string(),
    ]
}

/// The values of an answer, one after the other.
struct Answer(std::vec::IntoIter<Value>);

impl Answer {
    fn text(&mut self) -> Result<String> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(strange()),
        }
    }

    fn number(&mut self) -> Result<u64> {
        self.text()?.parse().map_err(|_| strange())
    }

    fn address(&mut self) -> Result<IpAddr> {
        from_key(&self.text()?).ok_or_else(strange)
    }

    fn addresses(&mut self) -> Result<Vec<IpAddr>> {
        match self.0.next() {
            Some(Value::List(values)) => {
                let mut values = Self(values.into_iter());
                let mut addresses = Vec::new();
                while !values.0.as_slice().is_empty() {
                    addresses.push(values.address()?);
                }
                Ok(addresses)
            }
            _ => Err(strange()),
        }
    }

    /// Addresses with their pools.
    fn places(&mut self) -> Result<Vec<(String, IpAddr)>> {
        let Some(Value::List(items)) = self.0.next() else {
            return Err(strange());
        };
        let place = |item: Value| {
            let Value::Text(item) = item else { return None };
            let (digits, pool) = item.split_once('@')?;
            Some((pool.to_owned(), from_key(digits)?))
        };
        Ok(items.into_iter().filter_map(place).collect())
    }

    fn standing(&mut self) -> Result<Standing> {
        Ok(Standing {
            epoch: self.text()?,
            count: self.number()?,
            settling: self.number()?,
            suspect: self.text()? == "1",
            taken: Some(self.text()?).filter(|name| !name.is_empty()),
            age: self.number()?,
        })
    }
}

fn strange() -> Error {
    Error::unavailable(
        "the address pools in redis are not as circuit writes them: look for another program that \
         writes keys of circuit:",
    )
}

#[async_trait]
impl<S: Scripts> Ledger for Shared<S> {
    async fn tick(&self, hello: &Hello) -> Result<Tick> {
        let mut answer = self.run(&self.hello("tick", hello)).await?;
        let (standing, known, held) = (answer.standing()?, answer.text()?, answer.number()?);
        let moved = answer.text()? == "1";
        let mut disputed = answer.places()?;
        disputed.sort();
        let mut wanted = Vec::new();
        while !answer.0.as_slice().is_empty() {
            wanted.push(answer.text()?);
        }
        Ok(Tick {
            standing,
            known: known == "1",
            held,
            moved,
            wanted,
            disputed,
        })
    }

    async fn take(&self, hello: &Hello, wish: &Wish<'_>) -> Result<Taken> {
        let mut arguments = self.hello("take", hello);
        arguments.extend([
            wish.pool.to_owned(),
            wish.want.to_string(),
            wish.abandoned.to_string(),
            LOOKED_AT.to_string(),
            wish.set.spans.len().to_string(),
        ]);
        arguments.extend(wish.set.spans.iter().flat_map(span));
        let mut answer = self.run(&arguments).await?;
        Ok(Taken {
            standing: answer.standing()?,
            looked_at: answer.number()?,
            addresses: answer.addresses()?,
            abandoned: answer.addresses()?,
        })
    }

    async fn exact(&self, hello: &Hello, pool: &str, ip: IpAddr) -> Result<(Standing, Exact)> {
        let mut arguments = self.hello("exact", hello);
        arguments.extend([pool.to_owned(), key(ip)]);
        let mut answer = self.run(&arguments).await?;
        let (standing, what, more) = (answer.standing()?, answer.text()?, answer.text()?);
        let exact = match what.as_str() {
            "yours" => Exact::Yours {
                suspect: more == "1",
            },
            "held" => Exact::Held(more),
            "settling" => Exact::Settling,
            _ => return Err(strange()),
        };
        Ok((standing, exact))
    }

    async fn claim(
        &self,
        node: &str,
        pool: &str,
        addresses: &[IpAddr],
    ) -> Result<Vec<(IpAddr, String)>> {
        let mut conflicts = Vec::new();
        for some in addresses.chunks(AT_ONCE) {
            let mut arguments = words(["claim", node, pool]);
            arguments.extend(some.iter().map(|ip| key(*ip)));
            let mut answer = self.run(&arguments).await?;
            while !answer.0.as_slice().is_empty() {
                conflicts.push((answer.address()?, answer.text()?));
            }
        }
        Ok(conflicts)
    }

    async fn give_back(
        &self,
        node: &str,
        pool: &str,
        addresses: &[IpAddr],
        abandoned: bool,
    ) -> Result<()> {
        for some in addresses.chunks(AT_ONCE) {
            let flag = if abandoned { "1" } else { "0" };
            let mut arguments = words(["give_back", node, pool, flag]);
            arguments.extend(some.iter().map(|ip| key(*ip)));
            self.run(&arguments).await?;
        }
        Ok(())
    }

    async fn held_by(&self, node: &str) -> Result<Vec<(String, IpAddr)>> {
        let mut held = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut answer = self.run(&words(["held", node, &cursor])).await?;
            cursor = answer.text()?;
            held.extend(answer.places()?);
            if cursor == "0" {
                return Ok(held);
            }
        }
    }

    async fn want(&self, pool: &str) -> Result<()> {
        self.run(&words(["want", pool])).await.map(drop)
    }

    async fn note(&self, node: &str, pool: &str, uses: &[(IpAddr, String)]) -> Result<()> {
        for some in uses.chunks(AT_ONCE) {
            let mut arguments = words(["note", node, pool]);
            arguments.extend(some.iter().flat_map(|(ip, text)| [key(*ip), text.clone()]));
            self.run(&arguments).await?;
        }
        Ok(())
    }

    async fn list(&self, pool: Option<&str>) -> Result<Vec<Listed>> {
        if let Some(pool) = pool {
            return self.list_pool(pool).await;
        }
        let mut answer = self.run(&words(["pools"])).await?;
        let mut pools = Vec::new();
        while !answer.0.as_slice().is_empty() {
            pools.push(answer.text()?);
        }
        pools.sort();
        let mut listed = Vec::new();
        for pool in &pools {
            listed.extend(self.list_pool(pool).await?);
        }
        Ok(listed)
    }

    async fn release(&self, node: &str, pool: &str, addresses: &[IpAddr]) -> Result<usize> {
        let mut count = 0;
        for some in addresses.chunks(AT_ONCE) {
            let mut arguments = words(["release", node, pool]);
            arguments.extend(some.iter().map(|ip| key(*ip)));
            count += self.run(&arguments).await?.number()?;
        }
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }
}
