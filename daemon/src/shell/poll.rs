//! Descriptors in tokio's reactor.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor for reading alone. A socket that were registered for writing too would wake the
/// service whenever its client takes an answer out.
///
/// # Errors
/// epoll's.
pub(super) fn register(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    register_for(fd, Interest::READABLE)
}

/// Registers a full socket for writing, beside [`register`]: by another descriptor, since epoll has each
/// once.
///
/// # Errors
/// epoll's; there is no descriptor left.
pub(super) fn register_room(fd: &OwnedFd) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    register_for(Arc::new(fd.try_clone()?), Interest::WRITABLE)
}

fn register_for(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the AsyncFd holds a share of the descriptor, so it stays open, and the same, for as
    // long as it is registered.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
