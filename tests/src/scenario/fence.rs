//! Scenario 4: A guard does what its source does.

use anyhow::{Context, Result, ensure};
use dmashare::Cause;
use dmashare_uapi::sync_file::Status;

use super::pair::{Pair, WAIT_MS, long_deadline_ms};
use crate::actor::Task;
use crate::clock::{human, now_ns};
use crate::scenario::figures::{note, show};
use crate::{BOUND, Backend, Source, User, World};

/// Pending, then signalled: ok, for a source of the test's and for one of the exporter's own.
pub(super) fn signals(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let mut source = Source::endless(world.is_simulated())?;
    let fence = pair.share_fence(&source, long_deadline_ms(world))?;
    world.wait_counts(pair.device, (0, 0, 1))?;
    let now = pair.importer.call(Task::Status { key: fence.imported })?.fence()?;
    ensure!(now.errno.is_none() && now.raw == Some(0), "the guard is not pending: {now:?}");

    let wait = Task::Wait { key: fence.imported, bound_ms: WAIT_MS };
    let waiting = pair.importer.begin(wait)?;
    let signalled_ns = now_ns();
    source.signal()?;
    let end = waiting.wait(BOUND)?.fence()?;
    ensure!(end.errno == Some(0) && end.raw == Some(1), "the source signalled, the guard: {end:?}");
    let woke_ns = end.woke_ns.context("a poll on the guard did not wake")?;
    let ns = woke_ns.saturating_sub(signalled_ns);
    show(format_args!("source signalled to waiter awake: {}", human(ns)));
    note("source signalled to waiter awake, ns", ns);
    world.wait_counts(pair.device, (0, 0, 0))?;

    // The exporter's own, of vgem: no privilege is needed.
    let task = Task::ShareFence { card: pair.card.clone(), deadline_ms: 0 };
    let shared = pair.exporter.call(task)?.key()?;
    let key = pair.import_fence(&pair.importer, shared)?;
    let waiting = pair.importer.begin(Task::Wait { key, bound_ms: WAIT_MS })?;
    pair.exporter.call(Task::Signal { key: shared })?;
    let end = waiting.wait(BOUND)?.fence()?;
    ensure!(end.errno == Some(0), "the exporter's source signalled, the guard: {end:?}");
    Ok(())
}

/// A source that fails: the same error reaches every importer, on every backend.
pub(super) fn fails(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let another = world.client("another importer", User::Alice)?;
    let mut source = Source::endless(world.is_simulated())?;
    let fence = pair.share_fence(&source, long_deadline_ms(world))?;
    let theirs = pair.import_fence(&another, fence.shared)?;
    let waiting = [
        pair.importer.begin(Task::Wait { key: fence.imported, bound_ms: WAIT_MS })?,
        another.begin(Task::Wait { key: theirs, bound_ms: WAIT_MS })?,
    ];
    let errno = source.fail()?;
    for waiting in waiting {
        let end = waiting.wait(BOUND)?.fence()?;
        ensure!(
            end.errno == Some(errno) && end.cause == Some(Cause::Exporter(errno)),
            "the source failed with {errno}, the guard: {end:?}"
        );
        if world.backend() == Backend::SwSync {
            ensure!(end.raw == Some(-libc::ENOENT), "the guard's sync_file: {end:?}");
        }
    }
    world.wait_counts(pair.device, (0, 0, 0))
}

/// A source that never ends: its guard is finite all the same.
pub(super) fn times_out(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let source = Source::endless(world.is_simulated())?;
    let fence = pair.share_fence(&source, 300)?;
    let wait = Task::Wait { key: fence.imported, bound_ms: WAIT_MS };
    let end = pair.importer.call(wait).context("a guard with a deadline")?.fence()?;
    ensure!(
        end.errno == Some(libc::ETIMEDOUT) && end.cause == Some(Cause::TimedOut),
        "the guard passed its deadline: {end:?}"
    );
    ensure!(source.status()? == Status::Pending, "the source ended");
    world.wait_counts(pair.device, (0, 0, 0))?;

    // A longer one than can be had is refused, with what sets the limit.
    let task = Task::ShareFence { card: pair.card.clone(), deadline_ms: 60_001 };
    let refused = pair.exporter.begin_with(task, &[source.fd()])?.refused(BOUND)?;
    let why = match world.backend() {
        Backend::Vgem => {
            "at most 9500 ms here: the kernel ends every vgem fence by itself after 10 s"
        }
        Backend::SwSync | Backend::Simulated | Backend::None => {
            "at most 60000 ms here: fence.max_deadline_ms"
        }
    };
    ensure!(refused.text.contains(why), "a long deadline: {refused}");
    Ok(())
}
