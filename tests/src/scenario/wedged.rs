//! 11: A driver says that its device hangs: waiters wake, the device stays.

use std::os::fd::AsFd;

use anyhow::{Context, Result, bail, ensure};
use dmashare::{Cause, DeviceId, ObjectId, Policy};
use dmashare_proto::Event;
use dmashare_proto::message::{DeviceWedged, FenceState, Reply, Request};
use dmashare_uapi::sync_file::Status;

use super::pair::{Pair, WAIT_MS, long_deadline_ms};
use crate::actor::Task;
use crate::bus::Signal;
use crate::clock::{human, now_ns};
use crate::hostile::Raw;
use crate::hostile::objects::share_fence;
use crate::scenario::figures::{note, show};
use crate::{BOUND, Backend, Bus, Source, Unplug, User, World};

fn share(raw: &mut Raw, pair: &Pair, source: &Source, policy: Policy) -> Result<ObjectId> {
    let node = pair.card.open_render()?;
    match raw.request(&share_fence(policy), &[node.as_fd(), source.fd()])? {
        (Reply::FenceShared(shared), _) => Ok(shared.fence),
        (other, _) => bail!("ShareFence gave {other:?}"),
    }
}

fn query(raw: &mut Raw, fence: ObjectId) -> Result<FenceState> {
    match raw.request(&Request::QueryFence(fence), &[])? {
        (Reply::FenceState(state), _) => Ok(state),
        (other, _) => bail!("QueryFence gave {other:?}"),
    }
}

fn wedged(raw: &mut Raw) -> Result<DeviceWedged> {
    match raw.event()? {
        Event::DeviceWedged(event) => Ok(event),
        other => bail!("no DeviceWedged but {other:?}"),
    }
}

/// The signal's recovery, task and count of fences.
fn signal(world: &World, place: usize, device: DeviceId) -> Result<(String, String, u32)> {
    let path = Bus::device_path(device);
    let of_it = |signal: &Signal| {
        let is_it = signal.member == "Wedged" && signal.path == path;
        is_it.then(|| signal.message.body().deserialize::<(String, String, u32)>())
    };
    Ok(world.bus().wait("Wedged", place, BOUND, of_it)??)
}

/// By the event that root can have the kernel send.
pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let second = world.client("second waiter", User::Alice)?;
    let buffer = pair.share_buffer(world, 32, 32)?;
    let (source, mut passed_source) =
        (Source::endless(world.is_simulated())?, Source::endless(world.is_simulated())?);
    let mut raw = Raw::hello(&world.socket(), "listener")?;
    let fence = pair.share_fence(&source, long_deadline_ms(world))?;
    let theirs = pair.import_fence(&second, fence.shared)?;
    let own = share(&mut raw, &pair, &source, Policy::Auto)?;
    let passed = share(&mut raw, &pair, &passed_source, Policy::Pass)?;
    let waiting = [
        pair.importer.begin(Task::Wait { key: fence.imported, bound_ms: WAIT_MS })?,
        second.begin(Task::Wait { key: theirs, bound_ms: WAIT_MS })?,
    ];
    for waiting in &waiting {
        waiting.at_it(BOUND)?;
    }
    let place = world.bus().now();

    let begun_ns = now_ns();
    world.wedge(&pair.card, "WEDGED=rebind TASK=foo", true)?;
    let mut awake_ns = 0;
    for waiting in waiting {
        let end = waiting.wait(BOUND)?.fence()?;
        ensure!(
            end.errno == Some(libc::EIO) && end.cause == Some(Cause::Wedged),
            "the waiter woke with {end:?}"
        );
        if world.backend() != Backend::Vgem {
            ensure!(end.raw.is_some_and(|raw| raw < 0), "the guard shows no error: {end:?}");
        }
        awake_ns = awake_ns.max(end.woke_ns.context("a poll on the guard did not wake")?);
    }
    ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
    let ns = awake_ns.saturating_sub(begun_ns);
    show(format_args!("WEDGED written to last waiter awake: {}", human(ns)));
    note("WEDGED written to last waiter awake, ns", ns);

    let event = wedged(&mut raw)?;
    ensure!(
        (event.device, event.fences) == (pair.device, 1)
            && (event.recovery.as_str(), event.task.as_str()) == ("rebind", "foo"),
        "the client was told {event:?}"
    );
    let told = signal(world, place, pair.device)?;
    ensure!(told == ("rebind".to_owned(), "foo".to_owned(), 2), "the bus was told {told:?}");
    let (cause, errno, at_ns) = world.bus().cause(own)?.map_err(anyhow::Error::msg)?;
    ensure!((cause.as_str(), errno) == ("wedged", libc::EIO), "GetCause: {cause} {errno}");
    ensure!((begun_ns..=now_ns()).contains(&at_ns), "GetCause: {at_ns}");
    if world.is_simulated() {
        ensure!(
            world.log_tail().contains("(injected)"),
            "the log does not say that it was injected"
        );
    }

    // It is still there, and what was passed through is its driver's to end.
    world.wait_device(pair.device, "a wedged device that is present", |device| {
        device.is_some_and(|it| {
            it.state == "present" && it.wedged == "rebind" && it.counts() == (1, 1, 1)
        })
    })?;
    ensure!(query(&mut raw, passed)? == FenceState::Pending, "the passed fence was ended");
    passed_source.signal()?;
    world.wait_counts(pair.device, (1, 1, 0))?;
    ensure!(
        matches!(query(&mut raw, passed)?, FenceState::Ok { .. }),
        "the passed fence signalled"
    );
    pair.exporter.call(Task::Fill { key: buffer.exported, byte: 9 })?;
    let seen = pair.importer.call(Task::Count { key: buffer.imported, byte: 9 })?.count()?;
    ensure!(seen == 32 * 32 * 4, "{seen} bytes came over after the event");
    drop(source);
    let mut source = Source::endless(world.is_simulated())?;
    let fence = pair.share_fence(&source, long_deadline_ms(world))?;
    source.signal()?;
    let wait = Task::Wait { key: fence.imported, bound_ms: WAIT_MS };
    let end = pair.importer.call(wait)?.fence()?;
    ensure!(end.errno == Some(0), "a fence of after the event: {end:?}");

    // The real thing is still recognised.
    world.unplug(Unplug::Remove)?;
    let loss = pair.importer.call(Task::AwaitLoss { device: pair.device })?.loss()?;
    ensure!(loss.cause == Cause::Unplugged, "a client was told {loss:?}");
    world.wait_gone(pair.device)
}

