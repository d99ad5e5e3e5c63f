//! Receiving with file descriptors: the one place where the kernel installs other people's
//! descriptors in this process.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// The kernel passes at most 253 descriptors with a message (SCM_MAX_FD). With room for all of them
/// a peer that sends too many is refused by count; only our own fd limit can still cut them short.
const ROOM: usize = 253;

/// Length of a control buffer with room for a header and that many descriptors, in `u64`s: a control
/// message header wants their alignment.
pub const CONTROL_WORDS: usize = (ROOM * size_of::<RawFd>()).div_ceil(8) + 2;

/// Receives once, from a socket of any type. Gives the number of bytes and the flags
/// (`MSG_TRUNC`, `MSG_CTRUNC`: then descriptors may have been lost). Every descriptor that arrived is
/// added to `fds`, close-on-exec from the first instant, whatever the flags say.
///
/// # Errors
/// The kernel's, but for EINTR, after which it is tried again. Then nothing arrived.
pub fn receive_with_fds(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    control: &mut [u64],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<(usize, libc::c_int)> {
    receive_by(0, socket, bytes, control, fds)
}

/// The same, of a message that stays where it is (`MSG_PEEK`): the descriptors are further ones of the
/// same open files.
///
/// # Errors
/// As [`receive_with_fds`].
pub fn peek_with_fds(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    control: &mut [u64],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<(usize, libc::c_int)> {
    receive_by(libc::MSG_PEEK, socket, bytes, control, fds)
}

fn receive_by(
    flags: libc::c_int,
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    control: &mut [u64],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<(usize, libc::c_int)> {
    // Not nix's recvmsg: on MSG_CTRUNC it gives an error in place of the descriptors that did
    // arrive, and they would stay open for ever.
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a msghdr without name, data and control message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(control) as _;
    let len = loop {
        // SAFETY: the header points to one buffer for data and one for control messages, both
        // borrowed mutably for the call, with their lengths in bytes.
        let result = unsafe {
            libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC | flags)
        };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    take_fds(&message, fds);
    Ok((usize::try_from(len).unwrap_or(0), message.msg_flags))
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
