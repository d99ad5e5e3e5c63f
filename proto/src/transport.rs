//! Datagrams with file descriptors over a SOCK_SEQPACKET socket.
//!
//! A received descriptor is an [`OwnedFd`] with close-on-exec from the first instant
//! (MSG_CMSG_CLOEXEC). A datagram whose control message was cut (MSG_CTRUNC) has lost descriptors
//! that nobody can name any more, so the connection is to be closed; what did arrive is closed.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg,
    socket,
};

use crate::fd_passing::{CONTROL_WORDS, peek_with_fds, receive_with_fds};
use crate::limits::{MAX_FDS, MAX_MESSAGE};

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
        Self {
            bytes: vec![0; MAX_MESSAGE].into_boxed_slice(),
            control: vec![0; CONTROL_WORDS].into_boxed_slice(),
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
        self.get_by(receive_with_fds, socket, fds)
    }

    /// The same of the next datagram, which stays in the socket until it is [`skip`]ped: so that it is
    /// not lost with whoever was about to answer it.
    ///
    /// # Errors
    /// As [`Self::receive_into`].
    pub fn peek_into(&mut self, socket: BorrowedFd<'_>, fds: &mut Vec<OwnedFd>) -> io::Result<Got> {
        self.get_by(peek_with_fds, socket, fds)
    }

    fn get_by(
        &mut self,
        get: impl Fn(
            BorrowedFd<'_>,
            &mut [u8],
            &mut [u64],
            &mut Vec<OwnedFd>,
        ) -> io::Result<(usize, libc::c_int)>,
        socket: BorrowedFd<'_>,
        fds: &mut Vec<OwnedFd>,
    ) -> io::Result<Got> {
        let before = fds.len();
        let (len, flags) = loop {
            // The kernel tells once that the peer closed without reading all (ECONNRESET), before
            // what it had sent: that is still there, then comes the end.
            match get(socket, &mut self.bytes, &mut self.control, fds) {
                Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {}
                other => break other?,
            }
        };
        if flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0 {
            return Ok(Got::Truncated);
        }
        match len {
            0 if fds.len() == before => Ok(Got::Closed),
            len => Ok(Got::Datagram(len)),
        }
    }
}

/// Takes the next datagram out of a non-blocking socket, unread. Its descriptors are let go of by the
/// kernel: whoever has peeked at it has others of the same files, so that none is closed by this.
///
/// # Errors
/// The kernel's.
pub fn skip(socket: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        match recv(socket.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
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
    connect_by(path, SockFlag::SOCK_CLOEXEC)
}

/// The same, on a socket that never blocks. EAGAIN: so many wait to be taken in that there is no place
/// for one more.
///
/// # Errors
/// As [`connect_to`].
pub fn connect_now(path: &std::path::Path) -> io::Result<OwnedFd> {
    connect_by(path, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)
}

fn connect_by(path: &std::path::Path, flags: SockFlag) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}
