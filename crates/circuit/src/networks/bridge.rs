//! Bridges that networks leave behind.

use circuit_core::cni::ConfigList;
use circuit_core::service::StoredNetwork;

use super::{Surroundings, made};

/// What became of a network that has left a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is deleted.
    Gone,
    /// It is another now.
    Replaced,
}

/// A bridge whose name was made from that of a network goes when the network is gone or
/// becomes another: one of that name with another subnet could not use it. Others may be
/// the host's own, and those that one of `others` names are its.
pub(crate) async fn remove_left_bridge(
    host: &dyn Surroundings,
    (before, fate): (&StoredNetwork, Fate),
    others: &[StoredNetwork],
) {
    let Ok(list) = ConfigList::parse(&before.data) else {
        return;
    };
    let bridge = match fate {
        Fate::Gone => made::own_bridge(&list),
        Fate::Replaced => made::left_bridge(&list),
    };
    let Some(bridge) = bridge else {
        return;
    };
    let uses = |other: &StoredNetwork| {
        let other = ConfigList::parse(&other.data);
        other.is_ok_and(|other| made::bridges(&other).any(|it| it == bridge))
    };
    if others.iter().any(uses) {
        return;
    }
    if let Err(error) = host.remove_bridge(bridge, &list.subnets()).await {
        tracing::warn!(network = list.name, "its bridge stays: {error}");
    }
}
