//! The extension on containerd's record of a container, which tells other programs of its
//! networks.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use circuit_core::{
    Error, Result,
    attachment::{ContainerRecord, Phase},
    runtime::{ExtensionEntry, Runtime},
};

use super::{Attachments, OwnUpdates, Seen, locks::KeyGuard, pins};

impl Attachments {
    /// Writes the extension on the container's record, for programs that read
    /// it, when it says something else. It is not what Circuit itself relies
    /// on.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub(crate) async fn publish(&self, record: &ContainerRecord, seen: &Seen) -> Result<()> {
        let Some(ours) = self.extension(record) else {
            return Ok(());
        };
        if seen
            .container
            .extension
            .as_ref()
            .map_or(ours.is_empty(), |told| *told == ours)
        {
            return Ok(());
        }
        write_extension(self.runtime(), &self.own_updates, &record.container, &ours).await
    }

    /// What the extension is to say: the record, and what is left to be taken over;
    /// `None` when nobody has looked yet whether there is something.
    fn extension(&self, record: &ContainerRecord) -> Option<BTreeMap<String, ExtensionEntry>> {
        let left = self.taken_over().get(&record.container).cloned()?;
        let mut told: BTreeMap<_, _> = left
            .into_iter()
            .map(|(network, (entry, _))| (network, entry))
            .collect();
        told.extend(extension(record));
        Some(told)
    }

    /// Writes the extension, and takes a pin away that nothing uses, without
    /// keeping the caller waiting for containerd's disk and the kernel. The
    /// container stays locked until that is done.
    pub(super) fn publish_later(
        &self,
        guard: KeyGuard,
        record: &ContainerRecord,
        unused: Option<PathBuf>,
    ) {
        let runtime = Arc::clone(&self.parts.runtime);
        let datapath = Arc::clone(&self.parts.datapath);
        let (ours, container) = (self.extension(record), record.container.clone());
        let (wake, own) = (self.wake.clone(), Arc::clone(&self.own_updates));
        self.publishing.spawn(async move {
            let written = match &ours {
                Some(ours) => write_extension(runtime.as_ref(), &own, &container, ours).await,
                None => Err(Error::unavailable("what it told before was not read yet")),
            };
            if let Err(error) = written {
                tracing::warn!(container, %error, "will write the extension later");
                let _ = wake.send(container);
            }
            if let Some(pin) = unused {
                pins::unpin(datapath.as_ref(), &pin).await;
            }
            drop(guard);
        });
    }

    /// True, once, for each change of our own. Whoever changes the record at
    /// the same time is told of by an event of their own, so that one more
    /// event comes than is passed over.
    pub(crate) fn is_own_update(&self, container: &str) -> bool {
        count_down(&self.own_updates, container)
    }

    /// A full pass looks at everything, and events may have been missed.
    pub(crate) fn forget_own_updates(&self) {
        self.own_updates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

async fn write_extension(
    runtime: &dyn Runtime,
    own: &OwnUpdates,
    container: &str,
    networks: &BTreeMap<String, ExtensionEntry>,
) -> Result<()> {
    // Before the call: the event may come before the answer.
    *own.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(container.to_owned())
        .or_default() += 1;
    let written = runtime.set_extension(container, networks).await;
    if written.is_err() {
        // Should it be told of all the same, a look too many is no harm; to pass over a
        // change of others would be.
        count_down(own, container);
    }
    written
}

/// Counts an update less; false when there is none.
fn count_down(own: &OwnUpdates, container: &str) -> bool {
    let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(count) = own.get_mut(container) else {
        return false;
    };
    *count -= 1;
    if *count == 0 {
        own.remove(container);
    }
    true
}

/// What the extension says of a record: one address a network.
fn extension(record: &ContainerRecord) -> BTreeMap<String, ExtensionEntry> {
    record
        .attachments
        .iter()
        .filter(|attachment| attachment.phase == Phase::Attached)
        .map(|attachment| {
            let ip = attachment
                .ips
                .first()
                .map(|ip| ip.addr().to_string())
                .unwrap_or_default();
            let entry = ExtensionEntry {
                interface: attachment.interface.clone(),
                ip,
            };
            (attachment.network.clone(), entry)
        })
        .collect()
}
