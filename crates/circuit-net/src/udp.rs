//! A server's side of short questions: many datagrams taken and sent at a time,
//! and each answered from the address that was asked.

use std::io::{self, IoSlice};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrStorage, bind,
    listen, sendmsg, setsockopt, socket, sockopt,
};

/// As many datagrams are taken and sent with one call.
pub const BATCH: usize = 32;
/// Bytes of the kernel's memory for datagrams that wait to be taken.
const QUEUE: usize = 4 << 20;
/// The longest datagram that is taken; a longer one is cut.
pub const LONGEST: usize = 4096;

/// Where a datagram came from, and to which of this host's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The sender.
    pub peer: SocketAddr,
    /// The address that was written to; none when the socket has only one.
    pub local: Option<IpAddr>,
}

/// Listens. With `early`, the address need not be usable yet, as one of IPv6 is
/// not while the kernel looks for others that have it. The socket never blocks.
///
/// # Errors
/// The kernel's.
pub fn listen_udp(address: SocketAddr, early: bool) -> io::Result<std::net::UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family(address), SockType::Datagram, flags, None)?;
    let any = address.ip().is_unspecified();
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        if any {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    } else if any {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    if early {
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    // Only root may have more than others; without it, a burst loses some.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &QUEUE);
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket.into())
}

/// Takes the datagrams that are there, [`BATCH`] at most, into the place of those
/// in `batch`.
///
/// # Errors
/// `WouldBlock` when there is none, and the kernel's.
pub fn receive(socket: &impl AsFd, batch: &mut Batch) -> io::Result<()> {
    batch.count = 0;
    batch.reset();
    batch.count = batch.call(socket.as_fd(), BATCH, Call::Receive)?;
    Ok(())
}

/// Sends answers, each along the way its question came, and empties the batch.
/// What the kernel does not take is dropped, as any datagram may be: who asked
/// will ask again.
pub fn send(socket: &impl AsFd, answers: &mut Batch) {
    while answers.count > 0 {
        let count = answers.count;
        let done = match answers.call(socket.as_fd(), count, Call::Send) {
            Ok(0) => break,
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // It is about the first of them: its sender is unreachable.
            Err(_) => 1,
        };
        answers.forget(done);
    }
    answers.count = 0;
}

/// Sends one answer, along the way its question came.
///
/// # Errors
/// The kernel's, and when it is too long.
pub fn send_one(socket: &impl AsFd, answer: &[u8], path: Path) -> io::Result<()> {
    let peer = SockaddrStorage::from(path.peer);
    let (v4, v6);
    let from = match path.local {
        Some(IpAddr::V4(ip)) => {
            v4 = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from(ip).to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            vec![ControlMessage::Ipv4PacketInfo(&v4)]
        }
        Some(IpAddr::V6(ip)) => {
            v6 = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: ip.octets(),
                },
                ipi6_ifindex: 0,
            };
            vec![ControlMessage::Ipv6PacketInfo(&v6)]
        }
        None => Vec::new(),
    };
    let parts = [IoSlice::new(answer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    sendmsg(
        socket.as_fd().as_raw_fd(),
        &parts,
        &from,
        flags,
        Some(&peer),
    )?;
    Ok(())
}

/// Listens for TCP; with `early` as [`UdpServer::bind`]. The listener never
/// blocks.
///
/// # Errors
/// The kernel's.
pub fn listen_tcp(address: SocketAddr, early: bool) -> io::Result<std::net::TcpListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family(address), SockType::Stream, flags, None)?;
    // A restart must not wait for the streams of the former life.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if early {
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    // As many as the host lets wait (`net.core.somaxconn`).
    listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(socket.into())
}

