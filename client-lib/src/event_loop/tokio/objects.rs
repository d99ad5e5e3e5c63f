//! Fences, points and losses as futures.

use std::future::poll_fn;
use std::task::{Context, Poll};

use dmashare_proto::message::{GuardKind, PointState};
use dmashare_proto::{Reply, Request};
use nix::poll::PollFlags;
use tokio::io::Interest;

use super::wait::{Asking, Wait};
use super::watch;
use crate::connection::Connection;
use crate::deadline::{Deadline, wait_for};
use crate::device::Device;
use crate::error::Error;
use crate::fence::ImportedFence;
use crate::fence_end::{Ended, Look};
use crate::fence_status::FenceStatus;
use crate::handle::Handle;
use crate::inner::Answer;
use crate::timeline::Timeline;

impl Connection {
    /// Until a device of this connection's is lost: feature `tokio`. Needs no event to be read, and takes none.
    /// Of a loss that is rehearsed for this client alone it tells too.
    ///
    /// ```no_run
    /// use dmashare::{Connection, Device, Error, ImportedFence};
    ///
    /// /// Whether the frame is there before its device is lost.
    /// async fn frame(broker: &Connection, device: &Device, fence: ImportedFence) -> Result<bool, Error> {
    ///     tokio::select! {
    ///         status = fence.wait_async() => Ok(matches!(status?, dmashare::FenceStatus::Ok { .. })),
    ///         lost = broker.lost(device) => lost.map(|()| false),
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::Disconnected`], also where the connection is then made anew: a device of the former one is
    /// lost from then on.
    ///
    /// # Panics
    /// When it is polled outside of a runtime of tokio's with I/O.
    pub async fn lost(&self, device: &Device) -> Result<(), Error> {
        if device.is_lost() {
            return Ok(());
        }
        let mut wait = Wait::new(&self.current())?;
        poll_fn(|cx| poll_lost(&mut wait, device, cx)).await
    }
}

fn poll_lost(wait: &mut Wait, device: &Device, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
    wait.poll(cx, |inner| (device.is_lost() || inner.imports.was_lost(device.id())).then_some(()))
}

impl ImportedFence {
    /// Waits until it ends: feature `tokio`. Never [`FenceStatus::Pending`]. For a source that was passed on
    /// ([`GuardKind::Source`]) the loss of its device ends the wait as well; but of a loss that comes when
    /// the connection has ended nobody tells, so put a time on a wait for one.
    ///
    /// # Errors
    /// As [`ImportedFence::status`]. The broker's answer is waited for without end; tokio has timeouts.
    ///
    /// # Panics
    /// When it is polled outside of a runtime of tokio's with I/O.
    pub async fn wait_async(&self) -> Result<FenceStatus, Error> {
        let (id, device) = (self.id(), self.device());
        let Some(fd) = self.fd() else { return Ok(FenceStatus::new(id, device.id(), self.state)) };
        let ended = Ended { handle: &self.handle, guard: self.guard, fd };
        let watch = watch(fd, Interest::READABLE)?;
        // Nobody but its driver ends a source that was passed on, if that.
        let mut loss = match self.guard {
            GuardKind::Source => Wait::new(&self.handle.inner).ok(),
            _ => None,
        };
        let errno = loop {
            let ready = poll_fn(|cx| {
                if let Poll::Ready(ready) = watch.poll_read_ready(cx) {
                    return Poll::Ready(ready.map(Some));
                }
                // Also where the connection has ended, and nothing can be waited for on it.
                if self.guard == GuardKind::Source && device.is_lost() {
                    return Poll::Ready(Ok(None));
                }
                match loss.as_mut().map(|wait| poll_lost(wait, device, cx)) {
                    Some(Poll::Ready(Ok(()))) => return Poll::Ready(Ok(None)),
                    // Without a connection nobody tells of a loss.
                    Some(Poll::Ready(Err(_))) => loss = None,
                    _ => {}
                }
                Poll::Pending
            });
            let ready = ready.await.map_err(|error| Error::io("cannot wait for a fence", error))?;
            let Some(mut ready) = ready else { break None };
            let is_over = wait_for(fd, PollFlags::POLLIN, Deadline::now())
                .map_err(|error| Error::io("cannot wait for a fence", error))?;
            if is_over.is_empty() {
                ready.clear_ready();
                continue;
            }
            match ended.look() {
                Look::Known(FenceStatus::Pending) => ready.clear_ready(),
                Look::Known(status) => return Ok(status),
                Look::Ask(errno) => break errno,
            }
        };
        ended.judge(errno, self.handle.query_async().await)
    }
}

impl Handle {
    async fn query_async(&self) -> Result<dmashare_proto::message::FenceState, Error> {
        let request = Request::QueryFence(self.id);
        let mut asking = Asking::new(&self.inner, &request, None)?;
        match poll_fn(|cx| asking.poll(cx)).await? {
            Answer::Plain(Reply::FenceState(state)) => Ok(state),
            Answer::Plain(Reply::Error(error)) => Err(Error::Broker(error)),
            other => Err(self.inner.nonsense(&request, other)),
        }
    }
}

impl Timeline {
    /// Waits until a point is over: feature `tokio`. As [`Timeline::wait`] without a time; of a future that is
    /// dropped the broker goes on to keep the question, which the next wait for the point takes up again.
    ///
    /// # Errors
    /// As there, but for [`Error::TimeUp`].
    ///
    /// # Panics
    /// When it is polled outside of a runtime of tokio's with I/O.
    pub async fn wait_async(&self, point: u64) -> Result<(), Error> {
        let request = Request::WaitPoint(self.at(point));
        let asking = Asking::new(self.inner(), &request, self.take_open(point))?;
        let mut wait = PointWait { timeline: self, point, asking };
        let answer = poll_fn(|cx| wait.asking.poll(cx)).await?;
        let state: PointState = self.over(&request, answer)?;
        self.outcome(point, state)
    }
}

/// The wait of one task for a point.
struct PointWait<'a> {
    timeline: &'a Timeline,
    point: u64,
    asking: Asking,
}

impl Drop for PointWait<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.asking.leave_open() {
            self.timeline.keep_open(self.point, id);
        }
    }
}
