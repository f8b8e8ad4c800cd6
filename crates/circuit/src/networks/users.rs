//! Who uses networks, as far as that can be told: nothing is taken from under them.

use std::sync::Arc;

use circuit_core::service::Lookups;
use circuit_core::{Error, Result};

use super::NetworkService;

/// As many containers are named in an error; of more, the number is told.
const NAMED_USERS: usize = 10;
/// How often containers that join a network while it is deleted by force are
/// disconnected.
const FORCED_ROUNDS: usize = 3;
/// What is said of other nodes where nobody tells of them, and what to do.
const UNKNOWN: Unknown = Unknown {
    what: "whether containers of other nodes use it is not known without --redis-url",
    remedy: "give that to the servers, or --force here when none does",
};
/// The same while the registry is not heard.
const STALE: Unknown = Unknown {
    what: "whether containers of other nodes use it is not known while the cluster registry does \
           not answer",
    remedy: "try again when it does, or give --force when none does",
};

/// What is not known of a network's users.
pub(super) struct Unknown {
    /// As it is told.
    pub(super) what: &'static str,
    remedy: &'static str,
}

/// Whose the networks are besides this node.
#[derive(Clone, Default)]
pub enum Sharing {
    /// Nobody's.
    #[default]
    Alone,
    /// Nodes' whose containers are known.
    Known(Arc<dyn Lookups>),
    /// Nodes' of which nothing is known.
    Unknown,
}

impl NetworkService {
    /// The containers that are known to be on a network, and for whom other programs
    /// of this host hold something on it.
    pub(super) async fn users(&self, name: &str) -> Result<Vec<String>> {
        let mut users = self.attachments.users_of(name).await?;
        if let Sharing::Known(elsewhere) = &self.sharing {
            users.extend(elsewhere.users_elsewhere(name));
        }
        users.extend(self.holders(name).await?);
        Ok(users)
    }

    /// For whom other programs hold something, such as another daemon.
    async fn holders(&self, name: &str) -> Result<Vec<String>> {
        // Of what cannot be read nothing can be held.
        let Ok(network) = self.store.get(name) else {
            return Ok(Vec::new());
        };
        let held = self.attachments.holders(&network).await.map_err(|error| {
            error.context(format!(
                "cannot tell which other programs use network {name}, only --force deletes it now"
            ))
        })?;
        let shown = held
            .into_iter()
            .map(|id| format!("{id} of another program"));
        Ok(shown.collect())
    }

    /// What nobody knows of a network's users, if there is something.
    pub(super) fn unknown(&self) -> Option<Unknown> {
        match &self.sharing {
            Sharing::Alone => None,
            Sharing::Known(elsewhere) => (!elsewhere.is_current()).then_some(STALE),
            Sharing::Unknown => Some(UNKNOWN),
        }
    }

    pub(super) async fn refuse_while_used(&self, name: &str, remedy: &str) -> Result<()> {
        let users = self.users(name).await?;
        if users.is_empty() {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "network {name} is used by {}; {remedy}",
            named(&users)
        )))
    }

    /// The same where somebody may use it without anybody's knowing.
    pub(super) async fn refuse_while_usable(&self, name: &str) -> Result<()> {
        let remedy = "disconnect them first, or give --force";
        self.refuse_while_used(name, remedy).await?;
        match self.unknown() {
            None => Ok(()),
            Some(Unknown { what, remedy }) => Err(Error::precondition(format!(
                "network {name} is shared, and {what}: {remedy}"
            ))),
        }
    }

    /// Takes this node's containers off a network; what others have is left to them.
    pub(super) async fn disconnect_users(&self, name: &str) -> Result<()> {
        for _ in 0..FORCED_ROUNDS {
            if self.attachments.users_of(name).await?.is_empty() {
                return Ok(());
            }
            self.attachments.disconnect_all(name).await?;
        }
        let users = self.attachments.users_of(name).await?;
        if users.is_empty() {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "network {name} is used by {}; they join again and again, stop them first",
            named(&users)
        )))
    }
}

pub(super) fn named(users: &[String]) -> String {
    let shown = users
        .iter()
        .take(NAMED_USERS)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let noun = if users.len() == 1 {
        "container"
    } else {
        "containers"
    };
    match users.len().saturating_sub(NAMED_USERS) {
        0 => format!("{noun} {shown}"),
        more => format!("{noun} {shown} and {more} more"),
    }
}
