//! Guard fences: what this kernel offers to make them, found by trying.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use dmashare_proto::message::GuardKind;
use dmashare_uapi::sw_sync;
use dmashare_uapi::vgem::{Vgem, VgemGuard};
use serde::{Deserialize, Serialize};

use crate::config::Backend;

#[cfg(feature = "simulate")]
mod simulated;
mod sw_sync_guards;
mod vgem_guards;

#[cfg(feature = "simulate")]
pub use simulated::Simulated;

/// Makes guard fences.
pub trait GuardBackend: Send + Sync {
    /// What it hands out.
    fn kind(&self) -> GuardKind;

    /// A pending guard.
    ///
    /// # Errors
    /// The kernel's: out of descriptors or memory.
    fn make(&self) -> io::Result<Guard>;

    /// How long a guard can be kept pending, where the kernel ends it by itself.
    fn longest(&self) -> Option<Duration> {
        None
    }
}

/// A pending guard fence.
pub struct Guard {
    /// What importers get.
    pub fence: OwnedFd,
    /// The only way to end it.
    pub ender: Ender,
}

/// The broker's end of a guard. Dropping it ends the guard too, so that nobody waits for ever for
/// a broker that has forgotten a fence; with the error where the kernel can show one.
pub enum Ender {
    /// The timeline of one sw_sync fence.
    SwSync(sw_sync::Timeline),
    /// A fence on a buffer of the vgem pool.
    Vgem(VgemGuard),
    /// The same, of another life of the service: the file, and the fence's number on it.
    VgemKept(Vgem, u32),
    /// An eventfd.
    #[cfg(feature = "simulate")]
    Simulated(OwnedFd),
}

/// What an ender is kept by, beside its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeptEnder {
    /// A timeline of its own.
    SwSync,
    /// A vgem file, and the fence's number on it.
    Vgem(u32),
    /// An eventfd.
    Simulated,
}

impl Ender {
    /// What it can be made again of ([`Self::restore`]).
    #[must_use]
    pub fn kept(&self) -> (KeptEnder, BorrowedFd<'_>) {
        match self {
            Self::SwSync(timeline) => (KeptEnder::SwSync, timeline.as_fd()),
            Self::Vgem(guard) => (KeptEnder::Vgem(guard.id()), guard.as_fd()),
            Self::VgemKept(vgem, fence) => (KeptEnder::Vgem(*fence), vgem.as_fd()),
            #[cfg(feature = "simulate")]
            Self::Simulated(fence) => (KeptEnder::Simulated, fence.as_fd()),
        }
    }

    /// An ender of another life of the service; `None` for one that this build knows nothing of.
    #[must_use]
    pub fn restore(kept: KeptEnder, fd: OwnedFd) -> Option<Self> {
        match kept {
            KeptEnder::SwSync => Some(Self::SwSync(sw_sync::Timeline::from_fd(fd))),
            KeptEnder::Vgem(fence) => Some(Self::VgemKept(Vgem::from_fd(fd), fence)),
            #[cfg(feature = "simulate")]
            KeptEnder::Simulated => Some(Self::Simulated(fd)),
            #[cfg(not(feature = "simulate"))]
            KeptEnder::Simulated => None,
        }
    }

    /// Ends the guard.
    ///
    /// # Errors
    /// The kernel's. The guard is ended all the same: an end that failed drops the ender, which ends
    /// the guard with an error.
    pub fn end(self, result: Result<(), i32>) -> io::Result<()> {
        match (self, result) {
            (Self::SwSync(timeline), Ok(())) => timeline.inc(1),
            // Closing ends what is pending with -ENOENT, the one error that sw_sync knows.
            (Self::SwSync(timeline), Err(_)) => {
                drop(timeline);
                Ok(())
            }
            (Self::Vgem(guard), _) => guard.end().map(|_| ()),
            (Self::VgemKept(vgem, fence), _) => match vgem.signal_fence(fence) {
                // It was ended, and this life's former self had no time to say so.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                result => result.map(drop),
            },
            #[cfg(feature = "simulate")]
            (Self::Simulated(fence), result) => simulated::end(&fence, result),
        }
    }
}

/// What probing found about one backend, for the log and for `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// `sw_sync` or `vgem`.
    pub backend: &'static str,
    /// Whether a guard was made, ended, and seen to have ended.
    pub ok: bool,
    /// What happened.
    pub why: String,
}

/// What was chosen, and what was found on the way.
#[derive(Serialize)]
pub struct Probe {
    /// `sw_sync`, `vgem`, `simulated` or `none`.
    pub backend: &'static str,
    /// In the order in which they were tried.
    pub tried: Vec<Tried>,
}

/// Chooses the best backend that works, by making a guard, ending it, and looking at it.
#[must_use]
pub fn choose(wanted: Backend, sw_sync: &Path) -> (Option<Box<dyn GuardBackend>>, Probe) {
    type Open<'a> =
        (&'static str, Backend, Box<dyn Fn() -> io::Result<Box<dyn GuardBackend>> + 'a>);
    let candidates: [Open<'_>; 2] = [
        ("sw_sync", Backend::SwSync, Box::new(|| sw_sync_guards::open(sw_sync))),
        ("vgem", Backend::Vgem, Box::new(vgem_guards::open)),
    ];
    let mut probe = Probe { backend: "none", tried: Vec::new() };
    for (name, backend, open) in candidates {
        if wanted != Backend::Auto && wanted != backend {
            continue;
        }
        let result = open().and_then(|backend| try_out(&*backend).map(|()| backend));
        probe.tried.push(Tried {
            backend: name,
            ok: result.is_ok(),
            why: result.as_ref().map_or_else(ToString::to_string, |_| {
                "a guard was made, ended, and seen".to_owned()
            }),
        });
        if let Ok(backend) = result {
            probe.backend = name;
            return (Some(backend), probe);
        }
    }
    (None, probe)
}

fn try_out(backend: &dyn GuardBackend) -> io::Result<()> {
    use dmashare_uapi::sync_file::{Status, status};

    for result in [Ok(()), Err(libc::ENODEV)] {
        let guard = backend.make()?;
        if status(guard.fence.as_fd())? != Status::Pending {
            return Err(io::Error::other("a new guard is not pending"));
        }
        guard.ender.end(result)?;
        match (status(guard.fence.as_fd())?, backend.kind()) {
            (Status::Pending, _) => {
                return Err(io::Error::other("an ended guard is still pending"));
            }
            (Status::Signalled, GuardKind::SwSync) if result.is_err() => {
                return Err(io::Error::other("a guard that was ended with an error reads as ok"));
            }
            _ => {}
        }
    }
    Ok(())
}
