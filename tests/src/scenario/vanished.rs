//! 12: A device vanishes, and no event tells of it.

use std::fs::{self, File};
use std::io::Write;

use anyhow::{Context, Result, ensure};
use dmashare::Cause;
use dmashare_uapi::sync_file::Status;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::pair::{Pair, WAIT_MS, long_deadline_ms};
use crate::actor::Task;
use crate::clock::{human, now_ns};
use crate::scenario::figures::{note, show};
use crate::uevents::Uevents;
use crate::{BOUND, Source, Unplug, User, World};

/// Who waits wakes because the device is looked at.
pub(super) fn waiter(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let second = world.client("second waiter", User::Alice)?;
    let source = Source::endless(world.is_simulated())?;
    let fence = pair.share_fence(&source, long_deadline_ms(world))?;
    let theirs = pair.import_fence(&second, fence.shared)?;
    let waiting = [
        pair.importer.begin(Task::Wait { key: fence.imported, bound_ms: WAIT_MS })?,
        second.begin(Task::Wait { key: theirs, bound_ms: WAIT_MS })?,
    ];
    for waiting in &waiting {
        waiting.at_it(BOUND)?;
    }
    let uevents = Uevents::listen()?;

    let vanished_ns = now_ns();
    world.unplug(Unplug::Vanish)?;
    let mut awake_ns = 0;
    for waiting in waiting {
        let end = waiting.wait(BOUND)?.fence()?;
        ensure!(
            end.errno == Some(libc::ENODEV) && end.cause == Some(Cause::Vanished),
            "the waiter woke with {end:?}"
        );
        awake_ns = awake_ns.max(end.woke_ns.context("a poll on the guard did not wake")?);
    }
    ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
    ensure!(
        !uevents.has(|seen| seen.action == "remove"),
        "an event told of it; this shows nothing"
    );
    let ns = awake_ns.saturating_sub(vanished_ns);
    show(format_args!("vanished to last waiter awake: {}", human(ns)));
    note("vanished to last waiter awake, ns", ns);
    for client in [&pair.exporter, &pair.importer, &second] {
        let loss = client.call(Task::AwaitLoss { device: pair.device })?.loss()?;
        ensure!(loss.cause == Cause::Vanished, "a client was told {loss:?}");
    }
    world.wait_gone(pair.device)?;
    let report = world.bus().report(pair.device)?;
    ensure!(report.cause == Cause::Vanished && report.guards == 1, "{report:?}");
    Ok(())
}

/// With no looks but those, a guard that passes its deadline makes one, which frees all others.
pub(super) fn by_deadline(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let source = Source::endless(true)?;
    let lasting = pair.share_fence(&source, 60_000)?;
    let wait = Task::Wait { key: lasting.imported, bound_ms: WAIT_MS };
    let waiting = pair.importer.begin(wait)?;
    waiting.at_it(BOUND)?;
    world.unplug(Unplug::Vanish)?;
    let short = pair.share_fence(&source, 300)?;
    let wait = Task::Wait { key: short.imported, bound_ms: WAIT_MS };
    let end = pair.importer.call(wait)?.fence()?;
    ensure!(end.cause == Some(Cause::TimedOut), "the short one woke with {end:?}");
    let end = waiting.wait(BOUND)?.fence()?;
    ensure!(end.cause == Some(Cause::Vanished), "the lasting one woke with {end:?}");
    let loss = pair.importer.call(Task::AwaitLoss { device: pair.device })?.loss()?;
    ensure!(loss.cause == Cause::Vanished, "a client was told {loss:?}");
    world.wait_gone(pair.device)
}

/// A look that does not come back holds nobody up: fences go on ending, and there is no second look.
pub(super) fn stuck_look(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let config = world.config_space(&pair.card)?;
    fs::remove_file(&config)?;
    mkfifo(&config, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let stuck = Source::endless(true)?;
    let fence = pair.share_fence(&stuck, 60_000)?;
    let wait = Task::Wait { key: fence.imported, bound_ms: WAIT_MS };
    let waiting = pair.importer.begin(wait)?;
    // Opened once the look has begun, which then waits for what is written.
    let mut look = File::options().write(true).open(&config).context("a look")?;
    for _ in 0..100 {
        let mut source = Source::endless(true)?;
        let fence = pair.share_fence(&source, 60_000)?;
        source.signal()?;
        let wait = Task::Wait { key: fence.imported, bound_ms: WAIT_MS };
        let end = pair.importer.call(wait)?.fence()?;
        ensure!(end.errno == Some(0), "beside the look: {end:?}");
        pair.importer.call(Task::Release { key: fence.imported })?;
        pair.exporter.call(Task::Release { key: fence.shared })?;
    }
    look.write_all(&[0xff; 4])?;
    let end = waiting.wait(BOUND)?.fence()?;
    ensure!(end.cause == Some(Cause::Vanished), "the look has ended, the waiter woke with {end:?}");
    world.wait_gone(pair.device)
}
