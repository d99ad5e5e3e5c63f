//! Requests on their way out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use dmashare_proto::codec::encode;
use dmashare_proto::transport::send;
use dmashare_proto::{Request, WireError};
use nix::poll::PollFlags;

use super::{Channel, Handler, Slot};
use crate::deadline::{Deadline, wait_for};
use crate::error::Error;

/// Requests without a waiter that are out at once. Their answers queue up in the broker while nobody
/// reads, and it cuts off a client that lets too many do so (PROTOCOL.md, section 11).
const WINDOW: usize = 64;

impl<A, N> Channel<A, N> {
    /// Sends a request and waits for its answer. Until the deadline: what the broker answers after
    /// that goes to [`Handler::unwanted`].
    pub(crate) fn call<H>(
        &self,
        handler: &H,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<A, Error>
    where
        H: Handler<Answer = A, Notice = N>,
    {
        let id = self.start(handler, request, fds, deadline)?;
        match self.wait(handler, id, deadline)? {
            Some(answer) => Ok(answer),
            None => self
                .leave(id, Slot::Abandoned)
                .ok_or_else(|| Error::NoAnswer { request: request.name() }),
        }
    }

    /// Sends a request; gives the id to wait for.
    pub(super) fn start<H>(
        &self,
        handler: &H,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<u64, Error>
    where
        H: Handler<Answer = A, Notice = N>,
    {
        let id = self.reserve(Slot::Waiting)?;
        let sent = encode(request, id, fds.len())
            .map_err(too_large)
            .and_then(|bytes| self.send(handler, request, &bytes, fds, deadline));
        if let Err(error) = sent {
            self.lock().slots.remove(&id);
            return Err(error);
        }
        Ok(id)
    }

    /// Sends a request whose answer nobody waits for. Never blocks: what there is no room for goes
    /// out when earlier ones are answered, which makes the connection readable.
    pub(crate) fn post(&self, request: &Request) {
        let Ok(id) = self.reserve(Slot::Abandoned) else { return };
        match encode(request, id, 0) {
            Ok(bytes) => self.lock().outbox.push_back(bytes),
            Err(_) => drop(self.lock().slots.remove(&id)),
        }
        self.flush();
    }

    /// Sends what [`Self::post`] left, as far as there is room.
    pub(super) fn flush(&self) {
        let mut state = self.lock();
        // The sends do not block, so the lock is not held across a wait, and keeps their order.
        while state.in_flight < WINDOW
            && let Some(bytes) = state.outbox.front()
        {
            match send(self.socket.as_fd(), bytes, &[]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Sent; or the peer is gone, which whoever reads next finds out.
                _ => {
                    state.outbox.pop_front();
                    state.in_flight += 1;
                }
            }
        }
    }

    pub(super) fn reserve(&self, slot: Slot<A>) -> Result<u64, Error> {
        if self.is_forked() {
            return Err(Error::Forked);
        }
        let mut state = self.lock();
        if let Some(broken) = &state.broken {
            return Err(broken.error());
        }
        let id = state.next_id;
        state.next_id += 1;
        state.slots.insert(id, slot);
        Ok(id)
    }

    fn send<H>(
        &self,
        handler: &H,
        request: &Request,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), Error>
    where
        H: Handler<Answer = A, Notice = N>,
    {
        loop {
            match send(self.socket.as_fd(), bytes, fds) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if deadline.passed() {
                        return Err(Error::NoAnswer { request: request.name() });
                    }
                    self.wait_for_room(handler, deadline)?;
                }
                // The end is there to be read, behind whatever the broker said before it.
                Err(error) if is_hang_up(&error) => return Ok(()),
                Err(source) => return Err(Error::Io { what: "cannot send a request", source }),
            }
        }
    }

    /// Waits until the socket takes more, and reads meanwhile if nobody does: a broker cuts off who
    /// sends without reading.
    fn wait_for_room<H>(&self, handler: &H, deadline: Deadline) -> Result<(), Error>
    where
        H: Handler<Answer = A, Notice = N>,
    {
        let reader = self.try_read();
        let mut flags = PollFlags::POLLOUT;
        flags.set(PollFlags::POLLIN, reader.is_some());
        let ready = wait_for(self.socket.as_fd(), flags, deadline)
            .map_err(|error| Error::io("cannot wait for the broker's socket", error))?;
        match reader {
            Some(mut reader) if ready.intersects(PollFlags::POLLIN) => {
                reader.read_one(handler).map(drop)
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

pub(super) fn too_large(error: WireError) -> Error {
    Error::InvalidArgument(error.message)
}
