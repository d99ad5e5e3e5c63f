//! Waiting for a file descriptor, until a moment and no longer.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// A moment to give up at; signals in between do not move it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// After `timeout`; never for `None`, or one too far away to be told.
    pub(crate) fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// That has passed.
    pub(crate) fn now() -> Self {
        Self::after(Some(Duration::ZERO))
    }

    /// This, or another moment that comes first.
    pub(crate) fn or_at(self, at: Instant) -> Self {
        Self(Some(self.0.map_or(at, |own| own.min(at))))
    }

    /// What is left: `None` for ever, zero when it has passed.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn passed(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

/// Waits until `fd` has one of `events` (or an error, or a hang-up); gives what it has, which is
/// empty where the deadline passed first.
pub(crate) fn wait_for(
    fd: BorrowedFd<'_>,
    events: PollFlags,
    deadline: Deadline,
) -> nix::Result<PollFlags> {
    let mut fds = [PollFd::new(fd, events)];
    loop {
        match ppoll(&mut fds, deadline.left().map(TimeSpec::from_duration), None) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(0) => return Ok(PollFlags::empty()),
            // A flag that nix does not know is still a reason to look.
            Ok(_) => return Ok(fds[0].revents().unwrap_or(PollFlags::POLLERR)),
        }
    }
}
