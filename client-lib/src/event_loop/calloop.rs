//! Event sources for calloop, and so for smithay.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use calloop::generic::Generic;
use calloop::{EventSource, Interest, Mode, Poll, PostAction, Readiness, Token, TokenFactory};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::connection::Connection;
use crate::error::Error;
use crate::event::Event;
use crate::fence::ImportedFence;
use crate::fence_status::FenceStatus;

/// A connection as an event source: the callback gets each event, as [`Connection::dispatch`] gives it.
///
/// When the connection has ended the callback gets the error, once and last, and the source is removed
/// from its loop. With [`crate::Builder::reconnect`] it does not end.
///
/// Of one connection a loop takes one source. Clones of it can be used for anything else meanwhile.
///
/// ```no_run
/// use dmashare::{Connection, ConnectionSource, Event};
///
/// struct Compositor;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut event_loop = calloop::EventLoop::<Compositor>::try_new()?;
/// let broker = Connection::builder().name("compositor").reconnect(true).connect()?;
/// event_loop.handle().insert_source(ConnectionSource::new(broker), |event, (), _compositor| {
///     match event {
///         Ok(Event::DeviceLost(lost)) => {
///             // Drop the textures of `lost.imports()`; then dropping `lost` acknowledges.
///             drop(lost);
///         }
///         Ok(_) => {}
///         Err(error) => eprintln!("no broker any more: {error}"),
///     }
/// })?;
/// event_loop.run(None, &mut Compositor, |_| {})?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ConnectionSource(Generic<Connection>);

impl ConnectionSource {
    /// To be put into a loop.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self(Generic::new(connection, Interest::READ, Mode::Level))
    }
}

/// A fence as an event source: the callback gets how it ended, once, and then the source is removed from
/// its loop and the fence dropped. One that has ended already is told in the loop's next round.
///
/// It is asked for as by [`ImportedFence::status`], which waits for the broker's answer where the kernel
/// does not show how it ended. A source that was passed on ([`crate::GuardKind::Source`]) is its driver's to
/// end, so on [`Event::DeviceLost`] remove the source by hand.
///
/// ```no_run
/// use dmashare::{FenceSource, FenceStatus, ImportedFence};
///
/// fn show_when_done(
///     fence: ImportedFence,
///     handle: &calloop::LoopHandle<'_, ()>,
/// ) -> Result<(), Box<dyn std::error::Error>> {
///     handle.insert_source(FenceSource::new(fence)?, |status, (), ()| match status {
///         Ok(FenceStatus::Failed(error)) => eprintln!("keep the last frame: {error}"),
///         Ok(_) => { /* commit the surface */ }
///         Err(error) => eprintln!("{error}"),
///     })?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct FenceSource(Generic<Awaited>);

#[derive(Debug)]
struct Awaited {
    fence: ImportedFence,
    /// What is readable in place of a fence that has ended.
    ended: Option<EventFd>,
}

impl AsFd for Awaited {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match (&self.fence.fd, &self.ended) {
            (_, Some(ended)) => ended.as_fd(),
            (fd, None) => fd.as_ref().expect("a pending fence has an fd").as_fd(),
        }
    }
}

impl FenceSource {
    /// To be put into a loop.
    ///
    /// # Errors
    /// The kernel's (EMFILE).
    pub fn new(fence: ImportedFence) -> Result<Self, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let ended = match fence.fd() {
            Some(_) => None,
            None => Some(
                EventFd::from_value_and_flags(1, flags)
                    .map_err(|error| Error::io("cannot make an eventfd", error))?,
            ),
        };
        Ok(Self(Generic::new(Awaited { fence, ended }, Interest::READ, Mode::Level)))
    }
}

/// What a source leaves to the one that it is made of.
macro_rules! registered_as_inner {
    () => {
        fn register(&mut self, poll: &mut Poll, factory: &mut TokenFactory) -> calloop::Result<()> {
            self.0.register(poll, factory)
        }

        fn reregister(
            &mut self,
            poll: &mut Poll,
            factory: &mut TokenFactory,
        ) -> calloop::Result<()> {
            self.0.reregister(poll, factory)
        }

        fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
            self.0.unregister(poll)
        }
    };
}

impl EventSource for ConnectionSource {
    type Event = Result<Event, Error>;
    type Metadata = ();
    type Ret = ();
    type Error = io::Error;

    fn process_events<F>(
        &mut self,
        readiness: Readiness,
        token: Token,
        mut callback: F,
    ) -> Result<PostAction, io::Error>
    where
        F: FnMut(Self::Event, &mut ()),
    {
        self.0.process_events(readiness, token, |_, connection| {
            match connection.dispatch(Some(Duration::ZERO)) {
                Ok(events) => {
                    events.into_iter().for_each(|event| callback(Ok(event), &mut ()));
                    Ok(PostAction::Continue)
                }
                Err(error) => {
                    callback(Err(error), &mut ());
                    Ok(PostAction::Remove)
                }
            }
        })
    }

    registered_as_inner!();
}

impl EventSource for FenceSource {
    type Event = Result<FenceStatus, Error>;
    type Metadata = ();
    type Ret = ();
    type Error = io::Error;

    fn process_events<F>(
        &mut self,
        readiness: Readiness,
        token: Token,
        mut callback: F,
    ) -> Result<PostAction, io::Error>
    where
        F: FnMut(Self::Event, &mut ()),
    {
        self.0.process_events(readiness, token, |_, awaited| match awaited.fence.status() {
            Ok(FenceStatus::Pending) => Ok(PostAction::Continue),
            status => {
                callback(status, &mut ());
                Ok(PostAction::Remove)
            }
        })
    }

    registered_as_inner!();
}
