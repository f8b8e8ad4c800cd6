//! Notifications, and what tells namespaces apart.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use socket2::{SockFilter, SockRef};

use super::attributes::Reply;
use super::batch::messages;
use super::socket::{Netlink, NetlinkError};

#[cfg(test)]
thread_local! {
    /// Whether the kernel is taken for one before 5.14 on this thread.
    pub(crate) static OLD_KERNEL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

impl Netlink {
    /// Has the kernel tell of what happens in a group.
    pub(crate) fn subscribe(&self, group: u32) -> io::Result<()> {
        self.socket.add_membership(group)
    }

    /// Has only those notifications come that a program of the kernel's packet filter
    /// lets through.
    pub(crate) fn filter(&self, filter: &[SockFilter]) -> io::Result<()> {
        SockRef::from(&self.socket).attach_filter(filter)
    }

    /// Waits for notifications, at most for `timeout`.
    ///
    /// # Errors
    /// [`NetlinkError::Lost`] when there were more than the socket can hold,
    /// or when it fails.
    pub(crate) fn notifications(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<Vec<Reply>>, NetlinkError> {
        // No time at all would mean to wait for ever, and the kernel's time has bounds.
        let timeout = timeout.clamp(Duration::from_millis(1), Duration::from_secs(3600));
        let timeout = TimeVal::milliseconds(timeout.as_millis().try_into().unwrap_or(1));
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &timeout)
            .map_err(|errno| NetlinkError::Io(errno.into()))?;
        match self.receive() {
            Ok(true) => {}
            Ok(false) => return Err(NetlinkError::Lost),
            Err(NetlinkError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        let replies = messages(&self.buffer).map(|(kind, _, payload)| Reply {
            kind,
            payload: payload.to_vec(),
        });
        Ok(Some(replies.collect()))
    }

    /// A number that no other network namespace has or had since the machine
    /// was started; kernels before 5.14 do not tell it.
    #[allow(unsafe_code, reason = "no crate offers this socket option")]
    pub(crate) fn netns_cookie(&self) -> Option<u64> {
        #[cfg(test)]
        if OLD_KERNEL.get() {
            return None;
        }
        let mut cookie = 0u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the descriptor is open as long as the socket is borrowed,
        // and the kernel writes at most `length` bytes, the size of `cookie`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        (result == 0 && length as usize == size_of::<u64>()).then_some(cookie)
    }
}
