//! A connection that is made anew when it ends.
//!
//! No step of it blocks, so all of them are taken under one lock, by whoever dispatches or calls: see
//! that the connection is broken; connect and say hello; take the welcome, and put the new [`Inner`] in
//! the old one's place. What is waited for between them (a timer, the greeting socket) makes the one
//! fd readable.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dmashare_proto::transport::{self, Buffer};
use nix::poll::PollFlags;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::deadline::{Deadline, wait_for};
use crate::error::Error;
use crate::event::{Event, Reconnected};
use crate::handshake::{say_hello, take_welcome};
use crate::inner::Inner;

/// The first pause between two attempts; doubled after each, up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// How long a broker that was connected to may take to say welcome: it may be starting.
const GREETING: Duration = Duration::from_secs(30);

/// Where the broker is, and how one introduces oneself.
pub(crate) struct Home {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) patience: Option<Duration>,
}

enum Attempt {
    /// None is needed. For how long it is that way, and the pause where that was not long.
    Up { since: Instant, next: Duration },
    /// The next is due at `until`, and the pause after it is `next`.
    Pause { until: Instant, next: Duration },
    /// Hello was said.
    Greeting { socket: OwnedFd, buffer: Box<Buffer>, until: Instant, next: Duration },
}

impl Attempt {
    fn up(next: Duration) -> Self {
        Self::Up { since: Instant::now(), next }
    }
}

struct State {
    inner: Arc<Inner>,
    attempt: Attempt,
    /// To be given by the next dispatch.
    events: VecDeque<Event>,
}

/// See the module.
pub(crate) struct Again {
    home: Home,
    /// Holds the connection's own fd, or the greeting socket in place of it, and the two below.
    readable: Epoll,
    /// Readable when the next step is due.
    timer: TimerFd,
    /// Readable while events are queued.
    queued: EventFd,
    state: Mutex<State>,
}

impl Again {
    pub(crate) fn new(home: Home, inner: Arc<Inner>) -> Result<Self, Error> {
        let make = || -> nix::Result<(Epoll, TimerFd, EventFd)> {
            let readable = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
            let queued = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            readable.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
            readable.add(&queued, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
            readable.add(&inner.channel, EpollEvent::new(EpollFlags::EPOLLIN, 2))?;
            Ok((readable, timer, queued))
        };
        let (readable, timer, queued) =
            make().map_err(|error| Error::io("cannot make the pollable fd", error))?;
        let state = State { inner, attempt: Attempt::up(SHORTEST), events: VecDeque::new() };
        Ok(Self { home, readable, timer, queued, state: Mutex::new(state) })
    }

    /// Each step leaves the state whole, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn current(&self) -> Arc<Inner> {
        Arc::clone(&self.lock().inner)
    }

    /// The connection for a call. One that is broken is made anew first; it is given as it is, if that
    /// takes longer than the broker is waited for.
    pub(crate) fn live(&self) -> Arc<Inner> {
        let deadline = Deadline::after(self.home.patience);
        let mut inner = self.current();
        while inner.channel.is_broken() {
            self.step();
            inner = self.current();
            if !inner.channel.is_broken() || deadline.passed() {
                break;
            }
            self.wait_for_step(deadline);
        }
        inner
    }

    pub(crate) fn dispatch(&self, deadline: Deadline) -> Result<Vec<Event>, Error> {
        loop {
            // Both at once: a connection that another thread puts in this one's place comes with events.
            let (inner, events) = self.next();
            if !events.is_empty() {
                return Ok(events);
            }
            match inner.dispatch(deadline) {
                Err(error) if error.is_disconnected() => {}
                result => return result,
            }
            self.step();
            let (_, events) = self.next();
            if !events.is_empty() || deadline.passed() {
                return Ok(events);
            }
            wait_for(self.readable.0.as_fd(), PollFlags::POLLIN, deadline)
                .map_err(|error| Error::io("cannot wait for the broker to come back", error))?;
        }
    }

    fn next(&self) -> (Arc<Inner>, Vec<Event>) {
        let mut state = self.lock();
        if !state.events.is_empty() {
            // It was written to when the first was queued; EAGAIN would say that it is clear already.
            self.queued.read().ok();
        }
        (Arc::clone(&state.inner), state.events.drain(..).collect())
    }

    /// Waits until a step can be done, or the deadline passes. The one fd of this is no help: events
    /// that nobody dispatches keep it readable.
    fn wait_for_step(&self, deadline: Deadline) {
        let (socket, until) = match &self.lock().attempt {
            Attempt::Up { .. } => return,
            Attempt::Pause { until, .. } => (None, *until),
            Attempt::Greeting { socket, until, .. } => (socket.try_clone().ok(), *until),
        };
        let fd = socket.as_ref().map_or(self.timer.as_fd(), AsFd::as_fd);
        let deadline = deadline.or_at(until);
        // Whatever comes of it, the next look at the state tells.
        wait_for(fd, PollFlags::POLLIN, deadline).ok();
    }

