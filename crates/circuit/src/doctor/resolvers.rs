//! Whether containers reach the servers that their `/etc/resolv.conf` names: many a
//! host's firewall drops what comes in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use circuit_core::attachment::Phase;
use circuit_core::doctor::Finding;
use futures::future::join_all;

use super::NodeDoctor;
use crate::dns::answers_to;

impl NodeDoctor {
    /// Asks each server once, as a container that has it.
    pub(super) async fn resolvers(&self) -> Vec<Finding> {
        let mut servers: BTreeMap<IpAddr, (String, PathBuf)> = BTreeMap::new();
        for record in self.of.attachments.book().records() {
            let attached = record.attachments.iter();
            let mut attached = attached.filter(|it| it.phase == Phase::Attached);
            let netns = attached.find_map(|it| it.netns.clone());
            let (Some(kept), Some(netns)) = (&record.resolver, netns) else {
                continue;
            };
            for server in kept.servers() {
                let asks = || (record.container.clone(), netns.clone());
                servers.entry(server).or_insert_with(asks);
            }
        }
        let asked = servers
            .into_iter()
            .map(|(server, (container, netns))| async move {
                let silent = match answers_to(netns, server).await {
                    Ok(true) => return None,
                    Ok(false) => "does not answer".to_owned(),
                    Err(error) => format!("cannot be asked: {error}"),
                };
                Some(Finding::warning(
                    "dns",
                    format!("the name server {server} of container {container} {silent}"),
                    "have this host's firewall let UDP and TCP port 53 in from that network",
                ))
            });
        join_all(asked).await.into_iter().flatten().collect()
    }
}
