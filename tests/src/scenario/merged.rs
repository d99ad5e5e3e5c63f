//! SYNC_IOC_MERGE: several fences of several drivers as one source, and guards that an importer
//! merges. What a merged sync_file shows of an error is the kernel's rule; a guard of one ends with
//! the cause all the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Result, ensure};
use dmashare::{Cause, FenceStatus};
use dmashare_uapi::sync_file::{self, Status};

use super::local::{Local, ends_by, ends_well, fd, pends};
use crate::scenario::figures::show;
use crate::{BOUND, Backend, Source, Unplug, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let local = Local::new(world)?;
    all_must_end(&local)?;
    for fails_last in [false, true] {
        one_fails(world, &local, fails_last)?;
    }
    fails_before_the_merge(&local)?;
    guards_ok(&local)?;
    merged_before_the_error(world, &local)?;
    merged_after_the_error(world, &local)?;
    unplugged(world, &local)
}

fn merge(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<OwnedFd> {
    Ok(sync_file::merge(c"dmashare-test", a, b)?)
}

/// Two of sw_sync, each for a driver's own, and one of vgem's; in one sync_file.
struct Parts {
    parts: [Source; 3],
    merged: OwnedFd,
}

impl Parts {
    fn new() -> Result<Self> {
        let parts = [Source::endless(false)?, Source::vgem(false)?, Source::endless(false)?];
        let two = merge(parts[0].fd(), parts[1].fd())?;
        let merged = merge(two.as_fd(), parts[2].fd())?;
        let info = sync_file::info(merged.as_fd())?;
        let of = |driver: &str| info.fences.iter().filter(|it| it.driver == driver).count();
        ensure!(info.fences.len() == 3 && of("vgem") == 1, "the merge is of {info:?}");
        ensure!(info.status == Status::Pending, "the merge is {info:?}");
        Ok(Self { parts, merged })
    }
}

fn all_must_end(local: &Local) -> Result<()> {
    // In any order.
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut source = Parts::new()?;
        let shared = local.share(source.merged.as_fd())?;
        let fence = local.import(&shared)?;
        for part in order {
            pends(&shared, &fence)?;
            source.parts[part].signal()?;
        }
        ends_well(&fence)?;
    }
    Ok(())
}

/// The others end well, before or after: the merge waits for all, and shows the error.
fn one_fails(world: &World, local: &Local, fails_last: bool) -> Result<()> {
    let mut source = Parts::new()?;
    let shared = local.share(source.merged.as_fd())?;
    let fence = local.import(&shared)?;
    let mut errno = 0;
    for part in if fails_last { [1, 2, 0] } else { [0, 2, 1] } {
        pends(&shared, &fence)?;
        if part == 0 {
            errno = source.parts[part].fail()?;
        } else {
            source.parts[part].signal()?;
        }
    }
    ensure!(sync_file::wait(source.merged.as_fd(), Some(BOUND))?, "the merge does not end");
    let info = sync_file::info(source.merged.as_fd())?;
    ensure!(info.status == Status::Error(errno), "the merge of one that failed: {info:?}");
    ends_by(world, &fence, Cause::Exporter(errno))
}

/// The kernel's rule: what has ended is left out of a merge, with its error. Nobody can know.
fn fails_before_the_merge(local: &Local) -> Result<()> {
    let (mut failed, mut other) = (Source::endless(false)?, Source::vgem(false)?);
    failed.fail()?;
    let merged = merge(failed.fd(), other.fd())?;
    let info = sync_file::info(merged.as_fd())?;
    ensure!(info.fences.len() == 1 && info.status == Status::Pending, "the merge is {info:?}");
    let shared = local.share(merged.as_fd())?;
    let fence = local.import(&shared)?;
    pends(&shared, &fence)?;
    other.signal()?;
    ends_well(&fence)
}

