//! Hearing of changes of the ruleset.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{NftError, Result, read};
use crate::netlink::{Netlink, NetlinkError};

/// The notifications about nftables.
const GROUP: u32 = 7;

/// The ruleset has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The new generation; `None` when notifications were lost.
    pub generation: Option<u32>,
    /// The name of the thread or program that made the change, if it is told.
    pub by: Option<String>,
}

/// A subscription to changes of a namespace's ruleset. The kernel tells of
/// each within microseconds, also of those that this process makes: ask
/// [`is_intact`](super::is_intact) whether anything is amiss.
pub struct Watch {
    netlink: Netlink,
}

impl Watch {
    /// Subscribes, in the calling thread's namespace when there is no path.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the kernel refuses.
    pub fn open(netns: Option<&Path>) -> Result<Self> {
        let netlink = Netlink::open_protocol(NETLINK_NETFILTER, netns).map_err(NftError::Open)?;
        netlink.subscribe(GROUP).map_err(refused)?;
        Ok(Self { netlink })
    }

    /// Waits for a change, at most for `timeout`; several changes at once may
    /// be told as one.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Change>> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let replies = match self.netlink.notifications(left) {
                Ok(Some(replies)) => replies,
                Ok(None) => return Ok(None),
                Err(NetlinkError::Lost) => return Ok(Some(Change::default())),
                Err(error) => return Err(error.into()),
            };
            // What was changed is told first, the generation last.
            let last = replies.iter().rev().find_map(|reply| {
                Some(Change {
                    generation: Some(read::generation(reply)?),
                    by: read::generation_by(reply),
                })
            });
            if last.is_some() {
                return Ok(last);
            }
        }
    }
}

fn refused(error: io::Error) -> NftError {
    NftError::Netlink(error.into())
}
