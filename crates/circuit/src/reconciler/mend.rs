//! What other programs take away of what attachments have on the host is made again,
//! when that is noticed, and looked at from time to time.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

use circuit_core::attachment::{Attachment, ContainerRecord, Phase};
use circuit_core::cni::ConfigList;
use circuit_core::datapath::Disturbance;
use circuit_core::event::Kind;
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use crate::events::Happening;
use crate::figures::{Difference, Found};

/// What could not be made again is tried again after this time, so often.
const AGAIN: Duration = Duration::from_secs(1);
const TRIES: u32 = 5;
/// As many containers are mended side by side.
const SIDE_BY_SIDE: usize = 16;

impl Reconciler {
    /// Waits for disturbances until `shutdown`, and mends; what nobody tells of is
    /// looked at once in the time `every`.
    pub async fn guard(self: Arc<Self>, every: Duration, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.mend_always(every)).await;
    }

    /// A round that waits for a container, which may be worked on for long, keeps no
    /// other from being begun.
    async fn mend_always(&self, every: Duration) {
        let mut times = interval_at(Instant::now() + every, every);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rounds: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                told = self.attachments.parts.datapath.disturbed() => match told {
                    Ok(disturbance) => rounds.push(self.mend_after(disturbance).boxed()),
                    Err(error) => tracing::warn!(
                        "{error}: what other programs take away is given back later"
                    ),
                },
                _ = times.tick() => rounds.push(self.mend_networks().boxed()),
                Some(()) = rounds.next() => {}
            }
        }
    }

    async fn mend_after(&self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::Rules => {
                tracing::warn!("another program took firewall rules away: making them again");
                self.mend_firewall(self.those_with(|_| true)).await;
            }
            Disturbance::Firewalld => {
                let concerned = self.those_with(drives_firewall);
                if concerned.is_empty() {
                    return;
                }
                tracing::info!(
                    "firewalld was reloaded, started or ended: telling it of containers again"
                );
                self.mend_firewall(concerned).await;
            }
            Disturbance::Ends => self.mend_ends().await,
        }
    }

    /// Gives back what was taken from bridges and the host's ends of pairs. Containers
    /// whose bridge is gone are looked at: they need another.
    async fn mend_ends(&self) {
        let fallen = |attachment: &Attachment| {
            attachment.phase == Phase::Attached
                && !self.attachments.parts.datapath.stands(attachment)
        };
        for container in self.those_with(fallen) {
            self.attachments.wake(&container);
        }
        self.mend_networks().await;
    }

    async fn mend_networks(&self) {
        let concerned = self.worth_a_look().await.into_iter().collect();
        self.mend_each(concerned).await;
    }

    /// The containers that have lost their place, and one of each network, to see
    /// what all of its containers share.
    async fn worth_a_look(&self) -> HashSet<String> {
        let records = self.attachments.book().records();
        let loose = self.attachments.parts.datapath.loose(&records).await;
        let loose = loose.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot look at ports");
            Vec::new()
        });
        let loose = loose.into_iter().map(|(container, _)| container);
        self.one_of_each_network()
            .into_iter()
            .chain(loose)
            .collect()
    }

    /// A container on each network, or on each form that it has had, that drivers
    /// attached; of those on which nobody works, where there are such.
    fn one_of_each_network(&self) -> Vec<String> {
        let records = self.attachments.book().records();
        let (mut free, mut busy) = (Vec::new(), Vec::new());
        for record in records {
            match self.attachments.is_worked_on(&record.container) {
                false => free.push(record),
                true => busy.push(record),
            }
        }
        let (mut seen, mut one) = (HashSet::new(), Vec::new());
        for record in free.iter().chain(&busy) {
            for attachment in &record.attachments {
                let made = attachment.phase == Phase::Attached && !attachment.natives.is_empty();
                if made && seen.insert((&attachment.network, &attachment.config)) {
                    one.push(record.container.clone());
                }
            }
        }
        one
    }

    /// The containers with an attachment of that kind.
    fn those_with(&self, is_concerned: impl Fn(&Attachment) -> bool) -> Vec<String> {
        let records = self.attachments.book().records();
        let concerned =
            |record: &&Arc<ContainerRecord>| record.attachments.iter().any(&is_concerned);
        let concerned = records.iter().filter(concerned);
        concerned.map(|record| record.container.clone()).collect()
    }

    async fn mend_firewall(&self, mut left: Vec<String>) {
        self.attachments
            .figures()
            .found(Difference::Firewall, Found::Event);
        for _ in 0..TRIES {
            let failed = self.mend_each(left).await;
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

    /// Mends each as soon as nobody works on it, and returns those where it failed.
    async fn mend_each(&self, containers: Vec<String>) -> Vec<String> {
        let mending = stream::iter(containers).map(|container| async move {
            let mended = self.mend_container(&container).await;
            (!mended).then_some(container)
        });
        let mended = mending.buffer_unordered(SIDE_BY_SIDE);
        mended.filter_map(std::future::ready).collect().await
    }

    /// Returns false when it failed. Another round that waits for the container mends
    /// it for this one, too.
    async fn mend_container(&self, container: &str) -> bool {
        let waiting = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting().insert(container.to_owned()) {
            return true;
        }
        let _guard = self.attachments.lock(container).await;
        waiting().remove(container);
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
