//! The main thread: everything that is neither pure nor the reactor's. It turns what happens into
//! the core's events and carries out the core's effects.
//!
//! All of it runs on one thread. The [`Shell`] is borrowed for the length of one event, never
//! across an await.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dmashare_proto::ClientId;
use dmashare_proto::token_pool::TokenPool;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::config::Overdue;
use crate::core::{Allocation, Broker, Effects, Handles};
use crate::counters::Counters;
use crate::guard::{Ender, GuardBackend};
use crate::id_map::IdMap;
use crate::kernel::Machine;
use crate::reactor::Reactor;
use crate::state_page::StatePage;
use crate::timeline::NewLine;
use crate::view::BusUpdate;

mod allocations;
mod arrivals;
mod beside;
mod connection;
mod descriptors;
mod discard;
mod effects;
mod eject;
mod former;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod id_file;
mod inhibit;
mod intake;
mod journal;
mod keeping;
mod listener;
mod notices;
mod outbox;
mod overdue;
mod poll;
mod rehearse;
pub mod start;
mod tasks;
mod timelines;
mod unused;
mod watchdog;

pub use journal::{ENDER, HANGUP};
use outbox::Outbox;

/// The core's handles on this machine.
#[derive(Debug)]
pub struct Os;

impl Handles for Os {
    type Fd = Arc<OwnedFd>;
    type Ender = Ender;
    type Line = NewLine;
}

/// How long the bus may lag behind: changes in that time become one signal a property.
const BUS_LAG: Duration = Duration::from_millis(100);

/// The main thread's state.
pub struct Shell {
    broker: Broker<Os>,
    machine: Machine,
    backend: Option<Arc<dyn GuardBackend>>,
    reactor: Reactor,
    state_page: Arc<StatePage>,
    connections: IdMap<ClientId, Rc<Outbox>>,
    lanes: discard::Lanes,
    unused: unused::Unused,
    timelines: timelines::Timelines,
    tokens: TokenPool,
    bus: UnboundedSender<BusUpdate>,
    id_file: id_file::IdFile,
    overdue: Overdue,
    queue_messages: usize,
    /// Wakes the task that flushes to the bus.
    bus_dirty: Rc<Notify>,
    /// Wakes the task that waits for the core's next deadline.
    deadline_changed: Rc<Notify>,
    /// Clients whose late acknowledgement is to be met, for the task that looks at them.
    late: UnboundedSender<overdue::Late>,
    /// Neutral buffers to be made, for the task that makes them.
    allocations: UnboundedSender<Allocation>,
    ejects: eject::Ejects,
    counters: Arc<Counters>,
    journal: journal::Journal,
    socket: PathBuf,
}

/// The shell as its tasks share it.
pub type Shared = Rc<RefCell<Shell>>;

impl Shell {
    /// Gives the core an event and carries out what it wants.
    fn event<R>(&mut self, event: impl FnOnce(&mut Broker<Os>, &mut Effects<Os>) -> R) -> R {
        let deadline = self.broker.next_deadline_ns();
        let mut effects = Vec::new();
        let result = event(&mut self.broker, &mut effects);
        self.keep(&effects);
        self.carry_out(effects);
        if self.broker.next_deadline_ns() != deadline {
            self.deadline_changed.notify_one();
        }
        if self.broker.has_updates() {
            self.bus_dirty.notify_one();
        }
        self.settle_ejects();
        result
    }

    /// Sends the bus what has changed.
    fn flush_to_bus(&mut self) {
        for update in self.broker.take_updates() {
            self.tell_bus(update);
        }
    }

    fn tell_bus(&self, update: BusUpdate) {
        if self.bus.send(update).is_err() {
            tracing::debug!("the bus task has ended");
        }
    }
}
