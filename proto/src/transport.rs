//! Datagrams with file descriptors over a SOCK_SEQPACKET socket.
//!
//! A received descriptor is an [`OwnedFd`] with close-on-exec from the first instant
//! (MSG_CMSG_CLOEXEC). A datagram whose control message was cut (MSG_CTRUNC) has lost descriptors
//! that nobody can name any more, so the connection is to be closed; what did arrive is closed.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};

use crate::limits::{MAX_FDS, MAX_MESSAGE};

/// The kernel passes at most 253 descriptors with a message (SCM_MAX_FD). With room for all of them
/// a peer that sends too many is refused by count; only our own fd limit can still cut them short.
const ROOM: usize = 253;

/// What one receive gave.
#[derive(Debug)]
pub enum Received {
    /// A datagram of this many bytes, with its descriptors.
    Datagram(usize, Vec<OwnedFd>),
    /// The peer closed the connection.
    Closed,
    /// The datagram did not fit ([`MAX_MESSAGE`]) or lost descriptors: close the connection.
    Truncated,
}

/// What one receive gave, where the descriptors went into the caller's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// A datagram of this many bytes.
    Datagram(usize),
    /// The peer closed the connection.
    Closed,
    /// As [`Received::Truncated`]; the descriptors that did arrive are in the list.
    Truncated,
}

/// Room for one datagram and its control message; made once for a connection or a loop.
pub struct Buffer {
    bytes: Box<[u8]>,
    /// As `u64` because a control message header wants its alignment.
    control: Box<[u64]>,
}

impl Default for Buffer {
    fn default() -> Self {
        let control = nix::cmsg_space!([RawFd; ROOM]).capacity();
        Self {
            bytes: vec![0; MAX_MESSAGE].into_boxed_slice(),
            control: vec![0; control.div_ceil(size_of::<u64>())].into_boxed_slice(),
        }
    }
}

impl Buffer {
    /// The first `len` bytes: those of the last datagram.
    #[must_use]
    pub fn bytes(&self, len: usize) -> &[u8] {
        &self.bytes[..len]
    }

    /// Receives one datagram without blocking if the socket is non-blocking.
    ///
    /// # Errors
    /// The kernel's, `WouldBlock` among them.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<Received> {
        let mut fds = Vec::new();
        Ok(match self.receive_into(socket, &mut fds)? {
            Got::Datagram(len) => Received::Datagram(len, fds),
            Got::Closed => Received::Closed,
            Got::Truncated => Received::Truncated,
        })
    }

    /// The same, with every descriptor that arrived put into `fds`, also those beside a datagram
    /// that was cut: to close a peer's descriptor can mean to wait for the peer (a FUSE file), so
    /// that is for the caller to do.
    ///
    /// # Errors
    /// The kernel's, `WouldBlock` among them.
    pub fn receive_into(
        &mut self,
        socket: BorrowedFd<'_>,
        fds: &mut Vec<OwnedFd>,
    ) -> io::Result<Got> {
        // Not nix's recvmsg: on MSG_CTRUNC it gives an error in place of the descriptors that did
        // arrive, and they would stay open for ever.
        let mut part =
            libc::iovec { iov_base: self.bytes.as_mut_ptr().cast(), iov_len: self.bytes.len() };
        // SAFETY: all zeros is a msghdr without name, data and control message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = self.control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&*self.control) as _;
        let len = loop {
            // SAFETY: the header points to one buffer for data and one for control messages, both
            // borrowed mutably for the call, with their lengths in bytes.
            let result = unsafe {
                libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC)
            };
            match Errno::result(result) {
                // The kernel tells once that the peer closed without reading all (ECONNRESET), before
                // what it had sent: that is still there, then comes the end.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                other => break other?,
            }
        };
        let before = fds.len();
        take_fds(&message, fds);
        if message.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0 {
            return Ok(Got::Truncated);
        }
        match usize::try_from(len).unwrap_or(0) {
            0 if fds.len() == before => Ok(Got::Closed),
            len => Ok(Got::Datagram(len)),
        }
    }
}

/// The length of a control message: `usize` in glibc, `u32` in musl.
#[allow(clippy::unnecessary_cast, reason = "its type differs between C libraries")]
fn cmsg_len(header: &libc::cmsghdr) -> usize {
    header.cmsg_len as usize
}

/// Takes every descriptor that the kernel installed for a receive.
fn take_fds(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel filled in the header; its control pointer and length are valid.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a header inside the control buffer.
    while let Some(header) = unsafe { control.as_ref() } {
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: `control` points to a control message header.
            let data = unsafe { libc::CMSG_DATA(control) }.cast::<RawFd>();
            // SAFETY: it only computes a length.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = cmsg_len(header).saturating_sub(head) / size_of::<RawFd>();
            for i in 0..count {
                // SAFETY: the message's length says that `count` descriptors follow its header.
                let at = unsafe { data.add(i) };
                // SAFETY: as above; nothing is said of their alignment.
                let raw = unsafe { at.read_unaligned() };
                // SAFETY: the kernel installed it for this call just now and nobody else knows it,
                // so it has one owner from here.
                fds.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        // SAFETY: `control` is a header inside the message's control buffer.
        control = unsafe { libc::CMSG_NXTHDR(message, control) };
    }
}

/// Sends one datagram; the descriptors are borrowed. It goes out whole or not at all.
///
/// # Errors
/// The kernel's: `WouldBlock` where the peer does not read, `BrokenPipe` where it is gone;
/// `InvalidInput` for more than [`MAX_FDS`] descriptors.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} file descriptors; the limit is {MAX_FDS}", fds.len()),
        ));
    }
    let mut raw = [-1; MAX_FDS];
    for (to, fd) in raw.iter_mut().zip(fds) {
        *to = fd.as_raw_fd();
    }
    let rights = [ControlMessage::ScmRights(&raw[..fds.len()])];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Connects to a broker's socket. The connection blocks; the caller may change that.
///
/// # Errors
/// The kernel's: no such socket, nobody listens, no permission.
pub fn connect_to(path: &std::path::Path) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}
