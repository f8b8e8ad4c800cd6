//! What must be done so that a container is on the networks it should be on:
//! the difference between what is wanted and what is there, as a pure function.

use crate::{
    attachment::{Attachment, ContainerRecord, Origin, Phase, Sandbox},
    labels::{DesiredNetwork, Labels, PortMapping},
    request::Requested,
};

/// One step; steps run in order, detachments first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take an attachment away.
    Detach {
        /// The network.
        network: String,
        /// The interface.
        interface: String,
    },
    /// Make an attachment.
    Attach {
        /// The network and how to join it.
        network: DesiredNetwork,
        /// Ports asked for by hand, beside those of the labels.
        ports: Vec<PortMapping>,
        /// Who asks.
        origin: Origin,
    },
}

/// Compares a record with what is wanted. `sandbox` is the living task's, if
/// there is one; `intact` says whether a finished attachment is still in place
/// in that sandbox.
pub fn plan(
    record: &ContainerRecord,
    labelled: &[DesiredNetwork],
    sandbox: Option<Sandbox>,
    intact: impl Fn(&Attachment) -> bool,
) -> Vec<Step> {
    let wanted = |network: &str| {
        labelled.iter().any(|n| n.network == network) || record.requested(network).is_some()
    };
    let keep = |a: &Attachment| {
        sandbox.is_some()
            && a.phase == Phase::Attached
            && (a.origin == Origin::Original || wanted(&a.network))
            && intact(a)
    };
    let mut steps: Vec<Step> = Vec::new();
    for attachment in record.attachments.iter().filter(|a| !keep(a)) {
        steps.push(Step::Detach {
            network: attachment.network.clone(),
            interface: attachment.interface.clone(),
        });
    }
    let Some(sandbox) = sandbox else { return steps };
    let there = |network: &str| {
        record
            .attachments
            .iter()
            .any(|a| a.network == network && keep(a))
    };
    let declined = |network: &str| {
        record
            .declined
            .iter()
            .any(|d| d.network == network && d.pid == sandbox.pid)
    };
    for network in labelled {
        if !there(&network.network) && !declined(&network.network) {
            let by_hand = record.requested(&network.network);
            steps.push(Step::Attach {
                network: by_hand.map_or_else(|| network.clone(), |wanted| wanted.over(network)),
                ports: by_hand.map_or_else(Vec::new, |wanted| wanted.ports.clone()),
                origin: Origin::Label,
            });
        }
    }
    for Requested { network, ports } in &record.requested {
        let name = &network.network;
        if !there(name) && !labelled.iter().any(|n| &n.network == name) {
            steps.push(Step::Attach {
                network: network.clone(),
                ports: ports.clone(),
                origin: Origin::Request,
            });
        }
    }
    steps
}

/// What labels ask for and attachments that follow them do not have, in words, by network:
/// these were made before the labels changed. Where none publishes ports yet, they lead to
/// the container through the network `publisher`.
pub fn unmet(
    record: &ContainerRecord,
    labels: &Labels,
    publisher: Option<&str>,
) -> Vec<(String, String)> {
    let publishing = record.labelled_publisher();
    let publishing = publishing.map_or(publisher, |there| Some(there.network.as_str()));
    let mut unmet = Vec::new();
    for wanted in &labels.networks {
        let by_label = |a: &&Attachment| {
            a.network == wanted.network
                && a.phase == Phase::Attached
                && a.origin != Origin::Request
                && record.requested(&a.network).is_none()
        };
        let Some(there) = record.attachments.iter().find(by_label) else {
            continue;
        };
        let mut wanted = Requested {
            network: wanted.clone(),
            ports: Vec::new(),
        };
        // Not every plugin tells the hardware address.
        if there.mac.is_none() {
            wanted.network.mac = None;
        }
        if publishing == Some(there.network.as_str()) {
            wanted.ports.clone_from(&labels.ports);
        }
        if let Some(what) = wanted.missing(there) {
            unmet.push((there.network.clone(), what));
        }
    }
    unmet
}

/// Gives each of `count` networks that are still to be attached an interface's
/// name: the first free `eth0`, `eth1`, … in order, so that the order of the
/// networks is the order of the interfaces even when an early one has to wait.
pub fn interface_names(taken: &[String], count: usize) -> Vec<String> {
    (0..)
        .map(|number| format!("eth{number}"))
        .filter(|name| !taken.contains(name))
        .take(count)
        .collect()
}
