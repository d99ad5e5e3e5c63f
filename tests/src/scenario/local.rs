//! An exporter and an importer as two connections of this process: for tests that need the guard's
//! own descriptor, or thousands of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dmashare::{
    Cause, Connection, DeviceId, Event, FenceOptions, FenceStatus, Grant, ImportedFence, Lost,
    SharedFence,
};
use dmashare_uapi::sim;
use dmashare_uapi::sync_file::{self, Status};

use super::pair::long_deadline_ms;
use crate::{BOUND, Backend, Card, World};

/// The two, and the card whose fences they share.
pub(super) struct Local {
    pub card: Card,
    pub device: DeviceId,
    pub exporter: Connection,
    pub importer: Connection,
    /// Not the primary one: whoever opens that first is the card's master, for as long as the broker
    /// has it.
    node: OwnedFd,
    options: FenceOptions,
}

impl Local {
    /// On the eGPU, with the longest deadline that the broker's default configuration takes.
    pub fn new(world: &World) -> Result<Self> {
        let card = world.egpu()?;
        let node = card.open_render()?;
        let deadline = match long_deadline_ms(world) {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        };
        let options = FenceOptions { deadline, ..FenceOptions::default() };
        let (exporter, importer) = (world.connect("exporter")?, world.connect("importer")?);
        // The bus may not tell yet of a card that was just brought back.
        let device = world.arrived(&exporter, &card)?;
        Ok(Self { card, device, exporter, importer, node, options })
    }

    /// With another deadline; `None` is the broker's.
    pub fn with_deadline(self, deadline: Option<Duration>) -> Self {
        let options = FenceOptions { deadline, ..self.options };
        Self { options, ..self }
    }

    /// Makes a fence known to the broker.
    pub fn share(&self, source: BorrowedFd<'_>) -> Result<SharedFence> {
        Ok(self.exporter.share_fence(self.node.as_fd(), source, self.options)?)
    }

    /// A shared fence as an importer has it.
    pub fn import(&self, shared: &SharedFence) -> Result<ImportedFence> {
        let token = self.exporter.grant(shared, Grant::default())?;
        Ok(self.importer.import_fence(token)?)
    }

    /// The guard of a source, as an importer has it. The exporter keeps no handle.
    pub fn guard(&self, source: BorrowedFd<'_>) -> Result<ImportedFence> {
        self.import(&self.share(source)?)
    }
}

/// A guard's descriptor; a fence that had ended when it was imported has none.
pub(super) fn fd(fence: &ImportedFence) -> Result<BorrowedFd<'_>> {
    fence.fd().context("the fence has no guard")
}

/// What a program sees of a guard that knows nothing of the library.
pub(super) fn raw(fence: &ImportedFence) -> Result<Status> {
    let fd = fd(fence)?;
    Ok(if sim::is_fence(fd)? { sim::status(fd)? } else { sync_file::status(fd)? })
}

/// What a program sees of a guard that ended with this errno: sw_sync knows one error, and vgem
/// none.
pub(super) fn shown(world: &World, errno: i32) -> Status {
    match world.backend() {
        Backend::Simulated => Status::Error(errno),
        Backend::SwSync => Status::Error(libc::ENOENT),
        _ => Status::Signalled,
    }
}

/// Waits for a fence that is to end well.
pub(super) fn ends_well(fence: &ImportedFence) -> Result<()> {
    let end = fence.wait(Some(BOUND))?;
    ensure!(matches!(end, FenceStatus::Ok { .. }), "the work is done, and the fence is {end:?}");
    let raw = raw(fence)?;
    ensure!(raw == Status::Signalled, "the work is done, and the guard is {raw:?}");
    Ok(())
}

/// Waits for a fence that is to fail; by the library's word, and by the guard's.
pub(super) fn ends_by(world: &World, fence: &ImportedFence, cause: Cause) -> Result<()> {
    let end = fence.wait(Some(BOUND))?;
    let FenceStatus::Failed(error) = end else { anyhow::bail!("it failed, and is {end:?}") };
    ensure!(
        error.cause == Some(cause) && error.errno() == cause.errno(),
        "it failed by {cause:?}, and is {error:?}"
    );
    let (raw, shown) = (raw(fence)?, shown(world, cause.errno()));
    ensure!(raw == shown, "the guard of a fence that failed is {raw:?}, not {shown:?}");
    Ok(())
}

/// Checks that a fence is pending: asked in the kernel, and at the broker, whose answer is newer
/// than every end of a source that was before it.
pub(super) fn pends(shared: &SharedFence, fence: &ImportedFence) -> Result<()> {
    let (told, raw) = (shared.query()?, raw(fence)?);
    ensure!(told == FenceStatus::Pending, "the broker says {told:?}");
    ensure!(raw == Status::Pending, "the guard is {raw:?}");
    Ok(())
}

/// Waits until a connection is told of the device's loss.
pub(super) fn told(connection: &Connection, device: DeviceId) -> Result<Lost> {
    loop {
        let events = connection.dispatch(Some(BOUND))?;
        ensure!(!events.is_empty(), "the loss was not told");
        for event in events {
            if let Event::DeviceLost(lost) = event
                && lost.device() == device
            {
                return Ok(lost);
            }
        }
    }
}
