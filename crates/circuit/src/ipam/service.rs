//! The pools as people see and mend them.

use std::net::IpAddr;

use async_trait::async_trait;
use circuit_core::datapath::{Held, Holder};
use circuit_core::ipam::{Listed, Use};
use circuit_core::service::{Address, AddressState, Addressing, Release};
use circuit_core::{Error, Result};

use super::Keeper;

#[async_trait]
impl Addressing for Keeper {
    async fn list(&self, pool: Option<&str>) -> Result<Vec<Address>> {
        let listed = self.ledger.list(pool).await;
        let listed = listed.map_err(|error| error.context("the pools cannot be listed"))?;
        Ok(listed.into_iter().map(|row| self.shown(row)).collect())
    }

    async fn release(&self, what: Release, force: bool) -> Result<Vec<Address>> {
        let pool = match &what {
            Release::Address { pool, .. } => pool.clone(),
            Release::Node(_) => None,
        };
        let listed = self.ledger.list(pool.as_deref()).await;
        let listed = listed.map_err(|error| error.context("the pools cannot be listed"))?;
        let mut chosen = Vec::new();
        for row in listed {
            let (id, shown) = (row.node.clone(), self.shown(row));
            // What a node has lost already is not its any more.
            let gone = shown.state == AddressState::Abandoned && matches!(what, Release::Node(_));
            if shown.is_of(&what) && !gone {
                chosen.push((id, shown));
            }
        }
        let (ids, rows): (Vec<String>, Vec<Address>) = chosen.into_iter().unzip();
        refuse(&what, &rows, force)?;
        for (id, row) in ids.iter().zip(&rows) {
            let address = [row.address];
            if row.state == AddressState::Abandoned {
                self.ledger.release(id, &row.pool, &address).await?;
            } else {
                // Its container may live: who takes it next asks the wire.
                let back = self.ledger.give_back(id, &row.pool, &address, true);
                back.await?;
            }
            tracing::info!(
                pool = row.pool,
                node = row.node,
                "{} is freed by hand",
                row.address
            );
        }
        Ok(rows)
    }
}

/// What must not be freed.
fn refuse(what: &Release, chosen: &[Address], force: bool) -> Result<()> {
    let Some(first) = chosen.first() else {
        return Err(Error::not_found(match what {
            Release::Address { address, .. } => {
                format!("address {address} is held by no node: nothing is to be released")
            }
            Release::Node(node) => format!("node {node} holds no address"),
        }));
    };
    if let Release::Address { address, .. } = what
        && chosen.len() > 1
    {
        let pools: Vec<&str> = chosen.iter().map(|row| row.pool.as_str()).collect();
        return Err(Error::invalid(format!(
            "address {address} is held in the pools {}: name one with --pool",
            pools.join(", ")
        )));
    }
    let refusal = chosen.iter().find_map(refusal).filter(|_| !force);
    match (refusal, what) {
        (None, _) => Ok(()),
        (Some(text), Release::Address { .. }) => Err(Error::precondition(text)),
        (Some(_), Release::Node(_)) => Err(Error::precondition(format!(
            "node {} may still live: its claim holds for {} s; give --force when it is gone for \
             good",
            first.node,
            first.claim_ms / 1000
        ))),
    }
}

/// Why an address is not to be freed by mistake.
fn refusal(row: &Address) -> Option<String> {
    let (address, node) = (row.address, &row.node);
    let by = Some(row.container.as_str()).filter(|name| !name.is_empty());
    match row.state {
        AddressState::Abandoned => Some(format!(
            "address {address} was taken back from node {node}, and is given when nobody on its \
             wire has it: give --force to have it given without a question"
        )),
        _ if row.claim_ms == 0 => None,
        AddressState::Used | AddressState::Conflict => Some(format!(
            "address {address} is in use by {} on node {node}: disconnect it there, or give \
             --force when that node is gone for good",
            by.unwrap_or("a container")
        )),
        // It may have given it this very second.
        AddressState::Spare => Some(format!(
            "address {address} is in stock on node {node}, which lives and may give it to a \
             container: give --force when that node is gone for good"
        )),
    }
}

/// What this node has of one family of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The pool.
    pub pool: String,
    /// Whether they are IPv6 addresses.
    pub ipv6: bool,
    /// How many addresses this node holds, those in use and the others.
    pub held: usize,
    /// How many of them its containers have.
    pub used: usize,
}

impl Holder for Keeper {
    fn held(&self, network: &str) -> Vec<Held> {
        let agent = self.agent();
        let uses = agent.pools().values().flat_map(|pool| pool.holding.used());
        let uses = uses.filter(|(_, by)| by.network == network);
        let held = |(address, by): (&IpAddr, &Use)| Held {
            cni_id: by.user.container.clone(),
            interface: by.user.ifname.clone(),
            address: Some(*address),
        };
        uses.map(held).collect()
    }
}

impl Keeper {
    /// What this node has of each pool.
    pub fn accounts(&self) -> Vec<Account> {
        let agent = self.agent();
        let mut accounts = Vec::new();
        for (name, pool) in agent.pools() {
            let held = pool.holding.all();
            for ipv6 in [false, true] {
                let family = |ip: &&IpAddr| ip.is_ipv6() == ipv6;
                accounts.push(Account {
                    pool: name.clone(),
                    ipv6,
                    held: held.iter().filter(family).count(),
                    used: pool.holding.used().keys().filter(family).count(),
                });
            }
        }
        accounts
    }

    fn shown(&self, row: Listed) -> Address {
        let agent = self.agent();
        let ours = row.node == agent.hello.node;
        let pool = agent.pools().get(&row.pool).filter(|_| ours);
        let here: Option<Use> = match pool {
            Some(pool) => pool.holding.used().get(&row.address).cloned(),
            None => serde_json::from_str(&row.used).ok(),
        };
        let other = conflict_of(&agent, &row.pool, row.address);
        let state = match (&here, row.abandoned, other) {
            (_, _, true) => AddressState::Conflict,
            (_, true, _) => AddressState::Abandoned,
            (Some(_), _, _) => AddressState::Used,
            (None, _, _) => AddressState::Spare,
        };
        let by = here.unwrap_or_else(|| Use {
            user: circuit_core::ipam::User {
                container: String::new(),
                ifname: String::new(),
            },
            network: String::new(),
        });
        Address {
            pool: row.pool,
            address: row.address,
            state,
            node: if row.name.is_empty() {
                row.node
            } else {
                row.name
            },
            container: by.user.container,
            network: by.network,
            interface: by.user.ifname,
            claim_ms: row.claim,
        }
    }
}

/// Whether an address of another node is in use here.
fn conflict_of(agent: &circuit_core::ipam::Agent, pool: &str, ip: IpAddr) -> bool {
    let pool = agent.pools().get(pool);
    pool.is_some_and(|pool| pool.conflicts.contains_key(&ip))
}
