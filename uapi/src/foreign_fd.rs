//! Descriptors of another process: taken out of it, and told apart (pidfd_getfd(2), kcmp(2)). Both need
//! the right to trace it, and neither stops it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// KCMP_FILE of include/uapi/linux/kcmp.h.
const KCMP_FILE: libc::c_int = 0;

/// A descriptor of ours (close-on-exec) of the open file that is `fd` in the process. Linux 5.6.
///
/// EBADF if it has none of that number (any more), EPERM if we may not, ESRCH if it is gone.
pub fn take(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes three numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has installed a new descriptor (close-on-exec), ours alone. A descriptor
    // fits an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Whether descriptors of two processes, (pid, number) each, are of one open file. ENOSYS where the
/// kernel was built without.
pub fn is_same_file(a: (i32, RawFd), b: (i32, RawFd)) -> io::Result<bool> {
    // SAFETY: takes five numbers.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, a.0, b.0, KCMP_FILE, a.1, b.1) };
    if order < 0 { Err(io::Error::last_os_error()) } else { Ok(order == 0) }
}

#[cfg(test)]
mod tests {
    use super::{is_same_file, take};
    use crate::pidfd;
    use std::io::{Read, Write};
    use std::os::fd::{AsFd, AsRawFd};
    use std::process::{Command, Stdio};

    #[test]
    fn what_a_child_has_is_taken() {
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let of_child = pidfd::open(pid).unwrap();
        let taken = take(of_child.as_fd(), 1).unwrap();
        let ours = child.stdout.take().unwrap();
        assert!(is_same_file((pid, 1), (own(), taken.as_raw_fd())).unwrap());
        assert!(!is_same_file((pid, 0), (own(), taken.as_raw_fd())).unwrap());
        let mut other_end = child.stdin.take().unwrap();
        other_end.write_all(b"word").unwrap();
        drop(other_end);
        let mut said = String::new();
        ours.take(4).read_to_string(&mut said).unwrap();
        assert_eq!(said, "word");
        child.wait().unwrap();
        let error = take(of_child.as_fd(), 1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    fn own() -> i32 {
        std::process::id().cast_signed()
    }
}
