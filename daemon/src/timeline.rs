//! Timelines in the kernel: the device through which the broker holds its syncobjs, and a handle on
//! one of them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use dmashare_proto::DeviceId;
use dmashare_uapi::drm_node::{self, Cap};
use dmashare_uapi::syncobj::{Syncobj, WaitFor};
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The device that the broker's handles are on. The syncobjs are no part of it: when it goes, their
/// descriptors are taken to another one.
#[derive(Debug)]
pub struct Keeper {
    /// The device.
    pub device: DeviceId,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Drm(Arc<OwnedFd>),
    #[cfg(feature = "simulate")]
    Simulated,
}

impl Keeper {
    /// Opens a render node, if its device has timeline syncobjs.
    ///
    /// # Errors
    /// The node cannot be opened, or its driver has none (EOPNOTSUPP).
    pub fn open(device: DeviceId, node: &Path) -> io::Result<Self> {
        let drm = drm_node::open(node)?;
        if drm_node::cap(drm.as_fd(), Cap::SyncobjTimeline)? == 0 {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(Self { device, kind: Kind::Drm(Arc::new(drm)) })
    }

    /// A device of a simulated machine.
    #[cfg(feature = "simulate")]
    #[must_use]
    pub fn simulated(device: DeviceId) -> Self {
        Self { device, kind: Kind::Simulated }
    }

    /// A new timeline, and the descriptor of its syncobj for everyone else.
    ///
    /// # Errors
    /// The kernel's: the device is gone, or there are no descriptors left.
    pub fn create(&self) -> io::Result<(Line, OwnedFd)> {
        match &self.kind {
            Kind::Drm(drm) => {
                let syncobj = Syncobj::create(Arc::clone(drm), false)?;
                let fd = syncobj.to_fd()?;
                Ok((Line(Some(On { syncobj, drm: Arc::clone(drm) })), fd))
            }
            #[cfg(feature = "simulate")]
            Kind::Simulated => Ok((Line(None), dmashare_uapi::sim::SimFence::new()?)),
        }
    }

    /// A handle on a timeline that was made on another keeper.
    ///
    /// # Errors
    /// The kernel's.
    pub fn adopt(&self, syncobj: BorrowedFd<'_>) -> io::Result<Line> {
        match &self.kind {
            Kind::Drm(drm) => {
                let syncobj = Syncobj::from_fd(Arc::clone(drm), syncobj)?;
                Ok(Line(Some(On { syncobj, drm: Arc::clone(drm) })))
            }
            #[cfg(feature = "simulate")]
            Kind::Simulated => Ok(Line(None)),
        }
    }
}

/// A handle on a timeline. `None` is a simulated one, of which nothing is seen but by the broker's
/// messages. Its operations do not wait, and may be called from any thread; points are to be added
/// in their order.
#[derive(Debug)]
pub struct Line(Option<On>);

#[derive(Debug)]
struct On {
    syncobj: Syncobj<Arc<OwnedFd>>,
    drm: Arc<OwnedFd>,
}

impl Line {
    /// A timeline that no device has for now: until it is taken to one, nothing is done to it.
    #[must_use]
    pub fn nowhere() -> Self {
        Self(None)
    }

    /// Puts a sync_file's fence to a point. An error that it already has would be lost on the way
    /// (drivers/gpu/drm/drm_syncobj.c: the point is a chain over the fence); one that comes later is
    /// seen.
    ///
    /// # Errors
    /// The kernel's; ENODEV when the keeper is gone.
    pub fn put(&self, point: u64, fence: BorrowedFd<'_>) -> io::Result<()> {
        let Some(on) = &self.0 else { return Ok(()) };
        // A transfer is from a syncobj on the same file; this one carries the fence there.
        let carrier = Syncobj::create(&*on.drm, false)?;
        carrier.import_sync_file(fence)?;
        on.syncobj.transfer_from(point, &carrier, 0)
    }

    /// Signals a point, in the turn that the kernel's chain gives it.
    ///
    /// # Errors
    /// As for [`Line::put`].
    pub fn signal(&self, point: u64) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |on| on.syncobj.timeline_signal(point))
    }

    /// The last point that is signalled; `None` for a simulated timeline.
    ///
    /// # Errors
    /// As for [`Line::put`].
    pub fn signalled(&self) -> io::Result<Option<u64>> {
        self.0.as_ref().map(|on| on.syncobj.query()).transpose()
    }

    /// The last point that has a fence; `None` for a simulated timeline.
    ///
    /// # Errors
    /// As for [`Line::put`].
    pub fn submitted(&self) -> io::Result<Option<u64>> {
        self.0.as_ref().map(|on| on.syncobj.query_last_submitted()).transpose()
    }

    /// An eventfd that the kernel writes to when the point is signalled; `None` for a simulated
    /// timeline. It goes on working when the keeper is gone: the syncobj itself has it.
    ///
    /// # Errors
    /// As for [`Line::put`]; the kernel is older than 6.6.
    pub fn eventfd(&self, point: u64) -> io::Result<Option<OwnedFd>> {
        let Some(on) = &self.0 else { return Ok(None) };
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let eventfd = OwnedFd::from(EventFd::from_flags(flags)?);
        on.syncobj.eventfd(point, WaitFor::Signalled, eventfd.as_fd())?;
        Ok(Some(eventfd))
    }
}

/// A pipe that says *lost* by hanging up: its reading end for everyone, its writing end for the one
/// who hangs up. Readers cannot take the news from one another, as they could with an eventfd.
///
/// # Errors
/// No descriptors left.
pub fn hangup() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?)
}

/// A new timeline on its way to the reactor.
#[derive(Debug)]
pub struct NewLine {
    /// Its syncobj.
    pub line: Arc<Line>,
    /// The writing end of its pipe.
    pub hangup: OwnedFd,
    /// Its own descriptor of the syncobj, to take it to another keeper.
    pub syncobj: Arc<OwnedFd>,
    /// Points are signalled when their sources end: nothing can be put there before.
    pub in_turn: bool,
}
