//! Timelines: the fences of linux-drm-syncobj-v1 and of Vulkan, through the broker.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dmashare::{Cause, Connection, Direction, Grant, PointState, Policy, Timeline};
use dmashare_uapi::sync_file::{self, Status};
use dmashare_uapi::syncobj::Syncobj;

use crate::actor::PointEnd;
use crate::{BOUND, Backend, Card, Role, World};

pub(super) mod bad;
pub(super) mod keeper;
pub(super) mod order;
pub(super) mod release;
pub(super) mod thousand;

/// A timeline of the eGPU's in this process, made by one connection and imported by another.
pub(super) struct Line {
    maker: Connection,
    other: Connection,
    pub made: Timeline,
    pub imported: Timeline,
    card: Card,
    node: OwnedFd,
}

impl Line {
    pub fn new(world: &World, direction: Direction) -> Result<Self> {
        let card = world.egpu()?;
        let node = card.open()?;
        let (maker, other) = (world.connect("maker")?, world.connect("importer")?);
        let made = maker.create_timeline(node.as_fd(), Policy::Auto, direction)?;
        let imported = import(&maker, &made, &other)?;
        Ok(Self { maker, other, made, imported, card, node })
    }

    pub fn submit(&self, point: u64, source: &crate::Source) -> Result<()> {
        Ok(self.made.submit(point, self.node.as_fd(), source.fd(), None)?)
    }
}

fn import(maker: &Connection, made: &Timeline, other: &Connection) -> Result<Timeline> {
    Ok(other.import_timeline(maker.grant(made, Grant::default())?)?)
}

/// A point's end by the library, waited for.
pub(super) fn end(timeline: &Timeline, point: u64) -> Result<PointEnd> {
    PointEnd::wait(timeline, point, BOUND)
}

pub(super) fn is_ok(end: PointEnd) -> Result<()> {
    ensure!(end.errno == 0, "{end:?}, which was to be ok");
    Ok(())
}

pub(super) fn failed(end: PointEnd, cause: Cause) -> Result<()> {
    ensure!(end.failed_by(cause), "{end:?}, not {}", cause.name());
    Ok(())
}

pub(super) fn state(timeline: &Timeline, point: u64, wanted: PointState) -> Result<()> {
    let state = timeline.query(point)?;
    ensure!(state == wanted, "point {point} is {state:?}, not {wanted:?}");
    Ok(())
}

/// Whether the timeline's pipe has hung up by now.
pub(super) fn has_hung_up(timeline: &Timeline) -> Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(timeline.lost_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    Ok(fds[0].revents().context("poll")?.contains(PollFlags::POLLHUP))
}

/// Waits until it has: it does when the keeper has closed its end too, a moment after everybody is told.
pub(super) fn hangs_up(timeline: &Timeline) -> Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(timeline.lost_fd(), PollFlags::empty())];
    let bound = PollTimeout::try_from(BOUND)?;
    ensure!(poll(&mut fds, bound)? == 1, "the timeline's pipe did not hang up");
    Ok(())
}

/// The timeline as the kernel has it, through a device that stays; `None` on a simulated machine.
fn in_kernel(world: &World, timeline: &Timeline) -> Result<Option<Syncobj<OwnedFd>>> {
    if world.is_simulated() {
        return Ok(None);
    }
    let node = world.card(Role::Stay)?.open_render()?;
    Ok(Some(Syncobj::from_fd(node, timeline.syncobj())?))
}

/// A sync_file of what a point has now.
fn exported(world: &World, timeline: &Timeline, point: u64) -> Result<OwnedFd> {
    let node = world.card(Role::Stay)?.open_render()?;
    let line = Syncobj::from_fd(node.as_fd(), timeline.syncobj())?;
    let carrier = Syncobj::create(node.as_fd(), false)?;
    carrier
        .transfer_from(0, &line, point)
        .with_context(|| format!("point {point} has no fence"))?;
    Ok(carrier.export_sync_file()?)
}

/// The status of a sync_file that is to have ended, as a number: 1, or a negative errno.
fn status(sync_file: &OwnedFd) -> Result<i32> {
    ensure!(sync_file::wait(sync_file.as_fd(), Some(BOUND))?, "a point's sync_file is pending");
    Ok(match sync_file::status(sync_file.as_fd())? {
        Status::Pending => 0,
        Status::Signalled => 1,
        Status::Error(errno) => -errno,
    })
}

/// How many sources may be pending at a time: vgem's guards end by themselves after ten seconds.
fn many(world: &World) -> u64 {
    match world.backend() {
        Backend::Vgem => 20,
        Backend::Simulated | Backend::SwSync | Backend::None => 500,
    }
}

/// Nothing moves for so long that what would wake has woken.
const A_WHILE: Duration = Duration::from_millis(200);