/// An importer's merge of guards.
fn guards_ok(local: &Local) -> Result<()> {
    let mut sources = [Source::endless(false)?, Source::vgem(false)?];
    let guards = [local.guard(sources[0].fd())?, local.guard(sources[1].fd())?];
    let merged = merge(fd(&guards[0])?, fd(&guards[1])?)?;
    sources[0].signal()?;
    ends_well(&guards[0])?;
    let info = sync_file::info(merged.as_fd())?;
    ensure!(info.status == Status::Pending, "one of two guards is pending: {info:?}");
    sources[1].signal()?;
    ensure!(sync_file::wait(merged.as_fd(), Some(BOUND))?, "the merge does not end");
    let info = sync_file::info(merged.as_fd())?;
    ensure!(info.status == Status::Signalled, "the merge of guards that ended well: {info:?}");
    Ok(())
}

/// Merged while both were pending: the error shows, where guards show any.
fn merged_before_the_error(world: &World, local: &Local) -> Result<()> {
    let mut sources = [Source::endless(false)?, Source::endless(false)?];
    let guards = [local.guard(sources[0].fd())?, local.guard(sources[1].fd())?];
    let merged = merge(fd(&guards[0])?, fd(&guards[1])?)?;
    let errno = sources[0].fail()?;
    ends_by(world, &guards[0], Cause::Exporter(errno))?;
    sources[1].signal()?;
    ends_well(&guards[1])?;
    ensure!(sync_file::wait(merged.as_fd(), Some(BOUND))?, "the merge does not end");
    let info = sync_file::info(merged.as_fd())?;
    let expected = match world.backend() {
        Backend::SwSync => Status::Error(libc::ENOENT),
        _ => Status::Signalled,
    };
    ensure!(info.status == expected, "merged, then one failed: {info:?}, not {expected:?}");
    show(format_args!("guards merged, then one failed: {:?}", info.status));
    Ok(())
}

/// Merged after one has failed: the merge does not show it on any backend; the library does, asked
/// for the guard itself.
fn merged_after_the_error(world: &World, local: &Local) -> Result<()> {
    let mut sources = [Source::endless(false)?, Source::endless(false)?, Source::endless(false)?];
    let guards = [
        local.guard(sources[0].fd())?,
        local.guard(sources[1].fd())?,
        local.guard(sources[2].fd())?,
    ];
    let errno = sources[0].fail()?;
    ends_by(world, &guards[0], Cause::Exporter(errno))?;
    sources[2].signal()?;
    ends_well(&guards[2])?;
    let with_ok = merge(fd(&guards[2])?, fd(&guards[0])?)?;
    let with_pending = merge(fd(&guards[0])?, fd(&guards[1])?)?;
    let info = sync_file::info(with_pending.as_fd())?;
    ensure!(info.status == Status::Pending, "one of two guards is pending: {info:?}");
    sources[1].signal()?;
    ends_well(&guards[1])?;
    for merged in [&with_ok, &with_pending] {
        ensure!(sync_file::wait(merged.as_fd(), Some(BOUND))?, "the merge does not end");
        let info = sync_file::info(merged.as_fd())?;
        ensure!(info.status == Status::Signalled, "one had failed, then merged: {info:?}");
    }
    ends_by(world, &guards[0], Cause::Exporter(errno))
}

/// At once, whatever is pending.
fn unplugged(world: &World, local: &Local) -> Result<()> {
    let mut sources = [Parts::new()?, Parts::new()?];
    let guards = [local.guard(sources[0].merged.as_fd())?, local.guard(sources[1].merged.as_fd())?];
    // Some of it has ended.
    sources[1].parts[0].signal()?;
    let merged = merge(fd(&guards[0])?, fd(&guards[1])?)?;
    world.unplug(Unplug::Remove)?;
    ensure!(sync_file::wait(merged.as_fd(), Some(BOUND))?, "the importer's merge does not end");
    for (source, guard) in sources.iter().zip(&guards) {
        let status = sync_file::status(source.merged.as_fd())?;
        ensure!(status == Status::Pending, "a source ended ({status:?}); this shows nothing");
        ends_by(world, guard, Cause::Unplugged)?;
        ensure!(matches!(guard.status()?, FenceStatus::Failed(error) if error.is_device_lost()));
    }
    let info = sync_file::info(merged.as_fd())?;
    let expected = match world.backend() {
        Backend::SwSync => Status::Error(libc::ENOENT),
        _ => Status::Signalled,
    };
    ensure!(info.status == expected, "merged, then unplugged: {info:?}, not {expected:?}");
    world.wait_gone(local.device)
}
