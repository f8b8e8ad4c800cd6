//! What an attachment needs outside of its container: what is on the host, and
//! addresses that a server lends for a time.

use circuit_core::cni::AnyCase as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use circuit_core::{
    Error, Result,
    attachment::{Attachment, ContainerRecord, Phase},
    cni::ConfigList,
    datapath::Held,
};
use circuit_net::dhcp::{DEFAULT_SOCKET, Holder, LeaseKeeper};
use circuit_net::{
    ends::{self, End, Role},
    host,
};
use ipnet::IpNet;
use serde_json::Value;

/// Whether all of it is there.
pub(super) fn stands(attachment: &Attachment, lender: &Lender) -> bool {
    on_host(attachment).is_none_or(host::has_interface) && lender.lent(attachment)
}

/// The interface on the host that a driver attached the container to: a bridge, or
/// its end of a pair. Of what executables tell, nobody knows how long it is true.
fn on_host(attachment: &Attachment) -> Option<&str> {
    let result = attachment.result.as_ref()?;
    let first = result.get("interfaces")?.as_array()?.first()?;
    let sandbox = first.get("sandbox").and_then(Value::as_str);
    let on_host = sandbox.is_none_or(str::is_empty) && attachment.natives.contains(&0);
    first.get("name")?.as_str().filter(|_| on_host)
}

/// Those attachments of which the host's end is not what a driver made of it, as
/// container and network.
pub(super) fn loose(records: &[Arc<ContainerRecord>]) -> Result<Vec<(String, String)>> {
    let mut owners = Vec::new();
    let mut ends = Vec::new();
    for record in records {
        for attachment in &record.attachments {
            if let Some(end) = end(attachment) {
                owners.push((record.container.clone(), attachment.network.clone()));
                ends.push(end);
            }
        }
    }
    let places = ends::loose(&ends)?.into_iter();
    Ok(places
        .filter_map(|place| owners.get(place).cloned())
        .collect())
}

/// The host's end of an attachment by a driver: a port, when a bridge comes first.
fn end(attachment: &Attachment) -> Option<End<'_>> {
    let first = on_host(attachment).filter(|_| attachment.phase == Phase::Attached)?;
    let result = attachment.result.as_ref()?;
    let second = result.get("interfaces")?.as_array()?.get(1)?;
    let sandbox = second.get("sandbox").and_then(Value::as_str);
    if sandbox.is_none_or(str::is_empty) {
        return Some(End {
            name: second.get("name")?.as_str()?,
            role: Role::Port(first),
        });
    }
    let ips = result.get("ips")?.as_array()?.iter();
    let gateways = ips.filter_map(|ip| ip.get("gateway")?.as_str()?.parse().ok());
    Some(End {
        name: first,
        role: Role::Gateway {
            own: gateways.collect(),
            leads_to: attachment.ips.iter().map(IpNet::addr).collect(),
        },
    })
}

/// The keeper of DHCP leases, and the socket at which plugins find it.
#[derive(Clone)]
pub struct Lender {
    /// Has the leases renewed.
    pub keeper: LeaseKeeper,
    /// Where it listens.
    pub socket: PathBuf,
    /// Whether it does; another daemon has the socket otherwise, and this one only keeps
    /// what it has lent before.
    pub listens: bool,
}

impl Lender {
    /// Whether an attachment may still use its addresses. Those that others lend,
    /// or nobody, are none of its business.
    fn lent(&self, attachment: &Attachment) -> bool {
        let Some(holder) = self.holder(attachment) else {
            return true;
        };
        match self.listens {
            true => self.keeper.check(&holder).is_ok(),
            false => !self.keeper.has_ended(&holder),
        }
    }

    /// Gives back what this daemon has lent to an attachment that is taken away, where
    /// plugins ask another daemon, which knows nothing of it.
    pub(super) async fn give_back(&self, attachment: &Attachment) -> Result<()> {
        let holder = self.holder(attachment).filter(|_| !self.listens);
        let Some(holder) = holder else {
            return Ok(());
        };
        let keeper = self.keeper.clone();
        let released = tokio::task::spawn_blocking(move || keeper.release(&holder)).await;
        released
            .map_err(|error| Error::internal(format!("giving a lease back failed: {error}")))?
            .map_err(|report| Error::internal(report.text()))
    }

    /// Forgets that the lease of an attachment has come to an end, as that is taken away.
    pub(super) fn forget(&self, attachment: &Attachment) {
        if let Some(holder) = self.holder(attachment) {
            self.keeper.forget_end(&holder);
        }
    }

    /// Whose an attachment's lease is, if it is from the socket.
    fn holder(&self, attachment: &Attachment) -> Option<Holder> {
        // Most are not lent, which is seen without reading the configuration.
        if !attachment.config.contains("dhcp") {
            return None;
        }
        let config = ConfigList::parse(attachment.config.as_bytes()).ok()?;
        self.is_of(&config).then(|| Holder {
            container_id: attachment.cni_id.clone(),
            network: config.name,
            ifname: attachment.interface.clone(),
        })
    }

    /// What is lent on a network.
    pub(super) fn held(&self, network: &str) -> Vec<Held> {
        if !self.listens {
            return Vec::new();
        }
        let holders = self.keeper.holders().into_iter();
        let holders = holders.filter(|holder| holder.network == network);
        let held = |holder: Holder| Held {
            cni_id: holder.container_id,
            interface: holder.ifname,
            address: None,
        };
        holders.map(held).collect()
    }

    /// Whether a network's addresses come by this keeper.
    pub(super) fn lends(&self, config: &ConfigList) -> bool {
        self.listens && self.is_of(config)
    }

    /// Whether a network's addresses come from the socket.
    fn is_of(&self, config: &ConfigList) -> bool {
        let ipams = config.plugins.iter().filter_map(|plugin| plugin.ipam());
        let mut dhcp = ipams.filter(|ipam| ipam.kind() == Some("dhcp"));
        dhcp.any(|ipam| {
            let told = ipam.raw().find("daemonSocketPath").and_then(Value::as_str);
            Path::new(told.unwrap_or(DEFAULT_SOCKET)) == self.socket
        })
    }
}
