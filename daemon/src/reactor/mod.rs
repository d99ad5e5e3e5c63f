//! The fence reactor: one thread that owns every pending source fence and its guard, and reads the
//! kernel's uevents. Nothing that it does waits for a client, a lock, or the main thread, so the way
//! from "source signalled" to "guard signalled", and from "card removed" to "all guards ended", is
//! one wake-up.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use dmashare_proto::message::{Cause, FenceState};
use dmashare_proto::state_page::Word;
use dmashare_proto::{ClientId, DeviceId, ObjectId};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc::UnboundedSender;

use crate::bus::CauseRequest;
use crate::core::{Standing, Sweep, Wedge};
use crate::devices::DeviceDesc;
use crate::gate::Gate;
use crate::guard::{Ender, GuardBackend};
use crate::keeper::Keeper;
use crate::kernel::Machine;
use crate::state_page::StatePage;
use crate::timeline::{Line, NewLine};

mod deadlines;
mod engine;
mod fences;
mod handover;
mod lines;
mod liveness;
mod losses;
mod removals;
mod uevents;

pub use uevents::Uevents;

/// A device as the reactor knows it.
pub struct Watched {
    /// What it is.
    pub desc: DeviceDesc,
    /// To be closed at its loss.
    pub gate: Arc<Gate>,
    /// Its slot on the state page.
    pub slot: u32,
    /// Its word there while it is present.
    pub word: Word,
}

/// What the main thread asks for. Commands are carried out in their order.
pub enum Command {
    /// Answer: it has turned. For the service manager's watchdog.
    Turn(tokio::sync::oneshot::Sender<()>),
    /// Watch a device's removal (again, when it has got another node).
    AddDevice(DeviceId, Watched),
    /// A device is gone.
    ForgetDevice(DeviceId),
    /// Watch a fence; `ender` is its guard's end, `None` for one that was passed through.
    Watch {
        /// The fence.
        fence: ObjectId,
        /// Its exporter device.
        device: DeviceId,
        /// The source.
        source: Arc<OwnedFd>,
        /// The guard's end.
        ender: Option<Ender>,
        /// CLOCK_MONOTONIC, nanoseconds.
        deadline_ns: u64,
        /// The point of a timeline that it is the end of.
        point: Option<OnPoint>,
    },
    /// Keep a timeline.
    AddTimeline(ObjectId, DeviceId, NewLine),
    /// Points of a timeline up to this one will come.
    Promise(ObjectId, u64),
    /// A point whose work is done, where points are signalled in turn.
    SignalPoint(ObjectId, u64),
    /// End what is promised and not submitted; answered by [`Notice::PromisesEnded`].
    EndPromises(ObjectId, i32),
    /// A timeline is on another keeper.
    Adopt(ObjectId, Arc<Line>),
    /// A timeline that was added is another life's: this is how far it had come.
    Restored {
        /// The timeline.
        timeline: ObjectId,
        /// The last point whose source was handed over.
        submitted: u64,
        /// Points that have ended, and wait for their turn.
        ended_early: Vec<u64>,
    },
    /// Nobody has a timeline any more.
    DropTimeline(ObjectId),
    /// Tell by [`Notice::LineSignalled`] when the eventfd is written to.
    WatchPoint(ObjectId, OwnedFd),
    /// Answer with [`Notice::PointProbed`] of the same values, behind all that has ended so far.
    ProbePoint {
        /// The timeline.
        timeline: ObjectId,
        /// The point.
        point: u64,
        /// Who asks.
        client: ClientId,
        /// In which request.
        id: u64,
    },
    /// Watch a fence of a lost buffer's reservation object: only to tell when it ends.
    WatchImplicit {
        /// The lost device.
        device: DeviceId,
        /// The buffer.
        buffer: ObjectId,
        /// What was pending in it.
        fence: OwnedFd,
    },
    /// Answer with [`Notice::Probed`] of the same values, behind all that has ended so far.
    Probe {
        /// The fence.
        fence: ObjectId,
        /// Who asks.
        client: ClientId,
        /// In which request.
        id: u64,
    },
    /// Answer with [`Notice::CauseAsked`] of the same, behind all that has ended so far; the request's
    /// object can be a handle on this one.
    AskCause(CauseRequest, ObjectId),
    /// How a device stands from here on.
    Stand(DeviceId, Standing),
    /// Lose a device that is there, as if it were pulled.
    Rehearse(DeviceId),
    /// End these as if their device were lost, for one client.
    EndRehearsed {
        /// Fences, in the order of their submission.
        fences: Vec<ObjectId>,
        /// Timelines: their promises end, and they hang up.
        timelines: Vec<ObjectId>,
        /// Fences that go on with another guard; theirs ends.
        guards: Vec<(ObjectId, Ender)>,
        /// Dropped when it is done.
        done: mpsc::SyncSender<()>,
    },
    /// End every guard with an error, and stop.
    Stop,
}

