//! Pins, which keep the network namespaces of tasks until everything in them is taken
//! away.

use std::path::{Path, PathBuf};

use circuit_core::{
    attachment::{Attachment, ContainerRecord, Sandbox},
    datapath::Datapath,
};

use super::Attachments;

impl Attachments {
    /// A pin for one namespace of one container: the inode keeps the pins of
    /// a container's successive tasks apart.
    pub(super) fn pin_path(&self, container: &str, sandbox: Sandbox) -> PathBuf {
        self.parts
            .pins
            .join(format!("{}.{}", self.cni_id(container), sandbox.netns))
    }

    pub(super) async fn unpin_unused(&self, record: &ContainerRecord, pin: &Path) {
        if self.is_unused(record, pin) {
            self.unpin(Some(pin.to_path_buf())).await;
        }
    }

    /// The former program's attachments name a task's own namespace, which is
    /// no pin.
    pub(super) fn is_unused(&self, record: &ContainerRecord, pin: &Path) -> bool {
        let uses = |a: &Attachment| a.netns.as_deref() == Some(pin);
        pin.starts_with(&self.parts.pins) && !record.attachments.iter().any(uses)
    }

    pub(super) async fn unpin(&self, pin: Option<PathBuf>) {
        if let Some(pin) = pin {
            unpin(self.parts.datapath.as_ref(), &pin).await;
        }
    }
}

pub(super) async fn unpin(datapath: &dyn Datapath, pin: &Path) {
    if let Err(error) = datapath.unpin(pin).await {
        tracing::warn!(pin = %pin.display(), %error, "cannot unpin: the next start will");
    }
}
