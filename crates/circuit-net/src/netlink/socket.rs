//! A netlink socket that asks for lists and for changes.

use std::fmt;
use std::io;
use std::path::Path;

use circuit_core::{Error, Result};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::attributes::{Reply, attributes, text};
use super::message::Message;
use crate::netns::{Place, in_netns, in_place};

pub(super) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
pub(super) const HEADER: usize = 16;

/// The kernel never writes larger pieces.
const BUFFER: usize = 64 * 1024;

/// How many seconds the kernel, which answers at once, may take to answer.
const PATIENCE: i64 = 10;

/// How many requests are sent together: their answers must fit into the
/// socket's buffer.
const AT_ONCE: usize = 64;

/// How often a list that changed while it was read is read again.
const TRIES: usize = 10;

/// Why a list could not be had, or a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refuses, with this errno, and what it says to that, if anything.
    #[error("{}{}", io::Error::from_raw_os_error(*.0), .1)]
    Kernel(i32, Said),
    /// The socket fails.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The kernel's answer cannot be read.
    #[error("answer is cut short")]
    Malformed,
    /// A list changed each time it was read.
    #[error("the list changes faster than it can be read, try again")]
    Unsteady,
    /// The socket's buffer was too small for the answer.
    #[error("the answer is lost, try again")]
    Lost,
}

/// What the kernel says of a refusal.
#[derive(Debug, Clone, Default)]
pub struct Said(Option<Box<str>>);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(said) => write!(f, ": {said}"),
            None => Ok(()),
        }
    }
}

impl Said {
    /// Reads it behind the errno, and behind the head of the request where it is
    /// repeated; more of it is not, as the sockets are made.
    fn read(kind: u16, flags: u16, payload: &[u8]) -> Self {
        if flags & NLM_F_ACK_TLVS == 0 {
            return Self::default();
        }
        let before = if kind == NLMSG_ERROR { 4 + HEADER } else { 4 };
        let mut told = attributes(payload.get(before..).unwrap_or_default());
        let said = told.find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG);
        let said = said.map(|(_, said)| text(said));
        let said = said.as_deref().map(|said| said.trim_end_matches('.'));
        Self(said.filter(|said| !said.is_empty()).map(Into::into))
    }
}

impl NetlinkError {
    /// A refusal of which nothing more is said.
    pub fn kernel(errno: i32) -> Self {
        Self::Kernel(errno, Said::default())
    }

    /// A refusal of which this is said.
    #[cfg(test)]
    pub(crate) fn said_with(errno: i32, said: &str) -> Self {
        Self::Kernel(errno, Said(Some(said.into())))
    }

    /// What the kernel says of its refusal, if anything.
    pub(crate) fn said(&self) -> Option<&str> {
        match self {
            Self::Kernel(_, Said(said)) => said.as_deref(),
            _ => None,
        }
    }

    /// The errno with which the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel(errno, _) => Some(*errno),
            _ => None,
        }
    }
}

/// How far an answer has come.
#[derive(Default)]
struct Progress {
    done: bool,
    /// The list changed meanwhile, or pieces of it are lost.
    interrupted: bool,
}

/// A socket of one namespace, for good: a socket stays where it was made.
pub struct Netlink {
    pub(super) socket: Socket,
    pub(super) sequence: u32,
    pub(super) buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in a namespace, in the calling thread's when there is no
    /// path.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the kernel refuses.
    pub fn open(netns: Option<&Path>) -> Result<Self> {
        Self::open_protocol(NETLINK_ROUTE, netns)
    }

    /// A socket of an open namespace, in which `work` is done before.
    pub(crate) fn open_in(netns: Place<'_>, work: impl FnOnce() + Send) -> Result<Self> {
        let socket = in_place(netns, || {
            work();
            Self::socket(NETLINK_ROUTE)
        });
        socket.map(Self::of)
    }

    /// As [`open`](Self::open), for a part of the kernel other than routing.
    pub(crate) fn open_protocol(protocol: isize, netns: Option<&Path>) -> Result<Self> {
        let make = || Self::socket(protocol);
        let socket = match netns {
            Some(path) => in_netns(path, make)?,
            None => make()?,
        };
        Ok(Self::of(socket))
    }

    /// A socket of the namespace that the calling thread is in.
    fn socket(protocol: isize) -> Result<Socket> {
        let make = || {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            // The kernel then lists only what is asked for. Old kernels
            // cannot, and list all.
            let _ = socket.set_netlink_get_strict_chk(true);
            // A refusal is not to repeat what it refuses: many of them
            // would not fit into the socket's buffer.
            socket.set_cap_ack(true)?;
            // Its reason in words is for people; older kernels have none.
            let _ = socket.set_ext_ack(true);
            setsockopt(
                &socket,
                sockopt::ReceiveTimeout,
                &TimeVal::seconds(PATIENCE),
            )?;
            Ok::<_, io::Error>(socket)
        };
        make().map_err(|e| Error::unavailable(format!("cannot open a netlink socket: {e}")))
    }

