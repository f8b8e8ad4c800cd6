//! Deletes the networks that nobody uses.

use circuit_core::service::Pruned;
use circuit_core::{ErrorKind, Result};

use super::NetworkService;
use super::users::named;

impl NetworkService {
    /// Looks at one network after the other, until `each` says to stop. Networks that
    /// are asked for by containers that do not run are kept: those would not come
    /// back up as they were.
    pub(super) async fn prune_all(
        &self,
        dry_run: bool,
        each: &(dyn Fn(Pruned) -> bool + Send + Sync),
    ) -> Result<()> {
        let listing = self.on_disk(|store| store.list()).await?;
        for network in listing.networks {
            let name = network.name;
            let changing = self.changing.lock().await;
            // Deleted by somebody else since.
            if !self.store.has(&name) {
                continue;
            }
            let kept = self.kept_by(&name).await?;
            if kept.is_none() && !dry_run {
                self.remove(&name).await?;
            }
            drop(changing);
            if !each(Pruned { name, kept }) {
                break;
            }
        }
        Ok(())
    }

    /// Who keeps a network.
    async fn kept_by(&self, name: &str) -> Result<Option<String>> {
        let users = match self.users(name).await {
            Ok(users) => users,
            // Another daemon of this host may know them.
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                return Ok(Some(error.message().to_owned()));
            }
            Err(error) => return Err(error),
        };
        if !users.is_empty() {
            return Ok(Some(format!("used by {}", named(&users))));
        }
        if let Some(unknown) = self.unknown() {
            return Ok(Some(format!("shared, and {}", unknown.what)));
        }
        let wanted = self.attachments.wanted().await?;
        let who = wanted.get(name);
        Ok(who.map(|container| format!("asked for by container {container}")))
    }
}
