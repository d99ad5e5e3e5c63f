//! Who is at the other end of a socket, and a handle on that process that cannot turn into another
//! (unix(7), pidfd_open(2), pidfd_send_signal(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt};

use crate::poll;

/// SO_PEERPIDFD of include/uapi/asm-generic/socket.h, and sparc's own (Linux 6.5).
const SO_PEERPIDFD: libc::c_int =
    if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) { 0x0056 } else { 77 };

/// The kernel's word on a peer, as of when it connected (or made the socket pair).
#[derive(Debug)]
pub struct PeerCredentials {
    /// The process id, in our namespace; 0 if it is not in it.
    pub pid: i32,
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
    /// The process, for good; `None` if it is gone, or may not be had.
    pub pidfd: Option<OwnedFd>,
}

/// The peer of a connected unix socket.
///
/// The pidfd is the socket's own from Linux 6.5 on. Before, it is opened by number, and could be
/// another process's if the peer has already died and its number was given out again.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
    let pid = credentials.pid();
    let pidfd = match peer_pidfd(socket) {
        Ok(pidfd) => Some(pidfd),
        Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) && pid > 0 => open(pid).ok(),
        Err(_) => None,
    };
    Ok(PeerCredentials { pid, uid: credentials.uid(), gid: credentials.gid(), pidfd })
}

fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is a descriptor, for which `fd` has room.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            ptr::from_mut(&mut fd).cast(),
            &mut len,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has installed a new descriptor (pidfds are close-on-exec), ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A handle on process `pid`. ESRCH if there is none.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has installed a new descriptor (close-on-exec), ours alone. A descriptor
    // fits an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Sends a signal to exactly that process. ESRCH if it is gone, EPERM if we may not.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let info = ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo the kernel makes its own, as for kill(2).
    let rc = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as i32, info, 0)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// When the process that has this id now was started, in the kernel's clock ticks since boot: field 22 of
/// /proc/PID/stat (proc_pid_stat(5)). With the id it names that process and no later one.
///
/// # Errors
/// There is no such process, or it cannot be seen.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    start_of(&stat).ok_or_else(|| io::Error::other("/proc/PID/stat has no start time"))
}

/// The second field, the command, may have anything in it.
fn start_of(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether the process still runs; one that has died but was not waited for does not.
pub fn is_alive(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(!poll::wait_readable(pidfd, Some(Duration::ZERO))?)
}

#[cfg(test)]
mod tests {
    use super::{is_alive, open, peer, send_signal, start_of};
    use nix::sys::signal::Signal;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    #[test]
    fn the_peer_of_our_own_pair_is_us() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = peer(a.as_fd()).unwrap();
        assert_eq!(peer.pid as u32, std::process::id());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(peer.gid, nix::unistd::getegid().as_raw());
        let pidfd = peer.pidfd.expect("a pidfd of ourselves");
        assert!(is_alive(pidfd.as_fd()).unwrap());
    }

    #[test]
    fn a_killed_process_is_dead_before_it_is_waited_for() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = open(child.id() as i32).unwrap();
        assert!(is_alive(pidfd.as_fd()).unwrap());
        send_signal(pidfd.as_fd(), Signal::SIGKILL).unwrap();
        assert!(crate::poll::wait_readable(pidfd.as_fd(), None).unwrap());
        assert!(!is_alive(pidfd.as_fd()).unwrap());
        child.wait().unwrap();
        let error = send_signal(pidfd.as_fd(), Signal::SIGKILL).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
    #[test]
    fn a_command_may_be_called_anything() {
        let fields: Vec<String> = (3..30).map(|n| n.to_string()).collect();
        assert_eq!(start_of(&format!("7 (a) b (c) {}", fields.join(" "))), Some(22));
        assert_eq!(start_of("7 (a"), None);
    }
}
