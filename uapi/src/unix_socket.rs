//! What is under way in a unix socket (unix(7)).

use std::io;
use std::os::fd::BorrowedFd;

use libc::{Ioctl, c_int};

use crate::ioctl::{self, Retry};

/// SIOCOUTQ of include/uapi/linux/sockios.h, which is TIOCOUTQ of asm/ioctls.h.
const SIOCOUTQ: Ioctl = libc::TIOCOUTQ;

/// Bytes that what was sent and not yet received by the other end takes of the sender's buffer, with the
/// kernel's own share of each message (unix_outq_len of net/unix/af_unix.c). 0 once the other end has
/// received all, or has closed. What is received but still being copied may be counted.
///
/// # Errors
/// The kernel's: it is no unix socket, or one that listens.
pub fn unreceived(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: c_int = 0;
    // SAFETY: SIOCOUTQ writes an int.
    unsafe { ioctl::read_write(socket, SIOCOUTQ, Retry::Interrupted, &mut bytes)? };
    Ok(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn what_is_not_received_takes_its_part_and_is_gone_when_received_or_closed() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let there = || unreceived(ours.as_fd()).unwrap();
        assert_eq!(there(), 0);
        ours.send(b"1").unwrap();
        let one = there();
        assert!(one >= 512, "a message of a byte takes {one}");
        ours.send(b"2").unwrap();
        assert_eq!(there(), 2 * one);
        theirs.recv(&mut [0; 8]).unwrap();
        assert_eq!(there(), one);
        drop(theirs);
        assert_eq!(there(), 0);
    }

    #[test]
    fn a_pipe_is_no_socket() {
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(unreceived(reader.as_fd()).is_err());
    }
}
