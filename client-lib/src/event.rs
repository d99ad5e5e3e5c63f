//! What happens without being asked for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dmashare_proto::message::{self, Cause};
use dmashare_proto::{DeviceId, ObjectId, Request};

use crate::device::DeviceInfo;
use crate::error::Error;
use crate::inner::Inner;
use crate::registry::Swept;
use crate::removal::Removal;

/// Something that the broker told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A device is there.
    DeviceAdded(DeviceInfo),
    /// A device is lost, and what this process had of it was taken back.
    DeviceLost(Lost),
    /// Nothing of a lost device is left anywhere.
    DeviceGone(DeviceId),
    /// A driver has declared its device wedged; the device is still there.
    DeviceWedged(Wedged),
    /// Somebody asks that a device be let go of; it is still there.
    RemovalRequested(Removal),
    /// The eject of which [`Event::RemovalRequested`] told does not take place: the device can be used as
    /// before.
    DeviceStays(DeviceId),
    /// The connection has ended, and is being made anew ([`crate::Builder::reconnect`]).
    Disconnected(Error),
    /// It was made anew, and nothing of the former one is left.
    Reconnected(Reconnected),
}

/// Another connection in the place of one that has ended, on the same [`crate::Connection`] and fd.
///
/// The broker has let go of all that the former one had, and so has the library: imports of a device's
/// buffers were taken back (their mappings show zeros, their fds are closed), every [`crate::Device`] of
/// before reads as lost, and calls on handles of before say [`Error::Disconnected`]. Fences have ended,
/// as the kernel ends what a process leaves. Neutral buffers stay, for whoever has them: their memory needs
/// no broker. List the devices, and export and import again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconnected {
    /// It is the same life of the broker's state: it had only closed this connection.
    pub same_instance: bool,
    /// The imports that were taken back.
    pub imports: Vec<ObjectId>,
}

/// A device that its driver has declared wedged (the kernel's `WEDGED=` uevent,
/// Documentation/gpu/drm-uapi.rst). What was pending of it has ended with [`Cause::Wedged`]; the
/// device, its buffers and its timelines stay, until it has recovered or is lost. There is nothing
/// to acknowledge, and it can be told several times.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wedged {
    /// Which device.
    pub device: DeviceId,
    /// When, on CLOCK_MONOTONIC.
    pub at: Duration,
    /// The ways out that the driver names, in its order: `none`, `rebind`, `bus-reset`, … The broker
    /// takes none of them.
    pub recovery: Vec<String>,
    /// The task that the driver blames, if it names one.
    pub task: Option<String>,
    /// How many fences and points of this process's ended with the cause.
    pub fences: u32,
}

impl From<message::DeviceWedged> for Wedged {
    fn from(wedged: message::DeviceWedged) -> Self {
        let message::DeviceWedged { device, at_ns, recovery, task, fences } = wedged;
        let methods = recovery.split(',').map(str::trim).filter(|method| !method.is_empty());
        Self {
            device,
            at: Duration::from_nanos(at_ns),
            recovery: methods.map(str::to_owned).collect(),
            task: Some(task).filter(|task| !task.is_empty()),
            fences,
        }
    }
}

/// An event in the queue. It holds no handle of the connection, which holds the queue.
pub(crate) enum Notice {
    Added(DeviceInfo),
    Lost(Swept),
    Gone(DeviceId),
    Wedged(Wedged),
    RemovalRequested(message::RemovalRequested),
    Stays(DeviceId),
}

impl Notice {
    pub(crate) fn into_event(self, inner: &Arc<Inner>) -> Event {
        match self {
            Self::Added(info) => Event::DeviceAdded(info),
            Self::Gone(device) => Event::DeviceGone(device),
            Self::Wedged(wedged) => Event::DeviceWedged(wedged),
            Self::Stays(device) => Event::DeviceStays(device),
            Self::RemovalRequested(removal) => {
                Event::RemovalRequested(Removal::answer(inner, removal))
            }
            Self::Lost(swept) => Event::DeviceLost(Lost {
                unacknowledged: swept.lost.imports > 0,
                inner: Arc::clone(inner),
                swept,
            }),
        }
    }
}

