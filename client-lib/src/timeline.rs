//! Timelines: fences by number, on one drm_syncobj that maker and importers share.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dmashare_proto::message::{
    CreateTimeline, Direction, GuardKind, PointAt, PointState, Policy, SubmitPoint, TimelineInfo,
};
use dmashare_proto::{ObjectId, Reply, Request};
use dmashare_uapi::syncobj::{Syncobj, WaitFor};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::channel::Asked;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::device::Device;
use crate::error::Error;
use crate::fence_status::FenceError;
use crate::handle::{Handle, handle_methods};
use crate::inner::{Answer, Inner};
use crate::token::{Token, deadline_millis};

impl Connection {
    /// Makes a timeline whose points end at the latest when a device is lost: `node` is an open DRM
    /// node of it, and stays the caller's. `policy` as for a fence, but [`Policy::Pass`] is for devices
    /// that cannot be pulled.
    ///
    /// # Errors
    /// The broker refused: the device is lost, [`Policy::Pass`] for one that can be pulled, a quota
    /// used up, no device that is there has timeline syncobjs (`UNSUPPORTED`).
    pub fn create_timeline(
        &self,
        node: BorrowedFd<'_>,
        policy: Policy,
        direction: Direction,
    ) -> Result<Timeline, Error> {
        let request = Request::CreateTimeline(CreateTimeline { policy, direction });
        self.timeline(&request, &[node])
    }

    /// Uses a token for a timeline.
    ///
    /// # Errors
    /// The broker refused: the token is no good, the device is lost, a quota used up.
    pub fn import_timeline(&self, token: Token) -> Result<Timeline, Error> {
        self.timeline(&Request::ImportTimeline(token.0), &[])
    }

    fn timeline(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Timeline, Error> {
        let (inner, answer) = self.ask(request, fds)?;
        match answer {
            Answer::Timeline(info, [syncobj, lost]) => {
                let handle = Handle::new(&inner, info.timeline, info.at)?;
                Ok(Timeline { syncobj, lost, handle, info, open: Mutex::default() })
            }
            other => Err(inner.nonsense(request, other)),
        }
    }
}

/// A drm_syncobj timeline: its points are numbers from 1 that only grow, and each ends, in its turn.
/// Its maker promises points. On an [`Direction::Acquire`] timeline it submits them too, and importers
/// wait; on a [`Direction::Release`] timeline it waits, and importers submit.
///
/// Every point that was promised or submitted ends: with its work done, or with an error when that
/// can not come any more (its device is lost, its deadline has passed, who was to submit it is gone).
/// How it ended is for [`Self::wait`] and [`Self::query`] to tell: the kernel's waits for a syncobj
/// succeed either way (drivers/gpu/drm/drm_syncobj.c). Those two need no DRM device.
///
/// Dropped, its fds are closed, and it is given back without waiting. The syncobj lives on in whoever
/// has it.
pub struct Timeline {
    // Dropped before the handle: first the fds are closed, then the broker is told.
    syncobj: OwnedFd,
    lost: OwnedFd,
    handle: Handle,
    info: TimelineInfo,
    /// Waits that came to no answer in time, by their points; as many for one as threads waited.
    open: Mutex<HashMap<u64, Vec<u64>>>,
}

handle_methods!(Timeline, handle, "The device whose loss ends it.");

impl Timeline {
    /// Who submits its points.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.info.direction
    }

    /// What is put to a point while its source is pending. For [`GuardKind::None`] nothing is, so a
    /// point can be given to a GPU only once it is over; for [`GuardKind::Simulated`] there is no
    /// syncobj at all.
    #[must_use]
    pub fn guard(&self) -> GuardKind {
        self.info.guard
    }

    /// The last point that was promised when it was imported; 0 for none, and for its maker.
    #[must_use]
    pub fn promised(&self) -> u64 {
        self.info.promised
    }

    /// Says that all points up to this one will come; the maker's to say. Those who wait for a
    /// promised point are told if it does not. It makes nothing in the kernel.
    ///
    /// # Errors
    /// The broker refused: the timeline is lost, was imported, the point is not above the last that
    /// was promised or submitted.
    pub fn promise(&self, point: u64) -> Result<(), Error> {
        self.inner().tell(&Request::PromisePoint(self.at(point)))
    }

    /// Hands over the source of a point: `sync_file` ends when its work is done, `node` is an open
    /// DRM node of the device that signals it, which need not be the timeline's. Both fds stay the
    /// caller's. After `deadline` the point ends with ETIMEDOUT; the broker's default for `None`.
    ///
    /// When this returns the point can be given to a GPU, by whoever has the timeline (but see
    /// [`Self::guard`]). It keeps every promise up to it.
    ///
    /// # Errors
    /// The broker refused: the timeline or the device is lost, this side does not submit, the point is
    /// not above the last that was submitted, the fd is no sync_file, the deadline is too long, a quota
    /// used up. [`Error::InvalidArgument`] for a deadline of zero.
    pub fn submit(
        &self,
        point: u64,
        node: BorrowedFd<'_>,
        sync_file: BorrowedFd<'_>,
        deadline: Option<Duration>,
    ) -> Result<(), Error> {
        let deadline_ms = deadline_millis(deadline)?;
        let request = Request::SubmitPoint(SubmitPoint { to: self.at(point), deadline_ms });
        self.inner().tell_with(&request, &[node, sync_file])
    }

