//! Which system calls the broker makes that can fail, and how. Found with `strace -c` over the
//! scenarios. Left out are:
//!
//! - what cannot fail with the arguments that it has (sigaltstack, gettid), and close, which frees the
//!   descriptor whatever it says;
//! - EAGAIN of what is sent: the kernel never says it while there is room, and who waits for room waits
//!   for an event that has been. `hostile/never-reads` and `flood` have the real one.
//! - EAGAIN of what is read: the kernel never says it while there is something to read, and who
//!   believes it waits for more, rightly;
//! - write and recvfrom: the wake-ups of the threads and of signals, which are an eventfd and a socket
//!   pair that do not block, cannot fail, and tokio ends the process if they do;
//! - ENOMEM and ENOBUFS of a message: whoever it was to or from is disconnected, and the bus, which has
//!   such a connection too, is taken for gone;
//! - mmap and mprotect: Rust's library aborts a thread that has no alternative signal stack, and an
//!   allocation that fails.

/// A system call, and the errors that its manual page has for it.
pub(super) struct Fault {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The call's.
    pub call: &'static str,
    /// Errors, as strace has them.
    pub errors: &'static [&'static str],
}

macro_rules! fault {
    ($call:literal, $($error:literal),+) => {
        Fault { scenario: concat!("faults/", $call), call: $call, errors: &[$($error),+] }
    };
}

/// In alphabetical order.
pub(super) const FAULTS: &[Fault] = &[
    fault!("accept4", "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "ECONNABORTED", "EINTR", "EPERM"),
    fault!("clone3", "EAGAIN", "ENOMEM"),
    fault!("epoll_ctl", "ENOMEM", "ENOSPC"),
    fault!("epoll_wait", "EINTR"),
    fault!("eventfd2", "EMFILE", "ENFILE", "ENOMEM", "ENODEV"),
    fault!("fcntl", "EMFILE", "EINTR", "EAGAIN"),
    fault!("ftruncate", "EINTR", "EFBIG"),
    fault!("futex", "EINTR", "EAGAIN"),
    fault!("getrandom", "EINTR", "ENOSYS"),
    fault!("getsockopt", "ENOMEM", "ENOPROTOOPT"),
    fault!("memfd_create", "EMFILE", "ENFILE", "ENOMEM"),
    fault!("openat", "EMFILE", "ENFILE", "ENOMEM", "EINTR", "ENODEV"),
    fault!("pipe2", "EMFILE", "ENFILE"),
    fault!("read", "EINTR"),
    fault!("readlink", "ENOMEM"),
    fault!("recvmsg", "EINTR"),
    fault!("sendmsg", "EINTR"),
    fault!("statx", "ENOMEM", "ENODEV"),
];
