//! What a look finds to be done: attachments taken away and made, each counted
//! with its cause.

use std::time::Instant;

use circuit_core::{
    Result,
    attachment::{ContainerRecord, LastAddresses, Origin, Phase, Sandbox},
    labels::{DesiredNetwork, Labels, PortMapping},
    plan::interface_names,
};

use super::{Reconciler, container::Findings};
use crate::attachments::Join;
use crate::figures::{Connect, Difference, Disconnect};

/// A network to join, ports asked for by hand, and who asks.
pub(super) type Joining<'a> = (&'a DesiredNetwork, &'a [PortMapping], Origin);

impl Reconciler {
    pub(super) async fn take_away(
        &self,
        record: &mut ContainerRecord,
        network: &str,
        interface: &str,
        sandbox: Option<Sandbox>,
    ) -> Result<()> {
        let found = record
            .attachments
            .iter()
            .find(|a| a.network == network && a.interface == interface);
        if let Some(attachment) = found
            && attachment.phase == Phase::Attached
            && attachment.origin != Origin::Original
        {
            // To ask for the same when the task is started again.
            let ips = attachment.ips.iter().map(ipnet::IpNet::addr).collect();
            let mac = attachment.mac.clone();
            record
                .last
                .insert(network.to_owned(), LastAddresses { ips, mac });
        }
        let cause = found.map_or(Disconnect::Exit, |it| Disconnect::of(it, sandbox));
        self.attachments
            .leave(record, network, interface, cause)
            .await?;
        tracing::info!("disconnected {} from {network}", record.container);
        Ok(())
    }

    pub(super) async fn join_all(
        &self,
        record: &mut ContainerRecord,
        joining: &[Joining<'_>],
        labels: &Labels,
        publisher: Option<&str>,
        sandbox: Sandbox,
        findings: &mut Findings,
    ) {
        if joining.is_empty() {
            return;
        }
        let names = match self.names(joining, labels, sandbox).await {
            Ok(names) => names,
            Err(error) => return findings.add("", &error),
        };
        for ((wanted, by_hand, origin), interface) in joining.iter().zip(names) {
            let network = &wanted.network;
            let here = publisher == Some(network.as_str()) && record.labelled_publisher().is_none();
            let ports: &[PortMapping] = if here { &labels.ports } else { &[] };
            let ports = [ports, by_hand].concat();
            let join = Join {
                network: wanted,
                origin: *origin,
                sandbox,
                ports: &ports,
                interface: Some(interface),
                name: labels.name.as_deref(),
            };
            let cause = match origin {
                Origin::Request => Connect::Restore,
                Origin::Label | Origin::Original => Connect::Label,
            };
            let begun = Instant::now();
            let joined = self.attachments.attach(record, join).await;
            let figures = self.attachments.figures();
            figures.connected(cause, &joined, begun.elapsed());
            match joined {
                Ok(attachment) => {
                    figures.mended(Difference::Attach);
                    let ip = attachment.ips.first().map(|ip| ip.addr().to_string());
                    let ip = ip.as_deref().unwrap_or("none");
                    tracing::info!("connected {} to {network} with ip {ip}", record.container);
                }
                Err(error) => findings.add(network, &error),
            }
        }
    }

    /// Interface names in the order of the networks, also for those that will
    /// not come up this time.
    async fn names(
        &self,
        joining: &[Joining<'_>],
        labels: &Labels,
        sandbox: Sandbox,
    ) -> Result<Vec<String>> {
        let netns = format!("/proc/{}/ns/net", sandbox.pid);
        let mut taken = self
            .attachments
            .parts
            .datapath
            .interfaces(netns.as_ref())
            .await?;
        taken.extend(labels.networks.iter().filter_map(|n| n.interface.clone()));
        let mut free = interface_names(&taken, joining.len()).into_iter();
        Ok(joining
            .iter()
            .filter_map(|(wanted, ..)| wanted.interface.clone().or_else(|| free.next()))
            .collect())
    }
}
