//! Futures for tokio. Each runs on the runtime that polls it, whose I/O driver it needs; no thread is
//! started, no lock is held across an await, and every future can be dropped at any time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::PollFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::connection::Connection;
use crate::deadline::{Deadline, wait_for};
use crate::error::Error;
use crate::event::Event;

mod objects;
mod wait;

/// A duplicate for the runtime's epoll, which takes a descriptor once.
fn watch(fd: BorrowedFd<'_>, interest: Interest) -> Result<AsyncFd<OwnedFd>, Error> {
    let watch = fd.try_clone_to_owned().and_then(|fd| {
        // SAFETY: the AsyncFd owns the descriptor, which is open until it is dropped and never another's.
        let watch = unsafe { AsyncFd::register_with_interest(fd, interest) };
        watch.map_err(Into::into)
    });
    watch.map_err(|error| Error::io("cannot watch a file descriptor", error))
}

/// The events of a connection, from [`Connection::events`].
#[derive(Debug)]
pub struct Events {
    connection: Connection,
    readable: AsyncFd<OwnedFd>,
}

impl Connection {
    /// Its events for a task of tokio: feature `tokio`. To be called in a runtime with I/O.
    ///
    /// ```no_run
    /// use dmashare::{Connection, Event};
    ///
    /// async fn serve(broker: Connection) -> Result<(), dmashare::Error> {
    ///     let mut events = broker.events()?;
    ///     loop {
    ///         for event in events.next().await? {
    ///             if let Event::DeviceLost(lost) = event {
    ///                 // After what was made of `lost.imports()` is dropped.
    ///                 lost.acknowledge()?;
    ///             }
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// The kernel's (EMFILE).
    ///
    /// # Panics
    /// Outside of a runtime of tokio's with I/O.
    pub fn events(&self) -> Result<Events, Error> {
        let readable = watch(self.as_fd(), Interest::READABLE)?;
        Ok(Events { connection: self.clone(), readable })
    }
}

impl Events {
    /// The next events, at least one: as [`Connection::dispatch`] gives them, with all that it does for a
    /// lost device. Dropping the future loses none. Of several who wait one gets them.
    ///
    /// # Errors
    /// As there.
    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        loop {
            let mut ready = self
                .readable
                .readable()
                .await
                .map_err(|error| Error::io("cannot wait for the connection", error))?;
            let events = self.connection.dispatch(Some(Duration::ZERO))?;
            if !events.is_empty() {
                return Ok(events);
            }
            // It was all answers, and there is more; or a thread is about to read.
            let more = wait_for(self.connection.as_fd(), PollFlags::POLLIN, Deadline::now());
            if more.is_ok_and(|more| more.is_empty()) {
                ready.clear_ready();
            } else {
                drop(ready);
                tokio::task::yield_now().await;
            }
        }
    }
}