/// A lost device. By the time that this is seen, every mapping of its buffers reads as zeros and
/// the library has closed their fds.
///
/// What is left is for the owner: the GEM handles, textures and duplicated fds that were made of
/// them. Drop those, then this: that tells the broker that nothing is held any more
/// ([`Lost::acknowledge`] says how that went). The broker waits for it, for a while, and then names
/// this process as one that holds on to a dead device, and may disconnect it.
#[must_use = "dropping it tells the broker that everything of the device was let go of"]
pub struct Lost {
    inner: Arc<Inner>,
    swept: Swept,
    unacknowledged: bool,
}

impl Lost {
    /// Which device.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.swept.lost.device
    }

    /// Why.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.swept.lost.cause
    }

    /// When, on CLOCK_MONOTONIC.
    #[must_use]
    pub fn at(&self) -> Duration {
        Duration::from_nanos(self.swept.lost.at_ns)
    }

    /// The imports that were taken back.
    pub fn imports(&self) -> impl ExactSizeIterator<Item = ObjectId> + '_ {
        self.swept.imports.iter().map(|(id, _)| *id)
    }

    /// How many buffers of it this process had exported.
    #[must_use]
    pub fn buffers(&self) -> u32 {
        self.swept.lost.buffers
    }

    /// How many fences of it, shared or imported by this process, and points of its timelines ended
    /// with the cause.
    #[must_use]
    pub fn fences(&self) -> u32 {
        self.swept.lost.fences
    }

    /// Imports whose mappings could not be replaced, with the error of the last one: they still
    /// show the device's memory. It is tried again by [`Lost::acknowledge`] and on drop.
    #[must_use]
    pub fn failed(&self) -> &[(ObjectId, io::Error)] {
        &self.swept.failed
    }

    /// Whether the broker waits for an acknowledgement: it counted imports.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.unacknowledged
    }

    /// Tells the broker that nothing of the device is held any more, and waits for its answer.
    /// Without effect where it awaits none.
    ///
    /// # Errors
    /// A mapping still cannot be replaced (ENOMEM: the process has too many mappings): the broker is
    /// not told what is not true. Drop the mapping. Or the request failed.
    pub fn acknowledge(mut self) -> Result<(), Error> {
        if !self.unacknowledged {
            return Ok(());
        }
        let failed = self.retry();
        self.unacknowledged = false;
        match failed {
            Some(source) => Err(Error::Io { what: "cannot take a mapping back", source }),
            None => self.inner.tell(&Request::Acknowledge(self.device())),
        }
    }

    /// Tries again what failed. One that was dropped since is no failure any more.
    fn retry(&mut self) -> Option<io::Error> {
        let mut last = None;
        self.swept.failed.retain_mut(|(id, _)| {
            let of = |(other, _): &&(ObjectId, _)| other == id;
            let import = self.swept.imports.iter().find(of);
            match import.and_then(|(_, import)| import.upgrade()).map(|import| import.revoke()) {
                Some(Err(error)) => {
                    last = Some(error);
                    true
                }
                _ => false,
            }
        });
        last
    }
}

/// Acknowledges, unless a mapping still cannot be replaced.
impl Drop for Lost {
    fn drop(&mut self) {
        if self.unacknowledged && !self.inner.channel.is_forked() && self.retry().is_none() {
            self.inner.channel.post(&Request::Acknowledge(self.device()));
        }
    }
}

impl std::fmt::Debug for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lost")
            .field("device", &self.device())
            .field("cause", &self.cause())
            .field("imports", &self.imports().collect::<Vec<_>>())
            .field("failed", &self.failed())
            .finish_non_exhaustive()
    }
}
