//! The D-Bus face, `org.dmashare.Broker1`. `dbus/org.dmashare.Broker1.xml` is what it offers.
//!
//! A task on the main thread's runtime. It is given snapshots and keeps the latest of each, so that
//! everything is published anew whenever the bus comes back; it never reaches into the core. While
//! connected it sleeps until there is an update or a call. Without a bus it waits for the bus's
//! socket to appear, and only where that cannot be watched does it try again at growing intervals.

use std::os::fd::OwnedFd;

use std::sync::Arc;

use dmashare_proto::ObjectId;
use dmashare_proto::activity::Activity;
use dmashare_proto::usage::Usage;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::core::Ended;
use crate::counters::Counters;
use crate::view::BusUpdate;

mod address;
mod appearance;
mod broker;
mod changes;
mod client;
mod device;
mod eject;
mod inhibit;
mod job;
mod manager;
mod polkit;
mod rehearse;
mod served;
mod sight;
mod state;
mod stats;
mod stream;
mod task;

pub use address::BusAddress;
pub use eject::{EjectRequest, NotDone};
pub use inhibit::InhibitRequest;
pub use rehearse::{NotScheduled, RehearseRequest};

/// The name on the bus.
pub const NAME: &str = "org.dmashare.Broker1";
/// The broker's object; devices and clients are below it.
pub const ROOT: &str = "/org/dmashare/Broker1";

/// What does not change while the service runs.
#[derive(Clone, Debug)]
pub struct BusFacts {
    /// The service's version.
    pub version: String,
    /// The backend that guards are made by.
    pub backend: String,
    /// What neutral buffers are made from, or `none`.
    pub heap: String,
    /// What probing the kernel found, as JSON.
    pub probe_json: String,
    /// What is counted.
    pub counters: Arc<Counters>,
}

/// Somebody asked over the bus to be connected to the data plane. The socket's own credentials
/// (SO_PEERCRED) would be the broker's, so the caller's come beside it, as the bus knows them.
#[derive(Debug)]
pub struct ConnectRequest {
    /// The broker's end of a SOCK_SEQPACKET pair, close-on-exec and non-blocking.
    pub socket: OwnedFd,
    /// The caller's process when it connected to the bus.
    pub pid: i32,
    /// The caller's user.
    pub uid: u32,
    /// The caller's group, where the bus knows only one.
    pub gid: Option<u32>,
    /// The caller's process, where the bus pins it. Close-on-exec.
    pub pidfd: Option<OwnedFd>,
}

/// Somebody asked over the bus why something ended.
#[derive(Debug)]
pub struct CauseRequest {
    /// A fence or an import, or a timeline.
    pub object: ObjectId,
    /// The timeline's point, else 0.
    pub point: u64,
    /// The caller's user.
    pub uid: u32,
    /// For the answer; `None` where that user has no such object, or it has not failed.
    pub answer: oneshot::Sender<Option<Ended>>,
}

/// Somebody asked over the bus what is on their account.
#[derive(Debug)]
pub struct UsageRequest {
    /// The caller's user: root sees everybody's.
    pub uid: u32,
    /// For the answer.
    pub answer: oneshot::Sender<Usage>,
}

/// Where calls go that the face cannot answer by itself.
#[derive(Clone, Debug)]
pub struct Asks {
    /// `Connect()`.
    connects: mpsc::UnboundedSender<ConnectRequest>,
    /// `GetCause()`.
    causes: mpsc::UnboundedSender<CauseRequest>,
    /// `Rehearse()`.
    rehearsals: mpsc::UnboundedSender<RehearseRequest>,
    /// `Inhibit()`.
    inhibits: mpsc::UnboundedSender<InhibitRequest>,
    /// What ejects are about.
    ejects: mpsc::UnboundedSender<EjectRequest>,
    /// `GetActivity()`.
    activity: mpsc::UnboundedSender<oneshot::Sender<Vec<Activity>>>,
    /// `GetUsage()`.
    usage: mpsc::UnboundedSender<UsageRequest>,
    /// The calls that may wait for polkit, and somebody's password.
    authorities: Arc<Semaphore>,
    /// Who calls.
    viewers: sight::Viewers,
}

impl Asks {
    /// With where each goes.
    #[must_use]
    pub fn new(
        connects: mpsc::UnboundedSender<ConnectRequest>,
        causes: mpsc::UnboundedSender<CauseRequest>,
        rehearsals: mpsc::UnboundedSender<RehearseRequest>,
        inhibits: mpsc::UnboundedSender<InhibitRequest>,
        ejects: mpsc::UnboundedSender<EjectRequest>,
        activity: mpsc::UnboundedSender<oneshot::Sender<Vec<Activity>>>,
        usage: mpsc::UnboundedSender<UsageRequest>,
    ) -> Self {
        let authorities = Arc::new(Semaphore::new(polkit::MOST));
        let viewers = sight::Viewers::default();
        Self {
            connects,
            causes,
            rehearsals,
            inhibits,
            ejects,
            activity,
            usage,
            authorities,
            viewers,
        }
    }
}

/// The running face.
#[derive(Debug)]
pub struct Bus {
    task: JoinHandle<()>,
    status: watch::Receiver<Status>,
}

/// How it stands with the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// The first attempt is under way.
    Trying,
    /// Everything is on the bus.
    Published,
    /// There is no bus.
    Missing,
}

/// Starts the face as a task of the current tokio runtime. It ends when the sender of `updates` is
/// dropped.
#[must_use]
pub fn start(
    address: BusAddress,
    updates: mpsc::UnboundedReceiver<BusUpdate>,
    asks: Asks,
    facts: BusFacts,
) -> Bus {
    let (tell, status) = watch::channel(Status::Trying);
    let task = tokio::spawn(task::Task::new(address, updates, asks, facts, tell).run());
    Bus { task, status }
}

impl Bus {
    /// Waits until the first attempt to get onto the bus is over; tells whether the name is ours
    /// and everything is published.
    pub async fn first_attempt(&mut self) -> bool {
        match self.status.wait_for(|status| *status != Status::Trying).await {
            Ok(status) => *status == Status::Published,
            Err(_) => false,
        }
    }

    /// Waits for the task to end, once the sender of the updates is dropped.
    pub async fn finished(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the bus task failed");
        }
    }
}

#[cfg(test)]
mod tests;