    /// The same for a point whose work is done: it ends as soon as those below have.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn submit_done(&self, point: u64) -> Result<(), Error> {
        let request = Request::SubmitPoint(SubmitPoint { to: self.at(point), deadline_ms: 0 });
        self.inner().tell(&request)
    }

    /// Asks the broker how a point stands.
    ///
    /// # Errors
    /// The request failed.
    pub fn query(&self, point: u64) -> Result<PointState, Error> {
        let request = Request::QueryPoint(self.at(point));
        match self.inner().call(&request, &[])? {
            Answer::Plain(Reply::PointState(state)) => Ok(state),
            other => Err(self.inner().nonsense(&request, other)),
        }
    }

    /// Waits until a point is over, at most for `timeout`, or for ever. A point that nobody has
    /// promised is waited for as well, and may never come. Needs no event to be read.
    ///
    /// Of a wait that ends by its time the broker goes on to keep the question, which the next wait
    /// for the point takes up again. So many different points should not be tried that way:
    /// [`Self::query`] leaves nothing behind, nor does a wait without any time.
    ///
    /// # Errors
    /// [`Error::Fence`] with the cause if the point's work is not done; [`Error::TimeUp`]; the request
    /// failed (`OVER_QUOTA`: too many waits are open).
    pub fn wait(&self, point: u64, timeout: Option<Duration>) -> Result<(), Error> {
        let state = match timeout {
            Some(Duration::ZERO) => self.query(point)?,
            _ => self.state_when_over(point, Deadline::after(timeout))?,
        };
        self.outcome(point, state)
    }

    /// What a point's state is to who has waited for it.
    pub(crate) fn outcome(&self, point: u64, state: PointState) -> Result<(), Error> {
        match state {
            PointState::Ok { .. } => Ok(()),
            PointState::Failed { cause, at_ns } => Err(Error::Fence(FenceError {
                cause: Some(cause),
                errno: cause.errno(),
                at: Some(Duration::from_nanos(at_ns)),
                ..self.forgotten(point)
            })),
            PointState::Forgotten => Err(Error::Fence(self.forgotten(point))),
            PointState::Unknown | PointState::Promised | PointState::Pending => {
                Err(Error::TimeUp { timeline: self.id(), point })
            }
        }
    }

    fn state_when_over(&self, point: u64, deadline: Deadline) -> Result<PointState, Error> {
        let inner = self.inner();
        let request = Request::WaitPoint(self.at(point));
        let earlier = self.take_open(point);
        let sent_by = Deadline::after(inner.patience);
        match inner.channel.ask(inner, &request, earlier, sent_by, deadline)? {
            Asked::Answered(answer) => self.over(&request, answer),
            Asked::Open(id) => {
                self.keep_open(point, id);
                Err(Error::TimeUp { timeline: self.id(), point })
            }
        }
    }

    /// The answer to a wait.
    pub(crate) fn over(&self, request: &Request, answer: Answer) -> Result<PointState, Error> {
        match answer {
            Answer::Plain(Reply::PointState(state)) if state.is_over() => Ok(state),
            Answer::Plain(Reply::Error(error)) => Err(Error::Broker(error)),
            other => Err(self.inner().nonsense(request, other)),
        }
    }

    /// A wait for the point that came to no answer in time.
    pub(crate) fn take_open(&self, point: u64) -> Option<u64> {
        self.lock_open().get_mut(&point).and_then(Vec::pop)
    }

    /// Keeps one for the next who waits.
    pub(crate) fn keep_open(&self, point: u64, id: u64) {
        let mut open = self.lock_open();
        self.inner().channel.retain_open(&mut open);
        open.entry(point).or_default().push(id);
    }

    fn lock_open(&self) -> MutexGuard<'_, HashMap<u64, Vec<u64>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forgotten(&self, point: u64) -> FenceError {
        FenceError {
            fence: self.id(),
            point: Some(point),
            device: self.device().id(),
            cause: None,
            errno: Errno::ENODATA as i32,
            at: None,
        }
    }

    /// The drm_syncobj, which DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE takes on any DRM device with timeline
    /// syncobjs, and Vulkan as an opaque fd of a timeline semaphore. Beside it wait for
    /// [`Self::lost_fd`]: points that nobody promised never come after a loss.
    #[must_use]
    pub fn syncobj(&self) -> BorrowedFd<'_> {
        self.syncobj.as_fd()
    }

    /// To be polled beside other files: POLLHUP once the timeline is lost or the broker is gone, and
    /// from then on. Not to be read: others share it.
    #[must_use]
    pub fn lost_fd(&self) -> BorrowedFd<'_> {
        self.lost.as_fd()
    }

    /// An eventfd for an event loop, readable once the point is signalled, well or not: then
    /// [`Self::query`] tells. `drm` is an open DRM node of any device with timeline syncobjs, and stays
    /// the caller's. It is never signalled after the last who has the syncobj has dropped it, so
    /// keep the timeline. DRM_IOCTL_SYNCOBJ_EVENTFD, Linux 6.6 (include/uapi/drm/drm.h).
    ///
    /// # Errors
    /// The kernel's: EOPNOTSUPP for a device without timeline syncobjs, ENODEV for a lost one, EINVAL
    /// before Linux 6.6 and where the broker's timelines are simulated.
    pub fn eventfd(&self, drm: BorrowedFd<'_>, point: u64) -> Result<OwnedFd, Error> {
        let make = || {
            let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            let syncobj = Syncobj::from_fd(drm, self.syncobj())?;
            // The syncobj keeps the eventfd; the handle is only to ask by.
            syncobj.eventfd(point, WaitFor::Signalled, eventfd.as_fd())?;
            Ok(eventfd.into())
        };
        make().map_err(|source: std::io::Error| Error::io("cannot make a point's eventfd", source))
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.handle.inner
    }

    pub(crate) fn at(&self, point: u64) -> PointAt {
        PointAt { timeline: self.id(), point }
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, device, guard) = (self.id(), self.device(), self.guard().name());
        write!(f, "Timeline({id} of {device:?}, {:?}, {guard})", self.direction())
    }
}