fn family(address: SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// What one control message takes: the kernel's note of the address.
const CONTROL: usize = 64;

/// Aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// Datagrams in memory of their own.
pub struct Batch {
    bytes: Vec<[u8; LONGEST]>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    count: usize,
    any: bool,
}

// SAFETY: the pointers in `vectors` and `headers` are written before each call,
// from memory that the batch owns, and are not used else.
#[allow(unsafe_code)]
unsafe impl Send for Batch {}

enum Call {
    Receive,
    Send,
}

impl Batch {
    /// An empty batch. `any`: for a socket that listens on all addresses, so that
    /// each answer must be told where it comes from.
    #[allow(unsafe_code)]
    pub fn new(any: bool) -> Self {
        // SAFETY: all of these are plain numbers and pointers, for which zero is
        // a value.
        let (name, vector, header) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Self {
            bytes: vec![[0; LONGEST]; BATCH],
            names: vec![name; BATCH],
            controls: vec![Control([0; CONTROL]); BATCH],
            vectors: vec![vector; BATCH],
            headers: vec![header; BATCH],
            count: 0,
            any,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A datagram's bytes, and where it came from; none when there is no such one,
    /// or when it came from nowhere that can be answered.
    pub fn get(&self, at: usize) -> Option<(&[u8], Path)> {
        let header = self.headers.get(at).filter(|_| at < self.count)?;
        let length = usize::try_from(header.msg_len).ok()?;
        let bytes = self.bytes.get(at)?.get(..length)?;
        let peer = address(self.names.get(at)?)?;
        let local = self.any.then(|| self.local(at)).flatten();
        Some((bytes, Path { peer, local }))
    }

    /// Adds an answer; false when there is no room for it.
    pub fn push(&mut self, answer: &[u8], path: Path) -> bool {
        let at = self.count;
        let room = self
            .bytes
            .get_mut(at)
            .and_then(|b| b.get_mut(..answer.len()));
        let (Some(room), Some(name)) = (room, self.names.get_mut(at)) else {
            return false;
        };
        room.copy_from_slice(answer);
        let name_length = write_address(name, path.peer);
        let (Some(header), Some(vector)) = (self.headers.get_mut(at), self.vectors.get_mut(at))
        else {
            return false;
        };
        vector.iov_len = answer.len();
        header.msg_hdr.msg_namelen = name_length;
        header.msg_hdr.msg_controllen = match (path.local, self.controls.get_mut(at)) {
            (Some(local), Some(control)) => write_local(control, local) as _,
            _ => 0,
        };
        self.count += 1;
        true
    }

    /// Room for as much as can come.
    fn reset(&mut self) {
        for (header, vector) in self.headers.iter_mut().zip(&mut self.vectors) {
            vector.iov_len = LONGEST;
            header.msg_hdr.msg_namelen = length_of::<libc::sockaddr_storage>();
            header.msg_hdr.msg_controllen = if self.any { CONTROL as _ } else { 0 };
            header.msg_len = 0;
        }
    }

    /// The first ones are done with; the rest moves up.
    fn forget(&mut self, done: usize) {
        if done > 0 && done < self.count {
            self.headers.rotate_left(done);
            self.vectors.rotate_left(done);
            self.names.rotate_left(done);
            self.controls.rotate_left(done);
            self.bytes.rotate_left(done);
        }
        self.count = self.count.saturating_sub(done);
    }

    #[allow(unsafe_code)]
    fn call(&mut self, socket: BorrowedFd<'_>, count: usize, call: Call) -> io::Result<usize> {
        for at in 0..count.min(BATCH) {
            let header = &mut self.headers[at].msg_hdr;
            self.vectors[at].iov_base = self.bytes[at].as_mut_ptr().cast();
            header.msg_name = (&raw mut self.names[at]).cast();
            header.msg_iov = &raw mut self.vectors[at];
            header.msg_iovlen = 1;
            header.msg_control = match header.msg_controllen {
                0 => std::ptr::null_mut(),
                _ => (&raw mut self.controls[at]).cast(),
            };
            header.msg_flags = 0;
        }
        // Not by the C library: musl's sends one at a time. The headers began as
        // zeroes, so that what is padding there is the rest of the kernel's numbers.
        let call = match call {
            Call::Receive => libc::SYS_recvmmsg,
            Call::Send => libc::SYS_sendmmsg,
        };
        let no_timeout = std::ptr::null_mut::<libc::timespec>();
        // SAFETY: `count` headers are there, and what they point to is memory of
        // this batch, of the lengths they tell, which nothing else uses meanwhile.
        // Sending takes no notice of the timeout.
        let done = unsafe {
            libc::syscall(
                call,
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count.min(BATCH) as libc::c_uint,
                libc::MSG_DONTWAIT,
                no_timeout,
            )
        };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }

    /// The address that was written to, from the kernel's note.
    fn local(&self, at: usize) -> Option<IpAddr> {
        let length = self.headers.get(at)?.msg_hdr.msg_controllen;
        let control = &self.controls.get(at)?.0;
        // One message: its header, then the note.
        if length < HEADER as _ {
            return None;
        }
        let (level, kind) = (number(control, SIZE)?, number(control, SIZE + 4)?);
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // The index of the interface, the address to answer from, and the
                // one in the packet.
                let octets: [u8; 4] = control.get(HEADER + 4..HEADER + 8)?.try_into().ok()?;
                Some(Ipv4Addr::from(octets).into())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets: [u8; 16] = control.get(HEADER..HEADER + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(octets).into())
            }
            _ => None,
        }
    }
}

/// A `size_t`, to which control messages are padded.
const SIZE: usize = size_of::<usize>();
/// A control message's header: its length as a `size_t`, level and type.
const HEADER: usize = SIZE + 8;

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(i32::from_ne_bytes(bytes))
}

