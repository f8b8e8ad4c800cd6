//! Containers that ask for names find the servers in their `/etc/resolv.conf`.

use std::net::IpAddr;
use std::sync::Arc;

use circuit_core::{
    ErrorKind, Result,
    attachment::{Attachment, ContainerRecord, Phase},
    cni::{ConfigList, DNS_KEY},
    labels::Labels,
    resolver::{self, Step, Wanted},
    zone::network_labels,
};

use super::{Attachments, Seen};

/// Where names are answered.
pub trait Nameservers: Send + Sync {
    /// Has names of a network answered on those of its gateways that are this
    /// host's, and returns where its containers can ask.
    ///
    /// # Errors
    /// When they can ask nowhere, with the remedy.
    fn serve(&self, network: &str, gateways: &[IpAddr]) -> Result<Vec<IpAddr>>;

    /// The domain of containers' names.
    fn domain(&self) -> &str;
}

impl Attachments {
    /// From now on, containers can be told where names are answered.
    pub fn announce(&self, nameservers: Arc<dyn Nameservers>) {
        // Once is enough: there is one daemon.
        let _ = self.nameservers.set(nameservers);
    }

    /// Brings a task's `/etc/resolv.conf` in line with its labels and networks.
    ///
    /// # Errors
    /// When it cannot be written, with the reason and the remedy; what else is
    /// there stays.
    pub(crate) async fn settle_resolver(
        &self,
        record: &mut ContainerRecord,
        labels: &Labels,
        seen: &Seen,
        pid: u32,
    ) -> Result<()> {
        let wanted = self.wanted_resolver(record, labels)?;
        if wanted.is_none() && record.resolver.is_none() {
            return Ok(());
        }
        let datapath = &self.parts.datapath;
        let place = seen.resolver(pid);
        let now = match datapath.resolver(&place).await {
            // What is there now is not of us; nothing is left to be taken back.
            Err(error) if wanted.is_none() && error.kind() == ErrorKind::FailedPrecondition => {
                record.resolver = None;
                return self.book().save(record).await;
            }
            now => now?,
        };
        match resolver::step(record.resolver.as_ref(), pid, &now, wanted.as_ref()) {
            Step::Rest => Ok(()),
            Step::Write(kept) => {
                let text = kept.text.clone();
                if record.resolver.as_ref() != Some(&kept) {
                    record.resolver = Some(kept);
                    self.book().save(record).await?;
                }
                let before = datapath.write_resolver(&place, &text).await?;
                match &mut record.resolver {
                    // Somebody was quicker, and wrote what is to be put back.
                    Some(kept) if !before.is_ours() && before != kept.original => {
                        kept.original = before;
                        self.book().save(record).await
                    }
                    _ => Ok(()),
                }
            }
            Step::Restore(original) => {
                datapath.restore_resolver(&place, &now, &original).await?;
                record.resolver = None;
                self.book().save(record).await
            }
            Step::Forget => {
                record.resolver = None;
                self.book().save(record).await
            }
        }
    }

    /// What the file should say; nothing when it is left alone.
    fn wanted_resolver(&self, record: &ContainerRecord, labels: &Labels) -> Result<Option<Wanted>> {
        let Some(nameservers) = self.nameservers.get() else {
            return Ok(None);
        };
        let attached = record.attachments.iter();
        let asking: Vec<&Attachment> = attached
            .filter(|it| it.phase == Phase::Attached)
            .filter(|it| labels.dns.unwrap_or_else(|| asks_for_names(&it.config)))
            .collect();
        if asking.is_empty() {
            return Ok(None);
        }
        let (mut servers, mut domains, mut failure) = (Vec::new(), Vec::new(), None);
        for attachment in asking {
            match nameservers.serve(&attachment.network, &gateways(attachment)) {
                Ok(some) => servers.extend(some),
                Err(error) => failure = Some(error),
            }
            let network = network_labels(&attachment.network);
            domains.push(format!("{network}.{}", nameservers.domain()));
        }
        domains.push(nameservers.domain().to_owned());
        let mut seen = Vec::new();
        servers.retain(|server| {
            !seen.contains(server) && {
                seen.push(*server);
                true
            }
        });
        match failure {
            Some(error) if servers.is_empty() => Err(error),
            _ => Ok(Some(Wanted { servers, domains })),
        }
    }
}

/// Whether a network's configuration asks for names for all of its containers.
fn asks_for_names(config: &str) -> bool {
    // Nearly none does.
    config.contains(DNS_KEY) && ConfigList::parse(config.as_bytes()).is_ok_and(|list| list.dns)
}

/// The gateways in the result of ADD.
fn gateways(attachment: &Attachment) -> Vec<IpAddr> {
    let result = attachment.result.as_ref();
    let ips = result.and_then(|result| result.get("ips")?.as_array());
    let gateway = |ip: &serde_json::Value| ip.get("gateway")?.as_str()?.parse().ok();
    ips.into_iter().flatten().filter_map(gateway).collect()
}
