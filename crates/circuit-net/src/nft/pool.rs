//! Sockets that are kept for the next one who needs one.
//!
//! Closing a netfilter socket makes the kernel finish what was deleted before,
//! which takes it up to 20 ms, and keeps everybody else from changing the
//! ruleset meanwhile. So the daemon closes none.

use std::fs::metadata;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::Netlink;
use crate::netns::NetnsId;

/// How many are kept: as many as are in use at a time, but not for ever after
/// a rush.
const KEPT: usize = 16;

static SOCKETS: Mutex<Vec<(NetnsId, Netlink)>> = Mutex::new(Vec::new());

/// A socket, which goes back when it is dropped.
pub(super) struct Pooled {
    socket: Option<Netlink>,
    /// Where it was made, if it is to be kept.
    home: Option<NetnsId>,
}

impl Pooled {
    /// Takes or opens a socket, in the calling thread's namespace when there
    /// is no path.
    pub(super) fn open(netns: Option<&Path>) -> circuit_core::Result<Self> {
        let home = netns.is_none().then(process_namespace).flatten();
        let socket = match home.and_then(take) {
            Some(socket) => socket,
            None => Netlink::open_protocol(NETLINK_NETFILTER, netns)?,
        };
        Ok(Self {
            socket: Some(socket),
            home,
        })
    }

    /// The number of the process' own namespace, if it is that one. No other can get
    /// it while the process is there, so that it stands for the cookie on kernels
    /// before 5.14.
    pub(super) fn home_inode(&self) -> Option<u64> {
        self.home.map(|home| home.inode)
    }
}

#[allow(clippy::expect_used, reason = "only `drop` takes the socket away")]
impl Deref for Pooled {
    type Target = Netlink;

    fn deref(&self) -> &Netlink {
        self.socket.as_ref().expect("there until it is dropped")
    }
}

#[allow(clippy::expect_used, reason = "only `drop` takes the socket away")]
impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Netlink {
        self.socket.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let (Some(home), Some(socket)) = (self.home, self.socket.take()) else {
            return;
        };
        let mut sockets = SOCKETS.lock().unwrap_or_else(PoisonError::into_inner);
        if sockets.len() < KEPT {
            sockets.push((home, socket));
        }
    }
}

fn take(home: NetnsId) -> Option<Netlink> {
    let mut sockets = SOCKETS.lock().unwrap_or_else(PoisonError::into_inner);
    let index = sockets.iter().rposition(|(of, _)| *of == home)?;
    Some(sockets.swap_remove(index).1)
}

/// The calling thread's namespace, when it is the process' own: a socket keeps
/// its namespace alive, which a container's is not to be.
fn process_namespace() -> Option<NetnsId> {
    let id = |path| {
        let meta = metadata(path).ok()?;
        Some(NetnsId {
            dev: meta.dev(),
            inode: meta.ino(),
        })
    };
    let here = id("/proc/thread-self/ns/net")?;
    (id("/proc/self/ns/net")? == here).then_some(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_used_again_in_its_namespace() {
        let Ok(first) = Pooled::open(None) else {
            return; // No netfilter here: the kernel tests say so.
        };
        let home = first.home;
        drop(first);
        assert_eq!(home, process_namespace());
        assert!(home.and_then(take).is_some());
        let thread = std::thread::spawn(|| {
            let separate = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
            separate.is_ok().then(process_namespace)
        });
        // Without the right to make namespaces there is nothing to see.
        assert_eq!(thread.join().unwrap().flatten(), None);
    }
}
