//! Fences: shared with others, and imported from them.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use dmashare_proto::message::{FenceState, GuardKind};
use dmashare_proto::{ObjectId, Reply, Request};
use nix::poll::PollFlags;

use crate::deadline::{Deadline, wait_for};
use crate::device::Device;
use crate::error::Error;
use crate::fence_end::Ended;
use crate::fence_status::FenceStatus;
use crate::handle::{Handle, handle_methods};
use crate::inner::Answer;

/// A fence of this process's that others may wait for. Dropped, it is given back without waiting;
/// importers keep theirs.
pub struct SharedFence {
    pub(crate) handle: Handle,
    pub(crate) guard: GuardKind,
}

handle_methods!(SharedFence, handle, "The device whose driver signals it.");

impl SharedFence {
    /// What importers get.
    #[must_use]
    pub fn guard(&self) -> GuardKind {
        self.guard
    }

    /// Asks the broker how it stands.
    ///
    /// # Errors
    /// The request failed.
    pub fn query(&self) -> Result<FenceStatus, Error> {
        self.handle.query().map(|state| FenceStatus::new(self.id(), self.device().id(), state))
    }
}

impl fmt::Debug for SharedFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedFence({} of {:?}, {})", self.id(), self.device(), self.guard.name())
    }
}

/// A fence of another process's. It always ends: with its work done, or with an error when that can
/// not come any more.
///
/// [`Self::fd`] can be given to whatever waits for a sync_file (KMS, Vulkan, EGL): where its device
/// can be pulled, the broker ends it. How it ended is for [`Self::status`] to tell; the kernel's own
/// waits hide errors.
pub struct ImportedFence {
    pub(crate) handle: Handle,
    pub(crate) guard: GuardKind,
    /// How it stood when it was imported.
    pub(crate) state: FenceState,
    /// While it was pending then.
    pub(crate) fd: Option<OwnedFd>,
}

handle_methods!(ImportedFence, handle, "The device whose driver signals the source.");

impl ImportedFence {
    /// What the fd is.
    #[must_use]
    pub fn guard(&self) -> GuardKind {
        self.guard
    }

    /// The fd to wait on: readable when it has ended. `None` if it had ended when it was imported:
    /// there is nothing to wait for (pass -1 to KMS).
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// The fd as one of the caller's own, for what takes its sync_file over.
    ///
    /// # Errors
    /// The kernel's (EMFILE).
    pub fn dup_fd(&self) -> Result<Option<OwnedFd>, Error> {
        let dup = self.fd.as_ref().map(OwnedFd::try_clone).transpose();
        dup.map_err(|source| Error::Io { what: "cannot duplicate a fence's fd", source })
    }

    /// The fd itself; the fence is given back to the broker, which still ends the guard.
    #[must_use]
    pub fn into_fd(self) -> Option<OwnedFd> {
        self.fd
    }

    /// How it stands, without waiting for it. Where the kernel cannot show an error
    /// ([`GuardKind::Vgem`], [`GuardKind::Simulated`]), or shows one, the broker is asked for the
    /// cause; so a fence that ended well on another kind costs no round trip.
    ///
    /// # Errors
    /// [`Error::Disconnected`] where only the broker could tell; the kernel's.
    pub fn status(&self) -> Result<FenceStatus, Error> {
        self.wait(Some(Duration::ZERO))
    }

    /// Waits until it ends, or the time is up: then it is [`FenceStatus::Pending`]. Needs no event to
    /// be read. The time does not count what the broker needs to say how it ended.
    ///
    /// A source that was passed on ([`GuardKind::Source`]) is its driver's to end. After the loss of
    /// its device that may never come, so wait for one with a timeout: then its loss is told.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn wait(&self, timeout: Option<Duration>) -> Result<FenceStatus, Error> {
        let (id, device) = (self.id(), self.device().id());
        let Some(fd) = self.fd() else { return Ok(FenceStatus::new(id, device, self.state)) };
        let ready = wait_for(fd, PollFlags::POLLIN, Deadline::after(timeout))
            .map_err(|error| Error::io("cannot wait for a fence", error))?;
        let ended = Ended { handle: &self.handle, guard: self.guard, fd };
        if !ready.is_empty() {
            return ended.status();
        }
        // Nobody but its driver ends a source that was passed on, if that. The broker says so.
        if self.guard == GuardKind::Source && self.device().is_lost() {
            return ended.judge(None, self.handle.query());
        }
        Ok(FenceStatus::Pending)
    }
}

impl fmt::Debug for ImportedFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImportedFence({} of {:?}, {})", self.id(), self.device(), self.guard.name())
    }
}

impl Handle {
    pub(crate) fn query(&self) -> Result<FenceState, Error> {
        let request = Request::QueryFence(self.id);
        match self.inner.call(&request, &[])? {
            Answer::Plain(Reply::FenceState(state)) => Ok(state),
            other => Err(self.inner.nonsense(&request, other)),
        }
    }
}
