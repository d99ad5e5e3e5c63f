//! What a fence can be shared with: no deadline, one that is too long, a source that is known
//! already, and one that has ended.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dmashare::{Cause, ErrorCode, FenceStatus, ImportedFence, Policy};
use dmashare_proto::message::{Reply, Request, ShareFence};
use dmashare_uapi::sync_file::Status;

use super::local::{Local, ends_by, ends_well, raw};
use crate::hostile::{Bystanders, Raw, expect};
use crate::{Role, Source, Unplug, World};

/// The broker's own, far below what a client may ask for.
const DEFAULT_MS: u32 = 500;
const LONGER_MS: u32 = 5_000;
/// What vgem's guards can keep.
const MAX_MS: u32 = 9_000;
pub(super) const CONFIG: &str = "[fence]\ndeadline_ms = 500\nmax_deadline_ms = 9000\n";

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Stay)?;
    pair.meanwhile(|| {
        none_is_the_default(world).context("no deadline")?;
        beyond_the_maximum(world).context("beyond the maximum")?;
        twice(world).context("the same source twice")?;
        ended_before(world).context("a source that has ended")
    })?;
    pair.undisturbed(world)
}

/// Zero on the wire. The one that is shared first without a deadline ends before the other, which
/// asked for a longer one: with any other deadline than the default it would not.
fn none_is_the_default(world: &World) -> Result<()> {
    let local = Local::new(world)?.with_deadline(None);
    let source = Source::endless(world.is_simulated())?;
    let short = local.guard(source.fd())?;
    let longer = Duration::from_millis(LONGER_MS.into());
    let long = local.with_deadline(Some(longer)).guard(source.fd())?;
    ends_by(world, &short, Cause::TimedOut)?;
    ends_by(world, &long, Cause::TimedOut)?;
    let (first, second) = (end_of(&short)?, end_of(&long)?);
    ensure!(first < second, "the default is {DEFAULT_MS} ms: {first:?}, the other {second:?}");
    ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
    Ok(())
}

fn end_of(fence: &ImportedFence) -> Result<Duration> {
    match fence.status()? {
        FenceStatus::Failed(error) => error.at.context("it is not told when"),
        other => anyhow::bail!("it is {other:?}"),
    }
}

fn beyond_the_maximum(world: &World) -> Result<()> {
    let mut raw = Raw::hello(&world.socket(), "patient")?;
    let node = world.egpu()?.open_render()?;
    let mut source = Source::endless(world.is_simulated())?;
    let fds = [node.as_fd(), source.fd()];
    let with = |deadline_ms| {
        Request::ShareFence(ShareFence { policy: Policy::Auto, deadline_ms, grant: None })
    };
    for beyond in [MAX_MS + 1, u32::MAX] {
        let error = raw.refused(&with(beyond), &fds)?;
        expect(&error, ErrorCode::BAD_VALUE, &["at most 9000 ms", "fence.max_deadline_ms"])?;
        ensure!(error.code.0 == 207, "its number is {}", error.code.0);
    }
    // The maximum itself is none, and the client is as good as before.
    let (Reply::FenceShared(shared), _) = raw.request(&with(MAX_MS), &fds)? else {
        anyhow::bail!("the longest deadline was refused");
    };
    source.signal()?;
    raw.release(shared.fence)
}

/// Two fences of one source are two fences: both end with it, and with the card.
fn twice(world: &World) -> Result<()> {
    let local = Local::new(world)?.with_deadline(Some(Duration::from_millis(MAX_MS.into())));
    let mut source = Source::endless(world.is_simulated())?;
    let shared = [local.share(source.fd())?, local.share(source.fd())?];
    ensure!(shared[0].id() != shared[1].id(), "both are fence {}", shared[0].id());
    let fences = [local.import(&shared[0])?, local.import(&shared[1])?];
    world.wait_counts(local.device, (0, 0, 2))?;
    source.signal()?;
    for fence in &fences {
        ends_well(fence)?;
    }
    world.wait_counts(local.device, (0, 0, 0))?;

    let source = Source::endless(world.is_simulated())?;
    let fences = [local.guard(source.fd())?, local.guard(source.fd())?];
    world.unplug(Unplug::Remove)?;
    for fence in &fences {
        ends_by(world, fence, Cause::Unplugged)?;
    }
    ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
    world.wait_gone(local.device)?;
    world.replug().map(drop)
}

/// Importers are told how it ended; there is nothing to wait for.
fn ended_before(world: &World) -> Result<()> {
    let local = Local::new(world)?.with_deadline(None);
    let mut done = Source::endless(world.is_simulated())?;
    done.signal()?;
    let mut failed = Source::endless(world.is_simulated())?;
    let errno = failed.fail()?;
    for (source, cause) in [(&done, None), (&failed, Some(Cause::Exporter(errno)))] {
        let shared = local.share(source.fd())?;
        let fences = [local.import(&shared)?, local.import(&shared)?];
        for told in [shared.query()?, fences[0].status()?, fences[1].wait(None)?] {
            match (told, cause) {
                (FenceStatus::Ok { .. }, None) => {}
                (FenceStatus::Failed(error), Some(_)) if error.cause == cause => {}
                _ => anyhow::bail!("it ended by {cause:?}, and is told as {told:?}"),
            }
        }
        ensure!(fences.iter().all(|fence| fence.fd().is_none()), "there is something to wait for");
        ensure!(raw(&fences[0]).is_err(), "it has a guard");
    }
    // Nothing pends, so nothing is counted.
    world.wait_counts(local.device, (0, 0, 0))
}
