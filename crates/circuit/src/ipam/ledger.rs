//! The ledger of the pools, as the keeper sees it.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use circuit_core::Result;
use circuit_core::ipam::ledger::Ledger as Model;
use circuit_core::ipam::{Exact, Hello, Listed, Standing, Taken, Tick, Timing, Wish};

/// Which node holds which address. Every change is one step, whole or not at
/// all. See [`circuit_core::ipam::ledger`] for what each means.
///
/// # Errors
/// Each fails when the ledger does not answer; the change may be made or not.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The epoch to begin with, when the ledger knows only this node.
    fn own_epoch(&self) -> Option<String> {
        None
    }

    /// The call that a node makes all the time.
    async fn tick(&self, hello: &Hello) -> Result<Tick>;

    /// Takes free addresses of a set.
    async fn take(&self, hello: &Hello, wish: &Wish<'_>) -> Result<Taken>;

    /// Takes one address.
    async fn exact(&self, hello: &Hello, pool: &str, ip: IpAddr) -> Result<(Standing, Exact)>;

    /// Says that these are the node's. Returns those that another has, with its
    /// name.
    async fn claim(
        &self,
        node: &str,
        pool: &str,
        addresses: &[IpAddr],
    ) -> Result<Vec<(IpAddr, String)>>;

    /// Gives addresses back; `abandoned` when the wire is to be asked before
    /// they are used.
    async fn give_back(
        &self,
        node: &str,
        pool: &str,
        addresses: &[IpAddr],
        abandoned: bool,
    ) -> Result<()>;

    /// The addresses of a node, with their pools.
    async fn held_by(&self, node: &str) -> Result<Vec<(String, IpAddr)>>;

    /// Asks every node for the addresses of a pool that it does not use.
    async fn want(&self, pool: &str) -> Result<()>;

    /// Tells for people what addresses are used for.
    async fn note(&self, node: &str, pool: &str, uses: &[(IpAddr, String)]) -> Result<()>;

    /// Every address that somebody holds or held, of one pool or of all.
    async fn list(&self, pool: Option<&str>) -> Result<Vec<Listed>>;

    /// Forgets that this node had addresses which were taken back from it: they are
    /// given without a question. Returns how many there were.
    async fn release(&self, node: &str, pool: &str, addresses: &[IpAddr]) -> Result<usize>;
}

/// The ledger of a node without a cluster registry: in memory, filled from what
/// the node holds.
pub struct Alone {
    model: Mutex<Model>,
    epoch: String,
    timing: Timing,
    start: Instant,
}

impl Alone {
    /// An empty one; `epoch` is another at each start.
    pub fn new(epoch: String, timing: Timing) -> Self {
        Self {
            model: Mutex::new(Model::alone(&epoch)),
            epoch,
            timing,
            start: Instant::now(),
        }
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[async_trait]
impl Ledger for Alone {
    fn own_epoch(&self) -> Option<String> {
        Some(self.epoch.clone())
    }

    async fn tick(&self, hello: &Hello) -> Result<Tick> {
        Ok(self.model().tick(hello, &self.timing, self.now()))
    }

    async fn take(&self, hello: &Hello, wish: &Wish<'_>) -> Result<Taken> {
        Ok(self.model().take(hello, &self.timing, self.now(), wish))
    }

    async fn exact(&self, hello: &Hello, pool: &str, ip: IpAddr) -> Result<(Standing, Exact)> {
        let now = self.now();
        Ok(self.model().exact(hello, &self.timing, now, (pool, ip)))
    }

    async fn claim(
        &self,
        node: &str,
        pool: &str,
        addresses: &[IpAddr],
    ) -> Result<Vec<(IpAddr, String)>> {
        Ok(self.model().claim(node, pool, addresses))
    }

    async fn give_back(
        &self,
        node: &str,
        pool: &str,
        addresses: &[IpAddr],
        abandoned: bool,
    ) -> Result<()> {
        self.model().give_back(node, pool, addresses, abandoned);
        Ok(())
    }

    async fn held_by(&self, node: &str) -> Result<Vec<(String, IpAddr)>> {
        Ok(self.model().held_by(node).into_iter().collect())
    }

    async fn want(&self, pool: &str) -> Result<()> {
        let now = self.now();
        self.model().want(pool, now);
        Ok(())
    }

    async fn note(&self, node: &str, pool: &str, uses: &[(IpAddr, String)]) -> Result<()> {
        self.model().note(node, pool, uses);
        Ok(())
    }

    async fn list(&self, pool: Option<&str>) -> Result<Vec<Listed>> {
        let now = self.now();
        Ok(self.model().list(pool, now))
    }

    async fn release(&self, node: &str, pool: &str, addresses: &[IpAddr]) -> Result<usize> {
        Ok(self.model().release(node, pool, addresses))
    }
}