    /// Does what can be done now. Never blocks.
    fn step(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        let before = state.events.len();
        state.attempt = match std::mem::replace(&mut state.attempt, Attempt::up(SHORTEST)) {
            Attempt::Up { since, next } => self.notice_end(state, since, next),
            pause @ Attempt::Pause { until, .. } if Instant::now() < until => pause,
            Attempt::Pause { next, .. } => self.connect(next),
            Attempt::Greeting { socket, buffer, until, next } => {
                let there = wait_for(socket.as_fd(), PollFlags::POLLIN, Deadline::now());
                if there.is_ok_and(|there| there.is_empty()) && Instant::now() < until {
                    Attempt::Greeting { socket, buffer, until, next }
                } else {
                    self.finish(state, socket, buffer, next)
                }
            }
        };
        if before == 0 && !state.events.is_empty() {
            let written = self.queued.write(1);
            debug_assert!(written.is_ok(), "an eventfd of our own: {written:?}");
        }
    }

    /// The connection has ended, if it has.
    fn notice_end(&self, state: &mut State, since: Instant, next: Duration) -> Attempt {
        let Some(why) = state.inner.channel.why_broken() else {
            return Attempt::Up { since, next };
        };
        // What it was told before its end is told first.
        while let Ok(events) = state.inner.dispatch(Deadline::now()) {
            if events.is_empty() {
                break;
            }
            state.events.extend(events);
        }
        // It is readable for good from here, which nobody is to be woken by.
        self.forget(&state.inner.channel);
        state.events.push_back(Event::Disconnected(why));
        // A broker that throws us out again and again is not asked again and again at once.
        if since.elapsed() < LONGEST { self.rest(next) } else { self.connect(SHORTEST) }
    }

    fn connect(&self, next: Duration) -> Attempt {
        let begin = || -> Result<OwnedFd, Error> {
            let socket = transport::connect_now(&self.home.path)
                .map_err(|error| Error::io("cannot connect to the broker's socket", error))?;
            say_hello(&socket, &self.home.name)?;
            self.watch(&socket)?;
            Ok(socket)
        };
        match begin() {
            Ok(socket) => {
                let until = self.due_in(GREETING);
                Attempt::Greeting { socket, buffer: Box::default(), until, next }
            }
            // Nobody is there; or nobody can be, which only trying again can tell.
            Err(_) => self.rest(next),
        }
    }

    /// The broker has answered, or has not in time.
    fn finish(
        &self,
        state: &mut State,
        socket: OwnedFd,
        mut buffer: Box<Buffer>,
        next: Duration,
    ) -> Attempt {
        self.forget(&socket);
        let made = take_welcome(&socket, &mut buffer).and_then(|(welcome, page)| {
            let inner = Inner::new(socket, buffer, welcome, page, self.home.patience)?;
            self.watch(&inner.channel)?;
            Ok(inner)
        });
        let Ok(inner) = made else { return self.rest(next) };
        let stopped = self.timer.unset();
        debug_assert!(stopped.is_ok(), "a timer of our own: {stopped:?}");
        let old = std::mem::replace(&mut state.inner, inner);
        let same_instance = old.welcome.instance == state.inner.welcome.instance;
        let imports = old.retire();
        state.events.push_back(Event::Reconnected(Reconnected { same_instance, imports }));
        Attempt::up(next)
    }

    fn rest(&self, pause: Duration) -> Attempt {
        Attempt::Pause { until: self.due_in(pause), next: LONGEST.min(pause * 2) }
    }

    /// Makes the fd readable then, or a little later.
    fn due_in(&self, pause: Duration) -> Instant {
        let until = Instant::now() + pause;
        let at = Expiration::OneShot(TimeSpec::from_duration(pause));
        let set = self.timer.set(at, TimerSetTimeFlags::empty());
        debug_assert!(set.is_ok(), "a timer of our own: {set:?}");
        until
    }

    fn watch(&self, fd: &impl AsFd) -> Result<(), Error> {
        self.readable
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 2))
            .map_err(|error| Error::io("cannot watch the broker's socket", error))
    }

    fn forget(&self, fd: &impl AsFd) {
        let removed = self.readable.delete(fd);
        debug_assert!(removed.is_ok(), "it was watched: {removed:?}");
    }
}

/// Readable while there is something for a dispatch, a step of the reconnecting among it.
impl AsFd for Again {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.0.as_fd()
    }
}
