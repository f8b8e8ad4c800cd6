//! What other programs take away of what networks share is made again: firewall
//! rules when that is noticed, and the addresses of gateways from time to time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use circuit_core::attachment::{Attachment, ContainerRecord, Phase};
use circuit_core::cni::ConfigList;
use circuit_core::datapath::Disturbance;
use circuit_core::event::Kind;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use crate::events::Happening;
use crate::figures::{Difference, Found};

/// What could not be made again is tried again after this time, so often.
const AGAIN: Duration = Duration::from_secs(1);
const TRIES: u32 = 5;

impl Reconciler {
    /// Waits for disturbances of the firewall until `shutdown`, and mends; what no
    /// program tells of is looked at once in the time `every`.
    pub async fn guard(self: Arc<Self>, every: Duration, shutdown: CancellationToken) {
        let work = async {
            tokio::join!(self.mend_when_told(), self.mend_networks_each(every));
        };
        shutdown.run_until_cancelled(work).await;
    }

    async fn mend_when_told(&self) {
        loop {
            let disturbance = match self.attachments.parts.datapath.disturbed().await {
                Ok(disturbance) => disturbance,
                Err(error) => {
                    return tracing::warn!(
                        "{error}: firewall rules that other programs take away are missing until \
                         the next start"
                    );
                }
            };
            let concerned = self.concerned(disturbance);
            if concerned.is_empty() && disturbance == Disturbance::Firewalld {
                continue;
            }
            let figures = self.attachments.figures();
            figures.found(Difference::Firewall, Found::Event);
            match disturbance {
                Disturbance::Rules => {
                    tracing::warn!("another program took firewall rules away: making them again");
                }
                Disturbance::Firewalld => tracing::info!(
                    "firewalld was reloaded, started or ended: telling it of containers again"
                ),
            }
            self.mend_all(concerned).await;
        }
    }

    async fn mend_networks_each(&self, every: Duration) {
        let mut times = interval_at(Instant::now() + every, every);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            times.tick().await;
            for (container, network) in self.worth_a_look().await {
                let _guard = self.attachments.lock(&container).await;
                let record = self.attachments.book().record(&container);
                let attachments = record.attachments.iter();
                for attachment in attachments.filter(|it| it.network == network) {
                    self.mend(attachment).await;
                }
            }
        }
    }

    /// The attachments that have lost their place, and one of each network, to see
    /// what all of its containers share.
    async fn worth_a_look(&self) -> HashSet<(String, String)> {
        let records = self.attachments.book().records();
        let loose = self.attachments.parts.datapath.loose(&records).await;
        let loose = loose.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot look at ports");
            Vec::new()
        });
        let shared = self.one_of_each_network().into_iter();
        shared.chain(loose).collect()
    }

    /// A container on each network, or on each form that it has had, that drivers
    /// attached.
    fn one_of_each_network(&self) -> Vec<(String, String)> {
        let records = self.attachments.book().records();
        let (mut seen, mut one) = (HashSet::new(), Vec::new());
        for record in &records {
            for attachment in &record.attachments {
                let made = attachment.phase == Phase::Attached && !attachment.natives.is_empty();
                if made && seen.insert((&attachment.network, &attachment.config)) {
                    one.push((record.container.clone(), attachment.network.clone()));
                }
            }
        }
        one
    }

    /// The containers that may have lost something.
    fn concerned(&self, disturbance: Disturbance) -> Vec<String> {
        let is_concerned = |record: &ContainerRecord| match disturbance {
            Disturbance::Rules => true,
            Disturbance::Firewalld => record.attachments.iter().any(drives_firewall),
        };
        let records = self.attachments.book().records();
        let concerned = records.iter().filter(|record| is_concerned(record));
        concerned.map(|record| record.container.clone()).collect()
    }

    async fn mend_all(&self, mut left: Vec<String>) {
        for _ in 0..TRIES {
            let mut failed = Vec::new();
            for container in left {
                if !self.mend_container(&container).await {
                    failed.push(container);
                }
            }
            if failed.is_empty() {
                self.attachments.figures().mended(Difference::Firewall);
                self.attachments.events().tell(
                    Kind::FirewallMended,
                    Happening {
                        message: "rules that another program took away are there again".to_owned(),
                        ..Happening::default()
                    },
                );
                return;
            }
            left = failed;
            tokio::time::sleep(AGAIN).await;
        }
        tracing::warn!(
            "firewall rules of {} could not be made again: connect them anew",
            left.join(", ")
        );
    }

    async fn mend_container(&self, container: &str) -> bool {
        let _guard = self.attachments.lock(container).await;
        let record = self.attachments.book().record(container);
        let mut mended = true;
        for attachment in &record.attachments {
            mended &= self.mend(attachment).await;
        }
        mended
    }

    /// Returns false when it failed.
    pub(super) async fn mend(&self, attachment: &Attachment) -> bool {
        if attachment.phase != Phase::Attached {
            return true;
        }
        let mended = self.attachments.parts.datapath.mend(attachment).await;
        if let Err(error) = &mended {
            tracing::debug!(network = attachment.network, %error, "cannot mend");
        }
        mended.is_ok()
    }
}

/// Whether the driver `firewall` had a part in it.
fn drives_firewall(attachment: &Attachment) -> bool {
    let Ok(list) = ConfigList::parse(attachment.config.as_bytes()) else {
        return false;
    };
    let mut plugins = list.plugins.iter().enumerate();
    plugins.any(|(index, it)| it.kind == "firewall" && attachment.natives.contains(&index))
}
