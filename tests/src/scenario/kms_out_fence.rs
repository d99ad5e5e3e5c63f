//! The out-fence of the eGPU's own screen as a source: what an importer sees of it when the commit
//! is done, when the card is pulled with the commit in flight, and when both happen at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, ensure};
use dmashare::{Cause, FenceStatus, ImportedFence};
use dmashare_uapi::sync_file::{self, Status};
use drm::control::framebuffer;

use super::kms::Screen;
use super::local::{Local, ends_by, ends_well, pends, raw};
use crate::scenario::figures::{note, show};
use crate::uevents::Uevents;
use crate::{BOUND, Buffer, Source, Unplug, World};

/// How often the end of the commit and the loss are let run against each other: in turn from the
/// beginning of the pull, and from the kernel's event.
const RACES: u32 = 6;

pub(super) fn run(world: &mut World) -> Result<()> {
    commit_first(world)?;
    world.replug()?;
    loss_first(world)?;
    let (mut well, mut lost) = (0, 0);
    for round in 0..RACES {
        world.replug()?;
        match at_once(world, round % 2 == 1)? {
            FenceStatus::Ok { .. } => well += 1,
            _ => lost += 1,
        }
    }
    show(format_args!("commit and pull at once: {well} ended as done, {lost} as lost"));
    note("commit and pull at once, ended as done", well);
    Ok(())
}

/// A commit of the eGPU's that waits for an in-fence, and its out-fence.
struct Commit {
    screen: Screen,
    out: OwnedFd,
    _shown: framebuffer::Handle,
}

impl Commit {
    fn begin(local: &Local, after: BorrowedFd<'_>) -> Result<Self> {
        let screen = Screen::open(&local.card)?;
        let (width, height) = screen.size();
        let make = || screen.framebuffer(&Buffer::make_on(screen.node()?, false, width, height)?);
        let shown = make()?;
        screen.show(shown)?;
        let out = screen.flip_with_out_fence(make()?, Some(after))?;
        let info = sync_file::info(out.as_fd())?;
        ensure!(info.status == Status::Pending, "the commit waits, and its out-fence is {info:?}");
        let of_card = info.fences.len() == 1 && info.fences[0].driver == local.card.driver;
        ensure!(of_card, "the out-fence is not the card's own: {info:?}");
        Ok(Self { screen, out, _shown: shown })
    }

    fn out(&self) -> Result<Status> {
        Ok(sync_file::status(self.out.as_fd())?)
    }

    /// The kernel ends it as ok, whether or not the card is still there.
    fn out_ends_well(&self) -> Result<()> {
        ensure!(sync_file::wait(self.out.as_fd(), Some(BOUND))?, "the out-fence does not end");
        let status = self.out()?;
        ensure!(status == Status::Signalled, "the out-fence ended with {status:?}");
        Ok(())
    }
}

/// Done, then pulled: done it stays.
fn commit_first(world: &World) -> Result<()> {
    let local = Local::new(world)?;
    let mut after = Source::endless(false)?;
    let commit = Commit::begin(&local, after.fd())?;
    let shared = local.share(commit.out.as_fd())?;
    let fence = local.import(&shared)?;
    pends(&shared, &fence)?;
    after.signal()?;
    ends_well(&fence)?;
    commit.out_ends_well()?;
    commit.screen.flipped(BOUND)?.context("the flip was not done")?;
    world.wait_counts(local.device, (0, 0, 0))?;
    world.unplug(Unplug::Remove)?;
    world.wait_gone(local.device)?;
    ends_well(&fence).context("after the pull")
}

/// Pulled while the commit is in flight: the importer is told at once, long before the kernel ends
/// the out-fence, which shows no error even then.
fn loss_first(world: &World) -> Result<()> {
    let local = Local::new(world)?;
    let mut after = Source::endless(false)?;
    let commit = Commit::begin(&local, after.fd())?;
    let fence = local.guard(commit.out.as_fd())?;
    std::thread::scope(|scope| {
        let unplug = scope.spawn(|| world.unplug(Unplug::Remove));
        let lost = ends_by(world, &fence, Cause::Unplugged);
        let out = commit.out();
        // The kernel's removal waits for it.
        after.signal()?;
        unplug.join().map_err(|_| anyhow!("the unplug panicked"))??;
        lost?;
        ensure!(out? == Status::Pending, "the out-fence ended by itself; this shows nothing");
        Ok(())
    })?;
    commit.out_ends_well()?;
    ends_by(world, &fence, Cause::Unplugged).context("after the source has ended")
}

/// Whichever the broker meets first counts, for everybody and for good; *done* is only said of what
/// is done.
fn at_once(world: &World, from_the_event: bool) -> Result<FenceStatus> {
    let local = Local::new(world)?;
    let mut after = Source::endless(false)?;
    let commit = Commit::begin(&local, after.fd())?;
    let shared = local.share(commit.out.as_fd())?;
    let fences = [local.import(&shared)?, local.import(&shared)?];
    let begin = std::sync::Barrier::new(2);
    let uevents = Uevents::listen()?;
    let minor = local.card.devpath(local.card.primary())?;
    std::thread::scope(|scope| {
        let unplug = scope.spawn(|| {
            begin.wait();
            world.unplug(Unplug::Remove)
        });
        begin.wait();
        if from_the_event {
            uevents.wait_removed(&minor, BOUND)?;
        }
        after.signal()?;
        unplug.join().map_err(|_| anyhow!("the unplug panicked"))?
    })?;
    let end = |fence: &ImportedFence| match fence.wait(Some(BOUND))? {
        FenceStatus::Ok { .. } => {
            let out = commit.out()?;
            ensure!(out == Status::Signalled, "told as done, and the source is {out:?}");
            ensure!(raw(fence)? == Status::Signalled, "told as done, and the guard shows an error");
            Ok(true)
        }
        _ => ends_by(world, fence, Cause::Unplugged).map(|()| false),
    };
    let first = end(&fences[0])?;
    commit.out_ends_well()?;
    world.wait_gone(local.device)?;
    for fence in &fences {
        ensure!(end(fence)? == first, "it ended in two ways: {:?}", fence.status()?);
    }
    Ok(fences[0].status()?)
}