/// Where on a timeline a fence is.
#[derive(Clone, Copy, Debug)]
pub struct OnPoint {
    /// The timeline.
    pub timeline: ObjectId,
    /// The point.
    pub point: u64,
    /// Nothing was put there: it is signalled when this fence and all below have ended.
    pub in_turn: bool,
}

/// What the reactor tells the main thread, in the order in which it happened.
#[derive(Debug)]
pub enum Notice {
    /// A fence has ended, and its guard with it.
    Ended(ObjectId, FenceState),
    /// A device is lost: its gate is closed, *Lost* is published, its guards are ended.
    Lost(DeviceId, Sweep),
    /// The device above a lost device's DRM nodes is gone from the kernel.
    ParentRemoved(DeviceId, u64),
    /// A synthetic `remove` for a device that is still there.
    RemovalRequested(DeviceId, String),
    /// A driver says that its device hangs; these guards are ended.
    Wedged(DeviceId, Wedge),
    /// A fence of a lost buffer's reservation object has ended.
    ImplicitEnded(DeviceId, ObjectId, u64),
    /// All that had ended when the probe was taken out has been told.
    Probed {
        /// The fence.
        fence: ObjectId,
        /// Who asks.
        client: ClientId,
        /// In which request.
        id: u64,
    },
    /// All that had ended when somebody asked has been told.
    CauseAsked(CauseRequest),
    /// A timeline's promises are ended with this errno at this time.
    PromisesEnded(ObjectId, i32, u64),
    /// The kernel's timeline is signalled up to this point.
    LineSignalled(ObjectId, u64),
    /// All that had ended when the probe was taken out has been told.
    PointProbed {
        /// The timeline.
        timeline: ObjectId,
        /// The point.
        point: u64,
        /// How far the kernel's timeline is signalled, if it can be asked.
        signalled: Option<u64>,
        /// Who asks.
        client: ClientId,
        /// In which request.
        id: u64,
    },
    /// The reactor has ended, with so many guards ended by that. After an error the service cannot
    /// do its work.
    Stopped(io::Result<usize>),
}

/// How the loss of a device is found out.
pub struct Lookout {
    /// What the kernel tells.
    pub uevents: Option<Uevents>,
    /// How often a device is looked at while something of it is stuck; zero: after a deadline only.
    pub liveness: Duration,
}

/// The main thread's end of the reactor.
pub struct Reactor {
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Reactor {
    /// Starts the thread. It listens for removals when this returns, so devices that are found after
    /// it cannot be lost unseen.
    ///
    /// # Errors
    /// epoll, eventfd or the thread cannot be had.
    pub fn start(
        machine: Machine,
        lookout: Lookout,
        state_page: Arc<StatePage>,
        backend: Option<Arc<dyn GuardBackend>>,
        notices: UnboundedSender<Notice>,
        keeper: Option<Arc<Keeper>>,
    ) -> io::Result<Self> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (commands, receiver) = mpsc::channel();
        let mut engine = engine::Engine::new(
            machine,
            lookout,
            state_page,
            backend,
            receiver,
            Arc::clone(&wake),
            notices.clone(),
        )?;
        engine.keeper = keeper;
        let thread = std::thread::Builder::new().name("fences".to_owned()).spawn(move || {
            let result = engine.run();
            if notices.send(Notice::Stopped(result)).is_err() {
                tracing::debug!("the main thread was gone before the reactor");
            }
        })?;
        Ok(Self { commands, wake, thread: Some(thread) })
    }

    /// Queues a command and wakes the thread. If the thread is gone the command is dropped, and with
    /// it its fds and guards (which ends them); the main thread hears of that by [`Notice::Stopped`].
    pub fn send(&self, command: Command) {
        match handover::send(&self.commands, &*self.wake, command) {
            Ok(Ok(())) => {}
            // EAGAIN cannot be: that takes 2^64 - 2 unread wake-ups.
            Ok(Err(error)) => tracing::error!(%error, "waking the fence reactor failed"),
            Err(handover::Gone) => {
                tracing::error!("the fence reactor is gone; a fence ends with an error");
            }
        }
    }

    /// Stops the thread and waits for it.
    pub fn stop(mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the fence reactor panicked");
        }
    }
}

impl handover::Bell for EventFd {
    fn ring(&self) -> io::Result<()> {
        self.write(1).map(drop).map_err(io::Error::from)
    }

    fn hush(&self) -> io::Result<()> {
        match self.read() {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The cause as a state of a fence.
fn failed(cause: Cause, at_ns: u64) -> FenceState {
    FenceState::Failed { cause, at_ns }
}