    fn of(socket: Socket) -> Self {
        Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER),
        }
    }

    /// Asks for a list, again when it changed while it was read.
    pub(super) fn dump(
        &mut self,
        request: &RouteNetlinkMessage,
    ) -> std::result::Result<Vec<Reply>, NetlinkError> {
        let mut body = vec![0; request.buffer_len()];
        request.serialize(&mut body);
        self.list(&Message {
            kind: request.message_type(),
            flags: 0,
            body,
        })
    }

    /// Asks for the list of what a message asks for, again when it changed
    /// while it was read.
    ///
    /// # Errors
    /// The kernel's refusal, or that of the socket.
    pub fn list(&mut self, request: &Message) -> std::result::Result<Vec<Reply>, NetlinkError> {
        for _ in 0..TRIES {
            if let Some(replies) = self.dump_once(request)? {
                return Ok(replies);
            }
        }
        Err(NetlinkError::Unsteady)
    }

    /// Whether something in a list is such. The list is read up to the first
    /// that is, and the socket used up for that.
    ///
    /// # Errors
    /// The kernel's refusal, or that of the socket.
    pub(super) fn any(
        mut self,
        request: &Message,
        is_such: impl Fn(&Reply) -> bool,
    ) -> std::result::Result<bool, NetlinkError> {
        self.ask_for_list(request)?;
        let mut progress = Progress::default();
        while !progress.done {
            let mut replies = Vec::new();
            match self.receive()? {
                true => read_messages(&self.buffer, self.sequence, &mut replies, &mut progress)?,
                false => progress.interrupted = true,
            }
            if replies.iter().any(&is_such) {
                return Ok(true);
            }
        }
        match progress.interrupted {
            true => Ok(self.list(request)?.iter().any(is_such)),
            false => Ok(false),
        }
    }

    fn ask_for_list(&mut self, request: &Message) -> std::result::Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(64);
        let flags = request.flags | NLM_F_REQUEST | NLM_F_DUMP;
        request.write_flags(flags, self.sequence, &mut bytes)?;
        Ok(self.send(&bytes)?)
    }

    fn dump_once(
        &mut self,
        request: &Message,
    ) -> std::result::Result<Option<Vec<Reply>>, NetlinkError> {
        self.ask_for_list(request)?;
        let mut replies = Vec::new();
        let mut progress = Progress::default();
        while !progress.done {
            match self.receive()? {
                true => read_messages(&self.buffer, self.sequence, &mut replies, &mut progress)?,
                false => progress.interrupted = true,
            }
        }
        Ok((!progress.interrupted).then_some(replies))
    }

    /// Sends what asks for a change, and waits until it is made. The answer is
    /// what was changed, when the flags ask for it.
    pub(super) fn change(
        &mut self,
        message: &Reply,
        flags: u16,
    ) -> std::result::Result<Vec<Reply>, NetlinkError> {
        self.request(&Message {
            kind: message.kind,
            flags,
            body: message.payload.clone(),
        })
    }

    /// Sends a request and waits for its answer: what the kernel tells, if it
    /// tells anything, once it has acknowledged.
    ///
    /// # Errors
    /// The kernel's refusal, or that of the socket.
    pub fn request(&mut self, message: &Message) -> std::result::Result<Vec<Reply>, NetlinkError> {
        let mut results = self.pipeline(std::slice::from_ref(message))?;
        results.pop().unwrap_or(Err(NetlinkError::Lost))
    }

    /// Sends several requests at once, which the kernel carries out one after
    /// the other, also those behind one that fails; the answers are in the
    /// order of the requests.
    ///
    /// # Errors
    /// When the socket fails: what was carried out is then not known.
    pub fn pipeline(
        &mut self,
        messages: &[Message],
    ) -> std::result::Result<Vec<std::result::Result<Vec<Reply>, NetlinkError>>, NetlinkError> {
        let mut results = Vec::with_capacity(messages.len());
        for messages in messages.chunks(AT_ONCE) {
            let mut bytes = Vec::with_capacity(64 * messages.len());
            let mut sequence = self.sequence;
            for message in messages {
                self.sequence = self.sequence.wrapping_add(1);
                message.write(self.sequence, &mut bytes)?;
            }
            self.send(&bytes)?;
            for _ in messages {
                sequence = sequence.wrapping_add(1);
                results.push(match self.acknowledged(sequence) {
                    Ok(replies) => Ok(replies),
                    Err(refused @ NetlinkError::Kernel(..)) => Err(refused),
                    Err(error) => return Err(error),
                });
            }
        }
        Ok(results)
    }

    /// Waits for the answer to one request; the kernel answers each in pieces
    /// of its own, in order.
    fn acknowledged(&mut self, sequence: u32) -> std::result::Result<Vec<Reply>, NetlinkError> {
        let (mut replies, mut progress) = (Vec::new(), Progress::default());
        while !progress.done {
            if !self.receive()? {
                return Err(NetlinkError::Lost);
            }
            read_messages(&self.buffer, sequence, &mut replies, &mut progress)?;
        }
        Ok(replies)
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        retry(|| self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0)).map(drop)
    }

    /// Reads the next piece into the buffer; `false` when some were lost.
    pub(super) fn receive(&mut self) -> std::result::Result<bool, NetlinkError> {
        loop {
            self.buffer.clear();
            let received = retry(|| self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC));
            match received {
                Ok((length, _)) if length > self.buffer.len() => {
                    return Err(NetlinkError::Malformed);
                }
                // Only the kernel is believed.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => return Ok(true),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Reads one piece of an answer. The flag that tells of an interruption may be
/// on any message, the last one included.
fn read_messages(
    mut bytes: &[u8],
    sequence: u32,
    replies: &mut Vec<Reply>,
    progress: &mut Progress,
) -> std::result::Result<(), NetlinkError> {
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let kind = u16::from_ne_bytes([k0, k1]);
        let flags = u16::from_ne_bytes([f0, f1]);
        let payload = bytes.get(HEADER..length).ok_or(NetlinkError::Malformed)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        if u32::from_ne_bytes([s0, s1, s2, s3]) != sequence {
            continue;
        }
        progress.interrupted |= flags & NLM_F_DUMP_INTR != 0;
        match kind {
            NLMSG_DONE | NLMSG_ERROR => {
                progress.done = true;
                let code = payload
                    .first_chunk()
                    .map_or(0, |code| i32::from_ne_bytes(*code));
                match code.wrapping_neg() {
                    0 => {}
                    libc::EINTR => progress.interrupted = true,
                    errno => {
                        return Err(NetlinkError::Kernel(
                            errno,
                            Said::read(kind, flags, payload),
                        ));
                    }
                }
            }
            NLMSG_OVERRUN => progress.interrupted = true,
            _ => replies.push(Reply {
                kind,
                payload: payload.to_vec(),
            }),
        }
    }
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn read(bytes: &[u8]) -> (std::result::Result<(), NetlinkError>, usize, Progress) {
        let (mut replies, mut progress) = (Vec::new(), Progress::default());
        let result = read_messages(bytes, 7, &mut replies, &mut progress);
        (result, replies.len(), progress)
    }

    #[test]
    fn a_piece_with_several_messages_and_the_end() {
        let mut bytes = message(16, 2, 7, b"abc");
        bytes.extend(message(16, 2, 6, b"of an earlier question"));
        bytes.extend(message(16, 2, 7, b"defg"));
        let (result, replies, progress) = read(&bytes);
        assert!(result.is_ok() && replies == 2 && !progress.done && !progress.interrupted);
        bytes.extend(message(NLMSG_DONE, 2, 7, &0i32.to_ne_bytes()));
        let (result, replies, progress) = read(&bytes);
        assert!(result.is_ok() && replies == 2 && progress.done && !progress.interrupted);
    }

    #[test]
    fn errors_and_interruptions_are_seen() {
        let error = message(NLMSG_ERROR, 0, 7, &(-libc::EPERM).to_ne_bytes());
        assert!(matches!(
            read(&error).0,
            Err(NetlinkError::Kernel(libc::EPERM, _))
        ));
        let done = message(NLMSG_DONE, NLM_F_DUMP_INTR, 7, &0i32.to_ne_bytes());
        let (_, _, progress) = read(&done);
        assert!(progress.done && progress.interrupted);
        let done = message(NLMSG_DONE, 0, 7, &(-libc::EINTR).to_ne_bytes());
        assert!(read(&done).2.interrupted);
    }

    #[test]
    fn what_the_kernel_says_of_a_refusal_is_told() {
        let told = |kind, before: &[u8], said: &[u8]| {
            let length = u16::try_from(4 + said.len()).unwrap();
            let attribute = [&length.to_ne_bytes()[..], &1u16.to_ne_bytes(), said].concat();
            let payload = [&(-libc::EACCES).to_ne_bytes(), before, &attribute].concat();
            let bytes = message(kind, NLM_F_ACK_TLVS, 7, &payload);
            read(&bytes).0.unwrap_err().to_string()
        };
        let reason = b"IPv6 is disabled on this device.\0";
        let expected = "Permission denied (os error 13): IPv6 is disabled on this device";
        assert_eq!(told(NLMSG_ERROR, &[0; HEADER], reason), expected);
        assert_eq!(told(NLMSG_DONE, &[], reason), expected);
        for nothing in [&b""[..], b"\0", b"\xff\xfe\0"] {
            let said = told(NLMSG_ERROR, &[0; HEADER], nothing);
            assert!(
                said.starts_with("Permission denied (os error 13)"),
                "{said}"
            );
        }
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_panic() {
        let mut bytes = message(16, 0, 7, b"abcd");
        bytes[0] = 200;
        assert!(matches!(read(&bytes).0, Err(NetlinkError::Malformed)));
        bytes[0] = 3;
        assert!(matches!(read(&bytes).0, Err(NetlinkError::Malformed)));
        assert!(read(&[1, 2, 3]).0.is_ok());
    }
}
