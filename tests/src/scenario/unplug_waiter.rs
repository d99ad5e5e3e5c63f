//! Scenario 5: Unplug while others wait on a guard whose source never ends.

use anyhow::{Context, Result, ensure};
use dmashare::Cause;
use dmashare_proto::report::Step;
use dmashare_uapi::sync_file::Status;

use super::pair::{Pair, WAIT_MS, long_deadline_ms};
use crate::actor::Task;
use crate::clock::human;
use crate::scenario::figures::{note, show};
use crate::{BOUND, Backend, Source, Unplug, User, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    waiters_wake(world, Unplug::Remove)
}

pub(super) fn hot_unplug(world: &mut World) -> Result<()> {
    waiters_wake(world, Unplug::HotUnplug)
}

fn waiters_wake(world: &World, how: Unplug) -> Result<()> {
    let pair = Pair::new(world)?;
    let second = world.client("second waiter", User::Alice)?;
    let source = Source::endless(world.is_simulated())?;
    let fence = pair.share_fence(&source, long_deadline_ms(world))?;
    let theirs = pair.import_fence(&second, fence.shared)?;
    let buffer = pair.share_buffer(world, 64, 64)?;
    let waiting = [
        pair.importer.begin(Task::Wait { key: fence.imported, bound_ms: WAIT_MS })?,
        second.begin(Task::Wait { key: theirs, bound_ms: WAIT_MS })?,
    ];
    for waiting in &waiting {
        waiting.at_it(BOUND)?;
    }
    let now = pair.importer.call(Task::Status { key: fence.imported })?.fence()?;
    ensure!(now.raw == Some(0), "the guard is not pending before the unplug: {now:?}");

    world.unplug(how)?;

    let (mut awake_ns, mut known_ns) = (0, 0);
    for waiting in waiting {
        let end = waiting.wait(BOUND)?.fence()?;
        ensure!(
            source.status()? == Status::Pending,
            "the source ended by itself; this shows nothing"
        );
        ensure!(
            end.errno == Some(libc::ENODEV) && end.cause == Some(Cause::Unplugged),
            "the waiter woke with {end:?}"
        );
        match world.backend() {
            Backend::SwSync | Backend::Simulated => {
                ensure!(end.raw.is_some_and(|raw| raw < 0), "the guard shows no error: {end:?}");
            }
            // It has no error bit; the library and the broker tell it.
            Backend::Vgem | Backend::None => {
                ensure!(end.raw == Some(1), "the guard is still pending: {end:?}")
            }
        }
        awake_ns = awake_ns.max(end.woke_ns.context("a poll on the guard did not wake")?);
        known_ns = known_ns.max(end.known_ns);
    }
    for client in [&pair.exporter, &pair.importer, &second] {
        let loss = client.call(Task::AwaitLoss { device: pair.device })?.loss()?;
        ensure!(loss.cause == Cause::Unplugged, "a client was told {loss:?}");
    }
    let refusal = pair.importer.refusal(Task::Count { key: buffer.imported, byte: 0 })?;
    ensure!(refusal.device_lost, "begin on a lost device gave {refusal:?}");

    world.wait_gone(pair.device)?;
    let report = world.report_with(pair.device, Step::ParentRemoved)?;
    ensure!(report.guards == 1 && report.buffers == 1 && report.imports == 1, "{report:?}");
    ensure!(report.overdue.is_empty(), "{report:?}");
    let uevent_ns = report.at(Step::Uevent).context("no uevent in the report")?;
    let awake = awake_ns.saturating_sub(uevent_ns);
    let known = known_ns.saturating_sub(uevent_ns);
    for mark in &report.marks[1..] {
        show(format_args!(
            "{:>18}: {}",
            mark.step.name(),
            human(mark.at_ns.saturating_sub(uevent_ns))
        ));
        note(&format!("{}, ns", mark.step.name()), mark.at_ns.saturating_sub(uevent_ns));
    }
    show(format_args!(
        "uevent to last waiter awake: {}; with the cause: {}",
        human(awake),
        human(known)
    ));
    note("uevent to last waiter awake, ns", awake);
    note("uevent to last waiter awake with the cause, ns", known);
    Ok(())
}
