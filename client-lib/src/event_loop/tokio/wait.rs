//! A task's wait on a connection, and its questions to the broker.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use dmashare_proto::Request;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::watch;
use crate::channel::{Question, Read};
use crate::error::Error;
use crate::inner::{Answer, Inner};

/// A wait: it reads for all when there is something to read, and is woken when another has read for it.
pub(super) struct Wait {
    inner: Arc<Inner>,
    id: u64,
    /// From when it is polled for the first time.
    socket: Option<AsyncFd<OwnedFd>>,
}

impl Wait {
    pub(super) fn new(inner: &Arc<Inner>) -> Result<Self, Error> {
        Ok(Self::of(inner, inner.channel.new_task()?))
    }

    fn of(inner: &Arc<Inner>, id: u64) -> Self {
        Self { inner: Arc::clone(inner), id, socket: None }
    }

    /// Until `look` finds something, or the connection ends.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&Inner) -> Option<T>,
    ) -> Poll<Result<T, Error>> {
        let channel = &self.inner.channel;
        loop {
            if channel.is_forked() {
                return Poll::Ready(Err(Error::Forked));
            }
            channel.wait_as(self.id, cx.waker());
            // Asked first: what came before the end is found.
            let broken = channel.why_broken();
            if let Some(found) = look(&self.inner) {
                return Poll::Ready(Ok(found));
            }
            if let Some(broken) = broken {
                return Poll::Ready(Err(broken));
            }
            let socket = match &mut self.socket {
                Some(socket) => socket,
                none => none.insert(watch(channel.socket(), Interest::READABLE)?),
            };
            let mut ready = ready!(socket.poll_read_ready(cx)).map_err(cannot_wait)?;
            match channel.read_now(&self.inner, self.id) {
                Read::Some => {}
                Read::Nothing => ready.clear_ready(),
                Read::Busy => return Poll::Pending,
            }
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.inner.channel.wait_no_more(self.id);
    }
}

/// A question to the broker, from before it is sent until its answer is taken.
pub(super) struct Asking {
    wait: Wait,
    question: Question,
    /// While the socket is full.
    room: Option<AsyncFd<OwnedFd>>,
    is_left: bool,
}

impl Asking {
    /// Takes up the question `earlier` if that is still open.
    pub(super) fn new(
        inner: &Arc<Inner>,
        request: &Request,
        earlier: Option<u64>,
    ) -> Result<Self, Error> {
        let question = inner.channel.prepare(request, earlier)?;
        Ok(Self { wait: Wait::of(inner, question.id), question, room: None, is_left: false })
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        if self.question.unsent.is_some() && self.poll_sent(cx)?.is_pending() {
            // The broker cuts off who sends and does not read.
            let nothing = self.wait.poll(cx, |_| None::<Infallible>)?;
            return nothing.map(|never| match never {});
        }
        let id = self.question.id;
        self.wait.poll(cx, |inner| inner.channel.take_answer(id))
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let channel = &self.wait.inner.channel;
        while let Some(bytes) = &self.question.unsent {
            if channel.send_now(bytes)? {
                self.question.unsent = None;
                break;
            }
            let room = match &mut self.room {
                Some(room) => room,
                none => none.insert(watch(channel.socket(), Interest::WRITABLE)?),
            };
            let mut ready = ready!(room.poll_write_ready(cx)).map_err(cannot_wait)?;
            if !channel.send_now(bytes)? {
                ready.clear_ready();
                continue;
            }
            self.question.unsent = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Nobody waits any more: gives the id of a question that stays open, for who takes it up.
    pub(super) fn leave_open(&mut self) -> Option<u64> {
        self.is_left = true;
        let is_open = self.wait.inner.channel.leave_question(&self.question, true);
        is_open.then_some(self.question.id)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.is_left {
            self.wait.inner.channel.leave_question(&self.question, false);
        }
    }
}

fn cannot_wait(error: std::io::Error) -> Error {
    Error::io("cannot wait for the broker's socket", error)
}
