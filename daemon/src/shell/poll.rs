//! Descriptors in tokio's reactor.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor for reading and writing.
///
/// # Errors
/// epoll's.
pub(super) fn register(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the AsyncFd holds a share of the descriptor, so it stays open, and the same, for as
    // long as it is registered.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