/// A fence that was shared just before the word came is one of those that are ended: the answer to its
/// sharing says that it is guarded.
pub(super) fn just_shared(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let mut raw = Raw::hello(&world.socket(), "listener")?;
    for round in 0..if world.is_simulated() { 500 } else { 50 } {
        let source = Source::endless(world.is_simulated())?;
        let own = share(&mut raw, &pair, &source, Policy::Auto)?;
        world.wedge(&pair.card, "WEDGED=rebind", true)?;
        let event = wedged(&mut raw)?;
        ensure!((event.device, event.fences) == (pair.device, 1), "round {round}: {event:?}");
        match raw.request(&Request::Release(own), &[])? {
            (Reply::Done(()), _) => {}
            (other, _) => bail!("Release gave {other:?}"),
        }
    }
    Ok(())
}

/// By the driver's own word, also for one that has recovered.
pub(super) fn by_driver(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let mut source = Source::endless(true)?;
    let mut raw = Raw::hello(&world.socket(), "listener")?;
    let own = share(&mut raw, &pair, &source, Policy::Auto)?;

    // Recovered: the others' work goes on.
    let place = world.bus().now();
    world.wedge(&pair.card, "WEDGED=none PID=7 TASK=bar", false)?;
    let event = wedged(&mut raw)?;
    ensure!((event.recovery.as_str(), event.fences) == ("none", 0), "{event:?}");
    let told = signal(world, place, pair.device)?;
    ensure!(told == ("none".to_owned(), "bar".to_owned(), 0), "{told:?}");
    ensure!(query(&mut raw, own)? == FenceState::Pending, "innocent work was ended");
    source.signal()?;
    world.wait_counts(pair.device, (0, 0, 0))?;

    let source = Source::endless(true)?;
    let own = share(&mut raw, &pair, &source, Policy::Auto)?;
    let place = world.bus().now();
    world.wedge(&pair.card, "WEDGED=rebind,bus-reset", false)?;
    let event = wedged(&mut raw)?;
    ensure!((event.recovery.as_str(), event.fences) == ("rebind,bus-reset", 1), "{event:?}");
    let told = signal(world, place, pair.device)?;
    ensure!(told == ("rebind,bus-reset".to_owned(), String::new(), 1), "{told:?}");
    let state = query(&mut raw, own)?;
    ensure!(matches!(state, FenceState::Failed { cause: Cause::Wedged, .. }), "{state:?}");

    // Once more: there is nothing left to end, and everyone is told again.
    world.wedge(&pair.card, "WEDGED=unknown", false)?;
    let event = wedged(&mut raw)?;
    ensure!((event.recovery.as_str(), event.fences) == ("unknown", 0), "{event:?}");
    ensure!(!world.log_tail().contains("(injected)"), "nobody has injected anything");
    Ok(())
}
