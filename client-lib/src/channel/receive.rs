//! Answers and events on their way in.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{MutexGuard, PoisonError};

use dmashare_proto::Reply;
use dmashare_proto::codec::{Incoming, decode_incoming};
use dmashare_proto::transport::{Buffer, Received};
use nix::poll::PollFlags;

use super::{Channel, Handler, Slot, State};
use crate::deadline::{Deadline, wait_for};
use crate::error::Error;

/// Datagrams that one `dispatch` reads at most, so that a flood of them does not keep its caller.
pub(super) const BATCH: usize = 256;

/// The right to read, of one thread at a time. Given back when dropped.
pub(super) struct Reader<'a, A, N> {
    channel: &'a Channel<A, N>,
    /// `None` only while it is dropped.
    buffer: Option<Box<Buffer>>,
}

impl<A, N> Drop for Reader<'_, A, N> {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        state.buffer = self.buffer.take();
        #[cfg(feature = "tokio")]
        let turned_away = state.tasks.turned_away();
        // One of the others has to read now, and which of them still waits is theirs to know.
        self.channel.tell(state);
        #[cfg(feature = "tokio")]
        turned_away.into_iter().for_each(std::task::Waker::wake);
    }
}

impl<A, N> Channel<A, N> {
    /// Becomes the reader, unless there is one.
    pub(super) fn try_read(&self) -> Option<Reader<'_, A, N>> {
        self.reader_from(&mut self.lock())
    }

    pub(super) fn reader_from(&self, state: &mut State<A, N>) -> Option<Reader<'_, A, N>> {
        Some(Reader { channel: self, buffer: Some(state.buffer.take()?) })
    }

    /// Waits for the answer to `id`. `None` if the deadline passes first: its place stays, to wait
    /// again or to [`Self::leave`].
    pub(super) fn wait<H>(
        &self,
        handler: &H,
        id: u64,
        deadline: Deadline,
    ) -> Result<Option<A>, Error>
    where
        H: Handler<Answer = A, Notice = N>,
    {
        let mut state = self.lock();
        loop {
            if matches!(state.slots.get(&id), Some(Slot::Answered(_)))
                && let Some(Slot::Answered(answer)) = state.slots.remove(&id)
            {
                return Ok(Some(answer));
            }
            if let Some(broken) = &state.broken {
                let error = broken.error();
                state.slots.remove(&id);
                return Err(error);
            }
            if deadline.passed() {
                return Ok(None);
            }
            state = match self.reader_from(&mut state) {
                None => self.wait_changed(state, deadline),
                Some(mut reader) => {
                    drop(state);
                    // An error is in the state now, where every waiter finds it.
                    drop(reader.wait_and_read(handler, deadline));
                    drop(reader);
                    self.lock()
                }
            };
        }
    }

    /// Nobody waits for the answer any more, which may have come by now: then it is given.
    pub(super) fn leave(&self, id: u64, left: Slot<A>) -> Option<A> {
        let mut state = self.lock();
        match state.slots.remove(&id)? {
            Slot::Answered(answer) => return Some(answer),
            _ if state.broken.is_some() => return None,
            _ => {}
        }
        state.in_flight += usize::from(matches!(left, Slot::Abandoned));
        state.slots.insert(id, left);
        None
    }

    /// Reads what is there; waits until something is for the owner, or the deadline passes.
    pub(crate) fn dispatch<H>(&self, handler: &H, deadline: Deadline) -> Result<Vec<N>, Error>
    where
        H: Handler<Answer = A, Notice = N>,
    {
        if self.is_forked() {
            return Err(Error::Forked);
        }
        self.flush();
        let mut looked = false;
        let mut state = self.lock();
        loop {
            let mut reader = self.reader_from(&mut state);
            if let (false, Some(reader)) = (looked, &mut reader) {
                drop(state);
                for _ in 0..BATCH {
                    if !matches!(reader.read_one(handler), Ok(true)) {
                        break;
                    }
                }
                looked = true;
                state = self.lock();
            }
            if !state.notices.is_empty() || state.broken.is_some() || deadline.passed() {
                let taken = self.take_notices(&mut state);
                // Dropping the reader takes the lock.
                drop(state);
                drop(reader);
                return taken;
            }
            state = match reader {
                None => self.wait_changed(state, deadline),
                Some(mut reader) => {
                    drop(state);
                    drop(reader.wait_and_read(handler, deadline));
                    drop(reader);
                    self.lock()
                }
            };
        }
    }

    fn take_notices(&self, state: &mut State<A, N>) -> Result<Vec<N>, Error> {
        if state.notices.is_empty() {
            return state.broken.as_ref().map_or(Ok(Vec::new()), |broken| Err(broken.error()));
        }
        // It was written to when the first was queued; EAGAIN would say that it is clear already.
        self.queued.read().ok();
        Ok(state.notices.drain(..).collect())
    }

    fn wait_changed<'a>(
        &self,
        mut state: MutexGuard<'a, State<A, N>>,
        deadline: Deadline,
    ) -> MutexGuard<'a, State<A, N>> {
        state.sleeping += 1;
        let mut state = match deadline.left() {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(left) => {
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.sleeping -= 1;
        state
    }

    /// Puts an answer where it belongs.
    fn answered<H>(
        &self,
        handler: &H,
        id: u64,
        reply: Reply,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Error>
    where
        H: Handler<Answer = A, Notice = N>,
    {
        let name = reply.name();
        {
            // A broker that was restarted between an answer and its note of it gives it again: what it is
            // about is somebody's by now.
            let state = self.lock();
            if !state.slots.contains_key(&id) && id < state.next_id {
                return Ok(());
            }
        }
        let answer = handler.reply(reply, fds)?;
        let unwanted = {
            let mut state = self.lock();
            match state.slots.get_mut(&id) {
                Some(slot @ Slot::Waiting) => {
                    *slot = Slot::Answered(answer);
                    self.tell(state);
                    #[cfg(feature = "tokio")]
                    self.wake_task(id);
                    return Ok(());
                }
                Some(Slot::Abandoned) => {
                    state.slots.remove(&id);
                    state.in_flight = state.in_flight.saturating_sub(1);
                    answer
                }
                Some(Slot::Open) => {
                    state.slots.remove(&id);
                    answer
                }
                _ => {
                    drop(state);
                    handler.unwanted(answer);
                    return Err(Error::Protocol(format!("{name} for request {id}, which is none")));
                }
            }
        };
        handler.unwanted(unwanted);
        Ok(())
    }

    fn noticed(&self, notice: N) -> Result<(), Error> {
        let mut state = self.lock();
        if state.notices.is_empty() {
            self.queued
                .write(1)
                .map_err(|error| Error::io("cannot set the eventfd of queued events", error))?;
        }
        state.notices.push_back(notice);
        self.tell(state);
        // One of them may wait for a loss.
        #[cfg(feature = "tokio")]
        self.wake_tasks();
        Ok(())
    }
}

impl<A, N> Reader<'_, A, N> {
    /// Waits for the socket, and reads one datagram if there is one by then.
    fn wait_and_read<H>(&mut self, handler: &H, deadline: Deadline) -> Result<(), Error>
    where
        H: Handler<Answer = A, Notice = N>,
    {
        match wait_for(self.channel.socket.as_fd(), PollFlags::POLLIN, deadline) {
            Ok(ready) if ready.is_empty() => Ok(()),
            Ok(_) => self.read_one(handler).map(drop),
            Err(error) => {
                Err(self.broken(handler, Error::io("cannot wait for the broker's socket", error)))
            }
        }
    }

    /// Reads one datagram without waiting, and says whether there was one. An error is one of the
    /// connection, which is closed by then.
    pub(super) fn read_one<H>(&mut self, handler: &H) -> Result<bool, Error>
    where
        H: Handler<Answer = A, Notice = N>,
    {
        match self.receive(handler) {
            Ok(false) => Ok(false),
            Ok(true) => {
                self.channel.flush();
                Ok(true)
            }
            Err(error) => Err(self.broken(handler, error)),
        }
    }

    fn broken<H>(&self, handler: &H, error: Error) -> Error
    where
        H: Handler<Answer = A, Notice = N>,
    {
        self.channel.break_off(handler, &error);
        error
    }

    fn receive<H>(&mut self, handler: &H) -> Result<bool, Error>
    where
        H: Handler<Answer = A, Notice = N>,
    {
        let Some(buffer) = &mut self.buffer else { return Ok(false) };
        let (len, fds) = match buffer.receive(self.channel.socket.as_fd()) {
            Ok(Received::Datagram(len, fds)) => (len, fds),
            Ok(Received::Closed) => return Err(Error::Disconnected(None)),
            Ok(Received::Truncated) => {
                return Err(Error::Protocol("a datagram came cut short".to_owned()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(source) => return Err(Error::Io { what: "cannot receive", source }),
        };
        match decode_incoming(buffer.bytes(len), fds.len()) {
            Err(error) => return Err(Error::Protocol(error.error.message)),
            Ok(Incoming::Reply(0, Reply::Error(error))) => {
                self.channel.lock().last_words = Some(error);
            }
            Ok(Incoming::Reply(id, reply)) => self.channel.answered(handler, id, reply, fds)?,
            Ok(Incoming::Event(_)) if !fds.is_empty() => {
                return Err(Error::Protocol("an event came with file descriptors".to_owned()));
            }
            Ok(Incoming::Event(event)) => {
                if let Some(notice) = handler.event(event)? {
                    self.channel.noticed(notice)?;
                }
            }
        }
        Ok(true)
    }
}