/// Has the kernel answer from that address. Returns how long the note is.
fn write_local(control: &mut Control, local: IpAddr) -> usize {
    let (level, kind, note) = match local {
        IpAddr::V4(ip) => {
            let mut note = [0_u8; 20];
            note[4..8].copy_from_slice(&ip.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, (note, 12))
        }
        IpAddr::V6(ip) => {
            let mut note = [0_u8; 20];
            note[..16].copy_from_slice(&ip.octets());
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, (note, 20))
        }
    };
    let (note, length) = note;
    let whole = HEADER + length;
    control.0[..SIZE].copy_from_slice(&whole.to_ne_bytes());
    control.0[SIZE..SIZE + 4].copy_from_slice(&level.to_ne_bytes());
    control.0[SIZE + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
    control.0[HEADER..whole].copy_from_slice(&note[..length]);
    whole.next_multiple_of(SIZE)
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

#[allow(unsafe_code)]
fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is large enough and aligned for every address,
            // and the family says which one is in it.
            let it = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(it.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(it.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let it = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(it.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(it.sin6_port), 0, it.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[allow(unsafe_code)]
fn write_address(name: &mut libc::sockaddr_storage, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: the storage is large enough and aligned for every address.
            let it = unsafe { &mut *(&raw mut *name).cast::<libc::sockaddr_in>() };
            it.sin_family = libc::AF_INET as libc::sa_family_t;
            it.sin_port = address.port().to_be();
            it.sin_addr.s_addr = u32::from(*address.ip()).to_be();
            length_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            // SAFETY: as above.
            let it = unsafe { &mut *(&raw mut *name).cast::<libc::sockaddr_in6>() };
            it.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            it.sin6_port = address.port().to_be();
            it.sin6_flowinfo = 0;
            it.sin6_addr.s6_addr = address.ip().octets();
            it.sin6_scope_id = address.scope_id();
            length_of::<libc::sockaddr_in6>()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    /// Every datagram comes back to its sender, from the address it was sent to.
    fn echo(listen: &str, asked: &[&str]) {
        let server = listen_udp(listen.parse().unwrap(), false).unwrap();
        let any = server.local_addr().unwrap().ip().is_unspecified();
        let port = server.local_addr().unwrap().port();
        let clients: Vec<UdpSocket> = asked
            .iter()
            .map(|ip| {
                let ip: IpAddr = ip.parse().unwrap();
                let own: IpAddr = match ip {
                    IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                let client = UdpSocket::bind((own, 0)).unwrap();
                client
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .unwrap();
                // A connected socket hears its peer only.
                client.connect((ip, port)).unwrap();
                client
            })
            .collect();
        for (at, client) in clients.iter().enumerate() {
            for n in 0..3 {
                client.send(format!("{at}-{n}").as_bytes()).unwrap();
            }
        }
        let (mut questions, mut answers) = (Batch::new(any), Batch::new(any));
        let mut seen = 0;
        while seen < 3 * clients.len() {
            match receive(&server, &mut questions) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                other => other.unwrap(),
            }
            for at in 0..questions.len() {
                let (bytes, path) = questions.get(at).unwrap();
                assert_eq!(path.local.is_some(), any);
                assert!(answers.push(bytes, path));
                seen += 1;
            }
            send(&server, &mut answers);
            assert!(answers.is_empty());
        }
        for (at, client) in clients.iter().enumerate() {
            for n in 0..3 {
                let mut buffer = [0; 64];
                let length = client.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], format!("{at}-{n}").as_bytes());
            }
        }
    }

    #[test]
    fn answers_go_back_the_way_their_questions_came() {
        echo("127.0.0.1:0", &["127.0.0.1"]);
        echo("0.0.0.0:0", &["127.0.0.1", "127.0.0.2", "127.8.9.10"]);
        echo("[::1]:0", &["::1"]);
        echo("[::]:0", &["::1"]);
    }

    #[test]
    fn what_cannot_be_sent_does_not_hold_up_the_rest() {
        let server = listen_udp("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let path = |peer| Path { peer, local: None };
        let mut answers = Batch::new(false);
        // Nobody can be written to at port 0.
        assert!(answers.push(b"lost", path("127.0.0.1:0".parse().unwrap())));
        for n in 0..5_u8 {
            assert!(answers.push(&[n], path(client.local_addr().unwrap())));
        }
        send(&server, &mut answers);
        let mut buffer = [0; 8];
        for n in 0..5_u8 {
            assert_eq!(client.recv(&mut buffer).unwrap(), 1);
            assert_eq!(buffer[0], n);
        }
    }

    #[test]
    fn a_batch_takes_no_more_than_it_has_room_for() {
        let path = Path {
            peer: "127.0.0.1:9".parse().unwrap(),
            local: None,
        };
        let mut answers = Batch::new(false);
        assert!(!answers.push(&[0; LONGEST + 1], path));
        for _ in 0..BATCH {
            assert!(answers.push(&[0; 8], path));
        }
        assert!(!answers.push(&[0; 8], path));
        assert!(answers.get(BATCH).is_none());
    }
}
