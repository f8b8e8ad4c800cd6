//! Several changes of the kernel's that are made all, or not at all.

use circuit_core::cni::{ErrorReport, code};

use super::Answer;
use crate::netlink::{Message, Netlink, NetlinkError};

/// One change.
pub(super) struct Step {
    /// What it is, for error texts: "cannot …".
    pub(super) what: String,
    /// What makes it.
    pub(super) make: Message,
    /// What takes it back.
    pub(super) undo: Message,
}

/// The changes made so far.
#[derive(Default)]
pub(super) struct Steps {
    undo: Vec<Message>,
}

impl Steps {
    /// Makes changes, one after the other; the answer is the first failure.
    pub(super) fn take(&mut self, socket: &mut Netlink, steps: Vec<Step>) -> Answer<()> {
        let mut names = Vec::with_capacity(steps.len());
        let (mut make, mut undo) = (Vec::new(), Vec::new());
        for step in steps {
            names.push(step.what);
            make.push(step.make);
            undo.push(step.undo);
        }
        let made = socket
            .pipeline(&make)
            .map_err(|e| failed("change it", &e))?;
        let mut result = Ok(());
        for ((made, undo), what) in made.into_iter().zip(undo).zip(names) {
            match made {
                Ok(_) => self.undo.push(undo),
                Err(error) => result = result.and(Err(failed(&what, &error))),
            }
        }
        result
    }

    /// Has messages sent when what comes from here on is taken back, after that.
    pub(super) fn restore(&mut self, messages: impl Iterator<Item = Message>) {
        self.undo.extend(messages);
    }

    /// Takes back what was made, the last first. What cannot be taken back
    /// goes with the interface.
    pub(super) fn take_back(mut self, socket: &mut Netlink) {
        self.undo.reverse();
        if let Err(error) = socket.pipeline(&self.undo) {
            tracing::debug!(%error, "a failed attachment could not be undone");
        }
    }
}

fn failed(what: &str, error: &NetlinkError) -> ErrorReport {
    ErrorReport::new(code::OTHER, format!("cannot {what}: {error}"))
}
