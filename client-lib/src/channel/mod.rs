//! The connection as many threads use it at once: requests with ids, answers in any order, events
//! in between.
//!
//! There is no thread here. Who needs something from the socket and finds nobody reading becomes
//! the reader: it takes the receive buffer (its absence says that somebody reads), waits and reads
//! without holding a lock, hands every answer to whom it belongs, and puts the buffer back. The
//! others sleep on one condition variable. Every message passes the [`Handler`] on the reading
//! thread, in the order of the stream, before anybody is told of it.

mod long;
mod receive;
mod send;
#[cfg(feature = "tokio")]
mod tasks;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use dmashare_proto::transport::Buffer;
use dmashare_proto::{Event, Reply, WireError};
use dmashare_uapi::process;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{Shutdown, SockType, getsockopt, shutdown, sockopt};

use crate::error::Error;

pub(crate) use long::Asked;
#[cfg(feature = "tokio")]
pub(crate) use tasks::{Question, Read};

/// What is done with messages as they are read. Called without a lock, by one thread at a time.
pub(crate) trait Handler {
    /// What a waiter is given.
    type Answer;
    /// What is queued for the owner's loop.
    type Notice;

    /// An answer.
    ///
    /// # Errors
    /// It makes no sense: the connection is closed.
    fn reply(&self, reply: Reply, fds: Vec<OwnedFd>) -> Result<Self::Answer, Error>;

    /// An event; `None` for one that the owner need not see.
    ///
    /// # Errors
    /// It makes no sense: the connection is closed.
    fn event(&self, event: Event) -> Result<Option<Self::Notice>, Error>;

    /// An answer that nobody waits for any more.
    fn unwanted(&self, answer: Self::Answer);

    /// The connection is closed; nothing comes any more.
    fn closed(&self);
}

/// A request's place, from before it is sent until its answer is taken.
enum Slot<A> {
    Waiting,
    Answered(A),
    /// Nobody waits; the answer is dropped when it comes.
    Abandoned,
    /// The same, but that may be long, so it is not counted as in flight.
    Open,
}

struct State<A, N> {
    /// `None` while a thread reads.
    buffer: Option<Box<Buffer>>,
    slots: HashMap<u64, Slot<A>>,
    next_id: u64,
    notices: VecDeque<N>,
    /// Requests without a waiter that wait for room.
    outbox: VecDeque<Vec<u8>>,
    /// Requests without a waiter that were sent and are not answered.
    in_flight: usize,
    /// An error about the connection, not about a request.
    last_words: Option<WireError>,
    broken: Option<Broken>,
    /// Threads that sleep on the condition variable: where there are none, nobody is woken, which is a
    /// system call.
    sleeping: usize,
    #[cfg(feature = "tokio")]
    tasks: tasks::Tasks,
}

/// Why nothing comes any more.
#[derive(Clone)]
enum Broken {
    /// With the broker's last words, if there were any.
    Closed(Option<WireError>),
    Protocol(String),
}

impl Broken {
    fn error(&self) -> Error {
        match self {
            Self::Closed(reason) => Error::Disconnected(reason.clone()),
            Self::Protocol(text) => Error::Protocol(text.clone()),
        }
    }
}

/// See the module.
pub(crate) struct Channel<A, N> {
    /// Of which process it is: a child that was forked has the same socket, and must leave it alone.
    epoch: u32,
    socket: OwnedFd,
    /// Readable while notices are queued.
    queued: EventFd,
    /// Holds the two above: the one fd for the owner's loop.
    readable: Epoll,
    state: Mutex<State<A, N>>,
    /// Something was put into the state, or the reader left.
    changed: Condvar,
}

impl<A, N> Channel<A, N> {
    /// Takes over a connected socket. The handshake's id is 1, so requests here begin with 2.
    pub(crate) fn new(socket: OwnedFd, buffer: Box<Buffer>) -> Result<Self, Error> {
        let make = || -> nix::Result<(EventFd, Epoll)> {
            let queued = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            let readable = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            readable.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
            readable.add(&queued, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
            Ok((queued, readable))
        };
        let (queued, readable) =
            make().map_err(|error| Error::io("cannot make the pollable fd", error))?;
        Ok(Self {
            epoch: process::epoch(),
            socket,
            queued,
            readable,
            state: Mutex::new(State {
                buffer: Some(buffer),
                slots: HashMap::new(),
                next_id: 2,
                notices: VecDeque::new(),
                outbox: VecDeque::new(),
                in_flight: 0,
                last_words: None,
                broken: None,
                sleeping: 0,
                #[cfg(feature = "tokio")]
                tasks: tasks::Tasks::default(),
            }),
            changed: Condvar::new(),
        })
    }

    /// Nothing in here panics between two changes that belong together, so a poisoned lock is as
    /// good as any.
    fn lock(&self) -> MutexGuard<'_, State<A, N>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the state, and wakes who sleeps.
    fn tell(&self, state: MutexGuard<'_, State<A, N>>) {
        let sleeping = state.sleeping;
        drop(state);
        if sleeping > 0 {
            self.changed.notify_all();
        }
    }

    /// Whether this is a child of the process that the connection is of. Asked before a lock is taken:
    /// a thread that the child has not may hold it for ever.
    pub(crate) fn is_forked(&self) -> bool {
        process::epoch() != self.epoch
    }

    /// Ends the connection: the first reason stays, every waiter wakes, and the socket stays
    /// readable, so that loops notice.
    pub(crate) fn break_off<H>(&self, handler: &H, error: &Error)
    where
        H: Handler<Answer = A, Notice = N>,
    {
        if self.is_forked() {
            return;
        }
        {
            let mut state = self.lock();
            if state.broken.is_some() {
                return;
            }
            state.broken = Some(match error {
                Error::Protocol(text) => Broken::Protocol(text.clone()),
                _ => Broken::Closed(state.last_words.take()),
            });
            state.outbox.clear();
            state.slots.retain(|_, slot| !matches!(slot, Slot::Abandoned | Slot::Open));
        }
        // ENOTCONN says that the peer was first, which is as readable.
        shutdown(self.socket.as_raw_fd(), Shutdown::Both).ok();
        handler.closed();
        self.changed.notify_all();
    }

    /// Why nothing more will come; `None` while something may.
    pub(crate) fn why_broken(&self) -> Option<Error> {
        self.lock().broken.as_ref().map(Broken::error)
    }

    /// Whether nothing more will come.
    pub(crate) fn is_broken(&self) -> bool {
        self.lock().broken.is_some()
    }
}

/// The epoll fd: readable while there is something for `dispatch`.
impl<A, N> AsFd for Channel<A, N> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.0.as_fd()
    }
}

/// Refuses what is no SOCK_SEQPACKET socket, and makes it non-blocking: whoever waits, waits in
/// poll.
pub(crate) fn prepare(socket: &OwnedFd) -> Result<(), Error> {
    let kind = getsockopt(socket, sockopt::SockType)
        .map_err(|error| Error::io("the fd is no socket", error))?;
    if kind != SockType::SeqPacket {
        return Err(Error::InvalidArgument(format!(
            "a connection to the broker is a SOCK_SEQPACKET socket, this one is {kind:?}"
        )));
    }
    let set = || -> nix::Result<()> {
        let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
        fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(())
    };
    set().map_err(|error| Error::io("cannot make the socket non-blocking", error))
}
